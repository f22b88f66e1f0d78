"""Losses: called with logits at the picture's size and labels; in fp32 whatever autocast says."""

from featherseg.losses.cross_entropy import CrossEntropy

__all__ = ["CrossEntropy"]
