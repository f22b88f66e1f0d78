"""SCTNet: a CNN branch with transformer semantics (Xu et al., AAAI 2024, arXiv:2312.17071).

One branch of residual blocks with "CFBlocks" at 1/16 and 1/32: attention whose keys and values are
the kernels of two strip convolutions, then a feed-forward network of two 3x3 convolutions. DAPPM
gathers context at 1/32; it is concatenated with the map at 1/8 and classified there. For training,
an auxiliary head classifies that map alone. The authors also align the maps to those of a
SegFormer, by losses and parts that the finished model does not have; this one has none of them.
Convolutions have a bias, as in the authors' code (xzz777/SCTNet).

Letters: B images, P planes of the stem, H x W the image, h x w a map, M keys, K classes.
"""

from collections.abc import Mapping
from functools import partial
from typing import Annotated, Literal

import torch
import torch.nn.functional as F
from pydantic import Field
from torch import Tensor, nn

from featherseg.layers.external_attention import ConvFeedForward, double_normalise
from featherseg.layers.model import Backbone, Decoded, ModelConfig, ModelEntry, SegmentationModel
from featherseg.layers.official_keys import rename_start
from featherseg.layers.pooling import OFFICIAL_DAPPM, DeepAggregationPooling
from featherseg.layers.pre_norm import OFFICIAL_HEAD, PreNormHead
from featherseg.layers.residual import ResidualBlock, conv_norm, open_basic_stage, start_kaiming
from featherseg.layers.resize import resize
from featherseg.layers.stochastic_depth import StochasticDepth

HEADS = 8
KEYS = 64
STRIP = 7
"""Length of a learned strip, in positions."""

DROP_PATH = 0.1
"""Rate of stochastic depth of every attention and feed-forward network."""


class ConvolutionalAttention(nn.Module):
    """The sum of two attentions to learned keys: strips of 7 x 1 and of 1 x 7 positions.

    The scores are a convolution with the strips, normalised over positions, then within each head.
    The result is a convolution with the same strips, from keys to channels.
    """

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.norm = nn.BatchNorm2d(channels)
        self.vertical = nn.Parameter(torch.empty(KEYS, channels, STRIP, 1))
        self.horizontal = nn.Parameter(torch.empty(KEYS, channels, 1, STRIP))
        for strips in (self.vertical, self.horizontal):
            nn.init.trunc_normal_(strips, std=0.001)

    def forward(self, x: Tensor) -> Tensor:
        """(B, C, h, w) -> (B, C, h, w)."""
        x = self.norm(x)
        return _attend(x, self.vertical) + _attend(x, self.horizontal)

    def macs(self, x: Tensor, y: Tensor) -> int:
        """Count a convolution with the strips and one back, both ways; ptflops misses them."""
        return 2 * x.numel() * (self.vertical[:, 0].numel() + self.horizontal[:, 0].numel())


def _attend(x: Tensor, strips: Tensor) -> Tensor:
    """Attend to strips (M, C, k, l) as keys and values, k, l odd: (B, C, h, w) -> (B, C, h, w)."""
    padding = (strips.shape[2] // 2, strips.shape[3] // 2)
    weights = double_normalise(F.conv2d(x, strips, padding=padding), HEADS)  # (B, M, h, w)
    return F.conv2d(weights, strips.transpose(0, 1), padding=padding)


class CFBlock(nn.Module):
    """x + attention(x), then the same with the feed-forward network."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.attention = ConvolutionalAttention(channels)
        self.feed_forward = ConvFeedForward(channels)
        self.drop = StochasticDepth(DROP_PATH)

    def forward(self, x: Tensor) -> Tensor:
        """(B, C, h, w) -> (B, C, h, w)."""
        x = x + self.drop(self.attention(x))
        return x + self.drop(self.feed_forward(x))


PLANES = {"sctnet-s": 32, "sctnet-b": 64}
"""Backbone -> planes of its stem."""


class SingleBranch(Backbone):
    """The branch: normalised images (B, 3, H, W) -> four stages without a last ReLU.

    (B, P, H/4, W/4), (B, 2 P, H/8, W/8), (B, 4 P, H/16, W/16), (B, 8 P, H/32, W/32), sizes rounded
    up.
    """

    first_convolution = "stem.0"
    checkpointed = (CFBlock, ResidualBlock)

    def __init__(self, planes: int) -> None:
        super().__init__()
        p = planes
        self.stage_channels = (p, 2 * p, 4 * p, 8 * p)
        self.stem = nn.Sequential(
            *conv_norm(3, p, 3, stride=2, bias=True),
            nn.ReLU(),
            *conv_norm(p, p, 3, stride=2, bias=True),
            nn.ReLU(),
        )
        self.quarter = open_basic_stage(p, p, 2, bias=True)
        self.eighth = open_basic_stage(p, 2 * p, 2, stride=2, bias=True)
        self.sixteenth = nn.Sequential(
            open_basic_stage(2 * p, 4 * p, 2, stride=2, bias=True), nn.ReLU(), CFBlock(4 * p)
        )
        self.down = nn.Sequential(*conv_norm(4 * p, 8 * p, 3, stride=2, bias=True), nn.ReLU())
        self.last = nn.Sequential(CFBlock(8 * p), nn.ReLU(), CFBlock(8 * p))
        self.act = nn.ReLU()
        start_kaiming(self)

    def forward(self, images: Tensor) -> list[Tensor]:
        """(B, 3, H, W) -> the four maps."""
        quarter = self.quarter(self.stem(images))  # (B, P, H/4, W/4)
        eighth = self.eighth(self.act(quarter))  # (B, 2 P, H/8, W/8)
        sixteenth = self.sixteenth(self.act(eighth))  # (B, 4 P, H/16, W/16)
        # the last (B, 8 P, H/32, W/32)
        return [quarter, eighth, sixteenth, self.last(self.down(sixteenth))]

    def rename_official(self, state: Mapping[str, Tensor]) -> tuple[dict[str, Tensor], list[str]]:
        """Return (state under our key names, no unused keys)."""
        return {
            rename_start(key, OFFICIAL_BACKBONE, RESIDUAL): value for key, value in state.items()
        }, []


class SCTNetConfig(ModelConfig):
    """One row of VARIANTS; every key may be set in a recipe's [model].

    context_channels is the width of each scale of DAPPM.
    """

    backbone: Literal["sctnet-s", "sctnet-b"]
    context_channels: Annotated[int, Field(ge=1)] = 64
    head_channels: Annotated[int, Field(ge=1)] = 128


class SCTNet(SegmentationModel):
    """Normalised images (B, 3, H, W) -> logits (B, K, H/8, W/8), sizes rounded up.

    The auxiliary logits `aux` have the same shape. Runs natively at every size.
    """

    align_corners = False
    size_divisor = 1
    minimum_size = 1
    lone_side = 32
    class_bias = "head.1.2.bias"

    def __init__(self, config: SCTNetConfig, classes: int) -> None:
        super().__init__()
        self.backbone = SingleBranch(PLANES[config.backbone])
        _, eighth, _, last = self.backbone.stage_channels
        self.classes, self.feature_channels = classes, 2 * eighth
        self.context = DeepAggregationPooling(last, config.context_channels, eighth, bias=True)
        self.head = PreNormHead(2 * eighth, config.head_channels, classes, bias=True)
        for part in (self.context, self.head):
            start_kaiming(part)
        self.aux_heads = nn.ModuleDict({"aux": PreNormHead(eighth, eighth, classes, bias=True)})
        start_kaiming(self.aux_heads)

    def decode(self, pyramid: list[Tensor]) -> Decoded:
        """Return logits (B, K, H/8, W/8), features (B, 4 P, H/8, W/8), and auxiliary logits."""
        _, eighth, _, last = pyramid
        context = resize(
            self.context(last), (eighth.shape[2], eighth.shape[3]), align_corners=False
        )
        features = torch.cat([eighth, context], dim=1)  # (B, 4 P, H/8, W/8)
        return Decoded(
            self.head(features), features, aux=lambda: {"aux": self.aux_heads["aux"](eighth)}
        )

    def rename_official(self, state: Mapping[str, Tensor]) -> tuple[dict[str, Tensor], list[str]]:
        """Return (state under our key names, unused keys: those of the authors' SegFormer).

        Reads both of the authors' layouts: `decoder.` from their model for inference, and
        `decode_head.` with auxiliary heads as training saves it. Without auxiliary heads in the
        file ours keep their weights.
        """
        teacher = [key for key in state if key.startswith(OFFICIAL_TEACHER)]
        decoder = (
            "decode_head." if any(key.startswith("decode_head.") for key in state) else "decoder."
        )
        parts = {
            f"backbone.{theirs}": f"backbone.{ours}" for theirs, ours in OFFICIAL_BACKBONE.items()
        }
        parts |= OFFICIAL_CONTEXT
        for their_head, our_head in ((decoder, "head."), ("auxiliary_head.0.", "aux_heads.aux.")):
            parts |= {
                their_head + theirs: our_head + ours for theirs, ours in OFFICIAL_CLASSIFIER.items()
            }
        renamed = {
            rename_start(k, parts, RESIDUAL): v
            for k, v in state.items()
            if not k.startswith(OFFICIAL_TEACHER)
        }
        return self.with_own_aux_heads(renamed), teacher


_entry = partial(ModelEntry, SCTNet, paper="SCTNet, arXiv:2312.17071")
VARIANTS = {
    "sctnet-s": _entry(SCTNetConfig(backbone="sctnet-s"), params=4_654_643, macs=8_006_549_504),
    "sctnet-b": _entry(
        SCTNetConfig(backbone="sctnet-b", context_channels=128, head_channels=256),
        params=17_437_779,
        macs=29_880_811_520,
    ),
}


OFFICIAL_BLOCK = {
    "attn_l.norm.": "attention.norm.",
    "attn_l.kv3": "attention.horizontal",
    "attn_l.kv": "attention.vertical",
    "mlp_l.norm.": "feed_forward.norm.",
    "mlp_l.conv1.": "feed_forward.expand.",
    "mlp_l.conv2.": "feed_forward.project.",
}
"""Names inside a CFBlock: the authors' -> ours."""

OFFICIAL_BLOCKS = {"layer3_2.": "sixteenth.2.", "layer4.": "last.0.", "layer5.": "last.2."}

OFFICIAL_BACKBONE = {
    "conv1.": "stem.",
    "layer1.": "quarter.",
    "layer2.": "eighth.",
    "layer3.": "sixteenth.0.",
    "convdown4.": "down.",
    **{
        f"{at}{theirs}": place + ours
        for at, place in OFFICIAL_BLOCKS.items()
        for theirs, ours in OFFICIAL_BLOCK.items()
    },
}

OFFICIAL_CONTEXT = {
    f"backbone.spp.{theirs}": f"context.{ours}" for theirs, ours in OFFICIAL_DAPPM.items()
}
"""Start of the authors' key -> start of ours."""

OFFICIAL_CLASSIFIER = {
    "conv_seg." if part == "conv2." else part: ours for part, ours in OFFICIAL_HEAD.items()
}
"""Names inside the head and the auxiliary head: the authors' -> ours."""

OFFICIAL_TEACHER = "auxiliary_head.1."
"""Start of the keys of the authors' SegFormer."""

RESIDUAL = tuple(f"{at}layer{i}." for at in ("", "backbone.") for i in (1, 2, 3))
"""Stages of residual blocks."""
