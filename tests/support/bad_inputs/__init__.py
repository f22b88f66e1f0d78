"""Images as nobody should send them, and as somebody will: spoiled, disguised, oversized, or only unusual.

Each says what is right for it: the pixels that its mask must be the mask of, or a refusal in a sentence. The pixels are
worked out without our code: they are what was written into the file, or, of a lossy or bit-flipped file, what Pillow
decodes by hand. The corpus is the same on every machine and every time.
"""

import random
from collections.abc import Callable
from functools import cache
from pathlib import Path

from support.bad_inputs.bombs import bombs
from support.bad_inputs.case import BadInput
from support.bad_inputs.disguised import disguised
from support.bad_inputs.names import named
from support.bad_inputs.odd_jpeg import odd_jpegs
from support.bad_inputs.odd_others import odd_bmps, odd_webps
from support.bad_inputs.odd_png import odd_pngs
from support.bad_inputs.odd_tiff import odd_tiffs
from support.bad_inputs.spoiled import cut, flipped

_MAKERS = (
    odd_pngs,
    odd_jpegs,
    odd_webps,
    odd_bmps,
    odd_tiffs,
    cut,
    flipped,
    disguised,
    bombs,
    named,
)
PARTS: tuple[Callable[[], list[BadInput]], ...] = tuple(cache(make) for make in _MAKERS)
"""Each is made once a process."""


@cache
def corpus() -> tuple[BadInput, ...]:
    """All of them, each with a name of its own."""
    return tuple(case for part in PARTS for case in part())


def sample(count: int, seed: int = 0) -> list[BadInput]:
    """So many of the corpus, the same for a seed: as many of those that are read as of those that are refused."""
    rng = random.Random(seed)
    read = [case for case in corpus() if case.pixels is not None and not case.may_fail]
    refused = [case for case in corpus() if case.pixels is None]
    return rng.sample(read, count // 2) + rng.sample(refused, count - count // 2)


def write(folder: Path, case: BadInput) -> Path:
    """The file in a folder of its own, under the name that somebody gave it; -> its path."""
    place = folder / case.name.replace("/", "-").replace(" ", "-")
    place.mkdir()
    path = place / case.file
    path.write_bytes(case.content)
    return path
