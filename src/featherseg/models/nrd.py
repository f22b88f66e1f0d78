"""NRD: dynamic neural representational decoders (Zhang et al., NeurIPS 2021, arXiv:2107.14428).

A ResNet and ASPP with separable convolutions reduce the image to 1/32. For every cell there, a
controller predicts the weights of a small network of 1x1 convolutions. This network computes the
logits of the cell's 8x8 patch at 1/4 from the position in the patch and 16 guidance channels of the
first stage. For training, an auxiliary head classifies the third stage. What the paper leaves open
is as in the authors' code (aim-uofa/NRD_decoder).

Letters: B images, H x W the image, h x w the map at 1/32, D width of ASPP, P predicted weights,
K classes.
"""

from collections.abc import Mapping
from functools import partial
from typing import Annotated, Literal

import torch
import torch.nn.functional as F
from pydantic import Field
from torch import Tensor, nn

from featherseg import backbones
from featherseg.layers.atrous import ImagePooling
from featherseg.layers.auxiliary_head import AuxiliaryHead
from featherseg.layers.conv import ConvNormAct, convolve, normalise_act
from featherseg.layers.model import Decoded, ModelConfig, ModelEntry, SegmentationModel

PATCH = 8
"""Positions of the 1/4 grid on each side of a cell at 1/32."""

RATES = (3, 6, 9)
"""Dilations of the three separable branches of ASPP."""

GUIDANCE, HIDDEN = 16, 16
"""Guidance channels that a patch's network sees, and channels of its two hidden layers."""

GUIDANCE_HIDDEN = 48
"""Channels that the first stage is reduced to before the guidance channels."""


class AtrousSeparable(nn.Module):
    """Branch of ASPP: depthwise 3x3 with a dilation, 1x1, both with norm and ReLU."""

    def __init__(self, in_channels: int, out_channels: int, rate: int) -> None:
        super().__init__()
        self.depthwise = nn.Sequential(
            nn.Conv2d(in_channels, in_channels, 3, 1, rate, rate, groups=in_channels, bias=False),
            nn.BatchNorm2d(in_channels),
            nn.ReLU(),
        )
        self.pointwise = ConvNormAct(in_channels, out_channels, 1)

    def forward(self, x: Tensor) -> Tensor:
        """(B, C, h, w) -> (B, D, h, w)."""
        conv, norm, act = self.depthwise.children()
        assert isinstance(conv, nn.Conv2d)
        return self.pointwise(normalise_act(norm, act, convolve(conv, x)))


class PatchNetworks(nn.Module):
    """Runs the network of every cell on the cell's patch.

    The P predicted weights are the matrix (output channels first) and the biases of each of two
    hidden layers, then the matrix of the last layer. The biases of the last layer come as `bias`.
    With `few_dimensions` patches are cut out and joined by tensors of four dimensions, more slowly.
    """

    few_dimensions = False  # exporters/fixed_graph.py

    def __init__(self, classes: int) -> None:
        super().__init__()
        self.classes = classes
        self.norm = nn.BatchNorm2d(2 + GUIDANCE)

    @property
    def sizes(self) -> list[int]:
        """Numbers of weights: matrix and biases of two layers, matrix of the last one."""
        first, second = HIDDEN * (2 + GUIDANCE), HIDDEN * HIDDEN
        return [first, HIDDEN, second, HIDDEN, self.classes * HIDDEN]

    def forward(self, guidance: Tensor, weights: Tensor, bias: Tensor) -> Tensor:
        """Return logits (B, K, 8 h, 8 w).

        guidance (B, 16, 8 h, 8 w), weights (B, P, h, w), bias (B, K, h, w).
        """
        batch, _, height, width = guidance.shape
        rows, columns = weights.shape[2:]

        # the position in the patch, 0 to 7/8, beside the guidance: (B, 18, 8 h, 8 w)
        y = (torch.arange(height, device=guidance.device) % PATCH).to(guidance.dtype) / PATCH
        x = (torch.arange(width, device=guidance.device) % PATCH).to(guidance.dtype) / PATCH
        position = torch.stack([x.expand(height, -1), y[:, None].expand(-1, width)])
        inputs = self.norm(torch.cat([position.expand(batch, -1, -1, -1), guidance], dim=1))

        # positions of a patch as the columns of a matrix: (B, h w, 18, 64)
        if self.few_dimensions:
            hidden = F.pixel_unshuffle(inputs, PATCH).flatten(2).mT.unflatten(-1, (-1, PATCH**2))
        else:
            patches = inputs.reshape(batch, -1, rows, PATCH, columns, PATCH)
            hidden = patches.permute(0, 2, 4, 1, 3, 5).flatten(4).flatten(1, 2)
        first, first_bias, second, second_bias, last = weights.flatten(2).mT.split(
            self.sizes, dim=-1
        )
        for matrix, biases in ((first, first_bias), (second, second_bias)):
            matrix = matrix.unflatten(-1, (HIDDEN, -1))  # (B, h w, 16, 18 or 16)
            hidden = F.relu(matrix @ hidden + biases[..., None])  # (B, h w, 16, 64)
        logits = last.unflatten(-1, (self.classes, HIDDEN)) @ hidden  # (B, h w, K, 64)
        logits = logits + bias.flatten(2).mT[..., None]
        if self.few_dimensions:
            planes = logits.flatten(2).mT.reshape(batch, -1, rows, columns)  # (B, 64 K, h, w)
            return F.pixel_shuffle(planes, PATCH)
        patches = logits.reshape(batch, rows, columns, -1, PATCH, PATCH)
        return patches.permute(0, 3, 1, 4, 2, 5).reshape(batch, -1, height, width)

    def macs(self, x: Tensor, y: Tensor) -> int:
        """Count the three layers at every position; ptflops misses them."""
        first, _, second, _, last = self.sizes
        return y[:, 0].numel() * (first + second + last)


class NRDConfig(ModelConfig):
    """One row of VARIANTS; every key may be set in a recipe's [model]. aspp_channels is D."""

    backbone: Literal["resnet-50-v1c", "resnet-101-v1c"]
    aspp_channels: Annotated[int, Field(ge=1)] = 512


class NRD(SegmentationModel):
    """images (B, 3, H, W), normalised -> logits (B, K, H/4, W/4); auxiliary logits `aux` at 1/16.

    Images are padded to a multiple of 32.
    """

    align_corners = False
    size_divisor = 32
    minimum_size = 32
    lone_side = 32

    def __init__(self, config: NRDConfig, classes: int) -> None:
        super().__init__()
        width = config.aspp_channels
        self.classes, self.feature_channels = classes, width
        self.backbone = backbones.build(config.backbone)
        first, _, third, last = self.backbone.stage_channels
        self.aspp = nn.ModuleList(
            [
                ImagePooling(last, width),
                ConvNormAct(last, width, 1),
                *(AtrousSeparable(last, width, rate) for rate in RATES),
            ]
        )
        self.fuse = ConvNormAct(len(self.aspp) * width, width, 3)
        self.guidance = nn.Sequential(
            ConvNormAct(first, GUIDANCE_HIDDEN, 3), nn.Conv2d(GUIDANCE_HIDDEN, GUIDANCE, 1)
        )
        self.patches = PatchNetworks(classes)
        self.controller = ConvNormAct(width, width, 3)
        self.weights = nn.Conv2d(width, sum(self.patches.sizes), kernel_size=1)
        self.classifier = nn.Conv2d(width, classes, kernel_size=1)  # biases of the last layers
        self.aux_heads = nn.ModuleDict({"aux": AuxiliaryHead(third, 256, classes, bias=False)})

    def decode(self, pyramid: list[Tensor]) -> Decoded:
        """Return logits (B, K, H/4, W/4), features (B, D, h, w), and auxiliary logits."""
        first, _, third, last = pyramid
        branches = torch.cat([branch(last) for branch in self.aspp], dim=1)  # (B, 5 D, h, w)
        features = self.controller(self.fuse(branches))  # (B, D, h, w)
        logits = self.patches(
            self.guidance(first), self.weights(features), self.classifier(features)
        )
        return Decoded(logits, features, lambda: {"aux": self.aux_heads["aux"](third)})

    def rename_official(self, state: Mapping[str, Tensor]) -> tuple[dict[str, Tensor], list[str]]:
        """Return (state under our key names, unused keys: a classifier that the authors never run).

        The authors' controller has one last layer, ours has two: the biases of the patches' last
        layers are separate. A file without the auxiliary head leaves ours unchanged.
        """
        never_run = [key for key in state if key.startswith(OFFICIAL_UNUSED)]
        split = {key: value for key, value in state.items() if key not in never_run}
        weights = sum(self.patches.sizes)
        for key in [key for key in split if key.startswith(OFFICIAL_CONTROLLER)]:
            value, leaf = split.pop(key), key.removeprefix(OFFICIAL_CONTROLLER)
            split |= {f"weights.{leaf}": value[:weights], f"classifier.{leaf}": value[weights:]}
        renamed, unused = self.rename_parts(split, OFFICIAL_PARTS)
        return renamed, unused + never_run


_entry = partial(ModelEntry, NRD, paper="NRD, arXiv:2107.14428")
VARIANTS = {
    "nrd-r50": _entry(NRDConfig(backbone="resnet-50-v1c"), params=43_573_367, macs=58_547_503_104),
}


OFFICIAL_CONTROLLER = "decode_head.classifier.classifier.1."
OFFICIAL_UNUSED = "decode_head.conv_seg."

OFFICIAL_PARTS = {
    **{
        f"{theirs}{leaf}": f"{ours}{i}."
        for theirs, ours, first in (
            ("decode_head.image_pool.1.", "aspp.0.", 1),
            ("decode_head.aspp_modules.0.", "aspp.1.", 0),
            *(
                (f"decode_head.aspp_modules.{i}.{part}_conv.", f"aspp.{i + 1}.{part}.", 0)
                for i in (1, 2, 3)
                for part in ("depthwise", "pointwise")
            ),
            ("decode_head.bottleneck.", "fuse.", 0),
            ("decode_head.classifier.classifier.0.", "controller.", 0),
            ("decode_head.c1_bottleneck.0.", "guidance.0.", 0),
            ("auxiliary_head.convs.0.", "aux_heads.aux.", 0),
        )
        for i, leaf in enumerate(("conv.", "bn."), start=first)
    },
    "decode_head.c1_bottleneck.1.conv.": "guidance.1.",
    "decode_head.cat_norm.": "patches.norm.",
    "auxiliary_head.conv_seg.": "aux_heads.aux.4.",
}
"""Start of the authors' key -> start of ours."""
