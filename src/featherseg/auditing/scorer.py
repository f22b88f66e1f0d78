"""The scorer: learns from planted faults which regions, and which images, are wrong; cross-fitted over folds.

An image's score is made of its regions' and of the evidence against the whole mask, by a regression that learns from
planted faults as well. Nobody knows how many real faults there are, so a score is what the self test can check: the
share of planted faults among masks with that score (`Calibration`). What is probably wrong as it is should not be
learnt as right; how much that is, is estimated as of positive and unlabelled data (Garg et al., "Mixture proportion
estimation and PU learning: a modern approach", NeurIPS 2021: best bin estimation), which is an upper bound.
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
"""Regions that trees learn from, drawn from all: the memory does not grow with the images."""

LEAST_FOUND = 0.3
"""The part of the planted faults that a bin contains at least, if the share of faults is estimated from it. Measured on
normal scores 2.5 apart, 1000 images, 2 to 30 % faulty: the precision of the first 50 that follows is off by 0.06 in the
mean; with 0.2 by 0.14, with 0.5 by 0.16.
"""

RIDGE = 1.0
"""Of the regression over images, in rows: how firmly it keeps to the soft-minimum where images are few."""

MOST_DOUBTFUL = 0.3
"""The part of all images that is left out of what is learnt from, as probably wrong, at most."""

SURE = 0.003
"""Scores of regions are taken as no nearer to 0 and 1."""

SOFT = EVIDENCE.index("soft_minimum")

KNOWN = len(EVIDENCE) + 4
"""What is known of an image, see `_of_image`."""

MOST_TAUGHT = 2000
"""Images that anything is learnt from: the memory does not grow with those that are judged."""

Examples = Callable[[np.ndarray], Iterator[Example]]
"""Called with places of images, ascending, it gives each, read from disk one after the other."""

Regions = Callable[[int, np.ndarray], object]
"""Called with the place of an image and the scores of its regions as it is, (N,)."""


@dataclass(frozen=True)
class Judged:
    """The outcome: what images (N,) are ranked by, 0..1, which is 1 - soft-minimum if there is no self test.

    of_images and of_regions calibrate what images and regions are ranked by.
    """

    images: np.ndarray
    self_test: SelfTest
    of_images: Calibration = NO_CALIBRATION
    of_regions: Calibration = NO_CALIBRATION

    @property
    def scores(self) -> np.ndarray:
        """The scores of the images as they are shown, (N,) 0..1."""
        return self.of_images(self.images)


def judge(
    examples: Examples,
    folds: np.ndarray,
    names: tuple[str, ...],
    regions: Regions,
    keys: Sequence[str],
    groups: str | None = None,
    taught: np.ndarray | None = None,
) -> Judged:
    """Learn on all folds but one and score that one, for every fold (N,). names: of the faults, by number.

    keys (N,) and groups tell the sequences, on which the intervals of the self test rest (`clusters_of`).
    taught: the places of the images that are learnt from, all where nothing is said; of the others a few numbers each
    are kept in memory. The regression learns from scores of trees that saw neither the fold that it will judge nor that
    of the image they score. Raises nothing: of too few images the scores say little, which the self test tells.
    """
    count = len(folds)
    taught = np.arange(count) if taught is None else np.sort(taught)
    doubtful = _doubtful(examples, folds, taught)
    trees = _fit_regions(examples, folds, taught, doubtful)

    # Every image as it is, by what did not see its fold; of those that are learnt from every copy, for every fold
    table, soft, plain = (
        np.zeros((count, KNOWN), np.float32),
        np.zeros(count),
        np.zeros(count, bool),
    )
    is_taught = np.isin(np.arange(count), taught)
    image, fault, copy_soft, copy_plain = [], [], [], []
    copy_rows: list[np.ndarray] = []  # each (FOLDS, KNOWN)
    region_scores, region_wrong, region_weights = [np.zeros(0)], [np.zeros(0, bool)], [np.zeros(0)]
    for number, example in enumerate(examples(np.arange(count))):
        own = folds[number]
        scores = trees[_pair(own, own)].probability(example.features)
        regions(number, scores[example.copies == 0].astype(np.float32))
        table[number] = _of_image(scores[example.copies == 0], example.evidence[0])
        soft[number], plain[number] = example.evidence[0][SOFT], _is_plain(example, 0)
        if not is_taught[number]:
            continue
        by_fold = [
            scores if fold == own else trees[_pair(fold, own)].probability(example.features)
            for fold in range(FOLDS)
        ]
        for copy, kind in enumerate(example.faults):
            image.append(number)
            fault.append(kind)
            copy_soft.append(example.evidence[copy][SOFT])
            copy_plain.append(_is_plain(example, copy))
            of_copy = [
                _of_image(one[example.copies == copy], example.evidence[copy]) for one in by_fold
            ]
            copy_rows.append(np.array(of_copy, np.float32))
        if len(example.faults) > 1:
            kept = (example.changed >= WRONG) | ((example.copies == 0) & (example.changed < UNSURE))
            region_scores.append(scores[kept].astype(np.float32))
            region_wrong.append(example.changed[kept] >= WRONG)
            in_a_draw = PLANTED / (
                len(example.faults) - 1
            )  # how often a draw of the self test shows each copy
            region_weights.append(np.where(example.copies[kept] == 0, 1 - PLANTED, in_a_draw))
    of, kinds, rows = (
        np.array(image),
        np.array(fault),
        np.array(copy_rows),
    )  # (M,), (M,), (M, FOLDS, KNOWN)
    if not (kinds >= 0).any():
        unsure = np.where(soft == 0, 0.0, 1 / (1 + np.exp(-soft)))  # 0 where no pixel is labelled
        return Judged(unsure, NOTHING_PLANTED)

    # The images: a regression over what is known of each
    whole, planted = np.zeros(count), kinds >= 0
    copy_scores = np.zeros(len(of))
    for fold in range(FOLDS):
        held = folds[of] == fold
        learnt = ~held & ~np.isin(of, doubtful[fold, fold])
        asked = np.concatenate([table[folds == fold], rows[held, fold]])
        found = _regression(
            rows[learnt, fold].astype(np.float64), planted[learnt], asked.astype(np.float64)
        )
        whole[folds == fold], copy_scores[held] = np.split(found, [(folds == fold).sum()])

    copies = Copies(
        of[planted],
        kinds[planted],
        copy_scores[planted],
        np.array(copy_soft)[planted],
        np.array(copy_plain)[planted],
    )
    scores, wrong, weights = (
        np.concatenate(parts) for parts in (region_scores, region_wrong, region_weights)
    )
    by_region = average_precision(scores, wrong)
    test, calibration = run_self_test(whole, soft, plain, copies, by_region, names, keys, groups)
    return Judged(whole, test, calibration, fit_calibration(scores, wrong, weights))


def _pair(a: int, b: int) -> tuple[int, int]:
    return (int(min(a, b)), int(max(a, b)))


def _doubtful(
    examples: Examples, folds: np.ndarray, taught: np.ndarray
) -> dict[tuple[int, int], np.ndarray]:
    """For every pair of folds the images of the others, of those `taught`, that are probably wrong as they are.

    What they show as right would be learnt as right. They are as many as there are faults by estimate, at most
    MOST_DOUBTFUL, those against which the evidence is strongest.
    """
    image, table, kinds = [], [], []
    for number, example in zip(taught, examples(taught), strict=True):
        image.append(np.full(len(example.faults), number))
        table.append(example.evidence)
        kinds.append(example.faults)
    of, rows, fault = (np.concatenate(parts) for parts in (image, table, kinds))
    found = {}
    for a, b in combinations_with_replacement(range(FOLDS), 2):
        rest = ~np.isin(folds[of], (a, b))
        scores = _regression(rows[rest], fault[rest] >= 0, rows[rest])
        as_is = fault[rest] < 0
        share = share_of_faults(scores[as_is], scores[~as_is])
        count = round(min(share, MOST_DOUBTFUL) * as_is.sum())
        found[a, b] = of[rest][as_is][np.argsort(-scores[as_is], kind="stable")[:count]]
    return found


def _fit_regions(
    examples: Examples,
    folds: np.ndarray,
    taught: np.ndarray,
    doubtful: dict[tuple[int, int], np.ndarray],
) -> dict[tuple[int, int], Trees]:
    """For every pair of folds, of a fold with itself too, trees that learnt from the regions of the others.

    Of MOST_ROWS at most, drawn evenly from the images.
    """
    most = max(1, MOST_ROWS // max(1, len(taught)))  # of an image
    kept, yes, weights, image = [], [], [], []
    for number, example in zip(taught, examples(taught), strict=True):
        wrong = np.flatnonzero(example.changed >= WRONG)
        right = np.flatnonzero((example.changed < UNSURE) & (example.copies == 0))
        for rows, is_wrong in ((wrong, True), (right, False)):
            drawn = np.random.default_rng([0, number]).permutation(rows)[: max(1, most // 2)]
            # A copy counts once, however many regions are wrong in it: in one that was shifted nearly all are
            _, copy, count = np.unique(
                example.copies[drawn], return_inverse=True, return_counts=True
            )
            kept.append(example.features[drawn])
            yes.append(np.full(len(drawn), is_wrong))
            weights.append(1 / count[copy])
            image.append(np.full(len(drawn), number))
    table, wrongs, weight, of = (np.concatenate(parts) for parts in (kept, yes, weights, image))
    found = {}
    for a, b in combinations_with_replacement(range(FOLDS), 2):
        rest = ~np.isin(folds[of], (a, b)) & ~np.isin(of, doubtful[a, b])
        found[a, b] = fit_trees(table[rest], wrongs[rest], _even(wrongs[rest], weight[rest]))
    return found


def _even(yes: np.ndarray, weights: np.ndarray | None = None) -> np.ndarray:
    """Weights (N,) in proportion to `weights`, by which yes and no count the same; they sum to N."""
    weights = np.ones(len(yes)) if weights is None else weights
    total = np.where(yes, weights[yes].sum(), weights[~yes].sum())
    return 0.5 * len(yes) * weights / np.maximum(total, 1e-6)


def _is_plain(example: Example, copy: int) -> bool:
    """Whether a copy of the mask shows one class alone, as far as it has regions."""
    labelled = (example.copies == copy) & (example.features[:, FEATURES.index("predicted")] == 0)
    return len(np.unique(example.features[labelled, FEATURES.index("class")])) < 2


def _of_image(scores: np.ndarray, evidence: np.ndarray) -> np.ndarray:
    """What is known of an image: EVIDENCE, the soft-minimum first; of its regions the three highest scores and how many
    faults there may be, as logits and logarithms.
    """
    highest = np.full(3, SURE)
    ordered = np.sort(scores)[::-1][:3]
    highest[: len(ordered)] = np.clip(ordered, SURE, 1 - SURE)
    many = np.log1p(-np.log(np.maximum(1 - scores, SURE)).sum())
    return np.array([*evidence, *np.log(highest / (1 - highest)), many])


def _regression(rows: np.ndarray, yes: np.ndarray, asked: np.ndarray) -> np.ndarray:
    """Logistic regression on standardised columns by Newton's method: the probability of yes of `asked`.

    The ridge draws it not to zero but to the regression on the soft-minimum alone: of few images that is what is left.
    No slope is below 0, as what is known speaks against an image or not at all: a fault of a kind that was not learnt
    would else be ranked the lower for what gives it away (shifted masks on NEU-Seg: 0.05 instead of 0.56).
    """
    middle, spread = rows.mean(axis=0), rows.std(axis=0) + 1e-6
    x, z = (
        np.column_stack([np.ones(len(part)), (part - middle) / spread]) for part in (rows, asked)
    )
    weights = _even(yes)

    def fit(x: np.ndarray, start: np.ndarray, ridge: float) -> np.ndarray:
        slope, penalty = (
            start,
            ridge * np.diag([0.0, *np.ones(x.shape[1] - 1)]) + 1e-6 * np.eye(x.shape[1]),
        )
        for _ in range(15):
            chance = 1 / (1 + np.exp(-np.clip(x @ slope, -30, 30)))
            curve = (x * (weights * chance * (1 - chance))[:, None]).T @ x + penalty
            slope = slope + np.linalg.solve(
                curve, x.T @ (weights * (yes - chance)) - penalty @ (slope - start)
            )
        return slope

    start = np.zeros(x.shape[1])
    start[: 2 + SOFT] = fit(x[:, : 2 + SOFT], np.zeros(2 + SOFT), 1.0)
    used = np.ones(x.shape[1], bool)
    while True:
        slope = np.zeros(x.shape[1])
        slope[used] = fit(x[:, used], start[used], RIDGE)
        against = slope < 0
        against[0] = False
        if not against.any():
            break
        used &= ~against
    return 1 / (1 + np.exp(-np.clip(z @ slope, -30, 30)))


def share_of_faults(scores: np.ndarray, planted: np.ndarray) -> float:
    """The share of images that have a fault, at most.

    scores are of the images as they are, `planted` of copies with a fault, which stand for real ones.
    """
    count = len(scores)
    if not count or not len(planted):
        return 0.0
    levels = np.unique(np.concatenate([scores, planted]))
    above = 1 - np.searchsorted(np.sort(scores), levels) / count
    found = 1 - np.searchsorted(np.sort(planted), levels) / len(planted)
    # Of bins with fewer of the planted the quotient is chance, and the least of many chances is far too low
    bound = (above + 2 * np.sqrt(above / count)) / np.maximum(found, 1e-9)
    best = int(np.where((found >= LEAST_FOUND) & (above > 0), bound, np.inf).argmin())
    return min(1.0, float(above[best] / found[best]))
