"""The kernels in Triton, for CUDA devices."""

from collections.abc import Sequence

import torch
import triton
import triton.language as tl
from torch import Tensor

BLOCK = 256
"""Output columns, or pairs, of one program."""

SOURCE_COLUMNS, CLASSES = 16, 32
"""Part of a source row whose gradient one program of `_slopes` computes."""

COPIES = 16
"""Number of tables of counts, so that programs wait less for each other's sums."""


@triton.jit
def _upsample_argmax(
    logits, mask, rows, row_shares, columns, column_shares,
    height, width, out_height, out_width, classes,
    batch_stride, class_stride, row_stride, column_stride,
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
        upper = (
            tl.load(above + left * column_stride) * (1 - across)
            + tl.load(above + right * column_stride) * across
        )
        lower = (
            tl.load(below + left * column_stride) * (1 - across)
            + tl.load(below + right * column_stride) * across
        )
        value = upper * (1 - down) + lower * down
        which = tl.where(value > best, k, which)
        best = tl.maximum(best, value)
        plane += class_stride
    tl.store(mask + (image * out_height + y) * out_width + column, which.to(tl.uint8), inside)


@triton.jit
def _joint_counts(
    first, second, counts, length, side,
    COPIES: tl.constexpr, BLOCK: tl.constexpr,  # noqa: N803
):  # fmt: skip
    """One program: BLOCK pairs into one of the tables."""
    program = tl.program_id(0)
    place = program.to(tl.int64) * BLOCK + tl.arange(0, BLOCK)
    inside = place < length
    pair = tl.load(first + place, inside, 0).to(tl.int32) * side + tl.load(
        second + place, inside, 0
    ).to(tl.int32)
    ones = tl.full((BLOCK,), 1, tl.int64)
    tl.atomic_add(counts + (program % COPIES) * side * side + pair, ones, inside, sem="relaxed")


@triton.jit
def _losses(
    logits, labels, weights, spread, losses, sums, rows, row_shares, columns, column_shares,
    height, width, out_height, out_width, classes,
    batch_stride, class_stride, row_stride, column_stride,
    ignore_index, smoothing,
    BLOCK: tl.constexpr,  # noqa: N803
):  # fmt: skip
    """One program: BLOCK columns of one output row of one image.

    sums: log(sum of exp) of every pixel's scores.
    """
    y, image = tl.program_id(0), tl.program_id(2).to(tl.int64)
    column = tl.program_id(1) * BLOCK + tl.arange(0, BLOCK)
    inside = column < out_width
    place = (image * out_height + y) * out_width + column
    label = tl.load(labels + place, inside, 0).to(tl.int64)
    counts = inside & (label != ignore_index)
    top = tl.load(rows + y).to(tl.int64)
    bottom = tl.minimum(top + 1, height - 1)
    left = tl.load(columns + column, inside, 0).to(tl.int64)
    right = tl.minimum(left + 1, width - 1)
    down, across = tl.load(row_shares + y), tl.load(column_shares + column, inside, 0.0)
    even = tl.load(spread)
    most = tl.full((BLOCK,), -3.4e38, tl.float32)
    total = tl.zeros((BLOCK,), tl.float32)
    own = tl.zeros((BLOCK,), tl.float32)
    mean = tl.zeros((BLOCK,), tl.float32)
    plane = logits + image * batch_stride
    for k in range(classes):
        above, below = plane + top * row_stride, plane + bottom * row_stride
        upper = (
            tl.load(above + left * column_stride) * (1 - across)
            + tl.load(above + right * column_stride) * across
        )
        lower = (
            tl.load(below + left * column_stride) * (1 - across)
            + tl.load(below + right * column_stride) * across
        )
        value = upper * (1 - down) + lower * down
        greater = tl.maximum(most, value)
        total = total * tl.exp(most - greater) + tl.exp(value - greater)
        most = greater
        own = tl.where(label == k, value, own)
        mean += value * tl.load(weights + k) * smoothing
        plane += class_stride
    log_sum = most + tl.log(total)
    weight = tl.load(weights + label, counts, 0.0) * (1 - smoothing * classes)
    loss = weight * (log_sum - own) + (even * log_sum - mean)
    tl.store(losses + place, tl.where(counts, loss, 0.0), inside)
    tl.store(sums + place, log_sum, inside)


@triton.jit
def _slopes(
    logits, labels, weights, spread, scales, sums, gradient,
    rows, row_shares, columns, column_shares, row_starts, column_starts,
    height, width, out_height, out_width, classes,
    batch_stride, class_stride, row_stride, column_stride,
    slope_batch, slope_class, slope_row, slope_column, most_columns, ignore_index, smoothing,
    SOURCE_COLUMNS: tl.constexpr, CLASSES: tl.constexpr,  # noqa: N803
):  # fmt: skip
    """One program: the gradient of CLASSES of SOURCE_COLUMNS of one source row.

    A pixel's shares are computed four times, once for each of its source places, so that each value
    is written by one program.
    """
    i = tl.program_id(0)
    j = tl.program_id(1) * SOURCE_COLUMNS + tl.arange(0, SOURCE_COLUMNS)
    blocks = tl.cdiv(classes, CLASSES)
    image = (tl.program_id(2) // blocks).to(tl.int64)
    k = tl.program_id(2) % blocks * CLASSES + tl.arange(0, CLASSES)
    there = (j < width)[:, None] & (k < classes)[None, :]
    class_weight = tl.load(weights + k, k < classes, 0.0)[None, :] * smoothing
    first = tl.load(column_starts + tl.maximum(j - 1, 0), j < width, 0)
    stop = tl.load(column_starts + j + 1, j < width, 0)
    plane = logits + image * batch_stride + k.to(tl.int64)[None, :] * class_stride
    before = tl.maximum(j - 1, 0).to(tl.int64)[:, None] * column_stride
    here = j.to(tl.int64)[:, None] * column_stride
    after = tl.minimum(j + 1, width - 1).to(tl.int64)[:, None] * column_stride
    total = tl.zeros((SOURCE_COLUMNS, CLASSES), tl.float32)
    even = tl.load(spread)
    for y in range(tl.load(row_starts + tl.maximum(i - 1, 0)), tl.load(row_starts + i + 1)):
        top, down = tl.load(rows + y).to(tl.int64), tl.load(row_shares + y)
        above, below = (
            plane + top * row_stride,
            plane + tl.minimum(top + 1, height - 1) * row_stride,
        )
        one = (
            tl.load(above + before, there, 0.0) * (1 - down)
            + tl.load(below + before, there, 0.0) * down
        )
        two = (
            tl.load(above + here, there, 0.0) * (1 - down)
            + tl.load(below + here, there, 0.0) * down
        )
        three = (
            tl.load(above + after, there, 0.0) * (1 - down)
            + tl.load(below + after, there, 0.0) * down
        )
        row = (image * out_height + y) * out_width
        line = tl.zeros((SOURCE_COLUMNS, CLASSES), tl.float32)
        for t in range(most_columns):
            x = first + t
            inside = x < stop
            label = tl.load(labels + row + x, inside, 0).to(tl.int64)
            counts = inside & (label != ignore_index)
            scale = tl.load(scales + row + x, counts, 0.0)
            own = tl.load(weights + label, counts, 0.0) * (1 - smoothing * classes) * scale
            share = tl.load(column_shares + x, inside, 0.0)
            is_left = tl.load(columns + x, inside, 0) < j
            keep = (1 - share)[:, None]
            left, right = (
                tl.where(is_left[:, None], one, two),
                tl.where(is_left[:, None], two, three),
            )
            value = left * keep + right * share[:, None]
            power = tl.exp(value - tl.load(sums + row + x, inside, 0.0)[:, None])
            slope = power * (own + even * scale)[:, None] - class_weight * scale[:, None]
            slope -= tl.where(label[:, None] == k[None, :], own[:, None], 0.0)
            line += tl.where(
                counts[:, None], slope * tl.where(is_left, share, 1 - share)[:, None], 0.0
            )
        total += line * tl.where(top < i, down, 1 - down)
    place = gradient + image * slope_batch + k.to(tl.int64)[None, :] * slope_class
    tl.store(
        place + i.to(tl.int64) * slope_row + j.to(tl.int64)[:, None] * slope_column, total, there
    )


def upsample_argmax(
    logits: Tensor,
    mask: Tensor,
    rows: Tensor,
    row_shares: Tensor,
    columns: Tensor,
    column_shares: Tensor,
) -> None:
    """Fill in mask (B, H, W) uint8 from logits (B, K, h, w) float32.

    The tables are those of `portable.upsample_argmax`.
    """
    batch, height, width = mask.shape
    if mask.numel() == 0:
        return
    _upsample_argmax[(height, triton.cdiv(width, BLOCK), batch)](
        logits, mask, rows, row_shares, columns, column_shares,
        *logits.shape[2:], height, width, logits.shape[1], *logits.stride(), BLOCK=BLOCK,
    )  # fmt: skip


def joint_counts(label: Tensor, prediction: Tensor, side: int) -> Tensor:
    """Count pairs of two flat uint8 tensors of values below S -> (S, S), label x prediction."""
    counts = torch.zeros(COPIES, side, side, dtype=torch.int64, device=label.device)
    if label.numel():
        grid = (triton.cdiv(label.numel(), BLOCK),)
        _joint_counts[grid](
            label, prediction, counts, label.numel(), side, COPIES=COPIES, BLOCK=BLOCK
        )
    return counts.sum(dim=0)


def cross_entropy(
    logits: Tensor,
    labels: Tensor,
    weights: Tensor,
    tables: Sequence[Tensor],
    ignore_index: int,
    smoothing: float,
) -> tuple[Tensor, Tensor]:
    """Return the losses of logits (B, K, h, w) and log(sum of exp) of their scores, (B, H, W) each.

    All float32 except labels (B, H, W), contiguous. tables: rows, row shares, columns, column
    shares as in `portable.upsample_argmax`.
    """
    batch, height, width = labels.shape
    losses, sums = (torch.empty(labels.shape, device=logits.device) for _ in range(2))
    each = smoothing / len(weights)
    if labels.numel():
        _losses[(height, triton.cdiv(width, BLOCK), batch)](
            logits, labels, weights, weights.sum() * each, losses, sums, *tables,
            *logits.shape[2:], height, width, len(weights), *logits.stride(), ignore_index, each,
            BLOCK=BLOCK,
        )  # fmt: skip
    return losses, sums


def cross_entropy_gradient(
    logits: Tensor, labels: Tensor, weights: Tensor, scales: Tensor, sums: Tensor,
    tables: Sequence[Tensor], starts: Sequence[Tensor], most: int, ignore_index: int,
    smoothing: float,
) -> Tensor:  # fmt: skip
    """Return the gradient (B, K, h, w) of the sum of losses times scales (B, H, W).

    sums: from `cross_entropy`. starts: the first row (and column) of the labels at or after each of
    the source, (h + 1,) and (w + 1,) int32. most: the largest number of label columns that belong
    to one source column.
    """
    gradient, (classes, height, width) = torch.zeros_like(logits), logits.shape[1:]
    each = smoothing / classes
    if labels.numel():
        columns, blocks = triton.cdiv(width, SOURCE_COLUMNS), triton.cdiv(classes, CLASSES)
        _slopes[(height, columns, len(logits) * blocks)](
            logits, labels, weights, weights.sum() * each, scales, sums, gradient, *tables, *starts,
            height, width, *labels.shape[1:], classes, *logits.stride(), *gradient.stride(), most,
            ignore_index, each, SOURCE_COLUMNS=SOURCE_COLUMNS, CLASSES=CLASSES,
        )  # fmt: skip
    return gradient
