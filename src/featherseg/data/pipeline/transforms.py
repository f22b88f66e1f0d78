"""Paired transforms: what is done to an image is done to its mask; masks are only ever copied, flipped or picked from.

A training window is cut from the source before it is resized, so that a crop of a large image costs a crop, and a
image that is mapped from a file (`data.prepared`) is read where its window lies. Channels stay the innermost axis in
memory, which is how files hold them, torch resizes 8 bits fastest, and models train.
"""

import math
from dataclasses import dataclass, replace
from typing import NamedTuple

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from featherseg.core.types import IGNORE, Resize, Sample, Size
from featherseg.data.cache.origins import Origins, flipped, stretched, turned
from featherseg.layers.normalise import FULL_RANGE
from featherseg.layers.resize import resize_factor

CROP_TRIES = 10
LUMA = (0.299, 0.587, 0.114)  # ITU-R BT.601


class Crop(NamedTuple):
    """What training sees of a sample: image (C, h, w) of its own integer type, label (h, w) uint8, 255 = ignore.

    instances (h, w) int32 as in Sample, None where the sample has none. All may be views of the sample's own arrays.
    origins tell where the pixels come from, None where nobody asked.
    """

    image: Tensor
    label: Tensor
    instances: Tensor | None = None
    origins: Origins | None = None

    def mirrored(self) -> "Crop":
        """Left and right exchanged."""
        image, label, instances = (None if x is None else mirrored(x) for x in self[:3])
        origins = self.origins and self.origins.moved(
            mirrored(self.origins.owner), flipped(self.label.shape[1])
        )
        return Crop(image, label, instances, origins)  # type: ignore[arg-type]


@dataclass(frozen=True)
class Augment:
    """What a training image goes through, in this order; see the [augment] table of a recipe.

    traced: whether a crop's origins are told; image_range: 16-bit images have values below it.
    """

    crop: Size
    resize: Resize | None = None
    scale: tuple[float, float] = (1.0, 1.0)
    scale_drawn: str = "log-uniformly"
    category_ratio: float = 1.0
    rotate: float = 0.0
    flip: float = 0.0
    photometric: bool = False
    brightness: float = 0.0
    contrast: float = 0.0
    saturation: float = 0.0
    blur: float = 0.0
    cutmix: float = 0.0
    copy_paste: float = 0.0
    traced: bool = False
    image_range: int = FULL_RANGE

    def __call__(
        self, sample: Sample, rng: np.random.Generator, point: tuple[int, int] | None = None
    ) -> Crop:
        """A crop of size `crop`, a pure function of its inputs; it covers `point` (row, column) where one is given."""
        crop = random_window(sample, self, rng, point)
        if self.rotate:
            crop = rotated(crop, rng.uniform(-self.rotate, self.rotate))
        if rng.random() < self.flip:
            crop = crop.mirrored()
        image = self._recolored(crop.image, rng) if self.recolors else interleaved(crop.image)
        return crop._replace(image=image, label=crop.label.contiguous())

    def at(self, part: float) -> "Augment":
        """The same for crops of this part of their size, with what is in them at this part of its size."""
        height, width = (max(1, round(side * part)) for side in self.crop)
        return replace(
            self, crop=(height, width), scale=(self.scale[0] * part, self.scale[1] * part)
        )

    @property
    def recolors(self) -> bool:
        """Whether anything is done to the colours."""
        return self.photometric or any((self.brightness, self.contrast, self.saturation, self.blur))

    def _recolored(self, image: Tensor, rng: np.random.Generator) -> Tensor:
        """Photometric distortion, then brightness, contrast, saturation and blur, in float, back in its own type."""
        if self.photometric:
            image = Distortion.draw(rng)(image, self._largest(image))
        brightness, contrast, saturation = (
            1 + strength * (2 * rng.random() - 1)
            for strength in (self.brightness, self.contrast, self.saturation)
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
        return x.round().clamp(0, self._largest(image)).to(image.dtype)

    def _largest(self, image: Tensor) -> int:
        """The largest value of such an image; one of another range than the others keeps its own."""
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
    """A crop at a random scale, over `point` (row, column) where one is given; its size is `settings.crop`.

    Drawn again up to CROP_TRIES times while one class covers more than `category_ratio` of the labelled pixels
    (mmsegmentation's cat_max_ratio). A window that is larger than the image is filled up around it: the image with
    its mean colour, the label with ignore.
    """
    scale = resize_factor(sample.label.shape[:2], settings.resize) * _draw_scale(settings, rng)
    height, width = (
        max(1, round(length / scale)) for length in settings.crop
    )  # the window in source pixels
    row, column = point or (None, None)
    for _ in range(CROP_TRIES):
        top = _place(sample.label.shape[0], height, rng, row)
        left = _place(sample.label.shape[1], width, rng, column)
        window = _inside(sample.label, top, left, height, width)
        if (
            settings.category_ratio >= 1
            or largest_share(sample.label[window]) <= settings.category_ratio
        ):
            break
    place = (top, left, height, width)
    return cut(sample, place, settings.crop, planar=settings.recolors, traced=settings.traced)


def _draw_scale(settings: Augment, rng: np.random.Generator) -> float:
    low, high = settings.scale
    if low == high:
        return low
    if settings.scale_drawn == "uniformly":
        return float(rng.uniform(low, high))
    return float(np.exp(rng.uniform(np.log(low), np.log(high))))


def _place(length: int, window: int, rng: np.random.Generator, over: int | None) -> int:
    """Where the window begins: inside the image, or before it (negative) where the window is the larger one.

    Where `over` is given, and inside the image, the window covers it.
    """
    first, last = min(0, length - window), max(0, length - window)
    if over is not None and over < length:
        first, last = max(first, over - window + 1), min(last, over)
    return int(rng.integers(first, last + 1))


def _inside(label: np.ndarray, top: int, left: int, height: int, width: int) -> tuple[slice, slice]:
    """The part of the window that lies inside the image."""
    rows = slice(max(0, top), min(label.shape[0], top + height))
    return rows, slice(max(0, left), min(label.shape[1], left + width))


def largest_share(label: np.ndarray) -> float:
    """Share of the labelled pixels that the most frequent class covers; 1 where nothing is labelled."""
    counts = _counts(label)[:IGNORE]
    return float(counts.max() / counts.sum()) if counts.any() else 1.0


def _counts(label: np.ndarray) -> np.ndarray:
    """How often each value of a uint8 array occurs, (256,). Two at a time, which takes less than half of the time."""
    flat = label.ravel()
    pairs = flat[: len(flat) // 2 * 2].view(np.uint16)
    joint = np.bincount(pairs, minlength=65536).reshape(256, 256)
    return (
        joint.sum(axis=0) + joint.sum(axis=1) + np.bincount(flat[2 * len(pairs) :], minlength=256)
    )


def cut(
    sample: Sample,
    window: tuple[int, int, int, int],
    size: Size,
    *,
    planar: bool = False,
    traced: bool = False,
) -> Crop:
    """The window (top, left, height, width) of a sample, resized to `size`.

    Bilinear with antialiasing for the image, nearest for the label and the instances. Parts outside the image are
    filled: the image with its mean colour, the label with ignore, the instances with none. With `planar` a resized
    image lies in memory channel by channel: sums over it keep their order, and so their last bits. With `traced` the
    crop has its origins, in image number 0.
    """
    top, left, height, width = window
    rows, columns = _inside(sample.label, *window)
    # where the inside lies in the output, in whole pixels
    y0, y1 = (round((edge - top) * size[0] / height) for edge in (rows.start, rows.stop))
    x0, x1 = (round((edge - left) * size[1] / width) for edge in (columns.start, columns.stop))
    y1, x1 = max(y1, y0 + 1), max(x1, x0 + 1)
    inside, corner = (y1 - y0, x1 - x0), (y0, x0)
    source = torch.from_numpy(sample.image[rows, columns]).permute(2, 0, 1)  # (C, height, width)
    image = resize_image(source, inside)  # (C, h, w)
    label = torch.from_numpy(resize_ids(sample.label[rows, columns], inside))  # (h, w)
    instances = None
    if sample.instances is not None:
        instances = torch.from_numpy(resize_ids(sample.instances[rows, columns], inside))  # (h, w)
    if inside != size:
        around = (
            _mean_color(image, planar=image is not source).expand(1, size[1], -1).contiguous()
        )  # (1, W, C)
        image = _placed(image, corner, around.expand(*size, -1).contiguous().permute(2, 0, 1))
        label = _placed(label, corner, torch.full(size, IGNORE, dtype=label.dtype))
        if instances is not None:
            instances = _placed(instances, corner, torch.zeros(size, dtype=instances.dtype))
    origins = None
    if traced:
        owner = _placed(
            torch.ones(inside, dtype=torch.uint8), corner, torch.zeros(size, dtype=torch.uint8)
        )
        origins = Origins(owner, ((0, stretched((rows, columns), (slice(y0, y1), slice(x0, x1)))),))
    return Crop(
        image.contiguous() if planar and image is not source else image, label, instances, origins
    )


def rotated(crop: Crop, degrees: float) -> Crop:
    """A crop turned clockwise around its centre: the image bilinearly, label and instances by the nearest pixel.

    What comes from outside is filled as in `cut`.
    """
    (channels, height, width), angle = crop.image.shape, math.radians(degrees)
    cosine, sine = math.cos(angle), math.sin(angle)
    turn = torch.tensor([[[cosine, sine * height / width, 0], [-sine * width / height, cosine, 0]]])
    grid = F.affine_grid(
        turn, [1, channels, height, width], align_corners=False
    )  # (1, H, W, 2): x and y, -1 to 1
    outside = (grid.abs() > 1).any(-1)[0]  # (H, W)
    x = F.grid_sample(crop.image[None].float(), grid, padding_mode="border", align_corners=False)[
        0
    ]  # (C, H, W)
    image = x.round().to(crop.image.dtype)
    image = torch.where(outside, _mean_color(crop.image, planar=True)[:, None, None], image)
    columns, rows = (
        ((place + 1) * (length / 2)).long().clamp(0, length - 1)
        for place, length in zip(grid[0].unbind(-1), (width, height), strict=True)
    )
    label = crop.label[rows, columns].masked_fill(outside, IGNORE)
    instances = (
        None if crop.instances is None else crop.instances[rows, columns].masked_fill(outside, 0)
    )
    origins = None
    if crop.origins is not None:
        owner = crop.origins.owner[rows, columns].masked_fill(outside, 0)
        origins = crop.origins.moved(owner, turned((height, width), degrees))
    return Crop(image, label, instances, origins)


def mixed(crop: Crop, other: Crop, rng: np.random.Generator) -> Crop:
    """CutMix (Yun et al., ICCV 2019, Sec. 3.2): a box of the crop is that of another crop of the same size.

    The box has the crop's shape, a share of its area drawn evenly, and its middle anywhere; what is outside is cut.
    """
    height, width = crop.label.shape
    side = math.sqrt(1 - rng.random())
    y, x = rng.integers(height), rng.integers(width)
    rows = slice(max(0, y - round(height * side / 2)), y + round(height * side / 2))
    columns = slice(max(0, x - round(width * side / 2)), x + round(width * side / 2))
    box = torch.zeros(height, width, dtype=torch.bool)
    box[rows, columns] = True
    return pasted(crop, other, box)


def pasted(crop: Crop, other: Crop, where: Tensor) -> Crop:
    """A crop that is another one `where` (h, w) bool says so; without instances, whose numbers could meet."""
    # the crops may be views of a dataset's own arrays: nothing is written into them
    image = interleaved(torch.where(where, other.image, crop.image))
    origins = crop.origins and other.origins and crop.origins.pasted(other.origins, where)
    return Crop(image, torch.where(where, other.label, crop.label), origins=origins)


def _placed(x: Tensor, corner: tuple[int, int], full: Tensor) -> Tensor:
    """`full` (..., H, W) with x (..., h, w) at `corner`, its upper left; what overlaps is cut."""
    (top, left), (height, width), size = corner, x.shape[-2:], full.shape[-2:]
    full[..., top : top + height, left : left + width] = x[..., : size[0] - top, : size[1] - left]
    return full


def interleaved(image: Tensor) -> Tensor:
    """(C, H, W) with the channels innermost in memory; itself where they are."""
    return image.permute(1, 2, 0).contiguous().permute(2, 0, 1)


def is_interleaved(image: Tensor) -> bool:
    """Whether the channels of (C, H, W) are innermost in memory, without gaps."""
    return image.permute(1, 2, 0).is_contiguous()


def resize_ids(x: np.ndarray, size: Size) -> np.ndarray:
    """(H, W) of class or instance ids -> (*size), each the id under the middle of its pixel (torch's nearest-exact)."""
    if x.shape == size:
        return x
    rows, columns = (
        ((np.arange(new, dtype=np.float32) + np.float32(0.5)) * np.float32(old / new))
        .astype(np.int64)
        .clip(max=old - 1)
        for old, new in zip(x.shape, size, strict=True)
    )
    if (
        x.shape[0] > size[0]
    ):  # rows are cheap to pick: first where that leaves fewer, last where it makes more
        return x.take(rows, axis=0).take(columns, axis=1)
    return x.take(columns, axis=1).take(rows, axis=0)


def resize_image(image: Tensor, size: Size) -> Tensor:
    """(C, H, W) of an integer type -> (C, *size), bilinear, antialiased when it shrinks."""
    if image.shape[1:] == size:
        return image
    if image.dtype == torch.uint8:
        # torch has a fast way for up to 4 channels that are innermost; image[None] would hide from it that they are
        batch = (
            image.permute(1, 2, 0)[None].permute(0, 3, 1, 2) if len(image) <= 4 else image[None]
        )  # (1, C, H, W)
        return F.interpolate(batch, size=size, mode="bilinear", antialias=True)[0]
    resized = F.interpolate(image[None].float(), size=size, mode="bilinear", antialias=True)[0]
    return resized.round().clamp(0, torch.iinfo(image.dtype).max).to(image.dtype)


def mirrored(x: Tensor) -> Tensor:
    """(..., W), left and right exchanged; torch has no flip for uint16, whose bits are flipped as int16."""
    return (
        x.view(torch.int16).flip(-1).view(torch.uint16) if x.dtype == torch.uint16 else x.flip(-1)
    )


def _mean_color(image: Tensor, *, planar: bool) -> Tensor:
    layout = torch.contiguous_format if planar else torch.preserve_format
    return (
        image.to(torch.float32, memory_format=layout).mean(dim=(1, 2)).round().to(image.dtype)
    )  # (C,)


def gaussian_blur(x: Tensor, sigma: float) -> Tensor:
    """(C, H, W) float, blurred by a Gaussian of `sigma` pixels, edges repeated."""
    radius = max(1, round(3 * sigma))
    offsets = torch.arange(-radius, radius + 1, dtype=torch.float32)
    kernel = torch.exp(-(offsets**2) / (2 * sigma**2))
    kernel = (kernel / kernel.sum()).view(1, 1, -1)
    x = F.pad(x[:, None], (radius,) * 4, mode="replicate")  # (C, 1, H + 2r, W + 2r)
    x = F.conv2d(F.conv2d(x, kernel[..., None]), kernel[:, :, None])  # (C, 1, H, W)
    return x[:, 0]


BRIGHTNESS = 32 / 255
CONTRAST = SATURATION = (0.5, 1.5)
HUE = 18 / 180


@dataclass(frozen=True)
class Distortion:
    """One distortion, applied in this order. As it comes it changes nothing.

    brightness is added, as a share of the full range; contrast is a factor of all values, applied before the colours
    (`contrast_first`) or after them; saturation is a factor in HSV; hue is added, as a share of the circle of colours.
    Values are kept within the range after every step. Saturation and hue concern images of three channels alone.
    """

    brightness: float = 0.0
    contrast: float = 1.0
    contrast_first: bool = True
    saturation: float = 1.0
    hue: float = 0.0

    @classmethod
    def draw(cls, rng: np.random.Generator) -> "Distortion":
        """Each of the four in half of the cases, contrast before or after the colours alike."""
        brightness, contrast, saturation, hue, first = rng.random(5) < 0.5
        amounts = (
            rng.uniform(-BRIGHTNESS, BRIGHTNESS),
            rng.uniform(*CONTRAST),
            rng.uniform(*SATURATION),
        )
        turn = rng.uniform(-HUE, HUE)
        return cls(
            brightness=amounts[0] if brightness else 0.0,
            contrast=amounts[1] if contrast else 1.0,
            contrast_first=bool(first),
            saturation=amounts[2] if saturation else 1.0,
            hue=turn if hue else 0.0,
        )

    def __call__(self, image: Tensor, largest: int | None = None) -> Tensor:
        """(C, H, W) of an integer type, with values up to `largest`, by default its type's -> the same."""
        if self == Distortion(contrast_first=self.contrast_first):
            return image
        top = torch.iinfo(image.dtype).max if largest is None else largest
        x = (image.float() / top + self.brightness).clamp(0, 1)
        if self.contrast_first:
            x = (x * self.contrast).clamp(0, 1)
        if len(x) == 3 and (self.saturation, self.hue) != (1.0, 0.0):
            x = recoloured(x, self.saturation, self.hue)
        if not self.contrast_first:
            x = (x * self.contrast).clamp(0, 1)
        return (x * top).round().to(image.dtype)


def recoloured(x: Tensor, saturation: float, hue: float) -> Tensor:
    """RGB (3, H, W) from 0 to 1, with saturation (at most 1) times a factor and hue turned by a share of the circle.

    The way through HSV and back without its singular points: V stays, chroma = S V is scaled.
    """
    red, green, blue = x
    value = x.amax(0)  # (H, W)
    chroma = value - x.amin(0)
    spread = chroma.clamp(min=torch.finfo(x.dtype).tiny)
    near_red, near_green, near_blue = (
        (green - blue) / spread,
        (blue - red) / spread + 2,
        (red - green) / spread + 4,
    )
    sixths = (
        torch.where(value == red, near_red, torch.where(value == green, near_green, near_blue))
        + 6 * hue
    )
    k = (torch.tensor([5.0, 3.0, 1.0])[:, None, None] + sixths) % 6  # (3, H, W)
    chroma = torch.minimum(chroma * saturation, value)
    return value - chroma * torch.minimum(k, 4 - k).clamp(0, 1)
