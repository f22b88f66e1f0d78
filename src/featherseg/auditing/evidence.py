"""Evidence against a whole mask, without learning. (H, W) is the size at which it is audited."""

import numpy as np

from featherseg.auditing.regions import Prediction
from featherseg.auditing.soft_minimum import soft_minimum
from featherseg.core.types import IGNORE

EVIDENCE = (
    "soft_minimum",  # log odds of 1 - the soft-minimum
    "odds",  # log of the mean of best / given: shows a few pixels that the model is very sure of
    "shift",  # the share of the mean -log probability that disappears if the mask is moved
)

SHIFTS = (0.02, 0.04, 0.06)
"""Distances, as shares of the longer side, by which a mask is moved in eight directions."""

SPARSE = 2
"""Every SPARSE-th row and column is used for `shift`."""


def evidence_of(label: np.ndarray, prediction: Prediction) -> np.ndarray:
    """Return EVIDENCE of a mask (H, W) uint8, (E,); high values speak against it. 255 = ignore."""
    known = label != IGNORE
    if not known.any():
        return np.zeros(len(EVIDENCE))
    given, odds = prediction.of(label), prediction.log_odds(label)
    soft = np.clip(1 - soft_minimum(given[known]), 1e-6, 1 - 1e-6)
    mean_odds = np.exp(odds[known]).mean(dtype=np.float64)
    shift = _gain_of_shift(label[::SPARSE, ::SPARSE], prediction.logarithms[:, ::SPARSE, ::SPARSE])
    return np.array([np.log(soft / (1 - soft)), np.log(mean_odds), shift])


def _gain_of_shift(label: np.ndarray, logarithms: np.ndarray) -> float:
    """Return the largest share of the mean -log probability that a shift removes, 0..1.

    label (h, w), logarithms of the probabilities (K, h, w).
    """
    (height, width), known = label.shape, label != IGNORE
    named = np.where(known, label, 0).astype(np.int64)
    cost = -np.take_along_axis(logarithms, named[None], 0)[0]  # (h, w), of the label as it is
    best = 0.0
    for distance in SHIFTS:
        for turn in range(8):
            reach, angle = distance * max(label.shape), turn * np.pi / 4
            dy, dx = round(reach * np.sin(angle)), round(reach * np.cos(angle))
            there = np.s_[max(0, dy) : height + min(0, dy), max(0, dx) : width + min(0, dx)]
            here = np.s_[max(0, -dy) : height + min(0, -dy), max(0, -dx) : width + min(0, -dx)]
            both = known[there] & known[here]
            if both.any():
                moved = -np.take_along_axis(logarithms[:, *here], named[there][None], 0)[0]
                with_move, without = moved[both].mean(), cost[here][both].mean()
                best = max(best, float((without - with_move) / (without + 0.02)))
    return best
