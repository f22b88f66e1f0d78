"""Targets of the instance branch: centres of objects, and offsets of pixels to their centre.

Panoptic-DeepLab's targets (Cheng et al., CVPR 2020, Sec. 3.2), with two differences from the
authors' code. A crowd is no object, so it has no centre, no offsets and no weight for being small.
Offsets are in pixels of the image, whatever the stride of the model.
"""

from collections.abc import Collection
from functools import cache
from typing import Generic, NamedTuple, TypeVar

import numpy as np

from featherseg.core.types import IGNORE, Size

SIGMA = 8
"""Standard deviation of a centre's Gaussian in pixels, as the authors use for full-size images."""

SMALL_AREA, SMALL_WEIGHT = 4096, 3.0
"""Area in pixels below which an object is small at a sigma of SIGMA, and its semantic weight."""

Array = TypeVar("Array")


class PanopticTargets(NamedTuple, Generic[Array]):
    """Targets of one image, numpy arrays of float32; collate makes a batch of tensors, (B, ...).

    Attributes:
        center: 1 at every object's centre, 0..1, (H, W).
        offset: (dy, dx) in pixels from a pixel to the centre of its object, else 0, (2, H, W).
        center_weight: 0 on void and crowds, else 1, (H, W).
        offset_weight: 1 on objects, else 0, (H, W).
        semantic_weight: SMALL_WEIGHT on small objects, else 1, (H, W).
    """

    center: Array
    offset: Array
    center_weight: Array
    offset_weight: Array
    semantic_weight: Array


def panoptic_targets(
    label: np.ndarray, instances: np.ndarray, things: Collection[int], sigma: int = SIGMA
) -> PanopticTargets[np.ndarray]:
    """Return the targets of an image.

    An object is the set of pixels with one id > 0 and a class of `things`, as far as the image
    shows it: the centre of an object that a crop cuts is that of the rest. Pixels of such a class
    without an id are a crowd.

    Args:
        label: Class ids, (H, W) uint8.
        instances: Integer ids, (H, W).
        things: Ids of the classes with instances.
        sigma: Standard deviation of the Gaussians in pixels, which end 3 sigma + 1 rows or columns
            from the centre. An image of half the size has half the sigma, and an object of a
            quarter of the pixels is small in it.
    """
    of_thing = np.isin(np.arange(IGNORE + 1), list(things))[label]  # (H, W) bool
    on_object = of_thing & (instances > 0)

    # The centre of an object is the mean of its pixels
    rows, columns = np.nonzero(on_object)  # (N,) each: the pixels of all objects
    number, count = _numbered(instances[rows, columns])
    areas = np.bincount(number, minlength=count)  # (count,)
    center_rows = np.bincount(number, rows, count) / areas  # (count,) float64
    center_columns = np.bincount(number, columns, count) / areas

    # From each pixel of an object to its centre
    offset = np.zeros((2, *label.shape), dtype=np.float32)
    offset[0, rows, columns] = center_rows[number] - rows
    offset[1, rows, columns] = center_columns[number] - columns

    semantic_weight = np.ones(label.shape, dtype=np.float32)
    small = areas * SIGMA**2 < SMALL_AREA * sigma**2
    semantic_weight[rows, columns] = np.where(small, SMALL_WEIGHT, 1.0)[number]
    return PanopticTargets(
        center=_center_map(label.shape, center_rows.astype(int), center_columns.astype(int), sigma),
        offset=offset,
        center_weight=((label != IGNORE) & (on_object | ~of_thing)).astype(np.float32),
        offset_weight=on_object.astype(np.float32),
        semantic_weight=semantic_weight,
    )


def _numbered(ids: np.ndarray) -> tuple[np.ndarray, int]:
    """Number ids (N,) from 0 in ascending order: (numbers, count). Runs are sorted, not pixels."""
    starts = np.flatnonzero(np.diff(ids, prepend=ids[:1] - 1))  # (R,): where a run begins
    known, numbers = np.unique(ids[starts], return_inverse=True)
    return np.repeat(numbers, np.diff(starts, append=len(ids))), len(known)


def _center_map(size: Size, rows: np.ndarray, columns: np.ndarray, sigma: int) -> np.ndarray:
    """Return a Gaussian around every centre, (H, W) float32; the largest value counts."""
    # A border of half a patch, so that patches at the edge need no clipping
    patch = _gaussian(sigma)
    reach = len(patch) // 2
    padded = np.zeros((size[0] + 2 * reach, size[1] + 2 * reach), dtype=np.float32)
    for row, column in zip(rows.tolist(), columns.tolist(), strict=True):
        around = padded[row : row + len(patch), column : column + len(patch)]
        np.maximum(around, patch, out=around)
    return np.ascontiguousarray(padded[reach:-reach, reach:-reach])


@cache
def _gaussian(sigma: int) -> np.ndarray:
    """Return a Gaussian, (6 sigma + 3, 6 sigma + 3) float32, 1 in the middle."""
    squares = np.arange(-3 * sigma - 1, 3 * sigma + 2) ** 2
    return np.exp((squares[:, None] + squares) / (-2 * sigma**2)).astype(np.float32)
