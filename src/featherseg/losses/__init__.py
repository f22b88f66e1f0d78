"""Losses: in fp32 whatever autocast says. Training calls `Hybrid` with a network's output and the labels."""

from featherseg.losses.cross_entropy import CrossEntropy
from featherseg.losses.hybrid import Hybrid
from featherseg.losses.pixel_contrast import PixelContrast

__all__ = ["CrossEntropy", "Hybrid", "PixelContrast"]
