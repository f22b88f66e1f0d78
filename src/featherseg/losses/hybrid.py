"""What training minimises: cross-entropy at the image's size, beside it contrast, other heads, overlap, teachers."""

import torch.nn.functional as F
from torch import Tensor, nn

from featherseg.core.types import IGNORE, SegOutput
from featherseg.losses.auxiliary import AuxiliaryLoss
from featherseg.losses.cross_entropy import CrossEntropy
from featherseg.losses.distillation import Distillation, Taught, TaughtLosses
from featherseg.losses.overlap import OverlapLoss
from featherseg.losses.pixel_contrast import PixelContrast


class Hybrid(nn.Module):
    """L = L_ce + weight * L_contrast (FRM Eq. 4) + L_aux + L_overlap + L_teacher; the first alone by default."""

    def __init__(
        self,
        cross_entropy: CrossEntropy,
        contrast: PixelContrast | None = None,
        weight: float = 1.0,
        auxiliary: AuxiliaryLoss | None = None,
        overlap: OverlapLoss | None = None,
        distillation: Distillation | None = None,
    ) -> None:
        super().__init__()
        self.cross_entropy, self.contrast, self.weight = cross_entropy, contrast, weight
        self.auxiliary, self.overlap, self.distillation = auxiliary, overlap, distillation

    def forward(
        self, out: SegOutput, labels: Tensor, taught: Taught | None = None
    ) -> Tensor | TaughtLosses:
        """A model's output in training and labels (B, H, W) int64 -> scalar, float32; of a taught model its parts."""
        supervised = self._supervised(out, labels)
        if self.distillation is None or taught is None:
            return supervised
        return TaughtLosses(supervised, self.distillation(out, taught))

    def _supervised(self, out: SegOutput, labels: Tensor) -> Tensor:
        """What the masks ask for."""
        loss = self.cross_entropy(out, labels)
        if self.auxiliary is not None:
            loss = loss + self.auxiliary(out, labels)
        if self.overlap is not None:
            loss = loss + self.overlap(out, labels)
        if self.contrast is None:
            return loss
        assert out.features is not None  # refused before training starts
        rows, columns = (
            padded - own for padded, own in zip(out.padded_size, out.image_size, strict=True)
        )
        covered = F.pad(
            labels, (0, columns, 0, rows), value=IGNORE
        )  # (B, H', W'): what the features cover
        return loss + self.weight * self.contrast(out.features, out.logits, covered)
