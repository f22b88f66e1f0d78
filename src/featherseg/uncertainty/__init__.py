"""Confidence intervals of scores: clusters of images, cluster bootstrap, paired differences."""
