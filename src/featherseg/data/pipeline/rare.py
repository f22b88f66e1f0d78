"""Copy-paste of rare classes (after Ghiasi et al., CVPR 2021): which classes, from which images."""

from dataclasses import dataclass
from pathlib import Path

import numpy as np

from featherseg.core.errors import DataError
from featherseg.core.files import write_atomic
from featherseg.core.types import IGNORE, SegmentationData

RARE = 1 / 3
"""Share of the classes that count as rare, rounded up: 4 of CamVid's 11, 2 of 4."""


@dataclass(frozen=True)
class RareClasses:
    """The images that contain a rare class: rows (n, 2) int32 of class id and image."""

    rows: np.ndarray

    @property
    def classes(self) -> list[int]:
        """The ids of the rare classes."""
        return [int(index) for index in np.unique(self.rows[:, 0])]

    def draw(self, rng: np.random.Generator) -> tuple[int, int]:
        """Return (class, image with it); all rare classes are equally likely, then all images."""
        index = int(rng.choice(self.classes))
        return index, int(rng.choice(self.rows[self.rows[:, 0] == index, 1]))

    def save(self, path: Path) -> None:
        """Write the rows as .npy, atomically."""
        write_atomic(path, lambda file: np.save(file, self.rows))


def find_rare_classes(data: SegmentationData) -> RareClasses:
    """Return the third of the occurring classes with the fewest pixels; it reads all labels.

    Raises DataError if no pixel of any label has a class, and the errors of reading a label.
    """
    labels = (data.label(i).ravel() for i in range(len(data)))
    counts = np.stack([np.bincount(label, minlength=IGNORE + 1)[:IGNORE] for label in labels])
    pixels = counts.sum(axis=0)
    occurring = np.flatnonzero(pixels)
    if not len(occurring):
        raise DataError(
            f"{data.name}: all pixels of all {len(data)} labels are ignored, so no class can be "
            "pasted."
        )
    ordered = occurring[np.argsort(pixels[occurring], kind="stable")]
    rare = ordered[: int(np.ceil(RARE * len(occurring)))]
    rows = [
        (index, image)
        for index in sorted(rare.tolist())
        for image in np.flatnonzero(counts[:, index]).tolist()
    ]
    return RareClasses(np.array(rows, dtype=np.int32))
