"""HANet: height-driven attention networks (Choi et al., CVPR 2020, arXiv:2003.05128).

DeepLabV3+ (arXiv:1802.02611) on a ResNet, with four attention modules. Each weights the channels of
a map row by row, because what an urban scene shows depends on the height in the image. For
training, an auxiliary head classifies the third stage. What the paper leaves open is as in its
authors' model (shachoi/HANet), which was described in words: none of their code is used.

Letters: B images, H x W the image, h x w a map, C and D channels, R = 16 rows of attention, K
classes.
"""

import math
from collections.abc import Mapping
from functools import partial
from typing import Annotated, Literal

import torch
from pydantic import Field
from torch import Tensor, nn

from featherseg import backbones
from featherseg.layers.atrous import ImagePooling
from featherseg.layers.auxiliary_head import AuxiliaryHead
from featherseg.layers.conv import ConvNormAct
from featherseg.layers.model import Decoded, ModelConfig, ModelEntry, SegmentationModel
from featherseg.layers.pooling import RegionMean
from featherseg.layers.resize import resize

ROWS = 16
"""Rows of attention (R), whatever the image's height."""

STAGE_RATES = {16: (1, 2), 8: (2, 4)}
"""Output stride -> dilations of the 3x3 convolutions of the last two stages."""

ASPP_RATES = {16: (6, 12, 18), 8: (12, 24, 36)}
"""Output stride -> dilations of the three 3x3 branches of ASPP."""

WIDTH, FINE_WIDTH = 256, 48
"""Channels of each branch of ASPP and of the decoder, and of the first stage beside it."""

NOISE, MOST_NOISE = 0.5, 2
"""Standard deviation and bound of the noise on a row's position in training, in rows."""


class HeightAttention(nn.Module):
    """HANet: weights each row and channel of a map by attention computed from another map.

    The authors' convolutions of rows (Conv1d) are convolutions of maps of one column here.
    """

    def __init__(self, channels: int, out_channels: int, reduction: int) -> None:
        super().__init__()
        width = math.ceil(channels / reduction)
        self.pool = RegionMean(ROWS, columns=1)
        self.drop = nn.Dropout2d(0.1)
        self.reduce = ConvNormAct(channels, width, 1)
        self.expand = nn.Sequential(
            nn.Conv2d(width, 2 * width, (3, 1), padding=(1, 0)),
            nn.BatchNorm2d(2 * width),
            nn.ReLU(),
        )
        self.weigh = nn.Conv2d(2 * width, out_channels, (3, 1), padding=(1, 0))
        self.register_buffer("positions", position_table(width))
        self.positions: Tensor

    def forward(self, source: Tensor, target: Tensor, positions: Tensor) -> Tensor:
        """source (B, C, h, w), target (B, D, h', w'), positions (R,) -> target, weighted."""
        rows = self.reduce(self.drop(self.pool(source)))  # (B, C / reduction, R, 1)
        rows = rows + self.positions[positions].mT[None, :, :, None].to(rows.dtype)
        weights = self.weigh(self.expand(rows)).sigmoid()  # (B, D, R, 1)
        size = (target.shape[2], 1)
        return target * resize(weights, size, align_corners=False)  # (B, D, h', w')


def position_table(width: int) -> Tensor:
    """Return 1 + sine (even columns) or 1 + cosine (odd) of each position: (R + 1, width)."""
    base = 10.0 if width > 50 else 100.0  # both as in the authors' code
    column = torch.arange(width)
    place = torch.arange(ROWS + 1)[:, None] / base ** (2 * (column // 2) / width)
    return 1 + torch.where(column % 2 == 0, place.sin(), place.cos())


class HANetConfig(ModelConfig):
    """One row of VARIANTS; every key may be set in a recipe's [model].

    reduction: how many times fewer channels an attention module has than its source.
    """

    backbone: Literal["resnet-50", "resnet-50-deep", "resnet-101", "resnet-101-deep"]
    output_stride: Literal[8, 16] = 16
    reduction: Annotated[int, Field(ge=1)] = 32


class HANet(SegmentationModel):
    """images (B, 3, H, W), normalised -> logits (B, K, H/4, W/4), sizes rounded up.

    Auxiliary logits `aux` (B, K, ...) on the third stage. Every image counts as a whole one: its
    first row is the top of the scene. Runs natively at every size of at least 32x32; a shorter side
    is padded to 32.
    """

    align_corners = True
    size_divisor = 1
    minimum_size = 32

    def __init__(self, config: HANetConfig, classes: int) -> None:
        super().__init__()
        self.classes, self.feature_channels = classes, WIDTH
        self.backbone = backbones.build(config.backbone, config.output_stride)
        # unlike torchvision's, the first block of a stage is dilated as much as those after it
        for stage, rate in zip((2, 3), STAGE_RATES[config.output_stride], strict=True):
            self.backbone.dilate_blocks(stage, rate)
        first, _, third, last = self.backbone.stage_channels
        self.aspp = nn.ModuleList(
            [
                ImagePooling(last, WIDTH),
                ConvNormAct(last, WIDTH, 1),
                *(
                    ConvNormAct(last, WIDTH, 3, dilation=rate)
                    for rate in ASPP_RATES[config.output_stride]
                ),
            ]
        )
        branches = len(self.aspp) * WIDTH  # 1280
        self.fine = ConvNormAct(first, FINE_WIDTH, 1)
        self.coarse = ConvNormAct(branches, WIDTH, 1)
        joined = FINE_WIDTH + WIDTH  # 304
        self.fuse = nn.Sequential(ConvNormAct(joined, WIDTH, 3), ConvNormAct(WIDTH, WIDTH, 3))
        self.classifier = nn.Conv2d(WIDTH, classes, kernel_size=1)
        pairs = ((third, last), (last, branches), (branches, WIDTH), (joined, WIDTH))
        self.attend = nn.ModuleList(HeightAttention(*pair, config.reduction) for pair in pairs)
        self.aux_heads = nn.ModuleDict({"aux": AuxiliaryHead(third, 512, classes)})

    def positions(self, device: torch.device) -> Tensor:
        """Return the positions of the rows of attention, (R,) int64, with noise in training."""
        rows = torch.arange(ROWS, device=device)
        if not self.training:
            return rows
        # rounded down, so that a row moves up more often than down
        noise = (torch.randn(ROWS, device=device) * NOISE).floor().clamp(-MOST_NOISE, MOST_NOISE)
        return (rows + noise.long()).clamp(0, ROWS)

    def decode(self, pyramid: list[Tensor]) -> Decoded:
        """Return logits (B, K, H/4, W/4), features (B, 256, H/4, W/4), and auxiliary logits."""
        first, _, third, last = pyramid
        positions = self.positions(last.device)
        last = self.attend[0](third, last, positions)
        branches = torch.cat([branch(last) for branch in self.aspp], dim=1)  # (B, 1280, h, w)
        branches = self.attend[1](last, branches, positions)
        coarse = self.attend[2](branches, self.coarse(branches), positions)  # (B, 256, h, w)
        lifted = resize(coarse, (first.shape[2], first.shape[3]), align_corners=True)
        joined = torch.cat([self.fine(first), lifted], dim=1)  # (B, 304, H/4, W/4)
        features = self.attend[3](joined, self.fuse(joined), positions)  # (B, 256, H/4, W/4)
        return Decoded(
            self.classifier(features), features, lambda: {"aux": self.aux_heads["aux"](third)}
        )

    def rename_official(self, state: Mapping[str, Tensor]) -> tuple[dict[str, Tensor], list[str]]:
        """Return (state under our key names, unused keys).

        A file without the auxiliary head leaves ours unchanged.
        """
        on_maps = {key: x[..., None] if x.ndim == 3 else x for key, x in state.items()}
        return self.rename_parts(on_maps, OFFICIAL_PARTS)


_entry = partial(ModelEntry, HANet, paper="HANet, arXiv:2003.05128")
VARIANTS = {
    "hanet-r50": _entry(HANetConfig(backbone="resnet-50"), params=41_577_211, macs=138_448_862_080),
    "hanet-r101": _entry(
        HANetConfig(backbone="resnet-101-deep"), params=60_693_115, macs=191_397_755_776
    ),
    "hanet-r101-os8": _entry(
        HANetConfig(backbone="resnet-101-deep", output_stride=8, reduction=64),
        params=60_072_033,
        macs=534_448_340_576,
    ),
}


OFFICIAL_ATTENTION = {
    "attention_first.": "reduce.",
    "attention_second.": "expand.",
    "attention_third.0.": "weigh.",
    "pos_emb1d_2nd.pos_layer.weight": "positions",
}
"""Names inside an attention module."""

OFFICIAL_PARTS = {
    "layer0.": "backbone.stem.",
    "layer": "backbone.layer",
    "aspp.img_conv.0.": "aspp.0.1.",
    "aspp.img_conv.1.": "aspp.0.2.",
    **{f"aspp.features.{i}.": f"aspp.{i + 1}." for i in range(4)},
    "bot_fine.": "fine.",
    "bot_aspp.": "coarse.",
    "final1.0.": "fuse.0.0.",
    "final1.1.": "fuse.0.1.",
    "final1.3.": "fuse.1.0.",
    "final1.4.": "fuse.1.1.",
    "final2.0.": "classifier.",
    "dsn.": "aux_heads.aux.",
    **{
        f"hanet{i}.{theirs}": f"attend.{i}.{ours}"
        for i in range(4)
        for theirs, ours in OFFICIAL_ATTENTION.items()
    },
}
"""Start of the authors' key -> start of ours."""
