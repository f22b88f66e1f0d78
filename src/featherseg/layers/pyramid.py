"""Feature pyramids: stages, each at half the resolution of the one before -> maps of one width."""

from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from featherseg.layers.conv import DepthwiseSeparable


class WeightedFusion(nn.Module):
    """One node of a BiFPN: fast normalised fusion (EfficientDet, Sec. 3.3), SiLU, separable conv.

    y = SepConv(SiLU(sum_i relu(w_i) x_i / (sum_i relu(w_i) + 1e-4))), one weight per input, 1 at
    first.
    """

    macs = 0

    def __init__(self, channels: int, inputs: int) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.ones(inputs))
        self.act = nn.SiLU()
        self.conv = DepthwiseSeparable(channels, channels, act=False)

    def forward(self, *maps: Tensor) -> Tensor:
        """(B, C, h, w) of each input -> (B, C, h, w)."""
        weights = self.weight.relu()
        weights = weights / (weights.sum() + 1e-4)
        fused = sum(weight * x for weight, x in zip(weights, maps, strict=True))  # (B, C, h, w)
        return self.conv(self.act(fused))


class BiFPNLayer(nn.Module):
    """One top-down and one bottom-up pass over the levels (EfficientDet, Fig. 2d).

    A level between the ends uses its input again on the way up. Nearest upsampling, 3x3 max pooling
    at stride 2.
    """

    def __init__(self, channels: int, levels: int) -> None:
        super().__init__()
        self.down = nn.ModuleList(WeightedFusion(channels, 2) for _ in range(levels - 1))
        self.up = nn.ModuleList(
            WeightedFusion(channels, 3 if i < levels - 2 else 2) for i in range(levels - 1)
        )
        self.pool = nn.MaxPool2d(3, stride=2, padding=1)

    def forward(self, levels: list[Tensor]) -> list[Tensor]:  # level i: (B, C, h / 2^i, w / 2^i)
        """levels i (B, C, h / 2^i, w / 2^i), fine to coarse -> levels of the same shapes."""
        last = len(levels) - 1
        top_down = list(levels)
        for i in range(last - 1, -1, -1):
            top_down[i] = self.down[i](levels[i], enlarge(top_down[i + 1], levels[i]))
        out = [top_down[0]]
        for i in range(1, last + 1):
            inputs = [levels[i], top_down[i]] if i < last else [levels[i]]
            out.append(self.up[i - 1](*inputs, self.pool(out[-1])))
        return out  # level i: (B, C, h / 2^i, w / 2^i)


class BiFPN(nn.Module):
    """Bidirectional feature pyramid (Tan et al., EfficientDet, CVPR 2020, arXiv:1911.09070).

    A 1x1 convolution and a batch norm bring each stage to the width, then `repeats` layers mix
    them.
    """

    def __init__(self, stage_channels: Sequence[int], channels: int, repeats: int) -> None:
        super().__init__()
        self.channels = channels
        self.lateral = nn.ModuleList(
            nn.Sequential(
                nn.Conv2d(c, channels, kernel_size=1, bias=False), nn.BatchNorm2d(channels)
            )
            for c in stage_channels
        )
        self.layers = nn.Sequential(
            *(BiFPNLayer(channels, len(stage_channels)) for _ in range(repeats))
        )

    def forward(self, stages: Sequence[Tensor]) -> list[Tensor]:
        """stage i (B, C_i, h / 2^i, w / 2^i) -> level i (B, channels, h / 2^i, w / 2^i)."""
        return self.layers(
            [lateral(stage) for lateral, stage in zip(self.lateral, stages, strict=True)]
        )


class FPN(nn.Module):
    """Feature pyramid (Lin et al., CVPR 2017, Sec. 3): 1x1 laterals, nearest upsampling, 3x3."""

    def __init__(self, stage_channels: Sequence[int], channels: int) -> None:
        super().__init__()
        self.channels = channels
        self.lateral = nn.ModuleList(nn.Conv2d(c, channels, kernel_size=1) for c in stage_channels)
        self.smooth = nn.ModuleList(
            nn.Conv2d(channels, channels, 3, padding=1) for _ in stage_channels
        )

    def forward(self, stages: Sequence[Tensor]) -> list[Tensor]:
        """stage i (B, C_i, h / 2^i, w / 2^i) -> level i (B, channels, h / 2^i, w / 2^i)."""
        levels = [lateral(stage) for lateral, stage in zip(self.lateral, stages, strict=True)]
        for i in range(len(levels) - 2, -1, -1):
            levels[i] = levels[i] + enlarge(levels[i + 1], levels[i])
        return [smooth(level) for smooth, level in zip(self.smooth, levels, strict=True)]


def enlarge(coarse: Tensor, fine: Tensor) -> Tensor:
    """Upsample (nearest) to another map's size: (B, C, h, w), (B, C', H, W) -> (B, C, H, W)."""
    return F.interpolate(coarse, size=(fine.shape[2], fine.shape[3]), mode="nearest")
