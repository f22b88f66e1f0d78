"""The candidates of `fit`, models at input scales, and how each is trained."""

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
from featherseg.layers.sizes import resized

MODELS = (
    "frm-mobilenet-v2-light",
    "frm-lite0-half16-light",
    "frm-lite0-light",
    "frm-lite2-light",
    "frm-lite0-half-light",
    "frm-lite2-half-light",
    "frm-lite0-half-light-w32",
)
"""The models that fit chooses from, the best guess first: by their mIoU on validation images after
the same ten minutes on four datasets, as benchmarks/fit_regret.py prints it."""

SCALES = (0.5, 0.75, 1.0)
"""The input scales of all images: factors of their sides."""

ABOVE = (1.5, 2.0)
"""The input scales of small images beside these. Logits are at 1/4, so that thin things need it
(CamVid's 360x480 by 1.5: 0.4, 1.1 and 2.5 points for three runs, docs/log.md)."""

SMALL = 200_000
"""The most pixels of a small image."""

TINY = 256 * 256
"""The most pixels of an image for which enlarged is the better guess (the same table)."""

LEAST_IMAGE = 32
"""The least pixels of a side of the images that will be predicted."""

LEAST_SIDE = 64
"""The least pixels of the shorter side of a model's input."""

WARMUP_STEPS = 50
"""The steps in which the rate rises, before it is constant."""


@dataclass(frozen=True)
class Offer:
    """A model at an input scale; `macs` is a multiply-accumulate count to compare offers by."""

    model: str
    scale: float
    macs: float

    @property
    def name(self) -> str:
        """Its name in messages."""
        return name_of(self.model, self.scale)


def check_size(size: Size, data: str = "") -> None:
    """Raise ConfigError if images of (height, width) are too small or too large to be predicted.

    Args:
        data: The dataset whose typical image has that size; empty if the user gave the size.
    """
    if min(size) >= LEAST_IMAGE and math.prod(size) <= MAX_PIXELS:
        return
    source, mend = f"image_size = {size_text(size)}", ""
    if data:
        source = f"a typical image of {data} is {size_text(size)}"
        mend = " Enlarge them, or give the size of those that will be predicted: --image-size HxW."
    raise ConfigError(
        f"{source}: expected (height, width), each from {LEAST_IMAGE} pixels on, and at most "
        f"{MAX_PIXELS:,} pixels in all.{mend}"
    )


def offers(size: Size) -> list[Offer]:
    """Return all candidates for images of (height, width), those with the fewest MACs first.

    Models without initial weights on this machine are left out, unless that is so of all.
    """
    names = [name for name in MODELS if has_weights(name)] or list(MODELS)
    tried = (*SCALES, *ABOVE) if math.prod(size) <= SMALL else SCALES
    scales = [scale for scale in tried if min(size) * scale >= LEAST_SIDE] or [1.0]
    macs = {name: counts(name)[1] for name in names}
    all_offers = [Offer(name, scale, macs[name] * scale**2) for name in names for scale in scales]
    return sorted(all_offers, key=lambda offer: (offer.macs, offer.name))


def in_line(feasible: Iterable[One], size: Size) -> list[One]:
    """Return those to compare for images of (height, width), the best guess first."""
    return best_guesses(feasible, MODELS.index, enlarged_first=math.prod(size) <= TINY)


def has_weights(model: str) -> bool:
    """Return whether the initial weights of a model's backbone are on this machine."""
    source = PRETRAINED.get(models.entry(model).backbone)
    return source is not None and source.path() is not None


def resize_of(scale: float, size: Size, *, whole: bool = True) -> Resize | None:
    """Return what images of (height, width) are resized to; None for their own size, if `whole`."""
    if scale == 1 and whole:
        return None
    short, long = sorted(max(1, round(side * scale)) for side in size)
    return short, long


def settings_of(
    resize: Resize | None, size: Size, data: Mapping[str, Any], *, pretrained: bool = True
) -> dict[str, Any]:
    """Return recipe keys of a training that can stop anywhere: a constant rate, the last weights.

    Args:
        resize: What images are resized to.
        size: (height, width) of a typical training image.
        data: The keys of [data].
        pretrained: Start from initial weights.
    """
    keys: dict[str, Any] = {
        f"data.{key}": value for key, value in data.items() if value is not None
    }
    keys |= {"augment.resize": resize, "data.test_resize": resize} if resize else {}
    keys |= {"augment.crop": choose_crop(resized(size, resize))}
    keys |= {"train.schedule": "stable", "train.warmup_steps": WARMUP_STEPS, "train.keep": "last"}
    keys |= {"train.validations": 1}
    return keys | ({} if pretrained else {"model.pretrained": False})
