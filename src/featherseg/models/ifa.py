"""IFA: implicit feature alignment by positions (Hu et al., ECCV 2022, arXiv:2206.08655).

Four stages of a ResNet are brought to one width. Every position of the 1/4 grid reads the nearest
cell of each stage and its offset from that cell's centre, encoded by sines and cosines of learned
frequencies. A small network of 1x1 convolutions computes its logits from them. For training, an
auxiliary head classifies the third stage. What the paper leaves open is as in the authors' code
(hzhupku/IFA), in its version without ASPP: the stem has three 3x3 convolutions, its pool rounds
sizes up, and the blocks of the last stage have dilations 2, 2 and 4.

Letters: B images, H x W the image or a fine grid, h x w a map, D width of a stage, K classes.
"""

from collections.abc import Mapping
from functools import partial
from typing import Annotated, Literal

import torch
from pydantic import Field
from torch import Tensor, nn

from featherseg.backbones.resnet import build_resnet
from featherseg.layers.auxiliary_head import AuxiliaryHead
from featherseg.layers.conv import ConvNormAct
from featherseg.layers.model import Decoded, ModelConfig, ModelEntry, SegmentationModel
from featherseg.layers.precision import at_least_fp32, autocast_off

MULTI_GRID = (2, 2, 4)
"""Dilations of the blocks of the last stage."""

EXPONENTS = (0.0, 1.2, 2.4, 3.6, 4.8, 6.0)
"""Initial frequencies of each axis are 2 to these powers, in radians per half cell."""

ENCODED = 2 + 4 * len(EXPONENTS)
"""Values that encode an offset: itself, and a sine and a cosine of each frequency of each axis."""


class NearestCell(nn.Module):
    """Reads for each position of a finer grid the nearest cell of a map and the offset from it."""

    def __init__(self) -> None:
        super().__init__()
        frequencies = torch.tensor([2.0**exponent for exponent in EXPONENTS])
        of_rows = torch.stack([frequencies, torch.zeros_like(frequencies)], dim=1)  # (6, 2)
        self.frequencies = nn.Parameter(torch.cat([of_rows, of_rows.flip(1)]))  # (12, 2): dy, dx

    def forward(self, x: Tensor, size: tuple[int, int]) -> Tensor:
        """x (B, D, h, w), size (H, W) -> (B, 26 + D, H, W): the encoded offset, then the cell."""
        row, dy = nearest(size[0], x.shape[2], self.frequencies)  # (H,) each
        column, dx = nearest(size[1], x.shape[3], self.frequencies)  # (W,) each
        with autocast_off(x.device):
            offset = torch.stack([dy[:, None].expand(size), dx[None, :].expand(size)])
            phase = at_least_fp32(self.frequencies) @ offset.flatten(1)  # (12, H W)
            phase = phase.unflatten(1, size)  # (12, H, W)
            encoded = torch.cat([offset, phase.sin(), phase.cos()])  # (26, H, W)
        cells = x[:, :, row][:, :, :, column]  # (B, D, H, W)
        batch = encoded.to(x.dtype).expand(x.shape[0], -1, -1, -1)
        return torch.cat([batch, cells], dim=1)

    def macs(self, x: Tensor, y: Tensor) -> int:
        """Count two frequencies for each phase at each position, the same for all images."""
        return self.frequencies.numel() * y.shape[2] * y.shape[3]


def nearest(length: int, cells: int, like: Tensor) -> tuple[Tensor, Tensor]:
    """Return (nearest cell, offset from its centre in half cells) for each position of a side.

    Both are (length,). The positions and the cells each divide the side evenly. A tie goes to the
    cell with the even number, as in torch's grid_sample. Integers decide, so that all runtimes
    choose the same cell.
    """
    # centres of the positions, in units of 1 / (2 length) cells
    centre = (2 * torch.arange(length, device=like.device) + 1) * cells
    cell = torch.div(centre, 2 * length, rounding_mode="floor")
    cell = torch.where((centre == 2 * length * cell) & (cell % 2 == 1), cell - 1, cell)
    offset = (centre - (2 * cell + 1) * length).to(at_least_fp32(like).dtype) / length
    return cell, offset


class IFAConfig(ModelConfig):
    """One row of VARIANTS; every key may be set in a recipe's [model]. decoder_channels is D."""

    backbone: Literal["resnet-50-deep", "resnet-101-deep"] = "resnet-50-deep"
    decoder_channels: Annotated[int, Field(ge=1)] = 256


class IFA(SegmentationModel):
    """Normalised images (B, 3, H, W) -> logits (B, K, h, w) at 1/4, auxiliary `aux` at 1/16.

    h is H/4 rounded up, plus 1 if H modulo 4 is 0 or 3, because the stem's pool rounds up. Runs
    natively at every size.
    """

    align_corners = True
    size_divisor = 1
    minimum_size = 1
    lone_side = 32

    def __init__(self, config: IFAConfig, classes: int) -> None:
        super().__init__()
        width = config.decoder_channels
        self.classes, self.feature_channels = classes, width
        backbone = build_resnet(config.backbone)
        backbone.pool.ceil_mode = True
        backbone.dilate_blocks(3, MULTI_GRID)
        self.backbone = backbone
        channels = backbone.stage_channels
        self.lateral = nn.ModuleList(ConvNormAct(c, width, 1, bias=True) for c in channels)
        self.read = nn.ModuleList(NearestCell() for _ in channels)
        self.decoder = nn.Sequential(
            ConvNormAct(len(channels) * (ENCODED + width), 2 * width, 1, bias=True),
            ConvNormAct(2 * width, width, 1, bias=True),
            ConvNormAct(width, width, 1, bias=True),
        )
        self.classifier = nn.Conv2d(width, classes, kernel_size=1)
        self.aux_heads = nn.ModuleDict({"aux": AuxiliaryHead(channels[2], width, classes)})

    def decode(self, pyramid: list[Tensor]) -> Decoded:
        """Return logits (B, K, h, w), features (B, D, h, w), and auxiliary logits."""
        size = (pyramid[0].shape[2], pyramid[0].shape[3])
        readings = [
            read(lateral(x), size)
            for x, lateral, read in zip(pyramid, self.lateral, self.read, strict=True)
        ]
        features = self.decoder(torch.cat(readings, dim=1))  # (B, D, h, w)
        return Decoded(
            self.classifier(features), features, lambda: {"aux": self.aux_heads["aux"](pyramid[2])}
        )

    def rename_official(self, state: Mapping[str, Tensor]) -> tuple[dict[str, Tensor], list[str]]:
        """Return (state under our key names, unused keys).

        The authors' convolutions of a list of positions (Conv1d) become those of a map. A file
        without the auxiliary head leaves ours unchanged.
        """
        on_maps = {key: x[..., None] if x.ndim == 3 else x for key, x in state.items()}
        return self.rename_parts(on_maps, OFFICIAL_PARTS)


_entry = partial(ModelEntry, IFA, paper="IFA, arXiv:2206.08655")
VARIANTS = {
    "ifa-r50": _entry(IFAConfig(backbone="resnet-50-deep"), params=25_400_115, macs=88_610_833_248),
}


OFFICIAL_PARTS = {
    "encoder.": "backbone.",
    **{f"decoder.enc{i}.": f"lateral.{i - 1}." for i in (1, 2, 3)},
    "decoder.head.": "lateral.3.",
    **{f"decoder.ifa.pos{i}.emb": f"read.{i - 1}.frequencies" for i in (1, 2, 3, 4)},
    **{f"decoder.ifa.imnet.{3 * i + j}.": f"decoder.{i}.{j}." for i in (0, 1, 2) for j in (0, 1)},
    "decoder.ifa.imnet.9.": "classifier.",
    "auxor.aux.": "aux_heads.aux.",
}
"""Start of the authors' key -> start of ours."""
