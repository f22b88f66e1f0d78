"""Losses, computed in fp32 even under autocast. Training calls `Hybrid` or `PanopticLoss`."""

from collections.abc import Callable

from torch import nn

from featherseg.core.catalogue import Catalogue
from featherseg.losses.auxiliary import AuxiliaryLoss
from featherseg.losses.cross_entropy import CrossEntropy
from featherseg.losses.hybrid import Hybrid
from featherseg.losses.overlap import OverlapLoss
from featherseg.losses.panoptic import PanopticLoss, PanopticLosses
from featherseg.losses.pixel_contrast import PixelContrast
from featherseg.losses.terms import TERMS

__all__ = [
    "LOSSES",
    "TERMS",
    "AuxiliaryLoss",
    "CrossEntropy",
    "Hybrid",
    "OverlapLoss",
    "PanopticLoss",
    "PanopticLosses",
    "PixelContrast",
]

LOSSES: Catalogue[Callable[..., nn.Module]] = Catalogue(
    "loss", "featherseg.losses", {}, callable, "a callable that returns an nn.Module"
)
"""`loss.name` of a recipe -> function that builds this loss; only installed packages have some.

It is called with (model, class_weights: a list or None, **loss.options) and returns a module, which
is called with (SegOutput, labels (B, H, W) int64, 255 = ignore) and returns a scalar. The loss of a
recipe without `loss.name` is the sum of the TERMS.
"""
