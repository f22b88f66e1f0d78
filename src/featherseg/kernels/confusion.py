"""How often each pair of label and prediction occurs."""

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
    """Pixels of label x prediction: two arrays or two tensors of integers, of one shape -> (K, K) int64, of their kind.

    Pixels whose label is `ignore_index` count nowhere, nor do those whose prediction is outside 0..K-1: the row of a
    class then sums up to less than its pixels. uint8 is the fast way. Raises DataError where the label holds another
    value outside 0..K-1, for more than 256 classes, for shapes that differ and for what is not integers.
    """
    if not 1 <= classes <= BYTES:
        raise DataError(f"classes = {classes}: expected 1 to {BYTES}.")
    if label.shape != prediction.shape:
        raise DataError(
            f"label {tuple(label.shape)}, prediction {tuple(prediction.shape)}: expected equal shapes."
        )
    counts = _square(label, prediction, classes, ignore_index)
    return torch.from_numpy(counts).to(label.device) if isinstance(label, Tensor) else counts


def joint_counts(
    label: Labels, prediction: Labels, classes: int, ignore_index: int = IGNORE
) -> tuple[np.ndarray, bool]:
    """Pixels of each pair: two uint8 arrays or tensors of one shape -> ((S, S) int64 label x prediction, outside).

    S is K + 1, at most 256: row and column K count whatever is no class. outside: whether the label holds a value that
    is neither a class nor `ignore_index`.
    """
    side = min(classes + 1, BYTES)
    ignored = (
        ignore_index if 0 <= ignore_index < BYTES else 0
    )  # 0 is a class, so that nothing else is let through
    if isinstance(label, Tensor) and label.device.type != "cpu":
        from featherseg.kernels import cuda

        counts = cuda.joint_counts(label, prediction, side).cpu().numpy()
        spared = int((label == ignored).sum()) if ignored >= classes else 0
        return counts, bool(counts[classes:].sum() != spared)
    counts = np.empty((side, side), dtype=np.int64)
    arrays = np.ascontiguousarray(label), np.ascontiguousarray(prediction)
    return counts, library.kernels.joint_counts(*arrays, counts, classes, ignored)


def refuse_outside(label: np.ndarray, classes: int, ignore_index: int = IGNORE) -> None:
    """Raises DataError that names the values of the label which are neither 0..K-1 nor `ignore_index`."""
    bad = label[(label != ignore_index) & ((label < 0) | (label >= classes))]
    if bad.size:
        values, counts = np.unique(bad, return_counts=True)
        named = ", ".join(f"{v} ({n} pixels)" for v, n in zip(values[:5], counts[:5], strict=True))
        raise DataError(
            f"the label holds {named}: expected class ids 0..{classes - 1}, or {ignore_index} to ignore."
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
    """Of integers that are no bytes: those that count, as bytes, (N,) each."""
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
