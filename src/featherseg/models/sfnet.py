"""SFNet: semantic flow for scene parsing (Li et al., ECCV 2020, arXiv:2002.10120).

A feature pyramid whose top-down steps are aligned along a learned flow (Sec. 3.2), with pyramid
pooling on top. What the paper leaves open is as in the authors' code (lxtGH/SFSegNets): the stem is
three 3x3 convolutions, and the second convolutions of the blocks of stages 3 and 4 are dilated by 2
and 4 although these stages keep their strides. For training, each step of the pyramid has an
auxiliary head.

Letters: B images, H x W the image, D decoder width, K classes.
"""

from collections.abc import Mapping
from functools import partial
from typing import Annotated

from pydantic import Field
from torch import Tensor, nn

from featherseg import backbones
from featherseg.layers.align import AlignedPyramid
from featherseg.layers.auxiliary_head import AuxiliaryHead
from featherseg.layers.conv import ConvNormAct
from featherseg.layers.model import Decoded, ModelConfig, ModelEntry, SegmentationModel
from featherseg.layers.pooling import PyramidPooling

AUX_STRIDES = (4, 8, 16)
"""Strides of the pyramid's steps, fine to coarse; their heads are `dsn_4`, `dsn_8`, `dsn_16`."""


class SFNetConfig(ModelConfig):
    """One row of VARIANTS; every key may be set in a recipe's [model]. decoder_channels is D."""

    decoder_channels: Annotated[int, Field(ge=2)] = 128


class SFNet(SegmentationModel):
    """Normalised images (B, 3, H, W) -> logits (B, K, H/4, W/4), sizes rounded up.

    Auxiliary logits `dsn_4`, `dsn_8`, `dsn_16` (B, K, ...) at these strides. Runs natively at every
    size of at least 64x64; a shorter side is padded to 64.
    """

    align_corners = True
    size_divisor = 1
    minimum_size = 64

    def __init__(self, config: SFNetConfig, classes: int) -> None:
        super().__init__()
        width = config.decoder_channels
        self.classes, self.feature_channels = classes, width
        self.backbone = backbones.build(config.backbone)
        self.backbone.dilate_blocks(2, 2)
        self.backbone.dilate_blocks(3, 4)
        channels = self.backbone.stage_channels
        self.context = PyramidPooling(channels[-1], width)
        self.decoder = AlignedPyramid(channels, width)
        self.fuse = ConvNormAct(4 * width, width, 3)
        self.classifier = nn.Conv2d(width, classes, kernel_size=1)
        self.aux_heads = nn.ModuleDict(
            {f"dsn_{stride}": AuxiliaryHead(width, width, classes) for stride in AUX_STRIDES}
        )

    def decode(self, pyramid: list[Tensor]) -> Decoded:  # 4 x (B, C_i, H/2^(i+2), W/2^(i+2))
        """Return logits (B, K, H/4, W/4), features (B, D, H/4, W/4), and auxiliary logits."""
        context = self.context(pyramid[-1])  # (B, D, H/32, W/32)
        sums = self.decoder.descend(pyramid, context)  # 3 x (B, D, H/2^(i+2), W/2^(i+2))
        features = self.fuse(self.decoder.join(sums, context))  # (B, D, H/4, W/4)

        def aux() -> dict[str, Tensor]:
            """Return the logits of each step of the pyramid."""
            return {
                name: head(x) for (name, head), x in zip(self.aux_heads.items(), sums, strict=True)
            }

        return Decoded(self.classifier(features), features, aux)

    def rename_official(self, state: Mapping[str, Tensor]) -> tuple[dict[str, Tensor], list[str]]:
        """Return (state under our key names, unused keys).

        A file without auxiliary heads, from the authors' model without fpn_dsn, leaves ours
        unchanged.
        """
        return self.rename_parts(state, OFFICIAL_PARTS)


_entry = partial(ModelEntry, SFNet, paper="SFNet, arXiv:2002.10120")
VARIANTS = {
    "sfnet-r18": _entry(
        SFNetConfig(backbone="resnet-18-deep"), params=12_869_715, macs=60_743_614_464
    ),
}


OFFICIAL_PARTS = {
    "layer0.0.": "backbone.conv1.",  # the stem as torchvision would call it
    "layer0.1.": "backbone.bn1.",
    "layer": "backbone.layer",
    "head.ppm.stages.": "context.branches.",
    "head.ppm.bottleneck.": "context.reduce.",
    "head.fpn_in.": "decoder.lateral.",
    **{f"head.fpn_out.{i}.0.": f"decoder.smooth.{i}." for i in range(3)},
    **{f"head.fpn_out_align.{i}.down_h.": f"decoder.align.{i}.down_coarse." for i in range(3)},
    **{f"head.fpn_out_align.{i}.down_l.": f"decoder.align.{i}.down_fine." for i in range(3)},
    **{f"head.fpn_out_align.{i}.flow_make.": f"decoder.align.{i}.flow." for i in range(3)},
    **{f"head.dsn.{i}.": f"aux_heads.dsn_{stride}." for i, stride in enumerate(AUX_STRIDES)},
    "head.conv_last.0.": "fuse.",
    "head.conv_last.1.": "classifier.",
}
"""Start of the authors' key -> start of ours."""
