"""Turn pixel values into model input; the only place where it happens."""

from collections.abc import Sequence

import torch
from torch import Tensor

FULL_RANGE = 2**16
"""Number of values of 16 bits: the image range of images that use all of them."""


def divisor(image_range: int) -> float:
    """Return the divisor of 16-bit values to 0..255: 257 for the full range, 16 for 12 bits, ..."""
    return 257.0 if image_range == FULL_RANGE else image_range / 256


def normalise(
    images: Tensor, mean: Sequence[float], std: Sequence[float], image_range: int = FULL_RANGE
) -> Tensor:
    """Return (images - mean) / std in float32, on the images' device.

    images (B, C, H, W), uint8 or uint16, are not changed; mean and std, one value per channel, are
    in units of 0..255. 16-bit values are divided by `divisor` first.
    """
    shape = (1, -1, 1, 1)
    centre = torch.tensor(mean, dtype=torch.float32, device=images.device).view(shape)
    scale = torch.tensor(std, dtype=torch.float32, device=images.device).view(shape)
    values = images.to(torch.float32, copy=True)
    if images.dtype == torch.uint16:
        values = values.div_(divisor(image_range))
    return values.sub_(centre).div_(scale)  # (B, C, H, W), in place: new maps are most of the time
