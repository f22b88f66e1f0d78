"""Confusion counts over a dataset, and the scores made from them: IoU, pixel and class accuracy."""

import numpy as np

from featherseg.core.errors import DataError
from featherseg.core.types import IGNORE
from featherseg.core.wording import size_text
from featherseg.kernels import joint_counts
from featherseg.kernels.confusion import refuse_outside


class Confusion:
    """Pixel counts of label x prediction, summed over images.

    matrix[t, p] (K, K) int64 counts the pixels of class t predicted as class p. void[t] (K,)
    int64 counts the pixels of class t predicted as no class (255, or any other value of K or
    more): a miss of t, and no false alarm of another class. Pixels whose label is 255 are not
    counted.
    """

    def __init__(
        self,
        classes: int,
        matrix: np.ndarray | None = None,
        void: np.ndarray | None = None,
    ) -> None:
        assert 1 <= classes <= IGNORE
        self.classes = classes
        self.matrix = np.zeros((classes, classes), dtype=np.int64) if matrix is None else matrix
        self.void = np.zeros(classes, dtype=np.int64) if void is None else void

    def update(self, label: np.ndarray, prediction: np.ndarray) -> None:
        """Add one image, both (H, W) integers.

        Raises DataError if the sizes differ, or if the label has a value other than 0..K-1 and 255.
        """
        if label.shape != prediction.shape:
            raise DataError(
                f"the prediction is {size_text(prediction.shape)}, its label "
                f"{size_text(label.shape)} (height x width). Expected a prediction of this size."
            )
        k = self.classes
        # (K + 1, K + 1): the last row and column are "no class"
        counts, outside = joint_counts(_bytes(label), _bytes(prediction), k)
        if outside or label.dtype != np.uint8:
            refuse_outside(label, k)
        self.matrix += counts[:k, :k]
        self.void += counts[:k, k]

    def add(self, other: "Confusion") -> None:
        """Add the counts of another image or process."""
        self.matrix += other.matrix
        self.void += other.void

    def iou(self) -> np.ndarray:
        """Return tp / (tp + fp + fn) of each class, (K,) 0..1, as cityscapesscripts does.

        A class that is in neither label nor prediction has NaN.
        """
        hits = np.diag(self.matrix)
        union = self.label_pixels() + self.matrix.sum(axis=0) - hits
        return _ratio(hits, union)

    def precision(self) -> np.ndarray:
        """Return tp / (tp + fp) of each class, (K,) 0..1; NaN for one that is never predicted."""
        return _ratio(np.diag(self.matrix), self.matrix.sum(axis=0))

    def recall(self) -> np.ndarray:
        """Return tp / (tp + fn) of each class, (K,) 0..1; NaN for one that is in no label."""
        return _ratio(np.diag(self.matrix), self.label_pixels())

    def f1(self) -> np.ndarray:
        """Return 2 tp / (2 tp + fp + fn) of each class, (K,) 0..1; NaN where `iou` has it."""
        return _ratio(2 * np.diag(self.matrix), self.label_pixels() + self.matrix.sum(axis=0))

    def miou(self) -> float:
        """Return the mean IoU over the classes that occur, 0..1; NaN if none does."""
        return mean_of_known(self.iou())

    def pixel_accuracy(self) -> float:
        """Return the share of the labelled pixels that are predicted right, 0..1."""
        return float(_ratio(np.trace(self.matrix), self.label_pixels().sum()))

    def class_accuracy(self) -> float:
        """Return the mean recall over the classes in the label, 0..1."""
        return mean_of_known(self.recall())

    def label_pixels(self) -> np.ndarray:
        """Return the number of labelled pixels of each class, (K,)."""
        return self.matrix.sum(axis=1) + self.void


def _bytes(values: np.ndarray) -> np.ndarray:
    """Return the values as uint8; a value that does not fit becomes 255."""
    if values.dtype == np.uint8:
        return values
    return np.where((values >= 0) & (values < IGNORE), values, IGNORE).astype(np.uint8)


def _ratio(part: np.ndarray, total: np.ndarray) -> np.ndarray:
    """Return part / total, NaN where the total is 0."""
    return np.where(total > 0, part / np.maximum(total, 1), np.nan)


def mean_of_known(values: np.ndarray) -> float:
    """Return the mean of the values that are not NaN; NaN if there is none."""
    known = values[~np.isnan(values)]
    # summed in order, as cityscapesscripts does, so that the last bit agrees
    return float(np.add.accumulate(known)[-1] / known.size) if known.size else float("nan")
