"""Boundary F measure (Csurka et al., "What is a good evaluation measure for semantic segmentation?", BMVC 2013).

A boundary pixel of class k is a pixel of class k with a 4-neighbour of another class. Pixels whose label is ignore are
taken out of both maps first: they are no boundary, and a pixel is no boundary for lying beside them or beside the
image's edge. Per image and class, precision is the share of predicted boundary pixels that have a true one of the
same class within the tolerance (Euclidean, between pixel centres), recall the reverse, F their harmonic mean.
Empty sets: no boundary in either map is F = 1 (nothing to find, nothing invented), in just one of them F = 0.
An image's score is the mean over the classes in its ground truth, a dataset's the mean over its images.
"""

import math

import numpy as np

from featherseg.core.types import IGNORE

TOLERANCE = 0.0075
"""Share of the image's diagonal."""

_VOID = 256  # predicted as no class: a region of its own, without a boundary of its own


class BoundaryF:
    """Boundary F of a dataset: `update` with each image, then `mean()` and `per_class()`."""

    def __init__(self, classes: int, tolerance: float = TOLERANCE) -> None:
        self.classes, self.tolerance = classes, tolerance
        self._images: list[float] = []
        self._sum = np.zeros(classes)
        self._count = np.zeros(classes, dtype=np.int64)

    def update(self, label: np.ndarray, prediction: np.ndarray) -> None:
        """Add one image, both (H, W) integers; an image without a labelled pixel counts nowhere."""
        f = boundary_f(label, prediction, self.classes, self.tolerance)
        present = ~np.isnan(f)
        if present.any():
            self._images.append(float(f[present].mean()))
            self._sum[present] += f[present]
            self._count[present] += 1

    def mean(self) -> float:
        """Mean over the images, 0..1; NaN where there was none."""
        return float(np.mean(self._images)) if self._images else float("nan")

    def per_class(self) -> np.ndarray:
        """Mean over the images whose ground truth has the class, (K,) 0..1; NaN for a class in no truth."""
        return np.where(self._count > 0, self._sum / np.maximum(self._count, 1), np.nan)


def boundary_f(label: np.ndarray, prediction: np.ndarray, classes: int, tolerance: float = TOLERANCE) -> np.ndarray:
    """F of each class in one image, (K,) 0..1; NaN for classes that its ground truth (H, W) does not hold."""
    ignored = label == IGNORE
    true, seen = label.astype(np.int16), prediction.astype(np.int16)  # room for _VOID
    seen[(prediction < 0) | (prediction >= classes)] = _VOID
    seen[ignored] = IGNORE
    radius = tolerance * math.hypot(*label.shape)
    true_at, seen_at = class_boundaries(true), class_boundaries(seen)
    precision_hits, recall_hits = np.zeros(classes), np.zeros(classes)
    for first in range(0, classes, 64):
        true_bits, seen_bits = _as_bits(true, true_at, first, classes), _as_bits(seen, seen_at, first, classes)
        precision_hits += _count(seen, (seen_bits & dilate(true_bits, radius)) != 0, classes)
        recall_hits += _count(true, (true_bits & dilate(seen_bits, radius)) != 0, classes)
    in_seen, in_true = _count(seen, seen_at, classes), _count(true, true_at, classes)
    present = np.bincount(true.ravel(), minlength=classes)[:classes] > 0
    return np.where(present, _f(precision_hits, in_seen, recall_hits, in_true), np.nan)


def class_boundaries(values: np.ndarray) -> np.ndarray:
    """(H, W) -> bool (H, W): pixels with a 4-neighbour of another value, neither being IGNORE."""
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
    """OR of every pixel's bits over the disk of `radius` around it; (H, W) unsigned -> the same shape.

    The disk is a stack of rows, from its top row (narrowest) to its middle one: the row-wise dilation grows from one to
    the next and is laid at both its heights, so that a disk costs O(radius) passes over the image.
    """
    reach = int(radius)
    row = bits.copy()  # bits dilated along the rows by `half` to either side
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
    """Move by `by` pixels along an axis, zeros coming in."""
    moved = np.zeros_like(bits)
    length = bits.shape[axis]
    if abs(by) < length:
        to, source = slice(max(by, 0), length + min(by, 0)), slice(max(-by, 0), length - max(by, 0))
        index = (slice(None),) * axis
        moved[(*index, to)] = bits[(*index, source)]
    return moved


def _as_bits(values: np.ndarray, at: np.ndarray, first: int, classes: int) -> np.ndarray:
    """Bit k - first at the boundary pixels of class k, for up to 64 classes; in the smallest unsigned type."""
    count = min(classes - first, 64)
    kind = next(t for t, bits in ((np.uint8, 8), (np.uint16, 16), (np.uint32, 32), (np.uint64, 64)) if count <= bits)
    table = np.zeros(_VOID + 1, dtype=kind)
    table[first : first + count] = np.left_shift(kind(1), np.arange(count, dtype=kind))
    return np.where(at, table[values], kind(0))


def _count(values: np.ndarray, at: np.ndarray, classes: int) -> np.ndarray:
    return np.bincount(values[at], minlength=classes)[:classes]


def _f(precision_hits: np.ndarray, seen: np.ndarray, recall_hits: np.ndarray, true: np.ndarray) -> np.ndarray:
    precision = np.where(seen > 0, precision_hits / np.maximum(seen, 1), 0.0)
    recall = np.where(true > 0, recall_hits / np.maximum(true, 1), 0.0)
    total = precision + recall
    f = np.where(total > 0, 2 * precision * recall / np.where(total > 0, total, 1.0), 0.0)
    return np.where((seen == 0) & (true == 0), 1.0, f)
