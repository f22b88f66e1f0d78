"""The loss of a panoptic model (Panoptic-DeepLab, Cheng et al., CVPR 2020).

All is compared at the image's size. Each part is a weighted mean, sum(loss w) / sum(w), or 0 if
nothing counts; the authors' code divides the semantic part by the number of pixels instead.
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
"""Weights of the parts in the authors' code, the offsets' for center_sigma = 8."""


class Targets(Protocol):
    """The targets of the instance branch, float32, made by `panoptic_targets`.

    center (B, H, W), offset (B, 2, H, W) in pixels of the image, and the weight of each pixel in
    each part, (B, H, W).
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
    """The parts of the loss, scalars times their weights; training minimises `total`."""

    semantic: Tensor
    center: Tensor
    offset: Tensor

    @property
    def total(self) -> Tensor:
        """The sum of the parts."""
        return self.semantic + self.center + self.offset


class PanopticLoss(nn.Module):
    """Cross-entropy of the hardest pixels + 200 * centre error^2 + 0.08 / sigma * offset error.

    Args:
        hardest: the share of the batch's labelled pixels that count: those with the largest
            weighted cross-entropy (0.2 for Cityscapes, 1 for COCO).
        class_weights: (K,) factors of the pixels' weights.
        center_sigma: of the centres' Gaussians in pixels, 8 for full-size images as in the paper.
            An image of half the size, with half the sigma, has the same loss.

    Raises:
        ConfigError: hardest is not in (0, 1], or `CrossEntropy` refuses the weights.
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
        weights = None
        if class_weights is not None:  # by label value: IGNORE has the weight 0
            padded = torch.cat([weights_tensor(class_weights), torch.zeros(IGNORE + 1)])
            weights = padded[: IGNORE + 1]
        self.class_weights: Tensor | None
        self.register_buffer("class_weights", weights, persistent=False)

    def forward(self, out: SegOutput, labels: Tensor, targets: Targets) -> PanopticLosses:
        """Return the parts, float32 even under autocast; labels (B, H, W) int64."""
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
        """Return the weighted cross-entropy of the hardest pixels, a scalar."""
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
    """Return sum(losses weights) / sum(weights); 0 with zero gradients if all weights are 0.

    With several processes, both sums are over all of them.
    """
    total = mean_over_processes(weights.sum()).to(losses)
    # not clamp(min=tiny): 1 / tiny, times 200, is infinite
    return (losses * weights).sum() / torch.where(total > 0, total, 1.0)
