"""PIDNet's losses of boundaries (Xu et al., arXiv:2206.02066, Sec. 3.4), as its code has them.

With all logits at the image's size, L = 0.4 L_0 + 20 L_1 + L_2 + L_3: cross-entropy of the P branch, boundaries of
the D branch, cross-entropy of the logits, and the same once more at the boundaries that D finds. L_0 is a mean over all
pixels, L_2 and L_3 are means over the number of pixels that hard example mining keeps. L_1 and what L_3 looks at are
here; losses/auxiliary.py adds up. Letters: B images.
"""

import math

import torch
import torch.nn.functional as F
from torch import Tensor

from featherseg.core.types import IGNORE

REACH = 2
"""Pixels to either side of a boundary that belong to it; the authors' lines are 4 pixels wide too."""

THRESHOLD = 0.8
"""L_3 looks at pixels whose boundary probability is above it (t in the paper)."""


def boundary_targets(labels: Tensor, reach: int = REACH) -> Tensor:
    """Where boundaries are, from labels (B, H, W) alone: -> (B, H, W) float32, 1 at a boundary, else 0.

    A pixel is at a boundary where the square of 2 * reach + 1 pixels around it, as far as it lies in the image, holds
    more than one label; "ignore" is a label as well, as in the authors' code. They draw lines at full size (OpenCV's
    Canny and a 4x4 dilation, nothing within 6 pixels of the frame) and resize them with the image.
    """
    values, side = labels[:, None].float(), 2 * reach + 1  # (B, 1, H, W)
    largest = F.max_pool2d(values, side, stride=1, padding=reach)
    smallest = -F.max_pool2d(-values, side, stride=1, padding=reach)
    return (largest != smallest)[:, 0].float()


def near_another_class(labels: Tensor) -> Tensor:
    """Where another class lies at most REACH rows and columns away: (B, H, W) -> the same, bool.

    Unlike in `boundary_targets` "ignore" is no class: next to it alone, nothing is known of a boundary.
    """
    values, ignored, side = (
        labels[:, None].float(),
        (labels == IGNORE)[:, None],
        2 * REACH + 1,
    )  # (B, 1, H, W)
    greatest = []
    for x in (values, -values):  # of the square around a pixel, by its rows and then its columns
        x = x.masked_fill(ignored, -math.inf)
        x = F.max_pool2d(x, (1, side), stride=1, padding=(0, REACH))
        greatest.append(F.max_pool2d(x, (side, 1), stride=1, padding=(REACH, 0))[:, 0])
    return greatest[0] > -greatest[1]


def boundary_loss(logits: Tensor, targets: Tensor) -> Tensor:
    """L_1: binary cross-entropy, a boundary pixel weighted by the share of the others and the others by its share.

    logits (B, E, H, W), targets (B, H, W) of 0 and 1 -> scalar, float32: the mean over all pixels of the batch, summed
    over the E maps of boundaries, of which PIDNet has one.
    """
    with torch.autocast(logits.device.type, enabled=False):
        share = targets.mean()
        weights = torch.where(targets == 1, 1 - share, share)  # (B, H, W)
        maps = logits.float().unbind(1)
        losses = [F.binary_cross_entropy_with_logits(one, targets, weights) for one in maps]
        return torch.stack(losses).sum()


def labels_at_boundaries(labels: Tensor, boundary_logits: Tensor) -> Tensor:
    """The labels of L_3: labels (B, H, W) where the boundary probability is above THRESHOLD, elsewhere "ignore".

    boundary_logits (B, E, H, W), of which the first map counts; no gradient goes through them.
    """
    return torch.where(boundary_logits[:, 0].sigmoid() > THRESHOLD, labels, IGNORE)
