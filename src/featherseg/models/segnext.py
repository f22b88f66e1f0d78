"""SegNeXt: convolutional attention (Guo et al., NeurIPS 2022, arXiv:2209.08575), T and S.

MSCAN is a backbone whose attention is strip convolutions of three lengths. The head rebuilds the
map from a few non-negative factors ("Hamburger", Geng et al., arXiv:2109.04553). The authors start
the factorisation from new random bases in every forward, also in evaluation, so that the logits of
an image differ from call to call. Here the bases come from one fixed seed: the same image always
gets the same logits, which differ slightly from those of the authors' code.

Letters: B images, C channels, H x W the image, h x w a map, N = h * w positions, D width, R rank, K
classes.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from functools import partial
from random import Random
from typing import Annotated, Literal

import torch
import torch.nn.functional as F
from pydantic import Field
from torch import Tensor, nn

from featherseg.backbones.staged import StagedBackbone
from featherseg.backbones.van import EXPANSIONS, LAYER_SCALE, FeedForward
from featherseg.layers.conv import convolve
from featherseg.layers.folding import fold_shortcut
from featherseg.layers.initialise import initialise_by_fan_out
from featherseg.layers.model import Decoded, ModelConfig, ModelEntry, SegmentationModel
from featherseg.layers.official_keys import rename_start
from featherseg.layers.precision import at_least_fp32, autocast_off
from featherseg.layers.resize import resize
from featherseg.layers.scale import LayerScale
from featherseg.layers.stochastic_depth import StochasticDepth

STRIPS = (7, 11, 21)
"""Lengths of the strip convolutions, in positions (Sec. 3.1)."""

DROP_PATH = 0.1
"""Rate of stochastic depth at the last block, from 0 at the first."""

TRAINING_STEPS, EVALUATION_STEPS = 6, 7
"""Number of multiplicative updates; one more of the coefficients follows."""

BASES_SEED = 0
"""Seed of the bases, which are in no file of weights: every model draws them again."""

EPSILON = 1e-6
"""Keeps an update finite if the product of the factors is zero."""


class Strip(nn.Module):
    """Two depthwise convolutions, along the rows and along the columns."""

    def __init__(self, channels: int, length: int) -> None:
        super().__init__()
        half = length // 2
        self.row = nn.Conv2d(channels, channels, (1, length), padding=(0, half), groups=channels)
        self.column = nn.Conv2d(channels, channels, (length, 1), padding=(half, 0), groups=channels)

    def forward(self, x: Tensor) -> Tensor:
        """(B, C, h, w) -> (B, C, h, w)."""
        return convolve(self.column, convolve(self.row, x))


class MultiScaleAttention(nn.Module):
    """Attention = Conv1x1(sum_i Scale_i(DW-Conv(F))), Output = Attention * F (Eq. 1-2).

    Scale_0 is the identity, the others are a 1 x k and then a k x 1 convolution.
    """

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.depthwise = nn.Conv2d(channels, channels, 5, padding=2, groups=channels)
        self.strips = nn.ModuleList(Strip(channels, length) for length in STRIPS)
        self.pointwise = nn.Conv2d(channels, channels, 1)

    def forward(self, x: Tensor) -> Tensor:
        """(B, C, h, w) -> (B, C, h, w)."""
        near = convolve(self.depthwise, x)  # (B, C, h, w)
        gathered = near
        for strip in self.strips:
            gathered = gathered + strip(near)
        return x * self.pointwise(gathered)


class Attention(nn.Module):
    """1x1, GELU, multi-scale attention, 1x1, and a shortcut around the four."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.project_in = nn.Conv2d(channels, channels, 1)
        self.act = nn.GELU()
        self.multi_scale = MultiScaleAttention(channels)
        self.project_out = nn.Conv2d(channels, channels, 1)

    def forward(self, x: Tensor) -> Tensor:
        """(B, C, h, w) -> (B, C, h, w)."""
        return x + self.project_out(self.multi_scale(self.act(self.project_in(x))))


class Block(nn.Module):
    """x + scale * Attention(BN(x)), then the same with a feed-forward network."""

    def __init__(self, channels: int, *, expansion: int, drop: float) -> None:
        super().__init__()
        self.attention_norm, self.attention = nn.BatchNorm2d(channels), Attention(channels)
        self.attention_scale = LayerScale(channels, LAYER_SCALE)
        self.feed_forward_norm, self.feed_forward = (
            nn.BatchNorm2d(channels),
            FeedForward(channels, expansion=expansion),
        )
        self.feed_forward_scale = LayerScale(channels, LAYER_SCALE)
        self.drop = StochasticDepth(drop)

    def forward(self, x: Tensor) -> Tensor:
        """(B, C, h, w) -> (B, C, h, w)."""
        x = x + self.drop(self.attention_scale(self.attention(self.attention_norm(x))))
        return x + self.drop(self.feed_forward_scale(self.feed_forward(self.feed_forward_norm(x))))

    def fold_own(self) -> None:
        """Fold norm and scale into the attention in place; its shortcut hides them from `fold`."""
        fold_shortcut(self)


class Stage(nn.Module):
    """Embed (strided convolutions, batch norm), blocks, LayerNorm over channels."""

    def __init__(self, embed: nn.Sequential, blocks: nn.Sequential, channels: int) -> None:
        super().__init__()
        self.embed, self.blocks, self.norm = embed, blocks, nn.LayerNorm(channels)

    def forward(self, x: Tensor) -> Tensor:
        """(B, C_in, h, w) -> (B, C, ceil(h / s), ceil(w / s)), s = 4 in the first stage, else 2."""
        x = self.blocks(self.embed(x))  # (B, C, ceil(h / stride), ceil(w / stride))
        x = self.norm(x.permute(0, 2, 3, 1)).permute(0, 3, 1, 2)
        # a view would export for sides above 32 alone
        return x.contiguous() if torch.compiler.is_exporting() else x


@dataclass(frozen=True)
class MSCANConfig:
    """One row of BACKBONES: channels and number of blocks of the four stages."""

    channels: tuple[int, int, int, int]
    depths: tuple[int, int, int, int]


BACKBONES = {
    "mscan-t": MSCANConfig(channels=(32, 64, 160, 256), depths=(3, 3, 5, 2)),
    "mscan-s": MSCANConfig(channels=(64, 128, 320, 512), depths=(2, 2, 4, 2)),
}


def _embed(in_channels: int, channels: int, *, first: bool) -> list[nn.Module]:
    """Return a convolution of stride 2 and its norm; two of them in the first stage."""
    if first:
        half = channels // 2
        return [
            *_embed(in_channels, half, first=False),
            nn.GELU(),
            *_embed(half, channels, first=False),
        ]
    return [nn.Conv2d(in_channels, channels, 3, 2, padding=1), nn.BatchNorm2d(channels)]


def _stage(config: MSCANConfig, number: int) -> Stage:
    """Return stage 0 to 3: (B, C_in, h, w) -> (B, C, h', w')."""
    channels, before, total = (
        config.channels[number],
        sum(config.depths[:number]),
        sum(config.depths),
    )
    embed = _embed((3, *config.channels)[number], channels, first=number == 0)
    blocks = (
        Block(channels, expansion=EXPANSIONS[number], drop=DROP_PATH * (before + i) / (total - 1))
        for i in range(config.depths[number])
    )
    return Stage(nn.Sequential(*embed), nn.Sequential(*blocks), channels)


OFFICIAL_EMBED = {
    "proj.weight": "embed.0.weight",
    "proj.bias": "embed.0.bias",
    "norm.": "embed.1.",
    "proj.": "embed.",
}
"""Names inside a patch embedding, `patch_embed2.<theirs>` -> `stages.1.<ours>`."""

OFFICIAL_BLOCK = {
    "norm1.": "attention_norm.",
    "attn.proj_1.": "attention.project_in.",
    "attn.spatial_gating_unit.conv0.": "attention.multi_scale.depthwise.",
    "attn.spatial_gating_unit.conv0_1.": "attention.multi_scale.strips.0.row.",
    "attn.spatial_gating_unit.conv0_2.": "attention.multi_scale.strips.0.column.",
    "attn.spatial_gating_unit.conv1_1.": "attention.multi_scale.strips.1.row.",
    "attn.spatial_gating_unit.conv1_2.": "attention.multi_scale.strips.1.column.",
    "attn.spatial_gating_unit.conv2_1.": "attention.multi_scale.strips.2.row.",
    "attn.spatial_gating_unit.conv2_2.": "attention.multi_scale.strips.2.column.",
    "attn.spatial_gating_unit.conv3.": "attention.multi_scale.pointwise.",
    "attn.proj_2.": "attention.project_out.",
    "layer_scale_1": "attention_scale.weight",
    "norm2.": "feed_forward_norm.",
    "mlp.fc1.": "feed_forward.expand.",
    "mlp.dwconv.dwconv.": "feed_forward.depthwise.",
    "mlp.fc2.": "feed_forward.project.",
    "layer_scale_2": "feed_forward_scale.weight",
}
"""Names inside a block, `block1.0.<theirs>` -> `stages.0.blocks.0.<ours>`."""


class MSCAN(StagedBackbone):
    """ImageNet-normalised images (B, C, H, W) -> four stages: 1/4, 1/8, 1/16, 1/32."""

    first_convolution = "stages.0.embed.0"
    checkpointed = (Block,)
    official_embed = OFFICIAL_EMBED
    official_block = OFFICIAL_BLOCK

    def __init__(self, config: MSCANConfig) -> None:
        super().__init__()
        self.stage_channels = config.channels
        self.stages = nn.ModuleList(_stage(config, number) for number in range(4))
        initialise_by_fan_out(self)


class MatrixFactorisation(nn.Module):
    """A map as a product of non-negative factors, by multiplicative updates (Lee and Seung, 2001).

    X (D, N) is approximated by bases (D, R) times coefficients (R, N). The bases start from the
    same values for every image, uniform from 0 to 1 and then of length 1. Always in fp32.
    """

    bases: Tensor

    def __init__(self, channels: int, rank: int) -> None:
        super().__init__()
        uniform = Random(BASES_SEED).random  # the same sequence in every release of Python
        drawn = torch.tensor([[uniform() for _ in range(rank)] for _ in range(channels)])
        self.register_buffer("bases", F.normalize(drawn, dim=0), persistent=False)

    @property
    def steps(self) -> int:
        """Number of updates of both factors."""
        return TRAINING_STEPS if self.training else EVALUATION_STEPS

    def forward(self, x: Tensor) -> Tensor:
        """x (B, D, h, w), not negative -> (B, D, h, w)."""
        with autocast_off(x.device):
            flat = at_least_fp32(x).flatten(2)  # (B, D, N)
            bases = self.bases.to(flat.dtype).expand(x.shape[0], -1, -1)  # (B, D, R)
            coefficients = (flat.mT @ bases).softmax(-1)  # (B, N, R)
            for _ in range(self.steps):
                coefficients = update(coefficients, bases, flat)
                bases = update(bases, coefficients, flat.mT)
            coefficients = update(coefficients, bases, flat)
            return (bases @ coefficients.mT).to(x.dtype).view_as(x)  # (B, D, h, w)

    def macs(self, x: Tensor, y: Tensor) -> int:
        """Count the products of all updates: D N R with the map, R^2 (D or N) for each factor."""
        batch, d, n = len(x), x.shape[1], x.shape[2] * x.shape[3]
        r, steps = self.bases.shape[1], self.steps
        return batch * ((2 * steps + 3) * d * n * r + (2 * steps + 1) * (d + n) * r**2)


def update(factor: Tensor, other: Tensor, target: Tensor) -> Tensor:
    """Return `factor` (B, N, R) after one multiplicative update.

    The target (B, D, N) is approximated by other (B, D, R) factor^T.
    """
    return factor * (target.mT @ other) / (factor @ (other.mT @ other) + EPSILON)


class Hamburger(nn.Module):
    """ReLU(x + GN(1x1(factorise(ReLU(1x1(x))))))."""

    def __init__(self, channels: int, rank: int) -> None:
        super().__init__()
        self.project_in = nn.Conv2d(channels, channels, 1)
        self.factorise = MatrixFactorisation(channels, rank)
        self.project_out = nn.Sequential(
            nn.Conv2d(channels, channels, 1, bias=False), _group_norm(channels)
        )

    def forward(self, x: Tensor) -> Tensor:
        """(B, D, h, w) -> (B, D, h, w)."""
        return F.relu(x + self.project_out(self.factorise(F.relu(self.project_in(x)))))


def _group_norm(channels: int) -> nn.GroupNorm:
    return nn.GroupNorm(32, channels)


def _project(in_channels: int, out_channels: int) -> nn.Sequential:
    """Return 1x1, group norm, ReLU: (B, C_in, h, w) -> (B, C_out, h, w)."""
    return nn.Sequential(
        nn.Conv2d(in_channels, out_channels, 1, bias=False), _group_norm(out_channels), nn.ReLU()
    )


class SegNeXtConfig(ModelConfig):
    """One row of VARIANTS; every key may be set in a recipe's [model].

    channels is the width of the head, rank the number of its factors.
    """

    backbone: Literal["mscan-t", "mscan-s"]
    channels: Annotated[int, Field(ge=32, multiple_of=32)] = 256
    rank: Annotated[int, Field(ge=1)] = 16


class SegNeXt(SegmentationModel):
    """Normalised images (B, 3, H, W) -> logits (B, K, H/8, W/8), sizes rounded up.

    Runs natively at every size.
    """

    align_corners = False
    size_divisor = 1
    minimum_size = 1
    lone_side = 32

    def __init__(self, config: SegNeXtConfig, classes: int) -> None:
        super().__init__()
        width = config.channels
        self.classes, self.feature_channels = classes, width
        self.backbone = MSCAN(BACKBONES[config.backbone])
        self.squeeze = _project(sum(self.backbone.stage_channels[1:]), width)
        self.hamburger = Hamburger(width, config.rank)
        self.align = _project(width, width)
        self.drop = nn.Dropout2d(0.1)
        self.classifier = nn.Conv2d(width, classes, kernel_size=1)
        nn.init.normal_(self.classifier.weight, std=0.01)

    def decode(self, pyramid: list[Tensor]) -> Decoded:
        """Return logits (B, K, H/8, W/8) and features (B, D, H/8, W/8)."""
        fine, *coarse = pyramid[1:]  # (B, C_i, H/2^(i+2), W/2^(i+2)) for i = 1..3
        size = (fine.shape[2], fine.shape[3])
        stages = [fine, *(resize(stage, size, align_corners=False) for stage in coarse)]
        # (B, D, H/8, W/8)
        features = self.align(self.hamburger(self.squeeze(torch.cat(stages, dim=1))))
        return Decoded(self.classifier(self.drop(features)), features)  # (B, K, H/8, W/8)

    def rename_official(self, state: Mapping[str, Tensor]) -> tuple[dict[str, Tensor], list[str]]:
        """Return (state under our key names, keys of the backbone that are not used)."""
        renamed, unused, head_state = self.rename_backbone(state)
        renamed |= {rename_start(key, OFFICIAL_HEAD): value for key, value in head_state.items()}
        return renamed, unused


_entry = partial(ModelEntry, SegNeXt, paper="SegNeXt, arXiv:2209.08575")
VARIANTS = {
    "segnext-t": _entry(SegNeXtConfig(backbone="mscan-t"), params=4_229_747, macs=12_532_973_568),
    "segnext-s": _entry(SegNeXtConfig(backbone="mscan-s"), params=13_899_219, macs=31_016_812_544),
}


OFFICIAL_HEAD = {
    "decode_head.conv_seg.": "classifier.",
    "decode_head.squeeze.conv.": "squeeze.0.",
    "decode_head.squeeze.gn.": "squeeze.1.",
    "decode_head.hamburger.ham_in.conv.": "hamburger.project_in.",
    "decode_head.hamburger.ham_out.conv.": "hamburger.project_out.0.",
    "decode_head.hamburger.ham_out.gn.": "hamburger.project_out.1.",
    "decode_head.align.conv.": "align.0.",
    "decode_head.align.gn.": "align.1.",
}
"""Start of the authors' key of the head -> start of ours."""
