"""Class-uniform sampling, for rare classes (Zhu et al., CVPR 2019, arXiv:1812.01593; SFNet).

Each image is cut into tiles, and each class in a tile gets one point there. For a share of the
training samples, a class is drawn, all with the same probability, then one of its points: the crop
contains this point.
"""

from dataclasses import dataclass
from pathlib import Path

import numpy as np

from featherseg.core.errors import DataError
from featherseg.core.files import write_atomic
from featherseg.core.types import IGNORE, SegmentationData

Point = tuple[int, int]
"""(row, column) of a pixel."""


class ClassPoints:
    """Points of the classes of a dataset: rows (n, 4) int32 of class id, image, row, column."""

    def __init__(self, rows: np.ndarray) -> None:
        self.rows = rows
        self.by_class = [rows[rows[:, 0] == index, 1:] for index in np.unique(rows[:, 0])]

    def draw(self, rng: np.random.Generator) -> tuple[int, Point]:
        """Return (image, point): draw a class, all equally likely, then one of its points."""
        points = self.by_class[rng.integers(len(self.by_class))]  # (n_c, 3)
        image, row, column = points[rng.integers(len(points))].tolist()
        return image, (row, column)

    def save(self, path: Path) -> None:
        """Write the rows as .npy, atomically."""
        write_atomic(path, lambda file: np.save(file, self.rows))


@dataclass(frozen=True)
class ClassUniform:
    """The share (0..1) of the samples that are drawn by class, and the points of the classes."""

    share: float
    points: ClassPoints


def find_class_points(data: SegmentationData, tile: int) -> ClassPoints:
    """Return the points of all labels, in square tiles of `tile` pixels; the last may be smaller.

    Raises DataError if no pixel of any label has a class, and the errors of reading a label.
    """
    rows = []
    for image in range(len(data)):
        label = data.label(image)  # (H, W)
        for top in range(0, label.shape[0], tile):
            for left in range(0, label.shape[1], tile):
                points = tile_points(label[top : top + tile, left : left + tile])
                rows += [
                    (index, image, top + row, left + column)
                    for index, (row, column) in points.items()
                ]
    if not rows:
        raise DataError(
            f"{data.name}: all pixels of all {len(data)} labels are ignored, so no class can be "
            "sampled."
        )
    return ClassPoints(np.array(rows, dtype=np.int32))


def tile_points(tile: np.ndarray) -> dict[int, Point]:
    """Return class id -> the pixel of the class nearest to the centre of its pixels, of (h, w).

    The published scripts take the centre itself, which may be a pixel of another class.
    """
    flat = tile.ravel()
    order = np.argsort(flat, kind="stable")  # pixels, class by class
    counts = np.bincount(flat, minlength=IGNORE + 1)
    ends = np.cumsum(counts)
    points = {}
    for index in np.flatnonzero(counts[:IGNORE]).tolist():
        rows, columns = np.divmod(order[ends[index] - counts[index] : ends[index]], tile.shape[1])
        nearest = np.argmin((rows - rows.mean()) ** 2 + (columns - columns.mean()) ** 2)
        points[index] = (int(rows[nearest]), int(columns[nearest]))
    return points
