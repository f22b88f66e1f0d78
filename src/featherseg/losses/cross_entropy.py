"""Pixel-wise cross-entropy (FRM Eq. 5) with class weights, label smoothing and online hard example mining."""

from collections.abc import Sequence
from typing import Literal

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from featherseg.core.errors import ConfigError
from featherseg.core.types import IGNORE

Mean = Literal["labelled", "number", "all"]
"""What the sum of a batch's losses is divided by, see CrossEntropy."""


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
    A batch without any labelled pixel gives 0 with zero gradients.
    """

    def __init__(
        self,
        class_weights: Sequence[float] | None = None,
        *,
        label_smoothing: float = 0.0,
        ohem_threshold: float | None = None,
        ohem_min_kept: int = 10_000,
        mean: Mean = "labelled",
        ignore_index: int = IGNORE,
    ) -> None:
        super().__init__()
        weights = None if class_weights is None else torch.tensor(class_weights, dtype=torch.float32)
        if weights is not None and not (torch.isfinite(weights).all() and (weights >= 0).all() and weights.sum() > 0):
            raise ConfigError(f"class weights {list(class_weights or [])}: expected finite values >= 0, not all 0.")
        self.class_weights: Tensor | None
        self.register_buffer("class_weights", weights, persistent=False)
        self.label_smoothing = label_smoothing
        self.ohem_threshold = ohem_threshold
        self.ohem_min_kept = ohem_min_kept
        self.mean: Mean = mean
        self.ignore_index = ignore_index

    def forward(self, logits: Tensor, labels: Tensor) -> Tensor:
        """logits (B, K, H, W), labels (B, H, W) int64 -> scalar, float32."""
        weights = self.class_weights
        if weights is not None and len(weights) != logits.shape[1]:
            raise ConfigError(f"{len(weights)} class weights were given for {logits.shape[1]} classes.")
        with torch.autocast(logits.device.type, enabled=False):
            logits = logits.float()
            losses = F.cross_entropy(
                logits,
                labels,
                weight=weights,
                ignore_index=self.ignore_index,
                label_smoothing=self.label_smoothing,
                reduction="none",
            )  # (B, H, W), already weighted, 0 where ignored
            counts = (labels != self.ignore_index).float()  # (B, H, W)
            if self.ohem_threshold is not None:
                counts = counts * self._hard(logits.detach(), labels)
            if self.mean == "all":
                return (losses * counts).sum() / labels.numel()
            share = counts
            if self.mean == "labelled" and weights is not None:
                share = counts * weights[labels.clamp(max=len(weights) - 1)]
            return (losses * counts).sum() / share.sum().clamp(min=torch.finfo(torch.float32).tiny)

    def _hard(self, logits: Tensor, labels: Tensor) -> Tensor:
        """1 at the pixels that OHEM keeps, else 0; (B, H, W)."""
        assert self.ohem_threshold is not None
        valid = labels != self.ignore_index
        true = labels.masked_fill(~valid, 0)[:, None]  # (B, 1, H, W)
        probability = logits.log_softmax(1).gather(1, true)[:, 0].exp()  # (B, H, W)
        probability = probability.masked_fill(~valid, 2.0).flatten(1)  # ignored pixels come last
        kept = min(self.ohem_min_kept, probability.shape[1])
        hardest = probability.kthvalue(kept, dim=1).values[:, None]  # (B, 1)
        limit = hardest.clamp(min=self.ohem_threshold)
        return ((probability <= limit) & (probability <= 1.0)).view_as(labels).float()
