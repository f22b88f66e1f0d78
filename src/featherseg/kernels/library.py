"""The compiled extension, or numpy without it, and how many threads kernels use."""

from __future__ import annotations

import ctypes
import os
import sys
import threading
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor, wait
from contextlib import contextmanager
from functools import cache, lru_cache
from types import ModuleType
from typing import TYPE_CHECKING, Any, TypeVar

import numpy as np

from featherseg.core.machine import torch_thread_count
from featherseg.kernels import portable

if TYPE_CHECKING:
    from torch import Tensor

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
    """Return the instruction set of the compiled kernels ("baseline", "avx2", "avx512").

    None: the kernels run in numpy. FEATHERSEG_NO_EXT=1 in the environment disables the compiled
    ones.
    """
    return None if kernels is portable else kernels.chosen()


def trains_here(x: Tensor) -> bool:
    """Whether an operation on x is part of CPU training, and not of a graph that is being built."""
    import torch

    graph = torch.jit.is_tracing() or torch.compiler.is_compiling()
    return torch.is_grad_enabled() and x.device.type == "cpu" and not graph


def numbers(x: Tensor) -> np.ndarray:
    """Return a map (B, C, h, w) as (B, h, w, C) in numpy, bfloat16 as int16, without a copy."""
    import torch

    x = x.detach().permute(0, 2, 3, 1)
    return (x.view(torch.int16) if x.dtype == torch.bfloat16 else x).numpy()


def run(pieces: Sequence[Callable[[], Result]], threads: int) -> list[Result]:
    """Call the pieces of a work on threads and return their results in order.

    The code in this folder releases Python's lock. If torch uses GNU OpenMP, its threads do the
    work: other threads would share the cores with them, because OpenMP's threads wait for torch's
    next operation without sleeping.
    """
    if threads == 1 or len(pieces) == 1:
        return [piece() for piece in pieces]
    results: dict[int, Result] = {}
    errors: list[BaseException] = []
    order = iter(range(len(pieces)))  # each number goes to one thread

    def work(_: object = None) -> None:
        """Do pieces until none is left; each number of `order` goes to one thread."""
        try:
            for i in order:
                results[i] = pieces[i]()
        except BaseException as error:
            errors.append(error)

    if (parallel := _openmp()) and not getattr(_LOCAL, "threads", None):
        parallel(_CALLBACK(work), None, threads, 0)
    else:
        others = [_pool(threads - 1, os.getpid()).submit(work) for _ in range(threads - 1)]
        work()
        wait([other for other in others if not other.cancel()])
    if errors:
        raise errors[0]
    return [results[i] for i in range(len(pieces))]


_LOCAL = threading.local()


def thread_count() -> int:
    """Return how many threads a kernel may use: those of `own_threads`, else torch's."""
    return getattr(_LOCAL, "threads", None) or torch_thread_count()


@contextmanager
def own_threads(count: int) -> Iterator[None]:
    """Let kernels use `count` threads that sleep while they wait, in this thread.

    For the work before and after a model that another library runs. Its threads and those of GNU
    OpenMP both wait without sleeping, so that each keeps the other from the cores (a model of 16 ms
    in ONNX Runtime, 360x480, two cores: 16 instead of 25 ms).
    """
    before, _LOCAL.threads = getattr(_LOCAL, "threads", None), count
    try:
        yield
    finally:
        _LOCAL.threads = before


_CALLBACK = ctypes.CFUNCTYPE(None, ctypes.c_void_p)


@cache
def _openmp() -> Callable[..., None] | None:
    """Return `GOMP_parallel` of the library that torch has loaded; None without it.

    It calls a function on a number of threads.
    """
    if sys.platform != "linux":
        return None
    parallel: Any = getattr(ctypes.CDLL(None), "GOMP_parallel", None)
    if parallel:
        parallel.argtypes, parallel.restype = (
            [_CALLBACK, ctypes.c_void_p, ctypes.c_uint, ctypes.c_uint],
            None,
        )
    return parallel


@lru_cache(maxsize=4)
def _pool(threads: int, process: int) -> ThreadPoolExecutor:
    """Return threads that wait for work; a forked process has none of its parent's."""
    return ThreadPoolExecutor(threads)
