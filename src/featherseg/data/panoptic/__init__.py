"""Panoptic segmentations: formats and training targets."""
