"""Keep freed memory in the process: glibc gives every large block back and faults it in again at the next operation."""

import ctypes
import os
import sys

M_TRIM_THRESHOLD, M_TOP_PAD, M_MMAP_MAX, M_ARENA_MAX = -1, -2, -4, -8  # malloc.h


def keep_freed_memory(*, one_heap: bool = False) -> bool:
    """Tell glibc's malloc to reuse large blocks; -> whether it was done. For our own processes, not for a library.

    Training and inference on a CPU then spend a quarter to a half less time, as every feature map is over the 32 MiB
    from which glibc maps and unmaps; freed memory stays in the process. Linux with glibc only;
    FEATHERSEG_ALLOCATOR=off leaves malloc as it is. one_heap: threads share one, so that what one has freed serves the
    others; for a process that lives long.
    """
    if sys.platform != "linux" or os.environ.get("FEATHERSEG_ALLOCATOR") == "off":
        return False
    try:
        mallopt = ctypes.CDLL(None).mallopt
    except (OSError, AttributeError):  # not glibc
        return False
    if one_heap and not mallopt(M_ARENA_MAX, 1):
        return False
    return bool(mallopt(M_MMAP_MAX, 0) and mallopt(M_TRIM_THRESHOLD, 2**31 - 1) and mallopt(M_TOP_PAD, 64 << 20))


def return_freed_memory() -> None:
    """Give the pages of freed blocks back to the system, those kept by `keep_freed_memory` too. glibc alone does it."""
    if sys.platform == "linux":
        try:
            ctypes.CDLL(None).malloc_trim(0)
        except (OSError, AttributeError):  # not glibc
            return
