"""Copy-paste of rare classes (after Ghiasi et al., CVPR 2021): what is rare, and which images hold it."""

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
    """Which images hold a rare class: rows (n, 2) int32 of class id and image."""

    rows: np.ndarray

    @property
    def classes(self) -> list[int]:
        """Their ids."""
        return [int(index) for index in np.unique(self.rows[:, 0])]

    def draw(self, rng: np.random.Generator) -> tuple[int, int]:
        """-> (class, image that holds it): each rare class is as likely, and of a class each image."""
        index = int(rng.choice(self.classes))
        return index, int(rng.choice(self.rows[self.rows[:, 0] == index, 1]))

    def save(self, path: Path) -> None:
        """Atomically write the rows as .npy."""
        write_atomic(path, lambda file: np.save(file, self.rows))


def find_rare_classes(data: SegmentationData) -> RareClasses:
    """The third of the classes that occur with the fewest pixels in all; one pass over all labels.

    Raises what reading a label raises, and DataError where no pixel of any label has a class.
    """
    counts = np.stack(
        [
            np.bincount(data.label(i).ravel(), minlength=IGNORE + 1)[:IGNORE]
            for i in range(len(data))
        ]
    )
    pixels = counts.sum(axis=0)
    occur = np.flatnonzero(pixels)
    if not len(occur):
        raise DataError(
            f"{data.name}: all pixels of all {len(data)} labels are ignored, so no class can be pasted."
        )
    rare = occur[np.argsort(pixels[occur], kind="stable")][: int(np.ceil(RARE * len(occur)))]
    rows = [
        (index, image)
        for index in sorted(rare.tolist())
        for image in np.flatnonzero(counts[:, index]).tolist()
    ]
    return RareClasses(np.array(rows, dtype=np.int32))
