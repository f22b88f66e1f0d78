"""FRM: a feature refinement module for light-weight segmentation (Wang et al., arXiv:2412.08670).

All four backbone stages are pooled to 1/32, concatenated (Eq. 1) and refined by one transformer
block whose attention is disentangled non-local (Eq. 2-3). A flow-aligned feature pyramid, SFNet's
(Li et al., ECCV 2020), brings the result back to 1/4. The authors published no code: what the paper
leaves open was decided by its printed numbers of parameters and operations.

Letters: B images, C_i channels of stage i, C = sum C_i, D decoder width, K classes.
"""

import math
from collections.abc import Sequence
from fractions import Fraction
from functools import partial
from typing import Annotated, Any, Literal

import torch
import torch.nn.functional as F
from pydantic import Field
from torch import Tensor, nn

from featherseg import backbones
from featherseg.core.errors import ConfigError
from featherseg.layers.align import AlignedPyramid
from featherseg.layers.attention import DisentangledNonLocal
from featherseg.layers.conv import ConvNormAct, DepthwiseSeparable, convolve, widen_input
from featherseg.layers.model import Decoded, ModelConfig, ModelEntry, SegmentationModel
from featherseg.layers.pooling import DeepAggregationPooling, PyramidPooling
from featherseg.layers.resize import resize


class ConvFeedForward(nn.Module):
    """Feed-forward network, Sec. 2.2: 1x1, depthwise 3x3, ReLU, 1x1.

    The text says that the first 1x1 expands; only a squeeze to 128 fits the printed counts.
    """

    def __init__(self, channels: int, *, hidden: int) -> None:
        super().__init__()
        self.squeeze = nn.Conv2d(channels, hidden, kernel_size=1)
        self.depthwise = nn.Conv2d(hidden, hidden, kernel_size=3, padding=1, groups=hidden)
        self.act = nn.ReLU()
        self.restore = nn.Conv2d(hidden, channels, kernel_size=1)

    def forward(self, x: Tensor) -> Tensor:  # (B, C, h, w)
        """(B, C, h, w) -> (B, C, h, w)."""
        return self.restore(self.act(convolve(self.depthwise, self.squeeze(x))))  # (B, C, h, w)


class FeatureRefinement(nn.Module):
    """Sec. 2.2, Fig. 2, after the concatenation: attention, feed-forward network, projection."""

    def __init__(
        self, attention: DisentangledNonLocal, feed_forward: ConvFeedForward, reduce: ConvNormAct
    ) -> None:
        super().__init__()
        self.attention, self.feed_forward, self.reduce = attention, feed_forward, reduce

    def forward(self, x: Tensor) -> Tensor:  # (B, C, H/32, W/32)
        """(B, C, H/32, W/32) -> (B, D, H/32, W/32)."""
        x = self.attention(x)  # Eq. 2-3, with DNL's own residual
        x = x + self.feed_forward(x)  # residual: assumed, as in every transformer block
        return self.reduce(x)  # (B, D, H/32, W/32)  "added after FFN for cutting the channels"


def gather(stages: Sequence[Tensor], strides: Sequence[int] = (4, 8, 16, 32)) -> Tensor:
    """Eq. 1: pool the stages to the size of the last one and concatenate them.

    stage i = 0..3: (B, C_i, H/strides[i], W/strides[i]) -> (B, C, h, w), the size of the last.
    """
    *fine, last = stages
    pooled = [
        _pool(stage, strides[-1] // stride) for stage, stride in zip(fine, strides, strict=False)
    ]
    return torch.cat([*pooled, last], dim=1)  # (B, C, h, w)


def _pool(stage: Tensor, k: int) -> Tensor:
    """Average over k x k cells; at the right and lower edge over the part inside the map."""
    # (B, C_i, ceil(h/k), ceil(w/k))
    return F.avg_pool2d(stage, k, ceil_mode=True, count_include_pad=False)


class FRMConfig(ModelConfig):
    """One row of VARIANTS; every key may be set in a recipe's [model].

    The defaults are those that give the paper's counts. stages and context are the paper's two
    contributions and its baselines (Table 2). decoder, backbone_scale and halved_from are ours, for
    lighter models. The last five are what the text leaves open, for `context = "frm"` only.
    """

    decoder_channels: Annotated[int, Field(ge=2)] = 128
    decoder: Literal["aligned", "light"] = "aligned"  # light: LightDecoder
    backbone_scale: Annotated[float, Field(ge=0.25, le=1)] = (
        1.0  # of the image's sides; below 1 DetailBranch sees all
    )
    halved_from: Literal[8, 16] | None = (
        None  # stages from this stride on see maps of half the size
    )
    stages: Literal["all", "last"] = "all"
    context: Literal["frm", "ppm", "dappm", "none"] = "frm"
    ffn_hidden: Annotated[int, Field(ge=1)] = 128
    kv_pool: Literal[1, 2] = 2  # 1: Eq. 2 to the letter
    gamma: bool = True  # off: Eq. 3 to the letter
    residual: bool = True  # around the attention; off: Eq. 2 to the letter
    scale: bool = False  # q k / sqrt(C / 4)


def build_context(config: FRMConfig, channels: int) -> nn.Module:
    """Build the context module of a row: (B, C, H/32, W/32) -> (B, D, H/32, W/32)."""
    out = config.decoder_channels
    if config.context == "ppm":
        return PyramidPooling(channels, out)
    if config.context == "dappm":
        return DeepAggregationPooling(channels, branch_channels=128, out_channels=out)
    if config.context == "none":
        return ConvNormAct(channels, out, 1)
    attention = DisentangledNonLocal(
        channels,
        key_channels=channels // 4,  # "reduced to C/4", Sec. 3.2
        kv_pool=config.kv_pool,
        gamma=config.gamma,
        residual=config.residual,
        scale=config.scale,
    )
    feed_forward = ConvFeedForward(channels, hidden=config.ffn_hidden)
    return FeatureRefinement(attention, feed_forward, reduce=ConvNormAct(channels, out, 1))


class LightDecoder(nn.Module):
    """Ours: the aligned pyramid without its finest, most expensive step, fused at 1/8.

    The stage at 1/4 adds its detail last. With `halved_from = 8` the fusion is at 1/16.
    """

    def __init__(self, stage_channels: Sequence[int], width: int) -> None:
        super().__init__()
        finest, *coarser = stage_channels
        self.pyramid = AlignedPyramid(coarser, width)
        self.fuse = ConvNormAct(len(coarser) * width, width, 1)
        self.lateral = ConvNormAct(finest, width, 1)
        self.refine = DepthwiseSeparable(width, width)

    def forward(self, stages: Sequence[Tensor], context: Tensor) -> Tensor:
        """stage i (B, C_i, H/2^(i+2), W/2^(i+2)), context (B, D, h, w) -> (B, D, H/4, W/4).

        Halved stages have half that size; the context has the size of the last stage.
        """
        finest, *coarser = stages
        fused = self.fuse(self.pyramid(coarser, context))  # (B, D, H/8, W/8)
        return _add_detail(self.lateral(finest), fused, self.refine)  # (B, D, H/4, W/4)


class DetailDecoder(nn.Module):
    """Ours: LightDecoder on a backbone that sees smaller images, then the full-size detail."""

    def __init__(self, pyramid_channels: Sequence[int], width: int) -> None:
        super().__init__()
        detail, *stage_channels = pyramid_channels
        self.light = LightDecoder(stage_channels, width)
        self.lateral = ConvNormAct(detail, width, 1)
        self.refine = DepthwiseSeparable(width, width)

    def forward(self, pyramid: Sequence[Tensor], context: Tensor) -> Tensor:
        """Detail (B, 32, H/4, W/4) and stages, context (B, D, h, w) -> (B, D, H/4, W/4).

        Stage i is (B, C_i, s H/2^(i+2), s W/2^(i+2)) with s = backbone_scale; the context has the
        size of the last stage.
        """
        detail, *stages = pyramid
        coarse = self.light(stages, context)  # (B, D, s H/4, s W/4)
        return _add_detail(self.lateral(detail), coarse, self.refine)  # (B, D, H/4, W/4)


def _add_detail(fine: Tensor, coarse: Tensor, refine: DepthwiseSeparable) -> Tensor:
    """Refine the sum: fine (B, D, h, w), coarse (B, D, h', w') -> (B, D, h, w)."""
    return refine(fine + resize(coarse, (fine.shape[2], fine.shape[3]), align_corners=False))


class DetailBranch(nn.Sequential):
    """Ours: two strided 3x3 convolutions on the full-size image.

    ICNet's first branch has three (Zhao et al., ECCV 2018, arXiv:1704.08545). (B, 3, H, W) -> (B,
    32, H/4, W/4), sizes rounded up.
    """

    channels = 32

    def __init__(self) -> None:
        narrow = self.channels // 2
        super().__init__(
            ConvNormAct(3, narrow, 3, stride=2), ConvNormAct(narrow, self.channels, 3, stride=2)
        )

    def widen(self, channels: int) -> None:
        """Accept images with another number of channels than three."""
        if channels != 3:
            first: Any = self[0]
            widen_input(first[0], channels)


class FRM(SegmentationModel):
    """Fig. 1: normalised images (B, 3, H, W) -> logits (B, K, H/4, W/4), sizes rounded up.

    Runs natively at every size at which its backbone sees at least 64x64, or 128x128 if its stages
    are halved; a shorter side is padded.
    """

    align_corners = False
    size_divisor = 1
    minimum_size = 64

    def __init__(self, config: FRMConfig, classes: int) -> None:
        super().__init__()
        width = config.decoder_channels
        self.classes, self.feature_channels = classes, width
        self.backbone = backbones.build(config.backbone)
        channels = self.backbone.stage_channels
        self.strides = [4, 8, 16, 32]
        if config.halved_from is not None:
            self.backbone.halve_from(config.halved_from)
            self.strides = [
                2 * stride if stride >= config.halved_from else stride for stride in self.strides
            ]
            self.minimum_size *= 2
        self.scale = Fraction(config.backbone_scale).limit_denominator(64)
        self.detail = DetailBranch() if self.scale < 1 else None
        if self.detail is not None:
            if config.decoder != "light":
                raise ConfigError(
                    f"backbone_scale = {config.backbone_scale:g} with decoder = "
                    f"{config.decoder!r}: expected 'light'."
                )
            self.minimum_size = math.ceil(self.minimum_size / self.scale)
        self.all_stages = config.stages == "all"
        self.context = build_context(config, sum(channels) if self.all_stages else channels[-1])
        light = config.decoder == "light"
        decoder = (
            AlignedPyramid
            if not light
            else DetailDecoder
            if self.detail is not None
            else LightDecoder
        )
        self.decoder = decoder(self.pyramid_channels, width)
        self.fuse = nn.Identity() if light else ConvNormAct(len(channels) * width, width, 3)
        self.classifier = nn.Conv2d(width, classes, kernel_size=1)

    @property
    def pyramid_channels(self) -> Sequence[int]:
        """Channels of the maps from `encode`, fine to coarse."""
        stages = self.backbone.stage_channels
        return stages if self.detail is None else (self.detail.channels, *stages)

    def widen(self, channels: int) -> None:
        """Accept another number of channels; call after loading three-channel weights."""
        super().widen(channels)
        if self.detail is not None:
            self.detail.widen(channels)

    def encode(self, images: Tensor) -> list[Tensor]:
        """Return the backbone's stages; with backbone_scale < 1, the detail at 1/4 before them."""
        if self.detail is None:
            return self.backbone(images)
        n, d = self.scale.numerator, self.scale.denominator
        height, width = ((side * n + d - 1) // d for side in images.shape[2:])  # rounded up
        small = resize(images, (height, width), align_corners=False)
        return [self.detail(images), *self.backbone(small)]

    def decode(self, pyramid: list[Tensor]) -> Decoded:  # 4 or 5 x (B, C_i, H/2^(i+2), W/2^(i+2))
        """Return logits (B, K, H/4, W/4) and features (B, D, H/4, W/4)."""
        stages = pyramid if self.detail is None else pyramid[1:]
        x = gather(stages, self.strides) if self.all_stages else stages[-1]
        context = self.context(x)  # (B, D, h, w), the size of the last stage
        features = self.fuse(self.decoder(pyramid, context))  # (B, D, H/4, W/4)
        return Decoded(self.classifier(features), features)  # (B, K, H/4, W/4)


_entry = partial(ModelEntry, FRM, paper="FRM, arXiv:2412.08670")
_lite = partial(ModelEntry, FRM, paper="FRM, arXiv:2412.08670, on EfficientNet-Lite (ours)")
_other_van = partial(ModelEntry, FRM, paper="FRM, arXiv:2412.08670, on another VAN (ours)")


def _light(
    backbone: str,
    params: int,
    macs: int,
    width: int = 64,
    scale: float = 1.0,
    halved: Literal[8, 16] | None = None,
) -> ModelEntry:
    """Return a row for models of a few milliseconds.

    half: the backbone sees images of half the height and width. half16: its stages from 1/16 on do.
    w32: the decoder has 32 channels.
    """
    config = FRMConfig(
        backbone=backbone,
        decoder_channels=width,
        decoder="light",
        backbone_scale=scale,
        halved_from=halved,
    )
    family = "MobileNetV2" if backbone == "mobilenet-v2" else "EfficientNet-Lite"
    paper = f"FRM, arXiv:2412.08670, on {family} with a lighter decoder (ours)"
    return ModelEntry(FRM, config, paper, params, macs)


VARIANTS = {
    "frm-van-t": _other_van(FRMConfig(backbone="van-b0"), params=5_567_221, macs=35_778_002_944),
    "frm-van-s": _entry(
        FRMConfig(backbone="van-b1"), params=16_477_525, macs=53_430_517_760
    ),  # the paper's
    "frm-van-s-ppm": _entry(
        FRMConfig(backbone="van-b1", context="ppm"), params=15_229_395, macs=52_949_680_128
    ),  # Table 2
    "frm-van-s-dappm": _entry(
        FRMConfig(backbone="van-b1", context="dappm"), params=15_979_987, macs=53_342_765_056
    ),  # Table 2
    "frm-van-b": _other_van(FRMConfig(backbone="van-b2"), params=29_194_197, macs=79_526_952_960),
    "frm-lite0": _lite(
        FRMConfig(backbone="efficientnet-lite0", decoder_channels=64),
        params=3_776_749,
        macs=10_697_953_280,
    ),
    "frm-lite0-half-light-w32": _light(
        "efficientnet-lite0", scale=0.5, width=32, params=3_513_821, macs=1_347_728_384
    ),
    "frm-lite0-half-light": _light(
        "efficientnet-lite0", scale=0.5, params=3_616_189, macs=1_647_653_888
    ),
    "frm-lite2-half-light": _light(
        "efficientnet-lite2", scale=0.5, params=5_106_677, macs=2_149_310_464
    ),
    "frm-lite0-half16-light": _light(
        "efficientnet-lite0", halved=16, params=3_604_077, macs=2_601_202_688
    ),
    "frm-mobilenet-v2-light": _light("mobilenet-v2", params=2_412_817, macs=3_889_356_800),
    "frm-lite0-light": _light("efficientnet-lite0", params=3_604_077, macs=4_790_276_096),
    "frm-lite2-light": _light("efficientnet-lite2", params=5_094_565, macs=6_799_851_520),
    "frm-lite0-panoptic": _lite(
        FRMConfig(backbone="efficientnet-lite0", decoder_channels=64),
        params=3_851_088,
        macs=11_526_590_464,
        panoptic=True,
    ),
}
