"""The catalogue of networks. To add one: its file, its row in MODELS, a test, a recipe (docs/architecture.md)."""

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial

from featherseg.core.errors import ConfigError, unknown
from featherseg.layers.network import SegmentationNetwork
from featherseg.models.frm import build_frm


@dataclass(frozen=True)
class ModelEntry:
    """One row of the catalogue: how the network is built, on which backbone, after which paper."""

    build: Callable[[int], SegmentationNetwork]
    backbone: str
    paper: str


_FRM = "FRM, arXiv:2412.08670, on EfficientNet-Lite (ours)"

MODELS = {
    "frm-lite0": ModelEntry(partial(build_frm, "frm-lite0"), "efficientnet-lite0", _FRM),
}


def entry(name: str) -> ModelEntry:
    """The row of a network. Raises UnknownName ("did you mean")."""
    if name not in MODELS:
        raise unknown("model", name, MODELS)
    return MODELS[name]


def build(name: str, classes: int, channels: int = 3) -> SegmentationNetwork:
    """An untrained network by its catalogue name, for `classes` classes and pictures of `channels` channels.

    Every network has: `backbone`; `classes`; `mean` and `std`, one value a channel, 0..255; `align_corners` of its
    logits; `size_divisor` and `minimum_size` in pixels (what its own forward pads to); and
    `model(images (B, C, H, W), normalised) -> SegOutput`. Raises UnknownName and ConfigError.
    """
    row = entry(name)
    if not 1 <= classes <= 255:
        raise ConfigError(f"classes = {classes}: expected 1 to 255 (label value 255 means ignore).")
    if channels < 1:
        raise ConfigError(f"channels = {channels}: expected at least 1.")
    model = row.build(classes)
    model.backbone.widen(channels)
    backbone = model.backbone
    model.mean = _per_channel(backbone.mean, channels)
    model.std = _per_channel(backbone.std, channels)
    return model


def _per_channel(values: tuple[float, ...], channels: int) -> tuple[float, ...]:
    """The backbone's own values for RGB, their mean for every channel of other pictures."""
    return values if channels == len(values) else (sum(values) / len(values),) * channels
