"""Sizes: padding of images before a model, and the way of logits back to the image."""

from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor

from featherseg.core.types import Resize, SegOutput, Size
from featherseg.kernels import resize_bilinear
from featherseg.kernels.library import trains_here
from featherseg.layers.normalise import FULL_RANGE, normalise


def resize_factor(size: Size, fit: Resize | None) -> float:
    """Return the factor that makes an image of `size` as large as `fit` allows; 1 without `fit`."""
    return 1.0 if fit is None else min(fit[0] / min(size), fit[1] / max(size))


def resized(size: Size, fit: Resize | None) -> Size:
    """Return (height, width) of an image of `size` made as large as `fit` allows."""
    return scaled_size(size, resize_factor(size, fit))


def resize(x: Tensor, size: Size, *, align_corners: bool) -> Tensor:
    """Resize bilinearly, (B, C, h, w) -> (B, C, *size)."""
    if trains_here(x):
        return resize_bilinear(x, size, align_corners=align_corners)
    return F.interpolate(x, size=size, mode="bilinear", align_corners=align_corners)


def scale_images(images: Tensor, factor: float) -> Tensor:
    """Resize images for a model, antialiased: (B, C, H, W) -> (B, C, H * factor, W * factor)."""
    if factor == 1.0:
        return images
    size = scaled_size((images.shape[2], images.shape[3]), factor)
    return F.interpolate(images, size=size, mode="bilinear", align_corners=False, antialias=True)


def preprocess(
    images: Tensor,
    mean: Sequence[float],
    std: Sequence[float],
    fit: Resize | None,
    image_range: int = FULL_RANGE,
) -> Tensor:
    """Return images as a model sees them: normalised, as large as `fit` allows, (B, C, h, w)."""
    normal = normalise(images, mean, std, image_range)
    return scale_images(normal, resize_factor((images.shape[2], images.shape[3]), fit))


def scaled_size(size: Size, factor: float) -> Size:
    """Return (height, width) times a factor, in whole pixels."""
    height, width = (max(1, round(side * factor)) for side in size)
    return height, width


def pad_images(images: Tensor, *, divisor: int = 1, minimum: int = 1) -> tuple[Tensor, Size]:
    """Pad normalised images right and below with zeros; return (B, C, H', W') and (H', W').

    H' is the least multiple of `divisor` that is at least H and at least `minimum`; W' likewise.
    """
    height, width = images.shape[2:]
    rows, columns = padding(height, divisor, minimum), padding(width, divisor, minimum)
    if (
        torch.compiler.is_exporting() or rows or columns
    ):  # an exported graph must hold the pad for every size
        images = F.pad(images, (0, columns, 0, rows))
    return images, (height + rows, width + columns)


def padding(length: int, divisor: int, minimum: int) -> int:
    """Return the pixels that `pad_images` adds to a side of `length`."""
    target = torch.sym_max(length, minimum)
    return (target + divisor - 1) // divisor * divisor - length


def to_image(out: SegOutput, size: Size) -> Tensor:
    """Bring logits to the image's size: (B, K, h, w) -> (B, K, *size).

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
