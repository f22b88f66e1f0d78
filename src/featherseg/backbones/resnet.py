"""ResNet-18, 50 and 101 (He et al., CVPR 2016, arXiv:1512.03385) as torchvision has them.

The stride of a bottleneck is in its 3x3 convolution, not in the first 1x1 as in the paper. `-v1c`
has a stem of three 3x3 convolutions instead of the 7x7 one (He et al., "Bag of tricks",
arXiv:1812.01187, its ResNet-C); `-deep` has them in the widths of SFNet's code (lxtGH/SFSegNets).

Letters: B images, C channels, H x W the image, h x w the map of a stage.
"""

import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from itertools import pairwise

from torch import Tensor, nn

from featherseg.layers.conv import replace_strides
from featherseg.layers.model import Backbone
from featherseg.layers.official_keys import BLOCK_PARTS
from featherseg.layers.residual import (
    ResidualBlock,
    basic_block,
    bottleneck,
    conv_norm,
    start_kaiming,
)

STAGE_WIDTHS = (64, 128, 256, 512)
"""Channels of the 3x3 convolutions of each stage."""


@dataclass(frozen=True)
class ResNetConfig:
    """One row of VARIANTS (Table 1): block, expansion, blocks per stage, widths of a 3x3 stem."""

    block: Callable[[int, int, int], ResidualBlock]
    expansion: int
    depths: tuple[int, int, int, int]
    stem: tuple[int, ...] = ()  # one 7x7 convolution of 64 channels where empty


VARIANTS = {
    "resnet-18": ResNetConfig(basic_block, 1, (2, 2, 2, 2)),
    "resnet-18-deep": ResNetConfig(basic_block, 1, (2, 2, 2, 2), stem=(64, 64, 128)),
    "resnet-50-deep": ResNetConfig(bottleneck, 4, (3, 4, 6, 3), stem=(64, 64, 128)),
    "resnet-50": ResNetConfig(bottleneck, 4, (3, 4, 6, 3)),
    "resnet-50-v1c": ResNetConfig(bottleneck, 4, (3, 4, 6, 3), stem=(32, 32, 64)),
    "resnet-101-deep": ResNetConfig(bottleneck, 4, (3, 4, 23, 3), stem=(64, 64, 128)),
    "resnet-101": ResNetConfig(bottleneck, 4, (3, 4, 23, 3)),
    "resnet-101-v1c": ResNetConfig(bottleneck, 4, (3, 4, 23, 3), stem=(32, 32, 64)),
}


def build_stem(widths: tuple[int, ...]) -> nn.Sequential:
    """Return the convolutions before the max pool: (B, 3, H, W) -> (B, C, H/2, W/2).

    The first has stride 2. C is the last of the widths, 64 without.
    """
    if not widths:
        return nn.Sequential(*conv_norm(3, 64, 7, stride=2), nn.ReLU())
    layers: list[nn.Module] = []
    for number, (before, width) in enumerate(pairwise((3, *widths))):
        layers += [*conv_norm(before, width, 3, stride=1 if number else 2), nn.ReLU()]
    return nn.Sequential(*layers)


class ResNet(Backbone):
    """ImageNet-normalised images (B, C, H, W) -> four stages: 1/4, 1/8, 1/16, 1/32."""

    first_convolution = "stem.0"

    def __init__(self, config: ResNetConfig) -> None:
        super().__init__()
        self.stage_channels = tuple(width * config.expansion for width in STAGE_WIDTHS)
        self.stem = build_stem(config.stem)
        self.pool = nn.MaxPool2d(kernel_size=3, stride=2, padding=1)
        self.stages = nn.ModuleList()
        channels = config.stem[-1] if config.stem else 64
        for number, (width, depth) in enumerate(zip(STAGE_WIDTHS, config.depths, strict=True)):
            blocks = []
            for i in range(depth):
                blocks.append(config.block(channels, width, 2 if number and i == 0 else 1))
                channels = width * config.expansion
            self.stages.append(nn.Sequential(*blocks))
        start_kaiming(self)

    def forward(self, images: Tensor) -> list[Tensor]:
        """(B, C, H, W) -> (B, C_i, H/2^(i+2), W/2^(i+2)) for i = 0..3, sizes rounded up."""
        x = self.pool(self.stem(images))  # (B, 64, H/4, W/4)
        stages = []
        for stage in self.stages:
            x = stage(x)
            stages.append(x)
        return stages  # (B, C_i, H/2^(i+2), W/2^(i+2)) for i = 0..3, sizes rounded up

    def dilate(self, output_stride: int) -> None:
        """Keep the last two stages at 1 / output_stride, 8 or 16."""
        replace_strides(list(self.stages[2:]), output_stride)

    def dilate_blocks(self, stage: int, rates: int | Sequence[int]) -> None:
        """Dilate the second convolution of each block of a stage, 0 to 3; strides and weights stay.

        rates: one for all blocks, or one per block.
        """
        blocks = list(self.stages[stage].children())
        each = [rates] * len(blocks) if isinstance(rates, int) else rates
        for block, rate in zip(blocks, each, strict=True):
            _, second, *_ = (layer for layer in block.modules() if isinstance(layer, nn.Conv2d))
            second.dilation, second.padding = (rate, rate), (rate, rate)

    def rename_official(self, state: Mapping[str, Tensor]) -> tuple[dict[str, Tensor], list[str]]:
        """Return (torchvision's state under our key names, unused keys: the head).

        In a stem of several convolutions torchvision's bn1 is the last norm; conv1.0 to conv1.6 are
        the layers before it.
        """
        unused = [key for key in state if key in ("fc.weight", "fc.bias")]
        last_norm = len(self.stem) - 2
        return {
            _rename(key, last_norm): value for key, value in state.items() if key not in unused
        }, unused


def _rename(key: str, last_norm: int) -> str:
    """Rename `layer2.0.conv1.weight` to `stages.1.0.branch.0.weight`, etc.; other keys stay."""
    if key.startswith("bn1."):
        return key.replace("bn1.", f"stem.{last_norm}.")
    if key.startswith("conv1."):
        return key.replace("conv1.", "stem.0." if last_norm == 1 else "stem.")
    match = re.fullmatch(r"layer(\d)\.(\d+)\.(.+)\.(\w+)", key)
    if match is None or match[3] not in BLOCK_PARTS:
        return key
    return f"stages.{int(match[1]) - 1}.{match[2]}.{BLOCK_PARTS[match[3]]}.{match[4]}"


def build_resnet(name: str) -> ResNet:
    """Build a ResNet of VARIANTS, untrained."""
    return ResNet(VARIANTS[name])
