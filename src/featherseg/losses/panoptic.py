"""The loss of a panoptic model: classes, centres and offsets together (Panoptic-DeepLab, Cheng et al., CVPR 2020).

Everything is compared at the image's size. Each part is a weighted mean, sum(loss w) / sum(w), 0 where nothing
counts; the authors' code divides the semantic part by the number of pixels instead.
"""

from collections.abc import Sequence
from typing import NamedTuple, Protocol

import torch
from torch import Tensor, nn

from featherseg.core.errors import ConfigError
from featherseg.core.types import IGNORE, SegOutput
from featherseg.kernels import upsample_cross_entropy
from featherseg.layers.precision import at_least_fp32, autocast_off
from featherseg.layers.resize import to_image
from featherseg.losses.cross_entropy import cover, weights_tensor
from featherseg.losses.processes import mean_over_processes

CENTER_WEIGHT, OFFSET_WEIGHT = 200.0, 0.01


class Targets(Protocol):
    """What the instance branch is compared with, float32; `data.panoptic_targets` makes it, collate batches it.

    center (B, H, W), offset (B, 2, H, W) in pixels of the image, and the weight of every pixel in each part,
    (B, H, W).
    """

    @property
    def center(self) -> Tensor: ...
    @property
    def offset(self) -> Tensor: ...
    @property
    def center_weight(self) -> Tensor: ...
    @property
    def offset_weight(self) -> Tensor: ...
    @property
    def semantic_weight(self) -> Tensor: ...


class PanopticLosses(NamedTuple):
    """The three parts of the loss, scalars, each already times its weight; training minimises `total`."""

    semantic: Tensor
    center: Tensor
    offset: Tensor

    @property
    def total(self) -> Tensor:
        """The sum of the parts."""
        return self.semantic + self.center + self.offset


class PanopticLoss(nn.Module):
    """Cross-entropy of the hardest pixels + 200 x squared error of centres + 0.08 / sigma x distance of the offsets.

    hardest: share of the batch's labelled pixels whose weighted cross-entropy is largest, the only ones that count
    (0.2 for Cityscapes, 1 for COCO). class_weights: one a class, times the weight of each pixel. center_sigma: of the
    centres' Gaussians in pixels, 8 for full-size images (0.01 x the distance, as the authors have it); distances count
    in eighths of it, so that an image half the size, with half the sigma, has the same loss: `panoptic_targets` scales
    the area of small objects alike. Raises ConfigError where the share is not above 0 and at
    most 1, and for weights that `CrossEntropy` refuses.
    """

    def __init__(
        self,
        hardest: float = 1.0,
        class_weights: Sequence[float] | None = None,
        center_sigma: int = 8,
    ) -> None:
        super().__init__()
        if not 0 < hardest <= 1:
            raise ConfigError(
                f"hardest = {hardest}: expected a fraction of the pixels, above 0 and at most 1."
            )
        self.hardest, self.offset_weight = hardest, OFFSET_WEIGHT * 8 / center_sigma
        own = None if class_weights is None else weights_tensor(class_weights)
        weights = None if own is None else torch.cat([own, torch.zeros(IGNORE + 1)])[: IGNORE + 1]
        self.class_weights: Tensor | None  # by label value
        self.register_buffer("class_weights", weights, persistent=False)

    def forward(self, out: SegOutput, labels: Tensor, targets: Targets) -> PanopticLosses:
        """A panoptic model's output, labels (B, H, W) int64 and the targets of the batch -> the parts, float32.

        In full precision whatever autocast says.
        """
        assert out.centers is not None  # refused before training starts
        assert out.offsets is not None
        size = (labels.shape[1], labels.shape[2])
        with autocast_off(out.logits.device):
            centers, offsets = (
                to_image(out._replace(logits=at_least_fp32(x)), size)
                for x in (out.centers, out.offsets)
            )  # (B, 1, H, W), (B, 2, H, W)
            center = (centers[:, 0] - targets.center).square()  # (B, H, W)
            offset = (offsets - targets.offset).abs().mean(dim=1)  # (B, H, W), over dy and dx
            return PanopticLosses(
                self._semantic(out, labels, targets.semantic_weight),
                CENTER_WEIGHT * weighted_mean(center, targets.center_weight),
                self.offset_weight * weighted_mean(offset, targets.offset_weight),
            )

    def _semantic(self, out: SegOutput, labels: Tensor, weights: Tensor) -> Tensor:
        """Weighted cross-entropy over the hardest pixels, scalar."""
        logits, covered, align_corners = cover(out, labels)
        losses = upsample_cross_entropy(
            logits, covered, align_corners=align_corners, reduction="none"
        )
        losses = losses[:, : labels.shape[1], : labels.shape[2]]  # (B, H, W), 0 where ignored
        weights = weights * (labels != IGNORE)
        if self.class_weights is not None:
            weights = weights * self.class_weights[labels]
        if self.hardest == 1:
            return weighted_mean(losses, weights)
        kept = max(1, int(self.hardest * int((weights > 0).sum())))
        hardest = (losses * weights).detach().flatten().topk(kept, sorted=False).indices
        return weighted_mean(losses.flatten()[hardest], weights.flatten()[hardest])


def weighted_mean(losses: Tensor, weights: Tensor) -> Tensor:
    """sum(losses weights) / sum(weights) -> scalar; 0 with zero gradients where no weight is above 0.

    Of several processes both sums are over all.
    """
    total = mean_over_processes(weights.sum()).to(losses)
    return (losses * weights).sum() / torch.where(
        total > 0, total, 1.0
    )  # 1 / tiny, times 200, would be infinite
