"""Test-time augmentation: the mean over windows, scales and mirrored images.

A pass is one run of the model on one window, at one scale, perhaps flipped. Its logits are kept at
the model's stride. Scores at full resolution are computed from them in blocks of rows, so that
K x H x W floats exist only if they are asked for. Letters: B images of one size, K classes, H x W
their size.
"""

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np

from featherseg.core.arrays import (
    Array,
    like,
    mirrored,
    softmax,
    to_numpy,
    without_gradients,
)
from featherseg.core.types import SegOutput, Size
from featherseg.inference.runtimes import Runtime
from featherseg.inference.settings import InferenceSettings
from featherseg.inference.sliding_window import Window, edge_weights, windows
from featherseg.kernels.upsample import upsample_argmax
from featherseg.layers.normalise import normalise
from featherseg.layers.resize import resize, resize_array, scale_images, to_image

BLOCK_BYTES = 32 * 2**20
"""Most bytes of a block of rows of full-resolution scores."""


@dataclass(frozen=True)
class Pass:
    """One run of the model: its window, its output at the model's stride, whether it is flipped."""

    window: Window
    out: SegOutput
    flipped: bool


@without_gradients
def passes_over(runtime: Runtime, images: np.ndarray, inference: InferenceSettings) -> list[Pass]:
    """Run the model as `inference` says on images (B, H, W, C) uint8 or uint16."""
    size = (images.shape[1], images.shape[2])
    passes = []
    for window in windows(size, inference.window, inference.overlap):
        # Crop, normalise, then one pass for each scale and mirrored image
        crop = images[
            :, window.top : window.top + window.height, window.left : window.left + window.width
        ]
        planes = on_device(runtime, crop)  # (B, C, h, w)
        pixels = normalise(planes, runtime.mean, runtime.std, runtime.image_range)
        for factor in inference.factors(size):
            scaled = scale_images(pixels, factor)  # (B, C, h * factor, w * factor)
            passes.append(Pass(window, native(runtime(scaled), window), flipped=False))
            if inference.flip:
                passes.append(Pass(window, native(runtime(mirrored(scaled)), window), flipped=True))
    return passes


def on_device(runtime: Runtime, images: np.ndarray) -> Any:
    """Return images (B, H, W, C) as planes (B, C, H, W): an array, or a tensor on its device."""
    if runtime.device is None:
        return images.transpose(0, 3, 1, 2)
    import torch

    return torch.from_numpy(np.array(images, order="C")).to(runtime.device).permute(0, 3, 1, 2)


def native(out: SegOutput, window: Window) -> SegOutput:
    """Resize the logits of a padded model to the resized image, without the padding."""
    size = out.image_size
    if out.padded_size == size or size == (window.height, window.width):
        return out
    logits, centers, offsets = (
        None if x is None else to_image(out._replace(logits=x), size)
        for x in (out.logits, out.centers, out.offsets)
    )
    assert logits is not None  # (B, K, h * scale, w * scale)
    return SegOutput(logits, size, size, False, centers=centers, offsets=offsets)


def masks_of(passes: list[Pass], size: Size, inference: InferenceSettings) -> np.ndarray:
    """Return the class of every pixel after all passes over images of `size`: (B, H, W) uint8."""
    if len(passes) == 1:
        out = passes[0].out
        full = size if out.padded_size == out.image_size else out.padded_size
        return to_numpy(upsample_argmax(out.logits, full, out.align_corners, crop=size))
    masks = np.empty((len(passes[0].out.logits), *size), dtype=np.uint8)
    for start, scores in score_blocks(passes, size, inference):
        block = upsample_argmax(scores, (scores.shape[2], size[1]))  # (B, rows, W)
        masks[:, start : start + block.shape[1]] = to_numpy(block)
    return masks


@without_gradients
def score_blocks(
    passes: list[Pass], size: Size, inference: InferenceSettings
) -> Iterator[tuple[int, Any]]:
    """Yield (first row, scores (B, K, rows, W) float32) from top to bottom.

    Scores are arrays for a file, else tensors on the runtime's device: logits after one pass, mean
    probabilities after several.
    """
    height, width = size
    batch, classes = passes[0].out.logits.shape[:2]
    rows = max(1, BLOCK_BYTES // (4 * batch * classes * width))
    for start in range(0, height, rows):
        stop = min(start + rows, height)
        if len(passes) == 1:
            yield start, _rows(passes[0], start, stop)
        else:
            yield start, _blend(passes, start, stop, width, inference.overlap)


def _rows(run: Pass, start: int, stop: int) -> Any:
    """Return rows start..stop of `to_image(out, window)`: (B, K, stop - start, w)."""
    out, size = run.out, (run.window.height, run.window.width)
    full = size if out.padded_size == out.image_size else out.padded_size
    if (start, stop) == (0, size[0]):
        rows = to_image(out, size)
    else:
        rows = resize_rows(out.logits, full, start, stop, align_corners=out.align_corners)[
            ..., : size[1]
        ]
    return mirrored(rows) if run.flipped else rows


def resize_rows(x: Array, size: Size, start: int, stop: int, *, align_corners: bool) -> Array:
    """Return rows start..stop of `layers.resize.resize(x, size)`: (B, C, stop - start, W)."""
    if isinstance(x, np.ndarray):
        return resize_array(x, size, align_corners=align_corners, rows=slice(start, stop))
    height = x.shape[2]
    row = np.arange(start, stop, dtype=np.float32)
    if align_corners:
        source = row * np.float32((height - 1) / max(size[0] - 1, 1))
    else:
        half = np.float32(0.5)
        source = np.maximum((row + half) * np.float32(height / size[0]) - half, np.float32(0))
    above = np.minimum(source.astype(np.int64), height - 1)
    below = np.minimum(above + 1, height - 1)
    share = like((source - above.astype(np.float32)).reshape(1, 1, -1, 1), x)
    lines = x[:, :, like(above, x)] * (1 - share) + x[:, :, like(below, x)] * share
    return resize(lines, (stop - start, size[1]), align_corners=align_corners)  # (B, C, rows, W)


def _blend(passes: list[Pass], start: int, stop: int, width: int, overlap: float) -> Any:
    """Return mean probabilities of rows start..stop: (B, K, rows, W). Window edges weigh less."""
    first = passes[0].out.logits
    total = like(np.zeros((*first.shape[:2], stop - start, width), np.float32), first)
    weights = np.zeros((stop - start, width), np.float32)
    for run in passes:
        window = run.window
        upper, lower = max(start, window.top), min(stop, window.top + window.height)
        if upper >= lower:
            continue
        weight = edge_weights(window.height, overlap)[upper - window.top : lower - window.top, None]
        weight = weight * edge_weights(window.width, overlap)  # (rows, w)
        scores = _rows(run, upper - window.top, lower - window.top)  # (B, K, rows, w)
        columns = slice(window.left, window.left + window.width)
        total[:, :, upper - start : lower - start, columns] += softmax(scores, weight)
        weights[upper - start : lower - start, columns] += weight
    total /= like(weights, first)
    return total
