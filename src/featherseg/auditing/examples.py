"""What is kept of an image: the features of its regions as it is and with planted faults, and the two masks."""

import zipfile
from dataclasses import dataclass, fields
from pathlib import Path

import numpy as np

from featherseg.auditing.faults import FAULTS, plant
from featherseg.auditing.regions import Regions, regions_of
from featherseg.auditing.soft_minimum import soft_minimum
from featherseg.core.files import write_atomic
from featherseg.core.types import IGNORE

WRONG = 0.3
"""A region is called wrong from this share of changed pixels on ..."""

UNSURE = 0.02
"""... and right below this one; nothing is learnt from those between."""


@dataclass(frozen=True)
class Example:
    """An image as audited: its masks, and `copies`: the first the image as it is, the others with a planted fault.

    label, prediction (H, W) uint8; kinds, classes (N,) and boxes (N, 4) of the regions as it is; of all copies the
    features (M, F) of the regions, which copy each is of (M,), the share of it that was changed (M,); of every copy
    the features of the whole image (C, 4), the number of its fault (C,), -1 = none; size: (height, width) of the image.
    """

    size: np.ndarray
    label: np.ndarray
    prediction: np.ndarray
    kinds: np.ndarray
    classes: np.ndarray
    boxes: np.ndarray
    features: np.ndarray
    copies: np.ndarray
    changed: np.ndarray
    whole: np.ndarray
    faults: np.ndarray

    def save(self, path: Path) -> None:
        """Atomically, compressed."""
        write_atomic(path, lambda file: np.savez_compressed(file, **self.__dict__))

    @classmethod
    def load(cls, path: Path) -> "Example":
        """Raises OSError, and ValueError for a file that is damaged."""
        try:
            with open(path, "rb") as file, np.load(file, allow_pickle=False) as arrays:
                return cls(**{field.name: arrays[field.name] for field in fields(cls)})
        except (KeyError, zipfile.BadZipFile) as error:
            raise ValueError(f"{path} is damaged: {error}") from error


def examine(
    label: np.ndarray,
    probabilities: np.ndarray,
    size: tuple[int, int],
    faults: tuple[str, ...],
    rng: np.random.Generator,
    other: np.ndarray,
) -> Example:
    """Everything about one image: label (H, W) uint8, probabilities (K, H, W) at the same pixels; size of the image.

    faults are planted into a copy each, those that the mask can have; other: the mask of another image.
    """
    as_is = regions_of(label, probabilities)
    features, copies, changed = [as_is.features], [np.zeros(len(as_is.kinds), np.int64)], [np.zeros(len(as_is.kinds))]
    whole, planted = [_of_whole(label, probabilities)], [-1]
    for fault in faults:
        made = plant(label, fault, len(probabilities), rng, other)
        difference = made != label
        if not difference.any():
            continue
        found: Regions = regions_of(made, probabilities)
        features.append(found.features)
        copies.append(np.full(len(found.kinds), len(planted)))
        changed.append(found.share(difference))
        whole.append(_of_whole(made, probabilities))
        planted.append(FAULTS.index(fault))
    return Example(
        np.array(size),
        label,
        probabilities.argmax(axis=0).astype(np.uint8),
        as_is.kinds.astype(np.uint8),
        as_is.classes.astype(np.uint8),
        as_is.boxes.astype(np.int32),
        np.concatenate(features),
        np.concatenate(copies).astype(np.uint8),
        np.concatenate(changed).astype(np.float32),
        np.array(whole, np.float32),
        np.array(planted, np.int8),
    )


def _of_whole(label: np.ndarray, probabilities: np.ndarray) -> tuple[float, float, float, float]:
    """Soft-minimum, mean probability of the given label, share of pixels that differ, mean of the best class's."""
    known = label != IGNORE
    if not known.any():
        return 1.0, 1.0, 0.0, 1.0
    given = np.take_along_axis(probabilities, np.where(known, label, 0)[None].astype(np.int64), 0)[0][known]
    differs = (probabilities.argmax(axis=0) != label)[known].mean()
    return soft_minimum(given), float(given.mean()), float(differs), float(probabilities.max(axis=0)[known].mean())
