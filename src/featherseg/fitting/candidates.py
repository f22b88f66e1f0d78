"""What `fit` chooses from: models at input scales, and how each is trained."""

import math
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any

from featherseg import models
from featherseg.backbones.weights import PRETRAINED
from featherseg.core.errors import ConfigError
from featherseg.core.types import Resize, Size
from featherseg.core.wording import size_text
from featherseg.costs.catalogue import counts
from featherseg.data.datasets.statistics import choose_crop
from featherseg.data.images.decoding import MAX_PIXELS
from featherseg.fitting.halving import One, best_guesses, name_of
from featherseg.layers.resize import resized

MODELS = (
    "frm-mobilenet-v2-light",
    "frm-lite0-half16-light",
    "frm-lite0-light",
    "frm-lite2-light",
    "frm-lite0-half-light",
    "frm-lite2-half-light",
    "frm-lite0-half-light-w32",
)
"""The best guess first, by what each reached on val in the same ten minutes on four datasets, as
benchmarks/fit_regret.py prints it; those without initial weights at hand are left out."""

SCALES = (0.5, 0.75, 1.0)
"""Of the images' sides: what the model sees of them."""

SMALL, ABOVE = 200_000, (1.5, 2.0)
"""Images of at most so many pixels are enlarged as well: the models' logits are at 1/4, so that thin things need it
(CamVid's 360x480 by 1.5: 0.4, 1.1 and 2.5 points for three runs, docs/log.md)."""

TINY = 256 * 256
"""Images of at most so many pixels are better guessed enlarged than as they are (the same table)."""

LEAST_IMAGE = 32
"""Pixels of a side of the images that will be predicted, at least."""

LEAST_SIDE = 64
"""Pixels of the shorter side that a model sees, at least."""

WARMUP_STEPS = 50
"""In which the rate rises, before it is constant."""


@dataclass(frozen=True)
class Offer:
    """A model at an input scale; macs: multiply-accumulates relative to those of other offers, for any image."""

    model: str
    scale: float
    macs: float

    @property
    def name(self) -> str:
        """What it is called."""
        return name_of(self.model, self.scale)


def check_size(size: Size, data: str = "") -> None:
    """Raises ConfigError where images of (height, width) are smaller or larger than any that are predicted.

    data: the dataset whose typical image has that size; empty where it was said.
    """
    if min(size) < LEAST_IMAGE or math.prod(size) > MAX_PIXELS:
        found = (
            f"a typical image of {data} is {size_text(size)}"
            if data
            else f"image_size = {size_text(size)}"
        )
        mend = (
            " Enlarge them, or say the size of those that will be predicted: --image-size HxW."
            if data
            else ""
        )
        raise ConfigError(
            f"{found}: expected (height, width), each from {LEAST_IMAGE} pixels on, and at most {MAX_PIXELS:,} pixels "
            f"in all.{mend}"
        )


def offers(size: Size) -> list[Offer]:
    """All that may be chosen for images of (height, width), the fewest multiply-accumulates first.

    Models with initial weights at hand; where there are none at all every model, to be trained from scratch.
    """
    named = [name for name in MODELS if has_weights(name)] or list(MODELS)
    scales = [
        s
        for s in (*SCALES, *(ABOVE if math.prod(size) <= SMALL else ()))
        if min(size) * s >= LEAST_SIDE
    ]
    found = [
        Offer(name, scale, counts(name)[1] * scale**2)
        for name in named
        for scale in scales or [1.0]
    ]
    return sorted(found, key=lambda offer: (offer.macs, offer.name))


def in_line(feasible: Iterable[One], size: Size) -> list[One]:
    """Which of those that keep the limit are compared for images of (height, width), the best guess first."""
    return best_guesses(feasible, MODELS.index, enlarged_first=math.prod(size) <= TINY)


def has_weights(model: str) -> bool:
    """Whether the initial weights of its backbone are on this machine."""
    source = PRETRAINED.get(models.entry(model).backbone)
    return source is not None and source.path() is not None


def resize_of(scale: float, size: Size, *, whole: bool = True) -> Resize | None:
    """What images of (height, width) are brought to fit; None for their own size, where `whole` allows it at 1."""
    if scale == 1 and whole:
        return None
    short, long = sorted(max(1, round(side * scale)) for side in size)
    return short, long


def settings_of(
    resize: Resize | None, size: Size, data: Mapping[str, Any], *, pretrained: bool = True
) -> dict[str, Any]:
    """Keys of the recipe for a training that can stop anywhere: a constant rate, the averaged weights kept last.

    size: (height, width) of a typical training image; data: the keys of [data]; pretrained: from initial weights.
    """
    found: dict[str, Any] = {
        f"data.{key}": value for key, value in data.items() if value is not None
    }
    found |= {"augment.resize": resize, "data.test_resize": resize} if resize else {}
    found |= {"augment.crop": choose_crop(resized(size, resize))}
    found |= {"train.schedule": "stable", "train.warmup_steps": WARMUP_STEPS, "train.keep": "last"}
    found |= {"train.validations": 1}
    return found | ({} if pretrained else {"model.pretrained": False})
