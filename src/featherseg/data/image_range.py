"""The image range: how many values 16-bit images use. A camera of 12 bits stores 0 to 4,095 of 65,535."""

import numpy as np

from featherseg.core.types import Progress, SegmentationData
from featherseg.layers.normalise import FULL_RANGE

DARK = 8
"""An image is named as dark if its values stay below this part of the range."""


def range_above(maximum: int) -> int:
    """The next power of two above the largest 16-bit value, at least 2: 4,096 for 4,080."""
    return max(2, 1 << int(maximum).bit_length())


def measure_range(data: SegmentationData, progress: Progress | None = None) -> int | None:
    """The image range of 16-bit images, None for 8-bit ones, of which one is read.

    Images are read until one uses the upper half of 16 bits: all of them if none does. Raises what reading raises.
    """
    found = 0
    for index in range(len(data)):
        image = data[index].image
        if image.dtype != np.uint16:
            return None
        found = max(found, range_above(image.max()))
        if found >= FULL_RANGE:
            break
        if progress is not None:
            progress("measuring the range of 16-bit images", index + 1, len(data))
    return found or None


def range_note(image: np.ndarray, image_range: int) -> str:
    """What to know of an image whose values do not fill the range that a model was trained on; "" if they do."""
    if image.dtype != np.uint16:
        trained = f"the model was trained on 16-bit images with values below {image_range:,}"
        return f"has 8 bits, but {trained}: 0 to 255 is taken for that range" if image_range < FULL_RANGE else ""
    largest = int(image.max(initial=0))
    scale = f"the model expects values of 16-bit images below {image_range:,}"
    if largest >= image_range:
        return f"has values up to {largest:,}, but {scale}: brighter pixels than in training"
    if 0 < largest < image_range // DARK:
        return f"has values up to {largest:,}, but {scale}: a dark image, or one of fewer bits, which must be scaled"
    return ""


def eight_bits(image: np.ndarray, image_range: int = FULL_RANGE) -> np.ndarray:
    """(H, W, C) uint8 or uint16 -> uint8, for which values from image_range on are the largest."""
    if image.dtype == np.uint8:
        return image
    values = np.minimum(image, image_range - 1).astype(np.uint32)
    return (values * 256 // image_range).astype(np.uint8)
