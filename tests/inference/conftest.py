"""Small models whose answers can be worked out by hand."""

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from torch import nn

from featherseg import models
from featherseg.core.types import ClassInfo, SegOutput
from featherseg.inference.runtimes.pytorch import TorchRuntime
from featherseg.layers.model import SegmentationModel
from featherseg.layers.resize import pad_images

CLASSES = (
    ClassInfo("road", (128, 64, 128)),
    ClassInfo("sky", (70, 130, 180)),
    ClassInfo("car", (0, 0, 142), True),
)


class PoolModel(SegmentationModel):
    """Mean over cells of `stride` pixels, then a 3x3 (or 1x1) convolution: logits at 1/stride."""

    def __init__(
        self, stride: int = 4, *, kernel: int = 3, divisor: int = 1, channels: int = 3
    ) -> None:
        super().__init__()
        self.stride, self.size_divisor, self.minimum_size = stride, divisor, 1
        self.mean, self.std, self.align_corners, self.classes = (
            (120.0,) * channels,
            (60.0,) * channels,
            False,
            3,
        )
        self.conv = nn.Conv2d(channels, 3, kernel, padding=kernel // 2)

    def forward(self, images):
        padded, padded_size = pad_images(images, divisor=self.size_divisor)
        cells = F.avg_pool2d(padded, self.stride, ceil_mode=True, count_include_pad=False)
        return SegOutput(self.conv(cells), tuple(images.shape[2:]), padded_size, self.align_corners)


def model(**options) -> PoolModel:
    torch.manual_seed(3)
    return PoolModel(**options)


@pytest.fixture
def classes():
    return CLASSES


@pytest.fixture
def make_runtime():
    """make_runtime(stride=, kernel=, divisor=, channels=) -> TorchRuntime of a PoolModel."""
    return lambda **options: TorchRuntime(model(**options), CLASSES, device="cpu")


@pytest.fixture(scope="session")
def frm_runtime():
    """frm-lite0, untrained, three classes."""
    torch.manual_seed(0)
    return TorchRuntime(models.build("frm-lite0", 3), CLASSES, name="frm", device="cpu")


@pytest.fixture
def image():
    """An image of 70 x 93 pixels: broad patches under noise."""
    rng = np.random.default_rng(5)
    patches = rng.integers(0, 200, (7, 10, 3)).repeat(10, 0).repeat(10, 1)[:70, :93]
    return (patches + rng.integers(0, 56, patches.shape)).astype(np.uint8)
