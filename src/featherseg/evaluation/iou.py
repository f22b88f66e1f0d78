"""Confusion counts over a whole dataset, and what follows from them: IoU, pixel accuracy, class accuracy."""

import numpy as np

from featherseg.core.errors import DataError
from featherseg.core.types import IGNORE
from featherseg.core.wording import size_text
from featherseg.kernels import joint_counts
from featherseg.kernels.confusion import refuse_outside


class Confusion:
    """Pixel counts of label x prediction, summed over images.

    matrix[t, p] (K, K) int64 counts the pixels of class t that were predicted as p; void[t] (K,) int64 those of class t
    that were predicted as no class at all (255, or any value of K or more): a miss of t, a false alarm of nobody.
    Pixels whose label is 255 count nowhere.
    """

    def __init__(self, classes: int, matrix: np.ndarray | None = None, void: np.ndarray | None = None) -> None:
        assert 1 <= classes <= IGNORE
        self.classes = classes
        self.matrix = np.zeros((classes, classes), dtype=np.int64) if matrix is None else matrix
        self.void = np.zeros(classes, dtype=np.int64) if void is None else void

    def update(self, label: np.ndarray, prediction: np.ndarray) -> None:
        """Add one image, both (H, W) integers. Raises DataError where the label holds a value outside 0..K-1, 255."""
        if label.shape != prediction.shape:
            raise DataError(
                f"the prediction is {size_text(prediction.shape)}, its label {size_text(label.shape)} (height x "
                f"width): expected a prediction of the label's size."
            )
        k = self.classes
        counts, outside = joint_counts(_bytes(label), _bytes(prediction), k)  # (K + 1, K + 1), the last: no class
        if outside or label.dtype != np.uint8:
            refuse_outside(label, k)
        self.matrix += counts[:k, :k]
        self.void += counts[:k, k]

    def add(self, other: "Confusion") -> None:
        """Add the counts of another, as of another process or image."""
        self.matrix += other.matrix
        self.void += other.void

    def iou(self) -> np.ndarray:
        """tp / (tp + fp + fn) of each class, (K,) 0..1; NaN for a class in neither label nor prediction.

        The rule of cityscapesscripts' getIouScoreForLabel.
        """
        hits = np.diag(self.matrix)
        union = self.label_pixels() + self.matrix.sum(axis=0) - hits
        return _ratio(hits, union)

    def miou(self) -> float:
        """Mean IoU over the classes that occur, 0..1; NaN where none does."""
        return _mean(self.iou())

    def pixel_accuracy(self) -> float:
        """Share of the labelled pixels that are right, 0..1."""
        return float(_ratio(np.trace(self.matrix), self.label_pixels().sum()))

    def class_accuracy(self) -> float:
        """Mean over the classes in the label of the share of their pixels that are right, 0..1."""
        return _mean(_ratio(np.diag(self.matrix), self.label_pixels()))

    def label_pixels(self) -> np.ndarray:
        """Labelled pixels of each class, (K,)."""
        return self.matrix.sum(axis=1) + self.void


def _bytes(values: np.ndarray) -> np.ndarray:
    """Values as uint8; what does not fit becomes 255."""
    if values.dtype == np.uint8:
        return values
    return np.where((values >= 0) & (values < IGNORE), values, IGNORE).astype(np.uint8)


def _ratio(part: np.ndarray, whole: np.ndarray) -> np.ndarray:
    """part / whole, NaN where the whole is 0."""
    return np.where(whole > 0, part / np.maximum(whole, 1), np.nan)


def _mean(values: np.ndarray) -> float:
    """Mean of the values that are not NaN, summed in their order as cityscapesscripts does; NaN where there is none."""
    known = values[~np.isnan(values)]
    return float(np.add.accumulate(known)[-1] / known.size) if known.size else float("nan")
