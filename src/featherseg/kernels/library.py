"""Which code runs on the CPU, the extension that was compiled at install or else numpy, and on how many threads."""

import ctypes
import os
import sys
import threading
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor, wait
from contextlib import contextmanager
from functools import cache, lru_cache
from types import ModuleType
from typing import Any, TypeVar

import numpy as np
import torch
from torch import Tensor

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


def trains_here(x: Tensor) -> bool:
    """Whether the operation on x is one of a training step on a CPU, and not one of a graph that is being made."""
    graph = torch.jit.is_tracing() or torch.compiler.is_compiling()
    return torch.is_grad_enabled() and x.device.type == "cpu" and not graph


def numbers(x: Tensor) -> np.ndarray:
    """A map (B, C, h, w) as (B, h, w, C) of numpy, bfloat16 as int16; nothing is copied."""
    x = x.detach().permute(0, 2, 3, 1)
    return (x.view(torch.int16) if x.dtype == torch.bfloat16 else x).numpy()


def run(pieces: Sequence[Callable[[], Result]], threads: int) -> list[Result]:
    """What the pieces of a work give, in their order; the code of this folder lets go of Python's lock.

    They are worked on by torch's own threads where these are GNU OpenMP's: others would have to share the cores with
    them, as they wait for torch's next operation without sleeping.
    """
    if threads == 1 or len(pieces) == 1:
        return [piece() for piece in pieces]
    found: dict[int, Result] = {}
    errors: list[BaseException] = []
    order = iter(range(len(pieces)))  # each number goes to one thread

    def work(_: object = None) -> None:
        try:
            for i in order:
                found[i] = pieces[i]()
        except BaseException as error:
            errors.append(error)

    if (parallel := _openmp()) and not hasattr(_LOCAL, "threads"):
        parallel(_CALLBACK(work), None, threads, 0)
    else:
        others = [_pool(threads - 1, os.getpid()).submit(work) for _ in range(threads - 1)]
        work()
        wait([other for other in others if not other.cancel()])
    if errors:
        raise errors[0]
    return [found[i] for i in range(len(pieces))]


_LOCAL = threading.local()


def thread_count() -> int:
    """How many threads a kernel may use: torch's, or what those were outside `beside_other_threads`."""
    return getattr(_LOCAL, "threads", None) or torch.get_num_threads()


@contextmanager
def beside_other_threads() -> Iterator[None]:
    """Meanwhile, in the calling thread, torch computes on one thread, and kernels on threads that sleep as they wait.

    For what comes before and after a model that another library runs: its threads and GNU OpenMP's both wait without
    sleeping, so that each would keep the other from the cores (a model of 16 ms in ONNX Runtime, 360x480, two cores:
    16 instead of 25 ms). Nothing changes where torch's threads are of another kind, or it has but one.
    """
    before = torch.get_num_threads()  # also makes torch set up its threads for this one
    if before == 1 or not (set_threads := _set_openmp_threads()):
        yield
        return
    set_threads(1)
    _LOCAL.threads = before
    try:
        yield
    finally:
        del _LOCAL.threads
        set_threads(before)


_CALLBACK = ctypes.CFUNCTYPE(None, ctypes.c_void_p)


@cache
def _openmp() -> Callable[..., None] | None:
    """`GOMP_parallel` of the library that torch has loaded: a function on that many threads. None where it has none."""
    if sys.platform != "linux":
        return None
    parallel: Any = getattr(ctypes.CDLL(None), "GOMP_parallel", None)
    if parallel:
        parallel.argtypes, parallel.restype = (
            [_CALLBACK, ctypes.c_void_p, ctypes.c_uint, ctypes.c_uint],
            None,
        )
    return parallel


@cache
def _set_openmp_threads() -> Callable[[int], None] | None:
    """`omp_set_num_threads` of the same library, which is of the calling thread alone; None where torch has another."""
    if not _openmp():
        return None
    found: Any = ctypes.CDLL(None).omp_set_num_threads
    found.argtypes, found.restype = [ctypes.c_int], None
    before = torch.get_num_threads()
    found(1)
    known = torch.get_num_threads() == 1
    found(before)
    return found if known else None


@lru_cache(maxsize=4)
def _pool(threads: int, process: int) -> ThreadPoolExecutor:
    """Threads that wait for work; a process that was forked has none of its parent's."""
    return ThreadPoolExecutor(threads)
