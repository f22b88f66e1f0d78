"""What speaks against a whole mask, without any learning. Letters: (H, W) the size at which an image is audited."""

import numpy as np

from featherseg.auditing.regions import Prediction
from featherseg.auditing.soft_minimum import soft_minimum
from featherseg.core.types import IGNORE

EVIDENCE = (
    "soft_minimum",  # log odds of 1 - the soft-minimum
    "odds",  # log of the mean of best / given: what a few pixels say that the model is very sure of
    "shift",  # the part of the mean -log probability that goes where the mask is moved by a few pixels
)

SHIFTS = (0.02, 0.04, 0.06)
"""How far a mask is moved for `shift`, in parts of the longer side, in eight directions."""

SPARSE = 2
"""Every SPARSE-th row and column is looked at for `shift`."""


def evidence_of(label: np.ndarray, prediction: Prediction) -> np.ndarray:
    """EVIDENCE of a mask (H, W) uint8, (E,); 255 = ignore. What is higher speaks against it."""
    known = label != IGNORE
    if not known.any():
        return np.zeros(len(EVIDENCE))
    given, odds = prediction.of(label), prediction.log_odds(label)
    soft = np.clip(1 - soft_minimum(given[known]), 1e-6, 1 - 1e-6)
    shift = _gain_of_shift(label[::SPARSE, ::SPARSE], prediction.logarithms[:, ::SPARSE, ::SPARSE])
    return np.array(
        [np.log(soft / (1 - soft)), np.log(np.exp(odds[known]).mean(dtype=np.float64)), shift]
    )


def _gain_of_shift(label: np.ndarray, logarithms: np.ndarray) -> float:
    """The share of the mean -log probability of the label (h, w) that goes where it is moved, at best; 0..1."""
    (height, width), known = label.shape, label != IGNORE
    named = np.where(known, label, 0).astype(np.int64)
    cost = -np.take_along_axis(logarithms, named[None], 0)[0]  # (h, w), of the label as it is
    best = 0.0
    for far in SHIFTS:
        for turn in range(8):
            dy, dx = (round(far * max(label.shape) * f(turn * np.pi / 4)) for f in (np.sin, np.cos))
            there = np.s_[max(0, dy) : height + min(0, dy), max(0, dx) : width + min(0, dx)]
            here = np.s_[max(0, -dy) : height + min(0, -dy), max(0, -dx) : width + min(0, -dx)]
            both = known[there] & known[here]
            if both.any():
                moved = -np.take_along_axis(logarithms[:, *here], named[there][None], 0)[0]
                with_move, without = moved[both].mean(), cost[here][both].mean()
                best = max(best, float((without - with_move) / (without + 0.02)))
    return best
