"""EfficientNet B0-B5 (Tan and Le, ICML 2019, arXiv:1905.11946) and EfficientNet-Lite 0-2.

Lite (Liu, "Higher accuracy on vision models with EfficientNet-Lite", TensorFlow blog 2020) has no
squeeze-and-excitation, ReLU6 instead of SiLU, no stochastic depth, and an unscaled stem and
unscaled first and last groups. Padding and norms are TensorFlow's ("same", eps 1e-3), as the
published weights need.
"""

import math
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import cast

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from featherseg.backbones.grouped import STAGE_ENDS, GroupedBackbone
from featherseg.layers.conv import convolve, normalise_act, pad_same
from featherseg.layers.folding import factors
from featherseg.layers.stochastic_depth import StochasticDepth


@dataclass(frozen=True)
class Group:
    """One row of Table 1: `repeats` inverted bottlenecks, the first with `stride`."""

    kernel_size: int
    stride: int
    expansion: int
    channels: int
    repeats: int


GROUPS = (
    Group(3, 1, 1, 16, 1),  # 1/2
    Group(3, 2, 6, 24, 2),  # 1/4   stage 1
    Group(5, 2, 6, 40, 2),  # 1/8   stage 2
    Group(3, 2, 6, 80, 3),  # 1/16
    Group(5, 1, 6, 112, 3),  # 1/16  stage 3
    Group(5, 2, 6, 192, 4),  # 1/32
    Group(3, 1, 6, 320, 1),  # 1/32  stage 4
)
STEM_CHANNELS = 32
SQUEEZE_RATIO = 0.25
DROP_RATE = 0.2
"""Stochastic depth of B: block i of n is skipped with probability 0.2 i / n."""
SCALING = {  # name -> (width, depth) coefficients
    "efficientnet-b0": (1.0, 1.0),
    "efficientnet-b1": (1.0, 1.1),
    "efficientnet-b2": (1.1, 1.2),
    "efficientnet-b3": (1.2, 1.4),
    "efficientnet-b4": (1.4, 1.8),
    "efficientnet-b5": (1.6, 2.2),
    "efficientnet-lite0": (1.0, 1.0),
    "efficientnet-lite1": (1.0, 1.1),
    "efficientnet-lite2": (1.1, 1.2),
}


class ConvNorm(nn.Sequential):
    """Convolution ("same" padding), batch norm and, if one is given, an activation."""

    def __init__(
        self,
        in_channels: int,
        out_channels: int,
        kernel: int,
        *,
        stride: int = 1,
        groups: int = 1,
        act: type[nn.Module] | None = None,
    ) -> None:
        # what "same" is at stride 1; else forward pads by the size
        padding = kernel // 2 if stride == 1 else 0
        super().__init__(
            nn.Conv2d(
                in_channels, out_channels, kernel, stride, padding, groups=groups, bias=False
            ),
            nn.BatchNorm2d(out_channels, eps=1e-3, momentum=0.01),
            *([] if act is None else [act()]),
        )

    def forward(self, x: Tensor) -> Tensor:
        """(B, C_in, h, w) -> (B, C_out, ceil(h / stride), ceil(w / stride))."""
        conv, norm, *act = self
        assert isinstance(conv, nn.Conv2d)
        x = x if conv.stride == (1, 1) else pad_same(x, conv.kernel_size[0], conv.stride[0])
        x = convolve(conv, x)  # (B, C_out, ceil(h / stride), ceil(w / stride))
        return normalise_act(norm, act[0] if act else None, x)


class SqueezeExcitation(nn.Module):
    """Hu et al., CVPR 2018: scale each channel by sigmoid(1x1(SiLU(1x1(mean of the map))))."""

    def __init__(self, channels: int, squeezed: int) -> None:
        super().__init__()
        self.reduce = nn.Conv2d(channels, squeezed, kernel_size=1)
        self.act = nn.SiLU()
        self.expand = nn.Conv2d(squeezed, channels, kernel_size=1)

    def forward(self, x: Tensor) -> Tensor:
        """(B, C, h, w) -> (B, C, h, w)."""
        mean = x.mean((2, 3), keepdim=True)  # (B, C, 1, 1)
        return x * self.expand(self.act(self.reduce(mean))).sigmoid()


class InvertedBottleneck(nn.Module):
    """Expand (1x1), depthwise, project (1x1); a shortcut if the shape stays (MobileNetV2, Fig. 3).

    Without `lite`: SiLU, squeeze-and-excitation of the depthwise map with a quarter of the block's
    input channels, and stochastic depth with drop_rate.
    """

    def __init__(
        self, in_channels: int, group: Group, stride: int, *, lite: bool, drop_rate: float
    ) -> None:
        super().__init__()
        hidden = in_channels * group.expansion
        act = nn.ReLU6 if lite else nn.SiLU
        self.expand = (
            ConvNorm(in_channels, hidden, 1, act=act) if group.expansion != 1 else nn.Identity()
        )
        self.depthwise = ConvNorm(
            hidden, hidden, group.kernel_size, stride=stride, groups=hidden, act=act
        )
        squeezed = int(in_channels * SQUEEZE_RATIO)
        self.excite = nn.Identity() if lite else SqueezeExcitation(hidden, squeezed)
        self.project = ConvNorm(hidden, group.channels, 1)
        self.drop = StochasticDepth(drop_rate)
        self.shortcut = stride == 1 and in_channels == group.channels

    def forward(self, x: Tensor) -> Tensor:  # (B, C_in, h, w)
        """(B, C_in, h, w) -> (B, C_out, ceil(h / stride), ceil(w / stride))."""
        # (B, C_out, ceil(h/s), ceil(w/s))
        y = self.project(self.excite(self.depthwise(self.expand(x))))
        return x + self.drop(y) if self.shortcut else y

    def for_graph(self, size_divisor: int, channels_last: bool) -> nn.Module:
        """Return an equal block (within rounding), faster in ONNX Runtime for maps of odd size."""
        if channels_last or size_divisor > 1:
            return self
        strided = isinstance(self.depthwise[0], nn.Conv2d) and self.depthwise[0].stride != (1, 1)
        expands = isinstance(self.expand, ConvNorm)
        return PaddedBottleneck(self) if strided and expands else self


class PaddedBottleneck(nn.Module):
    """A strided InvertedBottleneck in eval mode that pads before its first 1x1, on few channels.

    "same" at stride 2 pads by the size of the map, which no runtime makes part of a convolution:
    the widest map of all is copied, and copied again into the layout of convolutions (ONNX Runtime:
    a fifth of the time of frm-lite0). The 1x1 has no shift, so that zeros remain zeros: the shift
    is the weight of additional channels, which are 1 inside the map and 0 outside.
    """

    def __init__(self, plain: InvertedBottleneck) -> None:
        super().__init__()
        conv, norm, self.act = cast(ConvNorm, plain.expand)
        assert isinstance(conv, nn.Conv2d)
        assert isinstance(norm, nn.BatchNorm2d)
        factor, shift = factors(norm)
        self.more = LANES - conv.in_channels % LANES
        weight = conv.weight.detach().double() * factor[:, None, None, None]  # (C, C_in, 1, 1)
        shifts = (shift / self.more)[:, None, None, None].expand(-1, self.more, 1, 1)
        self.weight = nn.Parameter(
            torch.cat([weight, shifts], dim=1).to(conv.weight.dtype), requires_grad=False
        )
        self.depthwise, self.excite, self.project = plain.depthwise, plain.excite, plain.project

    def forward(self, x: Tensor) -> Tensor:  # (B, C_in, h, w)
        """(B, C_in, h, w) -> (B, C_out, ceil(h / stride), ceil(w / stride))."""
        conv, norm, act = self.depthwise
        assert isinstance(conv, nn.Conv2d)
        ones = x.new_ones(x.shape[0], 1, x.shape[2], x.shape[3])
        x, inside = (pad_same(part, conv.kernel_size[0], conv.stride[0]) for part in (x, ones))
        x = torch.cat([x, inside.expand(-1, self.more, -1, -1)], dim=1)  # (B, C_in + more, h', w')
        x = act(norm(conv(self.act(F.conv2d(x, self.weight)))))  # (B, C, ceil(h / s), ceil(w / s))
        return self.project(self.excite(x))


LANES = 16
"""Channels that ONNX Runtime's convolutions process at once with AVX-512.

Maps whose channels are a multiple of it are not copied.
"""


class EfficientNet(GroupedBackbone):
    """ImageNet-normalised images (B, C, H, W) -> four stages: 1/4, 1/8, 1/16, 1/32."""

    first_convolution = "stem.0"
    checkpointed = (ConvNorm, InvertedBottleneck)

    def __init__(
        self, width: float, depth: float, *, lite: bool = False, stem_channels: int | None = None
    ) -> None:
        super().__init__()
        rows = scaled_groups(width, depth, lite=lite)
        channels = stem_channels or round_channels(STEM_CHANNELS * width)
        self.stem = ConvNorm(3, channels, 3, stride=2, act=nn.ReLU6 if lite else nn.SiLU)
        drop_step = 0.0 if lite else DROP_RATE / sum(row.repeats for row in rows)
        groups, count = [], 0
        for row in rows:
            blocks = []
            for i in range(row.repeats):
                stride = row.stride if i == 0 else 1
                blocks.append(
                    InvertedBottleneck(
                        channels, row, stride, lite=lite, drop_rate=count * drop_step
                    )
                )
                channels, count = row.channels, count + 1
            groups.append(nn.Sequential(*blocks))
        self.groups = nn.ModuleList(groups)
        self.stage_channels = tuple(rows[i].channels for i in STAGE_ENDS)

    def rename_official(self, state: Mapping[str, Tensor]) -> tuple[dict[str, Tensor], list[str]]:
        """Return (state under our key names, unused keys: the head and missing stages).

        The keys are those of `efficientnet_pytorch` and `efficientnet_lite_pytorch`.
        """
        places = self.block_paths
        ended = len(self.stage_channels) < len(STAGE_ENDS)
        renamed, unused = {}, []
        for key, value in state.items():
            block = re.match(r"_blocks\.(\d+)\.", key)
            if key.startswith(("_conv_head.", "_bn1.", "_fc.")) or (
                ended and block and int(block[1]) >= len(places)
            ):
                unused.append(key)
            else:
                renamed[_rename(key, places)] = value
        return renamed, unused


class EfficientNetLite(EfficientNet):
    """Images (B, C, H, W), normalised by (x - 127) / 128 -> four stages: 1/4, 1/8, 1/16, 1/32."""

    mean = (127.0, 127.0, 127.0)
    std = (128.0, 128.0, 128.0)

    def __init__(self, width: float, depth: float, stem_channels: int = STEM_CHANNELS) -> None:
        super().__init__(width, depth, lite=True, stem_channels=stem_channels)


OFFICIAL_PARTS = {
    "expand_conv": "expand.0",
    "bn0": "expand.1",
    "depthwise_conv": "depthwise.0",
    "bn1": "depthwise.1",
    "se_reduce": "excite.reduce",
    "se_expand": "excite.expand",
    "project_conv": "project.0",
    "bn2": "project.1",
}


def _rename(key: str, places: Sequence[str]) -> str:
    """Rename `_blocks.5._bn1.bias` to `groups.3.0.depthwise.1.bias`, etc.; other keys stay."""
    if key.startswith(("_conv_stem.", "_bn0.")):
        return key.replace("_conv_stem.", "stem.0.").replace("_bn0.", "stem.1.")
    match = re.fullmatch(r"_blocks\.(\d+)\._(\w+)\.(\w+)", key)
    if match is None or match[2] not in OFFICIAL_PARTS or int(match[1]) >= len(places):
        return key
    return f"{places[int(match[1])]}.{OFFICIAL_PARTS[match[2]]}.{match[3]}"


def round_channels(channels: float) -> int:
    """Return the nearest multiple of 8 of at least 90 % of the number (`round_filters`)."""
    rounded = max(8, int(channels + 4) // 8 * 8)
    return rounded + 8 if rounded < 0.9 * channels else rounded


def scaled_groups(width: float, depth: float, *, lite: bool) -> tuple[Group, ...]:
    """Return GROUPS with scaled channels and repeats; Lite keeps the first and last repeats."""
    last = len(GROUPS) - 1
    return tuple(
        replace(
            group,
            channels=round_channels(group.channels * width),
            repeats=group.repeats
            if lite and number in (0, last)
            else math.ceil(group.repeats * depth),
        )
        for number, group in enumerate(GROUPS)
    )


def build_efficientnet(name: str) -> EfficientNet:
    """Build `efficientnet-b0` to `-b5`, untrained."""
    return EfficientNet(*SCALING[name])


def build_lite(name: str) -> EfficientNetLite:
    """Build `efficientnet-lite0`, `-lite1` or `-lite2`, untrained."""
    return EfficientNetLite(*SCALING[name])
