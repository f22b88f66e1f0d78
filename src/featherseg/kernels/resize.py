"""Bilinear resizing in CPU training: forward by torch, backward in one pass over the gradient."""

from functools import partial
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from featherseg.core.types import Size
from featherseg.kernels import library, portable
from featherseg.kernels.upsample import axis

LEAST_CHANNELS = 32
"""Channels of a piece of work if there are more threads than images."""

THREAD_WORK = 2**18
"""Values of the gradient per thread that make starting it worthwhile."""


def resize_bilinear(x: Tensor, size: Size, *, align_corners: bool) -> Tensor:
    """Return `F.interpolate(x, size, mode="bilinear")`: (B, C, h, w) -> (B, C, *size).

    Gradients of float32 and bfloat16 are summed in float32 and are the same for every number of
    threads.
    """
    return _Resize.apply(x, size, align_corners)


class _Resize(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x: Tensor, size: Size, align_corners: bool) -> Tensor:
        """x (B, C, h, w) -> (B, C, *size)."""
        ctx.shape, ctx.align_corners = x.shape, align_corners
        return F.interpolate(x, size=size, mode="bilinear", align_corners=align_corners)

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor | None, ...]:
        """Gradient (B, C, *size) -> gradient of x (B, C, h, w)."""
        (pull,), shape, corners = gradients, ctx.shape, ctx.align_corners
        known = pull.dtype in (torch.float32, torch.bfloat16) and pull.device.type == "cpu"
        if library.kernels is portable or torch.is_grad_enabled() or not known or not pull.numel():
            backward = torch.ops.aten.upsample_bilinear2d_backward
            return backward(pull, pull.shape[2:], shape, corners), None, None
        if pull.stride(1) != 1:
            pull = pull.contiguous(memory_format=torch.channels_last)
        out = torch.empty(shape, dtype=pull.dtype, memory_format=torch.channels_last)
        threads = max(1, min(torch.get_num_threads(), pull.numel() // THREAD_WORK))
        step = shape[1] if shape[0] % threads == 0 else LEAST_CHANNELS
        axes = [axis(shape[d], pull.shape[d], pull.shape[d], corners) for d in (2, 3)]
        maps = list(zip(library.numbers(pull), library.numbers(out), strict=True))
        kernel = library.kernels.resize_backward
        work = [
            partial(kernel, a[..., c : c + step], b[..., c : c + step], *axes[0], *axes[1])
            for a, b in maps
            for c in range(0, shape[1], step)
        ]
        library.run(work, threads)
        return out, None, None
