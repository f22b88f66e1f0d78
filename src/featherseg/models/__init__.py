"""The catalogue of models. To add one: file, row in MODELS, test, recipe (docs/architecture.md)."""

from collections.abc import Mapping
from numbers import Integral
from typing import Any

import torch

from featherseg.backbones.weights import load_pretrained
from featherseg.core.catalogue import Catalogue
from featherseg.core.config import parse
from featherseg.core.errors import ConfigError, MissingExtra, did_you_mean, unknown
from featherseg.layers.instance_branch import InstanceBranch
from featherseg.layers.model import ModelConfig, ModelEntry, SegmentationModel
from featherseg.models import (
    bialignnet,
    cgrseg,
    ddrnet,
    deeplabv3,
    efficientvit,
    frm,
    gcnet,
    hanet,
    ifa,
    nrd,
    pfnet,
    pidnet,
    rsp,
    rtformer,
    sctnet,
    seaformer,
    segformer,
    segnext,
    sfnet,
)

MOST_CHANNELS = 512
"""Largest number of image channels: the largest number of pages of a TIFF."""

MOST_PARAMETERS = 2**28
"""Largest number of parameters: 1 GiB of weights; gcnet-l, the largest here, trains 106 million."""

MOST_OPTION = 4096
"""Largest number among a model's settings."""

MODELS: Catalogue[ModelEntry] = Catalogue(
    "model",
    "featherseg.models",
    {
        **bialignnet.VARIANTS,
        **cgrseg.VARIANTS,
        **ddrnet.VARIANTS,
        **deeplabv3.VARIANTS,
        **efficientvit.VARIANTS,
        **frm.VARIANTS,
        **gcnet.VARIANTS,
        **hanet.VARIANTS,
        **ifa.VARIANTS,
        **nrd.VARIANTS,
        **pfnet.VARIANTS,
        **pidnet.VARIANTS,
        **rsp.VARIANTS,
        **rtformer.VARIANTS,
        **sctnet.VARIANTS,
        **seaformer.VARIANTS,
        **segformer.VARIANTS,
        **segnext.VARIANTS,
        **sfnet.VARIANTS,
    },
    lambda entry: isinstance(entry, ModelEntry),
    "a featherseg.models.ModelEntry",
)
"""All variants of all papers, and those of installed packages (docs/architecture.md)."""


def entry(name: str) -> ModelEntry:
    """Return the row of a model. Raises UnknownName ("did you mean")."""
    if name not in MODELS:
        raise unknown("model", name, MODELS)
    return MODELS[name]


def configure(name: str, options: Mapping[str, Any] | None = None) -> ModelConfig:
    """Return the settings of a model: its row of the catalogue with keys replaced by `options`.

    Raises UnknownName, and ConfigError for a key that the model lacks or a value that it refuses.
    """
    config = entry(name).config
    known = list(type(config).model_fields)
    options = options or {}
    for key in options:
        if key not in known:
            raise ConfigError(
                f"unknown key 'model.{key}' for {name}.{did_you_mean(key, [*known, 'pretrained'])}"
            )
        if not _is_bounded(options[key]):
            raise ConfigError(
                f"model.{key} = {str(options[key])[:40]} is too large: expected a number up to "
                f"{MOST_OPTION}, or at most 16 of them."
            )
    return parse(type(config), {**config.model_dump(), **options}, f"model {name}")


def _is_bounded(value: Any) -> bool:
    """Whether an option is a number of at most MOST_OPTION, or a flat list of at most 16."""
    items = value if isinstance(value, (list, tuple)) else [value]
    return len(items) <= 16 and all(
        not isinstance(item, (list, tuple, dict))
        and (not isinstance(item, (int, float)) or abs(item) <= MOST_OPTION)
        for item in items
    )


def build(
    name: str,
    classes: int,
    channels: int = 3,
    options: Mapping[str, Any] | None = None,
    most_parameters: int = MOST_PARAMETERS,
    *,
    pretrained: bool = False,
) -> SegmentationModel:
    """Build an untrained model by its catalogue name.

        featherseg.build("frm-lite0-light", classes=3, pretrained=True)

    Args:
        name: A name from `featherseg models`, or of an installed package.
        classes: Number of classes, 1 to 255.
        channels: Number of image channels; the first convolution is widened if it is not three.
        options: Keys of the model's settings, as in a recipe's [model]: {"context": "ppm"}, or
            {"backbone": "timm:mobilenetv4_conv_small"} if timm is installed. With options the
            model is first built without memory, to count its parameters.
        most_parameters: With options, larger models are refused.
        pretrained: Load the ImageNet weights of the backbone, which `featherseg weights` lists.

    Returns:
        A model with `backbone`; `classes`; `mean` and `std`, one value per channel, 0..255;
        `align_corners` of its logits; `size_divisor` and `minimum_size` in pixels, to which its
        forward pads. Called with normalised images (B, C, H, W) it returns a SegOutput.

    Raises:
        UnknownName: No model has that name.
        ConfigError: A number or an option is out of range.
        WeightsError: There are no such weights, or they are not on this machine.
        MissingExtra: The backbone is timm's, which is not installed.
    """
    config = configure(name, options)
    if not (isinstance(classes, Integral) and 1 <= classes <= 255):
        raise ConfigError(
            f"classes = {classes!r}: expected 1 to 255 (label value 255 means ignore)."
        )
    if not (isinstance(channels, Integral) and 1 <= channels <= MOST_CHANNELS):
        raise ConfigError(f"channels = {channels!r}: expected 1 to {MOST_CHANNELS}.")
    if options:
        try:
            with torch.device("meta"):
                model = _built(name, config, classes, channels)
            parameters = sum(tensor.numel() for tensor in model.parameters())
        except MissingExtra:  # timm
            raise
        except Exception as error:  # a model checks its settings by failing
            reason = str(error).splitlines()[0] if str(error) else type(error).__name__
            raise ConfigError(
                f"{name} cannot be built with {dict(options)}: {reason.rstrip('.')}."
            ) from error
        if parameters > most_parameters:
            raise ConfigError(
                f"{name} with {dict(options)} has {parameters:,} parameters, expected at most "
                f"{most_parameters:,}. Choose smaller settings in [model]."
            )
    return _built(name, config, classes, channels, pretrained)


def _built(
    name: str, config: ModelConfig, classes: int, channels: int, pretrained: bool = False
) -> SegmentationModel:
    model = entry(name).model(config, classes)
    if pretrained:
        load_pretrained(model.backbone, config.backbone)
    if entry(name).panoptic:
        model.instance_branch = InstanceBranch(model.pyramid_channels)
    if channels != 3:
        model.widen(channels)
    backbone = model.backbone
    model.mean = _per_channel(backbone.mean, channels)
    model.std = _per_channel(backbone.std, channels)
    return model


def _per_channel(values: tuple[float, ...], channels: int) -> tuple[float, ...]:
    """Return the backbone's own values for RGB, or their mean for each channel of other images."""
    return values if channels == len(values) else (sum(values) / len(values),) * channels
