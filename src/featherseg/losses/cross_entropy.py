"""Pixel-wise cross-entropy (FRM Eq. 5), with hard example mining, focal and boundary weights."""

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
"""The divisor of the sum of a batch's losses, see `CrossEntropy`."""


def weights_tensor(class_weights: Sequence[float]) -> Tensor:
    """Return (K,) float32. Raises ConfigError if one is not finite or negative, or all are 0."""
    weights = torch.tensor(class_weights, dtype=torch.float32)
    if not (torch.isfinite(weights).all() and (weights >= 0).all() and weights.sum() > 0):
        raise ConfigError(
            f"class weights {list(class_weights)}: expected finite values >= 0, not all 0."
        )
    return weights


class CrossEntropy(nn.Module):
    """Mean of -log p(true class), weighted by class, over the pixels that count.

    It is 0 with zero gradients if no pixel counts. With several processes, the mean is over the
    batches of all of them.

    Args:
        class_weights: (K,) factors of the pixels' losses.
        label_smoothing: e: the target is 1 - e + e/K at the true class and e/K at the others.
        ohem_threshold: only pixels with p(true class) below it count, and at least the
            `ohem_min_kept` hardest of each image (Shrivastava et al., CVPR 2016, as in SFNet's
            scripts).
        mean: the divisor. "labelled": the sum of the weights of the pixels that count, as in torch.
            "number": their number, as in HRNet's and PIDNet's scripts; the same without class
            weights. "all": the number of all pixels, as in mmsegmentation.
        focal: gamma: a pixel's loss is multiplied by (1 - p(true class)) ** gamma (Lin et al.,
            ICCV 2017, Eq. 4); not with label_smoothing.
        boundary_weight: w: pixels near another class (losses/boundary.py) have 1 + w times their
            weight.
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
        """Return the loss as a scalar, float32.

        out: a model's output, or logits (B, K, h, w) that cover the labels (B, H, W) int64.
        """
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
            total = counted.sum()
            if weights is not None:
                total = weights[covered.masked_fill(~counted, 0)][counted].sum()
            return loss / _nonzero(mean_over_processes(total)).to(loss)

    def _one_by_one(
        self, logits: Tensor, labels: Tensor, align_corners: bool, near: Tensor | None
    ) -> Tensor:
        """Return the loss with a weight for each pixel, which takes a second pass for the gradient.

        It is not yet divided if mean = "all".
        """
        losses = upsample_cross_entropy(
            logits,
            labels,
            # the focal factor needs p, that is the loss without class weights
            class_weights=None if self.focal else self.class_weights,
            label_smoothing=self.label_smoothing,
            align_corners=align_corners,
            reduction="none",
        )  # (B, H, W)
        counted = labels != IGNORE
        factors = counted.to(losses)
        if near is not None:
            factors = counted * (1 + self.boundary_weight * near.to(losses))
        weights = factors
        if self.class_weights is not None:
            weights = factors * self.class_weights[labels.masked_fill(~counted, 0)].to(losses)
        if self.focal:
            # 1 - p; above 0, where the gradient of its power would be infinite for gamma < 1
            complement = (-torch.expm1(-losses)).clamp(min=torch.finfo(losses.dtype).eps)
            total = (complement**self.focal * losses * weights).sum()
        else:
            total = (losses * factors).sum()
        if self.mean == "all":
            return total
        divisor = factors.sum() if self.mean == "number" else weights.sum()
        return total / _nonzero(mean_over_processes(divisor)).to(total)

    def _hard(self, logits: Tensor, labels: Tensor, align_corners: bool) -> Tensor:
        """Return (B, H, W) bool: the pixels that online hard example mining keeps."""
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
        return valid & ~(probability > limit).view_as(labels)  # NaN is kept: training reports it


def _nonzero(divisor: Tensor) -> Tensor:
    """Return the divisor, or infinity for 0: then nothing is learned, even from smoothed losses."""
    return torch.where(divisor > 0, divisor, math.inf)


def cover(out: SegOutput | Tensor, labels: Tensor) -> tuple[Tensor, Tensor, bool]:
    """Return logits (B, K, h, w), the labels of what they cover (B, H', W'), and align_corners.

    Labels of padded images are padded with IGNORE. If the labels have another size than the images
    and these were padded, logits are resized to the labels by `to_image`.
    """
    if isinstance(out, Tensor):
        return out, labels, False
    size = (labels.shape[1], labels.shape[2])
    if size != out.image_size and out.padded_size != out.image_size:
        return to_image(out._replace(logits=at_least_fp32(out.logits)), size), labels, False
    rows, columns = (
        padded - image for padded, image in zip(out.padded_size, out.image_size, strict=True)
    )
    if rows or columns:
        labels = F.pad(labels, (0, columns, 0, rows), value=IGNORE)
    return out.logits, labels, out.align_corners
