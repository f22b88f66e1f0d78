"""What an audit keeps of an image: masks, and features of regions with and without faults."""

import zipfile
import zlib
from dataclasses import dataclass, fields
from pathlib import Path

import numpy as np

from featherseg.auditing.evidence import evidence_of
from featherseg.auditing.faults import FAULTS, plant
from featherseg.auditing.regions import Prediction, regions_of
from featherseg.core.files import write_atomic

WRONG, UNSURE = 0.15, 0.02
"""A region is wrong if at least this share of its pixels changed, and right below the second;
nothing is learned from those between.
"""


def example_file(folder: Path, number: int) -> Path:
    """Return the file of the Example of an image."""
    return folder / f"{number:06d}.npz"


@dataclass(frozen=True)
class Example:
    """An image as audited. Copy 0 is its mask as it is, the other copies have a planted fault.

    Attributes:
        size: (height, width) of the image.
        label, prediction: (H, W) uint8 at the size of the audit.
        kinds, classes, boxes: Of the regions of copy 0, (N,), (N,) and (N, 4).
        features: Of the regions of all copies, (M, F).
        copies: The copy of each of these regions, (M,).
        changed: The share of each region that a fault changed, (M,).
        evidence: EVIDENCE of each copy, (C, E).
        faults: The number of each copy's fault, (C,), -1 = none.
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
        """Write it atomically, compressed."""
        write_atomic(path, lambda file: np.savez_compressed(file, **self.__dict__))

    @classmethod
    def load(cls, path: Path) -> "Example":
        """Read an Example. Raises OSError, and ValueError for a damaged file."""
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
    """Return the Example of an image, with a copy for each fault that the mask can have.

    Args:
        label: (H, W) uint8.
        probabilities: (K, H, W) at the same pixels.
        size: (height, width) of the image.
        other: The mask of another image.
    """
    prediction = Prediction(probabilities)
    as_is = regions_of(label, prediction)
    features, evidence = [as_is.features], [evidence_of(label, prediction)]
    copies, changed = [np.zeros(len(as_is.kinds), np.int64)], [np.zeros(len(as_is.kinds))]
    planted = [-1]
    for fault in faults:
        faulty = plant(label, fault, len(probabilities), rng, other)
        difference = faulty != label
        if not difference.any():
            continue
        regions = regions_of(faulty, prediction)
        features.append(regions.features)
        copies.append(np.full(len(regions.kinds), len(planted)))
        changed.append(regions.share(difference))
        evidence.append(evidence_of(faulty, prediction))
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
