"""Scoring a run: the one evaluator, IoU, boundary F, panoptic quality."""

from featherseg.evaluation.panoptic_quality import PanopticQuality

__all__ = ["PanopticQuality"]
