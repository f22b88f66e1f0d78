"""Is one model better than another, or did the images (or the seeds) only happen to favour it?

There are two questions. *These two files*: images are resampled (`compare_files`). *These two
models*: images and training runs are resampled together (`compare_models`). In each replicate the
pixel counts are pooled and IoU is computed from the pool, as for a dataset. Letters: S models, T
runs in all (m of one model), N images, U clusters, K classes, R replicates, P pairs of models,
Q = 1 + K quantities: mIoU, then the IoU of each class.

An interval is the difference ± t * spread of its replicates.

- A replicate draws U - 1 of U clusters and m - 1 of m runs, which makes its variance unbiased
  (McCarthy and Snowden, Vital and Health Statistics 2(95), 1985).
- The degrees of freedom of Student's t follow from the clusters and runs (`_freedom`).
- A class that is in a single cluster adds the square of its part in the difference of mIoU to the
  variance (`_lone_variance`).
- A cluster is a block of consecutive images, twice as long as the images' parts in the difference
  stay correlated. The interval is the wider one of two, from blocks of that length and of twice
  that length: short blocks show too little spread, few long ones too much or too little.
- With fewer than MIN_CLUSTERS clusters no model is called better.
- If several pairs or classes are compared, their intervals are widened, so that with 95 % none of
  the family is wrongly called better (Holm, Scandinavian Journal of Statistics 6(2), 1979). This
  is about 0 only: if all differ, each interval contains its value in 95 %, all together in fewer.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass, field
from itertools import combinations

import numpy as np

from featherseg.core.errors import ConfigError, DataError
from featherseg.evaluation.clusters import BLOCK, MIN_CLUSTERS, Clusters, Sequences

LEVEL = 0.95
REPLICATES = 2000
MOST_DRAWN = 2**24
"""Draws in memory at a time, clusters times replicates: 128 MiB."""

WHOLE = 0
"""Instead of a block's length: the clusters are whole sequences."""

MIN_RUNS = 3
"""Number of runs of each model that a comparison of models needs."""


@dataclass(frozen=True)
class Interval:
    """A difference and its 95 % interval; low and high are NaN if there is none.

    clusters is the number of clusters of images it was computed from, None if there were no images.
    """

    value: float
    low: float
    high: float
    clusters: int | None = field(default=None, compare=False)

    def __neg__(self) -> "Interval":
        return Interval(-self.value, -self.high, -self.low, self.clusters)

    @property
    def few(self) -> bool:
        """Whether it was computed from too few clusters for any claim."""
        return self.clusters is not None and self.clusters < MIN_CLUSTERS

    @property
    def sign(self) -> int:
        """1 if the interval is above 0, -1 if below, 0 if it includes 0 or clusters are too few."""
        return 0 if self.few else int(self.low > 0) - int(self.high < 0)

    def points(self, unit: str = "") -> str:
        """Return `+3.12, +0.89 to +5.35` in points (hundredths), followed by the unit."""
        value, low, high = (f"{100 * v:+.2f}" for v in (self.value, self.low, self.high))
        if math.isnan(self.low):
            return f"{value}{unit}, no interval"
        return f"{value}, {low} to {high}{unit}"


@dataclass(frozen=True)
class Difference:
    """mIoU and class IoU of model `first` minus those of model `second`, as fractions -1..1.

    The intervals of mIoU are corrected for the number of pairs, those of the classes for the
    number of pairs and classes (Holm). A class in the ground truth of fewer than two clusters has
    no interval, and with too few images nothing has one.
    """

    first: int
    second: int
    miou: Interval
    classes: tuple[Interval, ...]

    @property
    def better(self) -> int | None:
        """The better model of the two, None if the interval of mIoU includes 0."""
        return {1: self.first, -1: self.second, 0: None}[self.miou.sign]

    def message(self, names: Sequence[str]) -> str:
        """Return `a is better than b`, or `no difference between a and b is shown` and why.

        names: of the compared models, by their number.
        """
        if self.better is None:
            none = f"no difference between {names[self.first]} and {names[self.second]} is shown"
            if not self.miou.few:
                return none
            clusters = f"{self.miou.clusters} clusters of images"
            return f"{none} on {clusters}, of which a claim needs {MIN_CLUSTERS}"
        worse = self.second if self.better == self.first else self.first
        return f"{names[self.better]} is better than {names[worse]}"


def image_counts(confusion: np.ndarray, void: np.ndarray | None = None) -> np.ndarray:
    """Return labelled, hit and predicted pixels of each class, (..., 3, K): all that IoU needs.

    For 2,000 images and 150 classes these are 7 MB instead of 360.

    Args:
        confusion: (..., K, K) as of `iou.Confusion`.
        void: (..., K), labelled pixels that are predicted as no class.
    """
    labelled = confusion.sum(axis=-1) if void is None else confusion.sum(axis=-1) + void
    hits = np.diagonal(confusion, axis1=-2, axis2=-1)
    return np.stack([labelled, hits, confusion.sum(axis=-2)], axis=-2)


def compare_files(
    counts: Sequence[np.ndarray],
    clusters: Sequences,
    *,
    replicates: int = REPLICATES,
    seed: int = 0,
) -> list[Difference]:
    """Compare every pair of S files, each given by its `image_counts` (N, 3, K) on the same images.

    The result says nothing about the models that the files are runs of.

    Raises:
        ConfigError: for fewer than two files.
        DataError: if they were not scored on the same images.
    """
    return _compare([file[None] for file in counts], clusters, replicates, seed)


def score_interval(counts: np.ndarray, clusters: Sequences) -> Interval:
    """Return the mIoU (0..1) of a file with its interval, NaN if there are too few images.

    It is computed from the difference to a perfect prediction, whose mIoU is 1. counts are the
    file's `image_counts` (N, 3, K).
    """
    perfect = np.repeat(counts[:, :1], 3, axis=1)
    error = compare_files([counts, perfect], clusters)[0].miou
    low, high = np.clip([1 + error.low, 1 + error.high], 0, 1).tolist()
    return Interval(1 + error.value, low, high, error.clusters)


def compare_models(
    counts: Sequence[np.ndarray],
    clusters: Sequences,
    *,
    replicates: int = REPLICATES,
    seed: int = 0,
) -> list[Difference]:
    """Compare every pair of S models, each given by the `image_counts` (m, N, 3, K) of m runs.

    The runs of a model differ in their seed; its score is the mean over them.

    Raises:
        ConfigError: with the message of `too_few_runs`, and as `compare_files`.
        DataError: as `compare_files`.
    """
    if message := too_few_runs([len(runs) for runs in counts]):
        raise ConfigError(f"{message}. Train each with at least {MIN_RUNS} seeds.")
    return _compare(counts, clusters, replicates, seed)


def compare_variants(
    counts: Sequence[np.ndarray],
    clusters: Sequences,
    *,
    replicates: int = REPLICATES,
    seed: int = 0,
) -> list[Difference]:
    """Compare every other variant with the first, by the `image_counts` (m, N, 3, K) of their runs.

    The i-th runs of all variants have the same seed: images and pairs of runs are resampled.

    Raises:
        ConfigError: if the numbers of runs differ or are below MIN_RUNS, and as `compare_files`.
        DataError: as `compare_files`.
    """
    runs = [len(variant) for variant in counts]
    if len(set(runs)) > 1 or too_few_runs(runs):
        raise ConfigError(f"variants of {runs} runs: expected the same {MIN_RUNS} seeds or more.")
    return _compare(counts, clusters, replicates, seed, paired=True)


def too_few_runs(runs: Sequence[int]) -> str:
    """Return why models with these numbers of runs cannot be compared, "" if they can."""
    if min(runs) >= MIN_RUNS:
        return ""
    if len(set(runs)) == 1:
        number = "one run" if runs[0] == 1 else f"{runs[0]} runs"
        return f"{number} each: says nothing about the models"
    return f"{', '.join(map(str, runs))} runs: says nothing about the models"


def best(differences: Sequence[Difference]) -> int | None:
    """Return the model that is shown to be better than every other one, None if there is none."""
    models = {model for d in differences for model in (d.first, d.second)}
    wins = [d.better for d in differences]
    return next((model for model in sorted(models) if wins.count(model) == len(models) - 1), None)


def student_quantile(p: float, freedom: np.ndarray) -> np.ndarray:
    """Return the p-quantile of Student's t for degrees of freedom, also fractional, of any shape.

    Values are limited to 1..1,000; NaN stays NaN.
    """
    from scipy.special import stdtrit  # not at the top: processes that are timed import this file

    return np.asarray(stdtrit(np.clip(freedom, 1.0, 1000.0), p))


def _compare(
    counts: Sequence[np.ndarray],
    sequences: Sequences,
    replicates: int,
    seed: int,
    paired: bool = False,
) -> list[Difference]:
    """Compare every pair of models, or if `paired` every other one with the first.

    counts[s] is (m, N, 3, K) for the m runs of model s.
    """
    if len(counts) < 2:
        raise ConfigError(f"{len(counts)} to compare: expected two or more.")
    runs = [len(model) for model in counts]
    every = [run for model in counts for run in model]  # T of (N, 3, K), not copied
    images = len(sequences.order)
    if other := next((len(run) for run in every if len(run) != images), None):
        raise DataError(f"counts of {other} images, but clusters of {images}: expected the same.")
    if any((run[:, 0] != every[0][:, 0]).any() for run in every):
        raise DataError("the labels of the images differ: score all on the same images and size.")
    if paired:
        pairs = np.array([(s, 0) for s in range(1, len(runs))])  # (P, 2)
    else:
        pairs = np.array(list(combinations(range(len(runs)), 2)))
    rng = np.random.default_rng(seed)
    no_class = np.full(every[0].shape[-1], np.nan)
    iou = _iou(np.stack([run.sum(axis=0) for run in every]), no_class)  # (T, K)
    scores = _with_mean(iou)  # (T, Q)
    value = _pairwise(_over_runs(scores[None], runs), pairs)[0]  # (P, Q)
    spread, freedom, rests_on = np.full((3, *value.shape), np.nan)  # (P, Q) each
    if not sequences.enough:
        return _intervals(value, spread, freedom, rests_on, pairs)

    # Each difference is drawn from blocks of its own length and of twice that; the wider counts.
    lengths = _block_lengths(every, iou, runs, pairs, sequences)  # (P, Q)
    doubled = np.where(lengths == WHOLE, WHOLE, 2 * lengths)
    in_blocks = sequences.in_one() if sequences.whole else sequences
    for length in np.unique([lengths, doubled]):
        clusters = (sequences if length == WHOLE else in_blocks).cut(length)
        pooled = _pool(every, clusters)  # (U, T, 3, K)
        resampled = _with_mean(_iou(_draw(pooled, replicates, rng), iou))  # (R, T, Q)
        by_images = _pairwise(_over_runs(resampled, runs), pairs)  # (R, P, Q)
        by_both = by_images
        if max(runs) > 1:
            by_both = _pairwise(_over_runs(resampled, runs, rng, paired), pairs)
        variance = by_both.var(axis=0)
        variance[:, 0] += _lone_variance(pooled, iou, runs, pairs)
        run_terms = _run_terms(scores, runs, pairs, paired)
        new_freedom = _freedom(by_images, _class_freedom(pooled), run_terms)
        if paired:
            # The spread of few pairs is now and then estimated too small, and Satterthwaite's rule
            # trusts it most just then.
            new_freedom = np.minimum(new_freedom, max(1, runs[0] - 1))
        new_spread = np.sqrt(variance)
        rests_on[lengths == length] = clusters.count
        of_length = (lengths == length) | (doubled == length)
        narrower = _reach(new_spread, new_freedom) <= _reach(spread, freedom)  # False for NaN
        wider = of_length & ~np.isnan(new_freedom) & ~narrower
        spread = np.where(wider, new_spread, spread)
        freedom = np.where(wider, new_freedom, freedom)
    return _intervals(value, spread, freedom, rests_on, pairs)


def _block_lengths(
    counts: Sequence[np.ndarray],
    iou: np.ndarray,
    runs: Sequence[int],
    pairs: np.ndarray,
    sequences: Sequences,
) -> np.ndarray:
    """Return the images in a block for each difference, (P, Q): a power of two, or WHOLE.

    counts are T of (N, 3, K), iou is (T, K).
    """
    if sequences.single:
        return np.full((len(pairs), 1 + iou.shape[1]), WHOLE)

    # Part of each image in a model's scores, to first order: (hits - IoU * union) / union of all.
    of_models, first = [], 0
    for m in runs:
        parts = np.zeros((len(counts[0]), 1 + iou.shape[1]))  # (N, Q)
        for run, ious in zip(counts[first : first + m], iou[first : first + m], strict=True):
            labelled, hits, predicted = (run[:, i] for i in range(3))  # (N, K) each
            union = labelled + predicted - hits
            part = (hits - np.nan_to_num(ious) * union) / np.maximum(union.sum(axis=0), 1)
            mean = part.sum(axis=1) / max(1, (~np.isnan(ious)).sum())
            parts += np.column_stack([mean, part])
        of_models.append(parts / m)
        first += m

    lengths = []
    in_blocks = sequences.in_one() if sequences.whole else sequences
    for a, b in pairs:
        series = of_models[a] - of_models[b]
        reach = in_blocks.correlated(series)
        apart = ~sequences.joined(series) if sequences.whole else np.zeros(len(reach), bool)
        lengths.append(np.where(apart, WHOLE, BLOCK * reach))
    return np.stack(lengths)


def _pool(counts: Sequence[np.ndarray], clusters: Clusters) -> np.ndarray:
    """Return the sums of T counts (N, 3, K) over each cluster, (U, T, 3, K).

    It goes run by run, because a copy of all counts may need gigabytes.
    """
    order = np.argsort(clusters.index, kind="stable")
    starts = np.searchsorted(clusters.index[order], np.arange(clusters.count))
    pooled = np.empty((clusters.count, len(counts), *counts[0].shape[1:]))
    for number, run in enumerate(counts):
        pooled[:, number] = np.add.reduceat(run[order], starts, axis=0, dtype=float)
    return pooled


def _draw(pooled: np.ndarray, replicates: int, rng: np.random.Generator) -> np.ndarray:
    """Return the counts of U - 1 of U clusters drawn with replacement, (R, T, 3, K).

    All runs have the same draws. pooled is (U, T, 3, K).
    """
    clusters, sums = len(pooled), pooled.reshape(len(pooled), -1)
    drawn = np.empty((replicates, sums.shape[1]))
    chance, part = np.full(clusters, 1 / clusters), max(1, MOST_DRAWN // clusters)
    for first in range(0, replicates, part):  # in parts: all draws at once may need gigabytes
        size = min(part, replicates - first)
        draws = rng.multinomial(max(1, clusters - 1), chance, size=size)  # (size, U)
        drawn[first : first + size] = draws.astype(float) @ sums
    return drawn.reshape(replicates, *pooled.shape[1:])


def _iou(counts: np.ndarray, absent: np.ndarray) -> np.ndarray:
    """Return IoU (..., K) of counts (..., 3, K), NaN for a class in neither label nor prediction.

    A class that is in no label of a replicate has its IoU of all images, `absent`: the draw says
    nothing about it.
    """
    labelled, hits, predicted = (counts[..., i, :] for i in range(3))
    union = labelled + predicted - hits
    iou = np.where(union > 0, hits / np.maximum(union, 1), np.nan)
    return np.where((labelled > 0) | np.isnan(absent), iou, absent)


def _with_mean(iou: np.ndarray) -> np.ndarray:
    """Return (..., 1 + K): the mean over the classes that are not NaN, then all (..., K)."""
    known = ~np.isnan(iou)
    mean = np.where(known, iou, 0).sum(axis=-1) / np.maximum(known.sum(axis=-1), 1)
    return np.concatenate([mean[..., None], iou], axis=-1)


def _over_runs(
    scores: np.ndarray,
    runs: Sequence[int],
    rng: np.random.Generator | None = None,
    paired: bool = False,
) -> np.ndarray:
    """Return the mean of scores (R, T, Q) over each model's runs, (R, S, Q).

    With `rng` it is the mean over m - 1 runs drawn with replacement, if `paired` the same of each
    model.
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
    """Return first minus second model of each pair, (R, P, Q), from scores (R, S, Q)."""
    return scores[:, pairs[:, 0]] - scores[:, pairs[:, 1]]


def _class_freedom(pooled: np.ndarray) -> np.ndarray:
    """Return the degrees of freedom of each class's IoU, (K,).

    They are Kish's effective number of clusters with the class, minus one: at most 2 for a class
    in 3 of 100 images. A class in fewer than two clusters has NaN, because its spread cannot be
    estimated. If most classes are such, all have NaN.
    """
    labelled = pooled[:, 0, 0]  # (U, K)
    effective = labelled.sum(axis=0) ** 2 / np.maximum((labelled**2).sum(axis=0), 1)
    lone = (labelled > 0).sum(axis=0) == 1
    if 2 * lone.sum() > labelled.any(axis=0).sum():
        return np.full(len(lone), np.nan)
    return np.where(lone | ~labelled.any(axis=0), np.nan, np.maximum(effective - 1, 1))


def _run_terms(
    scores: np.ndarray,
    runs: Sequence[int],
    pairs: np.ndarray,
    paired: bool,
) -> tuple[np.ndarray, np.ndarray]:
    """Return what runs add to each pair's variance and to Satterthwaite's denominator, (P, Q) each.

    scores are (T, Q).
    """
    parts = np.split(scores, np.cumsum(runs)[:-1])  # S of (m, Q)
    if paired:
        freedom = max(1, runs[0] - 1)
        variance = np.stack([(parts[a] - parts[b]).var(axis=0) / freedom for a, b in pairs])
        return variance, variance**2 / freedom
    # unbiased variance of each model's mean, (S, Q)
    variance = np.stack([part.var(axis=0) / max(1, len(part) - 1) for part in parts])
    squared = variance**2 / np.maximum(np.array(runs) - 1, 1)[:, None]
    return variance[pairs].sum(axis=1), squared[pairs].sum(axis=1)


def _lone_variance(
    pooled: np.ndarray,
    iou: np.ndarray,
    runs: Sequence[int],
    pairs: np.ndarray,
) -> np.ndarray:
    """Return what classes in a single cluster add to the variance of each difference of mIoU, (P,).

    No replicate shows the spread of such a class. Between equal models its part in the difference
    is noise around 0, and the square of the part estimates the variance of the noise. Because it
    grows with the difference itself, equal models are called different in at most 5 %, whatever
    the variance is (simulated: test_bootstrap.py).
    """
    present = pooled[:, 0, 0] > 0  # (U, K)
    lone = present.sum(axis=0) == 1
    classes = np.maximum((~np.isnan(iou)).sum(axis=1, keepdims=True), 1)
    parts = np.nan_to_num(iou) / classes  # of mIoU, (T, K)
    added = _pairwise(_over_runs(parts[None], runs), pairs)[0][:, lone]  # (P, L)
    return np.square(added @ present[:, lone].T).sum(axis=1)


def _freedom(
    resampled: np.ndarray,
    classes: np.ndarray,
    run_terms: tuple[np.ndarray, np.ndarray],
) -> np.ndarray:
    """Return the degrees of freedom of every difference, (P, Q).

    1 / freedom of mIoU is the mean over the classes, weighted by each one's part in the variance of
    mIoU; a class without freedom counts as 1. It is NaN if no class has any. The runs are added by
    Satterthwaite's rule (Biometrics Bulletin 2(6), 1946).

    Args:
        resampled: (R, P, Q) differences with images resampled, but not runs.
        classes: (K,), as `_class_freedom` returns them.
        run_terms: as `_run_terms` returns them.
    """
    deviation = np.nan_to_num(resampled - resampled.mean(axis=0))
    covariance = np.einsum("rpk,rp->pk", deviation[..., 1:], deviation[..., 0]).clip(0)  # (P, K)
    weighted = covariance @ (1 / np.nan_to_num(classes, nan=1))
    inverse = weighted / np.maximum(covariance.sum(axis=1), 1e-300)  # (P,)
    miou = 1 / np.maximum(inverse, 1e-3)
    if np.isnan(classes).all():
        miou = np.full_like(inverse, np.nan)
    images = np.column_stack([miou, np.broadcast_to(classes, covariance.shape)])  # (P, Q)
    variance = deviation.var(axis=0)
    run_variance, run_squared = run_terms
    denominator = variance**2 / images + run_squared
    joined = (variance + run_variance) ** 2 / np.maximum(denominator, 1e-300)
    return np.where(denominator > 0, joined, images)


def _reach(spread: np.ndarray, freedom: np.ndarray, share: float = 1.0) -> np.ndarray:
    """Return half the width of intervals, each of which has this share of the 5 % error."""
    return student_quantile(1 - (1 - LEVEL) / 2 * share, freedom) * spread


def _intervals(
    value: np.ndarray,
    spread: np.ndarray,
    freedom: np.ndarray,
    clusters: np.ndarray,
    pairs: np.ndarray,
) -> list[Difference]:
    """Return the differences with their intervals; the first four arrays are (P, Q)."""
    families = (slice(0, 1), slice(1, None))  # mIoU of all pairs; IoU of all pairs and classes
    columns = [[array[:, f] for array in (value, spread, freedom, clusters)] for f in families]
    reach = np.concatenate([_holm_reach(*arrays) for arrays in columns], axis=1)
    differences = []
    for p, (first, second) in enumerate(pairs.tolist()):
        rows = zip(value[p].tolist(), reach[p].tolist(), clusters[p].tolist(), strict=True)
        miou, *classes = [
            Interval(v, v - r, v + r, None if math.isnan(n) else int(n))  # NaN: no interval
            for v, r, n in rows
        ]
        differences.append(Difference(first, second, miou, tuple(classes)))
    return differences


def _holm_reach(
    value: np.ndarray,
    spread: np.ndarray,
    freedom: np.ndarray,
    clusters: np.ndarray,
) -> np.ndarray:
    """Return half the width of every interval of a family, (P, F); NaN where freedom is.

    An interval excludes 0 if Holm's procedure shows the difference: the 5 % error is shared among
    the differences that are not shown yet, and again until no more are shown. A difference that
    rests on too few clusters is never shown.
    """
    members = max(1, int((~np.isnan(freedom)).sum()))
    unshown = members
    while True:
        reach = np.where(np.isnan(freedom), np.nan, _reach(spread, freedom, 1 / unshown))
        shown = (np.abs(value) > reach) & (clusters >= MIN_CLUSTERS)
        remaining = max(1, members - int(shown.sum()))
        if remaining == unshown:
            return reach
        unshown = remaining
