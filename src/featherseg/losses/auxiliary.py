"""What auxiliary heads add to the loss: plain cross-entropy of classes, and PIDNet's two losses of boundaries."""

import torch
from torch import Tensor, nn

from featherseg.core.types import SegOutput
from featherseg.layers.precision import at_least_fp32
from featherseg.layers.resize import to_image
from featherseg.losses.boundary import boundary_loss, boundary_targets, labels_at_boundaries
from featherseg.losses.cross_entropy import CrossEntropy


class AuxiliaryLoss(nn.Module):
    """heads * (cross-entropy of every head of classes) + boundaries * L_1 + L_3 (PIDNet, arXiv:2206.02066, Sec. 3.4).

    plain is what the heads of classes are judged by, hard what L_3 judges the model's own logits by, at the
    boundaries that the head `boundary_head` finds; without `boundaries` that head is left alone.
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
        """A model's output with its auxiliary logits, and labels (B, H, W) int64 -> scalar, float32."""
        assert out.aux is not None
        heads = {name: out._replace(logits=logits) for name, logits in out.aux.items()}
        losses = [
            self.plain(head, labels) for name, head in heads.items() if name != self.boundary_head
        ]
        loss = self.heads * torch.stack(losses).sum() if losses else out.logits.new_zeros(())
        if not self.boundaries:
            return loss
        assert self.boundary_head is not None  # refused before training starts
        edges = out._replace(logits=at_least_fp32(out.aux[self.boundary_head]))
        found = to_image(
            edges, (labels.shape[1], labels.shape[2])
        )  # (B, 1, H, W), fp32: half precision costs gradient
        at_boundaries = self.hard(out, labels_at_boundaries(labels, found))
        return (
            loss + self.boundaries * boundary_loss(found, boundary_targets(labels)) + at_boundaries
        )
