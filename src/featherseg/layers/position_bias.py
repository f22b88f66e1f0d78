"""A learned bias of attention scores by the offset from query to key, for maps of any size.

The bias is computed from the table in every call, so that it is never out of date.
"""

import math
from typing import Literal

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from featherseg.core.types import Size
from featherseg.layers.precision import at_least_fp32

PositionResize = Literal["flattened", "two-dimensional"]
"""How a bias is resized to another size than its table's; see PositionBias."""


class PositionBias(nn.Module):
    """A bias per head and offset (|dy|, |dx|), after LeViT (Graham et al., ICCV 2021, Sec. 4.2).

    The table has side x side offsets, in units of keys; queries are at every `stride`-th key. For
    other sizes, `how` = "flattened" resizes the (queries, keys) matrix of the table's own size
    bicubically as if it were an image, as the authors of EfficientFormerV2's segmentation code do.
    Their weights were trained for that, although a row of the matrix is no direction of the image.
    "two-dimensional" resizes the table over its offsets and keeps offset 0 in place.
    """

    macs, no_decay = 0, True

    def __init__(self, heads: int, side: int, *, stride: int = 1) -> None:
        super().__init__()
        self.table = nn.Parameter(torch.zeros(heads, side * side))
        self.side, self.stride = side, stride
        self.how: PositionResize = "flattened"

    def forward(self, queries: Size, keys: Size) -> Tensor:
        """(height, width) of both maps -> bias (n, M, N): heads, queries, keys, row by row."""
        table = at_least_fp32(self.table)  # (heads, side * side)
        if self.how == "two-dimensional":
            return resize_table(table, keys)[:, offsets(queries, keys, self.stride, table.device)]
        own = -(-self.side // self.stride)
        index = offsets((own, own), (self.side, self.side), self.stride, table.device)
        return resize_matrix(table[:, index], (queries[0] * queries[1], keys[0] * keys[1]))


def offsets(queries: Size, keys: Size, stride: int, device: torch.device) -> Tensor:
    """Return |dy| * keys' width + |dx| from every query to every key: (queries, keys) int64.

    Queries are at every stride-th key.
    """
    # (query rows, key rows), (query columns, key columns)
    rows, columns = (
        (
            torch.arange(q, device=device)[:, None] * stride
            - torch.arange(k, device=device)[None, :]
        ).abs()
        for q, k in zip(queries, keys, strict=True)
    )
    index = rows[:, None, :, None] * keys[1] + columns[None, :, None, :]
    return index.reshape(queries[0] * queries[1], keys[0] * keys[1])


def resize_table(table: Tensor, size: Size) -> Tensor:
    """Resize a square table of offsets: (heads, side * side) -> (heads, size[0] * size[1]).

    Offset d of n is the share d / n of the image, before and after; bicubic between offsets.
    """
    heads, side = len(table), math.isqrt(table.shape[1])
    grid = table.view(heads, side, side)
    for length in size[::-1]:
        grid = resample_rows(grid.mT, torch.arange(length, device=table.device) * side, length)
    return grid.reshape(heads, size[0] * size[1])


def resize_matrix(bias: Tensor, size: Size) -> Tensor:
    """Resize bicubically, align_corners=False: (heads, queries, keys) -> (heads, *size).

    An exported `interpolate` would contain the weights of the example's size; there it is written
    as gathers, which take four times as long.
    """
    if torch.compiler.is_exporting():
        # (heads, queries, size[1])
        bias = resample_rows(bias.mT, *_centred(bias.shape[2], size[1], bias.device)).mT
        return resample_rows(bias, *_centred(bias.shape[1], size[0], bias.device))
    if bias.shape[1:] == size:
        return bias
    return F.interpolate(bias[None], size=size, mode="bicubic", align_corners=False)[0]


def _centred(length: int, wanted: int, device: torch.device) -> tuple[Tensor, int]:
    """Return the places of `wanted` pixel centres on a side of `length`: numerators, denominator.

    Position i is (i + 1/2) length / wanted - 1/2, torch's align_corners=False.
    """
    target = torch.arange(wanted, device=device)
    return (2 * target + 1) * length - wanted, 2 * wanted


def resample_rows(x: Tensor, numerator: Tensor, denominator: int) -> Tensor:
    """Read (..., rows, columns) between its rows, by torch's bicubic kernel.

    Positions are fractions, numerator / denominator, of at least -1, so that the weights are exact
    at any size.
    """
    last = x.shape[-2] - 1
    near = torch.div(numerator + denominator, denominator, rounding_mode="floor") - 1
    t = (numerator - near * denominator).to(x.dtype) / denominator  # 0 <= t < 1, from `near` on
    s = 1 - t
    taps = ((-1, A * t * s * s), (0, _inner(t)), (1, _inner(s)), (2, A * s * t * t))
    terms = [
        x.index_select(-2, (near + step).clamp(0, last)) * weight[:, None] for step, weight in taps
    ]
    return terms[0] + terms[1] + terms[2] + terms[3]


A = -0.75
"""The parameter of the cubic convolution kernel (Keys, 1981), as in torch's bicubic mode."""


def _inner(t: Tensor) -> Tensor:
    """Return the kernel at distances t from 0 to 1; at 1 + t it is A t (1 - t)^2."""
    return ((A + 2) * t - (A + 3)) * t * t + 1
