"""The losses of auxiliary heads: plain cross-entropy, and PIDNet's two boundary losses."""

import torch
from torch import Tensor, nn

from featherseg.core.types import SegOutput
from featherseg.layers.precision import at_least_fp32
from featherseg.layers.resize import to_image
from featherseg.losses.boundary import boundary_loss, boundary_targets, labels_at_boundaries
from featherseg.losses.cross_entropy import CrossEntropy


class AuxiliaryLoss(nn.Module):
    """heads * (sum of the heads' cross-entropy) + boundaries * L_1 + L_3 (PIDNet, Sec. 3.4).

    Args:
        plain: the cross-entropy of the heads that predict classes.
        hard: the cross-entropy of L_3, for the model's own logits at predicted boundaries.
        heads: the weight of plain.
        boundaries: the weight of L_1; 0 turns off L_1 and L_3.
        boundary_head: the name of the head that predicts boundaries.
    """

    def __init__(
        self,
        plain: CrossEntropy,
        hard: CrossEntropy,
        *,
        heads: float,
        boundaries: float,
        boundary_head: str | None,
    ) -> None:
        super().__init__()
        self.plain, self.hard = plain, hard
        self.heads, self.boundaries, self.boundary_head = heads, boundaries, boundary_head

    def forward(self, out: SegOutput, labels: Tensor) -> Tensor:
        """Return the loss, a scalar, float32; `out` has auxiliary logits, labels are (B, H, W)."""
        assert out.aux is not None
        losses = [
            self.plain(out._replace(logits=logits), labels)
            for name, logits in out.aux.items()
            if name != self.boundary_head
        ]
        loss = self.heads * torch.stack(losses).sum() if losses else out.logits.new_zeros(())
        if not self.boundaries:
            return loss
        assert self.boundary_head is not None  # refused before training starts
        # in fp32, because the gradient of half precision is less exact
        edges = out._replace(logits=at_least_fp32(out.aux[self.boundary_head]))
        boundary_logits = to_image(edges, (labels.shape[1], labels.shape[2]))  # (B, 1, H, W)
        at_boundaries = self.hard(out, labels_at_boundaries(labels, boundary_logits))
        loss = loss + self.boundaries * boundary_loss(boundary_logits, boundary_targets(labels))
        return loss + at_boundaries
