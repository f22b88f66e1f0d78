"""Ratios of neighbours in time, with an interval.

Letters: S starts (a set of processes, one per variant, started together), R rounds in each. A round runs every variant
once, so that a ratio is taken between times that lie next to each other on the same machine in the same mood. Rounds of
one start share its processes, with their addresses, pages and thread placement; that is why several are started, and
why the interval is taken over the starts.
"""

from dataclasses import dataclass

import numpy as np

from featherseg.core.errors import ConfigError
from featherseg.evaluation.bootstrap import LEVEL, student_quantile

REPLICATES = 2000
MIN_STARTS = 2
NO_DIFFERENCE = "no difference shown"


@dataclass(frozen=True)
class Speedup:
    """How many times as fast as a baseline, with its 95 % interval."""

    value: float
    low: float
    high: float

    @property
    def verdict(self) -> str:
        """`faster` or `slower` where the interval says so; NO_DIFFERENCE where it includes 1."""
        return "faster" if self.low > 1 else "slower" if self.high < 1 else NO_DIFFERENCE

    @property
    def itself(self) -> bool:
        """Whether this is the baseline compared with itself."""
        return self.low == self.value == self.high == 1

    def __str__(self) -> str:
        """`2.24x (2.10-2.37)`; no ratio where no difference is shown."""
        if self.itself:
            return "1"
        value = NO_DIFFERENCE if self.verdict == NO_DIFFERENCE else f"{self.value:.2f}x"
        return f"{value} ({self.low:.2f}\N{EN DASH}{self.high:.2f})"


def speedup(
    baseline_ms: np.ndarray, own_ms: np.ndarray, *, pairs: int = 1, seed: int = 0
) -> Speedup:
    """The median of the rounds' ratios baseline / own, both (S, R), of which each pair was taken in one round.

    The interval is that value, times and divided by exp(t * spread): spread is that of the logarithm over bootstrap
    replicates, each of S - 1 of the S starts drawn with replacement (which makes its variance unbiased, as in
    bootstrap.py), t Student's with S - 1 degrees of freedom. Of several pairs that are compared together, `pairs`,
    each has its share of the 5 % (Bonferroni). Raises ConfigError for fewer than two starts, or where rounds do not
    pair up.
    """
    if baseline_ms.shape != own_ms.shape or len(own_ms) < MIN_STARTS:
        raise ConfigError(
            f"times of {baseline_ms.shape} and {own_ms.shape} (starts, rounds): expected pairs of at least "
            f"{MIN_STARTS} starts, as the spread between starts is part of the interval."
        )
    logs, starts = np.log(baseline_ms / own_ms), len(own_ms)
    chosen = np.random.default_rng(seed).integers(starts, size=(REPLICATES, starts - 1))
    medians = np.median(logs[chosen].reshape(REPLICATES, -1), axis=1)
    t = float(student_quantile(1 - (1 - LEVEL) / 2 / pairs, np.array([starts - 1.0]))[0])
    middle, reach = np.median(logs), t * medians.std()
    return Speedup(*np.exp([middle, middle - reach, middle + reach]).tolist())
