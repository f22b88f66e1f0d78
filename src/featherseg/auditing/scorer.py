"""The scorer: learns from planted faults which regions and images are wrong; cross-fitted by fold.

The score of an image follows from those of its regions and from the evidence against the whole
mask, by a regression that also learns from planted faults. The number of real faults is unknown, so
a score is what the self test can check: the share of planted faults among masks with that score
(`Calibration`). Masks that are probably wrong as they are must not be learned as right. How many
these are is estimated as for positive and unlabelled data (Garg et al., "Mixture proportion
estimation and PU learning: a modern approach", NeurIPS 2021: best bin estimation), which is an
upper bound.

Letters: N images, M copies of their masks, F features of a region.
"""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from itertools import combinations_with_replacement

import numpy as np

from featherseg.auditing.boosting import Trees, fit_trees
from featherseg.auditing.evidence import EVIDENCE
from featherseg.auditing.examples import UNSURE, WRONG, Example
from featherseg.auditing.folds import FOLDS
from featherseg.auditing.regions import FEATURES
from featherseg.auditing.self_test import (
    NO_CALIBRATION,
    NOTHING_PLANTED,
    PLANTED,
    Calibration,
    Copies,
    SelfTest,
    average_precision,
    fit_calibration,
    run_self_test,
)

MOST_ROWS = 20_000
"""Number of regions that trees learn from: memory does not grow with the images."""

LEAST_FOUND = 0.3
"""Least share of the planted faults in a bin from which the share of faults is estimated. Measured
on normal scores 2.5 apart, 1000 images, 2 to 30 % faulty: the precision of the first 50 is off by
0.06 on average; with 0.2 by 0.14, with 0.5 by 0.16.
"""

RIDGE = 1.0
"""Strength, in rows, with which the regression over few images stays at the soft-minimum."""

MOST_DOUBTFUL = 0.3
"""Largest share of the images that is not learned from because they are probably wrong."""

SURE = 0.003
"""Least distance of the scores of regions from 0 and 1."""

SOFT = EVIDENCE.index("soft_minimum")

IMAGE_FEATURES = len(EVIDENCE) + 4
"""Number of features of an image, see `_image_features`."""

MOST_TRAINING = 2000
"""Number of images that are learned from: memory does not grow with the images that are judged."""

Examples = Callable[[np.ndarray], Iterator[Example]]
"""Called with ascending places of images; yields each, read from disk one after the other."""

OnRegions = Callable[[int, np.ndarray], object]
"""Called with the place of an image and the scores of its regions as it is, (N,)."""


@dataclass(frozen=True)
class Ranking:
    """How images rank: `images` (N,) 0..1, which is 1 - soft-minimum without a self test.

    of_images and of_regions turn the ranks of images and regions into scores.
    """

    images: np.ndarray
    self_test: SelfTest
    of_images: Calibration = NO_CALIBRATION
    of_regions: Calibration = NO_CALIBRATION

    @property
    def scores(self) -> np.ndarray:
        """The scores of the images for display, (N,) 0..1."""
        return self.of_images(self.images)


def rank_images(
    examples: Examples,
    folds: np.ndarray,
    faults: tuple[str, ...],
    on_regions: OnRegions,
    keys: Sequence[str],
    groups: str | None = None,
    training: np.ndarray | None = None,
) -> Ranking:
    """Rank the images of each fold by a scorer that learned from the other folds.

    The regression learns from scores of trees that saw neither the fold that it judges nor the fold
    of the image that they score. With few images the scores mean little, as the self test shows.

    Args:
        folds: The fold of each image, (N,).
        faults: Names of the faults, by number.
        keys, groups: What `clusters_of` finds sequences by, for the intervals of the self test.
        training: Places of the images to learn from. Default: all. Of the others only a few numbers
            each are kept in memory.
    """
    count = len(folds)
    training = np.arange(count) if training is None else np.sort(training)
    doubtful = _doubtful_images(examples, folds, training)
    trees = _fit_regions(examples, folds, training, doubtful)

    # Score every image as it is by trees that did not see its fold. Score every copy of the images
    # that are learned from once for each fold that the regression will judge
    features, soft = np.zeros((count, IMAGE_FEATURES), np.float32), np.zeros(count)
    plain, learned_from = np.zeros(count, bool), np.isin(np.arange(count), training)
    image, fault, copy_soft, copy_plain = [], [], [], []
    copy_features: list[np.ndarray] = []  # each (FOLDS, IMAGE_FEATURES)
    region_scores, region_wrong, region_weights = [np.zeros(0)], [np.zeros(0, bool)], [np.zeros(0)]
    for number, example in enumerate(examples(np.arange(count))):
        fold_of_image = folds[number]
        scores = trees[_pair(fold_of_image, fold_of_image)].probability(example.features)
        as_is = example.copies == 0
        on_regions(number, scores[as_is].astype(np.float32))
        features[number] = _image_features(scores[as_is], example.evidence[0])
        soft[number], plain[number] = example.evidence[0][SOFT], _is_plain(example, 0)
        if not learned_from[number]:
            continue
        by_fold = [
            scores
            if fold == fold_of_image
            else trees[_pair(fold, fold_of_image)].probability(example.features)
            for fold in range(FOLDS)
        ]
        for copy, kind in enumerate(example.faults):
            image.append(number)
            fault.append(kind)
            copy_soft.append(example.evidence[copy][SOFT])
            copy_plain.append(_is_plain(example, copy))
            of_copy = [
                _image_features(of_fold[example.copies == copy], example.evidence[copy])
                for of_fold in by_fold
            ]
            copy_features.append(np.array(of_copy, np.float32))
        if len(example.faults) > 1:
            kept = (example.changed >= WRONG) | (as_is & (example.changed < UNSURE))
            region_scores.append(scores[kept].astype(np.float32))
            region_wrong.append(example.changed[kept] >= WRONG)
            # How often a draw of the self test contains each copy
            weight = PLANTED / (len(example.faults) - 1)
            region_weights.append(np.where(as_is[kept], 1 - PLANTED, weight))
    image_of, fault_of = np.array(image), np.array(fault)  # (M,)
    rows = np.array(copy_features)  # (M, FOLDS, IMAGE_FEATURES)
    planted = fault_of >= 0
    if not planted.any():
        unsure = np.where(soft == 0, 0.0, 1 / (1 + np.exp(-soft)))  # 0 where no pixel is labelled
        return Ranking(unsure, NOTHING_PLANTED)

    # Rank the images of each fold by a regression over features of the others
    ranks, copy_ranks = np.zeros(count), np.zeros(len(image_of))
    for fold in range(FOLDS):
        in_fold, copy_in_fold = folds == fold, folds[image_of] == fold
        learn = ~copy_in_fold & ~np.isin(image_of, doubtful[fold, fold])
        judged = np.concatenate([features[in_fold], rows[copy_in_fold, fold]])
        probability = _regression(
            rows[learn, fold].astype(np.float64), planted[learn], judged.astype(np.float64)
        )
        ranks[in_fold], copy_ranks[copy_in_fold] = np.split(probability, [in_fold.sum()])

    # Measure how well that works
    copies = Copies(
        image_of[planted],
        fault_of[planted],
        copy_ranks[planted],
        np.array(copy_soft)[planted],
        np.array(copy_plain)[planted],
    )
    scores, wrong, weights = map(np.concatenate, (region_scores, region_wrong, region_weights))
    by_region = average_precision(scores, wrong)
    test, calibration = run_self_test(ranks, soft, plain, copies, by_region, faults, keys, groups)
    return Ranking(ranks, test, calibration, fit_calibration(scores, wrong, weights))


def _pair(a: int, b: int) -> tuple[int, int]:
    return (int(min(a, b)), int(max(a, b)))


def _doubtful_images(
    examples: Examples, folds: np.ndarray, training: np.ndarray
) -> dict[tuple[int, int], np.ndarray]:
    """Return {pair of folds: the images of other folds that are probably wrong as they are}.

    Their masks would be learned as right. Their number is the estimated number of faults, at most
    MOST_DOUBTFUL; they are the images with the strongest evidence against them.
    """
    images, evidence, faults = [], [], []
    for number, example in zip(training, examples(training), strict=True):
        images.append(np.full(len(example.faults), number))
        evidence.append(example.evidence)
        faults.append(example.faults)
    image_of, rows, fault_of = map(np.concatenate, (images, evidence, faults))
    doubtful = {}
    for a, b in combinations_with_replacement(range(FOLDS), 2):
        others = ~np.isin(folds[image_of], (a, b))
        scores = _regression(rows[others], fault_of[others] >= 0, rows[others])
        as_is = fault_of[others] < 0
        share = share_of_faults(scores[as_is], scores[~as_is])
        count = round(min(share, MOST_DOUBTFUL) * as_is.sum())
        worst = np.argsort(-scores[as_is], kind="stable")[:count]
        doubtful[a, b] = image_of[others][as_is][worst]
    return doubtful


def _fit_regions(
    examples: Examples,
    folds: np.ndarray,
    training: np.ndarray,
    doubtful: dict[tuple[int, int], np.ndarray],
) -> dict[tuple[int, int], Trees]:
    """Return {pair of folds: trees that learned from the regions of the other folds}.

    A fold is also paired with itself. At most MOST_ROWS regions are drawn evenly from the images.
    """
    most = max(1, MOST_ROWS // max(1, len(training)))  # of an image
    features, answers, weights, images = [], [], [], []
    for number, example in zip(training, examples(training), strict=True):
        wrong = np.flatnonzero(example.changed >= WRONG)
        right = np.flatnonzero((example.changed < UNSURE) & (example.copies == 0))
        for rows, is_wrong in ((wrong, True), (right, False)):
            drawn = np.random.default_rng([0, number]).permutation(rows)[: max(1, most // 2)]
            # A copy counts once, however many of its regions are wrong: in a shifted one nearly all
            _, copy, count = np.unique(
                example.copies[drawn], return_inverse=True, return_counts=True
            )
            features.append(example.features[drawn])
            answers.append(np.full(len(drawn), is_wrong))
            weights.append(1 / count[copy])
            images.append(np.full(len(drawn), number))
    table, is_wrong_of, weight_of, image_of = map(
        np.concatenate, (features, answers, weights, images)
    )
    trees = {}
    for a, b in combinations_with_replacement(range(FOLDS), 2):
        others = ~np.isin(folds[image_of], (a, b)) & ~np.isin(image_of, doubtful[a, b])
        yes = is_wrong_of[others]
        trees[a, b] = fit_trees(table[others], yes, _balanced(yes, weight_of[others]))
    return trees


def _balanced(yes: np.ndarray, weights: np.ndarray) -> np.ndarray:
    """Scale weights (N,) so that yes and no count the same and their sum is N."""
    total = np.where(yes, weights[yes].sum(), weights[~yes].sum())
    return 0.5 * len(yes) * weights / np.maximum(total, 1e-6)


def _is_plain(example: Example, copy: int) -> bool:
    """Return whether the regions of a copy of the mask are of one class."""
    labelled = (example.copies == copy) & (example.features[:, FEATURES.index("predicted")] == 0)
    return len(np.unique(example.features[labelled, FEATURES.index("class")])) < 2


def _image_features(scores: np.ndarray, evidence: np.ndarray) -> np.ndarray:
    """Return EVIDENCE, the logits of the three highest region scores, and the number of faults.

    The number is the logarithm of the expected one. The soft-minimum is first.
    """
    highest = np.full(3, SURE)
    ordered = np.sort(scores)[::-1][:3]
    highest[: len(ordered)] = np.clip(ordered, SURE, 1 - SURE)
    many = np.log1p(-np.log(np.maximum(1 - scores, SURE)).sum())
    return np.array([*evidence, *np.log(highest / (1 - highest)), many])


def _regression(rows: np.ndarray, yes: np.ndarray, judged: np.ndarray) -> np.ndarray:
    """Fit a logistic regression to rows (N, F), return the probability of yes of `judged`.

    Columns are standardised; Newton's method. The ridge draws the slopes not to zero but to those
    of a regression on the soft-minimum alone, which is what remains with few images. No slope is
    below 0, because features speak against an image or not at all: otherwise a kind of fault that
    was not learned would rank lower for what reveals it (shifted masks on NEU-Seg: 0.05 instead of
    0.56).
    """
    mean, spread = rows.mean(axis=0), rows.std(axis=0) + 1e-6
    x, z = (
        np.column_stack([np.ones(len(part)), (part - mean) / spread]) for part in (rows, judged)
    )
    weights = _balanced(yes, np.ones(len(yes)))

    def fit(x: np.ndarray, start: np.ndarray, ridge: float) -> np.ndarray:
        columns = x.shape[1]
        penalty = ridge * np.diag([0.0, *np.ones(columns - 1)]) + 1e-6 * np.eye(columns)
        slope = start
        for _ in range(15):
            chance = 1 / (1 + np.exp(-np.clip(x @ slope, -30, 30)))
            curve = (x * (weights * chance * (1 - chance))[:, None]).T @ x + penalty
            gradient = x.T @ (weights * (yes - chance)) - penalty @ (slope - start)
            slope = slope + np.linalg.solve(curve, gradient)
        return slope

    start = np.zeros(x.shape[1])
    start[: 2 + SOFT] = fit(x[:, : 2 + SOFT], np.zeros(2 + SOFT), 1.0)
    used = np.ones(x.shape[1], bool)
    while True:
        slope = np.zeros(x.shape[1])
        slope[used] = fit(x[:, used], start[used], RIDGE)
        negative = slope < 0
        negative[0] = False
        if not negative.any():
            break
        used &= ~negative
    return 1 / (1 + np.exp(-np.clip(z @ slope, -30, 30)))


def share_of_faults(scores: np.ndarray, planted: np.ndarray) -> float:
    """Return an upper bound of the share of images that have a fault.

    scores: of the images as they are; planted: of copies with a fault, which stand for real ones.
    """
    count = len(scores)
    if not count or not len(planted):
        return 0.0
    levels = np.unique(np.concatenate([scores, planted]))
    above = 1 - np.searchsorted(np.sort(scores), levels) / count
    planted_above = 1 - np.searchsorted(np.sort(planted), levels) / len(planted)
    # In bins with few planted faults the quotient is chance, and the least of many is far too low
    bound = (above + 2 * np.sqrt(above / count)) / np.maximum(planted_above, 1e-9)
    usable = (planted_above >= LEAST_FOUND) & (above > 0)
    best = int(np.where(usable, bound, np.inf).argmin())
    return min(1.0, float(above[best] / planted_above[best]))
