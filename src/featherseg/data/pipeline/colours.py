"""Changes of the colours of a training image, drawn at random; masks keep their values."""

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

LUMA = (0.299, 0.587, 0.114)  # ITU-R BT.601

Change = Callable[[Tensor], Tensor]
"""(C, H, W) float in units of the image's own type -> the same; it is clamped afterwards."""


def brightness(strength: float, rng: np.random.Generator) -> Change | None:
    """Multiply all values by a factor from 1 - strength to 1 + strength."""
    factor = _draw_factor(strength, rng)
    return None if factor == 1 else lambda x: x * factor


def contrast(strength: float, rng: np.random.Generator) -> Change | None:
    """Multiply the differences from the image's mean value by a factor drawn as in `brightness`."""
    factor = _draw_factor(strength, rng)

    def change(x: Tensor) -> Tensor:
        mean = x.mean()
        return (x - mean) * factor + mean

    return None if factor == 1 else change


def saturation(strength: float, rng: np.random.Generator) -> Change | None:
    """Multiply the differences from grey by a factor drawn as in `brightness`, if C = 3."""
    factor = _draw_factor(strength, rng)

    def change(x: Tensor) -> Tensor:
        if len(x) != 3:
            return x
        grey = torch.tensordot(torch.tensor(LUMA), x, dims=1)  # (H, W)
        return grey + (x - grey) * factor

    return None if factor == 1 else change


def blur(probability: float, rng: np.random.Generator) -> Change | None:
    """Blur by a Gaussian whose sigma is drawn from 0.3 to 1.5 pixels."""
    if rng.random() >= probability:
        return None
    sigma = 0.3 + 1.2 * rng.random()
    return lambda x: gaussian_blur(x, sigma)


def _draw_factor(strength: float, rng: np.random.Generator) -> float:
    return 1 + strength * (2 * rng.random() - 1)


def gaussian_blur(x: Tensor, sigma: float) -> Tensor:
    """Return (C, H, W) float blurred by a Gaussian of `sigma` pixels, with repeated edges."""
    radius = max(1, round(3 * sigma))
    offsets = torch.arange(-radius, radius + 1, dtype=torch.float32)
    kernel = torch.exp(-(offsets**2) / (2 * sigma**2))
    kernel = (kernel / kernel.sum()).view(1, 1, -1)
    x = F.pad(x[:, None], (radius,) * 4, mode="replicate")  # (C, 1, H + 2r, W + 2r)
    x = F.conv2d(F.conv2d(x, kernel[..., None]), kernel[:, :, None])  # (C, 1, H, W)
    return x[:, 0]


BRIGHTNESS = 32 / 255
CONTRAST = SATURATION = (0.5, 1.5)
HUE = 18 / 180
"""Ranges of mmsegmentation's PhotoMetricDistortion; shares of the full range and of the circle."""


@dataclass(frozen=True)
class Distortion:
    """One PhotoMetricDistortion of mmsegmentation; the default changes nothing.

    The steps are in this order, and values are clamped after each. Saturation and hue need three
    channels.

    Attributes:
        brightness: Added, as a share of the full range.
        contrast: Factor of all values.
        contrast_first: Whether contrast comes before saturation and hue.
        saturation: Factor of the saturation in HSV.
        hue: Added, as a share of the colour circle.
    """

    brightness: float = 0.0
    contrast: float = 1.0
    contrast_first: bool = True
    saturation: float = 1.0
    hue: float = 0.0

    @classmethod
    def draw(cls, rng: np.random.Generator) -> "Distortion":
        """Draw a distortion: each of the four, and contrast first, with a probability of 1/2."""
        brightness, contrast, saturation, hue, first = rng.random(5) < 0.5
        amounts = (
            rng.uniform(-BRIGHTNESS, BRIGHTNESS),
            rng.uniform(*CONTRAST),
            rng.uniform(*SATURATION),
        )
        turn = rng.uniform(-HUE, HUE)
        return cls(
            brightness=amounts[0] if brightness else 0.0,
            contrast=amounts[1] if contrast else 1.0,
            contrast_first=bool(first),
            saturation=amounts[2] if saturation else 1.0,
            hue=turn if hue else 0.0,
        )

    def __call__(self, image: Tensor, largest: int | None = None) -> Tensor:
        """Return (C, H, W) distorted; largest: the largest value, default: of the integer type."""
        if self == Distortion(contrast_first=self.contrast_first):
            return image
        top = torch.iinfo(image.dtype).max if largest is None else largest
        x = (image.float() / top + self.brightness).clamp(0, 1)
        if self.contrast_first:
            x = (x * self.contrast).clamp(0, 1)
        if len(x) == 3 and (self.saturation, self.hue) != (1.0, 0.0):
            x = recoloured(x, self.saturation, self.hue)
        if not self.contrast_first:
            x = (x * self.contrast).clamp(0, 1)
        return (x * top).round().to(image.dtype)


def recoloured(x: Tensor, saturation: float, hue: float) -> Tensor:
    """Return RGB (3, H, W) from 0 to 1 with saturation times a factor, at most 1, and hue turned.

    hue is a share of the circle. This is HSV without its singular points: V stays, chroma = S V is
    scaled.
    """
    red, green, blue = x
    value = x.amax(0)  # (H, W)
    chroma = value - x.amin(0)
    spread = chroma.clamp(min=torch.finfo(x.dtype).tiny)
    near_red, near_green, near_blue = (
        (green - blue) / spread,
        (blue - red) / spread + 2,
        (red - green) / spread + 4,
    )
    sixths = (
        torch.where(value == red, near_red, torch.where(value == green, near_green, near_blue))
        + 6 * hue
    )
    k = (torch.tensor([5.0, 3.0, 1.0])[:, None, None] + sixths) % 6  # (3, H, W)
    chroma = torch.minimum(chroma * saturation, value)
    return value - chroma * torch.minimum(k, 4 - k).clamp(0, 1)
