"""Folds of a dataset: an image is predicted by a model, and judged by a scorer, that saw none of its sequence."""

import re
from collections.abc import Sequence

import numpy as np

from featherseg.data.checks.decisions import AUDITED
from featherseg.data.datasets.sequences import STRETCH, sequences_of

FOLDS = 3
"""Each costs a training; of fewer each model would see half of the images."""

LARGEST = 0.5
"""The part of all images that a fold may hold, for the others to be enough to learn from."""


def folds_of(
    keys: Sequence[str], present: np.ndarray, groups: str | None = None
) -> tuple[np.ndarray, bool]:
    """-> (the fold of every image, (N,) of 0..FOLDS - 1, whether sequences were cut); the same for the same names.

    Folds are of whole sequences. Where those make folds of more than LARGEST, or a class occurs in
    one fold alone, each sequence is cut in time. present (N, K): whether image n holds class k.
    """
    place = {key: i for i, key in enumerate(names_across_splits(keys))}
    sequences = [
        [place[key] for key in sequence] for sequence in sequences_of(place, groups).values()
    ]
    folds = _dealt(sequences, len(keys))
    cut = not _balanced(folds, present)
    if cut:
        number = 0  # goes on from one sequence to the next, so that short ones do not all begin in the first fold
        for sequence in sequences:
            count = min(len(sequence), max(FOLDS, -(-len(sequence) * FOLDS // STRETCH)))
            for piece in np.array_split(sequence, count):
                folds[piece] = number % FOLDS
                number += 1
    return folds, cut


def names_across_splits(keys: Sequence[str]) -> Sequence[str]:
    """The keys without their folders train and val, as a sequence may go on from one in the other.

    With these folders if a name is in both.
    """
    names = [re.sub(rf"^({'|'.join(AUDITED)})/", "", key) for key in keys]
    return names if len(set(names)) == len(keys) else keys


def _dealt(parts: list[list[int]], images: int) -> np.ndarray:
    """The largest part first, each to the fold that is smallest so far."""
    folds, sizes = np.zeros(images, np.int64), [0] * FOLDS
    for part in sorted(parts, key=len, reverse=True):
        fold = int(np.argmin(sizes))
        folds[part] = fold
        sizes[fold] += len(part)
    return folds


def _balanced(folds: np.ndarray, present: np.ndarray) -> bool:
    counts = np.bincount(folds, minlength=FOLDS)
    held = np.array([present[folds == fold].sum(axis=0) for fold in range(FOLDS)])  # (FOLDS, K)
    alone = (held == held.sum(axis=0)) & (
        held > 1
    )  # of a class in one image nothing can be learnt elsewhere
    return bool(counts.max() <= LARGEST * len(folds) and counts.min() > 0 and not alone.any())
