"""Turn pixel values into model input; the only place where it happens."""

from collections.abc import Sequence
from functools import partial

import numpy as np

from featherseg.core.arrays import Array
from featherseg.kernels import library

FULL_RANGE = 2**16
"""Number of values of 16 bits: the image range of images that use all of them."""

ROWS = 64
"""Rows of an array that are normalised at a time, so that they stay in the cache."""


def divisor(image_range: int) -> float:
    """Return the divisor of 16-bit values to 0..255: 257 for the full range, 16 for 12 bits, ..."""
    return 257.0 if image_range == FULL_RANGE else image_range / 256


def normalise(
    images: Array, mean: Sequence[float], std: Sequence[float], image_range: int = FULL_RANGE
) -> Array:
    """Return (images - mean) / std in float32: an array, or a tensor on the images' device.

    images (B, C, H, W), uint8 or uint16, are not changed; mean and std, one value per channel, are
    in units of 0..255. 16-bit values are divided by `divisor` first.
    """
    if isinstance(images, np.ndarray):
        return _normalise_array(images, mean, std, image_range)
    import torch

    shape = (1, -1, 1, 1)
    centre = torch.tensor(mean, dtype=torch.float32, device=images.device).view(shape)
    scale = torch.tensor(std, dtype=torch.float32, device=images.device).view(shape)
    values = images.to(torch.float32, copy=True)
    if images.dtype == torch.uint16:
        values = values.div_(divisor(image_range))
    return values.sub_(centre).div_(scale)  # (B, C, H, W), in place: new maps are most of the time


def _normalise_array(
    images: np.ndarray, mean: Sequence[float], std: Sequence[float], image_range: int
) -> np.ndarray:
    values = np.empty(images.shape, np.float32)

    def fill(start: int) -> None:
        for channel, (centre, scale) in enumerate(zip(mean, std, strict=True)):
            for rows, pixels in zip(values[:, channel], images[:, channel], strict=True):
                part = rows[start : start + ROWS]
                part[...] = pixels[start : start + ROWS]
                if images.dtype == np.uint16:
                    part /= np.float32(divisor(image_range))
                part -= np.float32(centre)
                part /= np.float32(scale)

    work = [partial(fill, start) for start in range(0, images.shape[2], ROWS)]
    library.run(work, min(library.thread_count(), len(work)))
    return values
