"""EfficientViT: multi-scale linear attention (Cai et al., ICCV 2023, arXiv:2205.14756), B0 to B3.

Inverted bottlenecks, and in the last two stages attention whose cost is linear in the number of
positions: ReLU instead of softmax, so that keys and values are summed once for all queries. The
head adds the last three stages at 1/8.

Letters: B images, C channels, H x W the image, h x w a map, N = h * w, n heads of d channels, D
width, K classes.
"""

import re
from collections import OrderedDict
from collections.abc import Mapping
from dataclasses import dataclass
from functools import partial
from typing import Annotated, Literal

import torch
import torch.nn.functional as F
from pydantic import Field
from torch import Tensor, nn

from featherseg.core.types import Size
from featherseg.layers.conv import convolve
from featherseg.layers.model import Backbone, Decoded, ModelConfig, ModelEntry, SegmentationModel
from featherseg.layers.position_bias import resize_matrix
from featherseg.layers.precision import at_least_fp32, autocast_off

EXPANSION = 4
"""Width of every bottleneck, in multiples of its input channels."""


class ConvLayer(nn.Sequential):
    """Convolution, batch norm (a bias without `norm`) and, with `act`, hard swish.

    Padded so that stride 1 keeps the size.
    """

    def __init__(
        self,
        in_channels: int,
        out_channels: int,
        kernel_size: int,
        *,
        stride: int = 1,
        groups: int = 1,
        norm: bool = True,
        act: bool = True,
    ) -> None:
        conv = nn.Conv2d(
            in_channels,
            out_channels,
            kernel_size,
            stride,
            padding=kernel_size // 2,
            groups=groups,
            bias=not norm,
        )
        layers: OrderedDict[str, nn.Module] = OrderedDict(conv=conv)
        if norm:
            layers["norm"] = nn.BatchNorm2d(out_channels)
        if act:
            layers["act"] = nn.Hardswish()
        super().__init__(layers)

    def forward(self, x: Tensor) -> Tensor:
        """(B, C_in, h, w) -> (B, C_out, ceil(h / stride), ceil(w / stride))."""
        conv, *norm_act = self
        assert isinstance(conv, nn.Conv2d)
        x = convolve(conv, x)
        for layer in norm_act:
            x = layer(x)
        return x


class Bottleneck(nn.Module):
    """MBConv: 1x1 to `expansion` times the channels, depthwise 3x3, 1x1; a shortcut at stride 1.

    Hard swish after the first two; without `norms` these two have a bias instead of a batch norm.
    With expansion 1 the first is missing.
    """

    def __init__(
        self,
        in_channels: int,
        channels: int,
        *,
        stride: int = 1,
        expansion: int = EXPANSION,
        norms: bool = True,
    ) -> None:
        super().__init__()
        hidden = expansion * in_channels
        self.expand = (
            ConvLayer(in_channels, hidden, 1, norm=norms) if expansion > 1 else nn.Identity()
        )
        self.depthwise = ConvLayer(hidden, hidden, 3, stride=stride, groups=hidden, norm=norms)
        self.project = ConvLayer(hidden, channels, 1, act=False)
        self.residual = stride == 1

    def forward(self, x: Tensor) -> Tensor:
        """(B, C_in, h, w) -> (B, C, ceil(h / stride), ceil(w / stride))."""
        # (B, C, ceil(h / stride), ceil(w / stride))
        y = self.project(self.depthwise(self.expand(x)))
        return x + y if self.residual else y


class LinearAttention(nn.Module):
    """Multi-scale linear attention (Sec. 3.1, Eq. 2); for query i, with ReLU on q and k:

        o_i = q_i (sum_j k_j^T v_j) / (q_i sum_j k_j^T).

    Half of the heads use queries, keys and values themselves, the other half those gathered by a
    5x5 convolution (Fig. 2). The sums over all positions are always in fp32. The authors add 1e-15
    to the denominator; optimisers of exported files round that to 0.
    """

    def __init__(self, channels: int, head_channels: int) -> None:
        super().__init__()
        width = 3 * channels
        self.head_channels = head_channels
        self.qkv = nn.Conv2d(channels, width, 1, bias=False)
        self.aggregate = nn.Sequential(
            nn.Conv2d(width, width, 5, padding=2, groups=width, bias=False),
            nn.Conv2d(width, width, 1, groups=width // head_channels, bias=False),
        )
        self.project = ConvLayer(2 * channels, channels, 1, act=False)

    def forward(self, x: Tensor) -> Tensor:
        """(B, C, h, w) -> (B, C, h, w)."""
        qkv = self.qkv(x)  # (B, 3 C, h, w): q, k, v of the first head, of the second, ...
        gather, mix = self.aggregate
        assert isinstance(gather, nn.Conv2d)
        qkv = torch.cat([qkv, mix(convolve(gather, qkv))], dim=1)  # (B, 6 C, h, w)
        with autocast_off(x.device):
            heads = at_least_fp32(qkv).reshape(
                x.shape[0], -1, 3 * self.head_channels, x.shape[2] * x.shape[3]
            )
            q, k, v = heads.split(self.head_channels, dim=2)  # each (B, 2 n, d, N)
            # (B, 2 n, d + 1, N): the last row becomes the denominator
            v = F.pad(v, (0, 0, 0, 1), value=1.0)
            out = (v @ k.relu().mT) @ q.relu()  # (B, 2 n, d + 1, N)
            total = out[:, :, -1:]  # 0 if no key meets the query; then out is 0, too
            out = out[:, :, :-1] / torch.where(total > 0, total, 1.0)
        return self.project(out.reshape(x.shape[0], -1, *x.shape[2:]).to(qkv.dtype))  # (B, C, h, w)

    def macs(self, x: Tensor, y: Tensor) -> int:
        """Count values by keys and that by queries, in the heads of both scales."""
        heads, d = 2 * x.shape[1] // self.head_channels, self.head_channels
        return 2 * len(x) * heads * (d + 1) * d * x.shape[2] * x.shape[3]


class Block(nn.Module):
    """Attention over the whole image, then a bottleneck for the neighbourhood, each added."""

    def __init__(self, channels: int, head_channels: int) -> None:
        super().__init__()
        self.attention = LinearAttention(channels, head_channels)
        self.feed_forward = Bottleneck(channels, channels, norms=False)

    def forward(self, x: Tensor) -> Tensor:
        """(B, C, h, w) -> (B, C, h, w)."""
        return self.feed_forward(x + self.attention(x))


@dataclass(frozen=True)
class EfficientViTBackboneConfig:
    """One row of BACKBONES: channels and blocks of the stem and four stages, channels of a head."""

    channels: tuple[int, int, int, int, int]
    depths: tuple[int, int, int, int, int]
    head_channels: int


BACKBONES = {
    "efficientvit-b0": EfficientViTBackboneConfig((8, 16, 32, 64, 128), (1, 2, 2, 2, 2), 16),
    "efficientvit-b1": EfficientViTBackboneConfig((16, 32, 64, 128, 256), (1, 2, 3, 3, 4), 16),
    "efficientvit-b2": EfficientViTBackboneConfig((24, 48, 96, 192, 384), (1, 3, 4, 4, 6), 32),
    "efficientvit-b3": EfficientViTBackboneConfig((32, 64, 128, 256, 512), (1, 4, 6, 6, 9), 32),
}


def _stage(config: EfficientViTBackboneConfig, number: int) -> nn.Sequential:
    """Return stage 1 to 4: halve the size, then bottlenecks (1, 2) or attention blocks (3, 4).

    (B, C_in, h, w) -> (B, C, ceil(h / 2), ceil(w / 2)).
    """
    before, channels, depth = (
        config.channels[number - 1],
        config.channels[number],
        config.depths[number],
    )
    attends = number >= 3
    down = Bottleneck(before, channels, stride=2, norms=not attends)
    if attends:
        return nn.Sequential(down, *(Block(channels, config.head_channels) for _ in range(depth)))
    return nn.Sequential(down, *(Bottleneck(channels, channels) for _ in range(depth - 1)))


class EfficientViTBackbone(Backbone):
    """ImageNet-normalised images (B, C, H, W) -> four stages: 1/4, 1/8, 1/16, 1/32."""

    first_convolution = "stem.0.conv"
    checkpointed = (Block, Bottleneck, ConvLayer)

    def __init__(self, config: EfficientViTBackboneConfig) -> None:
        super().__init__()
        self.stage_channels = config.channels[1:]
        first = config.channels[0]
        self.stem = nn.Sequential(
            ConvLayer(3, first, 3, stride=2),
            *(Bottleneck(first, first, expansion=1) for _ in range(config.depths[0])),
        )
        self.stages = nn.ModuleList(_stage(config, number) for number in (1, 2, 3, 4))

    def forward(self, images: Tensor) -> list[Tensor]:
        """(B, C, H, W) -> (B, C_i, H/2^(i+2), W/2^(i+2)) for i = 0..3, sizes rounded up."""
        x = self.stem(images)  # (B, C_0, H/2, W/2)
        stages = []
        for stage in self.stages:
            x = stage(x)
            stages.append(x)
        return stages  # (B, C_i, H/2^(i+2), W/2^(i+2)) for i = 0..3, sizes rounded up

    def rename_official(self, state: Mapping[str, Tensor]) -> tuple[dict[str, Tensor], list[str]]:
        """Return (state under our key names, unused keys: the classification head).

        The keys are those of the authors' ImageNet models, or of their backbone alone.
        """
        unused = [key for key in state if key.startswith("head.")]
        renamed = {}
        for key, value in state.items():
            if key not in unused:
                full_key = _rename(f"backbone.{key.removeprefix('backbone.')}")
                renamed[full_key.removeprefix("backbone.")] = value
        return renamed, unused


class EfficientViTConfig(ModelConfig):
    """One row of VARIANTS; every key may be set in a recipe's [model].

    channels is the width of the head, depth its number of bottlenecks. classifier_expansion widens
    the input of the classifier; 0 removes that layer, as in the authors' models for ADE20K.
    """

    backbone: Literal["efficientvit-b0", "efficientvit-b1", "efficientvit-b2", "efficientvit-b3"]
    channels: Annotated[int, Field(ge=1)]
    depth: Annotated[int, Field(ge=0, le=64)] = 3
    classifier_expansion: Annotated[int, Field(ge=0)] = 4


class EfficientViT(SegmentationModel):
    """Normalised images (B, 3, H, W) -> logits (B, K, H/8, W/8), sizes rounded up.

    Runs natively at every size.
    """

    align_corners = False
    size_divisor = 1
    minimum_size = 1
    lone_side = 32

    def __init__(self, config: EfficientViTConfig, classes: int) -> None:
        super().__init__()
        width = config.channels
        self.classes, self.feature_channels = classes, width
        self.backbone = EfficientViTBackbone(BACKBONES[config.backbone])
        self.lateral = nn.ModuleList(
            ConvLayer(c, width, 1, act=False) for c in self.backbone.stage_channels[1:]
        )
        self.middle = nn.Sequential(*(Bottleneck(width, width) for _ in range(config.depth)))
        last = width * config.classifier_expansion or width
        self.expand = ConvLayer(width, last, 1) if config.classifier_expansion else None
        self.classifier = nn.Conv2d(last, classes, kernel_size=1)

    def decode(self, pyramid: list[Tensor]) -> Decoded:
        """Return logits (B, K, H/8, W/8) and features (B, D, H/8, W/8)."""
        stages = pyramid[1:]  # (B, C_i, H/2^(i+3), W/2^(i+3)) for i = 0..2
        finest, *coarse = (
            lateral(stage) for lateral, stage in zip(self.lateral, stages, strict=True)
        )
        size = (finest.shape[2], finest.shape[3])
        fused = finest + sum(resize_bicubic(x, size) for x in coarse)  # (B, D, H/8, W/8)
        features = self.middle(fused)
        wide = features if self.expand is None else self.expand(features)
        return Decoded(self.classifier(wide), features)  # (B, K, H/8, W/8)

    def rename_official(self, state: Mapping[str, Tensor]) -> tuple[dict[str, Tensor], list[str]]:
        """Return (state under our key names, no unused keys)."""
        renamed = {_rename(key): value for key, value in state.items()}
        if self.expand is None:  # the authors' model then has the classifier in its place
            renamed = {
                re.sub(r"^expand\.conv\.", "classifier.", key): value
                for key, value in renamed.items()
            }
        return renamed, []


_entry = partial(ModelEntry, EfficientViT, paper="EfficientViT, arXiv:2205.14756")
VARIANTS = {
    "efficientvit-seg-b0": _entry(
        EfficientViTConfig(backbone="efficientvit-b0", channels=32, depth=1),
        params=706_691,
        macs=1_097_859_072,
    ),
    "efficientvit-seg-b1": _entry(
        EfficientViTConfig(backbone="efficientvit-b1", channels=64),
        params=4_803_443,
        macs=6_276_251_648,
    ),
    "efficientvit-seg-b2": _entry(
        EfficientViTConfig(backbone="efficientvit-b2", channels=96),
        params=15_323_779,
        macs=18_410_373_120,
    ),
    "efficientvit-seg-b3": _entry(
        EfficientViTConfig(backbone="efficientvit-b3", channels=128),
        params=39_603_155,
        macs=44_806_963_200,
    ),
}


def resize_bicubic(x: Tensor, size: Size) -> Tensor:
    """Resize bicubically, corners not aligned, always in fp32: (B, C, h, w) -> (B, C, *size)."""
    with autocast_off(x.device):
        maps = resize_matrix(at_least_fp32(x).flatten(0, 1), size)  # (B * C, *size)
    return maps.reshape(*x.shape[:2], *size).to(x.dtype)


_BLOCK = r"backbone\.stages\.(\d)\.op_list\.(\d+)\."

OFFICIAL_PARTS = {
    r"backbone\.input_stem\.op_list\.(\d+)\.(main\.)?": r"backbone.stem.\1.",
    rf"{_BLOCK}main\.": r"backbone.stages.\1.\2.",
    rf"{_BLOCK}context_module\.main\.": r"backbone.stages.\1.\2.attention.",
    rf"{_BLOCK}local_module\.main\.": r"backbone.stages.\1.\2.feed_forward.",
    r"head\.input_ops\.0\.op_list\.0\.": "lateral.2.",
    r"head\.input_ops\.1\.op_list\.0\.": "lateral.1.",
    r"head\.input_ops\.2\.": "lateral.0.",
    r"head\.middle\.op_list\.(\d+)\.main\.": r"middle.\1.",
    r"head\.output_ops\.0\.op_list\.0\.": "expand.",
    r"head\.output_ops\.0\.op_list\.1\.conv\.": "classifier.",
}
"""Start of the authors' key, as a regular expression -> start of ours."""

OFFICIAL_INNER = {
    "inverted_conv.": "expand.",
    "depth_conv.": "depthwise.",
    "point_conv.": "project.",
    "qkv.conv.": "qkv.",
    "aggreg.0.": "aggregate.",
    "proj.": "project.",
}
"""Names inside a bottleneck and an attention: the authors' -> ours."""


def _rename(key: str) -> str:
    """Rename `head.middle.op_list.0.main.depth_conv.` to `middle.0.depthwise.`, and so on."""
    for theirs, ours in OFFICIAL_PARTS.items():
        if match := re.match(theirs, key):
            tail = key[match.end() :]
            inner = next((part for part in OFFICIAL_INNER if tail.startswith(part)), "")
            return match.expand(ours) + OFFICIAL_INNER.get(inner, "") + tail.removeprefix(inner)
    return key
