"""Scoring: the one evaluator and its measures, operation counts, the report."""

from featherseg.evaluation.panoptic_quality import PanopticQuality

__all__ = ["PanopticQuality"]
