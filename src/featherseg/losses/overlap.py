"""Losses of regions beside the cross-entropy: they judge how far classes overlap with the truth, rare ones alike.

At the logits' own resolution (a quarter of the image's for most models), where the labels are those under the middle of
each place: scores of the image's size would cost more than the cross-entropy does without them. What is thinner than a
place is met only where it covers a middle. Letters: M labelled places of a batch, K classes.
"""

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from featherseg.core.types import IGNORE, SegOutput
from featherseg.layers.precision import at_least_fp32, autocast_off
from featherseg.losses.cross_entropy import cover


class OverlapLoss(nn.Module):
    """dice * soft Dice loss + lovasz * Lovasz-softmax, each over the classes that the batch's labels hold."""

    def __init__(self, *, dice: float = 0.0, lovasz: float = 0.0) -> None:
        super().__init__()
        self.dice, self.lovasz = dice, lovasz

    def forward(self, out: SegOutput | Tensor, labels: Tensor) -> Tensor:
        """A model's output, or logits (B, K, h, w) over the image of the labels (B, H, W) -> scalar, fp32 or better.

        0 with zero gradients where everything is ignored.
        """
        logits, covered, _ = cover(out, labels)
        with autocast_off(logits.device):
            small = F.interpolate(
                covered[:, None].float(), size=logits.shape[2:], mode="nearest-exact"
            )[:, 0]
            known = small != IGNORE  # (B, h, w)
            probabilities = at_least_fp32(logits).movedim(1, -1)[known].softmax(1)  # (M, K)
            truth = F.one_hot(small[known].long(), logits.shape[1]).bool()  # (M, K)
            present = truth.any(0)  # (K,)
            loss = probabilities.new_zeros(())
            if self.dice:
                loss = loss + self.dice * _mean(soft_dice(probabilities, truth), present)
            if self.lovasz:
                here = present.nonzero()[:, 0]
                loss = loss + self.lovasz * _mean(
                    lovasz_softmax(probabilities[:, here], truth[:, here]), present[here]
                )
            return loss


def soft_dice(probabilities: Tensor, truth: Tensor) -> Tensor:
    """1 - 2 sum(p t) / (sum(p) + sum(t)) of each class: probabilities (M, K), truth (M, K) bool -> (K,).

    Milletari et al., 3DV 2016, Eq. 2, with p in place of its square in the denominator.
    """
    hits = (probabilities * truth).sum(0)
    return 1 - 2 * hits / (probabilities.sum(0) + truth.sum(0)).clamp(min=1)


BINS = 1024
"""Errors between which Lovasz-softmax tells: sorting them all took a fifth of a training step with 150 classes."""


def lovasz_softmax(probabilities: Tensor, truth: Tensor) -> Tensor:
    """Lovasz extension of 1 - IoU of each class (Berman et al., CVPR 2018, Eq. 9): (M, K), (M, K) bool -> (K,).

    The errors |t - p|, largest first, each times what the IoU loses by it once those before it are made. Errors in the
    same 1 / BINS come in any order: each weighs what it does on average over the two orders in which places of the
    class come all before, or all behind, the others. Of a training's batch the gradient is that of sorting to 0.1 %,
    of a class with 0.2 % of its places to 1.5 %.
    """
    errors = (truth.to(probabilities) - probabilities).abs()  # (M, K)
    with torch.no_grad():
        classes = torch.arange(errors.shape[1], device=errors.device)
        place = ((1 - errors) * BINS).clamp(0, BINS - 1).int() + BINS * classes.int()
        place = 2 * place + truth  # (M, K) class, bin, whether it is of the class
        count = (
            torch.bincount(place.flatten(), minlength=2 * BINS * len(classes))
            .view(-1, BINS, 2)
            .double()
        )
        after = count.cumsum(1)
        before, number = after - count, after[:, -1:, 1]

        def iou(others: Tensor, own: Tensor) -> Tensor:
            return (number - own[..., 1]) / (number + others[..., 0]).clamp(min=1)  # (K, BINS)

        first, last, by_others, by_own = (
            iou(before, before),
            iou(after, after),
            iou(after, before),
            iou(before, after),
        )
        lost = (
            torch.stack(
                [first - by_others + by_own - last, first - by_own + by_others - last], dim=2
            )
            / 2
        )
        weight = (lost / count.clamp(min=1)).to(errors).flatten()[place]  # (M, K)
    return (errors * weight).sum(0)


def _mean(losses: Tensor, present: Tensor) -> Tensor:
    """The mean of the present classes' losses (K,), 0 where there are none."""
    return torch.where(present, losses, 0.0).sum() / present.sum().clamp(min=1)
