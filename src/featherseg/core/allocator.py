"""Keep freed memory in the process: glibc gives every large block back and faults it in again at the next operation."""

import ctypes
import os
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager

M_TRIM_THRESHOLD, M_TOP_PAD, M_MMAP_THRESHOLD, M_MMAP_MAX, M_ARENA_MAX = -1, -2, -3, -4, -8  # malloc.h

LARGE_BLOCK = 32 << 20
"""Bytes, the most that glibc takes: blocks from here on are mapped each by itself, where that is not turned off."""

MAPPED_AT_MOST = 65536  # glibc's own

_kept = False


def keep_freed_memory(*, one_heap: bool = False) -> bool:
    """Tell glibc's malloc to reuse large blocks; -> whether it was done. For our own processes, not for a library.

    Training and inference on a CPU then spend a quarter to a half less time, as every feature map is over the 32 MiB
    from which glibc maps and unmaps; freed memory stays in the process. Linux with glibc only;
    FEATHERSEG_ALLOCATOR=off leaves malloc as it is. one_heap: threads share one, so that what one has freed serves the
    others; for a process that lives long.
    """
    global _kept
    mallopt = _mallopt()
    if mallopt is None or (one_heap and not mallopt(M_ARENA_MAX, 1)):
        return False
    _kept = bool(mallopt(M_MMAP_MAX, 0) and mallopt(M_TRIM_THRESHOLD, 2**31 - 1) and mallopt(M_TOP_PAD, 64 << 20))
    return _kept


@contextmanager
def large_blocks_returned() -> Iterator[None]:
    """Within it blocks of LARGE_BLOCK and more go back to the system when they are freed.

    Where the maps of large images and of small ones are freed beside each other, a heap that keeps them is in pieces
    soon: 5.3 GB were held for 1.8 in use.
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
    """Give the pages of freed blocks back to the system, those kept by `keep_freed_memory` too. glibc alone does it."""
    if sys.platform == "linux":
        try:
            ctypes.CDLL(None).malloc_trim(0)
        except (OSError, AttributeError):  # not glibc
            return


def _mallopt() -> Callable[[int, int], int] | None:
    """glibc's own; None where there is none, or FEATHERSEG_ALLOCATOR=off."""
    if sys.platform != "linux" or os.environ.get("FEATHERSEG_ALLOCATOR") == "off":
        return None
    try:
        return ctypes.CDLL(None).mallopt
    except (OSError, AttributeError):  # not glibc
        return None
