"""Count how often each pair of label and prediction occurs."""

from typing import TypeVar

import numpy as np
import torch
from torch import Tensor

from featherseg.core.errors import DataError
from featherseg.core.types import IGNORE
from featherseg.kernels import library

Labels = TypeVar("Labels", np.ndarray, Tensor)
BYTES = 256


def confusion_counts(
    label: Labels, prediction: Labels, classes: int, ignore_index: int = IGNORE
) -> Labels:
    """Count the pixels of each pair label x prediction -> (K, K) int64.

    label, prediction: two arrays or two tensors of integers of one shape; uint8 is fastest. The
    result is of the same kind. Pixels whose label is `ignore_index` are not counted, nor those
    whose prediction is outside 0..K-1: the row of a class then sums to less than its pixels. Raises
    DataError if the label has another value outside 0..K-1, for more than 256 classes, different
    shapes, or other types.
    """
    if not 1 <= classes <= BYTES:
        raise DataError(f"classes = {classes}: expected 1 to {BYTES}.")
    if label.shape != prediction.shape:
        raise DataError(
            f"label {tuple(label.shape)}, prediction {tuple(prediction.shape)}: expected equal "
            "shapes."
        )
    counts = _square(label, prediction, classes, ignore_index)
    return torch.from_numpy(counts).to(label.device) if isinstance(label, Tensor) else counts


def joint_counts(
    label: Labels, prediction: Labels, classes: int, ignore_index: int = IGNORE
) -> tuple[np.ndarray, bool]:
    """Count the pixels of each pair of bytes -> ((S, S) int64 label x prediction, outside).

    label, prediction: two uint8 arrays or tensors of one shape. S is K + 1, at most 256: row and
    column K count all values that are no class. outside: whether the label has a value that is
    neither a class nor `ignore_index`.
    """
    side = min(classes + 1, BYTES)
    # The kernels need one value: class 0 stands for "none is ignored"
    ignored = ignore_index if 0 <= ignore_index < BYTES else 0
    if isinstance(label, Tensor) and label.device.type != "cpu":
        from featherseg.kernels import cuda

        counts = cuda.joint_counts(label, prediction, side).cpu().numpy()
        ignored_pixels = int((label == ignored).sum()) if ignored >= classes else 0
        return counts, bool(counts[classes:].sum() != ignored_pixels)
    counts = np.empty((side, side), dtype=np.int64)
    arrays = np.ascontiguousarray(label), np.ascontiguousarray(prediction)
    return counts, library.kernels.joint_counts(*arrays, counts, classes, ignored)


def refuse_outside(label: np.ndarray, classes: int, ignore_index: int = IGNORE) -> None:
    """Raise DataError that names the label's values that are no class and not `ignore_index`."""
    bad = label[(label != ignore_index) & ((label < 0) | (label >= classes))]
    if bad.size:
        values, counts = np.unique(bad, return_counts=True)
        named = ", ".join(f"{v} ({n} pixels)" for v, n in zip(values[:5], counts[:5], strict=True))
        raise DataError(
            f"the label contains {named}: expected class ids 0..{classes - 1}, or {ignore_index} "
            "to ignore."
        )


def _square(label: Labels, prediction: Labels, classes: int, ignore_index: int) -> np.ndarray:
    if not (_is_bytes(label) and _is_bytes(prediction)):
        pairs = _counted(_array(label), _array(prediction), classes, ignore_index)
        return joint_counts(*pairs, classes)[0][:classes, :classes].copy()
    counts, outside = joint_counts(label, prediction, classes, ignore_index)
    if outside:
        refuse_outside(_array(label), classes, ignore_index)
    if 0 <= ignore_index < classes:
        counts[ignore_index] = 0
    return counts[:classes, :classes].copy()


def _counted(
    label: np.ndarray, prediction: np.ndarray, classes: int, ignore_index: int
) -> tuple[np.ndarray, np.ndarray]:
    """Return the integers (N,) of pixels that count, as bytes."""
    if label.dtype.kind not in "biu" or prediction.dtype.kind not in "biu":
        raise DataError(
            f"label of {label.dtype}, prediction of {prediction.dtype}: expected integers."
        )
    refuse_outside(label, classes, ignore_index)
    counted = (label != ignore_index) & (prediction >= 0) & (prediction < classes)
    return label[counted].astype(np.uint8), prediction[counted].astype(np.uint8)


def _is_bytes(labels: Labels) -> bool:
    return labels.dtype in (np.uint8, torch.uint8)


def _array(labels: Labels) -> np.ndarray:
    return labels.cpu().numpy() if isinstance(labels, Tensor) else labels
