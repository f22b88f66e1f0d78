"""The self test: how many planted faults the list finds, compared with a random order.

An interval is value ± t * spread over replicates, each of U - 1 of U clusters of images
(`evaluation.bootstrap`).
Letters: N images, M faulty copies of their masks, U clusters, R replicates.
"""

import warnings
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from featherseg.core.wording import counted
from featherseg.evaluation.bootstrap import LEVEL, WHOLE, student_quantile
from featherseg.evaluation.clusters import BLOCK, MIN_CLUSTERS, clusters_of, single_images

DRAWS = 20
"""Number of draws of images that get a fault; figures are means over the draws."""

PLANTED = 0.2
"""Share of the images that get a fault in a draw."""

FIRST = 50
"""Number of images at the head of the list whose precision is measured."""

LEAST_CLUSTERS = 2 * MIN_CLUSTERS
"""Least number of blocks that images in time are cut into."""

REPLICATES = 1000
AT_ONCE = 100
"""Number of replicates, and of those that are in memory at a time."""


@dataclass(frozen=True)
class Measured:
    """A mean over the draws, 0..1, and its 95 % interval; None if there are too few clusters."""

    value: float
    low: float | None
    high: float | None

    @property
    def interval(self) -> str:
        """`95 % interval 0.44 to 0.59`, or `no interval`."""
        if self.low is None:
            return "no interval"
        return f"95 % interval {self.low:.2f} to {self.high:.2f}"


@dataclass(frozen=True)
class SelfTest:
    """How well the list finds planted faults in sequences that the scorer did not see.

    Real faults count as errors of the list. Figures are None and `images` is 0 if no mask can have
    a fault, because each shows one class alone.

    Attributes:
        planted: Number of the `images` masks that have a fault in a draw.
        average_precision: By image.
        chance: That of an order which sees no image: a random one, or masks of several classes
            first if that is higher.
        precision_at_50: Share of planted faults among the first FIRST.
        soft_minimum: Average precision of the soft-minimum.
        region_average_precision: By region.
        by_fault: {fault: average precision}.
    """

    images: int
    planted: int
    average_precision: Measured | None
    chance: float | None
    precision_at_50: Measured | None
    soft_minimum: float | None
    region_average_precision: float | None
    by_fault: dict[str, float]

    @property
    def better_than_chance(self) -> bool:
        """Whether the interval of the average precision lies above chance."""
        precision, chance = self.average_precision, self.chance
        if precision is None or precision.low is None or chance is None:
            return False
        return precision.low > chance

    @property
    def message(self) -> str:
        """The figures in a sentence; "" without images."""
        precision, first = self.average_precision, self.precision_at_50
        if precision is None or first is None:
            return ""
        return (
            f"faults were planted into {self.planted} of {counted(self.images, 'mask')}, and "
            f"{first.value:.2f} of the first {min(FIRST, self.images)} in its list had one "
            f"({first.interval}). Average precision {precision.value:.2f} ({precision.interval}), "
            f"chance {self.chance:.2f}, soft-minimum {self.soft_minimum:.2f}"
        )


NOTHING_PLANTED = SelfTest(0, 0, None, None, None, None, None, {})


@dataclass(frozen=True)
class Copies:
    """Copies of masks with a planted fault, each (M,); plain: a copy shows one class alone."""

    image: np.ndarray
    fault: np.ndarray
    score: np.ndarray
    soft: np.ndarray
    plain: np.ndarray

    def drawn(self, count: int, rng: np.random.Generator) -> np.ndarray:
        """Draw at most `count` copies of different images, with the same number of each fault."""
        rows = rng.permutation(len(self.image))
        rows_of = {
            fault: rows[self.fault[rows] == fault].tolist()
            for fault in rng.permutation(np.unique(self.fault))
        }
        drawn: list[int] = []
        used_images: set[int] = set()
        while rows_of and len(drawn) < count:
            for fault in list(rows_of):
                while rows_of[fault] and self.image[rows_of[fault][-1]] in used_images:
                    rows_of[fault].pop()
                if not rows_of[fault]:
                    del rows_of[fault]
                elif len(drawn) < count:
                    drawn.append(rows_of[fault].pop())
                    used_images.add(int(self.image[drawn[-1]]))
        return np.array(drawn)


@dataclass(frozen=True)
class Calibration:
    """Turns a score 0..1 into the share of planted faults among similar scores in the self test.

    A logistic regression on the score's logit (Platt, 1999, with his targets): a useless score
    becomes the share of all, and few faults never become 1.
    """

    offset: float
    slope: float

    def __call__(self, scores: np.ndarray) -> np.ndarray:
        """Return shares (N,) 0..1 for scores (N,) 0..1, in the same order."""
        return 1 / (1 + np.exp(-np.clip(self.offset + self.slope * _logit(scores), -30, 30)))


NO_CALIBRATION = Calibration(0.0, 1.0)


def _logit(scores: np.ndarray) -> np.ndarray:
    clipped = np.clip(scores, 1e-6, 1 - 1e-6)
    return np.log(clipped / (1 - clipped))


def fit_calibration(scores: np.ndarray, wrong: np.ndarray, weights: np.ndarray) -> Calibration:
    """Fit to scores (N,) which are `wrong` (N,) bool; weights (N,): how often a draw has each."""
    right_count, wrong_count = float(weights[~wrong].sum()), float(weights[wrong].sum())
    target = np.where(wrong, (wrong_count + 1) / (wrong_count + 2), 1 / (right_count + 2))
    x, parameters = np.column_stack([np.ones(len(scores)), _logit(scores)]), np.zeros(2)
    for _ in range(25):
        chance = 1 / (1 + np.exp(-np.clip(x @ parameters, -30, 30)))
        curve = (x * (weights * chance * (1 - chance))[:, None]).T @ x + 1e-6 * np.eye(2)
        parameters = parameters + np.linalg.solve(curve, x.T @ (weights * (target - chance)))
    if parameters[1] < 0:  # a rank worse than chance is useless, too
        share = float((weights * target).sum() / max(weights.sum(), 1e-9))
        return Calibration(float(_logit(np.array(share))), 0.0)
    return Calibration(*parameters.tolist())


def run_self_test(
    scores: np.ndarray,
    soft: np.ndarray,
    plain: np.ndarray,
    copies: Copies,
    by_region: float,
    names: Sequence[str],
    keys: Sequence[str],
    groups: str | None,
) -> tuple[SelfTest, Calibration]:
    """Replace PLANTED of the images by a faulty copy, draw after draw, and rank all of them.

    If fewer images have faulty copies, only those take part.

    Args:
        scores, soft, plain: Score and soft-minimum of each mask as it is, and whether it shows one
            class alone, (N,).
        by_region: Average precision by region.
        names: Of the faults.
        keys, groups: What sequences are found by.
    """
    images = np.unique(copies.image)
    enough = len(images) >= round(PLANTED * len(scores))
    used = np.arange(len(scores)) if enough else images
    planted = max(1, round(PLANTED * len(used)))
    used_keys = [keys[number] for number in used.tolist()]
    weights, clusters = _replicates(used_keys, groups, scores[used])

    rng = np.random.default_rng(0)
    figures: list[np.ndarray] = []  # of each draw (1 + R, 2): average precision, that of the first
    shown: list[tuple[np.ndarray, np.ndarray]] = []  # of each draw: scores, masks with a fault
    baseline, unseeing = list[float](), list[float]()
    by_fault: dict[str, list[float]] = {name: [] for name in names}
    for _ in range(DRAWS):
        rows = copies.drawn(planted, rng)
        chosen = copies.image[rows]
        ranks, soft_ranks, several = scores.copy(), soft.copy(), ~plain
        fault = np.full(len(scores), -1)
        ranks[chosen], soft_ranks[chosen] = copies.score[rows], copies.soft[rows]
        several[chosen], fault[chosen] = ~copies.plain[rows], copies.fault[rows]
        ranks, fault = ranks[used], fault[used]
        wrong = fault >= 0
        shown.append((ranks, wrong))
        parts = [weights[start : start + AT_ONCE] for start in range(0, len(weights), AT_ONCE)]
        figures.append(np.concatenate([_precisions(ranks, wrong, part) for part in parts]))
        baseline.append(average_precision(soft_ranks[used], wrong))
        unseeing.append(average_precision(several[used].astype(float), wrong))
        for number, name in enumerate(names):
            if (fault == number).any():
                kept = ~wrong | (fault == number)
                by_fault[name].append(average_precision(ranks[kept], wrong[kept]))
    with warnings.catch_warnings():
        # A replicate may have no planted fault in any draw
        warnings.simplefilter("ignore", RuntimeWarning)
        means = np.nanmean(figures, axis=0)  # (1 + R, 2)
    precision, first = (_measured(column, clusters) for column in means.T)
    all_ranks, all_wrong = map(np.concatenate, zip(*shown, strict=True))
    test = SelfTest(
        len(used),
        planted,
        precision,
        max(random_order(len(used), planted), float(np.mean(unseeing))),
        first,
        float(np.mean(baseline)),
        by_region,
        {name: float(np.mean(values)) for name, values in by_fault.items() if values},
    )
    return test, fit_calibration(all_ranks, all_wrong, np.full(len(all_ranks), 1 / DRAWS))


def average_precision(scores: np.ndarray, wrong: np.ndarray) -> float:
    """Return the mean, over the wrong ones, of the precision down to each; 0 if none is wrong.

    The highest score comes first. Equal scores count at once, so that their order means nothing.
    """
    if not wrong.any():
        return 0.0
    return float(_precisions(scores, wrong, np.ones((1, len(scores))))[0, 0])


def random_order(count: int, wrong: int) -> float:
    """Return the mean average precision of all orders of `count` images with `wrong` wrong ones."""
    if count < 2:
        return float(wrong > 0)
    harmonic = float((1 / np.arange(1, count + 1)).sum())
    return ((wrong - 1) / (count - 1) * (count - harmonic) + harmonic) / count


def _precisions(scores: np.ndarray, wrong: np.ndarray, weights: np.ndarray) -> np.ndarray:
    """Return average precision and precision of the first FIRST for each row of weights, (R, 2).

    weights (R, N): how often each image counts. NaN if no wrong image counts.
    """
    order = np.argsort(-scores, kind="stable")
    last = len(order) - 1
    ends = np.append(np.flatnonzero(np.diff(scores[order])), last)  # the last of equal scores
    weights = weights[:, order]
    count, hits = weights.cumsum(axis=1), (weights * wrong[order]).cumsum(axis=1)  # (R, N)
    total = hits[:, -1:]
    steps = np.diff(hits[:, ends], axis=1, prepend=0) / np.where(total > 0, total, np.nan)
    average = (steps * hits[:, ends] / np.maximum(count[:, ends], 1e-9)).sum(axis=1)
    first = np.minimum(FIRST, count[:, -1:])
    in_first = np.clip(first - (count - weights), 0, weights)  # how often each is among the first
    precision = (in_first * wrong[order]).sum(axis=1) / first[:, 0]
    return np.column_stack([average, precision + 0 * average])  # NaN where the average is NaN


def _replicates(
    keys: Sequence[str], groups: str | None, scores: np.ndarray
) -> tuple[np.ndarray, int]:
    """Return (how often each image counts, (1 + R, N); the number of clusters).

    In the first row all count once. Clusters are whole sequences, or blocks twice as long as the
    scores of neighbours stay alike, but LEAST_CLUSTERS of them: if images are sorted by class,
    scores stay alike over a whole class. Images too few to show how alike they are count each for
    itself; with fewer than MIN_CLUSTERS clusters there are no replicates.
    """
    sequences = clusters_of(keys, groups)
    if not sequences.enough:
        sequences = single_images(len(keys))
    series, length = (scores - scores.mean())[:, None], WHOLE
    if not sequences.whole or (not sequences.single and sequences.joined(series)[0]):
        sequences = sequences.in_one() if sequences.whole else sequences
        reach = int(sequences.correlated(series)[0])
        length = max(1, min(BLOCK * reach, len(keys) // LEAST_CLUSTERS))
    clusters = sequences.cut(length)
    once = np.ones((1, len(keys)))
    if clusters.count < MIN_CLUSTERS:
        return once, clusters.count
    share = np.full(clusters.count, 1 / clusters.count)
    draws = np.random.default_rng(1).multinomial(clusters.count - 1, share, size=REPLICATES)
    return np.concatenate([once, draws[:, clusters.index]]), clusters.count


def _measured(values: np.ndarray, clusters: int) -> Measured:
    """Return value and interval; values (1 + R,) are of all images, then of the replicates."""
    value = float(values[0])
    if len(values) == 1:
        return Measured(value, None, None)
    quantile = float(student_quantile((1 + LEVEL) / 2, np.array(clusters - 1.0)))
    reach = quantile * float(np.nanstd(values[1:]))
    return Measured(value, max(0.0, value - reach), min(1.0, value + reach))
