"""Paired transforms: what is done to a picture is done to its mask; masks are only ever copied, flipped or picked from.

A training window is cut from the source before it is resized, so that a crop of a large picture costs a crop.
"""

from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from featherseg.core.types import IGNORE, Fit, Sample, Size
from featherseg.data.photometric import Distortion
from featherseg.layers.resize import fit_factor

CROP_TRIES = 10
LUMA = (0.299, 0.587, 0.114)  # ITU-R BT.601


class Crop(NamedTuple):
    """What training sees of a sample: image (C, h, w) of its own integer type, label (h, w) uint8, 255 = ignore.

    instances (h, w) int32 as in Sample, None where the sample has none.
    """

    image: Tensor
    label: Tensor
    instances: Tensor | None = None

    def mirrored(self) -> "Crop":
        """Left and right exchanged."""
        return Crop(*(None if x is None else mirrored(x) for x in self))  # type: ignore[arg-type]


@dataclass(frozen=True)
class Augment:
    """What a training picture goes through, in this order; see the [augment] table of a recipe."""

    crop: Size
    fit: Fit | None = None
    scale: tuple[float, float] = (1.0, 1.0)
    scale_drawn: str = "log-uniformly"
    category_ratio: float = 1.0
    flip: float = 0.0
    photometric: bool = False
    brightness: float = 0.0
    contrast: float = 0.0
    saturation: float = 0.0
    blur: float = 0.0

    def __call__(self, sample: Sample, rng: np.random.Generator, point: tuple[int, int] | None = None) -> Crop:
        """A crop of size `crop`, a pure function of its inputs; it covers `point` (row, column) where one is given."""
        crop = random_window(sample, self, rng, point)
        if rng.random() < self.flip:
            crop = crop.mirrored()
        image = Distortion.draw(rng)(crop.image) if self.photometric else crop.image
        return crop._replace(image=self._colors(image, rng), label=crop.label.contiguous())

    def _colors(self, image: Tensor, rng: np.random.Generator) -> Tensor:
        """Brightness, contrast, saturation and blur, in float, back in the image's own type."""
        brightness, contrast, saturation = (
            1 + strength * (2 * rng.random() - 1) for strength in (self.brightness, self.contrast, self.saturation)
        )
        sigma = 0.3 + 1.2 * rng.random() if rng.random() < self.blur else 0.0
        if brightness == contrast == saturation == 1 and not sigma:
            return image.contiguous()
        x = image.float() * brightness
        if contrast != 1:
            mean = x.mean()
            x = (x - mean) * contrast + mean
        if saturation != 1 and len(x) == 3:
            grey = torch.tensordot(torch.tensor(LUMA), x, dims=1)  # (H, W)
            x = grey + (x - grey) * saturation
        if sigma:
            x = gaussian_blur(x, sigma)
        return x.round().clamp(0, torch.iinfo(image.dtype).max).to(image.dtype)


def random_window(
    sample: Sample, settings: Augment, rng: np.random.Generator, point: tuple[int, int] | None = None
) -> Crop:
    """A crop at a random scale, over `point` (row, column) where one is given; its size is `settings.crop`.

    Drawn again up to CROP_TRIES times while one class covers more than `category_ratio` of the labelled pixels
    (mmsegmentation's cat_max_ratio). A window that is larger than the picture is filled up around it: the image with
    its mean colour, the label with ignore.
    """
    scale = fit_factor(sample.label.shape[:2], settings.fit) * _draw_scale(settings, rng)
    height, width = (max(1, round(length / scale)) for length in settings.crop)  # the window in source pixels
    row, column = point or (None, None)
    for _ in range(CROP_TRIES):
        top = _place(sample.label.shape[0], height, rng, row)
        left = _place(sample.label.shape[1], width, rng, column)
        window = _inside(sample.label, top, left, height, width)
        if settings.category_ratio >= 1 or largest_share(sample.label[window]) <= settings.category_ratio:
            break
    return cut(sample, (top, left, height, width), settings.crop)


def _draw_scale(settings: Augment, rng: np.random.Generator) -> float:
    low, high = settings.scale
    if low == high:
        return low
    if settings.scale_drawn == "uniformly":
        return float(rng.uniform(low, high))
    return float(np.exp(rng.uniform(np.log(low), np.log(high))))


def _place(length: int, window: int, rng: np.random.Generator, over: int | None) -> int:
    """Where the window begins: inside the picture, or before it (negative) where the window is the larger one.

    Where `over` is given, the window covers it.
    """
    first, last = min(0, length - window), max(0, length - window)
    if over is not None:
        first, last = max(first, over - window + 1), min(last, over)
    return int(rng.integers(first, last + 1))


def _inside(label: np.ndarray, top: int, left: int, height: int, width: int) -> tuple[slice, slice]:
    """The part of the window that lies inside the picture."""
    rows = slice(max(0, top), min(label.shape[0], top + height))
    return rows, slice(max(0, left), min(label.shape[1], left + width))


def largest_share(label: np.ndarray) -> float:
    """Share of the labelled pixels that the most frequent class covers; 1 where nothing is labelled."""
    counts = np.bincount(label.ravel(), minlength=IGNORE + 1)[:IGNORE]
    return float(counts.max() / counts.sum()) if counts.any() else 1.0


def cut(sample: Sample, window: tuple[int, int, int, int], size: Size) -> Crop:
    """The window (top, left, height, width) of a sample, resized to `size`.

    Bilinear with antialiasing for the image, nearest for the label and the instances. Parts outside the picture are
    filled: the image with its mean colour, the label with ignore, the instances with none.
    """
    top, left, height, width = window
    rows, columns = _inside(sample.label, *window)
    # where the inside lies in the output, in whole pixels
    y0, y1 = (round((edge - top) * size[0] / height) for edge in (rows.start, rows.stop))
    x0, x1 = (round((edge - left) * size[1] / width) for edge in (columns.start, columns.stop))
    y1, x1 = max(y1, y0 + 1), max(x1, x0 + 1)
    inside, corner = (y1 - y0, x1 - x0), (y0, x0)
    image = resize_image(_tensor(sample.image[rows, columns]).permute(2, 0, 1), inside)  # (C, h, w)
    label = resize_ids(_tensor(sample.label[rows, columns]), inside)  # (h, w)
    instances = None
    if sample.instances is not None:
        instances = _placed(resize_ids(_tensor(sample.instances[rows, columns]), inside), corner, size, 0)
    mean_color = _mean_color(image)[:, None, None]
    return Crop(_placed(image, corner, size, mean_color), _placed(label, corner, size, IGNORE), instances)


def _tensor(x: np.ndarray) -> Tensor:
    return torch.from_numpy(np.ascontiguousarray(x))


def _placed(x: Tensor, corner: tuple[int, int], size: Size, around: Tensor | int) -> Tensor:
    """x (..., h, w) with its upper left at `corner` of a map (..., *size), `around` elsewhere; what overlaps is cut."""
    if x.shape[-2:] == size:
        return x
    (top, left), (height, width) = corner, x.shape[-2:]
    full = torch.empty(*x.shape[:-2], *size, dtype=x.dtype)
    full[...] = around
    full[..., top : top + height, left : left + width] = x[..., : size[0] - top, : size[1] - left]
    return full


def resize_ids(x: Tensor, size: Size) -> Tensor:
    """(H, W) of class or instance ids -> (*size), each the id under the middle of its pixel (torch's nearest-exact)."""
    rows, columns = (
        ((torch.arange(new) + 0.5) * torch.tensor(old / new)).long().clamp(max=old - 1)
        for old, new in zip(x.shape, size, strict=True)
    )
    return x[rows][:, columns]


def resize_image(image: Tensor, size: Size) -> Tensor:
    """(C, H, W) of an integer type -> (C, *size), bilinear, antialiased when it shrinks."""
    if image.shape[1:] == size:
        return image
    if image.dtype == torch.uint8:
        return F.interpolate(image[None], size=size, mode="bilinear", antialias=True)[0]
    resized = F.interpolate(image[None].float(), size=size, mode="bilinear", antialias=True)[0]
    return resized.round().clamp(0, torch.iinfo(image.dtype).max).to(image.dtype)


def mirrored(x: Tensor) -> Tensor:
    """(..., W), left and right exchanged; torch has no flip for uint16, whose bits are flipped as int16."""
    return x.view(torch.int16).flip(-1).view(torch.uint16) if x.dtype == torch.uint16 else x.flip(-1)


def _mean_color(image: Tensor) -> Tensor:
    return image.float().mean(dim=(1, 2)).round().to(image.dtype)  # (C,)


def gaussian_blur(x: Tensor, sigma: float) -> Tensor:
    """(C, H, W) float, blurred by a Gaussian of `sigma` pixels, edges repeated."""
    radius = max(1, round(3 * sigma))
    offsets = torch.arange(-radius, radius + 1, dtype=torch.float32)
    kernel = torch.exp(-(offsets**2) / (2 * sigma**2))
    kernel = (kernel / kernel.sum()).view(1, 1, -1)
    x = F.pad(x[:, None], (radius,) * 4, mode="replicate")  # (C, 1, H + 2r, W + 2r)
    x = F.conv2d(F.conv2d(x, kernel[..., None]), kernel[:, :, None])  # (C, 1, H, W)
    return x[:, 0]
