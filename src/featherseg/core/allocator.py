"""Keep freed memory in the process, because glibc returns every large block to the system.

The next operation would fault its pages in again.
"""

import ctypes
import os
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager

M_TRIM_THRESHOLD, M_TOP_PAD, M_MMAP_THRESHOLD, M_MMAP_MAX, M_ARENA_MAX = (
    -1,
    -2,
    -3,
    -4,
    -8,
)  # malloc.h

LARGE_BLOCK = 32 << 20
"""Largest threshold in bytes that glibc accepts; larger blocks are mapped one by one."""

MAPPED_AT_MOST = 65536  # glibc's own

_kept = False


def keep_freed_memory(*, one_heap: bool = False) -> bool:
    """Make glibc's malloc reuse large blocks; return whether it was done. Not for libraries.

    Training and inference on a CPU then take a quarter to a half less time, because every feature
    map exceeds the 32 MiB from which glibc maps and unmaps; freed memory stays in the process.
    Works on Linux with glibc only; FEATHERSEG_ALLOCATOR=off leaves malloc unchanged. one_heap:
    threads share one heap, so that memory freed by one serves the others; for a process that lives
    long.
    """
    global _kept
    mallopt = _mallopt()
    if mallopt is None or (one_heap and not mallopt(M_ARENA_MAX, 1)):
        return False
    _kept = bool(
        mallopt(M_MMAP_MAX, 0)
        and mallopt(M_TRIM_THRESHOLD, 2**31 - 1)
        and mallopt(M_TOP_PAD, 64 << 20)
    )
    return _kept


@contextmanager
def large_blocks_returned() -> Iterator[None]:
    """Return freed blocks of at least LARGE_BLOCK to the system during the block.

    A heap that keeps the maps of large and of small images is soon fragmented: 5.3 GB were held for
    1.8 in use.
    """
    mallopt = _mallopt()
    if mallopt is None or not _kept:
        yield
        return
    mallopt(M_MMAP_THRESHOLD, LARGE_BLOCK)
    mallopt(M_MMAP_MAX, MAPPED_AT_MOST)
    try:
        yield
    finally:
        mallopt(M_MMAP_MAX, 0)


def return_freed_memory() -> None:
    """Return the pages of freed blocks to the system, also of those kept (glibc only)."""
    if sys.platform == "linux":
        try:
            ctypes.CDLL(None).malloc_trim(0)
        except (OSError, AttributeError):  # not glibc
            return


def _mallopt() -> Callable[[int, int], int] | None:
    """Return glibc's mallopt; None without glibc, or with FEATHERSEG_ALLOCATOR=off."""
    if sys.platform != "linux" or os.environ.get("FEATHERSEG_ALLOCATOR") == "off":
        return None
    try:
        return ctypes.CDLL(None).mallopt
    except (OSError, AttributeError):  # not glibc
        return None
