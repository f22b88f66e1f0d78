"""What a recipe derives from the images: class weights from frequencies, the crop from sizes."""

import math
from dataclasses import dataclass

import numpy as np

from featherseg.core.errors import DataError
from featherseg.core.types import IGNORE, Progress, SegmentationData, Size
from featherseg.core.wording import counted

CROP_PIXELS = 448 * 448
"""Largest automatic crop in pixels: images of up to 448x448, such as 360x480, are not cropped."""


@dataclass
class ClassStatistics:
    """For each class its pixels, the images with it, and all pixels of these, ignored ones too."""

    pixels: list[int]
    image_pixels: list[int]
    images: list[int]

    @classmethod
    def empty(cls, classes: int) -> "ClassStatistics":
        return cls([0] * classes, [0] * classes, [0] * classes)

    def add(self, label: np.ndarray) -> int:
        """Count one label (H, W) of class ids, return the number of ignored pixels."""
        counts = np.bincount(label.ravel(), minlength=IGNORE + 1)
        self.add_counts(counts)
        return int(counts[IGNORE])

    def add_counts(self, counts: np.ndarray) -> None:
        """Count one label by its number of pixels of each class id, (256,)."""
        for index in np.flatnonzero(counts[: len(self.pixels)]):
            self.pixels[index] += int(counts[index])
            self.image_pixels[index] += int(counts.sum())
            self.images[index] += 1


def class_statistics(data: SegmentationData, progress: Progress | None = None) -> ClassStatistics:
    """Count the classes in all labels of a dataset without reading images. Raises as `label`."""
    statistics = ClassStatistics.empty(len(data.classes))
    for index in range(len(data)):
        statistics.add(data.label(index))
        if progress is not None:
            progress("counting classes", index + 1, len(data))
    return statistics


def median_frequency(statistics: ClassStatistics) -> list[float]:
    """Return median(freq) / freq of each class (Eigen and Fergus, ICCV 2015, sec. 6.3.2; SegNet).

    freq of a class is its share of all pixels, void included, of the images with it: this
    denominator gives the usual CamVid weights. A class that never occurs has weight 0 and does not
    count for the median.
    """
    frequency = [
        n / total if n else 0.0
        for n, total in zip(statistics.pixels, statistics.image_pixels, strict=True)
    ]
    present = [f for f in frequency if f > 0]
    median = float(np.median(present)) if present else 0.0
    return [median / f if f > 0 else 0.0 for f in frequency]


def refuse_unlabelled(data: SegmentationData, split: str, remedy: str) -> None:
    """Raise DataError, which ends with the remedy, if no pixel is labelled."""
    if not any((data.label(i) != IGNORE).any() for i in range(len(data))):
        images = counted(len(data), "image")
        raise DataError(f"{data.name} {split}: no pixel of its {images} is labelled, {remedy}")


def typical_size(data: SegmentationData) -> Size:
    """Return (height, width) of the image of median area among nine spread over the dataset."""
    sizes = _sizes(data, 9)
    return sizes[len(sizes) // 2]


def largest_size(data: SegmentationData) -> Size:
    """Return (height, width) of the largest image among thirty spread over the dataset."""
    return _sizes(data, 30)[-1]


def choose_crop(size: Size) -> Size:
    """Return the crop for images of this (height, width): all, or about CROP_PIXELS of their shape.

    The sides of a smaller crop are multiples of 32.
    """
    share = math.sqrt(CROP_PIXELS / math.prod(size))
    if share >= 1:
        return size
    short = min(*size, max(32, round(min(size) * share / 32) * 32))
    long = min(max(size), CROP_PIXELS // short // 32 * 32)
    return (short, long) if size[0] <= size[1] else (long, short)


def _sizes(data: SegmentationData, most: int) -> list[Size]:
    """Return (height, width) of at most `most` images spread over the dataset, by area."""
    count = min(most, len(data))
    shapes = [data.label(i * len(data) // count).shape for i in range(count)]
    return sorted(((height, width) for height, width in shapes), key=math.prod)
