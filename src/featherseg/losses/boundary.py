"""PIDNet's boundary losses (Xu et al., arXiv:2206.02066, Sec. 3.4), as in its code.

With all logits at the image's size, L = 0.4 L_0 + 20 L_1 + L_2 + L_3: cross-entropy of the P
branch, boundaries of the D branch, cross-entropy of the logits, and the same again at the
boundaries that D predicts. L_0 is a mean over all pixels; L_2 and L_3 are means over the pixels
that hard example mining keeps. L_1 and the pixels of L_3 are here; losses/auxiliary.py adds them
up. Letters: B images.
"""

import math

import torch
import torch.nn.functional as F
from torch import Tensor

from featherseg.core.types import IGNORE

REACH = 2
"""Pixels on each side of a boundary that belong to it; the authors' lines are 4 pixels wide too."""

THRESHOLD = 0.8
"""Boundary probability above which a pixel counts in L_3 (t in the paper)."""


def boundary_targets(labels: Tensor, reach: int = REACH) -> Tensor:
    """Return (B, H, W) float32, 1 at a boundary of the labels (B, H, W), else 0.

    A pixel is at a boundary if the square of 2 * reach + 1 pixels around it contains more than one
    label. "ignore" is a label too, as in the authors' code. They draw lines at full size (OpenCV's
    Canny and a 4x4 dilation, none within 6 pixels of the frame) and resize them with the image.
    """
    values, side = labels[:, None].float(), 2 * reach + 1  # (B, 1, H, W)
    largest = F.max_pool2d(values, side, stride=1, padding=reach)
    smallest = -F.max_pool2d(-values, side, stride=1, padding=reach)
    return (largest != smallest)[:, 0].float()


def near_another_class(labels: Tensor) -> Tensor:
    """Return (B, H, W) bool: whether another class is at most REACH rows and columns away.

    "ignore" is no class here: it says nothing about a boundary.
    """
    values, ignored = labels[:, None].float(), (labels == IGNORE)[:, None]  # (B, 1, H, W)
    side, greatest = 2 * REACH + 1, []
    for x in (values, -values):
        # the largest value in the square around each pixel, by rows and then by columns
        x = x.masked_fill(ignored, -math.inf)
        x = F.max_pool2d(x, (1, side), stride=1, padding=(0, REACH))
        greatest.append(F.max_pool2d(x, (side, 1), stride=1, padding=(REACH, 0))[:, 0])
    return greatest[0] > -greatest[1]


def boundary_loss(logits: Tensor, targets: Tensor) -> Tensor:
    """Return L_1: binary cross-entropy; boundaries and other pixels have equal total weight.

    logits (B, E, H, W), targets (B, H, W) of 0 and 1. The result is a scalar, float32: the mean
    over all pixels of the batch, summed over the E boundary maps; PIDNet has one.
    """
    with torch.autocast(logits.device.type, enabled=False):
        share = targets.mean()
        weights = torch.where(targets == 1, 1 - share, share)  # (B, H, W)
        maps = logits.float().unbind(1)
        losses = [F.binary_cross_entropy_with_logits(one, targets, weights) for one in maps]
        return torch.stack(losses).sum()


def labels_at_boundaries(labels: Tensor, boundary_logits: Tensor) -> Tensor:
    """Return the labels of L_3: "ignore" where the boundary probability is at most THRESHOLD.

    labels (B, H, W). Only the first map of boundary_logits (B, E, H, W) counts; no gradient goes
    through it.
    """
    return torch.where(boundary_logits[:, 0].sigmoid() > THRESHOLD, labels, IGNORE)
