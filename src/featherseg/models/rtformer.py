"""RTFormer: efficient design with transformers (Wang et al., NeurIPS 2022, arXiv:2210.07124).

Three stages of residual blocks, then two RTFormer blocks with a branch at 1/8 and one at 1/32. The
coarse branch attends to learned keys and values ("GPU-friendly attention"), the fine one to the
coarse branch ("cross-resolution attention"); every feed-forward network is two 3x3 convolutions.
DDRNet's DAPPM and heads follow. What the paper leaves open is as in the authors' code (PaddleSeg),
except the momentum of batch norms, which is torch's.

Letters: B images, P planes of the stem, H x W the image, N positions of a map, M keys, K classes.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from functools import partial
from typing import Annotated, Literal

import torch
from pydantic import Field
from torch import Tensor, nn

from featherseg.layers.external_attention import ConvFeedForward, double_normalise
from featherseg.layers.model import Backbone, Decoded, ModelConfig, ModelEntry, SegmentationModel
from featherseg.layers.official_keys import rename_start
from featherseg.layers.pooling import OFFICIAL_DAPPM, DeepAggregationPooling, RegionMax
from featherseg.layers.pre_norm import OFFICIAL_HEAD, NormActConv, PreNormHead
from featherseg.layers.precision import at_least_fp32, autocast_off
from featherseg.layers.residual import (
    ResidualBlock,
    basic_block,
    conv_norm,
    open_basic_stage,
    start_kaiming,
)
from featherseg.layers.resize import resize
from featherseg.layers.stochastic_depth import StochasticDepth

HEADS = 8
CROSS_SIDE = 12
"""Height and width of the grid of keys that the fine branch gets from the coarse one."""

DROP_PATH = 0.2
"""Rate of stochastic depth of every attention and feed-forward network."""


class GPUFriendlyAttention(nn.Module):
    """Attention to as many learned keys as output channels: matrix products, no split into heads.

    The scores are normalised over positions, then within each head.
    """

    def __init__(self, in_channels: int, out_channels: int, *, stride: int) -> None:
        super().__init__()
        self.norm = nn.BatchNorm2d(in_channels)
        self.key = nn.Conv2d(in_channels, out_channels, 1, stride, bias=False)
        self.value = nn.Conv2d(out_channels, out_channels, 1, bias=False)

    def forward(self, x: Tensor) -> Tensor:
        """(B, C, h, w) -> (B, D, h / stride, w / stride)."""
        return self.value(double_normalise(self.key(self.norm(x)), HEADS))


class CrossResolutionAttention(nn.Module):
    """Every position of the fine map attends to the maxima of 12 x 12 regions of the coarse map.

    One head; scores and softmax are always in fp32.
    """

    def __init__(self, fine_channels: int, coarse_channels: int) -> None:
        super().__init__()
        self.norm = nn.BatchNorm2d(fine_channels)
        self.key_value = nn.Sequential(
            nn.BatchNorm2d(coarse_channels),
            RegionMax(CROSS_SIDE),
            nn.Conv2d(coarse_channels, 2 * fine_channels, 1, bias=False),
        )
        self.positions = CROSS_SIDE**2

    def forward(self, fine: Tensor, coarse: Tensor) -> Tensor:  # N = h * w, M = 144
        """fine (B, C, h, w), coarse (B, D, h', w') -> (B, C, h, w)."""
        query = self.norm(fine).flatten(2)  # (B, C, N)
        key, value = self.key_value(coarse).flatten(2).chunk(2, dim=1)  # 2 x (B, C, M)
        with autocast_off(fine.device):
            query, key, value = (at_least_fp32(t) for t in (query, key, value))
            weights = (self.positions**-0.5 * (key.mT @ query)).softmax(1)  # (B, M, N)
            out = value @ weights  # (B, C, N)
        return out.to(fine.dtype).reshape(fine.shape)

    def macs(self, x: Tensor, y: Tensor) -> int:
        """Count q k, and weights by values."""
        return 2 * x.numel() * self.positions


class RTFormerBlock(nn.Module):
    """The coarse branch attends and is added to the fine one, which then attends to it.

    With `inject` the fine branch is finally added to the coarse one.
    """

    def __init__(
        self, coarse_channels: tuple[int, int], fine_channels: int, *, inject: bool
    ) -> None:
        super().__init__()
        before, after = coarse_channels
        stride = 1 if before == after else 2
        self.shortcut: nn.Module = nn.Identity()
        if stride == 2:
            self.shortcut = nn.Sequential(
                nn.BatchNorm2d(before), nn.Conv2d(before, after, 1, stride, bias=False)
            )
        self.coarse_attention = GPUFriendlyAttention(before, after, stride=stride)
        self.coarse_feed_forward = ConvFeedForward(after)
        self.to_fine = NormActConv(after, fine_channels, 1)
        self.fine_attention = CrossResolutionAttention(fine_channels, after)
        self.fine_feed_forward = ConvFeedForward(fine_channels)
        self.to_coarse = _to_coarse(fine_channels, after) if inject else None
        self.drop = StochasticDepth(DROP_PATH)

    def forward(self, coarse: Tensor, fine: Tensor) -> tuple[Tensor, Tensor]:
        """coarse (B, C, h, w), fine (B, F, H/8, W/8) -> coarse (B, D, H/32, W/32) and fine."""
        # (B, D, H/32, W/32)
        coarse = self.shortcut(coarse) + self.drop(self.coarse_attention(coarse))
        coarse = coarse + self.drop(self.coarse_feed_forward(coarse))
        fine = fine + resize(
            self.to_fine(coarse), (fine.shape[2], fine.shape[3]), align_corners=False
        )
        fine = fine + self.drop(self.fine_attention(fine, coarse))
        fine = fine + self.drop(self.fine_feed_forward(fine))
        return coarse if self.to_coarse is None else coarse + self.to_coarse(fine), fine


def _to_coarse(fine_channels: int, coarse_channels: int) -> nn.Sequential:
    """Return two 3x3 convolutions of stride 2: (B, F, H/8, W/8) -> (B, D, H/32, W/32)."""
    half = coarse_channels // 2
    return nn.Sequential(
        *(
            nn.BatchNorm2d(fine_channels),
            nn.ReLU(),
            nn.Conv2d(fine_channels, half, 3, 2, padding=1, bias=False),
        ),
        *(
            nn.BatchNorm2d(half),
            nn.ReLU(),
            nn.Conv2d(half, coarse_channels, 3, 2, padding=1, bias=False),
        ),
    )


@dataclass(frozen=True)
class Trunk:
    """Planes of the stem, and whether the last block adds its fine branch to its coarse one."""

    planes: int
    inject_last: bool


TRUNKS = {
    "rtformer-slim": Trunk(32, inject_last=True),
    "rtformer-base": Trunk(64, inject_last=False),
}


class TwoBranchTransformer(Backbone):
    """The two branches: normalised images (B, 3, H, W) -> four maps, sizes rounded up.

    (B, P, H/4, W/4); the fine branch at its beginning and at its end, both (B, 2 P, H/8, W/8); the
    coarse branch (B, 8 P, H/32, W/32).
    """

    first_convolution = "stem.0"
    checkpointed = (ResidualBlock, RTFormerBlock)

    def __init__(self, trunk: Trunk) -> None:
        super().__init__()
        p = trunk.planes
        self.stage_channels = (p, 2 * p, 2 * p, 8 * p)
        self.stem = nn.Sequential(
            *conv_norm(3, p, 3, stride=2, bias=True),
            nn.ReLU(),
            *conv_norm(p, p, 3, stride=2, bias=True),
            nn.ReLU(),
        )
        self.stages = nn.ModuleList(
            [
                open_basic_stage(p, p, 2),
                open_basic_stage(p, 2 * p, 2, stride=2),
                open_basic_stage(2 * p, 4 * p, 2, stride=2),
            ]
        )
        self.to_fine = NormActConv(4 * p, 2 * p, 1)
        self.fine = nn.Sequential(basic_block(2 * p, 2 * p, 1))
        self.blocks = nn.ModuleList(
            [
                RTFormerBlock((4 * p, 8 * p), 2 * p, inject=True),
                RTFormerBlock((8 * p, 8 * p), 2 * p, inject=trunk.inject_last),
            ]
        )
        self.act = nn.ReLU()
        start_kaiming(self)
        _start_attention_small(self)

    def forward(self, images: Tensor) -> list[Tensor]:
        """(B, 3, H, W) -> the four maps."""
        quarter = self.stages[0](self.stem(images))  # (B, P, H/4, W/4)
        eighth = self.stages[1](self.act(quarter))  # (B, 2 P, H/8, W/8)
        coarse = self.stages[2](self.act(eighth))  # (B, 4 P, H/16, W/16)
        lifted = resize(
            self.to_fine(coarse), (eighth.shape[2], eighth.shape[3]), align_corners=False
        )
        first = fine = self.fine(self.act(eighth + lifted))  # (B, 2 P, H/8, W/8)
        for block in self.blocks:
            coarse, fine = block(self.act(coarse), self.act(fine))
        return [quarter, first, fine, coarse]

    def rename_official(self, state: Mapping[str, Tensor]) -> tuple[dict[str, Tensor], list[str]]:
        """Return (state under our key names, no unused keys)."""
        return {_rename(key, OFFICIAL_BACKBONE): value for key, value in state.items()}, []


def _start_attention_small(module: nn.Module) -> None:
    """Initialise as the authors do: learned keys and values with std 0.001, keys of maps 0.02."""
    for layer in module.modules():
        if isinstance(layer, GPUFriendlyAttention):
            nn.init.normal_(layer.key.weight, std=0.001)
            nn.init.normal_(layer.value.weight, std=0.001)
        elif isinstance(layer, CrossResolutionAttention):
            project = layer.key_value[2]
            assert isinstance(project, nn.Conv2d)
            nn.init.trunc_normal_(project.weight, std=0.02)


class RTFormerConfig(ModelConfig):
    """One row of VARIANTS; every key may be set in a recipe's [model].

    context_channels is the width of each scale of DAPPM; head_channels is the width of the head,
    and twice that of the auxiliary one.
    """

    backbone: Literal["rtformer-slim", "rtformer-base"]
    context_channels: Annotated[int, Field(ge=1)] = 128
    head_channels: Annotated[int, Field(ge=2)] = 128


class RTFormer(SegmentationModel):
    """Normalised images (B, 3, H, W) -> logits (B, K, H/8, W/8), sizes rounded up.

    The auxiliary logits `aux` have the same shape. Runs natively at every size.
    """

    align_corners = False
    size_divisor = 1
    minimum_size = 1
    lone_side = 32
    class_bias = "head.1.2.bias"

    def __init__(self, config: RTFormerConfig, classes: int) -> None:
        super().__init__()
        self.backbone = TwoBranchTransformer(TRUNKS[config.backbone])
        _, first, fine, coarse = self.backbone.stage_channels
        self.classes, self.feature_channels = classes, 2 * fine
        self.context = DeepAggregationPooling(coarse, config.context_channels, fine)
        self.head = PreNormHead(2 * fine, config.head_channels, classes)
        self.aux_heads = nn.ModuleDict(
            {"aux": PreNormHead(first, config.head_channels // 2, classes)}
        )
        for part in (self.context, self.head, self.aux_heads):
            start_kaiming(part)

    def decode(self, pyramid: list[Tensor]) -> Decoded:
        """Return logits (B, K, H/8, W/8), features (B, 4 P, H/8, W/8), and auxiliary logits."""
        _, first, fine, coarse = pyramid
        context = resize(self.context(coarse), (fine.shape[2], fine.shape[3]), align_corners=False)
        features = torch.cat([fine, context], dim=1)  # (B, 4 P, H/8, W/8)
        return Decoded(
            self.head(features), features, aux=lambda: {"aux": self.aux_heads["aux"](first)}
        )

    def rename_official(self, state: Mapping[str, Tensor]) -> tuple[dict[str, Tensor], list[str]]:
        """Return (state under our key names, no unused keys).

        Paddle's `_mean` and `_variance` become torch's `running_mean` and `running_var`. A file
        made for inference has no auxiliary head; ours keeps its weights.
        """
        parts = {theirs: f"backbone.{ours}" for theirs, ours in OFFICIAL_BACKBONE.items()}
        parts |= OFFICIAL_DECODER
        renamed = {_rename(key, parts): value for key, value in state.items()}
        return self.with_own_aux_heads(renamed), []


_entry = partial(ModelEntry, RTFormer, paper="RTFormer, arXiv:2210.07124")
VARIANTS = {
    "rtformer-slim": _entry(
        RTFormerConfig(backbone="rtformer-slim"), params=5_365_043, macs=9_455_304_704
    ),
    "rtformer-base": _entry(
        RTFormerConfig(backbone="rtformer-base", head_channels=256),
        params=17_765_971,
        macs=34_750_398_464,
    ),
}


OFFICIAL_BLOCK = {
    "attn_shortcut_l.": "shortcut.",
    "attn_l.norm.": "coarse_attention.norm.",
    "attn_l.k": "coarse_attention.key.weight",
    "attn_l.v": "coarse_attention.value.weight",
    "mlp_l.norm.": "coarse_feed_forward.norm.",
    "mlp_l.conv1.": "coarse_feed_forward.expand.",
    "mlp_l.conv2.": "coarse_feed_forward.project.",
    "compression.": "to_fine.",
    "attn_h.norm.": "fine_attention.norm.",
    "cross_kv.": "fine_attention.key_value.",
    "mlp_h.norm.": "fine_feed_forward.norm.",
    "mlp_h.conv1.": "fine_feed_forward.expand.",
    "mlp_h.conv2.": "fine_feed_forward.project.",
    "down.": "to_coarse.",
}
"""Names inside an RTFormer block: the authors' -> ours."""

OFFICIAL_BACKBONE = {
    "conv1.": "stem.",
    "layer1.": "stages.0.",
    "layer2.": "stages.1.",
    "layer3.": "stages.2.",
    "layer3_.": "fine.",
    "compression3.": "to_fine.",
    **{f"layer4.{theirs}": f"blocks.0.{ours}" for theirs, ours in OFFICIAL_BLOCK.items()},
    **{f"layer5.{theirs}": f"blocks.1.{ours}" for theirs, ours in OFFICIAL_BLOCK.items()},
}

OFFICIAL_DECODER = {
    **{f"spp.{theirs}": f"context.{ours}" for theirs, ours in OFFICIAL_DAPPM.items()},
    **{f"seghead.{theirs}": f"head.{ours}" for theirs, ours in OFFICIAL_HEAD.items()},
    **{
        f"seghead_extra.{theirs}": f"aux_heads.aux.{ours}" for theirs, ours in OFFICIAL_HEAD.items()
    },
}
"""Start of the authors' key -> start of ours."""

PADDLE_STATISTICS = {"._mean": ".running_mean", "._variance": ".running_var"}

RESIDUAL = ("layer1.", "layer2.", "layer3.", "layer3_.")
"""Stages of residual blocks."""


def _rename(key: str, parts: Mapping[str, str]) -> str:
    """Rename `layer4.mlp_l.conv1.bias` to `blocks.0.coarse_feed_forward.expand.bias`, and so on."""
    for theirs, ours in PADDLE_STATISTICS.items():
        if key.endswith(theirs):
            key = key.removesuffix(theirs) + ours
    return rename_start(key, parts, RESIDUAL)
