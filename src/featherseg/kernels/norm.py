"""Batch norm with batch statistics and an activation, for CPU training: two passes each way.

torch uses two passes for the norm and one for the activation, and three and two backward, over maps
that fit no cache.
"""

from collections.abc import Sequence
from functools import partial
from math import lcm
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.autograd.function import once_differentiable

from featherseg.kernels import library, portable

MOST_PIECES = 16
"""Number of parts of a map; their sums are added in order, for any number of threads."""

LEAST_VALUES = 2**15
"""Least values of a part: enough to make starting a thread worthwhile."""

MOST_VALUES = 2**24
"""Most values per call of a kernel, which refuses twice as many."""

LANES = 32
"""Most values that the kernels process at once: the widths of their tables are multiples of it."""


def takes(x: Tensor) -> bool:
    """Whether `norm_act` has a kernel for such a map (B, C, h, w) here."""
    known = (
        x.dtype in (torch.float32, torch.bfloat16)
        and x.device.type == "cpu"
        and library.kernels is not portable
    )
    return known and x.is_contiguous(memory_format=torch.channels_last) and x.numel() > x.shape[1]


def norm_act(
    x: Tensor, weight: Tensor, bias: Tensor, eps: float, low: float, high: float
) -> tuple[Tensor, Tensor, Tensor]:
    """Normalise x (B, C, h, w) by batch and clamp it; return (result, mean, biased variance (C,)).

    low, high: the limits. x as `takes` says; weight, bias, mean and variance are float32. The
    result has the same bits for every number of threads.
    """
    out, (mean, variance) = _NormAct.apply(x, weight, bias, eps, low, high)
    return out, mean, variance


class _NormAct(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: Any, x: Tensor, weight: Tensor, bias: Tensor, eps: float, low: float, high: float
    ) -> tuple[Tensor, Tensor]:
        """x (B, C, h, w) -> result (B, C, h, w), mean and variance (2, C)."""
        values, count = library.numbers(x).reshape(-1), x.numel() // x.shape[1]
        # Sums of squares of values around 0 lose no digits
        centre = x.detach()[0, :, 0, 0].float().numpy()
        with np.errstate(all="ignore"):
            first, second = _sums(values, None, [centre], (low, high)) / count
            mean, variance = centre + first, np.maximum(second - first**2, 0)
            inverse = 1 / np.sqrt(variance + eps)
            scale = weight.detach().numpy() * inverse
            shift = bias.detach().numpy() - mean * scale
            out = torch.empty_like(x)
            _apply(values, None, [scale, shift], library.numbers(out).reshape(-1), (low, high))
            statistics = torch.from_numpy(np.array([mean, variance], np.float32))
        ctx.save_for_backward(x)
        ctx.norm = (scale, shift, mean, inverse, (low, high))
        ctx.mark_non_differentiable(statistics)
        return out, statistics

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor | None, ...]:
        """Gradient (B, C, h, w) -> gradients of x, weight and bias."""
        (x,) = ctx.saved_tensors
        scale, shift, mean, inverse, limits = ctx.norm
        count, to_x = x.numel() // x.shape[1], torch.empty_like(x)
        pull = gradients[0].to(x.dtype).contiguous(memory_format=torch.channels_last)
        values = library.numbers(x).reshape(-1), library.numbers(pull).reshape(-1)
        with np.errstate(all="ignore"):
            to_bias, product = _sums(*values, [scale, shift, mean], limits)
            along = -product * inverse**2 * scale / count
            _apply(
                *values,
                [scale, shift, along, -to_bias * scale / count - mean * along],
                library.numbers(to_x).reshape(-1),
                limits,
            )
            to_weight, to_bias = torch.from_numpy(
                np.array([product * inverse, to_bias], np.float32)
            ).unbind()
        return to_x, to_weight, to_bias, None, None, None


def _table(values: np.ndarray, rows: Sequence[np.ndarray]) -> np.ndarray:
    """Repeat rows (C,) until LANES divides their length: (rows, lcm(C, LANES)) float32.

    For bfloat16, even columns come before odd ones, like the halves of 32-bit words.
    """
    channels = len(rows[0])
    table = np.tile(np.array(rows, np.float32), lcm(channels, LANES) // channels)
    if values.dtype == np.int16:
        return np.concatenate([table[:, ::2], table[:, 1::2]], axis=1)
    return table


def _sums(
    x: np.ndarray, pull: np.ndarray | None, rows: Sequence[np.ndarray], limits: tuple[float, float]
) -> np.ndarray:
    """Return two sums per channel of the kernel's values: (2, C) float64."""
    table = _table(x, rows)
    period = table.shape[1]
    lines = -(-x.size // period)
    step = min(max(-(-lines // MOST_PIECES), LEAST_VALUES // period, 1), MOST_VALUES // period)
    starts = range(0, lines, step)
    sums = np.zeros((len(starts), 2, period))
    work = [
        partial(
            library.kernels.norm_sums,
            *_part(period, i, step, x, pull),
            table,
            sums[n],
            *limits,
            0,
            min(step, lines - i),
        )
        for n, i in enumerate(starts)
    ]
    library.run(work, min(torch.get_num_threads(), len(work)))
    total = sums.sum(0)
    if x.dtype == np.int16:
        total = total.reshape(2, 2, -1).swapaxes(1, 2)
    return total.reshape(2, -1, len(rows[0])).sum(1)


def _apply(
    x: np.ndarray,
    pull: np.ndarray | None,
    rows: Sequence[np.ndarray],
    out: np.ndarray,
    limits: tuple[float, float],
) -> None:
    """Fill in `out` with the kernel's values, in parts for the threads."""
    table = _table(x, rows)
    period = table.shape[1]
    lines = -(-x.size // period)
    threads = max(1, min(torch.get_num_threads(), x.size // LEAST_VALUES))
    step = min(-(-lines // threads), MOST_VALUES // period)
    work = []
    for i in range(0, lines, step):
        values, pulls, outputs = _part(period, i, step, x, pull, out)
        rows_of_part = (0, min(step, lines - i))
        arguments = (values, pulls, table, outputs, *limits, *rows_of_part)
        work.append(partial(library.kernels.norm_apply, *arguments))
    library.run(work, threads)


def _part(
    period: int, line: int, lines: int, *arrays: np.ndarray | None
) -> list[np.ndarray | None]:
    """Return `lines` lines of `period` values of each array, from `line` on."""
    return [
        None if values is None else values[line * period : (line + lines) * period]
        for values in arrays
    ]
