"""What an instance branch learns from: the centres of an image's objects, and the way from each pixel to its own.

Panoptic-DeepLab's targets (Cheng et al., CVPR 2020, Sec. 3.2). Two things differ from the authors' code: a crowd region
is no object, so it draws no centre, pulls no pixel and gets no weight for being small; and offsets are in pixels of
the image everywhere, whatever the stride of the model.
"""

from collections.abc import Collection
from functools import cache
from typing import Generic, NamedTuple, TypeVar

import numpy as np

from featherseg.core.types import IGNORE, Size

SIGMA = 8
"""Standard deviation of a centre's Gaussian in pixels, that of the authors, for full-size images."""

SMALL_AREA, SMALL_WEIGHT = 4096, 3.0
"""Pixels under which an object counts as small at a sigma of SIGMA; how much its pixels weigh in the semantic loss."""

Array = TypeVar("Array")


class PanopticTargets(NamedTuple, Generic[Array]):
    """Targets of one image: numpy arrays of float32; torch's collate makes a batch of tensors, (B, ...) each.

    center (H, W), 0..1, is 1 at every object's centre; offset (2, H, W) is (dy, dx) in pixels from a pixel to the
    centre of its object, 0 elsewhere. The weights (H, W) say how much a pixel counts: center_weight is 1 where what is
    there is known (0 on void and crowd), offset_weight 1 on objects, semantic_weight SMALL_WEIGHT on small objects and
    1 elsewhere.
    """

    center: Array
    offset: Array
    center_weight: Array
    offset_weight: Array
    semantic_weight: Array


def panoptic_targets(
    label: np.ndarray, instances: np.ndarray, things: Collection[int], sigma: int = SIGMA
) -> PanopticTargets[np.ndarray]:
    """label (H, W) uint8 class ids, instances (H, W) integer ids, ids of the classes with instances -> the targets.

    The Gaussians have a standard deviation of `sigma` pixels and are cut off beyond 3 sigma + 1 rows or columns. An
    image half the size has half the sigma, and an object of a quarter of the pixels counts as small in it.
    An object is the set of pixels with one id > 0 and a class of `things`, as far as the image holds it: of one that
    a crop has cut, the centre is that of what is left. Pixels of such a class without an id are treated as a crowd.
    """
    of_thing = np.isin(np.arange(IGNORE + 1), list(things))[label]  # (H, W) bool
    on_object = of_thing & (instances > 0)
    rows, columns = np.nonzero(on_object)  # (N,) each: the pixels of all objects
    number, count = _numbered(instances[rows, columns])
    areas = np.bincount(number, minlength=count)  # (count,)
    center_rows = np.bincount(number, rows, count) / areas  # (count,) float64
    center_columns = np.bincount(number, columns, count) / areas

    offset = np.zeros((2, *label.shape), dtype=np.float32)
    offset[0, rows, columns] = center_rows[number] - rows
    offset[1, rows, columns] = center_columns[number] - columns
    semantic_weight = np.ones(label.shape, dtype=np.float32)
    semantic_weight[rows, columns] = np.where(
        areas * SIGMA**2 < SMALL_AREA * sigma**2, SMALL_WEIGHT, 1.0
    )[number]
    return PanopticTargets(
        center=_center_map(label.shape, center_rows.astype(int), center_columns.astype(int), sigma),
        offset=offset,
        center_weight=((label != IGNORE) & (on_object | ~of_thing)).astype(np.float32),
        offset_weight=on_object.astype(np.float32),
        semantic_weight=semantic_weight,
    )


def _numbered(ids: np.ndarray) -> tuple[np.ndarray, int]:
    """Ids (N,) of any size -> numbers 0..count - 1 in their order, count. Sorts runs of equal ids, not pixels."""
    starts = np.flatnonzero(np.diff(ids, prepend=ids[:1] - 1))  # (R,): where a run begins
    known, numbers = np.unique(ids[starts], return_inverse=True)
    return np.repeat(numbers, np.diff(starts, append=len(ids))), len(known)


def _center_map(size: Size, rows: np.ndarray, columns: np.ndarray, sigma: int) -> np.ndarray:
    """A Gaussian around every centre, the largest value where they meet: (H, W) float32."""
    patch = _gaussian(sigma)
    reach = len(patch) // 2
    padded = np.zeros((size[0] + 2 * reach, size[1] + 2 * reach), dtype=np.float32)
    for row, column in zip(rows.tolist(), columns.tolist(), strict=True):
        around = padded[row : row + len(patch), column : column + len(patch)]
        np.maximum(around, patch, out=around)
    return np.ascontiguousarray(padded[reach:-reach, reach:-reach])


@cache
def _gaussian(sigma: int) -> np.ndarray:
    """(6 sigma + 3, 6 sigma + 3) float32, 1 in the middle."""
    squares = np.arange(-3 * sigma - 1, 3 * sigma + 2) ** 2
    return np.exp((squares[:, None] + squares) / (-2 * sigma**2)).astype(np.float32)
