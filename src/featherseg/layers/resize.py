"""Padding of images before a model, and the way of logits back to the image.

Arrays are resized without torch. A resize of n to m places along one side is m weighted sums of T
neighbours each.
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np

from featherseg.core.arrays import Array
from featherseg.core.types import Resize, SegOutput, Size
from featherseg.kernels import library
from featherseg.kernels.upsample import axis
from featherseg.layers.normalise import FULL_RANGE, normalise
from featherseg.layers.sizes import resize_factor, scaled_size

if TYPE_CHECKING:
    from torch import Tensor

TRANSPOSED_ROWS = 16
"""Rows that are transposed at a time: half the time of a transposition at once (measured)."""


class Taps(NamedTuple):
    """Of each of m output places the first source place (m,), and T weights from there (m, T)."""

    first: np.ndarray
    weights: np.ndarray


def resize(x: Array, size: Size, *, align_corners: bool) -> Array:
    """Resize bilinearly, (B, C, h, w) -> (B, C, *size)."""
    if isinstance(x, np.ndarray):
        return resize_array(x, size, align_corners=align_corners)
    import torch.nn.functional as F

    if library.trains_here(x):
        from featherseg.kernels import resize_bilinear

        return resize_bilinear(x, size, align_corners=align_corners)
    return F.interpolate(x, size=size, mode="bilinear", align_corners=align_corners)


def resize_array(
    x: np.ndarray, size: Size, *, align_corners: bool, rows: slice = slice(None)
) -> np.ndarray:
    """Return rows of a map resized bilinearly: (B, C, h, w) -> (B, C, rows, W) float32."""
    columns = _two_taps(x.shape[3], size[1], align_corners)
    first, weights = (values[rows] for values in _two_taps(x.shape[2], size[0], align_corners))
    begin, end = first[0], first[-1] + weights.shape[1]  # of the source rows that are needed
    return _interpolated(x[:, :, begin:end], Taps(first - begin, weights), columns)


def scale_images(images: Array, factor: float) -> Array:
    """Resize images for a model, antialiased: (B, C, H, W) -> (B, C, H * factor, W * factor)."""
    if factor == 1.0:
        return images
    return resize_antialiased(images, scaled_size((images.shape[2], images.shape[3]), factor))


def resize_antialiased(images: Array, size: Size) -> Array:
    """Resize bilinearly, antialiased where images become smaller: (B, C, H, W) -> (B, C, *size)."""
    if isinstance(images, np.ndarray):
        rows, columns = map(_antialiased_taps, images.shape[2:], size)
        return _interpolated(images, rows, columns)
    import torch.nn.functional as F

    return F.interpolate(images, size=size, mode="bilinear", align_corners=False, antialias=True)


def _two_taps(source: int, target: int, align_corners: bool) -> Taps:
    """Return the weights of `axis`; T = 2, or 1 for a single source place."""
    low, share = axis(source, target, target, align_corners)
    if source == 1:
        return Taps(low, np.ones((target, 1), np.float32))
    first = np.minimum(low, source - 2)
    share += low - first  # the last place is all of the second tap
    return Taps(first, np.stack([1 - share, share], axis=1).astype(np.float32))


def _antialiased_taps(source: int, target: int) -> Taps:
    """Return the weights of a triangle as wide as 2 output places; of `_two_taps` if it grows."""
    if target >= source:
        return _two_taps(source, target, align_corners=False)
    scale = np.float32(source) / np.float32(target)
    centre = scale * (np.arange(target, dtype=np.float32) + np.float32(0.5))
    begin = np.maximum((centre - scale + np.float32(0.5)).astype(np.int64), 0)
    end = np.minimum((centre + scale + np.float32(0.5)).astype(np.int64), source)
    first = np.minimum(begin, source - (end - begin).max())
    place = first[:, None] + np.arange((end - begin).max())  # (m, T)
    away = np.abs(place.astype(np.float32) + np.float32(0.5) - centre[:, None]) / scale
    weights = np.maximum(1 - away, 0).astype(np.float32)
    return Taps(first, weights / weights.sum(axis=1, keepdims=True))


def _interpolated(x: np.ndarray, rows: Taps, columns: Taps) -> np.ndarray:
    """Resize maps (B, C, h, w) by the weights of rows and columns, in float32."""
    batch, channels, height, width = x.shape
    maps = np.asarray(x, np.float32).reshape(-1, height, width)
    size = len(rows.first), len(columns.first)
    resized = np.empty((len(maps), *size), np.float32)
    threads = min(library.thread_count(), len(maps))

    def fill(number: int) -> None:
        part, target = (np.array_split(all_maps, threads)[number] for all_maps in (maps, resized))
        if size[0] < height:  # the smaller map in between is transposed
            target[...] = _transposed(_sums(_transposed(_sums(part, rows)), columns))
        else:
            _sums(_transposed(_sums(_transposed(part), columns)), rows, target)

    library.run([partial(fill, number) for number in range(threads)], threads)
    return resized.reshape(batch, channels, *size)


def _sums(maps: np.ndarray, taps: Taps, out: np.ndarray | None = None) -> np.ndarray:
    """Return the weighted sums of neighbouring rows: (N, n, w) -> (N, m, w), in `out` if given."""
    if out is None:
        out = np.empty((len(maps), len(taps.first), maps.shape[2]), np.float32)
    reach = taps.weights.shape[1]
    for row, (first, weights) in enumerate(zip(taps.first.tolist(), taps.weights, strict=True)):
        np.matmul(weights[None], maps[:, first : first + reach], out=out[:, row : row + 1])
    return out


def _transposed(maps: np.ndarray) -> np.ndarray:
    """Return contiguous maps (N, n, m) as (N, m, n)."""
    out = np.empty((len(maps), maps.shape[2], maps.shape[1]), np.float32)
    for start in range(0, maps.shape[1], TRANSPOSED_ROWS):
        rows = slice(start, start + TRANSPOSED_ROWS)
        out[:, :, rows] = maps[:, rows].swapaxes(1, 2)
    return out


def preprocess(
    images: Array,
    mean: Sequence[float],
    std: Sequence[float],
    fit: Resize | None,
    image_range: int = FULL_RANGE,
) -> Array:
    """Return images as a model sees them: normalised, as large as `fit` allows, (B, C, h, w)."""
    normal = normalise(images, mean, std, image_range)
    return scale_images(normal, resize_factor((images.shape[2], images.shape[3]), fit))


def pad_images(images: Tensor, *, divisor: int = 1, minimum: int = 1) -> tuple[Tensor, Size]:
    """Pad normalised images right and below with zeros; return (B, C, H', W') and (H', W').

    H' is the least multiple of `divisor` that is at least H and at least `minimum`; W' likewise.
    """
    import torch
    import torch.nn.functional as F

    height, width = images.shape[2:]
    rows, columns = padding(height, divisor, minimum), padding(width, divisor, minimum)
    if (
        torch.compiler.is_exporting() or rows or columns
    ):  # an exported graph must hold the pad for every size
        images = F.pad(images, (0, columns, 0, rows))
    return images, (height + rows, width + columns)


def padding(length: int, divisor: int, minimum: int) -> int:
    """Return the pixels that `pad_images` adds to a side of `length`."""
    import torch

    target = torch.sym_max(length, minimum)
    return (target + divisor - 1) // divisor * divisor - length


def to_image(out: SegOutput, size: Size) -> Any:
    """Bring logits to the image's size: (B, K, h, w) -> (B, K, *size), an array or a tensor.

    If the images were padded, the logits are resized to the padded size and cropped at full
    resolution, so that padding shifts no class.
    """
    logits = out.logits
    if out.padded_size != out.image_size:
        height, width = out.image_size
        logits = resize(logits, out.padded_size, align_corners=out.align_corners)[
            :, :, :height, :width
        ]
        if size == out.image_size:
            return logits
        return resize(logits, size, align_corners=False)
    return resize(logits, size, align_corners=out.align_corners)  # (B, K, *size)
