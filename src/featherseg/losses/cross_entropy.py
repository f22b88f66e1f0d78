"""Pixel-wise cross-entropy (FRM Eq. 5) with class weights, label smoothing and online hard example mining."""

import math
from collections.abc import Sequence
from typing import Literal

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from featherseg.core.errors import ConfigError
from featherseg.core.types import IGNORE, SegOutput
from featherseg.kernels import upsample_cross_entropy
from featherseg.layers.precision import at_least_fp32, autocast_off
from featherseg.layers.resize import to_image
from featherseg.losses.boundary import near_another_class
from featherseg.losses.processes import mean_over_processes, several_processes

Mean = Literal["labelled", "number", "all"]
"""What the sum of a batch's losses is divided by, see CrossEntropy."""


def weights_tensor(class_weights: Sequence[float]) -> Tensor:
    """(K,) float32. Raises ConfigError where one is not finite or below 0, or all are 0."""
    weights = torch.tensor(class_weights, dtype=torch.float32)
    if not (torch.isfinite(weights).all() and (weights >= 0).all() and weights.sum() > 0):
        raise ConfigError(
            f"class weights {list(class_weights)}: expected finite values >= 0, not all 0."
        )
    return weights


class CrossEntropy(nn.Module):
    """Mean of -log p(true class), weighted by class, over the pixels that count.

    class_weights: one a class; their pixels' losses are multiplied by them.
    label_smoothing e: the target is 1 - e + e/K at the true class and e/K at the others.
    ohem_threshold t: only pixels whose true class has probability below t count, and at least the `ohem_min_kept`
    hardest of every image (Shrivastava et al., CVPR 2016, in the form of the SFNet scripts).
    mean: the sum of the losses is divided by the sum of the weights of the pixels that count ("labelled", as torch
    does), by their number ("number", as hard example mining does in HRNet's scripts and so in PIDNet's), or by the
    number of all pixels, ignored and left-out ones too ("all", as mmsegmentation does). The first two differ with
    class weights only; by the last a batch counts by its share of labelled pixels.
    focal gamma: each pixel's loss is times (1 - p(true class)) ** gamma (Lin et al., ICCV 2017, Eq. 4); not with
    label_smoothing. boundary_weight w: pixels near another class (losses/boundary.py) weigh 1 + w, times the weight of
    their class. By both, pixels are weighted one by one, which takes a second pass for the gradient.
    A batch without any labelled pixel, or by "labelled" of classes of weight 0 alone, gives 0 with zero gradients. Of
    several processes the batch is that of all.
    """

    def __init__(
        self,
        class_weights: Sequence[float] | None = None,
        *,
        label_smoothing: float = 0.0,
        ohem_threshold: float | None = None,
        ohem_min_kept: int = 10_000,
        mean: Mean = "labelled",
        focal: float = 0.0,
        boundary_weight: float = 0.0,
    ) -> None:
        super().__init__()
        weights = None if class_weights is None else weights_tensor(class_weights)
        self.class_weights: Tensor | None
        self.register_buffer("class_weights", weights, persistent=False)
        self.label_smoothing = label_smoothing
        self.ohem_threshold = ohem_threshold
        self.ohem_min_kept = ohem_min_kept
        self.mean: Mean = mean
        if focal and label_smoothing:
            raise ConfigError(
                "loss.focal and loss.label_smoothing: the focal loss needs p(true class); give one."
            )
        self.focal, self.boundary_weight = focal, boundary_weight

    def forward(self, out: SegOutput | Tensor, labels: Tensor) -> Tensor:
        """A model's output, or logits (B, K, h, w) over the image of the labels (B, H, W) int64 -> scalar, float32."""
        logits, covered, align_corners = cover(out, labels)
        weights = self.class_weights
        if weights is not None and len(weights) != logits.shape[1]:
            raise ConfigError(
                f"{len(weights)} class weights were given for {logits.shape[1]} classes."
            )
        with autocast_off(logits.device):
            near = near_another_class(covered) if self.boundary_weight else None
            if self.ohem_threshold is not None:
                covered = covered.masked_fill(
                    ~self._hard(logits.detach(), covered, align_corners), IGNORE
                )
            if self.focal or near is not None:
                return self._one_by_one(logits, covered, align_corners, near) / (
                    labels.numel() if self.mean == "all" else 1
                )
            loss = upsample_cross_entropy(
                logits,
                covered,
                class_weights=weights,
                label_smoothing=self.label_smoothing,
                align_corners=align_corners,
                reduction="mean" if self.mean == "labelled" and not several_processes() else "sum",
            )
            if self.mean == "all":
                return loss / labels.numel()
            counted = covered != IGNORE
            if self.mean == "number":
                return loss / _nonzero(mean_over_processes(counted.sum())).to(loss)
            if not several_processes():  # the kernel has divided by the weights already
                return loss
            total = (
                counted.sum()
                if weights is None
                else weights[covered.masked_fill(~counted, 0)][counted].sum()
            )
            return loss / _nonzero(mean_over_processes(total)).to(loss)

    def _one_by_one(
        self, logits: Tensor, labels: Tensor, align_corners: bool, near: Tensor | None
    ) -> Tensor:
        """The sum of the losses, divided by the weights or the number of the pixels that count, or by nothing."""
        losses = upsample_cross_entropy(
            logits,
            labels,
            class_weights=None
            if self.focal
            else self.class_weights,  # p is of the loss without them
            label_smoothing=self.label_smoothing,
            align_corners=align_corners,
            reduction="none",
        )  # (B, H, W)
        counted = labels != IGNORE
        factors = (
            counted.to(losses)
            if near is None
            else counted * (1 + self.boundary_weight * near.to(losses))
        )
        weights = factors
        if self.class_weights is not None:
            weights = factors * self.class_weights[labels.masked_fill(~counted, 0)].to(losses)
        if self.focal:
            surprise = (-torch.expm1(-losses)).clamp(
                min=torch.finfo(losses.dtype).eps
            )  # 1 - p; its root is steep at 0
            total = (surprise**self.focal * losses * weights).sum()
        else:
            total = (losses * factors).sum()
        if self.mean == "all":
            return total
        divisor = factors.sum() if self.mean == "number" else weights.sum()
        return total / _nonzero(mean_over_processes(divisor)).to(total)

    def _hard(self, logits: Tensor, labels: Tensor, align_corners: bool) -> Tensor:
        """Where the pixels are that OHEM keeps, (B, H, W) bool."""
        assert self.ohem_threshold is not None
        losses = upsample_cross_entropy(
            logits,
            labels,
            align_corners=align_corners,
            reduction="none",
        )
        valid = labels != IGNORE
        probability = losses.neg().exp()  # (B, H, W), of the true class
        probability = probability.masked_fill(~valid, 2.0).flatten(1)  # ignored pixels come last
        kept = min(self.ohem_min_kept, probability.shape[1])
        hardest = probability.kthvalue(kept, dim=1).values[:, None]  # (B, 1)
        limit = hardest.clamp(min=self.ohem_threshold)
        return valid & ~(probability > limit).view_as(labels)  # NaN is kept, so that it is seen


def _nonzero(divisor: Tensor) -> Tensor:
    """Infinity where no pixel counts or weighs: then nothing is learned, though smoothed losses have a sum."""
    return torch.where(divisor > 0, divisor, math.inf)


def cover(out: SegOutput | Tensor, labels: Tensor) -> tuple[Tensor, Tensor, bool]:
    """What `upsample_cross_entropy` takes: logits (B, K, h, w), labels of what they cover (B, H', W'), align_corners.

    Where the images were padded, so are the labels, with IGNORE; labels of another size than the images get
    logits of theirs, as `to_image` makes them.
    """
    if isinstance(out, Tensor):
        return out, labels, False
    size = (labels.shape[1], labels.shape[2])
    if size != out.image_size and out.padded_size != out.image_size:
        return to_image(out._replace(logits=at_least_fp32(out.logits)), size), labels, False
    rows, columns = (
        padded - own for padded, own in zip(out.padded_size, out.image_size, strict=True)
    )
    if rows or columns:
        labels = F.pad(labels, (0, columns, 0, rows), value=IGNORE)
    return out.logits, labels, out.align_corners
