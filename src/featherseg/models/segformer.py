"""SegFormer: hierarchical transformer, linear head (Xie et al., NeurIPS 2021, arXiv:2105.15203).

Written from the paper; the encoder is backbones/mit.py. The head (Sec. 3.2, Eq. 4) brings the four
stages to one width and to 1/4, concatenates, fuses and classifies them. A batch norm and ReLU after
the fusion and dropout before the classifier are in no equation, but in the published weights.

Letters: B images, C_i channels of a stage, D width of the head, H x W the image, K classes.
"""

from collections.abc import Mapping, Sequence
from copy import deepcopy
from functools import partial
from typing import Annotated

import torch
from pydantic import Field
from torch import Tensor, nn

from featherseg import backbones
from featherseg.layers.conv import ConvNormAct
from featherseg.layers.folding import factors
from featherseg.layers.model import Decoded, ModelConfig, ModelEntry, SegmentationModel
from featherseg.layers.official_keys import rename_start
from featherseg.layers.resize import resize


class AllLinearDecoder(nn.Module):
    """Eq. 4 up to the fusion: bring the stages to one width and to 1/4, concatenate, fuse."""

    def __init__(self, stage_channels: Sequence[int], width: int) -> None:
        super().__init__()
        self.project = nn.ModuleList(nn.Conv2d(channels, width, 1) for channels in stage_channels)
        self.fuse = ConvNormAct(len(stage_channels) * width, width, 1)

    def forward(self, stages: Sequence[Tensor]) -> Tensor:
        """stage i = 0..3 (B, C_i, H/2^(i+2), W/2^(i+2)) -> (B, D, H/4, W/4)."""
        size = (stages[0].shape[2], stages[0].shape[3])
        # (B, D, H/2^(i+2), W/2^(i+2))
        maps = [project(x) for project, x in zip(self.project, stages, strict=True)]
        finest, coarser = maps[0], [resize(x, size, align_corners=False) for x in maps[1:]]
        # coarse to fine, as in published weights
        return self.fuse(torch.cat([*reversed(coarser), finest], dim=1))

    def for_graph(self, size_divisor: int, channels_last: bool) -> nn.Module:
        """Return a SummedDecoder: equal within rounding, several times faster.

        The weights must not change any more.
        """
        return SummedDecoder(self)

    def for_cpu(self) -> nn.Module:
        """Return a SummedDecoder."""
        return SummedDecoder(self)


class SummedDecoder(nn.Module):
    """An AllLinearDecoder in eval mode that fuses each map at its own size: a tenth of the work.

    A 1x1 convolution of resized maps is the resized map of its 1x1 convolution. So the projection
    of a stage, its share of the fusion and the norm are one convolution, and at 1/4 the maps are
    summed.
    """

    def __init__(self, plain: AllLinearDecoder) -> None:
        super().__init__()
        conv, norm, self.act = plain.fuse.children()
        assert isinstance(conv, nn.Conv2d)
        fusion = conv.weight.detach().double().flatten(1)  # (D, 4 D), coarse to fine
        shift = (
            torch.zeros(len(fusion), dtype=torch.float64)
            if conv.bias is None
            else conv.bias.detach().double()
        )
        if isinstance(norm, nn.BatchNorm2d):  # else it is folded already
            factor, moved = factors(norm)
            fusion, shift = fusion * factor[:, None], shift * factor + moved
        shares = fusion.chunk(len(plain.project), dim=1)[::-1]  # (D, D) each, fine to coarse
        self.project = deepcopy(plain.project)
        for project, share in zip(self.project, shares, strict=True):
            assert isinstance(project, nn.Conv2d)
            assert project.bias is not None
            weight, bias = project.weight.detach().double(), share @ project.bias.detach().double()
            project.weight.data = torch.einsum("dm,mcij->dcij", share, weight).to(
                project.weight.dtype
            )
            project.bias.data = (bias + (shift if project is self.project[0] else 0)).to(
                project.bias.dtype
            )

    def forward(self, stages: Sequence[Tensor]) -> Tensor:
        """stage i = 0..3 (B, C_i, H/2^(i+2), W/2^(i+2)) -> (B, D, H/4, W/4)."""
        size = (stages[0].shape[2], stages[0].shape[3])
        total, *coarser = [project(x) for project, x in zip(self.project, stages, strict=True)]
        for x in coarser:
            total = total + resize(x, size, align_corners=False)  # (B, D, H/4, W/4)
        return self.act(total)


class SegFormerConfig(ModelConfig):
    """One row of VARIANTS; every key may be set in a recipe's [model]."""

    channels: Annotated[int, Field(ge=1)] = 256


class SegFormer(SegmentationModel):
    """Normalised images (B, 3, H, W) -> logits (B, K, H/4, W/4), sizes rounded up.

    Runs natively at every size of at least 32x32; a shorter side is padded to 32.
    """

    align_corners = False
    size_divisor = 1
    minimum_size = 32

    def __init__(self, config: SegFormerConfig, classes: int) -> None:
        super().__init__()
        self.classes, self.feature_channels = classes, config.channels
        self.backbone = backbones.build(config.backbone)
        # MiT: none
        self.lone_side = 32 * any(
            isinstance(layer, nn.BatchNorm2d) for layer in self.backbone.modules()
        )
        self.decoder = AllLinearDecoder(self.backbone.stage_channels, config.channels)
        self.drop = nn.Dropout2d(0.1)
        self.classifier = nn.Conv2d(config.channels, classes, 1)
        assert self.classifier.bias is not None
        nn.init.normal_(self.classifier.weight, std=0.01)
        nn.init.zeros_(self.classifier.bias)

    def decode(self, pyramid: list[Tensor]) -> Decoded:  # 4 x (B, C_i, H/2^(i+2), W/2^(i+2))
        """Return logits (B, K, H/4, W/4) and features (B, D, H/4, W/4)."""
        features = self.decoder(pyramid)  # (B, D, H/4, W/4)
        return Decoded(self.classifier(self.drop(features)), features)  # (B, K, H/4, W/4)

    def rename_official(self, state: Mapping[str, Tensor]) -> tuple[dict[str, Tensor], list[str]]:
        """Return (state under our key names, unused keys).

        Unused: the backbone's head, and `decode_head.conv_seg`, which no computation uses.
        """
        renamed, unused, head_state = self.rename_backbone(state)
        for key, value in head_state.items():
            if key in OFFICIAL_UNUSED:
                unused.append(key)
            else:
                linear = key.startswith(OFFICIAL_PROJECT) and value.dim() == 2
                value = value[:, :, None, None] if linear else value  # (D, C_i) -> (D, C_i, 1, 1)
                renamed[rename_start(key, OFFICIAL_PARTS)] = value
        return renamed, unused


_entry = partial(ModelEntry, SegFormer, paper="SegFormer, arXiv:2105.15203")
VARIANTS = {
    "segformer-b0": _entry(
        SegFormerConfig(backbone="mit-b0"), params=3_719_027, macs=17_757_110_272
    ),
    "segformer-b1": _entry(
        SegFormerConfig(backbone="mit-b1"), params=13_682_131, macs=34_817_966_080
    ),
}


OFFICIAL_UNUSED = ("decode_head.conv_seg.weight", "decode_head.conv_seg.bias")
OFFICIAL_PROJECT = "decode_head.linear_c"

OFFICIAL_PARTS = {
    **{f"{OFFICIAL_PROJECT}{i + 1}.proj.": f"decoder.project.{i}." for i in range(4)},
    "decode_head.linear_fuse.conv.": "decoder.fuse.0.",
    "decode_head.linear_fuse.bn.": "decoder.fuse.1.",
    "decode_head.linear_pred.": "classifier.",
}
"""Start of the published key -> start of ours."""
