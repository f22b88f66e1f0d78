"""EfficientViT-B0 to B3 for segmentation (Cai et al., "EfficientViT: Multi-Scale Linear Attention for High-Resolution
Dense Prediction", ICCV 2023, arXiv:2205.14756).

Inverted bottlenecks, and in the last two stages attention whose cost grows linearly with the positions: ReLU in place
of softmax, so that keys and values are summed up once for all queries. The head adds the last three stages at 1/8.
Letters: B images, C channels, H x W the image, h x w a map, N = h * w, n heads of d channels, D width, K classes.
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
"""Width of every bottleneck, in multiples of the channels it takes."""


class ConvLayer(nn.Sequential):
    """Convolution, batch norm (or, with `norm` off, a bias in its place) and, with `act`, hard swish.

    Padded so that stride 1 keeps the size. (B, C_in, h, w) -> (B, C_out, ceil(h / stride), ceil(w / stride)).
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
        conv, *rest = self
        assert isinstance(conv, nn.Conv2d)
        x = convolve(conv, x)
        for layer in rest:
            x = layer(x)
        return x


class Bottleneck(nn.Module):
    """MBConv: 1x1 to `expansion` times the channels, depthwise 3x3, 1x1; at stride 1 added to what came in.

    Hard swish after the first two; with `norms` off these two have a bias in place of a batch norm. expansion 1 leaves
    the first away. (B, C_in, h, w) -> (B, C, ceil(h / stride), ceil(w / stride)).
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
        y = self.project(
            self.depthwise(self.expand(x))
        )  # (B, C, ceil(h / stride), ceil(w / stride))
        return x + y if self.residual else y


class LinearAttention(nn.Module):
    """Multi-scale linear attention (Sec. 3.1, Eq. 2): for query i, with ReLU before q and k,

        o_i = q_i (sum_j k_j^T v_j) / (q_i sum_j k_j^T).

    Half of the heads see the queries, keys and values themselves, half what a 5x5 convolution gathers of them (Fig. 2).
    The sums run in fp32 whatever autocast says: they are over all positions. The authors add 1e-15 to the denominator,
    which an optimiser of exported files takes for 0. (B, C, h, w) -> (B, C, h, w).
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
        qkv = self.qkv(x)  # (B, 3 C, h, w): q, k, v of the first head, of the second, ...
        gather, mix = self.aggregate
        assert isinstance(gather, nn.Conv2d)
        qkv = torch.cat([qkv, mix(convolve(gather, qkv))], dim=1)  # (B, 6 C, h, w)
        with autocast_off(x.device):
            heads = at_least_fp32(qkv).reshape(
                x.shape[0], -1, 3 * self.head_channels, x.shape[2] * x.shape[3]
            )
            q, k, v = heads.split(self.head_channels, dim=2)  # each (B, 2 n, d, N)
            v = F.pad(
                v, (0, 0, 0, 1), value=1.0
            )  # (B, 2 n, d + 1, N): the last row becomes the denominator
            out = (v @ k.relu().mT) @ q.relu()  # (B, 2 n, d + 1, N)
            total = out[:, :, -1:]  # 0 where no key meets the query: then all of out is 0
            out = out[:, :, :-1] / torch.where(total > 0, total, 1.0)
        return self.project(out.reshape(x.shape[0], -1, *x.shape[2:]).to(qkv.dtype))  # (B, C, h, w)

    def macs(self, x: Tensor, y: Tensor) -> int:
        """Values, with a row of ones, by keys, and that by queries, in the heads of both scales."""
        heads, d = 2 * x.shape[1] // self.head_channels, self.head_channels
        return 2 * len(x) * heads * (d + 1) * d * x.shape[2] * x.shape[3]


class Block(nn.Module):
    """Attention for the whole image, a bottleneck for what lies near, each added. (B, C, h, w) -> (B, C, h, w)."""

    def __init__(self, channels: int, head_channels: int) -> None:
        super().__init__()
        self.attention = LinearAttention(channels, head_channels)
        self.feed_forward = Bottleneck(channels, channels, norms=False)

    def forward(self, x: Tensor) -> Tensor:
        return self.feed_forward(x + self.attention(x))


@dataclass(frozen=True)
class EfficientViTBackboneConfig:
    """One row of BACKBONES: channels and blocks of the stem and the four stages, channels of an attention head."""

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
    """Stage 1 to 4: to half the size, then bottlenecks (1 and 2) or attention blocks (3 and 4).

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
    """images (B, C, H, W), ImageNet-normalised -> four stage maps, fine to coarse: 1/4, 1/8, 1/16, 1/32."""

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
        x = self.stem(images)  # (B, C_0, H/2, W/2)
        stages = []
        for stage in self.stages:
            x = stage(x)
            stages.append(x)
        return stages  # (B, C_i, H/2^(i+2), W/2^(i+2)) for i = 0..3, sizes rounded up

    def rename_official(self, state: Mapping[str, Tensor]) -> tuple[dict[str, Tensor], list[str]]:
        """Key names of the authors' ImageNet networks, or of their backbone alone, -> ours; -> (renamed state, unused:
        the classification head's).
        """
        unused = [key for key in state if key.startswith("head.")]
        renamed = {}
        for key, value in state.items():
            if key not in unused:
                renamed[
                    _rename(f"backbone.{key.removeprefix('backbone.')}").removeprefix("backbone.")
                ] = value
        return renamed, unused


class EfficientViTConfig(ModelConfig):
    """One row of VARIANTS; every key may be set in a recipe's [model].

    channels is the width of the head, depth its number of bottlenecks. classifier_expansion widens what the classes are
    told apart on; 0 leaves that layer away, as the networks do that the authors published for ADE20K.
    """

    backbone: Literal["efficientvit-b0", "efficientvit-b1", "efficientvit-b2", "efficientvit-b3"]
    channels: Annotated[int, Field(ge=1)]
    depth: Annotated[int, Field(ge=0, le=64)] = 3
    classifier_expansion: Annotated[int, Field(ge=0)] = 4


class EfficientViT(SegmentationModel):
    """images (B, 3, H, W), normalised -> logits (B, K, H/8, W/8), sizes rounded up. Runs natively at every size."""

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
        """Key names of the authors' segmentation networks -> ours; -> (renamed state, keys not used: none)."""
        renamed = {_rename(key): value for key, value in state.items()}
        if self.expand is None:  # then theirs has the classifier in its place
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
    """Bicubic resize, corners not aligned, in fp32 whatever autocast says: (B, C, h, w) -> (B, C, *size)."""
    with autocast_off(x.device):
        maps = resize_matrix(at_least_fp32(x).flatten(0, 1), size)  # (B * C, *size)
    return maps.reshape(*x.shape[:2], *size).to(x.dtype)


OFFICIAL_PARTS = {
    r"backbone\.input_stem\.op_list\.(\d+)\.(main\.)?": r"backbone.stem.\1.",
    r"backbone\.stages\.(\d)\.op_list\.(\d+)\.main\.": r"backbone.stages.\1.\2.",
    r"backbone\.stages\.(\d)\.op_list\.(\d+)\.context_module\.main\.": r"backbone.stages.\1.\2.attention.",
    r"backbone\.stages\.(\d)\.op_list\.(\d+)\.local_module\.main\.": r"backbone.stages.\1.\2.feed_forward.",
    r"head\.input_ops\.0\.op_list\.0\.": "lateral.2.",
    r"head\.input_ops\.1\.op_list\.0\.": "lateral.1.",
    r"head\.input_ops\.2\.": "lateral.0.",
    r"head\.middle\.op_list\.(\d+)\.main\.": r"middle.\1.",
    r"head\.output_ops\.0\.op_list\.0\.": "expand.",
    r"head\.output_ops\.0\.op_list\.1\.conv\.": "classifier.",
}
"""How their keys begin -> how ours begin."""

OFFICIAL_INNER = {
    "inverted_conv.": "expand.",
    "depth_conv.": "depthwise.",
    "point_conv.": "project.",
    "qkv.conv.": "qkv.",
    "aggreg.0.": "aggregate.",
    "proj.": "project.",
}
"""Names inside a bottleneck and an attention."""


def _rename(key: str) -> str:
    """`head.middle.op_list.0.main.depth_conv.norm.bias` -> `middle.0.depthwise.norm.bias`; others stay as they are."""
    for theirs, ours in OFFICIAL_PARTS.items():
        if match := re.match(theirs, key):
            rest = key[match.end() :]
            inner = next((part for part in OFFICIAL_INNER if rest.startswith(part)), "")
            return match.expand(ours) + OFFICIAL_INNER.get(inner, "") + rest.removeprefix(inner)
    return key
