"""The soft-minimum score of a mask: Lad and Mueller, "Estimating label quality and errors in semantic segmentation data
via any model" (2023), as cleanlab computes it; the baseline that the learned scorer is held against.
"""

import numpy as np

TEMPERATURE = 0.1
"""tau of the paper, cleanlab's default."""


def soft_minimum(given: np.ndarray) -> float:
    """Low where some pixels are improbable: the mean of `given`, weighted by softmax((1 - given) / tau).

    given (N,): the predicted probability of the given label, by pixel. 1 where there is no pixel.
    """
    if not given.size:
        return 1.0
    given = given.astype(np.float64)
    weights = np.exp((given.min() - given) / TEMPERATURE)
    return float((given * weights).sum() / weights.sum())
