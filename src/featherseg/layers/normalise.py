"""The one place where pixel values become model input."""

from collections.abc import Sequence

import torch
from torch import Tensor

FULL_RANGE = 2**16
"""The number of values that 16 bits have: the image range of images that use all of them."""


def divisor(image_range: int) -> float:
    """What brings 16-bit values to 0..255: 257 for the full range, else a power of two (16 for 12 bits)."""
    return 257.0 if image_range == FULL_RANGE else image_range / 256


def normalise(
    images: Tensor, mean: Sequence[float], std: Sequence[float], image_range: int = FULL_RANGE
) -> Tensor:
    """(images - mean) / std, in float32, on the images' own device.

    images (B, C, H, W), uint8 or uint16 as stored, stay as they are; mean and std, one value a channel, in units of
    0..255, to which 16-bit values are brought first by `divisor`.
    """
    shape = (1, -1, 1, 1)
    centre = torch.tensor(mean, dtype=torch.float32, device=images.device).view(shape)
    scale = torch.tensor(std, dtype=torch.float32, device=images.device).view(shape)
    values = images.to(torch.float32, copy=True)
    if images.dtype == torch.uint16:
        values = values.div_(divisor(image_range))
    return values.sub_(centre).div_(scale)  # (B, C, H, W), in place: new maps are most of the time
