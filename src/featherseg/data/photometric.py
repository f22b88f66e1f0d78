"""Photometric distortion: brightness, contrast, saturation and hue, each changed in half of the images.

What mmsegmentation documents as PhotoMetricDistortion (it comes from SSD, Liu et al., ECCV 2016), reckoned in float
and rounded once, where theirs is cut to whole numbers after every change and has hue in steps of two degrees.
"""

from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

BRIGHTNESS = 32 / 255
CONTRAST = SATURATION = (0.5, 1.5)
HUE = 18 / 180


@dataclass(frozen=True)
class Distortion:
    """One distortion, applied in this order. As it comes it changes nothing.

    brightness is added, as a share of the full range; contrast is a factor of all values, applied before the colours
    (`contrast_first`) or after them; saturation is a factor in HSV; hue is added, as a share of the circle of colours.
    Values are kept within the range after every step. Saturation and hue concern images of three channels alone.
    """

    brightness: float = 0.0
    contrast: float = 1.0
    contrast_first: bool = True
    saturation: float = 1.0
    hue: float = 0.0

    @classmethod
    def draw(cls, rng: np.random.Generator) -> "Distortion":
        """Each of the four in half of the cases, contrast before or after the colours alike."""
        brightness, contrast, saturation, hue, first = rng.random(5) < 0.5
        amounts = rng.uniform(-BRIGHTNESS, BRIGHTNESS), rng.uniform(*CONTRAST), rng.uniform(*SATURATION)
        turn = rng.uniform(-HUE, HUE)
        return cls(
            brightness=amounts[0] if brightness else 0.0,
            contrast=amounts[1] if contrast else 1.0,
            contrast_first=bool(first),
            saturation=amounts[2] if saturation else 1.0,
            hue=turn if hue else 0.0,
        )

    def __call__(self, image: Tensor) -> Tensor:
        """(C, H, W) of an integer type -> the same."""
        if self == Distortion(contrast_first=self.contrast_first):
            return image
        top = torch.iinfo(image.dtype).max
        x = (image.float() / top + self.brightness).clamp(0, 1)
        if self.contrast_first:
            x = (x * self.contrast).clamp(0, 1)
        if len(x) == 3 and (self.saturation, self.hue) != (1.0, 0.0):
            x = recoloured(x, self.saturation, self.hue)
        if not self.contrast_first:
            x = (x * self.contrast).clamp(0, 1)
        return (x * top).round().to(image.dtype)


def recoloured(x: Tensor, saturation: float, hue: float) -> Tensor:
    """RGB (3, H, W) from 0 to 1, with saturation (at most 1) times a factor and hue turned by a share of the circle.

    The way through HSV and back without its singular points: V stays, chroma = S V is scaled.
    """
    red, green, blue = x
    value = x.amax(0)  # (H, W)
    chroma = value - x.amin(0)
    spread = chroma.clamp(min=torch.finfo(x.dtype).tiny)
    near_red, near_green, near_blue = (green - blue) / spread, (blue - red) / spread + 2, (red - green) / spread + 4
    sixths = torch.where(value == red, near_red, torch.where(value == green, near_green, near_blue)) + 6 * hue
    k = (torch.tensor([5.0, 3.0, 1.0])[:, None, None] + sixths) % 6  # (3, H, W)
    chroma = torch.minimum(chroma * saturation, value)
    return value - chroma * torch.minimum(k, 4 - k).clamp(0, 1)
