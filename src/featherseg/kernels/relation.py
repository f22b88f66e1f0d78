"""Pixel to region: what every pixel gathers from a window of cells one level coarser, without copies of the windows.

Letters: B images, h x w the coarse map, n heads, d the width of a head's queries, R = k x k cells of a window.
"""

from collections.abc import Callable
from functools import partial
from math import e, log2, sqrt
from typing import Literal

import numpy as np
import torch
from torch import Tensor

from featherseg.core.errors import FeathersegError
from featherseg.kernels import library

COMPOSABILITIES = ("dot", "difference")
WINDOWS = (1, 3, 5, 7, 9)
THREAD_WORK = 2**23
"""Products from which another thread is worth its start."""


def pixel_to_region(
    query: Tensor, key: Tensor, value: Tensor, prior: Tensor, composability: Literal["dot", "difference"] = "dot"
) -> Tensor:
    """context(p) = sum_r softmax_r(f(q_p, k_r) / sqrt(d) + g(p, r)) v_r, each head by itself, on a CPU.

    p is a pixel of the fine map, r runs over the k x k cells around its parent, cell (y // 2, x // 2) of the coarse
    map; cells outside it take no part. f is the dot product, or minus the squared distance ("difference").
    query (B, n d, 2h, 2w), key (B, n d, h, w), value (B, C, h, w), of any strides; prior (n, 4, R) is g for the four
    pixels of a cell, both row by row; all float32 -> (B, C, 2h, 2w) in channels-last. NaN goes through, gradients do
    not. Uses torch's number of threads, which changes nothing in the result. On the meta device only the shape counts.
    Raises FeathersegError for shapes that do not fit together, other types and other devices.
    """
    _check(query, key, value, prior, composability)
    shape = (*value.shape[:2], *query.shape[2:])
    context = torch.empty(shape, device=query.device, memory_format=torch.channels_last)
    if len(query) and query.device.type == "cpu":
        factor, squared = log2(e), composability == "difference"  # the kernels take powers of 2
        scale = (-factor if squared else factor) / sqrt(query.shape[1] // len(prior))
        table = (prior.detach() * factor).contiguous().numpy()
        _fill([x.detach().numpy() for x in (query, key, value, context)], table, scale, squared)
    return context


def _fill(maps: list[np.ndarray], table: np.ndarray, scale: float, squared: bool) -> None:
    """All images, in bands of rows that the threads share; maps: query, key, value, context, which is written."""
    _, (batch, channels, height, width), value, _ = (x.shape for x in maps)
    products = 4 * table.shape[2] * batch * height * width * (channels + value[1])
    threads = max(1, min(torch.get_num_threads(), products // THREAD_WORK))
    band = -(-height // threads)
    kernel = library.kernels.pixel_to_region
    work: list[Callable[[], None]] = [
        partial(kernel, *(x[b] for x in maps), table, scale, squared, y, min(y + band, height))
        for b in range(batch)
        for y in range(0, height, band)
    ]
    library.run(work, threads)


def _check(query: Tensor, key: Tensor, value: Tensor, prior: Tensor, composability: str) -> None:
    if composability not in COMPOSABILITIES:
        raise FeathersegError(f"composability {composability!r}: expected one of {', '.join(COMPOSABILITIES)}.")
    tensors = (query, key, value, prior)
    if any(x.dtype != torch.float32 or x.device.type not in ("cpu", "meta") for x in tensors):
        kinds = ", ".join(f"{x.dtype} on {x.device}" for x in tensors)
        raise FeathersegError(f"query, key, value and prior are {kinds}: expected torch.float32 on the CPU.")
    shapes = [tuple(x.shape) for x in tensors]
    if not _shapes_agree(*shapes):
        raise FeathersegError(
            f"query, key, value and prior {', '.join(map(str, shapes))}: expected (B, n d, 2h, 2w), (B, n d, h, w), "
            f"(B, C, h, w) and (n, 4, R), C a multiple of n, R the square of one of {WINDOWS}, each at least 1."
        )


def _shapes_agree(query: tuple[int, ...], key: tuple[int, ...], value: tuple[int, ...], prior: tuple[int, ...]) -> bool:
    if [len(query), len(key), len(value), len(prior)] != [4, 4, 4, 3] or min(*key[1:], value[1], prior[0]) < 1:
        return False
    batch, channels, height, width = key
    heads, children, cells = prior
    same = query == (batch, channels, 2 * height, 2 * width) and value == (batch, value[1], height, width)
    windows = children == 4 and cells in [window**2 for window in WINDOWS]
    return same and windows and channels % heads == 0 and value[1] % heads == 0
