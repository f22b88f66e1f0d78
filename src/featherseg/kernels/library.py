"""Which code runs on the CPU, the extension that was compiled at install or else numpy, and on how many threads."""

import os
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from types import ModuleType
from typing import TypeVar

from featherseg.kernels import portable

Result = TypeVar("Result")


def _load() -> ModuleType:
    if os.environ.get("FEATHERSEG_NO_EXT") == "1":
        return portable
    try:
        from featherseg.kernels import _native
    except ImportError:  # no compiler at install
        return portable
    return _native


kernels = _load()


def native() -> str | None:
    """The instruction set that the compiled kernels use ("baseline", "avx2", "avx512"); None: they run in numpy.

    FEATHERSEG_NO_EXT=1 in the environment leaves the compiled ones aside.
    """
    return None if kernels is portable else kernels.chosen()


def run(pieces: Sequence[Callable[[], Result]], threads: int) -> list[Result]:
    """What the pieces of a work give, in their order; the code of this folder lets go of Python's lock."""
    if threads == 1:
        return [piece() for piece in pieces]
    with ThreadPoolExecutor(threads) as pool:
        return list(pool.map(lambda piece: piece(), pieces))
