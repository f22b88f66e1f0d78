"""CGRSeg: context-guided spatial feature reconstruction (Ni et al., ECCV 2024, arXiv:2405.06228).

The three coarse stages of the backbone are pooled to 1/64 and refined together (pyramid context). A
top-down path reconstructs each stage and gates it by its context. The pixels are classified once,
and the class embeddings from that weight the channels before the second classification. Context and
path consist of rectangular self-calibration modules. Written from the authors' code, to which the
published counts belong.

Letters: B images, C channels, H x W the image, h x w a map, D decoder width, K classes, P =
ceil(H/64) x ceil(W/64).
"""

from collections.abc import Callable, Mapping, Sequence
from functools import partial
from typing import Annotated, Literal

import torch
import torch.nn.functional as F
from pydantic import Field
from torch import Tensor, nn

from featherseg import backbones
from featherseg.backbones.efficientformer_v2 import set_position_resize
from featherseg.core.errors import WeightsError
from featherseg.layers.conv import convolve, normalise_act
from featherseg.layers.model import Decoded, ModelConfig, ModelEntry, SegmentationModel
from featherseg.layers.pooling import StridedRegionMean
from featherseg.layers.position_bias import PositionResize
from featherseg.layers.precision import at_least_fp32, autocast_off
from featherseg.layers.resize import resize
from featherseg.layers.scale import LayerScale

Axial = Literal["add", "mul", "none"]
STRIDES = (8, 4, 2)
"""Strides from stages 2, 3 and 4, at 1/8, 1/16 and 1/32, to the context's 1/64."""


class RectangularAttention(nn.Module):
    """Rectangular self-calibration attention: rows and columns mark areas, two bands shape them.

    g = mean over each row + mean over each column; gate = sigmoid(band x 1(ReLU(BN(1 x band(g)))));
    the output is gate * local(x). All convolutions are depthwise. `axial` = "mul" multiplies the
    means, "none" uses x as g; band 0 has no convolutions (gate = sigmoid(g)), local_kernel 0 uses x
    as local(x).
    """

    def __init__(
        self, channels: int, *, axial: Axial = "add", band: int = 11, local_kernel: int = 3
    ) -> None:
        super().__init__()
        self.axial, self.band = axial, band
        self.local: nn.Module = nn.Identity()
        if local_kernel:
            self.local = nn.Conv2d(
                channels, channels, local_kernel, padding=local_kernel // 2, groups=channels
            )
        if band:
            along, across = (1, band), (band, 1)
            self.along_row = nn.Conv2d(
                channels, channels, along, padding=(0, band // 2), groups=channels
            )
            self.norm, self.act = nn.BatchNorm2d(channels), nn.ReLU()
            self.along_column = nn.Conv2d(
                channels, channels, across, padding=(band // 2, 0), groups=channels
            )

    def forward(self, x: Tensor) -> Tensor:
        """(B, C, h, w) -> (B, C, h, w)."""
        gate = self.key_areas(x)
        if self.band:
            gate = normalise_act(self.norm, self.act, convolve(self.along_row, gate))
            gate = convolve(self.along_column, gate)
        local = convolve(self.local, x) if isinstance(self.local, nn.Conv2d) else x
        return gate.sigmoid() * local

    def key_areas(self, x: Tensor) -> Tensor:
        """Return g: (B, C, h, w) -> (B, C, h, w)."""
        if self.axial == "none":
            return x
        # (B, C, h, 1), (B, C, 1, w)
        rows, columns = x.mean(3, keepdim=True), x.mean(2, keepdim=True)
        return rows + columns if self.axial == "add" else rows * columns


class RectangularModule(nn.Module):
    """Rectangular self-calibration module: x + scale * MLP(BN(attention(x))).

    The two layers of the MLP are 1x1 convolutions with twice the channels and GELU between.
    """

    def __init__(self, attention: RectangularAttention, channels: int) -> None:
        super().__init__()
        self.attention = attention
        self.norm = nn.BatchNorm2d(channels)
        self.expand = nn.Conv2d(channels, 2 * channels, kernel_size=1)
        self.act = nn.GELU()
        self.project = nn.Conv2d(2 * channels, channels, kernel_size=1)
        self.scale = LayerScale(channels, 1e-6)

    def forward(self, x: Tensor) -> Tensor:
        """(B, C, h, w) -> (B, C, h, w)."""
        y = normalise_act(self.norm, None, self.attention(x))
        return x + self.scale(self.project(self.act(self.expand(y))))


def rectangular_module(
    channels: int, *, axial: Axial = "add", band: int = 11, local_kernel: int = 3
) -> nn.Module:
    """Return a RectangularModule with its attention: (B, C, h, w) -> (B, C, h, w)."""
    attention = RectangularAttention(channels, axial=axial, band=band, local_kernel=local_kernel)
    return RectangularModule(attention, channels)


MakeModule = Callable[[int], nn.Module]
"""Channels -> a rectangular module, or what replaces it in an ablation."""


class PyramidContext(nn.Module):
    """Pyramid context extraction: pool the stages to P regions, concatenate, refine and split."""

    def __init__(
        self, stage_channels: Sequence[int], repeats: int, make_module: MakeModule
    ) -> None:
        super().__init__()
        self.stage_channels = list(stage_channels)
        self.pools = nn.ModuleList(StridedRegionMean(stride) for stride in STRIDES)
        self.refine = nn.Sequential(*(make_module(sum(stage_channels)) for _ in range(repeats)))

    def forward(self, stages: Sequence[Tensor]) -> Sequence[Tensor]:
        """stage i = 0..2: (B, C_i, H/2^(i+3), W/2^(i+3)) -> context i: (B, C_i, P)."""
        pooled = torch.cat(
            [pool(stage) for pool, stage in zip(self.pools, stages, strict=True)], dim=1
        )
        return self.refine(pooled).split(self.stage_channels, dim=1)


class ContextFusion(nn.Module):
    """Gate a stage by its context: BN(1x1(x)) * up(hardsigmoid(BN(1x1(context)))).

    Without context the first factor alone.
    """

    def __init__(self, channels: int, width: int, *, gated: bool) -> None:
        super().__init__()
        self.project = _project(channels, width)
        self.gate = _project(channels, width) if gated else None

    def forward(self, x: Tensor, context: Tensor | None) -> Tensor:
        """x (B, C, h, w), context (B, C, P) -> (B, D, h, w)."""
        y = self.project(x)
        if self.gate is None or context is None:
            return y
        gate = F.hardsigmoid(self.gate(context))  # (B, D, P)
        return y * resize(gate, (x.shape[2], x.shape[3]), align_corners=False)  # (B, D, h, w)


def _project(in_channels: int, out_channels: int, *, groups: int = 1) -> nn.Sequential:
    """Return a 1x1 convolution and batch norm, initialised like mmcv's ConvModule.

    (B, C_in, h, w) -> (B, C_out, h, w).
    """
    conv = nn.Conv2d(in_channels, out_channels, kernel_size=1, groups=groups, bias=False)
    nn.init.kaiming_normal_(conv.weight, mode="fan_out", nonlinearity="relu")
    return nn.Sequential(conv, nn.BatchNorm2d(out_channels))


class SpatialReconstruction(nn.Module):
    """The top-down path: add the fused coarser stage, reconstruct, fuse with the context."""

    def __init__(
        self, stage_channels: Sequence[int], width: int, make_module: MakeModule, *, gated: bool
    ) -> None:
        super().__init__()
        self.reconstruct = nn.ModuleList(make_module(c) for c in stage_channels)
        self.fuse = nn.ModuleList(ContextFusion(c, width, gated=gated) for c in stage_channels)
        self.lateral = nn.ModuleList(
            nn.Conv2d(width, c, kernel_size=1) for c in stage_channels[:-1]
        )

    def forward(self, stages: Sequence[Tensor], contexts: Sequence[Tensor | None]) -> Tensor:
        """3 x (B, C_i, H/2^(i+3), W/2^(i+3)), contexts 3 x (B, C_i, P) -> (B, D, H/8, W/8)."""
        fused = self.fuse[2](self.reconstruct[2](stages[2]), contexts[2])  # (B, D, H/32, W/32)
        for i in (1, 0):
            size = (stages[i].shape[2], stages[i].shape[3])
            # (B, C_i, H/2^(i+3), W/2^(i+3))
            x = stages[i] + self.lateral[i](resize(fused, size, align_corners=False))
            # (B, D, H/2^(i+3), W/2^(i+3))
            fused = self.fuse[i](self.reconstruct[i](x), contexts[i])
        return fused


class ClassEmbedding(nn.Module):
    """The features of each class: the mean over positions, weighted by its coarse logits.

    The weights are a softmax of the logits over positions, always in fp32.
    """

    def forward(self, x: Tensor, coarse: Tensor) -> Tensor:
        """x (B, D, h, w), coarse (B, K, h, w) -> (B, D, K, 1)."""
        with autocast_off(x.device):
            share = at_least_fp32(coarse).flatten(2).softmax(-1)  # (B, K, h * w)
            embedding = at_least_fp32(x).flatten(2) @ share.mT  # (B, D, K)
        return embedding[..., None].to(x.dtype)

    def macs(self, x: Tensor, y: Tensor) -> int:
        """Count the product of class shares and features."""
        return y.numel() * x.shape[2] * x.shape[3]


class ClassPooling(nn.Module):
    """One embedding from those of all classes: their mean, weighted by a softmax of scores."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.weigh = nn.Conv2d(width, 1, kernel_size=1)
        nn.init.kaiming_normal_(self.weigh.weight)
        assert self.weigh.bias is not None
        nn.init.zeros_(self.weigh.bias)

    def forward(self, embedding: Tensor) -> Tensor:
        """(B, D, K, 1) -> (B, D, 1, 1)."""
        weight = self.weigh(embedding).softmax(2)  # (B, 1, K, 1)
        return (embedding.squeeze(3) @ weight.squeeze(3).mT)[..., None].to(embedding.dtype)

    def macs(self, x: Tensor, y: Tensor) -> int:
        """Count the product of embeddings and weights."""
        return x.numel()


class PrototypeGate(nn.Module):
    """Dynamic prototype guided head: pooled class embeddings weight the channels."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.embed = ClassEmbedding()
        self.pool = ClassPooling(width)
        self.hidden = nn.Conv2d(width, width, kernel_size=1)
        self.norm = nn.LayerNorm(width)
        self.act = nn.ReLU()
        self.out = nn.Conv2d(width, width, kernel_size=1)
        for zero in (self.out.weight, self.out.bias):
            assert zero is not None
            nn.init.zeros_(zero)

    def forward(self, x: Tensor, coarse: Tensor) -> Tensor:
        """x (B, D, h, w), coarse (B, K, h, w) -> gate (B, D, 1, 1), 0.5 everywhere at first."""
        prototype = self.pool(self.embed(x, coarse))  # (B, D, 1, 1)
        hidden = self.norm(self.hidden(prototype).flatten(1))[..., None, None]  # (B, D, 1, 1)
        return self.out(self.act(hidden)).sigmoid()


class CGRSegConfig(ModelConfig):
    """One row of VARIANTS; every key may be set in a recipe's [model].

    repeats is the number of modules that refine the pyramid context; band is the paper's k. context
    = false removes the pyramid and its gates, reconstruction = false the three modules of the
    top-down path, prototype_head = false the second classification. position_resize concerns
    EfficientFormerV2 only: see layers/position_bias.py.
    """

    channels: Annotated[int, Field(ge=1)] = 128
    repeats: Annotated[int, Field(ge=1, le=64)] = 5
    axial: Axial = "add"
    band: Literal[0, 5, 7, 9, 11] = 11
    local_kernel: Literal[0, 1, 3, 5] = 3
    context: bool = True
    reconstruction: bool = True
    prototype_head: bool = True
    position_resize: PositionResize = "flattened"


class CGRSeg(SegmentationModel):
    """Normalised images (B, 3, H, W) -> logits (B, K, H'/8, W'/8), padded to multiples of 32."""

    align_corners = False
    size_divisor = 32
    minimum_size = 1
    lone_side = 64
    # plain in the authors' code; those of backbone, fusions and `smooth` are synchronised
    local_norms = (RectangularAttention, RectangularModule)

    def __init__(self, config: CGRSegConfig, classes: int) -> None:
        super().__init__()
        width = config.channels
        self.classes, self.feature_channels = classes, width
        self.backbone = backbones.build(config.backbone)
        if config.position_resize != "flattened":
            set_position_resize(self.backbone, config.position_resize)
        channels = self.backbone.stage_channels[1:]
        make_module = partial(
            rectangular_module,
            axial=config.axial,
            band=config.band,
            local_kernel=config.local_kernel,
        )
        self.context = (
            PyramidContext(channels, config.repeats, make_module) if config.context else None
        )
        self.decoder = SpatialReconstruction(
            channels,
            width,
            make_module if config.reconstruction else nn.Identity,
            gated=config.context,
        )
        self.smooth = nn.Sequential(*_project(width, width, groups=width), nn.ReLU())
        self.prototype = PrototypeGate(width) if config.prototype_head else None
        self.drop = nn.Dropout2d(0.1)
        self.classifier = nn.Conv2d(width, classes, kernel_size=1)
        assert self.classifier.bias is not None
        nn.init.normal_(self.classifier.weight, std=0.01)
        nn.init.zeros_(self.classifier.bias)

    def decode(self, pyramid: list[Tensor]) -> Decoded:
        """Return logits (B, K, H'/8, W'/8) and features (B, D, H'/8, W'/8)."""
        stages = pyramid[1:]  # 3 x (B, C_i, H'/2^(i+3), W'/2^(i+3))
        contexts = [None] * len(stages) if self.context is None else self.context(stages)
        features = self.decoder(stages, contexts)  # (B, D, H'/8, W'/8)
        logits = self.classifier(self.drop(self.smooth(features)))  # (B, K, H'/8, W'/8)
        if self.prototype is not None:
            features = features * self.prototype(features, logits) + features
            logits = self.classifier(self.drop(features))  # by the same classifier
        return Decoded(logits, features)

    def rename_official(self, state: Mapping[str, Tensor]) -> tuple[dict[str, Tensor], list[str]]:
        """Return (state under our key names, keys of the backbone that are not used).

        Raises WeightsError if the context in the file has another number of modules.
        """
        self._refuse_other_repeats(state)
        renamed, unused, decoder_state = self.rename_backbone(state)
        for key, value in decoder_state.items():
            renamed[_rename(key)] = value.flatten() if key.startswith(OFFICIAL_GATE_NORM) else value
        return renamed, unused

    def _refuse_other_repeats(self, state: Mapping[str, Tensor]) -> None:
        theirs = len({key.split(".")[3] for key in state if key.startswith(OFFICIAL_CONTEXT)})
        ours = 0 if self.context is None else len(self.context.refine)
        if theirs and ours and theirs != ours:
            raise WeightsError(
                f"the pyramid context of these weights has {theirs} modules, that of this model "
                f"{ours}: the paper's CGRSeg-B has 5 (cgrseg-b), the authors' configuration 6 "
                "(cgrseg-b6). Choose the model that matches, or build this one with "
                f"model.repeats = {theirs}."
            )


_entry = partial(ModelEntry, CGRSeg, paper="CGRSeg, arXiv:2405.06228")
_lite = partial(ModelEntry, CGRSeg, paper="CGRSeg, arXiv:2405.06228, on EfficientNet-Lite (ours)")
VARIANTS = {
    "cgrseg-t": _entry(
        CGRSegConfig(backbone="efficientformerv2-s1"), params=9_347_748, macs=9_715_977_984
    ),
    "cgrseg-b": _entry(
        CGRSegConfig(backbone="efficientformerv2-s2", channels=256),
        params=18_076_308,
        macs=18_038_271_488,
    ),  # the paper's 18.1 M
    "cgrseg-b6": _entry(
        CGRSegConfig(backbone="efficientformerv2-s2", channels=256, repeats=6),
        params=19_081_204,
        macs=18_166_199_808,
    ),  # the authors' config, 19.1 M
    "cgrseg-l": _entry(
        CGRSegConfig(backbone="efficientformerv2-l", channels=256, band=9),
        params=35_644_036,
        macs=33_966_431_744,
    ),
    "cgrseg-lite0": _lite(
        CGRSegConfig(backbone="efficientnet-lite0"), params=8_177_868, macs=5_000_836_864
    ),
}


OFFICIAL_CONTEXT = "decode_head.trans.transformer_blocks."
OFFICIAL_GATE_NORM = "decode_head.lgc.channel_mul_conv.1."
"""Start of the keys of a norm whose tensors are (D, 1, 1); ours are (D,)."""

OFFICIAL_PARTS = {
    "decode_head.conv_seg.": "classifier.",
    "decode_head.linear_fuse.conv.": "smooth.0.",
    "decode_head.linear_fuse.bn.": "smooth.1.",
    OFFICIAL_CONTEXT: "context.refine.",
    "decode_head.meta.": "decoder.reconstruct.",
    "decode_head.SIM.": "decoder.fuse.",
    "decode_head.conv.": "decoder.lateral.",
    "decode_head.lgc.conv_mask.": "prototype.pool.weigh.",
    "decode_head.lgc.channel_mul_conv.0.": "prototype.hidden.",
    OFFICIAL_GATE_NORM: "prototype.norm.",
    "decode_head.lgc.channel_mul_conv.3.": "prototype.out.",
}
"""Start of the authors' key -> start of ours."""

OFFICIAL_INNER = {
    ".token_mixer.dwconv_hw.": ".attention.local.",
    ".token_mixer.excite.0.": ".attention.along_row.",
    ".token_mixer.excite.1.": ".attention.norm.",
    ".token_mixer.excite.3.": ".attention.along_column.",
    ".mlp.fc1.": ".expand.",
    ".mlp.fc2.": ".project.",
    ".gamma": ".scale.weight",
    ".fuse1.conv.": ".project.0.",
    ".fuse1.bn.": ".project.1.",
    ".fuse2.conv.": ".gate.0.",
    ".fuse2.bn.": ".gate.1.",
}
"""Names inside a rectangular module and a fusion: the authors' -> ours."""


def _rename(key: str) -> str:
    """Rename `decode_head.meta.0.mlp.fc1.` to `decoder.reconstruct.0.expand.`, and so on."""
    for theirs, ours in OFFICIAL_PARTS.items():
        if key.startswith(theirs):
            key = ours + key.removeprefix(theirs)
            for part, name in OFFICIAL_INNER.items():
                key = key.replace(part, name)
            return key
    return key
