"""The soft-minimum score of a mask, as cleanlab computes it: the baseline of the learned scorer.

Lad and Mueller, "Estimating label quality and errors in semantic segmentation data via any model"
(2023).
"""

import numpy as np

TEMPERATURE = 0.1
"""tau of the paper, cleanlab's default."""


def soft_minimum(given: np.ndarray) -> float:
    """Return the mean of `given`, weighted by softmax((1 - given) / tau): low if some are low.

    given (N,): the predicted probability of the given label of each pixel. 1 without any pixel.
    """
    if not given.size:
        return 1.0
    given = given.astype(np.float64)
    weights = np.exp((given.min() - given) / TEMPERATURE)
    return float((given * weights).sum() / weights.sum())
