"""Paired transforms: what is done to an image is done to its mask; masks are only ever copied, flipped or picked from.

A training window is cut from the source before it is resized, so that a crop of a large image costs a crop, and a
image that is mapped from a file (`data.prepared`) is read where its window lies. Channels stay the innermost axis in
memory, which is how files hold them, torch resizes 8 bits fastest, and models train.
"""

import math
from typing import NamedTuple

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from featherseg.core.types import IGNORE, Sample, Size
from featherseg.data.cache.origins import Origins, flipped, stretched, turned


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


def visible_part(
    label: np.ndarray, top: int, left: int, height: int, width: int
) -> tuple[slice, slice]:
    """The part of the window that lies inside the image."""
    rows = slice(max(0, top), min(label.shape[0], top + height))
    return rows, slice(max(0, left), min(label.shape[1], left + width))


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
    rows, columns = visible_part(sample.label, *window)
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
