"""The smallest model with each kind of part that an export can break, in named stages."""

from itertools import pairwise

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from featherseg.core.types import ClassInfo
from featherseg.exporters.job import Facts
from featherseg.exporters.parity import perturb
from featherseg.layers.model import Backbone, Decoded, SegmentationModel
from featherseg.layers.resize import resize

CLASSES = tuple(
    ClassInfo(name, (9 * i, 5, 200))
    for i, name in enumerate(("road", "sky", "car", "tree", "pole"))
)
FACTS = Facts("small", CLASSES, "MIT", image_size=(96, 128))


class SmallBackbone(Backbone):
    """(B, 3, H, W) -> (B, 8, H/4, W/4), (B, 12, H/8, W/8)."""

    def __init__(self) -> None:
        super().__init__()
        widths = (3, 6, 8, 12)
        self.stages = nn.ModuleList(
            nn.Sequential(
                nn.Conv2d(a, b, 3, stride=2, padding=1, bias=False), nn.BatchNorm2d(b), nn.ReLU()
            )
            for a, b in pairwise(widths)
        )

    def forward(self, images: Tensor) -> list[Tensor]:
        half = self.stages[0](images)
        quarter = self.stages[1](half)
        return [quarter, self.stages[2](quarter)]


class Mean(nn.Module):
    """(B, C, h, w) -> (B, C, 1, 1)."""

    def forward(self, x: Tensor) -> Tensor:
        return x.mean((2, 3), keepdim=True)


class Context(nn.Module):
    """Every position and the mean of all: (B, 12, h, w) -> (B, 12, h, w)."""

    def __init__(self) -> None:
        super().__init__()
        self.pool, self.conv = Mean(), nn.Conv2d(12, 12, 1)

    def forward(self, x: Tensor) -> Tensor:
        return F.relu(x + self.conv(self.pool(x)))


class Up(nn.Module):
    """(B, C, h, w) -> (B, C, *size)."""

    def forward(self, x: Tensor, size: tuple[int, int]) -> Tensor:
        return resize(x, size, align_corners=False)


class SmallModel(SegmentationModel):
    """Normalised images (B, 3, H, W) -> logits (B, 5, H'/4, W'/4), padded to multiples of 8."""

    size_divisor = 8
    mean, std = (123.0, 96.0, 70.0), (61.0, 47.0, 72.0)
    classes = len(CLASSES)

    def __init__(self) -> None:
        super().__init__()
        self.backbone, self.context, self.up = SmallBackbone(), Context(), Up()
        self.fuse = nn.Sequential(nn.Conv2d(20, 16, 3, padding=1), nn.BatchNorm2d(16), nn.ReLU())
        self.classifier = nn.Conv2d(16, self.classes, 1)

    def decode(self, pyramid: list[Tensor]) -> Decoded:
        fine, coarse = pyramid
        coarse = self.up(self.context(coarse), (fine.shape[2], fine.shape[3]))
        return Decoded(self.classifier(self.fuse(torch.cat([fine, coarse], 1))))


def small_model() -> SmallModel:
    """In eval mode, of which nothing is at its initial value."""
    model = SmallModel()
    perturb(model)
    return model
