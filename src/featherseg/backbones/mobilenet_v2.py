"""MobileNetV2 (Sandler et al., CVPR 2018, arXiv:1801.04381), Table 2, as torchvision trained it.

Padding is symmetric: unlike EfficientNet, no map is copied before a strided convolution.
"""

import re
from collections.abc import Mapping

from torch import Tensor, nn

from featherseg.backbones.grouped import STAGE_ENDS, GroupedBackbone
from featherseg.layers.conv import convolve, normalise_act

ROWS = (  # t, c, n, s: expansion, channels, repeats, stride of the first
    (1, 16, 1, 1),  # 1/2
    (6, 24, 2, 2),  # 1/4   stage 1
    (6, 32, 3, 2),  # 1/8   stage 2
    (6, 64, 4, 2),  # 1/16
    (6, 96, 3, 1),  # 1/16  stage 3
    (6, 160, 3, 2),  # 1/32
    (6, 320, 1, 1),  # 1/32  stage 4
)
STEM_CHANNELS = 32


class ConvNorm(nn.Sequential):
    """Convolution without bias, batch norm and, with `act`, ReLU6."""

    def __init__(
        self,
        in_channels: int,
        out_channels: int,
        kernel: int,
        *,
        stride: int = 1,
        groups: int = 1,
        act: bool = True,
    ) -> None:
        super().__init__(
            nn.Conv2d(
                in_channels, out_channels, kernel, stride, kernel // 2, groups=groups, bias=False
            ),
            nn.BatchNorm2d(out_channels),
            *([nn.ReLU6()] if act else []),
        )

    def forward(self, x: Tensor) -> Tensor:
        """(B, C_in, h, w) -> (B, C_out, ceil(h / stride), ceil(w / stride))."""
        conv, norm, *act = self
        assert isinstance(conv, nn.Conv2d)
        return normalise_act(norm, act[0] if act else None, convolve(conv, x))


class InvertedResidual(nn.Module):
    """Fig. 4d: expand (1x1), depthwise 3x3, project (1x1); a shortcut if the shape stays."""

    def __init__(self, in_channels: int, out_channels: int, expansion: int, stride: int) -> None:
        super().__init__()
        hidden = in_channels * expansion
        self.expand = ConvNorm(in_channels, hidden, 1) if expansion > 1 else nn.Identity()
        self.depthwise = ConvNorm(hidden, hidden, 3, stride=stride, groups=hidden)
        self.project = ConvNorm(hidden, out_channels, 1, act=False)
        self.shortcut = stride == 1 and in_channels == out_channels

    def forward(self, x: Tensor) -> Tensor:
        """(B, C_in, h, w) -> (B, C_out, ceil(h / s), ceil(w / s))."""
        y = self.project(self.depthwise(self.expand(x)))
        return x + y if self.shortcut else y


class MobileNetV2(GroupedBackbone):
    """ImageNet-normalised images (B, C, H, W) -> four stages: 1/4, 1/8, 1/16, 1/32."""

    first_convolution = "stem.0"
    checkpointed = (InvertedResidual,)

    def __init__(self) -> None:
        super().__init__()
        self.stem = ConvNorm(3, STEM_CHANNELS, 3, stride=2)
        groups, channels = [], STEM_CHANNELS
        for expansion, out, repeats, stride in ROWS:
            blocks = []
            for i in range(repeats):
                blocks.append(InvertedResidual(channels, out, expansion, stride if i == 0 else 1))
                channels = out
            groups.append(nn.Sequential(*blocks))
        self.groups = nn.ModuleList(groups)
        self.stage_channels = tuple(ROWS[i][1] for i in STAGE_ENDS)

    def rename_official(self, state: Mapping[str, Tensor]) -> tuple[dict[str, Tensor], list[str]]:
        """Return (torchvision's state under our key names, unused keys).

        Unused: the head, and a stage that is missing here.
        """
        places = self.block_paths
        renamed, unused = {}, []
        for key, value in state.items():
            match = re.fullmatch(r"features\.(\d+)\.(?:conv\.)?(\d)\.(?:(\d)\.)?(\w+)", key)
            if match is None:
                if key.startswith("classifier."):
                    unused.append(key)
                else:
                    renamed[key] = value
                continue
            block, layer, inner, name = int(match[1]), int(match[2]), match[3], match[4]
            if block == 0:
                renamed[f"stem.{layer}.{name}"] = value
            elif block > len(places):
                unused.append(key)
            else:
                # conv.0 and conv.1 contain convolution and norm; the norm of conv.2 is conv.3
                parts = (
                    ("depthwise", "project") if block == 1 else ("expand", "depthwise", "project")
                )
                part, place = (
                    (parts[layer], int(inner)) if inner else (parts[-1], layer - len(parts) + 1)
                )
                renamed[f"{places[block - 1]}.{part}.{place}.{name}"] = value
        return renamed, unused
