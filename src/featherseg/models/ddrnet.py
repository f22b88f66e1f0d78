"""DDRNet: deep dual-resolution networks for road scenes (Hong et al., arXiv:2101.06085).

From 1/8 on the network has two branches: a fine one that stays at 1/8 and a coarse one that goes
down to 1/64. They are added to each other at every stage (Fig. 3). DAPPM gathers context from the
coarse branch (Fig. 5), and the sum of both is classified at 1/8. For training, an auxiliary head
classifies the fine branch before its last exchange. What the paper leaves open is as in the
authors' code (ydhongHIT/DDRNet).

Letters: B images, H x W the image, W_p planes of the stem, K classes.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from functools import partial
from itertools import pairwise
from typing import Annotated, Literal

from pydantic import Field
from torch import Tensor, nn

from featherseg.layers.model import Backbone, Decoded, ModelConfig, ModelEntry, SegmentationModel
from featherseg.layers.official_keys import rename_start
from featherseg.layers.pooling import OFFICIAL_DAPPM, DeepAggregationPooling
from featherseg.layers.pre_norm import OFFICIAL_HEAD, PreNormHead
from featherseg.layers.residual import (
    conv_norm,
    open_basic_stage,
    open_bottleneck_stage,
    start_kaiming,
)
from featherseg.layers.resize import resize


class BilateralStage(nn.Module):
    """Fig. 3: both branches continue, then each is added to the other, resized.

    `down` are the widths of the 3x3 convolutions of stride 2 that bring the fine branch to the
    coarse size.
    """

    def __init__(
        self,
        coarse_channels: tuple[int, int],
        fine_channels: int,
        depth: int,
        *,
        stride: int,
        down: tuple[int, ...],
    ) -> None:
        super().__init__()
        before, after = coarse_channels
        self.coarse = open_basic_stage(before, after, depth, stride=stride)
        self.fine = open_basic_stage(fine_channels, fine_channels, depth)
        self.to_fine = nn.Sequential(*conv_norm(after, fine_channels, 1))
        self.to_coarse = nn.Sequential(*conv_norm(fine_channels, down[0], 3, stride=2))
        for narrow, wide in pairwise(down):
            self.to_coarse.extend([nn.ReLU(), *conv_norm(narrow, wide, 3, stride=2)])
        self.act = nn.ReLU()

    def forward(self, coarse: Tensor, fine: Tensor) -> tuple[Tensor, Tensor]:
        """coarse (B, C_in, h, w), fine (B, F, H/8, W/8) -> coarse (halved at stride 2) and fine."""
        coarse, fine = self.coarse(self.act(coarse)), self.fine(self.act(fine))
        lifted = resize(
            self.to_fine(self.act(coarse)), (fine.shape[2], fine.shape[3]), align_corners=False
        )
        return coarse + self.to_coarse(self.act(fine)), fine + lifted


@dataclass(frozen=True)
class Trunk:
    """Planes of the stem, and blocks of each stage before and after the branches part (Table I)."""

    planes: int
    single: tuple[int, int]
    dual: tuple[int, ...]


TRUNKS = {
    "ddrnet-23-slim": Trunk(32, (2, 2), (2, 2)),
    "ddrnet-23": Trunk(64, (2, 2), (2, 2)),
    "ddrnet-39": Trunk(64, (3, 4), (3, 3, 3)),
}


class DualResolution(Backbone):
    """The two branches: normalised images (B, 3, H, W) -> four maps without a last ReLU.

    (B, W_p, H/4, W/4); the fine branch before its last exchange (B, 2 W_p, H/8, W/8) and at its end
    (B, 4 W_p, H/8, W/8); the coarse branch (B, 16 W_p, H/64, W/64). Sizes are rounded up.
    """

    first_convolution = "stem.0"

    def __init__(self, trunk: Trunk) -> None:
        super().__init__()
        p, last = trunk.planes, len(trunk.dual) - 1
        self.stage_channels = (p, 2 * p, 4 * p, 16 * p)
        self.stem = nn.Sequential(
            *conv_norm(3, p, 3, stride=2, bias=True),
            nn.ReLU(),
            *conv_norm(p, p, 3, stride=2, bias=True),
            nn.ReLU(),
        )
        self.single = nn.ModuleList(
            [
                open_basic_stage(p, p, trunk.single[0]),
                open_basic_stage(p, 2 * p, trunk.single[1], stride=2),
            ]
        )
        self.dual = nn.ModuleList()
        width = 2 * p
        for number, depth in enumerate(trunk.dual):
            down = (4 * p,) if number < last else (4 * p, 8 * p)  # to 1/16, to 1/32
            stride = 2 if number in (0, last) else 1
            self.dual.append(
                BilateralStage((width, down[-1]), 2 * p, depth, stride=stride, down=down)
            )
            width = down[-1]
        self.fine = open_bottleneck_stage(2 * p, 2 * p)
        self.coarse = open_bottleneck_stage(8 * p, 8 * p, stride=2)
        self.act = nn.ReLU()
        start_kaiming(self)

    def forward(self, images: Tensor) -> list[Tensor]:
        """(B, 3, H, W) -> the four maps."""
        quarter = self.single[0](self.stem(images))  # (B, W_p, H/4, W/4)
        coarse = fine = self.single[1](self.act(quarter))  # (B, 2 W_p, H/8, W/8)
        middle = fine
        for stage in self.dual:
            middle = fine
            coarse, fine = stage(coarse, fine)
        return [quarter, middle, self.fine(self.act(fine)), self.coarse(self.act(coarse))]

    def rename_official(self, state: Mapping[str, Tensor]) -> tuple[dict[str, Tensor], list[str]]:
        """Return (state under our key names, no unused keys)."""
        parts = official_parts(len(self.dual))
        return {rename_start(key, parts, ("layer",)): value for key, value in state.items()}, []


class DDRNetConfig(ModelConfig):
    """One row of VARIANTS; every key may be set in a recipe's [model].

    context_channels is the width of each scale of DAPPM.
    """

    backbone: Literal["ddrnet-23-slim", "ddrnet-23", "ddrnet-39"]
    context_channels: Annotated[int, Field(ge=1)] = 128
    head_channels: Annotated[int, Field(ge=1)] = 128


class DDRNet(SegmentationModel):
    """Normalised images (B, 3, H, W) -> logits (B, K, H/8, W/8), sizes rounded up.

    The auxiliary logits `aux` have the same shape. Runs natively at every size.
    """

    align_corners = False
    size_divisor = 1
    minimum_size = 1
    lone_side = 64
    class_bias = "head.1.2.bias"

    def __init__(self, config: DDRNetConfig, classes: int) -> None:
        super().__init__()
        self.trunk = TRUNKS[config.backbone]
        self.backbone = DualResolution(self.trunk)
        _, middle, fine, coarse = self.backbone.stage_channels
        self.classes, self.feature_channels = classes, fine
        self.context = DeepAggregationPooling(coarse, config.context_channels, fine)
        self.head = PreNormHead(fine, config.head_channels, classes)
        self.aux_heads = nn.ModuleDict({"aux": PreNormHead(middle, config.head_channels, classes)})
        for part in (self.context, self.head, self.aux_heads):
            start_kaiming(part)

    def decode(self, pyramid: list[Tensor]) -> Decoded:
        """Return logits (B, K, H/8, W/8), features (B, 4 W_p, H/8, W/8), and auxiliary logits."""
        _, middle, fine, coarse = pyramid
        context = resize(self.context(coarse), (fine.shape[2], fine.shape[3]), align_corners=False)
        features = fine + context  # (B, 4 W_p, H/8, W/8)
        return Decoded(
            self.head(features), features, aux=lambda: {"aux": self.aux_heads["aux"](middle)}
        )

    def rename_official(self, state: Mapping[str, Tensor]) -> tuple[dict[str, Tensor], list[str]]:
        """Return (state under our key names, no unused keys).

        A file made for inference has no auxiliary head; ours keeps its weights.
        """
        backbone = official_parts(len(self.trunk.dual))
        parts = {theirs: f"backbone.{ours}" for theirs, ours in backbone.items()}
        parts |= OFFICIAL_DECODER
        renamed = {rename_start(key, parts, ("layer",)): value for key, value in state.items()}
        return self.with_own_aux_heads(renamed), []


_entry = partial(ModelEntry, DDRNet, paper="DDRNet, arXiv:2101.06085")
VARIANTS = {
    "ddrnet-23-slim": _entry(
        DDRNetConfig(backbone="ddrnet-23-slim", head_channels=64),
        params=5_695_987,
        macs=9_070_379_008,
    ),
    "ddrnet-23": _entry(DDRNetConfig(backbone="ddrnet-23"), params=20_148_947, macs=35_765_223_424),
    "ddrnet-39": _entry(
        DDRNetConfig(backbone="ddrnet-39", head_channels=256),
        params=32_360_275,
        macs=70_279_102_464,
    ),
}


def official_parts(stages: int) -> dict[str, str]:
    """Return start of the authors' key -> of ours, for a backbone of 2 or 3 dual stages."""
    parts = {
        "conv1.": "stem.",
        "layer1.": "single.0.",
        "layer2.": "single.1.",
        "layer5.": "coarse.",
        "layer5_.": "fine.",
    }
    for number, name in enumerate({2: ("3", "4"), 3: ("3_1", "3_2", "4")}[stages]):
        parts |= {
            f"layer{name}.": f"dual.{number}.coarse.",
            f"layer{name}_.": f"dual.{number}.fine.",
            f"compression{name}.": f"dual.{number}.to_fine.",
            f"down{name}.": f"dual.{number}.to_coarse.",
        }
    return parts


OFFICIAL_DECODER = {
    **{f"spp.{theirs}": f"context.{ours}" for theirs, ours in OFFICIAL_DAPPM.items()},
    **{f"final_layer.{theirs}": f"head.{ours}" for theirs, ours in OFFICIAL_HEAD.items()},
    **{
        f"seghead_extra.{theirs}": f"aux_heads.aux.{ours}" for theirs, ours in OFFICIAL_HEAD.items()
    },
}
"""Start of the authors' other keys -> start of ours."""
