"""Is one model better than another, or did the images (or the seeds) only happen to favour it?

Two questions, kept apart. *These two files*: images are resampled (`compare_files`). *These two
models*: images and training runs are resampled together (`compare_models`). Counts are pooled in
each replicate and IoU is taken of the pool, as a dataset's IoU is. Letters: S models, T runs in
all (m of one model), N images, U clusters, K classes, R replicates, P pairs of models, Q = 1 + K
quantities: mIoU, then each class's IoU.

An interval is the difference ± t * spread of its replicates. A replicate draws U - 1 of U
clusters, m - 1 of m runs: that makes its variance unbiased (McCarthy and Snowden, Vital and
Health Statistics 2(95), 1985). Student's t has as many degrees of freedom as the clusters and
runs leave (`_freedom`). The square of what a class that is in one cluster alone adds to a
difference of mIoU counts as variance (`_lone_variance`). A cluster is a block in time, twice as
long as each image's share in the difference stays correlated with the next ones; of that length
and twice that length the wider interval counts, as blocks that are too short show too little
spread and few long ones too much or too little. On fewer than MIN_CLUSTERS clusters nothing is
called better. Where several pairs or classes are compared, their intervals are widened so that
with 95 % none of the family is wrongly called better (Holm, Scandinavian Journal of Statistics
6(2), 1979). That is about 0 alone: where all differ, each interval holds its own value in 95 %,
all of them together in less.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass, field
from itertools import combinations

import numpy as np

from featherseg.core.errors import ConfigError, DataError
from featherseg.uncertainty.clusters import BLOCK, MIN_CLUSTERS, Clusters, Sequences

LEVEL = 0.95
REPLICATES = 2000
MOST_DRAWN = 2**24
"""Draws that are held at a time, of so many clusters by so many replicates: 128 MiB."""

WHOLE = 0
"""In place of a length: the clusters are whole sequences."""

MIN_RUNS = 3
"""Runs of each model from which the models can be compared."""


@dataclass(frozen=True)
class Interval:
    """A difference and its 95 % interval; low and high are NaN where there is none.

    clusters is the number of clusters of images that it rests on, None where it was not drawn
    from images.
    """

    value: float
    low: float
    high: float
    clusters: int | None = field(default=None, compare=False)

    def __neg__(self) -> "Interval":
        return Interval(-self.value, -self.high, -self.low, self.clusters)

    @property
    def few(self) -> bool:
        """Whether it rests on too few clusters for any claim."""
        return self.clusters is not None and self.clusters < MIN_CLUSTERS

    @property
    def sign(self) -> int:
        """1 where the interval lies above no difference, -1 below, 0 where it includes it or no claim can be made."""
        return 0 if self.few else int(self.low > 0) - int(self.high < 0)

    def points(self, unit: str = "") -> str:
        """`+3.12, +0.89 to +5.35`: in points, hundredths of a fraction; the unit follows the numbers."""
        value, low, high = (f"{100 * v:+.2f}" for v in (self.value, self.low, self.high))
        return f"{value}{unit}, no interval" if math.isnan(self.low) else f"{value}, {low} to {high}{unit}"


@dataclass(frozen=True)
class Difference:
    """mIoU and IoU of each class of model `first` less those of model `second`, as fractions -1..1.

    Whether the intervals of mIoU exclude 0 is corrected for the number of pairs, whether those of
    the classes do for all pairs and classes (Holm); a class that is in the ground truth of fewer
    than two clusters has none, nor has any where the images are too few.
    """

    first: int
    second: int
    miou: Interval
    classes: tuple[Interval, ...]

    @property
    def better(self) -> int | None:
        """The better model of the two, None where the interval of mIoU includes no difference."""
        return {1: self.first, -1: self.second, 0: None}[self.miou.sign]

    def message(self, names: Sequence[str]) -> str:
        """`a is better than b` where the interval says so, else `no difference between a and b is shown`.

        Says where the interval rests on too few clusters for a claim.
        """
        if self.better is None:
            few = f" on {self.miou.clusters} clusters of images, of which a claim needs {MIN_CLUSTERS}"
            none = f"no difference between {names[self.first]} and {names[self.second]} is shown"
            return none + few * self.miou.few
        return f"{names[self.better]} is better than {names[self.first + self.second - self.better]}"


def image_counts(confusion: np.ndarray, void: np.ndarray | None = None) -> np.ndarray:
    """(..., K, K) confusion as of `iou.Confusion`, (..., K) void -> (..., 3, K) pixels: labelled, hit, predicted.

    All that IoU needs, in a fraction of the room: for 2,000 images of 150 classes 7 MB instead of
    360.
    """
    label = confusion.sum(axis=-1) if void is None else confusion.sum(axis=-1) + void
    return np.stack([label, np.diagonal(confusion, axis1=-2, axis2=-1), confusion.sum(axis=-2)], axis=-2)


def compare_files(
    counts: Sequence[np.ndarray], clusters: Sequences, *, replicates: int = REPLICATES, seed: int = 0
) -> list[Difference]:
    """Every pair of S files, each by its `image_counts` (N, 3, K) on the same images.

    Says nothing about the models they are runs of. Raises ConfigError for fewer than two files,
    DataError where they were not scored on the same images.
    """
    return _compare([one[None] for one in counts], clusters, replicates, seed)


def score_interval(counts: np.ndarray, clusters: Sequences) -> Interval:
    """mIoU (0..1) of one file by its `image_counts` (N, 3, K), with its interval: NaN where the images are too few.

    It is that of the difference from a prediction without a fault, whose mIoU is 1.
    """
    found = compare_files([counts, np.repeat(counts[:, :1], 3, axis=1)], clusters)[0].miou
    low, high = np.clip([1 + found.low, 1 + found.high], 0, 1).tolist()
    return Interval(1 + found.value, low, high, found.clusters)


def compare_models(
    counts: Sequence[np.ndarray], clusters: Sequences, *, replicates: int = REPLICATES, seed: int = 0
) -> list[Difference]:
    """Every pair of S models, each by the `image_counts` (m, N, 3, K) of its runs with different seeds.

    A model's score is the mean over its runs. Raises ConfigError with the message of
    `too_few_runs`, and as `compare_files`.
    """
    if message := too_few_runs([len(runs) for runs in counts]):
        raise ConfigError(f"{message}. Train each with at least {MIN_RUNS} seeds.")
    return _compare(counts, clusters, replicates, seed)


def compare_variants(
    counts: Sequence[np.ndarray], clusters: Sequences, *, replicates: int = REPLICATES, seed: int = 0
) -> list[Difference]:
    """Each other variant less the first, by the `image_counts` (m, N, 3, K) of their runs, of
    which the i-th belong together (one seed): images and pairs of runs are resampled.

    Raises ConfigError for variants with other numbers of runs or fewer than three, and as
    `compare_files`.
    """
    runs = [len(one) for one in counts]
    if len(set(runs)) > 1 or too_few_runs(runs):
        raise ConfigError(f"variants of {runs} runs: expected each with the same {MIN_RUNS} seeds or more.")
    return _compare(counts, clusters, replicates, seed, paired=True)


def too_few_runs(runs: Sequence[int]) -> str:
    """`one run each: says nothing about the models` where a model has fewer than three runs, else nothing."""
    if min(runs) >= MIN_RUNS:
        return ""
    if len(set(runs)) == 1:
        return f"{'one run' if runs[0] == 1 else f'{runs[0]} runs'} each: says nothing about the models"
    return f"{', '.join(map(str, runs))} runs: says nothing about the models"


def best(differences: Sequence[Difference]) -> int | None:
    """The model that is better than every other one, None where no model is shown to be."""
    models = {model for d in differences for model in (d.first, d.second)}
    wins = [d.better for d in differences]
    return next((model for model in sorted(models) if wins.count(model) == len(models) - 1), None)


def student_quantile(p: float, freedom: np.ndarray) -> np.ndarray:
    """The p-quantile of Student's t for each number of degrees of freedom, fractions too; same shape.

    Degrees of freedom below 1 count as 1, above 1,000 as 1,000; NaN stays NaN.
    """
    from scipy.special import stdtrit  # not at the top: the processes that a benchmark times import this file

    return np.asarray(stdtrit(np.clip(freedom, 1.0, 1000.0), p))


def _compare(
    counts: Sequence[np.ndarray], sequences: Sequences, replicates: int, seed: int, paired: bool = False
) -> list[Difference]:
    """Every pair of models, where paired each other less the first; counts[s] is (m, N, 3, K)."""
    if len(counts) < 2:
        raise ConfigError(f"{len(counts)} to compare: expected two or more.")
    runs, every = [len(one) for one in counts], [run for one in counts for run in one]  # T of (N, 3, K), not copied
    if other := next((len(run) for run in every if len(run) != len(sequences.order)), None):
        raise DataError(f"counts of {other} images, but clusters of {len(sequences.order)}: expected the same images.")
    if any((run[:, 0] != every[0][:, 0]).any() for run in every):
        raise DataError("the labels of the images differ from file to file: score all on the same images and size.")
    every_pair = combinations(range(len(runs)), 2)
    pairs = np.array([(s, 0) for s in range(1, len(runs))] if paired else list(every_pair))  # (P, 2)
    rng = np.random.default_rng(seed)
    iou = _iou(np.stack([run.sum(axis=0) for run in every]), np.full(every[0].shape[-1], np.nan))  # (T, K)
    scores = _with_mean(iou)  # (T, Q)
    value = _pairwise(_over_runs(scores[None], runs), pairs)[0]  # (P, Q)
    spread, freedom, rests_on = np.full((3, *value.shape), np.nan)  # (P, Q) each
    if not sequences.enough:
        return _intervals(value, spread, freedom, rests_on, pairs)

    # Each difference has blocks of its own length, and is drawn from blocks of twice that length too.
    lengths = _block_lengths(every, iou, runs, pairs, sequences)  # (P, Q)
    doubled = np.where(lengths == WHOLE, WHOLE, 2 * lengths)
    for length in np.unique([lengths, doubled]):
        clusters = (sequences if length == WHOLE or not sequences.whole else sequences.in_one()).cut(length)
        pooled = _pool(every, clusters)  # (U, T, 3, K)
        resampled = _with_mean(_iou(_draw(pooled, replicates, rng), iou))  # (R, T, Q)
        by_images = _pairwise(_over_runs(resampled, runs), pairs)  # (R, P, Q)
        by_both = by_images if max(runs) == 1 else _pairwise(_over_runs(resampled, runs, rng, paired), pairs)
        run_terms = _run_terms(scores, runs, pairs, paired)
        left = _freedom(by_images, _class_freedom(pooled), run_terms)
        # Of few pairs the spread is seen too small now and then, and just then Satterthwaite's rule trusts it most.
        variance = by_both.var(axis=0)
        variance[:, 0] += _lone_variance(pooled, iou, runs, pairs)
        found = np.sqrt(variance), np.minimum(left, max(1, runs[0] - 1)) if paired else left
        rests_on[lengths == length] = clusters.count
        asked = (lengths == length) | (doubled == length)
        wider = asked & ~np.isnan(found[1]) & ~(_reach(*found) <= _reach(spread, freedom))
        spread, freedom = np.where(wider, found[0], spread), np.where(wider, found[1], freedom)
    return _intervals(value, spread, freedom, rests_on, pairs)


def _block_lengths(
    counts: Sequence[np.ndarray], iou: np.ndarray, runs: Sequence[int], pairs: np.ndarray, sequences: Sequences
) -> np.ndarray:
    """counts T of (N, 3, K), iou (T, K) -> images in a block for each difference, (P, Q): powers of two, or WHOLE."""
    if sequences.single:
        return np.full((len(pairs), 1 + iou.shape[1]), WHOLE)
    # What each image adds to the differences, to first order: (hits - IoU * union) / union of all images.
    of_models, first = [], 0
    for m in runs:
        shares = np.zeros((len(counts[0]), 1 + iou.shape[1]))
        for own, ious in zip(counts[first : first + m], iou[first : first + m], strict=True):
            union = own[:, 0] + own[:, 2] - own[:, 1]  # (N, K)
            share = (own[:, 1] - np.nan_to_num(ious) * union) / np.maximum(union.sum(axis=0), 1)
            shares += np.column_stack([share.sum(axis=1) / max(1, (~np.isnan(ious)).sum()), share])
        of_models.append(shares / m)
        first += m
    lengths = []
    for a, b in pairs:
        series = of_models[a] - of_models[b]
        apart = ~sequences.joined(series) if sequences.whole else np.zeros(series.shape[1], bool)
        reach = (sequences.in_one() if sequences.whole else sequences).correlated(series)
        lengths.append(np.where(apart, WHOLE, BLOCK * reach))
    return np.stack(lengths)


def _pool(counts: Sequence[np.ndarray], clusters: Clusters) -> np.ndarray:
    """T of (N, 3, K) -> the sums of each cluster, (U, T, 3, K); run by run, as those of all may be gigabytes."""
    order = np.argsort(clusters.index, kind="stable")
    starts = np.searchsorted(clusters.index[order], np.arange(clusters.count))
    pooled = np.empty((clusters.count, len(counts), *counts[0].shape[1:]))
    for number, run in enumerate(counts):
        pooled[:, number] = np.add.reduceat(run[order], starts, axis=0, dtype=float)
    return pooled


def _draw(pooled: np.ndarray, replicates: int, rng: np.random.Generator) -> np.ndarray:
    """(U, T, 3, K) -> the counts of U - 1 clusters drawn with replacement, (R, T, 3, K); the same for every run."""
    clusters, sums = len(pooled), pooled.reshape(len(pooled), -1)
    drawn, part = np.empty((replicates, sums.shape[1])), max(1, MOST_DRAWN // clusters)
    for first in range(0, replicates, part):
        size = min(part, replicates - first)
        draws = rng.multinomial(max(1, clusters - 1), np.full(clusters, 1 / clusters), size=size)  # (size, U)
        drawn[first : first + size] = draws.astype(float) @ sums
    return drawn.reshape(replicates, *pooled.shape[1:])


def _iou(counts: np.ndarray, absent: np.ndarray) -> np.ndarray:
    """(..., 3, K) -> (..., K), NaN for a class in neither ground truth nor prediction, as `iou.Confusion` has it.

    A class of which a replicate drew no pixel takes the value of all images, `absent`: that draw
    does not know it.
    """
    label, hits, predicted = (counts[..., i, :] for i in range(3))
    union = label + predicted - hits
    iou = np.where(union > 0, hits / np.maximum(union, 1), np.nan)
    return np.where((label > 0) | np.isnan(absent), iou, absent)


def _with_mean(iou: np.ndarray) -> np.ndarray:
    """(..., K) -> (..., 1 + K): the mean over the classes that are not NaN in front."""
    known = ~np.isnan(iou)
    mean = np.where(known, iou, 0).sum(axis=-1) / np.maximum(known.sum(axis=-1), 1)
    return np.concatenate([mean[..., None], iou], axis=-1)


def _over_runs(
    scores: np.ndarray, runs: Sequence[int], rng: np.random.Generator | None = None, paired: bool = False
) -> np.ndarray:
    """(R, T, Q) -> the mean over each model's runs, (R, S, Q); of m - 1 drawn with replacement where `rng` is given.

    Where paired, the same ones of each model.
    """
    parts = np.split(scores, np.cumsum(runs)[:-1], axis=1)  # S of (R, m, Q)
    if rng is None:
        return np.stack([part.mean(axis=1) for part in parts], axis=1)
    means: list[np.ndarray] = []
    for part, m in zip(parts, runs, strict=True):
        draws = max(1, m - 1)
        if not (paired and means):
            weights = rng.multinomial(draws, np.full(m, 1 / m), size=len(part)) / draws  # (R, m)
        means.append(np.einsum("rmq,rm->rq", part, weights))
    return np.stack(means, axis=1)


def _pairwise(scores: np.ndarray, pairs: np.ndarray) -> np.ndarray:
    """(R, S, Q) -> first less second of each pair, (R, P, Q)."""
    return scores[:, pairs[:, 0]] - scores[:, pairs[:, 1]]


def _class_freedom(pooled: np.ndarray) -> np.ndarray:
    """Degrees of freedom of each class's IoU, (K,): Kish's effective number of clusters that hold it, less one.

    A class in 3 of 100 images has 2 at most. NaN for one that is in fewer than two clusters, and
    for all where that is so of most classes: their spread cannot be seen.
    """
    label = pooled[:, 0, 0]  # (U, K)
    effective = label.sum(axis=0) ** 2 / np.maximum((label**2).sum(axis=0), 1)
    lone = (label > 0).sum(axis=0) == 1
    if 2 * lone.sum() > label.any(axis=0).sum():
        return np.full(len(lone), np.nan)
    return np.where(lone | ~label.any(axis=0), np.nan, np.maximum(effective - 1, 1))


def _run_terms(
    scores: np.ndarray, runs: Sequence[int], pairs: np.ndarray, paired: bool
) -> tuple[np.ndarray, np.ndarray]:
    """(T, Q) -> what the runs add to the variance of each pair, (P, Q), and to Satterthwaite's denominator, (P, Q)."""
    parts = np.split(scores, np.cumsum(runs)[:-1])  # S of (m, Q)
    if paired:
        own = np.stack([(parts[a] - parts[b]).var(axis=0) / max(1, runs[0] - 1) for a, b in pairs])  # (P, Q)
        return own, own**2 / max(1, runs[0] - 1)
    variance = np.stack([part.var(axis=0) / max(1, len(part) - 1) for part in parts])  # (S, Q), unbiased, of the mean
    squared = variance**2 / np.maximum(np.array(runs) - 1, 1)[:, None]
    return variance[pairs].sum(axis=1), squared[pairs].sum(axis=1)


def _lone_variance(pooled: np.ndarray, iou: np.ndarray, runs: Sequence[int], pairs: np.ndarray) -> np.ndarray:
    """What classes that are in one cluster alone add to the variance of each difference of mIoU, (P,).

    No replicate shows their spread. Between equal models what such a cluster's classes add to the
    difference is noise about 0, whose variance its square estimates: as it grows with the
    difference itself, equal models are then called better in at most 5 % whatever that variance
    is (simulated: test_bootstrap.py).
    """
    there = pooled[:, 0, 0] > 0  # (U, K)
    lone = there.sum(axis=0) == 1
    shares = np.nan_to_num(iou) / np.maximum((~np.isnan(iou)).sum(axis=1, keepdims=True), 1)  # (T, K), of mIoU
    added = _pairwise(_over_runs(shares[None], runs), pairs)[0][:, lone]  # (P, L)
    return np.square(added @ there[:, lone].T).sum(axis=1)


def _freedom(resampled: np.ndarray, classes: np.ndarray, run_terms: tuple[np.ndarray, np.ndarray]) -> np.ndarray:
    """Degrees of freedom of every difference, (P, Q); resampled (R, P, Q) resamples images alone, classes (K,).

    1 / freedom of mIoU is the mean over the classes (1 for a class without any), weighted by each
    one's share in the variance of mIoU; NaN where no class has any. Runs join by Satterthwaite's
    rule (Biometrics Bulletin 2(6), 1946).
    """
    deviation = np.nan_to_num(resampled - resampled.mean(axis=0))
    covariance = np.einsum("rpk,rp->pk", deviation[..., 1:], deviation[..., 0]).clip(0)  # (P, K)
    inverse = covariance @ (1 / np.nan_to_num(classes, nan=1)) / np.maximum(covariance.sum(axis=1), 1e-300)  # (P,)
    miou = np.full_like(inverse, np.nan) if np.isnan(classes).all() else 1 / np.maximum(inverse, 1e-3)
    images = np.column_stack([miou, np.broadcast_to(classes, covariance.shape)])  # (P, Q)
    variance = deviation.var(axis=0)
    run_variance, run_squared = run_terms
    denominator = variance**2 / images + run_squared
    return np.where(denominator > 0, (variance + run_variance) ** 2 / np.maximum(denominator, 1e-300), images)


def _reach(spread: np.ndarray, freedom: np.ndarray, share: float = 1.0) -> np.ndarray:
    """Half the width of intervals that have this share of the 5 % each."""
    return student_quantile(1 - (1 - LEVEL) / 2 * share, freedom) * spread


def _intervals(
    value: np.ndarray, spread: np.ndarray, freedom: np.ndarray, clusters: np.ndarray, pairs: np.ndarray
) -> list[Difference]:
    """value, spread, freedom, clusters (P, Q) -> the differences with their intervals."""
    families = (slice(0, 1), slice(1, None))  # mIoU of all pairs; IoU of all pairs and classes
    reach = np.concatenate(
        [_holm_reach(value[:, f], spread[:, f], freedom[:, f], clusters[:, f]) for f in families], axis=1
    )
    rows = [
        [
            Interval(v, v - r, v + r, None if math.isnan(n) else int(n))
            for v, r, n in zip(*(one.tolist() for one in row), strict=True)
        ]
        for row in zip(value, reach, clusters, strict=True)
    ]
    return [Difference(int(a), int(b), row[0], tuple(row[1:])) for (a, b), row in zip(pairs, rows, strict=True)]


def _holm_reach(value: np.ndarray, spread: np.ndarray, freedom: np.ndarray, clusters: np.ndarray) -> np.ndarray:
    """Half the width of every interval of a family, (P, F); they exclude 0 where Holm's procedure sees a difference.

    5 % are shared among the differences that are not shown yet, again and again until no more
    are; one difference alone keeps all of it. NaN where freedom is. One on too few clusters is
    never shown.
    """
    members = max(1, int((~np.isnan(freedom)).sum()))
    left = members
    while True:
        reach = np.where(np.isnan(freedom), np.nan, _reach(spread, freedom, 1 / left))
        remaining = max(1, members - int(((np.abs(value) > reach) & (clusters >= MIN_CLUSTERS)).sum()))
        if remaining == left:
            return reach
        left = remaining
