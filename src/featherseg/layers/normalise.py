"""The one place where pixel values become model input."""

from collections.abc import Sequence

import torch
from torch import Tensor


def normalise(images: Tensor, mean: Sequence[float], std: Sequence[float]) -> Tensor:
    """(images - mean) / std, in float32, on the images' own device.

    images (B, C, H, W), uint8 or uint16 as stored, stay as they are; mean and std, one value a channel, in units of
    0..255, to which 16-bit values are brought first (v / 257).
    """
    shape = (1, -1, 1, 1)
    centre = torch.tensor(mean, dtype=torch.float32, device=images.device).view(shape)
    scale = torch.tensor(std, dtype=torch.float32, device=images.device).view(shape)
    values = images.to(torch.float32, copy=True)
    if images.dtype == torch.uint16:
        values = values.div_(257.0)
    return values.sub_(centre).div_(scale)  # (B, C, H, W), in place: new maps are most of the time
