"""Which code runs on the CPU: the extension that was compiled at install, else numpy."""

import os
from types import ModuleType

from featherseg.kernels import portable


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
