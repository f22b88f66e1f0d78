"""Depthwise convolutions in CPU training: forward by torch, backward in one pass over the map.

oneDNN has no fast backward for 5x5, dilated or strided kernels, least of all in half precision.
"""

from collections.abc import Callable
from functools import partial
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from featherseg.kernels import library, portable

Pair = tuple[int, int]
Geometry = tuple[Pair, Pair, Pair]
"""Stride, padding and dilation."""

MOST_PIECES = 16
"""Number of parts of a batch; their sums are added in order, for any number of threads."""

LEAST_LINES = 8
"""Least lines of a part, or twice the kernel's reach: every part reads the lines around it."""

MOST_SIZE = 64
"""Largest kernel size, stride and dilation of our kernel."""

THREAD_WORK = 2**22
"""Products per thread that make starting it worthwhile."""


def depthwise_conv2d(
    x: Tensor, weight: Tensor, bias: Tensor | None, stride: Pair, padding: Pair, dilation: Pair
) -> Tensor:
    """Return `F.conv2d` with as many groups as channels, in the type of x (B, C, h, w).

    weight (C, 1, k, k), bias (C,). Sums of gradients are at least float32, and on a CPU the same
    for every number of threads.
    """
    return _Depthwise.apply(x, weight, bias, (stride, padding, dilation))


class _Depthwise(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: Any, x: Tensor, weight: Tensor, bias: Tensor | None, geometry: Geometry
    ) -> Tensor:
        """x (B, C, h, w), weight (C, 1, k, k) -> (B, C, h', w')."""
        ctx.save_for_backward(x, weight)
        ctx.bias_type, ctx.geometry = None if bias is None else bias.dtype, geometry
        typed_bias = None if bias is None else bias.to(x.dtype)
        return F.conv2d(x, weight.to(x.dtype), typed_bias, *geometry, groups=len(weight))

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor | None, ...]:
        """Gradient (B, C, h', w') -> gradients of x, weight and bias."""
        x, weight = ctx.saved_tensors
        bias_type, geometry = ctx.bias_type, ctx.geometry
        if _kernel_takes(x, weight, gradients[0], geometry):
            to_x, to_weight, to_bias = _backward(
                x, weight, gradients[0], geometry, biased=bias_type is not None
            )
        else:
            half = x.dtype in (torch.float16, torch.bfloat16)
            wide = [t.float() if half else t.to(x.dtype) for t in (gradients[0], x, weight)]
            to_x, to_weight, to_bias = torch.ops.aten.convolution_backward(
                *wide, [len(weight)], *geometry, False, [0, 0], len(weight),  # not transposed
                [True, True, bias_type is not None],
            )  # fmt: skip
        return (
            to_x.to(x.dtype),
            to_weight.to(weight.dtype),
            None if bias_type is None else to_bias.to(bias_type),
            None,
        )


def _kernel_takes(x: Tensor, weight: Tensor, pull: Tensor, geometry: Geometry) -> bool:
    """Whether the kernel can compute this backward; torch computes gradients of gradients."""
    if library.kernels is portable or torch.is_grad_enabled():
        return False
    if x.device.type != "cpu" or x.dtype not in (torch.float32, torch.bfloat16) or not x.numel():
        return False
    sides = zip(*geometry, weight.shape[2:], x.shape[2:], pull.shape[2:], strict=True)
    return all(
        1 in (stride, dilation)
        and padding <= (kernel - 1) * dilation
        and (after - 1) * stride < before
        and max(kernel, stride, dilation) <= MOST_SIZE
        for stride, padding, dilation, kernel, before, after in sides
    )


def _backward(
    x: Tensor, weight: Tensor, pull: Tensor, geometry: Geometry, *, biased: bool
) -> tuple[Tensor, Tensor, Tensor]:
    """Return gradients of x, weight and bias (zeros unless `biased`) for output gradient `pull`."""
    maps = [t.contiguous(memory_format=torch.channels_last) for t in (x, pull.to(x.dtype))]
    to_x = torch.empty_like(maps[0])
    # (k, k, C)
    table = np.ascontiguousarray(weight.detach().float()[:, 0].permute(1, 2, 0).numpy())
    arrays = (library.numbers(maps[0]), library.numbers(maps[1]), table, library.numbers(to_x))
    lines, reach = len(x) * x.shape[2], (len(table) - 1) * geometry[2][0]
    step = max(LEAST_LINES, 2 * reach, -(-lines // MOST_PIECES))
    starts = range(0, lines, step)
    to_weight = np.empty((len(starts), *table.shape), np.float32)
    to_bias = np.zeros((len(starts), len(weight)), np.float32)
    work: list[Callable[[], None]] = []
    for n, start in enumerate(starts):
        sums = (to_weight[n], to_bias[n] if biased else None)
        piece = (start, min(start + step, lines))
        work.append(partial(library.kernels.depthwise_backward, *arrays, *sums, *geometry, *piece))
    products = 2 * pull.numel() * weight[0].numel()
    library.run(work, max(1, min(torch.get_num_threads(), products // THREAD_WORK)))
    total = torch.from_numpy(to_weight.sum(0, dtype=np.float64).astype(np.float32))
    return to_x, total.permute(2, 0, 1)[:, None], torch.from_numpy(to_bias.sum(0))
