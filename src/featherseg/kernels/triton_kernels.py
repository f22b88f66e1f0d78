"""The kernels in Triton, for CUDA devices."""

import torch
import triton
import triton.language as tl
from torch import Tensor

BLOCK = 256
COPIES = 16
"""Tables of counts that the programs share out, so that they wait less for each other's sums."""


@triton.jit
def _upsample_argmax(
    logits, mask, rows, row_shares, columns, column_shares,
    height, width, out_height, out_width, classes, batch_stride, class_stride, row_stride, column_stride,
    BLOCK: tl.constexpr,  # noqa: N803
):  # fmt: skip
    """One program: BLOCK columns of one output row of one image."""
    y, image = tl.program_id(0), tl.program_id(2).to(tl.int64)
    column = tl.program_id(1) * BLOCK + tl.arange(0, BLOCK)
    inside = column < out_width
    top = tl.load(rows + y).to(tl.int64)
    bottom = tl.minimum(top + 1, height - 1)
    left = tl.load(columns + column, inside, 0).to(tl.int64)
    right = tl.minimum(left + 1, width - 1)
    down, across = tl.load(row_shares + y), tl.load(column_shares + column, inside, 0.0)
    best = tl.full((BLOCK,), float("-inf"), tl.float32)
    which = tl.zeros((BLOCK,), tl.int32)
    plane = logits + image * batch_stride
    for k in range(classes):
        above, below = plane + top * row_stride, plane + bottom * row_stride
        upper = tl.load(above + left * column_stride) * (1 - across) + tl.load(above + right * column_stride) * across
        lower = tl.load(below + left * column_stride) * (1 - across) + tl.load(below + right * column_stride) * across
        value = upper * (1 - down) + lower * down
        which = tl.where(value > best, k, which)
        best = tl.maximum(best, value)
        plane += class_stride
    tl.store(mask + (image * out_height + y) * out_width + column, which.to(tl.uint8), inside)


@triton.jit
def _joint_counts(first, second, counts, length, side, COPIES: tl.constexpr, BLOCK: tl.constexpr):  # noqa: N803
    """One program: BLOCK pairs into one of the tables."""
    program = tl.program_id(0)
    place = program.to(tl.int64) * BLOCK + tl.arange(0, BLOCK)
    inside = place < length
    pair = tl.load(first + place, inside, 0).to(tl.int32) * side + tl.load(second + place, inside, 0).to(tl.int32)
    ones = tl.full((BLOCK,), 1, tl.int64)
    tl.atomic_add(counts + (program % COPIES) * side * side + pair, ones, inside, sem="relaxed")


def upsample_argmax(
    logits: Tensor, mask: Tensor, rows: Tensor, row_shares: Tensor, columns: Tensor, column_shares: Tensor
) -> None:
    """Fill in mask (B, H, W) uint8 from logits (B, K, h, w) float32; the tables as in `portable.upsample_argmax`."""
    batch, height, width = mask.shape
    if mask.numel() == 0:
        return
    _upsample_argmax[(height, triton.cdiv(width, BLOCK), batch)](
        logits, mask, rows, row_shares, columns, column_shares,
        *logits.shape[2:], height, width, logits.shape[1], *logits.stride(), BLOCK=BLOCK,
    )  # fmt: skip


def joint_counts(label: Tensor, prediction: Tensor, side: int) -> Tensor:
    """Pairs of two flat uint8 tensors of values below S -> (S, S) int64, label x prediction."""
    counts = torch.zeros(COPIES, side, side, dtype=torch.int64, device=label.device)
    if label.numel():
        grid = (triton.cdiv(label.numel(), BLOCK),)
        _joint_counts[grid](label, prediction, counts, label.numel(), side, COPIES=COPIES, BLOCK=BLOCK)
    return counts.sum(dim=0)
