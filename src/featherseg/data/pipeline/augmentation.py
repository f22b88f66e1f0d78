"""What [augment] of a recipe can contain: its keys, and what each does to a training image.

To add an augmentation: a key in AugmentTable, a row in CROP_CHANGES or COLOUR_CHANGES, its
function, a test. The loader does what needs a second image (cutmix, copy_paste).
"""

from typing import Annotated, Literal

import numpy as np
import torch
from pydantic import Field, model_validator
from torch import Tensor

from featherseg.core.config import Config, Share
from featherseg.core.types import IGNORE, Sample
from featherseg.data.images.sizes import ImageSize, ResizeTo
from featherseg.data.pipeline import colours
from featherseg.data.pipeline.colours import Distortion
from featherseg.data.pipeline.transforms import Crop, cut, interleaved, rotated, visible_part
from featherseg.layers.normalise import FULL_RANGE
from featherseg.layers.sizes import resize_factor


class AugmentTable(Config):
    """[augment]: what is done to a training image, in this order."""

    resize: ResizeTo | None = None
    """[short, long] in pixels: images are first resized to fit; unset: not resized."""
    scale: tuple[float, float] = (1.0, 1.0)
    """[low, high]: range of a random factor of the image's size."""
    scale_drawn: Literal["log-uniformly", "uniformly"] = "log-uniformly"
    """How the factor is drawn; log-uniformly: 1/2 is as likely as 2."""
    crop: ImageSize | None = None
    """(height, width) of the crop in pixels; unset: by the size of the images."""
    progressive: bool = False
    """Smaller crops, with smaller contents, in the first 70 % of the steps."""
    category_ratio: Share = 1.0
    """A crop is drawn again, up to ten times, while one class covers more than this share."""
    rotate: Annotated[float, Field(ge=0, le=180)] = 0.0
    """Largest angle in degrees, either way."""
    flip: Share = 0.0
    """Probability of a left-right flip."""
    photometric: bool = False
    """mmsegmentation's PhotoMetricDistortion: brightness, contrast, saturation, hue."""
    brightness: Share = 0.0
    """x: the brightness is multiplied by a random factor from 1 - x to 1 + x."""
    contrast: Share = 0.0
    """The same of the contrast."""
    saturation: Share = 0.0
    """The same of the saturation."""
    blur: Share = 0.0
    """Probability of a Gaussian blur."""
    cutmix: Share = 0.0
    """Probability that a box is taken from the crop of another sample."""
    copy_paste: Share = 0.0
    """Probability that the pixels of rare classes of another crop are pasted in."""

    @model_validator(mode="after")
    def _range_is_a_range(self) -> "AugmentTable":
        if not 0.05 <= self.scale[0] <= self.scale[1] <= 20:
            raise ValueError(
                f"augment.scale = {list(self.scale)}: expected [low, high] with "
                "0.05 <= low <= high <= 20"
            )
        return self


CROP_TRIES = 10
"""How often a crop is drawn at most, see `augment.category_ratio`."""


def _rotate(crop: Crop, degrees: float, rng: np.random.Generator) -> Crop:
    return rotated(crop, rng.uniform(-degrees, degrees)) if degrees else crop


def _flip(crop: Crop, probability: float, rng: np.random.Generator) -> Crop:
    return crop.mirrored() if rng.random() < probability else crop


CROP_CHANGES = {"rotate": _rotate, "flip": _flip}
"""Key -> change of a crop with its labels, called with (crop, value of the key, rng), in order."""

COLOUR_CHANGES = {
    "brightness": colours.brightness,
    "contrast": colours.contrast,
    "saturation": colours.saturation,
    "blur": colours.blur,
}
"""Key -> function that draws a change of colours, called with (the key's value, rng).

All are drawn first, then applied in this order; None changes nothing. A new one must not draw if
its key is 0: recipes without it keep their bits.
"""


STRONGER_BLUR, STRONGER_CUTMIX = 0.3, 0.5
"""Least `blur` and `cutmix` where some samples have pseudo-masks."""


class Augment(AugmentTable):
    """The [augment] table of a recipe whose crop is known, as a function of a sample.

    image_range: 16-bit images have values below it.
    """

    crop: ImageSize
    image_range: int = FULL_RANGE

    def __call__(
        self, sample: Sample, rng: np.random.Generator, point: tuple[int, int] | None = None
    ) -> Crop:
        """Return a crop of size `crop`, a pure function of the arguments.

        It contains `point` (row, column) if it is given.
        """
        crop = random_window(sample, self, rng, point)
        for key, change in CROP_CHANGES.items():
            crop = change(crop, getattr(self, key), rng)
        image = self._recolored(crop.image, rng) if self.recolors else interleaved(crop.image)
        return crop._replace(image=image, label=crop.label.contiguous())

    def at(self, part: float) -> "Augment":
        """Return the augmentation at a smaller resolution: `part` scales both crops and images.

        Progressive training begins with it: at part = 0.5 a crop shows as much as at 1, in half as
        many rows and columns.
        """
        height, width = (max(1, round(side * part)) for side in self.crop)
        scale = (self.scale[0] * part, self.scale[1] * part)
        return self.model_copy(update={"crop": (height, width), "scale": scale})

    def stronger(self) -> "Augment":
        """Return the augmentation of a training with pseudo-masks: stronger colours, blur, CutMix.

        Strong changes keep a model from repeating the faults of its own masks (ST++, Yang et al.,
        CVPR 2022; the values are ours). A recipe that keeps the colours keeps them here.
        """
        return self.model_copy(
            update={
                "brightness": min(1.0, 2 * self.brightness),
                "contrast": min(1.0, 2 * self.contrast),
                "saturation": min(1.0, 2 * self.saturation),
                "blur": max(STRONGER_BLUR, self.blur),
                "cutmix": max(STRONGER_CUTMIX, self.cutmix),
            }
        )

    @property
    def recolors(self) -> bool:
        """Whether colours may change."""
        return self.photometric or any(getattr(self, key) for key in COLOUR_CHANGES)

    def _recolored(self, image: Tensor, rng: np.random.Generator) -> Tensor:
        """Return (C, H, W) of an integer type with its colours changed, of the same type."""
        if self.photometric:
            image = Distortion.draw(rng)(image, self._largest(image))
        drawn = [draw(getattr(self, key), rng) for key, draw in COLOUR_CHANGES.items()]
        changes = [change for change in drawn if change is not None]
        if not changes:
            return image.contiguous()
        x = image.float()
        for change in changes:
            x = change(x)
        return x.round().clamp(0, self._largest(image)).to(image.dtype)

    def _largest(self, image: Tensor) -> int:
        """Return the largest value of an image; 8-bit images among 16-bit ones keep their own."""
        largest = torch.iinfo(image.dtype).max
        if image.dtype == torch.uint8 or self.image_range == FULL_RANGE:
            return largest
        return self.image_range - 1


def random_window(
    sample: Sample,
    settings: Augment,
    rng: np.random.Generator,
    point: tuple[int, int] | None = None,
) -> Crop:
    """Return a crop of size `settings.crop` at a random scale, over `point` (row, column) if given.

    It is drawn again up to CROP_TRIES times while one class covers more than `category_ratio` of
    the labelled pixels (mmsegmentation's cat_max_ratio). Parts outside the image are filled as in
    `cut`.
    """
    scale = resize_factor(sample.label.shape[:2], settings.resize) * _draw_scale(settings, rng)
    # the window in pixels of the sample
    height, width = (max(1, round(length / scale)) for length in settings.crop)
    row, column = point or (None, None)
    for _ in range(CROP_TRIES):
        top = _draw_start(sample.label.shape[0], height, rng, row)
        left = _draw_start(sample.label.shape[1], width, rng, column)
        label = sample.label[visible_part(sample.label, top, left, height, width)]
        if settings.category_ratio >= 1 or largest_share(label) <= settings.category_ratio:
            break
    place = (top, left, height, width)
    return cut(sample, place, settings.crop, planar=settings.recolors)


def _draw_scale(settings: Augment, rng: np.random.Generator) -> float:
    low, high = settings.scale
    if low == high:
        return low
    if settings.scale_drawn == "uniformly":
        return float(rng.uniform(low, high))
    return float(np.exp(rng.uniform(np.log(low), np.log(high))))


def _draw_start(length: int, window: int, rng: np.random.Generator, point: int | None) -> int:
    """Return where a window starts on an axis: inside the image, or before it if it is longer.

    It contains `point` if that is given and inside the image.
    """
    first, last = min(0, length - window), max(0, length - window)
    if point is not None and point < length:
        first, last = max(first, point - window + 1), min(last, point)
    return int(rng.integers(first, last + 1))


def largest_share(label: np.ndarray) -> float:
    """Return the share of the most frequent class in the labelled pixels; 1 if there are none."""
    counts = _counts(label)[:IGNORE]
    return float(counts.max() / counts.sum()) if counts.any() else 1.0


def _counts(label: np.ndarray) -> np.ndarray:
    """Return how often each value of a uint8 array occurs, (256,); pairs take half of the time."""
    flat = label.ravel()
    pairs = flat[: len(flat) // 2 * 2].view(np.uint16)
    joint = np.bincount(pairs, minlength=65536).reshape(256, 256)
    return (
        joint.sum(axis=0) + joint.sum(axis=1) + np.bincount(flat[2 * len(pairs) :], minlength=256)
    )
