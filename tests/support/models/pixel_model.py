"""A model whose mask follows from each pixel alone, grey ones as well, and is computed by hand."""

import numpy as np
import torch

from featherseg.core.types import ClassInfo, SegOutput
from featherseg.inference.runtimes.pytorch import TorchRuntime
from featherseg.layers.model import SegmentationModel

CLASSES = (
    ClassInfo("<script>alert(1)</script>", (128, 64, 128)),
    ClassInfo("a\x1b[31m\n\u202eb", (70, 130, 180)),
    ClassInfo("c" * 500, (0, 0, 142)),
)
"""Names as nobody should choose them, and as somebody will."""


class PixelModel(SegmentationModel):
    """Logits: red, 255 less green, and half of blue plus 64, in units of 0..255."""

    classes = len(CLASSES)
    mean, std = (0.0, 0.0, 0.0), (1.0, 1.0, 1.0)

    def __init__(self) -> None:
        super().__init__()
        self.weight = torch.nn.Parameter(torch.tensor([1.0, -1.0, 0.5]))
        self.register_buffer("bias", torch.tensor([0.0, 255.0, 64.0]))

    def forward(self, images):
        size = tuple(images.shape[2:])
        logits = images * self.weight[:, None, None] + self.bias[:, None, None]  # (B, 3, H, W)
        return SegOutput(logits, size, size, self.align_corners)


def pixel_runtime(name: str = "pixels") -> TorchRuntime:
    return TorchRuntime(PixelModel().eval(), CLASSES, name=name, device="cpu")


def mask_of(pixels: np.ndarray) -> np.ndarray:
    """Return the right mask (H, W) uint8 of (H, W, 3) uint8, or uint16 scaled by 1/257."""
    values = pixels.astype(np.float32) / (257 if pixels.dtype == np.uint16 else 1)
    red, green, blue = np.moveaxis(values, 2, 0)
    return np.stack([red, 255 - green, blue / 2 + 64]).argmax(axis=0).astype(np.uint8)
