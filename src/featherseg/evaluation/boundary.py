"""Boundary F measure (Csurka et al., BMVC 2013).

A boundary pixel of class k is a pixel of class k with a 4-neighbour of another class. Pixels
whose label is ignore are removed from both maps first: they are no boundary, and neither they nor
the edge of the image make their neighbours a boundary. Per image and class, precision is the
share of the predicted boundary pixels with a true one of the same class within the tolerance
(Euclidean, between pixel centres), recall is the reverse, and F is their harmonic mean. If
neither map has a boundary of the class, F is 1; if only one has, F is 0. The score of an image is
the mean over the classes in its ground truth, and the score of a dataset is the mean over its
images.
"""

import math

import numpy as np

from featherseg.core.types import IGNORE

TOLERANCE = 0.0075
"""Share of the image's diagonal."""

_VOID = 256  # predicted as no class: it bounds other classes, and has no boundary itself


class BoundaryF:
    """Boundary F of a dataset: `update` with each image, then `mean()` and `per_class()`."""

    def __init__(self, classes: int) -> None:
        self.classes = classes
        self._images: list[float] = []
        self._sum = np.zeros(classes)
        self._count = np.zeros(classes, dtype=np.int64)

    def update(self, label: np.ndarray, prediction: np.ndarray) -> None:
        """Add one image, both (H, W) integers; an image without a labelled pixel is skipped."""
        f = boundary_f(label, prediction, self.classes)
        present = ~np.isnan(f)
        if present.any():
            self._images.append(float(f[present].mean()))
            self._sum[present] += f[present]
            self._count[present] += 1

    def mean(self) -> float:
        """Return the mean over the images, 0..1; NaN if there was none."""
        return float(np.mean(self._images)) if self._images else float("nan")

    def per_class(self) -> np.ndarray:
        """Return the mean over the images whose ground truth has the class, (K,) 0..1 or NaN."""
        return np.where(self._count > 0, self._sum / np.maximum(self._count, 1), np.nan)


def boundary_f(
    label: np.ndarray,
    prediction: np.ndarray,
    classes: int,
    tolerance: float = TOLERANCE,
) -> np.ndarray:
    """Return F of each class in one image (H, W), (K,) 0..1; NaN for a class not in its label."""
    ignored = label == IGNORE
    true, seen = label.astype(np.int16), prediction.astype(np.int16)  # room for _VOID
    seen[(prediction < 0) | (prediction >= classes)] = _VOID
    seen[ignored] = IGNORE
    radius = tolerance * math.hypot(*label.shape)
    true_at, seen_at = class_boundaries(true), class_boundaries(seen)

    # A pixel is matched if the other map, dilated by the tolerance, has its class there.
    precision_hits, recall_hits = np.zeros(classes), np.zeros(classes)
    for first in range(0, classes, 64):  # one bit a class: 64 classes are dilated in one pass
        true_bits = _as_bits(true, true_at, first, classes)
        seen_bits = _as_bits(seen, seen_at, first, classes)
        precision_hits += _count(seen, (seen_bits & dilate(true_bits, radius)) != 0, classes)
        recall_hits += _count(true, (true_bits & dilate(seen_bits, radius)) != 0, classes)
    in_seen, in_true = _count(seen, seen_at, classes), _count(true, true_at, classes)
    present = np.bincount(true.ravel(), minlength=classes)[:classes] > 0
    return np.where(present, _f(precision_hits, in_seen, recall_hits, in_true), np.nan)


def class_boundaries(values: np.ndarray) -> np.ndarray:
    """Return a bool (H, W): pixels with a 4-neighbour of another value, neither being IGNORE."""
    at = np.zeros(values.shape, dtype=bool)
    for axis in (0, 1):
        a = np.take(values, range(values.shape[axis] - 1), axis)
        b = np.take(values, range(1, values.shape[axis]), axis)
        differ = (a != b) & (a != IGNORE) & (b != IGNORE)
        before = (slice(None, -1), slice(None)) if axis == 0 else (slice(None), slice(None, -1))
        after = (slice(1, None), slice(None)) if axis == 0 else (slice(None), slice(1, None))
        at[before] |= differ
        at[after] |= differ
    return at


def dilate(bits: np.ndarray, radius: float) -> np.ndarray:
    """Return the OR of every pixel's bits over the disk of `radius` around it; (H, W) unsigned.

    The disk is a stack of rows. From the top row, the narrowest, to the middle one, the dilation
    along the row grows and is added at both heights where the disk has that width. So a disk
    costs O(radius) passes over the image.
    """
    reach = int(radius)
    row = bits.copy()  # bits dilated along the rows by `half` pixels to either side
    result = np.zeros_like(bits)
    half = 0
    for dy in range(reach, -1, -1):
        target = math.isqrt(int(radius * radius + 1e-9) - dy * dy)
        while half < target:
            step = min(target - half, 2 * half + 1)
            row = row | _shift(row, step, 1) | _shift(row, -step, 1)
            half += step
        result |= _shift(row, dy, 0)
        if dy:
            result |= _shift(row, -dy, 0)
    return result


def _shift(bits: np.ndarray, by: int, axis: int) -> np.ndarray:
    """Return the bits moved by `by` pixels along an axis, with zeros shifted in."""
    moved = np.zeros_like(bits)
    length = bits.shape[axis]
    if abs(by) < length:
        to = slice(max(by, 0), length + min(by, 0))
        source = slice(max(-by, 0), length - max(by, 0))
        index = (slice(None),) * axis
        moved[(*index, to)] = bits[(*index, source)]
    return moved


def _as_bits(values: np.ndarray, at: np.ndarray, first: int, classes: int) -> np.ndarray:
    """Return bit k - first at the boundary pixels of class k, for up to 64 classes.

    The type is the smallest unsigned one with enough bits, because dilation costs by the byte.
    """
    count = min(classes - first, 64)
    kinds = (np.uint8, np.uint16, np.uint32, np.uint64)
    kind = next(kind for kind in kinds if count <= np.iinfo(kind).bits)
    table = np.zeros(_VOID + 1, dtype=kind)
    table[first : first + count] = np.left_shift(kind(1), np.arange(count, dtype=kind))
    return np.where(at, table[values], kind(0))


def _count(values: np.ndarray, at: np.ndarray, classes: int) -> np.ndarray:
    return np.bincount(values[at], minlength=classes)[:classes]


def _f(
    precision_hits: np.ndarray,
    seen: np.ndarray,
    recall_hits: np.ndarray,
    true: np.ndarray,
) -> np.ndarray:
    """Return F of each class, (K,), from its matched and all boundary pixels in both maps."""
    precision = np.where(seen > 0, precision_hits / np.maximum(seen, 1), 0.0)
    recall = np.where(true > 0, recall_hits / np.maximum(true, 1), 0.0)
    total = precision + recall
    f = np.where(total > 0, 2 * precision * recall / np.where(total > 0, total, 1.0), 0.0)
    return np.where((seen == 0) & (true == 0), 1.0, f)
