"""The catalogue of networks. To add one: its file, its row in MODELS, a test, a recipe (docs/architecture.md)."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import torch

from featherseg.core.config import parse
from featherseg.core.errors import ConfigError, did_you_mean, unknown
from featherseg.layers.instance_branch import InstanceBranch
from featherseg.layers.model import ModelConfig, SegmentationModel
from featherseg.models import (
    cgrseg,
    ddrnet,
    deeplabv3,
    efficientvit,
    frm,
    pidnet,
    rsp,
    rtformer,
    sctnet,
    seaformer,
    segformer,
    segnext,
    sfnet,
)


@dataclass(frozen=True)
class ModelEntry:
    """One row of the catalogue: the network's class, its settings, after which paper; panoptic: with instances."""

    network: Callable[[Any, int], SegmentationModel]
    config: ModelConfig
    paper: str
    panoptic: bool = False

    @property
    def backbone(self) -> str:
        """The name of its backbone."""
        return self.config.backbone


_CGRSEG = "CGRSeg, arXiv:2405.06228"
_CGRSEG_LITE = "CGRSeg, arXiv:2405.06228, on EfficientNet-Lite (ours)"
_DDRNET = "DDRNet, arXiv:2101.06085"
_DEEPLABV3 = "DeepLabV3, arXiv:1706.05587"
_DEEPLABV3_LITE = "DeepLabV3, arXiv:1706.05587, on EfficientNet-Lite (ours)"
_EFFICIENTVIT = "EfficientViT, arXiv:2205.14756"
_FRM = "FRM, arXiv:2412.08670"
_FRM_LITE = "FRM, arXiv:2412.08670, on EfficientNet-Lite (ours)"
_PIDNET = "PIDNet, arXiv:2206.02066"
_RSP = "RSP, arXiv:2106.01744 (reconstruction)"
_RTFORMER = "RTFormer, arXiv:2210.07124"
_SCTNET = "SCTNet, arXiv:2312.17071"
_SEAFORMER = "SeaFormer, arXiv:2301.13156"
_SEGFORMER = "SegFormer, arXiv:2105.15203"
_SEGNEXT = "SegNeXt, arXiv:2209.08575"
_SFNET = "SFNet, arXiv:2002.10120"

MOST_CHANNELS = 512
"""Of an image: as many as a TIFF may have pages."""

MOST_PARAMETERS = 2**28
"""Of a network: 1 GiB of weights; the largest of the catalogue has 59 million."""

MOST_OPTION = 4096
"""No number among a network's settings is larger."""

MODELS = {
    "cgrseg-t": ModelEntry(cgrseg.CGRSeg, cgrseg.VARIANTS["cgrseg-t"], _CGRSEG),
    "cgrseg-b": ModelEntry(cgrseg.CGRSeg, cgrseg.VARIANTS["cgrseg-b"], _CGRSEG),
    "cgrseg-b6": ModelEntry(cgrseg.CGRSeg, cgrseg.VARIANTS["cgrseg-b6"], _CGRSEG),
    "cgrseg-l": ModelEntry(cgrseg.CGRSeg, cgrseg.VARIANTS["cgrseg-l"], _CGRSEG),
    "cgrseg-lite0": ModelEntry(cgrseg.CGRSeg, cgrseg.VARIANTS["cgrseg-lite0"], _CGRSEG_LITE),
    "ddrnet-23-slim": ModelEntry(ddrnet.DDRNet, ddrnet.VARIANTS["ddrnet-23-slim"], _DDRNET),
    "ddrnet-23": ModelEntry(ddrnet.DDRNet, ddrnet.VARIANTS["ddrnet-23"], _DDRNET),
    "ddrnet-39": ModelEntry(ddrnet.DDRNet, ddrnet.VARIANTS["ddrnet-39"], _DDRNET),
    "deeplabv3-r50": ModelEntry(deeplabv3.DeepLabV3, deeplabv3.VARIANTS["deeplabv3-r50"], _DEEPLABV3),
    "deeplabv3-r50-os16": ModelEntry(deeplabv3.DeepLabV3, deeplabv3.VARIANTS["deeplabv3-r50-os16"], _DEEPLABV3),
    "deeplabv3-r101": ModelEntry(deeplabv3.DeepLabV3, deeplabv3.VARIANTS["deeplabv3-r101"], _DEEPLABV3),
    "deeplabv3-r101-os16": ModelEntry(deeplabv3.DeepLabV3, deeplabv3.VARIANTS["deeplabv3-r101-os16"], _DEEPLABV3),
    "deeplabv3-lite0": ModelEntry(deeplabv3.DeepLabV3, deeplabv3.VARIANTS["deeplabv3-lite0"], _DEEPLABV3_LITE),
    "efficientvit-seg-b0": ModelEntry(
        efficientvit.EfficientViT, efficientvit.VARIANTS["efficientvit-seg-b0"], _EFFICIENTVIT
    ),
    "efficientvit-seg-b1": ModelEntry(
        efficientvit.EfficientViT, efficientvit.VARIANTS["efficientvit-seg-b1"], _EFFICIENTVIT
    ),
    "efficientvit-seg-b2": ModelEntry(
        efficientvit.EfficientViT, efficientvit.VARIANTS["efficientvit-seg-b2"], _EFFICIENTVIT
    ),
    "efficientvit-seg-b3": ModelEntry(
        efficientvit.EfficientViT, efficientvit.VARIANTS["efficientvit-seg-b3"], _EFFICIENTVIT
    ),
    "frm-van-t": ModelEntry(frm.FRM, frm.VARIANTS["frm-van-t"], _FRM),
    "frm-van-s": ModelEntry(frm.FRM, frm.VARIANTS["frm-van-s"], _FRM),
    "frm-van-s-ppm": ModelEntry(frm.FRM, frm.VARIANTS["frm-van-s-ppm"], _FRM),
    "frm-van-s-dappm": ModelEntry(frm.FRM, frm.VARIANTS["frm-van-s-dappm"], _FRM),
    "frm-van-b": ModelEntry(frm.FRM, frm.VARIANTS["frm-van-b"], _FRM),
    "frm-lite0": ModelEntry(frm.FRM, frm.VARIANTS["frm-lite0"], _FRM_LITE),
    "frm-lite0-panoptic": ModelEntry(frm.FRM, frm.VARIANTS["frm-lite0"], _FRM_LITE, panoptic=True),
    "pidnet-s": ModelEntry(pidnet.PIDNet, pidnet.VARIANTS["pidnet-s"], _PIDNET),
    "pidnet-m": ModelEntry(pidnet.PIDNet, pidnet.VARIANTS["pidnet-m"], _PIDNET),
    "pidnet-l": ModelEntry(pidnet.PIDNet, pidnet.VARIANTS["pidnet-l"], _PIDNET),
    "rsp-lite0": ModelEntry(rsp.RSP, rsp.VARIANTS["rsp-lite0"], _RSP),
    "rsp-lite0-w128": ModelEntry(rsp.RSP, rsp.VARIANTS["rsp-lite0-w128"], _RSP),
    "rsp-lite2": ModelEntry(rsp.RSP, rsp.VARIANTS["rsp-lite2"], _RSP),
    "rsp-b3": ModelEntry(rsp.RSP, rsp.VARIANTS["rsp-b3"], _RSP),
    "rsp-b5": ModelEntry(rsp.RSP, rsp.VARIANTS["rsp-b5"], _RSP),
    "rsp-lite0-panoptic": ModelEntry(rsp.RSP, rsp.VARIANTS["rsp-lite0"], _RSP, panoptic=True),
    "rtformer-slim": ModelEntry(rtformer.RTFormer, rtformer.VARIANTS["rtformer-slim"], _RTFORMER),
    "rtformer-base": ModelEntry(rtformer.RTFormer, rtformer.VARIANTS["rtformer-base"], _RTFORMER),
    "sctnet-s": ModelEntry(sctnet.SCTNet, sctnet.VARIANTS["sctnet-s"], _SCTNET),
    "sctnet-b": ModelEntry(sctnet.SCTNet, sctnet.VARIANTS["sctnet-b"], _SCTNET),
    "seaformer-tiny": ModelEntry(seaformer.SeaFormer, seaformer.VARIANTS["seaformer-tiny"], _SEAFORMER),
    "seaformer-small": ModelEntry(seaformer.SeaFormer, seaformer.VARIANTS["seaformer-small"], _SEAFORMER),
    "seaformer-base": ModelEntry(seaformer.SeaFormer, seaformer.VARIANTS["seaformer-base"], _SEAFORMER),
    "seaformer-large": ModelEntry(seaformer.SeaFormer, seaformer.VARIANTS["seaformer-large"], _SEAFORMER),
    "segformer-b0": ModelEntry(segformer.SegFormer, segformer.VARIANTS["segformer-b0"], _SEGFORMER),
    "segformer-b1": ModelEntry(segformer.SegFormer, segformer.VARIANTS["segformer-b1"], _SEGFORMER),
    "segnext-t": ModelEntry(segnext.SegNeXt, segnext.VARIANTS["segnext-t"], _SEGNEXT),
    "segnext-s": ModelEntry(segnext.SegNeXt, segnext.VARIANTS["segnext-s"], _SEGNEXT),
    "sfnet-r18": ModelEntry(sfnet.SFNet, sfnet.VARIANTS["sfnet-r18"], _SFNET),
}


def entry(name: str) -> ModelEntry:
    """The row of a network. Raises UnknownName ("did you mean")."""
    if name not in MODELS:
        raise unknown("model", name, MODELS)
    return MODELS[name]


def configure(name: str, options: Mapping[str, Any] | None = None) -> ModelConfig:
    """The settings of a network: its row of the catalogue, with `options` in place of some keys.

    Raises UnknownName, and ConfigError for a key it does not have or a value it cannot take.
    """
    config = entry(name).config
    known = list(type(config).model_fields)
    options = options or {}
    for key in options:
        if key not in known:
            raise ConfigError(f"unknown key 'model.{key}' for {name}.{did_you_mean(key, [*known, 'pretrained'])}")
        if not _is_bounded(options[key]):
            raise ConfigError(
                f"model.{key} = {str(options[key])[:40]} is too large: expected a number up to {MOST_OPTION}, or at "
                f"most 16 of them."
            )
    return parse(type(config), {**config.model_dump(), **options}, f"model {name}")


def _is_bounded(value: Any) -> bool:
    ones = value if isinstance(value, (list, tuple)) else [value]
    return len(ones) <= 16 and all(
        not isinstance(one, (list, tuple, dict)) and (not isinstance(one, (int, float)) or abs(one) <= MOST_OPTION)
        for one in ones
    )


def build(
    name: str,
    classes: int,
    channels: int = 3,
    options: Mapping[str, Any] | None = None,
    most_parameters: int = MOST_PARAMETERS,
) -> SegmentationModel:
    """An untrained network by its catalogue name, for `classes` classes and images of `channels` channels.

    `options` are keys of its settings, as in a recipe's [model]: {"context": "ppm"}.
    Every network has: `backbone`; `classes`; `mean` and `std`, one value a channel, 0..255; `align_corners` of its
    logits; `size_divisor` and `minimum_size` in pixels (what its own forward pads to); and
    `model(images (B, C, H, W), normalised) -> SegOutput`. With options it is first built without memory, to count its
    parameters. Raises UnknownName, and ConfigError also where these are more than `most_parameters`.
    """
    config = configure(name, options)
    if not 1 <= classes <= 255:
        raise ConfigError(f"classes = {classes}: expected 1 to 255 (label value 255 means ignore).")
    if not 1 <= channels <= MOST_CHANNELS:
        raise ConfigError(f"channels = {channels}: expected 1 to {MOST_CHANNELS}.")
    if options:
        try:
            with torch.device("meta"):
                parameters = sum(tensor.numel() for tensor in _built(name, config, classes, channels).parameters())
        except Exception as error:  # a network checks its settings by failing
            reason = str(error).splitlines()[0] if str(error) else type(error).__name__
            raise ConfigError(f"{name} cannot be built with {dict(options)}: {reason}.") from error
        if parameters > most_parameters:
            raise ConfigError(
                f"{name} with {dict(options)} has {parameters:,} parameters, expected at most {most_parameters:,}. "
                f"Choose smaller settings in [model]."
            )
    return _built(name, config, classes, channels)


def _built(name: str, config: ModelConfig, classes: int, channels: int) -> SegmentationModel:
    model = entry(name).network(config, classes)
    if entry(name).panoptic:
        model.instance_branch = InstanceBranch(model.pyramid_channels)
    model.backbone.widen(channels)
    backbone = model.backbone
    model.mean = _per_channel(backbone.mean, channels)
    model.std = _per_channel(backbone.std, channels)
    return model


def _per_channel(values: tuple[float, ...], channels: int) -> tuple[float, ...]:
    """The backbone's own values for RGB, their mean for every channel of other images."""
    return values if channels == len(values) else (sum(values) / len(values),) * channels
