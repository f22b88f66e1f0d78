"""Cross-entropy of logits that are upsampled bilinearly, without the K x H x W scores.

Loss and gradient are computed in one pass.

Letters: B images, K classes, h x w the logits, H x W the labels.
"""

import math
from collections.abc import Callable
from functools import partial
from typing import Any, Literal, NamedTuple

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor
from torch.autograd import Function
from torch.autograd.function import once_differentiable

from featherseg.core.errors import FeathersegError
from featherseg.core.types import IGNORE
from featherseg.kernels import cuda, library
from featherseg.kernels.confusion import refuse_outside
from featherseg.kernels.upsample import Axis, axis

Reduction = Literal["mean", "none", "sum"]

STRIP = 16
"""Source rows of a strip, for any number of threads, so that partial sums have a fixed order."""

THREAD_WORK = 2**21
"""Pixels x classes per thread that make starting it worthwhile."""

BLOCK_BYTES = 2**23
"""Bytes of a block of scores for torch's own operations on a CPU; 8 times that elsewhere."""


class Task(NamedTuple):
    """What a pass computes besides its logits (B, K, h, w), float32 or float64.

    labels (B, H, W); weights (K,) of the logits' type; scales (B, H, W) float32: the upstream
    gradient of every pixel, None for 1.
    """

    labels: Tensor
    weights: Tensor
    ignore_index: int
    smoothing: float
    align_corners: bool
    scales: Tensor | None = None


class Outcome(NamedTuple):
    """Sums of losses and of pixel weights, losses (B, H, W), gradient of the sum of losses."""

    total: Tensor
    weight: Tensor
    losses: Tensor | None
    gradient: Tensor | None


def upsample_cross_entropy(
    logits: Tensor,
    labels: Tensor,
    *,
    ignore_index: int = IGNORE,
    class_weights: Tensor | None = None,
    label_smoothing: float = 0.0,
    align_corners: bool = False,
    reduction: Reduction = "mean",
) -> Tensor:
    """Return `cross_entropy(interpolate(logits.float(), labels' size, mode="bilinear"), labels)`.

    The result is 0 if all labels are ignored. It has the same bits for any number of threads of a
    CPU (torch's is used). NaN is passed on. Differentiable once, with respect to the logits; with
    "mean" and "sum" the gradient is computed with the loss, with "none" in a second pass.

    Args:
        logits: (B, K, h, w) of any floating type and strides.
        labels: (B, H, W) int64 or uint8.
        class_weights: (K,).
        label_smoothing: 0 to 1.
        reduction: "mean", "sum", or "none" for the losses (B, H, W).

    Returns:
        A scalar, or (B, H, W) for "none"; float32, or float64 for logits of float64.

    Raises:
        DataError: Labels are neither a class nor `ignore_index`.
        FeathersegError: Other types or shapes.
    """
    _check(logits, labels, class_weights, label_smoothing, reduction)
    kind = torch.float64 if logits.dtype == torch.float64 else torch.float32
    ones = torch.ones(logits.shape[1], dtype=kind, device=logits.device)
    weights = ones if class_weights is None else class_weights.detach().to(ones)
    task = Task(labels.detach(), weights, ignore_index, label_smoothing, align_corners)
    wanted = torch.is_grad_enabled() and logits.requires_grad
    loss: Tensor = _CrossEntropy.apply(logits, task, reduction, wanted)
    return loss


class _CrossEntropy(Function):
    @staticmethod
    def forward(ctx: Any, logits: Tensor, task: Task, reduction: Reduction, wanted: bool) -> Tensor:
        """logits (B, K, h, w) -> scalar or losses (B, H, W); `wanted`: with the gradient."""
        ctx.kind, ctx.task = logits.dtype, None
        exact = logits.detach().to(task.weights.dtype)
        if reduction == "none":
            losses = _compute(exact, task, losses=True).losses
            assert losses is not None
            if wanted:
                ctx.task = task
                ctx.save_for_backward(logits)
            return losses
        total, weight, _, gradient = _compute(exact, task, gradient=wanted)
        if reduction == "mean":
            # Smoothed losses have a sum even if no pixel has a weight
            weight = torch.where(weight > 0, weight, math.inf)
            total = total / weight
        if gradient is not None:
            ctx.save_for_backward(
                gradient if reduction == "sum" else gradient.div_(weight.to(gradient))
            )
        return total.to(exact.dtype)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, upstream: Tensor) -> tuple[Tensor | None, ...]:
        """Scale the gradient (B, K, h, w) of the loss, or compute it for upstream (B, H, W)."""
        (saved,) = ctx.saved_tensors
        if ctx.task is None:
            return (saved * upstream).to(ctx.kind), None, None, None
        exact = saved.detach().to(ctx.task.weights.dtype)
        gradient = _compute(
            exact, ctx.task._replace(scales=upstream.contiguous()), gradient=True
        ).gradient
        assert gradient is not None
        return gradient.to(ctx.kind), None, None, None


def _compute(
    logits: Tensor, task: Task, *, losses: bool = False, gradient: bool = False
) -> Outcome:
    """Run one pass, by the code for the device and the type."""
    if logits.dtype == torch.float32 and logits.device.type == "cpu" and library.native():
        return _in_strips(logits, task, losses, gradient)
    labels, classes = task.labels, logits.shape[1]
    if bool(((labels != task.ignore_index) & ((labels < 0) | (labels >= classes))).any()):
        refuse_outside(labels.cpu().numpy(), classes, task.ignore_index)
    compute = (
        _by_triton if logits.dtype == torch.float32 and cuda.has_triton(logits) else _in_blocks
    )
    return compute(logits, task, losses, gradient)


def _in_strips(logits: Tensor, task: Task, losses: bool, gradient: bool) -> Outcome:
    """Run the extension, one strip of source rows after the other.

    Gradients of the row between two strips are added at the end.
    """
    batch, classes, height, width = logits.shape
    labels = task.labels.contiguous()
    rows, columns = _axes(logits, task)
    each = torch.empty(labels.shape) if losses else None
    slopes = torch.zeros_like(logits) if gradient else None
    starts = range(0, height, STRIP)
    edges = torch.zeros(batch, len(starts), classes, width) if gradient else None
    bounds = np.searchsorted(rows.low, [*starts, height])  # rows of the labels

    def array(x: Tensor | None, *place: Any) -> np.ndarray | None:
        """Return a part of a tensor as an array, None for None."""
        return None if x is None else x[place].numpy()

    kernel = library.kernels.upsample_cross_entropy
    settings = task.ignore_index, task.smoothing
    work: list[Callable[[], tuple[bool, float, float]]] = []
    for b in range(batch):
        for i, start in enumerate(starts):
            part = slice(bounds[i], bounds[i + 1])
            if part.start == part.stop:
                continue
            tables = rows.low[part], rows.share[part], *columns, task.weights.numpy()
            results = array(each, b, part), array(slopes, b), array(edges, b, i)
            inputs = array(logits, b), array(labels, b, part), *tables, array(task.scales, b, part)
            stop = min(start + STRIP, height)
            work.append(partial(kernel, *inputs, *results, stop, *settings))
    threads = max(1, min(torch.get_num_threads(), labels.numel() * classes // THREAD_WORK))
    strips = library.run(work, threads)
    if any(outside for outside, _, _ in strips):
        refuse_outside(labels.numpy(), classes, task.ignore_index)
    if slopes is not None and edges is not None and len(starts) > 1:
        slopes[:, :, STRIP::STRIP] += edges[:, :-1].transpose(1, 2)
    total, weight = (
        torch.tensor(sum(strip[i] for strip in strips), dtype=torch.float64) for i in (1, 2)
    )
    return Outcome(total, weight, each, slopes)


def _by_triton(logits: Tensor, task: Task, losses: bool, gradient: bool) -> Outcome:
    """Compute losses by one kernel, the gradient by another, which computes the scores again."""
    from featherseg.kernels import triton_kernels

    labels, weights, axes = task.labels.contiguous(), task.weights, _axes(logits, task)
    tables = [torch.from_numpy(values).to(logits.device) for side in axes for values in side]
    settings = task.ignore_index, task.smoothing
    each, sums = triton_kernels.cross_entropy(logits, labels, weights, tables, *settings)
    slopes = None
    if gradient:
        starts = [
            np.searchsorted(side.low, np.arange(source + 1)).astype(np.int32)
            for side, source in zip(axes, logits.shape[2:], strict=True)
        ]
        most = int((starts[1][2:] - starts[1][:-2]).max(initial=0)) or labels.shape[2]
        places = [torch.from_numpy(values).to(logits.device) for values in starts]
        scales = torch.ones_like(each) if task.scales is None else task.scales
        slopes = triton_kernels.cross_entropy_gradient(
            logits, labels, weights, scales, sums, tables, places, most, *settings
        )
    return Outcome(each.sum(dtype=torch.float64), _weight(task), each if losses else None, slopes)


def _axes(logits: Tensor, task: Task) -> tuple[Axis, Axis]:
    """Return the places of the labels' rows and columns in the logits."""
    (_, height, width), (_, _, h, w) = task.labels.shape, logits.shape
    return axis(h, height, height, task.align_corners), axis(w, width, width, task.align_corners)


def _weight(task: Task) -> Tensor:
    """Return the sum of the pixels' weights."""
    counted = task.labels != task.ignore_index
    return (task.weights[task.labels.long().clamp(0, len(task.weights) - 1)] * counted).sum()


def _in_blocks(logits: Tensor, task: Task, losses: bool, gradient: bool) -> Outcome:
    """Use torch's operations, a block of label rows at a time: only h x W scores exist at once."""
    classes, height, width = logits.shape[1], *task.labels.shape[1:]
    labels = task.labels.long()

    # All rows are resized at once, columns block by block; each block has its rows of the gradient
    resize = partial(F.interpolate, mode="bilinear", align_corners=task.align_corners)
    leaf = logits.detach().requires_grad_(gradient)
    with torch.set_grad_enabled(gradient):
        lines = resize(leaf, (height, logits.shape[3]))  # (B, K, H, w)
    each = torch.empty(labels.shape, dtype=logits.dtype, device=logits.device)
    slopes = torch.empty_like(lines) if gradient else None
    limit = BLOCK_BYTES if logits.device.type == "cpu" else 8 * BLOCK_BYTES
    step = max(1, limit // (logits.element_size() * max(1, len(logits)) * classes * width))
    for start in range(0, height, step):
        part = slice(start, start + step)
        with torch.set_grad_enabled(gradient):
            block = lines.detach()[:, :, part].requires_grad_(gradient)
            scores = resize(block, (block.shape[2], width))  # (B, K, n, W)
            block_losses = F.cross_entropy(
                scores, labels[:, part], task.weights, ignore_index=task.ignore_index,
                label_smoothing=task.smoothing, reduction="none",
            )  # fmt: skip
            each[:, part] = block_losses.detach()
            if slopes is not None:
                if task.scales is not None:
                    block_losses = block_losses * task.scales[:, part]
                total = block_losses.sum()
                slopes[:, :, part] = torch.autograd.grad(total, block)[0]
    full = None if slopes is None else torch.autograd.grad(lines, leaf, slopes)[0]
    return Outcome(each.sum(), _weight(task), each if losses else None, full)


def _check(
    logits: Tensor, labels: Tensor, weights: Tensor | None, smoothing: float, reduction: str
) -> None:
    if logits.ndim != 4 or not logits.is_floating_point() or min(logits.shape[1:]) < 1:
        raise FeathersegError(
            f"logits {tuple(logits.shape)} of {logits.dtype}: expected floating point (B, K, h, "
            "w), each at least 1."
        )
    if (
        labels.dtype not in (torch.int64, torch.uint8)
        or labels.ndim != 3
        or len(labels) != len(logits)
    ):
        raise FeathersegError(
            f"labels {tuple(labels.shape)} of {labels.dtype}: expected ({len(logits)}, H, W) of "
            "int64 or uint8."
        )
    if labels.device != logits.device:
        raise FeathersegError(
            f"labels on {labels.device}: expected them on {logits.device}, like the logits."
        )
    if weights is not None and weights.shape != logits.shape[1:2]:
        raise FeathersegError(
            f"class_weights {tuple(weights.shape)}: expected ({logits.shape[1]},), one per class."
        )
    if not 0 <= smoothing <= 1:
        raise FeathersegError(f"label_smoothing = {smoothing}: expected 0 to 1.")
    if reduction not in ("mean", "none", "sum"):
        raise FeathersegError(f"reduction = {reduction!r}: expected 'mean', 'none' or 'sum'.")
