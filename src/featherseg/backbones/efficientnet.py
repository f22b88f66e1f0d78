"""EfficientNet-Lite 0-2 (Liu, "Higher accuracy on vision models with EfficientNet-Lite", TensorFlow blog 2020).

EfficientNet (Tan and Le, ICML 2019, arXiv:1905.11946) without squeeze-and-excitation, with ReLU6, an unscaled stem and
unscaled first and last groups. Padding and norms are TensorFlow's ("same", eps 1e-3), as the published weights need.
"""

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from torch import Tensor, nn

from featherseg.layers.conv import convolve, pad_same
from featherseg.layers.network import Backbone


@dataclass(frozen=True)
class Group:
    """One row of EfficientNet's Table 1: `repeats` inverted bottlenecks, the first with `stride`."""

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
STAGE_ENDS = (1, 2, 4, 6)
STEM_CHANNELS = 32
SCALING = {  # name -> (width, depth) coefficients
    "efficientnet-lite0": (1.0, 1.0),
    "efficientnet-lite1": (1.0, 1.1),
    "efficientnet-lite2": (1.1, 1.2),
}


class ConvNorm(nn.Sequential):
    """Convolution ("same" padding) and batch norm, with ReLU6 unless `act` is off.

    (B, C_in, h, w) -> (B, C_out, ceil(h / stride), ceil(w / stride)).
    """

    def __init__(
        self, in_channels: int, out_channels: int, kernel: int, *, stride: int = 1, groups: int = 1, act: bool = True
    ) -> None:
        padding = kernel // 2 if stride == 1 else 0  # what "same" is at stride 1; else forward pads by the size
        super().__init__(
            nn.Conv2d(in_channels, out_channels, kernel, stride, padding, groups=groups, bias=False),
            nn.BatchNorm2d(out_channels, eps=1e-3, momentum=0.01),
            *([nn.ReLU6()] if act else []),
        )
        self.kernel, self.stride = kernel, stride

    def forward(self, x: Tensor) -> Tensor:
        conv, *norm_act = self
        assert isinstance(conv, nn.Conv2d)
        x = x if self.stride == 1 else pad_same(x, self.kernel, self.stride)
        x = convolve(conv, x)  # (B, C_out, ceil(h / stride), ceil(w / stride))
        for layer in norm_act:
            x = layer(x)
        return x


class InvertedBottleneck(nn.Module):
    """Expand (1x1), depthwise, project (1x1); a shortcut where the shape stays (MobileNetV2, Fig. 3)."""

    def __init__(self, in_channels: int, out_channels: int, kernel: int, *, stride: int, expansion: int) -> None:
        super().__init__()
        hidden = in_channels * expansion
        self.expand = ConvNorm(in_channels, hidden, 1) if expansion != 1 else nn.Identity()
        self.depthwise = ConvNorm(hidden, hidden, kernel, stride=stride, groups=hidden)
        self.project = ConvNorm(hidden, out_channels, 1, act=False)
        self.shortcut = stride == 1 and in_channels == out_channels

    def forward(self, x: Tensor) -> Tensor:  # (B, C_in, h, w)
        y = self.project(self.depthwise(self.expand(x)))  # (B, C_out, ceil(h/s), ceil(w/s))
        return x + y if self.shortcut else y


class EfficientNetLite(Backbone):
    """images (B, C, H, W), normalised by (x - 127) / 128 -> four stage maps, fine to coarse: 1/4, 1/8, 1/16, 1/32."""

    mean = (127.0, 127.0, 127.0)
    std = (128.0, 128.0, 128.0)
    first_convolution = "stem.0"

    def __init__(self, width: float, depth: float) -> None:
        super().__init__()
        self.stem = ConvNorm(3, STEM_CHANNELS, 3, stride=2)
        groups = []
        previous, widths = STEM_CHANNELS, []
        for number, group in enumerate(GROUPS):
            out = round_channels(group.channels * width)
            scaled = 0 < number < len(GROUPS) - 1
            repeats = -int(-group.repeats * depth // 1) if scaled else group.repeats  # ceil
            blocks = [
                InvertedBottleneck(
                    previous if i == 0 else out,
                    out,
                    group.kernel_size,
                    stride=group.stride if i == 0 else 1,
                    expansion=group.expansion,
                )
                for i in range(repeats)
            ]
            groups.append(nn.Sequential(*blocks))
            previous = out
            widths.append(out)
        self.groups = nn.ModuleList(groups)
        self.stage_channels = tuple(widths[i] for i in STAGE_ENDS)

    def forward(self, images: Tensor) -> list[Tensor]:
        x = self.stem(images)  # (B, 32, H/2, W/2)
        stages = []
        for number, group in enumerate(self.groups):
            x = group(x)
            if number in STAGE_ENDS:
                stages.append(x)
        return stages  # (B, C_i, H/2^(i+2), W/2^(i+2)) for i = 0..3, sizes rounded up

    def rename_official(self, state: Mapping[str, Tensor]) -> tuple[dict[str, Tensor], list[str]]:
        """Key names of `efficientnet_lite_pytorch` -> ours; -> (renamed state, keys that are not used: the head)."""
        places = [f"groups.{n}.{i}" for n, group in enumerate(self.groups) for i, _ in enumerate(group.children())]
        renamed, unused = {}, []
        for key, value in state.items():
            if key.startswith(("_conv_head.", "_bn1.", "_fc.")):
                unused.append(key)
            else:
                renamed[_rename(key, places)] = value
        return renamed, unused


OFFICIAL_PARTS = {
    "expand_conv": "expand.0",
    "bn0": "expand.1",
    "depthwise_conv": "depthwise.0",
    "bn1": "depthwise.1",
    "project_conv": "project.0",
    "bn2": "project.1",
}


def _rename(key: str, places: Sequence[str]) -> str:
    """`_blocks.5._bn1.bias` -> `groups.3.0.depthwise.1.bias`; a key that is not of this family stays as it is."""
    if key.startswith(("_conv_stem.", "_bn0.")):
        return key.replace("_conv_stem.", "stem.0.").replace("_bn0.", "stem.1.")
    match = re.fullmatch(r"_blocks\.(\d+)\._(\w+)\.(\w+)", key)
    if match is None or match[2] not in OFFICIAL_PARTS or int(match[1]) >= len(places):
        return key
    return f"{places[int(match[1])]}.{OFFICIAL_PARTS[match[2]]}.{match[3]}"


def round_channels(channels: float, divisor: int = 8) -> int:
    """The nearest multiple of 8 that is not under 90 % of the wanted number (EfficientNet's `round_filters`)."""
    rounded = max(divisor, int(channels + divisor / 2) // divisor * divisor)
    return rounded + divisor if rounded < 0.9 * channels else rounded


def build_lite(name: str) -> EfficientNetLite:
    """`efficientnet-lite0`, `-lite1` or `-lite2`, untrained."""
    width, depth = SCALING[name]
    return EfficientNetLite(width, depth)
