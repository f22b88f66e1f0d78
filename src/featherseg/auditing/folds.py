"""Folds: the model that predicts an image, and the scorer, saw none of its sequence."""

import re
from collections.abc import Sequence

import numpy as np

from featherseg.data.checks.decisions import AUDITED
from featherseg.data.datasets.sequences import STRETCH, sequences_of

FOLDS = 3
"""Number of folds: each costs a training, and with fewer a model would see half of the images."""

LARGEST = 0.5
"""Largest share of the images in a fold, so that enough are left to learn from."""


def folds_of(
    keys: Sequence[str], present: np.ndarray, groups: str | None = None
) -> tuple[np.ndarray, bool]:
    """Return (the fold of each image, (N,) of 0..FOLDS - 1, whether sequences were cut).

    Folds are made of whole sequences. If a fold would be larger than LARGEST, or have a class
    alone, each sequence is cut in time. The result depends on nothing but the arguments.
    present (N, K): whether image n has class k.
    """
    place = {key: i for i, key in enumerate(names_across_splits(keys))}
    sequences = [
        [place[key] for key in sequence] for sequence in sequences_of(place, groups).values()
    ]

    # The largest sequence first, each to the smallest fold so far
    folds, sizes = np.zeros(len(keys), np.int64), [0] * FOLDS
    for sequence in sorted(sequences, key=len, reverse=True):
        fold = int(np.argmin(sizes))
        folds[sequence] = fold
        sizes[fold] += len(sequence)

    cut = not _balanced(folds, present)
    if cut:
        number = 0  # continues over sequences, so that short ones do not all start in fold 0
        for sequence in sequences:
            count = min(len(sequence), max(FOLDS, -(-len(sequence) * FOLDS // STRETCH)))
            for piece in np.array_split(sequence, count):
                folds[piece] = number % FOLDS
                number += 1
    return folds, cut


def names_across_splits(keys: Sequence[str]) -> Sequence[str]:
    """Return the keys without their folders train and val, because a sequence may be in both.

    The folders stay if a name is in both.
    """
    names = [re.sub(rf"^({'|'.join(AUDITED)})/", "", key) for key in keys]
    return names if len(set(names)) == len(keys) else keys


def _balanced(folds: np.ndarray, present: np.ndarray) -> bool:
    """Return whether no fold is too large or empty, and none has a class alone."""
    counts = np.bincount(folds, minlength=FOLDS)
    images = np.array([present[folds == fold].sum(axis=0) for fold in range(FOLDS)])  # (FOLDS, K)
    alone = (images == images.sum(axis=0)) & (images > 1)  # a class in one image cannot be split
    return bool(counts.max() <= LARGEST * len(folds) and counts.min() > 0 and not alone.any())
