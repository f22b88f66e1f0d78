"""A model of three layers with the padding and strides of real ones, quick to export."""

import torch
from torch import Tensor, nn

from featherseg.core.types import ClassInfo, SegOutput
from featherseg.exporters.job import Facts
from featherseg.layers.model import SegmentationModel
from featherseg.layers.resize import pad_images

CLASSES = (
    ClassInfo("road", (128, 64, 128)),
    ClassInfo('straße "x" & <y>', (0, 0, 142)),
    ClassInfo("sky", (1, 2, 3)),
)
FACTS = Facts("three-layers", CLASSES, "Apache-2.0", (48, 64))


class ThreeLayers(SegmentationModel):
    """Logits at 1/4 of three classes; weights by a fixed seed."""

    classes = 3
    mean, std = (120.0, 110.0, 100.0), (60.0, 61.0, 62.0)
    align_corners, size_divisor, minimum_size = False, 8, 16

    def __init__(self, width: int = 16) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.stem = nn.Conv2d(3, width, 3, padding=1, stride=4)
        self.body = nn.Sequential(nn.ReLU(), nn.Conv2d(width, width, 3, padding=1), nn.ReLU())
        self.head = nn.Conv2d(width, self.classes, 1)

    def forward(self, images: Tensor) -> SegOutput:
        padded, size = pad_images(images, divisor=self.size_divisor, minimum=self.minimum_size)
        logits = self.head(self.body(self.stem(padded)))  # (B, 3, H/4, W/4)
        return SegOutput(logits, (images.shape[2], images.shape[3]), size, self.align_corners)


def three_layers(width: int = 16) -> ThreeLayers:
    """In eval mode."""
    return ThreeLayers(width).eval()
