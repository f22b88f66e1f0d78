"""Trial: a model that shows what a new one touches. Every position of 1/32 attends to a learned table.

Letters: B images, C channels, h x w the coarsest map, M entries of the table, K classes.
"""

from typing import Annotated

import torch
from pydantic import Field
from torch import Tensor, nn

from featherseg import backbones
from featherseg.layers.model import Decoded, ModelConfig, ModelEntry, SegmentationModel


class TableAttention(nn.Module):
    """x + softmax_m(k_m x) v over the M entries of a learned table. (B, C, h, w) -> (B, C, h, w)."""

    no_decay = True

    def __init__(self, channels: int, entries: int) -> None:
        super().__init__()
        self.keys = nn.Parameter(0.02 * torch.randn(entries, channels))
        self.values = nn.Parameter(0.02 * torch.randn(entries, channels))

    def forward(self, x: Tensor) -> Tensor:
        weights = (self.keys @ x.flatten(2)).softmax(1)  # (B, M, h * w)
        return x + (self.values.mT @ weights).view_as(x)  # (B, C, h, w)

    def macs(self, x: Tensor, y: Tensor) -> int:
        """Every position by all keys, and the values by its weights."""
        return 2 * x.numel() * len(self.keys)


class TrialConfig(ModelConfig):
    """One row of VARIANTS; every key may be set in a recipe's [model]."""

    entries: Annotated[int, Field(ge=1)] = 16


class Trial(SegmentationModel):
    """images (B, 3, H, W), normalised -> logits (B, K, H'/32, W'/32) of the image padded to multiples of 32."""

    size_divisor = 32
    lone_side = 32

    def __init__(self, config: TrialConfig, classes: int) -> None:
        super().__init__()
        self.classes = classes
        self.backbone = backbones.build(config.backbone)
        channels = self.backbone.stage_channels[-1]
        self.attention = TableAttention(channels, config.entries)
        self.classifier = nn.Conv2d(channels, classes, kernel_size=1)

    def decode(self, pyramid: list[Tensor]) -> Decoded:
        return Decoded(self.classifier(self.attention(pyramid[-1])))  # (B, K, H'/32, W'/32)


VARIANTS = {
    "trial-r18": ModelEntry(Trial, TrialConfig(backbone="resnet-18"), "nobody's: a trial", 11_202_643, 18_963_234_816),
}
