"""How many times as fast one variant is as another, with a 95 % interval.

Letters: S starts (all processes are started together, one per variant), R rounds of each start. A
round runs every variant once, so a ratio compares passes that are seconds apart. All rounds of a
start share its processes and thus their memory addresses, pages and thread placement. That is why
there are several starts, and why the interval is over starts.
"""

import math
from dataclasses import dataclass

import numpy as np

from featherseg.core.errors import ConfigError
from featherseg.evaluation.bootstrap import LEVEL

REPLICATES = 2000
"""Bootstrap replicates of an interval."""

MIN_STARTS = 2
"""The spread between starts is part of every interval, so one start has none."""

NO_DIFFERENCE = "no difference shown"


@dataclass(frozen=True)
class Speedup:
    """How many times as fast as a baseline, with a 95 % interval."""

    value: float
    low: float
    high: float

    @property
    def verdict(self) -> str:
        """`faster` or `slower`; NO_DIFFERENCE if the interval includes 1."""
        return "faster" if self.low > 1 else "slower" if self.high < 1 else NO_DIFFERENCE

    @property
    def itself(self) -> bool:
        """Whether the baseline is compared with itself."""
        return self.low == self.value == self.high == 1

    def __str__(self) -> str:
        """`2.24x (2.10-2.37)`; the text NO_DIFFERENCE replaces an undecided ratio."""
        if self.itself:
            return "1"
        value = NO_DIFFERENCE if self.verdict == NO_DIFFERENCE else f"{self.value:.2f}x"
        return f"{value} ({self.low:.2f}\N{EN DASH}{self.high:.2f})"


def speedup(
    baseline_ms: np.ndarray, variant_ms: np.ndarray, *, pairs: int = 1, seed: int = 0
) -> Speedup:
    """Return the median over rounds of baseline / variant, with an interval.

    The interval is the median times and divided by exp(t * spread). The spread is the standard
    deviation of the logarithm over bootstrap replicates; each draws S - 1 of the S starts with
    replacement, which makes its variance unbiased (as in evaluation/bootstrap.py). t is Student's
    quantile with S - 1 degrees of freedom.

    Args:
        baseline_ms, variant_ms: (S, R); values at the same place are of the same round.
        pairs: number of pairs that are compared together; they share the 5 % (Bonferroni).

    Raises:
        ConfigError: fewer than two starts, or the shapes differ.
    """
    if baseline_ms.shape != variant_ms.shape or len(variant_ms) < MIN_STARTS:
        raise ConfigError(
            f"times of {baseline_ms.shape} and {variant_ms.shape} (starts, rounds): expected pairs "
            f"of at least {MIN_STARTS} starts, because the interval is over starts."
        )
    logs, starts = np.log(baseline_ms / variant_ms), len(variant_ms)
    chosen = np.random.default_rng(seed).integers(starts, size=(REPLICATES, starts - 1))
    medians = np.median(logs[chosen].reshape(REPLICATES, -1), axis=1)
    t = student_factor(1 - (1 - LEVEL) / pairs, starts - 1)
    middle, reach = np.median(logs), t * medians.std()
    return Speedup(*np.exp([middle, middle - reach, middle + reach]).tolist())


def student_factor(share: float, freedom: int) -> float:
    """Return t for which `share` of Student's distribution lies within -t..t; without scipy.

    The share is a finite sum over the angle atan(t / sqrt(freedom)) for whole degrees of freedom
    (Abramowitz and Stegun, 26.7.3 and 26.7.4); the angle is bisected.
    """
    low, high = 0.0, math.pi / 2
    for _ in range(60):
        angle = (low + high) / 2
        odd, term, total = freedom % 2, 1.0, 0.0
        if odd:
            term = math.cos(angle)
        for k in range(odd, freedom - 1, 2):
            total += term
            term *= (k + 1) / (k + 2) * math.cos(angle) ** 2
        within = total * math.sin(angle)
        if odd:
            within = (within + angle) * 2 / math.pi
        low, high = (angle, high) if within < share else (low, angle)
    return math.sqrt(freedom) * math.tan(low)
