"""What is kept of an image: the features of its regions as it is and with planted faults, and the two masks."""

import zipfile
import zlib
from dataclasses import dataclass, fields
from pathlib import Path

import numpy as np

from featherseg.auditing.evidence import evidence_of
from featherseg.auditing.faults import FAULTS, plant
from featherseg.auditing.regions import Prediction, regions_of
from featherseg.core.files import write_atomic

WRONG = 0.15
"""A region is called wrong from this share of changed pixels on ..."""

UNSURE = 0.02
"""... and right below this one; nothing is learnt from those between."""


def kept_file(folder: Path, number: int) -> Path:
    """Where the Example of an image is kept."""
    return folder / f"{number:06d}.npz"


@dataclass(frozen=True)
class Example:
    """An image as audited: its masks, and `copies`: the first the image as it is, the others with a planted fault.

    label, prediction (H, W) uint8; kinds, classes (N,) and boxes (N, 4) of the regions as it is; of all copies the
    features (M, F) of the regions, which copy each is of (M,), the share of it that was changed (M,); of every copy
    the EVIDENCE (C, E), the number of its fault (C,), -1 = none; size: (height, width) of the image.
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
    evidence: np.ndarray
    faults: np.ndarray

    def save(self, path: Path) -> None:
        """Atomically, compressed."""
        write_atomic(path, lambda file: np.savez_compressed(file, **self.__dict__))

    @classmethod
    def load(cls, path: Path) -> "Example":
        """Raises OSError, and ValueError for a file that is damaged, by a full disk or a fault of it."""
        try:
            with open(path, "rb") as file, np.load(file, allow_pickle=False) as arrays:
                return cls(**{field.name: arrays[field.name] for field in fields(cls)})
        except (KeyError, ValueError, EOFError, zlib.error, zipfile.BadZipFile) as error:
            raise ValueError(f"{path} is damaged") from error


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
    prediction = Prediction(probabilities)
    as_is = regions_of(label, prediction)
    features, copies, changed = (
        [as_is.features],
        [np.zeros(len(as_is.kinds), np.int64)],
        [np.zeros(len(as_is.kinds))],
    )
    evidence, planted = [evidence_of(label, prediction)], [-1]
    for fault in faults:
        made = plant(label, fault, len(probabilities), rng, other)
        difference = made != label
        if not difference.any():
            continue
        found = regions_of(made, prediction)
        features.append(found.features)
        copies.append(np.full(len(found.kinds), len(planted)))
        changed.append(found.share(difference))
        evidence.append(evidence_of(made, prediction))
        planted.append(FAULTS.index(fault))
    return Example(
        np.array(size),
        label,
        prediction.mask,
        as_is.kinds.astype(np.uint8),
        as_is.classes.astype(np.uint8),
        as_is.boxes.astype(np.int32),
        np.concatenate(features),
        np.concatenate(copies).astype(np.uint8),
        np.concatenate(changed).astype(np.float32),
        np.array(evidence, np.float32),
        np.array(planted, np.int8),
    )
