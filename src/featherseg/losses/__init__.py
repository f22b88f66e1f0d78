"""Losses: in fp32 whatever autocast says. Training calls `Hybrid` or `PanopticLoss`."""

from featherseg.losses.auxiliary import AuxiliaryLoss
from featherseg.losses.cross_entropy import CrossEntropy
from featherseg.losses.hybrid import Hybrid
from featherseg.losses.panoptic import PanopticLoss, PanopticLosses
from featherseg.losses.pixel_contrast import PixelContrast

__all__ = ["AuxiliaryLoss", "CrossEntropy", "Hybrid", "PanopticLoss", "PanopticLosses", "PixelContrast"]
