"""SeaFormer: squeeze-enhanced axial transformer (Wan et al., ICLR 2023, arXiv:2301.13156).

Inverted residuals down to 1/64. The last two or three stages end in transformer blocks: their
attention squeezes a map to one row and one column, and a parallel convolution keeps the details. In
the head the coarse maps gate a fine one.

Letters: B images, C channels, H x W the image, h x w a map, n heads of d channels, L = h or w, D
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

from featherseg.layers.conv import convolve, normalise_act
from featherseg.layers.initialise import initialise_by_fan_out
from featherseg.layers.model import Backbone, Decoded, ModelConfig, ModelEntry, SegmentationModel
from featherseg.layers.official_keys import rename_start
from featherseg.layers.precision import at_least_fp32, autocast_off
from featherseg.layers.resize import resize
from featherseg.layers.stochastic_depth import StochasticDepth

KERNEL_SIZES = (3, 5, 3, 5, 3)
"""Kernel sizes of the depthwise convolutions in the inverted residuals of each stage."""

POSITIONS = 16
"""Length of a table of positions: the side at 1/32 of an image of 512 x 512."""

DROP_PATH = 0.1
"""Rate of stochastic depth at the last transformer block of each stage, from 0 at the first."""


class ConvNorm(nn.Module):
    """Convolution without bias, and batch norm; padded so that stride 1 keeps the size."""

    def __init__(
        self,
        in_channels: int,
        out_channels: int,
        kernel_size: int = 1,
        *,
        stride: int = 1,
        groups: int = 1,
    ) -> None:
        super().__init__()
        padding = kernel_size // 2
        self.conv = nn.Conv2d(
            in_channels, out_channels, kernel_size, stride, padding, groups=groups, bias=False
        )
        self.norm = nn.BatchNorm2d(out_channels)

    def forward(self, x: Tensor) -> Tensor:
        """(B, C_in, h, w) -> (B, C_out, ceil(h / stride), ceil(w / stride))."""
        return normalise_act(self.norm, None, convolve(self.conv, x))


class InvertedResidual(nn.Module):
    """1x1, depthwise k x k, 1x1, ReLU after the first two; a shortcut if the shape stays.

    With expansion 1 the first 1x1 is missing.
    """

    def __init__(
        self, in_channels: int, channels: int, kernel_size: int, *, expansion: int, stride: int
    ) -> None:
        super().__init__()
        hidden = expansion * in_channels
        expand = [ConvNorm(in_channels, hidden), nn.ReLU()] if expansion > 1 else []
        depthwise = [ConvNorm(hidden, hidden, kernel_size, stride=stride, groups=hidden), nn.ReLU()]
        self.layers = nn.Sequential(*expand, *depthwise, ConvNorm(hidden, channels))
        self.residual = stride == 1 and in_channels == channels

    def forward(self, x: Tensor) -> Tensor:
        """(B, C_in, h, w) -> (B, C, ceil(h / stride), ceil(w / stride))."""
        return x + self.layers(x) if self.residual else self.layers(x)


class AxisPosition(nn.Module):
    """Learned positions along one axis, resized linearly to its length and added."""

    macs, no_decay = 0, True

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.table = nn.Parameter(torch.randn(1, channels, POSITIONS))

    def forward(self, x: Tensor) -> Tensor:
        """(B, C, L) -> (B, C, L)."""
        return x + F.interpolate(
            at_least_fp32(self.table), size=x.shape[2], mode="linear", align_corners=False
        )


class AxisAttention(nn.Module):
    """Squeeze axial attention along one axis: L positions, each the mean of a row or a column.

    Scores and softmax are always in fp32.
    """

    def __init__(self, heads: int, key_channels: int) -> None:
        super().__init__()
        width, values = heads * key_channels, 2 * heads * key_channels
        self.heads, self.key_channels = heads, key_channels
        self.query_position, self.key_position = AxisPosition(width), AxisPosition(width)
        self.project = _closed_projection(values, values)

    def forward(self, q: Tensor, k: Tensor, v: Tensor) -> Tensor:
        """q, k (B, n d, L), v (B, 2 n d, L) -> (B, 2 n d, L, 1)."""
        with autocast_off(q.device):
            # (B, n, d, L)
            query = self.query_position(at_least_fp32(q)).unflatten(1, (self.heads, -1))
            key = self.key_position(at_least_fp32(k)).unflatten(1, (self.heads, -1))  # (B, n, d, L)
            weight = (query.mT @ key * self.key_channels**-0.5).softmax(-1)  # (B, n, L, L)
            context = at_least_fp32(v).unflatten(1, (self.heads, -1)) @ weight.mT  # (B, n, 2 d, L)
        return self.project(context.to(v.dtype).flatten(1, 2)[..., None])  # (B, 2 n d, L, 1)

    def macs(self, x: Tensor, y: Tensor) -> int:
        """Count q k, and weights by values, of all heads among the L positions; x is q."""
        return len(x) * x.shape[2] ** 2 * (x.shape[1] + y.shape[1])


def _closed_projection(in_channels: int, out_channels: int) -> nn.Sequential:
    """Return ReLU6, 1x1, batch norm with factors 0: (B, C_in, h, w) -> (B, C_out, h, w)."""
    projection = ConvNorm(in_channels, out_channels)
    nn.init.zeros_(projection.norm.weight)
    return nn.Sequential(nn.ReLU6(), projection)


class SqueezeAttention(nn.Module):
    """Squeeze-enhanced axial attention: attention gates a depthwise convolution of q, k, v."""

    def __init__(self, channels: int, heads: int, key_channels: int) -> None:
        super().__init__()
        width, values = heads * key_channels, 2 * heads * key_channels
        self.query, self.key, self.value = (ConvNorm(channels, c) for c in (width, width, values))
        self.rows, self.columns = (
            AxisAttention(heads, key_channels),
            AxisAttention(heads, key_channels),
        )
        self.project = _closed_projection(values, channels)
        gather = ConvNorm(2 * values, 2 * values, 3, groups=2 * values)
        self.detail = nn.Sequential(gather, nn.ReLU6(), ConvNorm(2 * values, channels))

    def forward(self, x: Tensor) -> Tensor:
        """(B, C, h, w) -> (B, C, h, w)."""
        # (B, n d, h, w) twice, (B, 2 n d, h, w)
        q, k, v = self.query(x), self.key(x), self.value(x)
        rows = self.rows(q.mean(3), k.mean(3), v.mean(3))  # (B, 2 n d, h, 1)
        columns = self.columns(q.mean(2), k.mean(2), v.mean(2)).mT  # (B, 2 n d, 1, w)
        gate = F.hardsigmoid(self.project(v + (rows + columns)))  # (B, C, h, w)
        return gate * self.detail(torch.cat([q, k, v], dim=1))


class FeedForward(nn.Module):
    """1x1, depthwise 3x3, ReLU6, 1x1, with `expansion` times the channels in between."""

    def __init__(self, channels: int, *, expansion: int) -> None:
        super().__init__()
        hidden = expansion * channels
        self.expand = ConvNorm(channels, hidden)
        self.depthwise = nn.Conv2d(hidden, hidden, 3, padding=1, groups=hidden)
        self.act = nn.ReLU6()
        self.project = ConvNorm(hidden, channels)

    def forward(self, x: Tensor) -> Tensor:
        """(B, C, h, w) -> (B, C, h, w)."""
        return self.project(self.act(convolve(self.depthwise, self.expand(x))))


class Block(nn.Module):
    """Attention, then the feed-forward network, each added."""

    def __init__(
        self, attention: SqueezeAttention, feed_forward: FeedForward, *, drop: float
    ) -> None:
        super().__init__()
        self.attention, self.feed_forward = attention, feed_forward
        self.drop = StochasticDepth(drop)

    def forward(self, x: Tensor) -> Tensor:
        """(B, C, h, w) -> (B, C, h, w)."""
        x = x + self.drop(self.attention(x))
        return x + self.drop(self.feed_forward(x))


@dataclass(frozen=True)
class SeaFormerBackboneConfig:
    """One row of BACKBONES.

    channels: width of each of the five stages, the first at 1/4.
    depths: transformer blocks in each of the last stages.
    heads, key_channels: heads of a block, and the channels of a key in each head.
    mlp: width of a block's feed-forward network, in multiples of its channels.
    first: width at 1/2.
    expansions: of the inverted residuals, in the stem, then in each stage.
    """

    channels: tuple[int, int, int, int, int]
    depths: tuple[int, ...]
    heads: int
    key_channels: tuple[int, ...] = (16, 24)
    mlp: tuple[int, ...] = (2, 4)
    first: int = 16
    expansions: tuple[tuple[int, ...], ...] = ((1,), (4, 3), (3, 3), (3, 3), (4,), (6,))


BACKBONES = {
    "seaformer-tiny": SeaFormerBackboneConfig(
        channels=(16, 32, 64, 128, 160),
        depths=(2, 2),
        heads=4,
        expansions=((1,), (4, 3), (3, 3), (3, 3), (3,), (6,)),
    ),
    "seaformer-small": SeaFormerBackboneConfig(
        channels=(24, 48, 96, 160, 192), depths=(3, 3), heads=6
    ),
    "seaformer-base": SeaFormerBackboneConfig(
        channels=(32, 64, 128, 192, 256), depths=(4, 4), heads=8
    ),
    "seaformer-large": SeaFormerBackboneConfig(
        channels=(64, 128, 192, 256, 320),
        depths=(3, 3, 3),
        heads=8,
        key_channels=(16, 20, 24),
        mlp=(2, 4, 6),
        first=32,
        expansions=((3,), (4, 4), (4, 4), (4, 4), (4,), (6,)),
    ),
}


def _stage(config: SeaFormerBackboneConfig, number: int) -> nn.Sequential:
    """Return stage 0 to 4: inverted residuals, the first with stride 2, then transformer blocks.

    Only the last stages have transformer blocks. (B, C_in, h, w) -> (B, C, ceil(h / 2), ceil(w /
    2)).
    """
    before, channels = (config.first, *config.channels)[number], config.channels[number]
    first, *others = config.expansions[1 + number]
    kernel_size = KERNEL_SIZES[number]
    residuals = nn.Sequential(
        InvertedResidual(before, channels, kernel_size, expansion=first, stride=2),
        *(InvertedResidual(channels, channels, kernel_size, expansion=e, stride=1) for e in others),
    )
    parts: OrderedDict[str, nn.Module] = OrderedDict(residuals=residuals)
    row = number - len(config.channels) + len(config.depths)
    if row >= 0:
        parts["blocks"] = _blocks(config, channels, row)
    return nn.Sequential(parts)


def _blocks(config: SeaFormerBackboneConfig, channels: int, row: int) -> nn.Sequential:
    """Return the transformer blocks of a stage: (B, C, h, w) -> (B, C, h, w)."""
    blocks, depth = [], config.depths[row]
    for i in range(depth):
        attention = SqueezeAttention(channels, config.heads, config.key_channels[row])
        feed_forward = FeedForward(channels, expansion=config.mlp[row])
        blocks.append(Block(attention, feed_forward, drop=DROP_PATH * i / (depth - 1)))
    return nn.Sequential(*blocks)


class SeaFormerBackbone(Backbone):
    """ImageNet-normalised images (B, C, H, W) -> five stages, one more than others: 1/4 to 1/64."""

    first_convolution = "stem.0.conv"
    checkpointed = (Block, InvertedResidual)

    def __init__(self, config: SeaFormerBackboneConfig) -> None:
        super().__init__()
        self.stage_channels = config.channels
        first, ((expansion,), *_) = config.first, config.expansions
        self.stem = nn.Sequential(
            *(ConvNorm(3, first, 3, stride=2), nn.ReLU()),
            InvertedResidual(first, first, 3, expansion=expansion, stride=1),
        )
        self.stages = nn.ModuleList(_stage(config, number) for number in range(5))
        self.first_transformer = 5 - len(config.depths)
        initialise_by_fan_out(self)

    def forward(self, images: Tensor) -> list[Tensor]:
        """(B, C, H, W) -> (B, C_i, H/2^(i+2), W/2^(i+2)) for i = 0..4, sizes rounded up."""
        x = self.stem(images)  # (B, C_first, H/2, W/2)
        stages = []
        for stage in self.stages:
            x = stage(x)
            stages.append(x)
        return stages  # (B, C_i, H/2^(i+2), W/2^(i+2)) for i = 0..4, sizes rounded up

    def rename_official(self, state: Mapping[str, Tensor]) -> tuple[dict[str, Tensor], list[str]]:
        """Return (state under our key names, unused keys: the ImageNet classifier)."""
        unused = [key for key in state if key.startswith("linear.")]
        return {
            _rename(key, self.first_transformer): v for key, v in state.items() if key not in unused
        }, unused


class Fusion(nn.Module):
    """Fusion block: BN(1x1(fine)) * up(hardsigmoid(BN(1x1(coarse))))."""

    def __init__(self, fine_channels: int, coarse_channels: int, width: int) -> None:
        super().__init__()
        self.project, self.gate = ConvNorm(fine_channels, width), ConvNorm(coarse_channels, width)

    def forward(self, fine: Tensor, coarse: Tensor) -> Tensor:
        """fine (B, C_f, h, w), coarse (B, C_c, h', w') -> (B, D, h, w)."""
        gate = F.hardsigmoid(self.gate(coarse))  # (B, D, h', w')
        return self.project(fine) * resize(
            gate, (fine.shape[2], fine.shape[3]), align_corners=False
        )


class SeaFormerConfig(ModelConfig):
    """One row of VARIANTS; every key may be set in a recipe's [model].

    widths are those of the fusions, first to last; their number is the number of coarse maps that
    gate the map at 1/8.
    """

    backbone: Literal["seaformer-tiny", "seaformer-small", "seaformer-base", "seaformer-large"]
    widths: Annotated[tuple[Annotated[int, Field(ge=1)], ...], Field(min_length=1, max_length=3)]


class SeaFormer(SegmentationModel):
    """Normalised images (B, 3, H, W) -> logits (B, K, H/8, W/8), sizes rounded up.

    Runs natively at every size. Its pyramid has five maps, 1/4 to 1/64.
    """

    align_corners = False
    size_divisor = 1
    minimum_size = 1

    def __init__(self, config: SeaFormerConfig, classes: int) -> None:
        super().__init__()
        width = config.widths[-1]
        self.classes, self.feature_channels = classes, width
        self.backbone = SeaFormerBackbone(BACKBONES[config.backbone])
        fine = (self.backbone.stage_channels[1], *config.widths[:-1])
        coarse = self.backbone.stage_channels[-len(config.widths) :]
        self.fuse = nn.ModuleList(map(Fusion, fine, coarse, config.widths))
        self.smooth = nn.Sequential(ConvNorm(width, width, groups=width), nn.ReLU())
        self.drop = nn.Dropout2d(0.1)
        self.classifier = nn.Conv2d(width, classes, kernel_size=1)
        nn.init.normal_(self.classifier.weight, std=0.01)

    def decode(self, pyramid: list[Tensor]) -> Decoded:
        """Return logits (B, K, H/8, W/8) and features (B, D, H/8, W/8)."""
        x = pyramid[1]  # (B, C_1, H/8, W/8)
        for fuse, coarse in zip(self.fuse, pyramid[-len(self.fuse) :], strict=True):
            x = fuse(x, coarse)  # (B, D_i, H/8, W/8)
        features = self.smooth(x)
        return Decoded(self.classifier(self.drop(features)), features)  # (B, K, H/8, W/8)

    def least_side(self, images: Tensor) -> int:
        """Return 1, or 65 for one training image: batch norms need more than one row and column."""
        return 65 if self.training and len(images) == 1 else self.minimum_size

    def rename_official(self, state: Mapping[str, Tensor]) -> tuple[dict[str, Tensor], list[str]]:
        """Return (state under our key names, keys of the backbone that are not used)."""
        renamed, unused, head_state = self.rename_backbone(state)
        return renamed | {_rename_head(key): value for key, value in head_state.items()}, unused


_entry = partial(ModelEntry, SeaFormer, paper="SeaFormer, arXiv:2301.13156")
VARIANTS = {
    "seaformer-tiny": _entry(
        SeaFormerConfig(backbone="seaformer-tiny", widths=(64, 96)),
        params=1_654_611,
        macs=1_021_136_896,
    ),
    "seaformer-small": _entry(
        SeaFormerConfig(backbone="seaformer-small", widths=(96, 128)),
        params=3_973_219,
        macs=1_920_930_816,
    ),
    "seaformer-base": _entry(
        SeaFormerConfig(backbone="seaformer-base", widths=(128, 160)),
        params=8_584_563,
        macs=3_335_094_272,
    ),
    "seaformer-large": _entry(
        SeaFormerConfig(backbone="seaformer-large", widths=(128, 160, 192)),
        params=13_926_227,
        macs=12_461_494_272,
    ),
}


OFFICIAL_HEAD = {
    "conv_seg.": "classifier.",
    "linear_fuse.": "smooth.0.",
    "fuse1.": "fuse.0.",
    "fuse2.": "fuse.1.",
    "fuse3.": "fuse.2.",
}
"""Names after `decode_head.`: the authors' -> ours."""

OFFICIAL_FUSION = {"local_embedding.": "project.", "global_act.": "gate."}
"""Names inside a fusion: the authors' -> ours."""

OFFICIAL_BLOCK = {
    "attn.to_q.": "attention.query.",
    "attn.to_k.": "attention.key.",
    "attn.to_v.": "attention.value.",
    "attn.pos_emb_rowq.pos_embed": "attention.rows.query_position.table",
    "attn.pos_emb_rowk.pos_embed": "attention.rows.key_position.table",
    "attn.proj_encode_row.": "attention.rows.project.",
    "attn.pos_emb_columnq.pos_embed": "attention.columns.query_position.table",
    "attn.pos_emb_columnk.pos_embed": "attention.columns.key_position.table",
    "attn.proj_encode_column.": "attention.columns.project.",
    "attn.proj.": "attention.project.",
    "attn.dwconv.": "attention.detail.0.",
    "attn.pwconv.": "attention.detail.2.",
    "mlp.fc1.": "feed_forward.expand.",
    "mlp.dwconv.": "feed_forward.depthwise.",
    "mlp.fc2.": "feed_forward.project.",
}
"""Names inside a transformer block: the authors' -> ours."""


def _rename(key: str, first_transformer: int) -> str:
    """Rename `smb2.layer1.conv.0.c.` of the backbone to `stages.1.residuals.0.layers.0.conv.`."""
    key = key.replace(".c.", ".conv.").replace(".bn.", ".norm.")
    if match := re.fullmatch(r"smb1\.(stem_block\.0|layer1\.conv)\.(.+)", key):
        return f"stem.{'0' if match[1] == 'stem_block.0' else '2.layers'}.{match[2]}"
    if match := re.fullmatch(r"smb(\d)\.layer(\d)\.conv\.(.+)", key):
        stage = int(match[1]) - 1
        # the first of the first stage is in our stem
        layer = int(match[2]) - (2 if stage == 0 else 1)  # one of stage 0 is in our stem
        return f"stages.{stage}.residuals.{layer}.layers.{match[3]}"
    if match := re.fullmatch(r"trans(\d)\.transformer_blocks\.(\d+)\.(.+)", key):
        stage = first_transformer + int(match[1]) - 1
        return f"stages.{stage}.blocks.{match[2]}.{rename_start(match[3], OFFICIAL_BLOCK)}"
    return key


def _rename_head(key: str) -> str:
    """Rename `decode_head.fuse1.global_act.bn.bias` to `fuse.0.gate.norm.bias`, and so on."""
    key = rename_start(key.removeprefix("decode_head."), OFFICIAL_HEAD).replace(".bn.", ".norm.")
    for theirs, ours in OFFICIAL_FUSION.items():
        key = key.replace(f".{theirs}", f".{ours}")
    return key
