"""PIDNet: real-time segmentation inspired by PID controllers (Xu et al., arXiv:2206.02066).

Three branches (Fig. 3): P keeps details at 1/8, I goes down to 1/64 for context, D finds boundaries
at 1/8. P picks from I by similarity (Pag, Fig. 4). Context is pooled at several scales (PAPPM or
DAPPM, Fig. 5). At the end the boundary weights details and context at each position (Bag, Fig. 6).
For training, auxiliary heads classify P half way and find boundaries in D; their losses are in
losses/boundary.py. What the paper leaves open is as in the authors' code (XuJiacong/PIDNet).

Letters: B images, H x W the image, W_p planes of the stem, K classes.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from functools import partial
from typing import Annotated, Literal

import torch
from pydantic import Field
from torch import Tensor, nn

from featherseg.layers.model import Backbone, Decoded, ModelConfig, ModelEntry, SegmentationModel
from featherseg.layers.official_keys import rename_start
from featherseg.layers.pooling import OFFICIAL_DAPPM, DeepAggregationPooling, pooled_scales
from featherseg.layers.pre_norm import OFFICIAL_HEAD, NormActConv, PreNormHead
from featherseg.layers.residual import (
    basic_block,
    conv_norm,
    open_basic_stage,
    open_bottleneck_stage,
    start_kaiming,
)
from featherseg.layers.resize import resize


class AttentionPick(nn.Module):
    """Pag, pixel-attention-guided fusion (Fig. 4): context where both agree, else details."""

    def __init__(self, channels: int, key_channels: int) -> None:
        super().__init__()
        self.details_key = nn.Sequential(*conv_norm(channels, key_channels, 1))
        self.context_key = nn.Sequential(*conv_norm(channels, key_channels, 1))

    def forward(self, details: Tensor, context: Tensor) -> Tensor:
        """details (B, C, H/8, W/8), context (B, C, h, w) -> (B, C, H/8, W/8)."""
        key = _resize_to(self.context_key(context), details)  # (B, C_k, H/8, W/8)
        share = (self.details_key(details) * key).sum(1, keepdim=True).sigmoid()  # (B, 1, H/8, W/8)
        return (1 - share) * details + share * _resize_to(context, details)


class ParallelAggregationPooling(nn.Module):
    """PAPPM (Fig. 5): DAPPM's scales in parallel instead of one after the other."""

    def __init__(self, in_channels: int, branch_channels: int, out_channels: int) -> None:
        super().__init__()
        self.finest = NormActConv(in_channels, branch_channels, 1)
        self.scales = pooled_scales(in_channels, branch_channels)
        pooled = len(self.scales) * branch_channels
        self.process = NormActConv(pooled, pooled, 3, groups=len(self.scales))
        self.compress = NormActConv(pooled + branch_channels, out_channels, 1)
        self.shortcut = NormActConv(in_channels, out_channels, 1)

    def forward(self, x: Tensor) -> Tensor:
        """(B, C, h, w) -> (B, D, h, w)."""
        finest = self.finest(x)  # (B, C_b, h, w)
        # (B, 4 C_b, h, w)
        scales = torch.cat([_resize_to(scale(x), finest) + finest for scale in self.scales], dim=1)
        return self.compress(torch.cat([finest, self.process(scales)], dim=1)) + self.shortcut(x)


class BoundaryFusion(nn.Module):
    """Bag, boundary-attention-guided fusion (Fig. 6, left): details at boundaries, else context."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.fuse = NormActConv(channels, channels, 3)

    def forward(self, details: Tensor, context: Tensor, boundary: Tensor) -> Tensor:
        """details, context, boundary: all (B, C, H/8, W/8) -> (B, C, H/8, W/8)."""
        share = boundary.sigmoid()
        return self.fuse(share * details + (1 - share) * context)


class LightBoundaryFusion(nn.Module):
    """Light-Bag (Fig. 6, right): a 1x1 convolution per input instead of one 3x3 on their sum."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.details = nn.Sequential(*conv_norm(channels, channels, 1))
        self.context = nn.Sequential(*conv_norm(channels, channels, 1))

    def forward(self, details: Tensor, context: Tensor, boundary: Tensor) -> Tensor:
        """details, context, boundary: all (B, C, H/8, W/8) -> (B, C, H/8, W/8)."""
        share = boundary.sigmoid()
        return self.details((1 - share) * context + details) + self.context(
            context + share * details
        )


@dataclass(frozen=True)
class Trunk:
    """Planes of the stem, and basic blocks of a stage (Table 1).

    shallow: blocks at 1/4, 1/8 and in P; deep: at 1/16 and 1/32. light: D's first stage has half
    the width, and its second is one bottleneck.
    """

    planes: int
    shallow: int
    deep: int
    light: bool = True


TRUNKS = {
    "pidnet-s": Trunk(32, 2, 3),
    "pidnet-m": Trunk(64, 2, 3),
    "pidnet-l": Trunk(64, 3, 4, light=False),
}


class ThreeBranches(Backbone):
    """The three branches: normalised images (B, 3, H, W) -> five maps, sizes rounded up.

    (B, W_p, H/4, W/4); P and D half way, (B, 2 W_p, H/8, W/8) each; P at its end, (B, 4 W_p, H/8,
    W/8); I at its end, (B, 16 W_p, H/64, W/64). The last two have no ReLU at their end.
    """

    first_convolution = "stem.0"
    absent = ("boundary.", "difference.")  # the authors' ImageNet models have no D (Sec. 4.2)

    def __init__(self, trunk: Trunk) -> None:
        super().__init__()
        p, shallow, deep = trunk.planes, trunk.shallow, trunk.deep
        self.stage_channels = (p, 2 * p, 2 * p, 4 * p, 16 * p)
        self.stem = nn.Sequential(
            *conv_norm(3, p, 3, stride=2, bias=True),
            nn.ReLU(),
            *conv_norm(p, p, 3, stride=2, bias=True),
            nn.ReLU(),
        )
        self.context = nn.ModuleList(  # I
            [
                open_basic_stage(p, p, shallow),
                open_basic_stage(p, 2 * p, shallow, stride=2),
                open_basic_stage(2 * p, 4 * p, deep, stride=2),
                open_basic_stage(4 * p, 8 * p, deep, stride=2),
                open_bottleneck_stage(8 * p, 8 * p, 2, stride=2),
            ]
        )
        self.details = nn.ModuleList(  # P
            [
                open_basic_stage(2 * p, 2 * p, shallow),
                open_basic_stage(2 * p, 2 * p, shallow),
                open_bottleneck_stage(2 * p, 2 * p),
            ]
        )
        self.compress = nn.ModuleList(
            nn.Sequential(*conv_norm(c, 2 * p, 1)) for c in (4 * p, 8 * p)
        )
        self.pick = nn.ModuleList(AttentionPick(2 * p, p) for _ in self.compress)
        first = p if trunk.light else 2 * p
        self.boundary = nn.ModuleList(  # D
            [
                basic_block(2 * p, first, 1, act=False),
                open_bottleneck_stage(p, p)
                if trunk.light
                else basic_block(2 * p, 2 * p, 1, act=False),
            ]
        )
        self.difference = nn.ModuleList(
            nn.Sequential(*conv_norm(c, width, 3)) for c, width in ((4 * p, first), (8 * p, 2 * p))
        )
        self.act = nn.ReLU()
        start_kaiming(self)

    def forward(self, images: Tensor) -> list[Tensor]:
        """(B, 3, H, W) -> the five maps."""
        quarter = self.act(self.context[0](self.stem(images)))  # (B, W_p, H/4, W/4)
        context = details = boundary = self.act(self.context[1](quarter))  # (B, 2 W_p, H/8, W/8)
        middle = []
        for i, stage in enumerate((self.context[2], self.context[3])):
            details, boundary = self.details[i](details), self.boundary[i](boundary)
            context = self.act(stage(context))  # (B, 4 W_p, H/16, W/16), (B, 8 W_p, H/32, W/32)
            # (B, 2 W_p, H/8, W/8)
            details = self.act(self.pick[i](details, self.compress[i](context)))
            boundary = self.act(boundary + _resize_to(self.difference[i](context), boundary))
            middle.append(details)
        return [quarter, middle[0], boundary, self.details[2](details), self.context[4](context)]

    def rename_official(self, state: Mapping[str, Tensor]) -> tuple[dict[str, Tensor], list[str]]:
        """Return (state under our key names, no unused keys)."""
        return {
            rename_start(key, OFFICIAL_BACKBONE, ("layer",)): value for key, value in state.items()
        }, []


class PIDNetConfig(ModelConfig):
    """One row of VARIANTS; every key may be set in a recipe's [model].

    context_channels is the width of each scale of the pooling. light: PAPPM and Light-Bag instead
    of DAPPM and Bag.
    """

    backbone: Literal["pidnet-s", "pidnet-m", "pidnet-l"]
    light: bool = True
    context_channels: Annotated[int, Field(ge=1)] = 96
    head_channels: Annotated[int, Field(ge=1)] = 128


class PIDNet(SegmentationModel):
    """Normalised images (B, 3, H, W) -> logits (B, K, H/8, W/8), sizes rounded up.

    Auxiliary logits of the same size: `aux_p` (B, K, ...) of the classes, `aux_d` (B, 1, ...) of
    boundaries. Runs natively at every size.
    """

    align_corners = True
    size_divisor = 1
    minimum_size = 1
    lone_side = 64
    boundary_head = "aux_d"
    class_bias = "head.1.2.bias"

    def __init__(self, config: PIDNetConfig, classes: int) -> None:
        super().__init__()
        self.backbone = ThreeBranches(TRUNKS[config.backbone])
        planes, half, _, width, context = self.backbone.stage_channels
        self.classes, self.feature_channels = classes, width
        pooling = ParallelAggregationPooling if config.light else DeepAggregationPooling
        self.pooling = pooling(context, config.context_channels, width)
        self.boundary = open_bottleneck_stage(half, half)
        self.fuse = LightBoundaryFusion(width) if config.light else BoundaryFusion(width)
        self.head = PreNormHead(width, config.head_channels, classes)
        self.aux_heads = nn.ModuleDict(
            {
                "aux_p": PreNormHead(half, config.head_channels, classes),
                "aux_d": PreNormHead(half, planes, 1),
            }
        )
        for part in (self.pooling, self.boundary, self.fuse, self.head, self.aux_heads):
            start_kaiming(part)

    def decode(self, pyramid: list[Tensor]) -> Decoded:
        """Return logits (B, K, H/8, W/8), features (B, 4 W_p, H/8, W/8), and auxiliary logits."""
        _, middle, boundary, details, context = pyramid
        pooled = _resize_to(self.pooling(context), details)  # (B, 4 W_p, H/8, W/8)
        features = self.fuse(details, pooled, self.boundary(boundary))  # (B, 4 W_p, H/8, W/8)

        def aux() -> dict[str, Tensor]:
            """Return class logits of P and boundary logits of D."""
            return {
                "aux_p": self.aux_heads["aux_p"](middle),
                "aux_d": self.aux_heads["aux_d"](boundary),
            }

        return Decoded(self.head(features), features, aux)

    def rename_official(self, state: Mapping[str, Tensor]) -> tuple[dict[str, Tensor], list[str]]:
        """Return (state under our key names, no unused keys).

        A file made for inference has no auxiliary heads; ours keep their weights.
        """
        parts = {theirs: f"backbone.{ours}" for theirs, ours in OFFICIAL_BACKBONE.items()}
        parts |= OFFICIAL_DECODER
        renamed = {rename_start(key, parts, ("layer",)): value for key, value in state.items()}
        return self.with_own_aux_heads(renamed), []


_entry = partial(ModelEntry, PIDNet, paper="PIDNet, arXiv:2206.02066")
VARIANTS = {
    "pidnet-s": _entry(PIDNetConfig(backbone="pidnet-s"), params=7_625_715, macs=11_798_593_536),
    "pidnet-m": _entry(PIDNetConfig(backbone="pidnet-m"), params=28_538_515, macs=44_332_253_184),
    "pidnet-l": _entry(
        PIDNetConfig(backbone="pidnet-l", light=False, context_channels=112, head_channels=256),
        params=36_939_571,
        macs=68_733_452_288,
    ),
}


def _resize_to(x: Tensor, like: Tensor) -> Tensor:
    """Resize (B, C, h, w) to the size of another map."""
    return resize(x, (like.shape[2], like.shape[3]), align_corners=False)


OFFICIAL_BACKBONE = {
    "conv1.": "stem.",
    **{f"layer{i}.": f"context.{i - 1}." for i in (1, 2, 3, 4, 5)},
    **{f"layer{i}_.": f"details.{i - 3}." for i in (3, 4, 5)},
    **{f"layer{i}_d.": f"boundary.{i - 3}." for i in (3, 4)},
    **{f"compression{i}.": f"compress.{i - 3}." for i in (3, 4)},
    **{f"diff{i}.": f"difference.{i - 3}." for i in (3, 4)},
    **{f"pag{i}.f_x.": f"pick.{i - 3}.details_key." for i in (3, 4)},
    **{f"pag{i}.f_y.": f"pick.{i - 3}.context_key." for i in (3, 4)},
}
"""Start of the authors' backbone key -> start of ours."""

OFFICIAL_DECODER = {
    **{f"spp.{theirs}": f"pooling.{ours}" for theirs, ours in OFFICIAL_DAPPM.items()},
    "spp.scale_process.": "pooling.process.",
    "layer5_d.": "boundary.",
    "dfm.conv_p.": "fuse.details.",
    "dfm.conv_i.": "fuse.context.",
    "dfm.conv.": "fuse.fuse.",
    **{f"final_layer.{theirs}": f"head.{ours}" for theirs, ours in OFFICIAL_HEAD.items()},
    **{f"seghead_p.{theirs}": f"aux_heads.aux_p.{ours}" for theirs, ours in OFFICIAL_HEAD.items()},
    **{f"seghead_d.{theirs}": f"aux_heads.aux_d.{ours}" for theirs, ours in OFFICIAL_HEAD.items()},
}
"""Start of the authors' other keys -> start of ours."""
