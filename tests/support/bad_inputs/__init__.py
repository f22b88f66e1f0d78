"""Bad images: spoiled, disguised, oversized, or only unusual, each with its right answer.

The right answer is the pixels that the mask must belong to, or a refusal with a message. The pixels
do not come from our code: they are what was written into the file or, for a lossy or bit-flipped
file, what Pillow decodes. The corpus is the same on every machine and in every run.
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
    """Return `count` items of the corpus, fixed by the seed, half readable and half refused."""
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
