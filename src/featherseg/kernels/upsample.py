"""Bilinear upsampling with argmax: the full-resolution mask without the K x H x W scores.

Letters: B images, K classes, h x w the logits, H x W the output.
"""

from collections.abc import Callable
from functools import partial
from typing import Any, NamedTuple

import numpy as np

from featherseg.core.arrays import Array, as_float
from featherseg.core.errors import FeathersegError
from featherseg.core.types import Size
from featherseg.kernels import library

MOST_CLASSES = 256
THREAD_WORK = 2**22
"""Pixels x classes per thread that make starting it worthwhile."""


class Axis(NamedTuple):
    """Output place i is between the source places low[i] and low[i] + 1, at share[i] of the way.

    low is int32, share float32.
    """

    low: np.ndarray
    share: np.ndarray


def upsample_argmax(
    logits: Array, size: Size, align_corners: bool = False, crop: Size | None = None
) -> Array:
    """`interpolate(logits, size, mode="bilinear").argmax(1)`: (B, K, h, w) -> (B, H, W) uint8.

    The class is the same wherever the two best differ by more than 1e-5 of the logits' range; the
    lowest of equals counts. crop: (height, width) of the upper left part to return, for padded
    images; H x W is then the crop. Strides are arbitrary; other types are converted to float32. The
    mask is an array for an array, else a tensor on the logits' device. Uses the threads of
    `library.thread_count`. Raises FeathersegError for NaN, infinite values, more than 256 classes
    and impossible sizes.
    """
    crop = size if crop is None else crop
    _check(logits, size, crop)
    mask: Any
    rows = axis(logits.shape[2], size[0], crop[0], align_corners)
    columns = axis(logits.shape[3], size[1], crop[1], align_corners)
    logits = as_float(logits[:, :, : rows.low[-1] + 2, : columns.low[-1] + 2])
    if isinstance(logits, np.ndarray):
        mask = np.empty((len(logits), crop[0], crop[1]), np.uint8)
        finite = _fill(logits, mask, rows, columns)
    elif logits.device.type != "cpu":
        from featherseg.kernels import cuda

        mask, finite = cuda.upsample_argmax(logits.detach(), rows, columns)
    else:
        import torch

        mask = torch.empty((len(logits), crop[0], crop[1]), dtype=torch.uint8)
        finite = _fill(logits.detach().numpy(), mask.numpy(), rows, columns)
    if not finite:
        raise FeathersegError(
            "the logits contain NaN or infinite values, so no class can be chosen. Expected finite "
            "numbers; likely causes are a training that diverged, or overflow in half precision."
        )
    return mask


def axis(source: int, target: int, count: int, align_corners: bool) -> Axis:
    """Return the first `count` of `target` places over `source` ones, in float32 as torch does."""
    place = np.arange(count, dtype=np.float32)
    if align_corners:
        place *= np.float32(source - 1) / np.float32(max(target - 1, 1))
    else:
        half = np.float32(0.5)
        place = (place + half) * (np.float32(source) / np.float32(target)) - half
    # Limits of float32, because numpy 1 returns float64 for integers
    place = np.clip(place, np.float32(0), np.float32(source - 1))
    low = place.astype(np.int32)
    return Axis(low, place - low.astype(np.float32))


def _fill(logits: np.ndarray, mask: np.ndarray, rows: Axis, columns: Axis) -> bool:
    """Compute all images, in bands of rows that the threads share.

    logits (B, K, h, w) -> mask (B, H, W), written.
    """
    batch, height = mask.shape[:2]
    threads = max(1, min(library.thread_count(), mask.size * logits.shape[1] // THREAD_WORK))
    band = -(-height // threads)
    work: list[Callable[[], bool]] = [
        partial(
            library.kernels.upsample_argmax,
            logits[b],
            mask[b, s],
            rows.low[s],
            rows.share[s],
            *columns,
        )
        for b in range(batch)
        for s in (slice(start, start + band) for start in range(0, height, band))
    ]
    return all(library.run(work, threads))


def _check(logits: Array, size: Size, crop: Size) -> None:
    floats = (
        logits.dtype.kind == "f" if isinstance(logits, np.ndarray) else logits.is_floating_point()
    )
    if logits.ndim != 4 or not floats or min(logits.shape[1:]) < 1:
        raise FeathersegError(
            f"logits {tuple(logits.shape)} of {logits.dtype}: expected floating point (B, K, h, "
            "w), each at least 1."
        )
    if logits.shape[1] > MOST_CLASSES:
        raise FeathersegError(
            f"logits of {logits.shape[1]} classes: a mask of bytes has at most {MOST_CLASSES}."
        )
    if len(size) != 2 or min(size) < 1:
        raise FeathersegError(f"size = {tuple(size)}: expected (height, width), at least 1 each.")
    if len(crop) != 2 or min(crop) < 1 or crop[0] > size[0] or crop[1] > size[1]:
        raise FeathersegError(
            f"crop = {tuple(crop)}: expected (height, width) within the size {tuple(size)}."
        )
