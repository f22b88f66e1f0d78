"""Where the pixels of a training crop come from, for what is looked up beside the image: a teacher's outputs.

Places are (row, column, 1) in pixels, the middle of the first pixel being (0.5, 0.5); a 3x3 matrix takes those of a
crop to those of the image that it was cut from.
"""

import math
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor


class Origins(NamedTuple):
    """owner (h, w) uint8: 0 where a crop was filled up, n where the pixel comes from part n - 1.

    parts: of each the number of its image, and the matrix from the crop to there.
    """

    owner: Tensor
    parts: tuple[tuple[int, np.ndarray], ...]

    def of(self, index: int) -> "Origins":
        """The same, all of image number `index`."""
        return self._replace(parts=tuple((index, matrix) for _, matrix in self.parts))

    def moved(self, owner: Tensor, matrix: np.ndarray) -> "Origins":
        """Those of a crop whose places `matrix` takes to the old ones, with the owners as they come to lie."""
        return Origins(owner, tuple((index, own @ matrix) for index, own in self.parts))

    def pasted(self, other: "Origins", where: Tensor) -> "Origins":
        """Those of a crop that is another one `where` (h, w) bool says so."""
        theirs = torch.where(other.owner > 0, other.owner + len(self.parts), 0)
        owner = torch.where(where, theirs, self.owner).to(torch.uint8)
        return Origins(owner, self.parts + other.parts)


def stretched(source: tuple[slice, slice], target: tuple[slice, slice]) -> np.ndarray:
    """The matrix from a rectangle (rows, columns) of a crop, `target`, to the one of the image that fills it."""
    matrix = np.eye(3)
    for axis, (there, here) in enumerate(zip(source, target, strict=True)):
        factor = (there.stop - there.start) / (here.stop - here.start)
        matrix[axis, axis], matrix[axis, 2] = factor, there.start - factor * here.start
    return matrix


def turned(size: tuple[int, int], degrees: float) -> np.ndarray:
    """The matrix from a crop of `size` that was turned clockwise around its middle to what it was before."""
    cosine, sine = math.cos(math.radians(degrees)), math.sin(math.radians(degrees))
    to_middle, back = np.eye(3), np.eye(3)
    to_middle[:2, 2], back[:2, 2] = (-size[0] / 2, -size[1] / 2), (size[0] / 2, size[1] / 2)
    return back @ np.array([[cosine, -sine, 0], [sine, cosine, 0], [0, 0, 1]]) @ to_middle


def flipped(width: int) -> np.ndarray:
    """The matrix from a crop of `width` pixels, left and right exchanged, to what it was before."""
    return np.array([[1.0, 0, 0], [0, -1, width], [0, 0, 1]])
