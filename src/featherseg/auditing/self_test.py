"""The self test: how many planted faults the list finds, against a random order, with intervals over sequences.

An interval is value ± t * spread over replicates, each of U - 1 of U clusters of images (`evaluation.bootstrap`).
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
"""How often faults are planted into a share of the images; the figures are means over the draws."""

PLANTED = 0.2
"""The share of the images that get a fault in a draw."""

FIRST = 50
"""The images at the head of the list whose precision is measured."""

LEAST_CLUSTERS = 2 * MIN_CLUSTERS
"""Blocks that images in time are cut into, at least."""

REPLICATES = 1000
AT_ONCE = 100
"""Replicates that are in memory at a time."""


@dataclass(frozen=True)
class Measured:
    """A mean over the draws, 0..1, and its 95 % interval: low and high are None if the clusters are too few for one."""

    value: float
    low: float | None
    high: float | None

    @property
    def interval(self) -> str:
        """`95 % interval 0.44 to 0.59`, or that there is none."""
        return (
            "no interval"
            if self.low is None
            else f"95 % interval {self.low:.2f} to {self.high:.2f}"
        )


@dataclass(frozen=True)
class SelfTest:
    """How well the list finds faults that were planted into copies of masks; the scorer saw none of their sequences.

    A draw plants a fault into `planted` of `images` masks. average_precision is by image; chance is that of an order
    which sees no image: a random one, or masks of several classes first if that is higher. precision_at_50 is the share
    of planted faults among the first FIRST; soft_minimum is the average precision of that baseline;
    region_average_precision is by region. Real faults count as found wrongly. All figures are None, and images is 0, if
    no mask can have a fault because each shows one class alone.
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
        found = self.average_precision
        return (
            found is not None
            and found.low is not None
            and self.chance is not None
            and found.low > self.chance
        )

    @property
    def message(self) -> str:
        """What it found, in words; "" of no images."""
        found, first = self.average_precision, self.precision_at_50
        if found is None or first is None:
            return ""
        return (
            f"faults were planted into {self.planted} of {counted(self.images, 'mask')}, and {first.value:.2f} of the "
            f"first {min(FIRST, self.images)} in its list had one ({first.interval}). Average precision "
            f"{found.value:.2f} ({found.interval}), chance {self.chance:.2f}, soft-minimum {self.soft_minimum:.2f}"
        )


NOTHING_PLANTED = SelfTest(0, 0, None, None, None, None, None, {})


@dataclass(frozen=True)
class Copies:
    """Copies of masks with a planted fault, each (M,); plain: whether a copy shows one class alone."""

    image: np.ndarray
    fault: np.ndarray
    score: np.ndarray
    soft: np.ndarray
    plain: np.ndarray

    def drawn(self, count: int, rng: np.random.Generator) -> np.ndarray:
        """Rows of at most `count` copies, each of another image, of every fault as many as there are."""
        rows = rng.permutation(len(self.image))
        left = {
            fault: rows[self.fault[rows] == fault].tolist()
            for fault in rng.permutation(np.unique(self.fault))
        }
        chosen: list[int] = []
        used: set[int] = set()
        while left and len(chosen) < count:
            for fault in list(left):
                while left[fault] and self.image[left[fault][-1]] in used:
                    left[fault].pop()
                if not left[fault]:
                    del left[fault]
                elif len(chosen) < count:
                    chosen.append(left[fault].pop())
                    used.add(int(self.image[chosen[-1]]))
        return np.array(chosen)


@dataclass(frozen=True)
class Calibration:
    """Turns a score 0..1 into the share of planted faults among what scores alike, in a draw of the self test.

    A logistic regression on the score's logit (Platt, 1999, with his targets): a score that tells nothing apart becomes
    the share of all, and few faults never become 1.
    """

    offset: float
    slope: float

    def __call__(self, scores: np.ndarray) -> np.ndarray:
        """(N,) 0..1 -> (N,) 0..1, in the same order."""
        return 1 / (1 + np.exp(-np.clip(self.offset + self.slope * _logit(scores), -30, 30)))


NO_CALIBRATION = Calibration(0.0, 1.0)


def _logit(scores: np.ndarray) -> np.ndarray:
    clipped = np.clip(scores, 1e-6, 1 - 1e-6)
    return np.log(clipped / (1 - clipped))


def fit_calibration(scores: np.ndarray, wrong: np.ndarray, weights: np.ndarray) -> Calibration:
    """Learn from scores (N,) which are `wrong` (N,) bool; weights (N,) say how often each occurs in a draw."""
    right_count, wrong_count = float(weights[~wrong].sum()), float(weights[wrong].sum())
    target = np.where(wrong, (wrong_count + 1) / (wrong_count + 2), 1 / (right_count + 2))
    x, parameters = np.column_stack([np.ones(len(scores)), _logit(scores)]), np.zeros(2)
    for _ in range(25):
        chance = 1 / (1 + np.exp(-np.clip(x @ parameters, -30, 30)))
        curve = (x * (weights * chance * (1 - chance))[:, None]).T @ x + 1e-6 * np.eye(2)
        parameters = parameters + np.linalg.solve(curve, x.T @ (weights * (target - chance)))
    if parameters[1] < 0:  # what ranks worse than chance tells nothing apart either
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
    """Replace PLANTED of the images by one of their faulty copies, draw after draw, and rank them with the others.

    If faults were planted into fewer images, only those take part. scores, soft, plain: score and soft-minimum of the
    masks as they are, and whether each shows one class alone, (N,); names: of the faults; keys (N,) and groups tell the
    sequences.
    """
    images = np.unique(copies.image)
    enough = len(images) >= round(PLANTED * len(scores))
    used = np.arange(len(scores)) if enough else images
    planted = max(1, round(PLANTED * len(used)))
    weights, clusters = _replicates(
        [keys[number] for number in used.tolist()], groups, scores[used]
    )

    rng = np.random.default_rng(0)
    found: list[
        np.ndarray
    ] = []  # of every draw (1 + R, 2): average precision and precision of the first
    shown: list[
        tuple[np.ndarray, np.ndarray]
    ] = []  # of every draw the scores, and which masks have a fault
    baseline, unseeing = list[float](), list[float]()
    by_fault: dict[str, list[float]] = {name: [] for name in names}
    for _ in range(DRAWS):
        rows = copies.drawn(planted, rng)
        chosen = copies.image[rows]
        ranked, ranked_soft, several, kind = (
            scores.copy(),
            soft.copy(),
            ~plain,
            np.full(len(scores), -1),
        )
        ranked[chosen], ranked_soft[chosen] = copies.score[rows], copies.soft[rows]
        several[chosen], kind[chosen] = ~copies.plain[rows], copies.fault[rows]
        ranked, kind = ranked[used], kind[used]
        shown.append((ranked, kind >= 0))
        parts = [weights[start : start + AT_ONCE] for start in range(0, len(weights), AT_ONCE)]
        found.append(np.concatenate([_precisions(ranked, kind >= 0, part) for part in parts]))
        baseline.append(average_precision(ranked_soft[used], kind >= 0))
        unseeing.append(average_precision(several[used].astype(float), kind >= 0))
        for number, name in enumerate(names):
            one = (kind < 0) | (kind == number)
            if (kind == number).any():
                by_fault[name].append(average_precision(ranked[one], kind[one] >= 0))
    with warnings.catch_warnings():
        warnings.simplefilter(
            "ignore", RuntimeWarning
        )  # a replicate may have no planted fault in any draw
        means = np.nanmean(found, axis=0)  # (1 + R, 2)
    precision, first = (_measured(column, clusters) for column in means.T)
    pooled, wrong = (np.concatenate(parts) for parts in zip(*shown, strict=True))
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
    return test, fit_calibration(pooled, wrong, np.full(len(pooled), 1 / DRAWS))


def average_precision(scores: np.ndarray, wrong: np.ndarray) -> float:
    """The mean over the wrong ones of the precision down to each, the highest score first; 0 if none is wrong.

    Equal scores count all at once, so that their order says nothing.
    """
    return (
        float(_precisions(scores, wrong, np.ones((1, len(scores))))[0, 0]) if wrong.any() else 0.0
    )


def random_order(count: int, wrong: int) -> float:
    """The mean average precision of all orders of `count` images of which so many are wrong."""
    if count < 2:
        return float(wrong > 0)
    harmonic = float((1 / np.arange(1, count + 1)).sum())
    return ((wrong - 1) / (count - 1) * (count - harmonic) + harmonic) / count


def _precisions(scores: np.ndarray, wrong: np.ndarray, weights: np.ndarray) -> np.ndarray:
    """(average precision, precision of the first FIRST) with each row of weights (R, N), how often each image counts.

    (R, 2); NaN in a row in which no wrong image counts.
    """
    order = np.argsort(-scores, kind="stable")
    ends = np.append(
        np.flatnonzero(np.diff(scores[order])), len(order) - 1
    )  # the last one of equal scores
    weights = weights[:, order]
    count, hits = weights.cumsum(axis=1), (weights * wrong[order]).cumsum(axis=1)  # (R, N)
    total = hits[:, -1:]
    steps = np.diff(hits[:, ends], axis=1, prepend=0) / np.where(total > 0, total, np.nan)
    average = (steps * hits[:, ends] / np.maximum(count[:, ends], 1e-9)).sum(axis=1)
    first = np.minimum(FIRST, count[:, -1:])
    taken = np.clip(first - (count - weights), 0, weights)
    return np.column_stack(
        [average, (taken * wrong[order]).sum(axis=1) / first[:, 0] + 0 * average]
    )


def _replicates(
    keys: Sequence[str], groups: str | None, scores: np.ndarray
) -> tuple[np.ndarray, int]:
    """-> (how often each image counts: all once, then in REPLICATES replicates, (1 + R, N); the number of clusters).

    Clusters are whole sequences, or blocks twice as long as the scores of neighbours stay alike, but LEAST_CLUSTERS of
    them: where images are sorted by class, scores stay alike over all of a class. Images too few to show how alike they
    are count each for itself; for fewer than MIN_CLUSTERS clusters there are no replicates.
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
    times = np.random.default_rng(1).multinomial(
        clusters.count - 1, share, size=REPLICATES
    )  # (R, U)
    return np.concatenate([once, times[:, clusters.index]]), clusters.count


def _measured(values: np.ndarray, clusters: int) -> Measured:
    """values: of all images, then of the replicates, (1 + R,)."""
    value = float(values[0])
    if len(values) == 1:
        return Measured(value, None, None)
    quantile = float(student_quantile((1 + LEVEL) / 2, np.array(clusters - 1.0)))
    reach = quantile * float(np.nanstd(values[1:]))
    return Measured(value, max(0.0, value - reach), min(1.0, value + reach))
