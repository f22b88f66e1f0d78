"""Losses: in fp32 whatever autocast says. Training calls `Hybrid` or `PanopticLoss`."""

from collections.abc import Callable

from torch import nn

from featherseg.core.catalogue import Catalogue
from featherseg.losses.auxiliary import AuxiliaryLoss
from featherseg.losses.cross_entropy import CrossEntropy
from featherseg.losses.distillation import Distillation, TaughtLosses
from featherseg.losses.hybrid import Hybrid
from featherseg.losses.overlap import OverlapLoss
from featherseg.losses.panoptic import PanopticLoss, PanopticLosses
from featherseg.losses.pixel_contrast import PixelContrast

__all__ = [
    "LOSSES",
    "AuxiliaryLoss",
    "CrossEntropy",
    "Distillation",
    "Hybrid",
    "OverlapLoss",
    "PanopticLoss",
    "PanopticLosses",
    "PixelContrast",
    "TaughtLosses",
]

LOSSES: Catalogue[Callable[..., nn.Module]] = Catalogue(
    "loss", "featherseg.losses", {}, callable, "a callable that returns an nn.Module"
)
"""`loss.name` of a recipe -> what makes that loss; featherseg has none of its own beside the one that [loss] describes.

Called with (model, class_weights: a list or None, **loss.options), it returns a module whose forward takes the model's
SegOutput and labels (B, H, W) int64, 255 = ignore, and gives a scalar.
"""
