"""Class-agnostic instances next to a semantic model: centres, and the centre of each pixel.

A light form of Panoptic-DeepLab's instance branch (Cheng et al., CVPR 2020, Sec. 3.1), on the
pyramid of the semantic model.

Letters: B images, C_i channels of pyramid level i.
"""

from collections.abc import Sequence

import torch
from torch import Tensor, nn

from featherseg.layers.conv import ConvNormAct, DepthwiseSeparable
from featherseg.layers.resize import resize

WIDTH, HEAD_WIDTH = 64, 32
KERNEL = 5


class InstanceBranch(nn.Module):
    """Pyramid -> centre map and offsets at its finest level.

    Each level is brought to 64 channels; from coarse to fine the result is resized, concatenated
    with the next level and fused. Two heads follow. centers (B, 1, h, w): how likely a pixel is the
    centre of an object, about 0..1, no sigmoid. offsets (B, 2, h, w): (dy, dx) from a pixel to the
    centre of its object, in pixels of the full-resolution image. 75,363 parameters on four levels
    of 128 channels.
    """

    def __init__(self, pyramid_channels: Sequence[int]) -> None:
        super().__init__()
        self.lateral = nn.ModuleList(
            ConvNormAct(channels, WIDTH, 1) for channels in pyramid_channels
        )
        self.fuse = nn.ModuleList(
            DepthwiseSeparable(2 * WIDTH, WIDTH, KERNEL) for _ in pyramid_channels[:-1]
        )
        self.center = _head(1)
        self.offset = _head(2)

    def forward(self, pyramid: Sequence[Tensor]) -> tuple[Tensor, Tensor]:
        """levels (B, C_i, h_i, w_i) -> centers (B, 1, h_0, w_0), offsets (B, 2, h_0, w_0)."""
        *fine, top = (lateral(level) for lateral, level in zip(self.lateral, pyramid, strict=True))
        for level, fuse in zip(reversed(fine), reversed(self.fuse), strict=True):
            # (B, 64, h_i, w_i)
            lifted = resize(top, (level.shape[2], level.shape[3]), align_corners=False)
            top = fuse(torch.cat([level, lifted], dim=1))  # (B, 64, h_i, w_i)
        return self.center(top), self.offset(top)


def _head(channels: int) -> nn.Sequential:
    """Return a head: (B, 64, h, w) -> (B, channels, h, w)."""
    return nn.Sequential(
        DepthwiseSeparable(WIDTH, HEAD_WIDTH, KERNEL),
        nn.Conv2d(HEAD_WIDTH, channels, kernel_size=1),
    )
