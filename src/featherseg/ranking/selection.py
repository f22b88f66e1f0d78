"""Which images are taken, one after the other: uncertain ones, far from what is labelled, spread over sequences.

Distance as in k-center greedy (Sener and Savarese, "Active learning for convolutional neural networks: a core-set
approach", ICLR 2018): that to the nearest image that is labelled or taken already. Letters: N images, M labelled ones,
F features.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from featherseg.data.sequences import numbers_of, sequence_names

RANKED_BY = ("both", "uncertainty", "diversity")
"""The score: uncertainty times distance, uncertainty alone, distance alone."""

ROWS = 4096
"""Features that are read at a time: they may be more than the memory holds."""


@dataclass(frozen=True)
class Pick:
    """An image that is taken: its number, and its score and distance when its turn came; distance None without any."""

    number: int
    score: float
    distance: float | None


def select(
    top: int,
    by: str,
    uncertainty: np.ndarray,
    features: np.ndarray | None,
    labelled: np.ndarray | None,
    names: Sequence[str],
    groups: str | None = None,
) -> list[Pick]:
    """The `top` best of N images, the best first; all of them where there are fewer. O(N (top + M)).

    Of a sequence no two frames are taken that are less than `gap_of` frames apart, in the order of their numbers.

    Args:
        top: How many.
        by: One of RANKED_BY.
        uncertainty: (N,), 0 or more.
        features: (N, F), None for "uncertainty" alone.
        labelled: (M, F), of the images that are labelled; None where they are not known: then the mean of all images
            stands for them.
        names: (N,) paths without endings, of which frames and sequences are known (data/sequences.py).
        groups: A regular expression for the names of sequences, see `sequence_names`.
    """
    count = len(uncertainty)
    gap = gap_of(count, top)
    sequences = sequence_names(names, groups)
    order = sorted(range(count), key=lambda i: (sequences[i], numbers_of(names[i]), names[i]))
    places, firsts, ends = _places(order, sequences)
    distance = None if features is None else _distance_to_labelled(features, labelled)
    free, picks = np.ones(count, bool), list[Pick]()
    while len(picks) < min(top, count):
        if distance is None:
            scores = uncertainty
        else:
            scores = distance if by == "diversity" else uncertainty * distance if by == "both" else uncertainty
        taken = int(np.where(free, scores, -1).argmax())
        picks.append(Pick(taken, float(scores[taken]), None if distance is None else float(distance[taken])))

        # Frames beside it are not asked again, images like it count for less
        place = places[taken]
        beside = order[max(firsts[taken], place - gap + 1) : min(ends[taken], place + gap)]
        free[beside] = False
        if features is not None and distance is not None:
            distance = np.minimum(distance, _distance(features, features[taken : taken + 1]))
    return picks


def gap_of(count: int, top: int) -> int:
    """Frames of one sequence that two chosen ones are at least apart: half as many as if they lay evenly.

    So `top` images can be taken whatever the sequences are: each rules out fewer than count / top others.
    """
    return max(1, (count // top + 1) // 2)


def _places(order: Sequence[int], sequences: Sequence[str]) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Of every image its place in `order`, and where its sequence begins and ends in it, (N,) each."""
    places, firsts, ends = np.zeros((3, len(order)), np.int64)
    first = 0
    for place, number in enumerate(order):
        if sequences[number] != sequences[order[first]]:
            first = place
        places[number], firsts[number] = place, first
        ends[order[first]] = place + 1  # of the first image of the sequence; the others take it below
    for number in order:
        ends[number] = ends[order[firsts[number]]]
    return places, firsts, ends


def _distance_to_labelled(features: np.ndarray, labelled: np.ndarray | None) -> np.ndarray:
    """(N,): that to the nearest of the labelled images, or to the mean of all."""
    if labelled is None or not len(labelled):
        total = np.zeros(features.shape[1])
        for start in range(0, len(features), ROWS):
            total += _unit(features[start : start + ROWS]).sum(axis=0)
        labelled = total[None]
    nearest = np.full(len(features), np.inf)
    for start in range(0, len(labelled), ROWS):
        nearest = np.minimum(nearest, _distance(features, labelled[start : start + ROWS]))
    return nearest


def _distance(features: np.ndarray, others: np.ndarray) -> np.ndarray:
    """(N, F), (M, F) -> (N,): between unit vectors, to the nearest of the others, 0..2."""
    units, found = _unit(others), np.empty(len(features))
    for start in range(0, len(features), ROWS):
        likeness = (_unit(features[start : start + ROWS]) @ units.T).max(axis=1)
        found[start : start + ROWS] = np.sqrt(np.maximum(0, 2 - 2 * likeness))
    return found


def _unit(features: np.ndarray) -> np.ndarray:
    """(n, F) float64 of length 1; of 0 where all are 0."""
    wide = features.astype(np.float64)
    return wide / np.maximum(np.linalg.norm(wide, axis=1, keepdims=True), 1e-30)
