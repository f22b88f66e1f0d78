"""The image range: the number of values of 16-bit images. A camera of 12 bits uses 4,096."""

from dataclasses import dataclass

import numpy as np
from PIL import Image

from featherseg.core.types import SegmentationData
from featherseg.layers.normalise import FULL_RANGE

DARK = 8
"""An image is called dark if its values stay below the range divided by this."""


def range_above(maximum: int) -> int:
    """Return the next power of two above a largest value, at least 2: 4,096 for 4,080."""
    return max(2, 1 << int(maximum).bit_length())


@dataclass
class ChannelRange:
    """Values of one channel of several images: the least, the largest, their sum and number."""

    least: int
    largest: int
    total: int
    values: int

    @property
    def mean(self) -> float:
        """The mean of the values."""
        return self.total / self.values

    def with_values(self, other: "ChannelRange") -> "ChannelRange":
        """Return the range of both together."""
        least, largest = min(self.least, other.least), max(self.largest, other.largest)
        return ChannelRange(least, largest, self.total + other.total, self.values + other.values)


def channel_ranges(image: np.ndarray) -> tuple[ChannelRange, ...]:
    """Return the ranges of the channels of an image (H, W, C) uint8 or uint16."""
    count = image.shape[0] * image.shape[1]
    if image.dtype == np.uint8 and image.shape[2] in (1, 3):  # numpy takes ten times as long
        view = Image.fromarray(image[:, :, 0] if image.shape[2] == 1 else image)
        counts = np.array(view.histogram()).reshape(-1, 256)  # (C, 256)
        levels = np.arange(256)
        present = [np.flatnonzero(row) for row in counts]
        return tuple(
            ChannelRange(int(p[0]), int(p[-1]), int(row @ levels), count)
            for p, row in zip(present, counts, strict=True)
        )
    channels = (np.ascontiguousarray(channel) for channel in np.moveaxis(image, 2, 0))
    return tuple(
        ChannelRange(int(c.min()), int(c.max()), int(c.sum(dtype=np.int64)), count)
        for c in channels
    )


def measure_range(data: SegmentationData) -> int | None:
    """Return the image range of 16-bit images; None for 8-bit ones, of which one is read.

    Images are read until one uses the upper half of 16 bits, all of them if none does. Raises what
    reading raises.
    """
    image_range = 0
    for index in range(len(data)):
        image = data[index].image
        if image.dtype != np.uint16:
            return None
        image_range = max(image_range, range_above(image.max()))
        if image_range >= FULL_RANGE:
            break
    return image_range or None


def range_note(image: np.ndarray, image_range: int) -> str:
    """Return a note if the values of an image do not fit the range of the training; else ""."""
    if image.dtype != np.uint16:
        trained = f"the model was trained on 16-bit images with values below {image_range:,}"
        return (
            f"has 8 bits, but {trained}: 0 to 255 is taken for that range"
            if image_range < FULL_RANGE
            else ""
        )
    largest = int(image.max(initial=0))
    scale = f"the model expects values of 16-bit images below {image_range:,}"
    if largest >= image_range:
        return f"has values up to {largest:,}, but {scale}: brighter pixels than in training"
    if 0 < largest < image_range // DARK:
        return (
            f"has values up to {largest:,}, but {scale}: a dark image, or one of fewer bits, "
            "which must be scaled"
        )
    return ""


def eight_bits(image: np.ndarray, image_range: int = FULL_RANGE) -> np.ndarray:
    """Return (H, W, C) uint8 or uint16 as uint8; values from image_range on become 255."""
    if image.dtype == np.uint8:
        return image
    values = np.minimum(image, image_range - 1).astype(np.uint32)
    return (values * 256 // image_range).astype(np.uint8)
