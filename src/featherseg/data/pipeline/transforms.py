"""Geometric transforms of an image with its mask; values of masks are copied, never interpolated.

A training window is cut before it is resized: a crop of a large image costs a crop, and an image
that is mapped from a file (data/cache/prepared.py) is read only there. Channels stay innermost in
memory, as in files: torch resizes 8 bits fastest so, and models train on it.
"""

import math
from typing import NamedTuple

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from featherseg.core.types import IGNORE, Sample, Size


class Crop(NamedTuple):
    """A crop of a sample.

    image (C, h, w) of the sample's integer type, label (h, w) uint8 with 255 = ignore, instances
    (h, w) int32 as in Sample, or None. All may be views of the sample's arrays.
    """

    image: Tensor
    label: Tensor
    instances: Tensor | None = None

    def mirrored(self) -> "Crop":
        """Return the crop with left and right exchanged."""
        return Crop(*(None if x is None else mirrored(x) for x in self))  # type: ignore[arg-type]


def visible_part(
    label: np.ndarray, top: int, left: int, height: int, width: int
) -> tuple[slice, slice]:
    """Return the rows and columns of the window that are inside the image."""
    rows = slice(max(0, top), min(label.shape[0], top + height))
    return rows, slice(max(0, left), min(label.shape[1], left + width))


def cut(
    sample: Sample,
    window: tuple[int, int, int, int],
    size: Size,
    *,
    planar: bool = False,
) -> Crop:
    """Return the window (top, left, height, width) of a sample, resized to `size`.

    The image is resized bilinearly with antialiasing, label and instances by the nearest pixel.
    Parts outside the image are filled: the image with its mean colour, the label with ignore, the
    instances with none.

    Args:
        planar: a resized image has its channels outermost in memory; sums over it keep their order,
            and so their last bits.
    """
    top, left, height, width = window
    rows, columns = visible_part(sample.label, *window)
    # the place of the visible part in the output, in whole pixels
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
        color = _mean_color(image, planar=image is not source)
        row = color.expand(1, size[1], -1).contiguous()  # (1, W, C)
        image = _placed(image, corner, row.expand(*size, -1).contiguous().permute(2, 0, 1))
        label = _placed(label, corner, torch.full(size, IGNORE, dtype=label.dtype))
        if instances is not None:
            instances = _placed(instances, corner, torch.zeros(size, dtype=instances.dtype))
    return Crop(image.contiguous() if planar and image is not source else image, label, instances)


def rotated(crop: Crop, degrees: float) -> Crop:
    """Return the crop turned clockwise around its centre; parts outside are filled as in `cut`.

    The image is sampled bilinearly, label and instances by the nearest pixel.
    """
    (channels, height, width), angle = crop.image.shape, math.radians(degrees)
    cosine, sine = math.cos(angle), math.sin(angle)
    turn = torch.tensor([[[cosine, sine * height / width, 0], [-sine * width / height, cosine, 0]]])
    # (1, H, W, 2): x and y, -1 to 1
    grid = F.affine_grid(turn, [1, channels, height, width], align_corners=False)
    outside = (grid.abs() > 1).any(-1)[0]  # (H, W)
    x = F.grid_sample(crop.image[None].float(), grid, padding_mode="border", align_corners=False)
    image = x[0].round().to(crop.image.dtype)  # (C, H, W)
    image = _where(outside, _mean_color(crop.image, planar=True)[:, None, None], image)
    columns, rows = (
        ((place + 1) * (length / 2)).long().clamp(0, length - 1)
        for place, length in zip(grid[0].unbind(-1), (width, height), strict=True)
    )
    label = crop.label[rows, columns].masked_fill(outside, IGNORE)
    instances = (
        None if crop.instances is None else crop.instances[rows, columns].masked_fill(outside, 0)
    )
    return Crop(image, label, instances)


def mixed(crop: Crop, other: Crop, rng: np.random.Generator) -> Crop:
    """Return the crop with a box of another crop: CutMix (Yun et al., ICCV 2019, Sec. 3.2).

    The box has the shape of the crop, a share of its area that is drawn uniformly, and its middle
    anywhere; parts outside the crop are cut off.
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
    """Return the crop with the pixels `where` (h, w) bool of another; it has no instances."""
    # nothing is written into the crops, which may be views of a dataset's arrays
    image = interleaved(_where(where, other.image, crop.image))
    return Crop(image, torch.where(where, other.label, crop.label))


def _where(condition: Tensor, chosen: Tensor, other: Tensor) -> Tensor:
    """Return torch.where of two images, also of uint16, for which torch 2.9 has none."""
    if other.dtype == torch.uint16:
        bits = torch.where(condition, chosen.view(torch.int16), other.view(torch.int16))
        return bits.view(torch.uint16)
    return torch.where(condition, chosen, other)


def _placed(x: Tensor, corner: tuple[int, int], full: Tensor) -> Tensor:
    """Write x (..., h, w) into full (..., H, W) at `corner`, as far as it fits, and return full."""
    (top, left), (height, width), size = corner, x.shape[-2:], full.shape[-2:]
    full[..., top : top + height, left : left + width] = x[..., : size[0] - top, : size[1] - left]
    return full


def interleaved(image: Tensor) -> Tensor:
    """Return (C, H, W) with the channels innermost in memory; itself if they are."""
    return image.permute(1, 2, 0).contiguous().permute(2, 0, 1)


def is_interleaved(image: Tensor) -> bool:
    """Whether the channels of (C, H, W) are innermost in memory, without gaps."""
    return image.permute(1, 2, 0).is_contiguous()


def resize_ids(x: np.ndarray, size: Size) -> np.ndarray:
    """Return ids (H, W) resized to `size`: the id at the middle of each pixel (nearest-exact)."""
    if x.shape == size:
        return x
    rows, columns = (
        ((np.arange(new, dtype=np.float32) + np.float32(0.5)) * np.float32(old / new))
        .astype(np.int64)
        .clip(max=old - 1)
        for old, new in zip(x.shape, size, strict=True)
    )
    if x.shape[0] > size[0]:  # rows are cheap to pick: first if fewer remain, else last
        return x.take(rows, axis=0).take(columns, axis=1)
    return x.take(columns, axis=1).take(rows, axis=0)


def resize_image(image: Tensor, size: Size) -> Tensor:
    """Return (C, H, W) of an integer type resized to (C, *size), bilinear with antialiasing."""
    if image.shape[1:] == size:
        return image
    if image.dtype == torch.uint8:
        # torch is fast for up to 4 innermost channels; with image[None] it does not notice them
        batch = image[None]  # (1, C, H, W)
        if len(image) <= 4:
            batch = image.permute(1, 2, 0)[None].permute(0, 3, 1, 2)
        return F.interpolate(batch, size=size, mode="bilinear", antialias=True)[0]
    resized = F.interpolate(image[None].float(), size=size, mode="bilinear", antialias=True)[0]
    return resized.round().clamp(0, torch.iinfo(image.dtype).max).to(image.dtype)


def mirrored(x: Tensor) -> Tensor:
    """Return (..., W) with left and right exchanged."""
    if x.dtype == torch.uint16:  # torch cannot flip it
        return x.view(torch.int16).flip(-1).view(torch.uint16)
    return x.flip(-1)


def _mean_color(image: Tensor, *, planar: bool) -> Tensor:
    """Return the mean colour (C,) of an image (C, H, W) in its own type."""
    layout = torch.contiguous_format if planar else torch.preserve_format
    values = image.to(torch.float32, memory_format=layout)
    return values.mean(dim=(1, 2)).round().to(image.dtype)
