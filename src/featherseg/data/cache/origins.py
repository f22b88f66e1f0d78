"""Where the pixels of a training crop come from, to look up a teacher's outputs for them.

Places are (row, column, 1) in pixels; the middle of the first pixel is at (0.5, 0.5). A 3x3 matrix
maps places in a crop to places in the image that it was cut from.
"""

import math
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor


class Origins(NamedTuple):
    """owner (h, w) uint8: n if a pixel comes from part n - 1, 0 if it was filled.

    parts: the number of each part's image, and the matrix from the crop to that image.
    """

    owner: Tensor
    parts: tuple[tuple[int, np.ndarray], ...]

    def of(self, index: int) -> "Origins":
        """Return the same with all parts from image number `index`."""
        return self._replace(parts=tuple((index, matrix) for _, matrix in self.parts))

    def moved(self, owner: Tensor, matrix: np.ndarray) -> "Origins":
        """Return the origins of a moved crop; `matrix` maps its places to those of this crop."""
        return Origins(owner, tuple((index, part @ matrix) for index, part in self.parts))

    def pasted(self, other: "Origins", where: Tensor) -> "Origins":
        """Return the origins of this crop with another one pasted `where` (h, w) bool is true."""
        of_other = torch.where(other.owner > 0, other.owner + len(self.parts), 0)
        owner = torch.where(where, of_other, self.owner).to(torch.uint8)
        return Origins(owner, self.parts + other.parts)


def stretched(source: tuple[slice, slice], target: tuple[slice, slice]) -> np.ndarray:
    """Return the matrix from a rectangle of a crop (rows, columns) to its source in the image."""
    matrix = np.eye(3)
    for axis, (image, crop) in enumerate(zip(source, target, strict=True)):
        factor = (image.stop - image.start) / (crop.stop - crop.start)
        matrix[axis, axis], matrix[axis, 2] = factor, image.start - factor * crop.start
    return matrix


def turned(size: tuple[int, int], degrees: float) -> np.ndarray:
    """Return the matrix from a crop, turned clockwise around its middle, to the crop before."""
    cosine, sine = math.cos(math.radians(degrees)), math.sin(math.radians(degrees))
    to_middle, back = np.eye(3), np.eye(3)
    to_middle[:2, 2], back[:2, 2] = (-size[0] / 2, -size[1] / 2), (size[0] / 2, size[1] / 2)
    return back @ np.array([[cosine, -sine, 0], [sine, cosine, 0], [0, 0, 1]]) @ to_middle


def flipped(width: int) -> np.ndarray:
    """Return the matrix from a crop of `width` pixels, flipped left to right, to the one before."""
    return np.array([[1.0, 0, 0], [0, -1, width], [0, 0, 1]])
