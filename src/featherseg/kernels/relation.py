"""Pixel to region: each pixel gathers from a window of coarser cells, without copying windows.

Letters: B images, h x w the coarse map, n heads, d the width of a head's queries, R = k x k cells
of a window.
"""

from collections.abc import Callable
from functools import partial
from math import e, isqrt, log2, sqrt
from typing import Any, Literal

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor
from torch.autograd.function import once_differentiable

from featherseg.core.errors import FeathersegError
from featherseg.kernels import library, portable
from featherseg.kernels.library import trains_here

COMPOSABILITIES = ("dot", "difference")
WINDOWS = (1, 3, 5, 7, 9)

CELLS = 16
"""Cells of a row that the backward kernel processes at once."""

THREAD_WORK = 2**23
"""Products per thread that make starting it worthwhile."""


def pixel_to_region(
    query: Tensor,
    key: Tensor,
    value: Tensor,
    prior: Tensor,
    composability: Literal["dot", "difference"] = "dot",
) -> Tensor:
    """Return sum_r softmax_r(f(q_p, k_r) / sqrt(d) + g(p, r)) v_r for each head, on a CPU.

    p is a pixel of the fine map; r runs over the k x k cells around its parent, cell (y // 2, x //
    2) of the coarse map; cells outside are ignored. f is the dot product, or minus the squared
    distance ("difference"). NaN is passed on, gradients are not. Uses torch's number of threads,
    which does not change the result. On the meta device only the shape counts.

    Args:
        query: (B, n d, 2h, 2w), of any strides.
        key: (B, n d, h, w).
        value: (B, C, h, w).
        prior: (n, 4, R), g for the four pixels of a cell, row by row.

    Returns:
        (B, C, 2h, 2w) in channels-last; all tensors are float32.

    Raises:
        FeathersegError: Shapes do not fit together, or other types or devices.
    """
    _check(query, key, value, prior, composability)
    return _relate(query, key, value, prior, squared=composability == "difference")


def learns(query: Tensor) -> bool:
    """Whether `learnt_pixel_to_region` accepts such a query: CPU training with the extension."""
    return trains_here(query) and query.dtype == torch.float32 and library.kernels is not portable


def learnt_pixel_to_region(
    query: Tensor,
    key: Tensor,
    value: Tensor,
    prior: Tensor,
    composability: Literal["dot", "difference"] = "dot",
) -> Tensor:
    """Compute `pixel_to_region` with gradients of all four, the same for any number of threads."""
    _check(query, key, value, prior, composability)
    return _Relation.apply(query, key, value, prior, composability == "difference")


def _relate(query: Tensor, key: Tensor, value: Tensor, prior: Tensor, *, squared: bool) -> Tensor:
    """Return the context (B, C, 2h, 2w) without gradients."""
    shape = (*value.shape[:2], *query.shape[2:])
    context = torch.empty(shape, device=query.device, memory_format=torch.channels_last)
    if len(query) and query.device.type == "cpu":
        factor = log2(e)  # the kernels take powers of 2
        scale = (-factor if squared else factor) / sqrt(query.shape[1] // len(prior))
        table = (prior.detach() * factor).contiguous().numpy()
        _fill([x.detach().numpy() for x in (query, key, value, context)], table, scale, squared)
    return context


class _Relation(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: Any, query: Tensor, key: Tensor, value: Tensor, prior: Tensor, squared: bool
    ) -> Tensor:
        """query (B, n d, 2h, 2w), key, value (B, C, h, w), prior -> context (B, C, 2h, 2w)."""
        ctx.save_for_backward(query, key, value, prior)
        ctx.squared = squared
        return _relate(query, key, value, prior, squared=squared)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor | None, ...]:
        """Gradient (B, C, 2h, 2w) -> gradients of query, key, value and prior."""
        query, key, value, prior = ctx.saved_tensors
        heads, (batch, channels, height, width) = len(prior), key.shape
        # Planes with zeros around, as wide as the kernel needs; cells outside get -inf
        reach, right = isqrt(prior.shape[2]) // 2, -width % CELLS
        around = (reach, reach + right, reach, reach)
        children = [F.pad(F.pixel_unshuffle(x, 2), (0, right)) for x in (query, gradients[0])]
        planes = [children[0], F.pad(key, around), F.pad(value, around), children[1]]
        border = F.pad(torch.zeros(height, width), (reach, reach, reach, reach), value=-torch.inf)
        outside = F.pad(border, (0, right)).numpy()  # results to the right of it are not used
        by_head = [x.contiguous().numpy().reshape(batch * heads, -1, *x.shape[2:]) for x in planes]
        by_head[::3] = [x.reshape(len(x), -1, 4, *x.shape[2:]) for x in by_head[::3]]

        # One piece of work per image and head
        sums = [np.zeros_like(x) for x in by_head[:3]]
        to_prior, table = np.zeros((batch, *prior.shape)), prior.detach().contiguous().numpy()
        scale = (-1 if ctx.squared else 1) / sqrt(channels // heads)
        work: list[Callable[[], None]] = []
        for n in range(batch * heads):
            arguments = (
                *(x[n] for x in by_head),
                table[n % heads],
                outside,
                *(x[n] for x in sums),
                to_prior[n // heads, n % heads],
                scale,
                ctx.squared,
            )
            work.append(partial(library.kernels.pixel_to_region_backward, *arguments))
        products = 8 * table.shape[2] * batch * height * width * (channels + value.shape[1])
        library.run(work, max(1, min(torch.get_num_threads(), products // THREAD_WORK)))

        # The results without their borders
        to_query, to_key, to_value = (
            torch.from_numpy(
                x.reshape(batch, -1, *x.shape[-2:])[:, :, edge:, edge:][:, :, :height, :width]
            )
            for x, edge in zip(sums, (0, reach, reach), strict=True)
        )
        prior_sum = torch.from_numpy(to_prior.sum(0).astype(np.float32))
        return F.pixel_shuffle(to_query, 2), to_key, to_value, prior_sum, None


def _fill(maps: list[np.ndarray], table: np.ndarray, scale: float, squared: bool) -> None:
    """Compute all images, in bands of rows that the threads share.

    maps: query, key, value, and context, which is written.
    """
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
        raise FeathersegError(
            f"composability {composability!r}: expected one of {', '.join(COMPOSABILITIES)}."
        )
    tensors = (query, key, value, prior)
    if any(x.dtype != torch.float32 or x.device.type not in ("cpu", "meta") for x in tensors):
        kinds = ", ".join(f"{x.dtype} on {x.device}" for x in tensors)
        raise FeathersegError(
            f"query, key, value and prior are {kinds}: expected torch.float32 on the CPU."
        )
    shapes = [tuple(x.shape) for x in tensors]
    if not _shapes_agree(*shapes):
        raise FeathersegError(
            f"query, key, value and prior {', '.join(map(str, shapes))}: expected "
            "(B, n d, 2h, 2w), (B, n d, h, w), (B, C, h, w) and (n, 4, R), C a multiple of n, R "
            f"the square of one of {WINDOWS}, each at least 1."
        )


def _shapes_agree(
    query: tuple[int, ...], key: tuple[int, ...], value: tuple[int, ...], prior: tuple[int, ...]
) -> bool:
    if [len(query), len(key), len(value), len(prior)] != [4, 4, 4, 3] or min(
        *key[1:], value[1], prior[0]
    ) < 1:
        return False
    batch, channels, height, width = key
    heads, children, cells = prior
    same = query == (batch, channels, 2 * height, 2 * width) and value == (
        batch,
        value[1],
        height,
        width,
    )
    windows = children == 4 and cells in [window**2 for window in WINDOWS]
    return same and windows and channels % heads == 0 and value[1] % heads == 0
