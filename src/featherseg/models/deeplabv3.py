"""DeepLabV3: rethinking atrous convolution (Chen et al., arXiv:1706.05587).

After the last stage of a dilated backbone five parallel branches (atrous spatial pyramid pooling,
ASPP): a 1x1 convolution, three dilated 3x3 and the mean over the whole map (Sec. 3.3). The layout
is torchvision's: no multi-grid, a 3x3 convolution after the projection, no auxiliary head.

Letters: B images, C channels of the last stage, H x W the image, h x w its map at 1/8 or 1/16, D
width, K classes.
"""

from collections.abc import Mapping, Sequence
from functools import partial
from typing import Annotated, Literal

import torch
from pydantic import Field
from torch import Tensor, nn

from featherseg import backbones
from featherseg.layers.atrous import ImagePooling
from featherseg.layers.conv import ConvNormAct
from featherseg.layers.model import Decoded, ModelConfig, ModelEntry, SegmentationModel
from featherseg.layers.official_keys import rename_start

RATES = {16: (6, 12, 18), 8: (12, 24, 36)}
"""Output stride -> dilations of the three 3x3 branches, in cells (Sec. 3.3: doubled at 8)."""


class AtrousPyramid(nn.Module):
    """ASPP, Fig. 5: five branches, concatenated and projected to D channels."""

    def __init__(
        self, in_channels: int, width: int, rates: Sequence[int], *, project_kernel: int
    ) -> None:
        super().__init__()
        self.branches = nn.ModuleList(
            [
                ConvNormAct(in_channels, width, 1),
                *(ConvNormAct(in_channels, width, 3, dilation=rate) for rate in rates),
                ImagePooling(in_channels, width),
            ]
        )
        self.project = ConvNormAct(len(self.branches) * width, width, project_kernel)

    def forward(self, x: Tensor) -> Tensor:
        """(B, C, h, w) -> (B, D, h, w)."""
        return self.project(torch.cat([branch(x) for branch in self.branches], dim=1))


class DeepLabV3Config(ModelConfig):
    """One row of VARIANTS; every key may be set in a recipe's [model].

    project_kernel 1 is torchvision's head: a 1x1 projection, then a 3x3 convolution; 3 is
    mmsegmentation's: one 3x3 convolution.
    """

    output_stride: Literal[8, 16] = 8
    channels: Annotated[int, Field(ge=1)] = 256
    project_kernel: Literal[1, 3] = 1


class DeepLabV3(SegmentationModel):
    """Normalised images (B, 3, H, W) -> logits (B, K, h, w) at the output stride, sizes rounded up.

    Runs natively at every size of at least 32x32; a shorter side is padded to 32.
    """

    align_corners = False
    size_divisor = 1
    minimum_size = 32

    def __init__(self, config: DeepLabV3Config, classes: int) -> None:
        super().__init__()
        width = config.channels
        self.classes, self.feature_channels = classes, width
        self.backbone = backbones.build(config.backbone, config.output_stride)
        self.aspp = AtrousPyramid(
            self.backbone.stage_channels[-1],
            width,
            RATES[config.output_stride],
            project_kernel=config.project_kernel,
        )
        self.drop = nn.Dropout(0.5)
        self.smooth = ConvNormAct(width, width, 3) if config.project_kernel == 1 else nn.Identity()
        self.classifier = nn.Conv2d(width, classes, kernel_size=1)

    def decode(self, pyramid: list[Tensor]) -> Decoded:
        """Return logits (B, K, h, w) and features (B, D, h, w) at the output stride."""
        features = self.smooth(self.drop(self.aspp(pyramid[-1])))  # (B, D, h, w)
        return Decoded(self.classifier(features), features)  # (B, K, h, w)

    def rename_official(self, state: Mapping[str, Tensor]) -> tuple[dict[str, Tensor], list[str]]:
        """Return (state under our key names, unused keys: torchvision's auxiliary head)."""
        renamed, unused, head_state = self.rename_backbone(state)
        auxiliary = [key for key in head_state if key.startswith("aux_classifier.")]
        renamed |= {
            rename_start(key, OFFICIAL_PARTS): value
            for key, value in head_state.items()
            if key not in auxiliary
        }
        return renamed, unused + auxiliary


_entry = partial(ModelEntry, DeepLabV3, paper="DeepLabV3, arXiv:1706.05587")
_lite = partial(
    ModelEntry, DeepLabV3, paper="DeepLabV3, arXiv:1706.05587, on EfficientNet-Lite (ours)"
)
VARIANTS = {
    "deeplabv3-r50": _entry(
        DeepLabV3Config(backbone="resnet-50"), params=39_638_355, macs=327_154_139_136
    ),
    "deeplabv3-r50-os16": _entry(
        DeepLabV3Config(backbone="resnet-50", output_stride=16),
        params=39_638_355,
        macs=96_806_633_472,
    ),
    "deeplabv3-r101": _entry(
        DeepLabV3Config(backbone="resnet-101"), params=58_630_483, macs=482_309_832_704
    ),
    "deeplabv3-r101-os16": _entry(
        DeepLabV3Config(backbone="resnet-101", output_stride=16),
        params=58_630_483,
        macs=135_595_556_864,
    ),
    "deeplabv3-r50-panoptic": _entry(
        DeepLabV3Config(backbone="resnet-50"),
        params=39_926_710,
        macs=330_372_218_880,
        panoptic=True,
    ),
    "deeplabv3-lite0": _lite(
        DeepLabV3Config(backbone="efficientnet-lite0", output_stride=16),
        params=6_260_499,
        macs=13_705_461_760,
    ),
}


OFFICIAL_PARTS = {
    "classifier.0.convs.": "aspp.branches.",
    "classifier.0.project.": "aspp.project.",
    "classifier.1.": "smooth.0.",
    "classifier.2.": "smooth.1.",
    "classifier.4.": "classifier.",
}
"""Start of torchvision's key -> start of ours."""
