"""Ways to look at an image: whole, in overlapping windows, flipped, at several scales; all end in class scores.

A pass is one run of the model on one window, at one scale, perhaps flipped. Its logits are kept at the model's own
stride; the scores at full resolution are made from them block of rows by block of rows, so that K x H x W floats
exist only where they are asked for. Letters: B images of one size, K classes, H x W their size.
"""

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from featherseg.core.errors import ConfigError
from featherseg.core.types import Resize, SegOutput, Size
from featherseg.inference.panoptic import Panoptic, merge
from featherseg.inference.runtimes import Runtime
from featherseg.kernels import upsample_argmax
from featherseg.layers.normalise import normalise
from featherseg.layers.resize import resize, resize_factor, scale_images, to_image

BLOCK_BYTES = 32 * 2**20
"""How large a block of rows of full-resolution scores may be."""


@dataclass(frozen=True)
class InferenceSettings:
    """How an image is looked at. The default is the whole image, once.

    window: (height, width) in pixels of the image; None = whole. overlap: share of a window that its neighbour covers
    as well. resize: (short side, long side) in pixels that the image is brought to fit for the model, its ratio kept;
    None = its own size. scales: factors the image (or each window) is resized by on top of that. flip: also mirrored.
    Scores come at the image's own size, whatever the model saw.
    Raises ConfigError for values out of range.
    """

    window: Size | None = None
    overlap: float = 0.25
    scales: tuple[float, ...] = (1.0,)
    flip: bool = False
    resize: Resize | None = None

    def __post_init__(self) -> None:
        if not self.scales or any(not 0.001 <= s <= 10 for s in self.scales):
            raise ConfigError(f"scales = {list(self.scales)}: expected at least one factor from 0.001 to 10.")
        if self.window is not None and min(self.window) < 32:
            raise ConfigError(f"window = {_text(self.window)}: expected at least 32x32 pixels (height x width).")
        if not 0 <= self.overlap <= 0.9:
            raise ConfigError(f"overlap = {self.overlap}: expected a share from 0 to 0.9.")
        if self.resize is not None and not 1 <= self.resize[0] <= self.resize[1]:
            raise ConfigError(f"resize = {_text(self.resize)}: expected the short side first, at least 1 pixel.")

    def factors(self, size: Size) -> tuple[float, ...]:
        """What an image of `size` is resized by before the model, one factor a scale."""
        return tuple(resize_factor(size, self.resize) * scale for scale in self.scales)

    def __str__(self) -> str:
        """In words, for reports: "whole, fitted to 512x2048, flip, scales 0.75 1.0"."""
        words = ["whole" if self.window is None else f"windows of {_text(self.window)}"]
        words += [f"fitted to {_text(self.resize)}"] if self.resize else []
        words += ["flip"] if self.flip else []
        words += [f"scales {' '.join(map(str, self.scales))}"] if self.scales != (1.0,) else []
        return ", ".join(words)


@dataclass(frozen=True)
class Window:
    """A rectangle of the image, in pixels."""

    top: int
    left: int
    height: int
    width: int


@dataclass(frozen=True)
class Pass:
    """What one run of the model saw, and its logits at the model's stride."""

    window: Window
    out: SegOutput
    flipped: bool


def own_settings(runtime: Runtime) -> InferenceSettings:
    """How images are looked at unless told otherwise: whole, once, at the size that the model was validated at."""
    return InferenceSettings(resize=runtime.test_resize)


def predict_masks(runtime: Runtime, images: np.ndarray, inference: InferenceSettings | None = None) -> np.ndarray:
    """The class of every pixel: images (B, H, W, C) uint8 or uint16 -> (B, H, W) uint8; by default `own_settings`."""
    inference = inference or own_settings(runtime)
    return masks_of(passes_over(runtime, images, inference), images.shape[1:3], inference)


def predict_mask(runtime: Runtime, image: np.ndarray, inference: InferenceSettings | None = None) -> np.ndarray:
    """The class of every pixel of one image: (H, W, C) uint8 or uint16 -> (H, W) uint8."""
    return predict_masks(runtime, image[None], inference)[0]


@torch.inference_mode()
def predict_panoptic(
    runtime: Runtime, images: np.ndarray, inference: InferenceSettings | None = None
) -> list[tuple[np.ndarray, Panoptic]]:
    """Classes and objects: images (B, H, W, C) uint8 or uint16 -> of each its mask (H, W) uint8 and its segmentation.

    The model runs once, over the whole image. Raises ConfigError for an inference that asks for more.
    """
    assert runtime.panoptic is not None
    inference = inference or own_settings(runtime)
    check_panoptic(inference)
    size, things = images.shape[1:3], [i for i, info in enumerate(runtime.classes) if info.thing]
    (seen,) = passes_over(runtime, images, inference)
    out = seen.out
    assert out.centers is not None
    assert out.offsets is not None
    centers = to_image(out._replace(logits=out.centers), size)[:, 0]  # (B, H, W)
    offsets = to_image(out._replace(logits=out.offsets), size) / inference.factors(size)[0]  # (B, 2, H, W)
    masks = masks_of([seen], size, inference)
    return [
        (mask, merge(mask, center, offset, things, runtime.panoptic))
        for mask, center, offset in zip(masks, centers, offsets, strict=True)
    ]


def check_panoptic(inference: InferenceSettings) -> None:
    """Raises ConfigError for settings in which objects cannot be put together: windows, mirrored, several scales."""
    if inference.window is not None or inference.flip or len(inference.scales) > 1:
        raise ConfigError(
            f"a panoptic model looks at an image whole and once, not at {inference}: objects of several looks are not "
            f"put together. An image that is too large for the memory can be shrunk with --max-side."
        )


def probabilities(runtime: Runtime, image: np.ndarray, inference: InferenceSettings | None = None) -> Tensor:
    """Class probabilities of one image: (H, W, C) uint8 or uint16 -> (K, H, W) float32 on the CPU."""
    inference = inference or own_settings(runtime)
    passes = passes_over(runtime, image[None], inference)
    blocks = [scores[0] for _, scores in score_blocks(passes, image.shape[:2], inference)]
    scores = torch.cat([block.cpu() for block in blocks], dim=1)  # (K, H, W)
    return scores if _many(image.shape[:2], inference) else scores.softmax(dim=0)


def masks_of(passes: list[Pass], size: Size, inference: InferenceSettings) -> np.ndarray:
    """The class of every pixel after all passes over images of `size`: (B, H, W) uint8."""
    if len(passes) == 1:
        out = passes[0].out
        full = size if out.padded_size == out.image_size else out.padded_size
        return upsample_argmax(out.logits, full, out.align_corners, crop=size).cpu().numpy()
    masks = np.empty((len(passes[0].out.logits), *size), dtype=np.uint8)
    for start, scores in score_blocks(passes, size, inference):
        block = upsample_argmax(scores, (scores.shape[2], size[1]))  # (B, rows, W)
        masks[:, start : start + block.shape[1]] = block.cpu().numpy()
    return masks


@torch.inference_mode()
def score_blocks(passes: list[Pass], size: Size, inference: InferenceSettings) -> Iterator[tuple[int, Tensor]]:
    """(first row, scores (B, K, rows, W) float32) from top to bottom, on the runtime's device.

    Scores are logits where the model runs once, probabilities (means over the passes) where it runs several times.
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


def windows(size: Size, window: Size | None, overlap: float) -> list[Window]:
    """Windows that cover an image, evenly spaced, neighbours sharing at least `overlap` of their side."""
    height, width = size
    if window is None:
        return [Window(0, 0, height, width)]
    window_height, window_width = min(window[0], height), min(window[1], width)
    return [
        Window(top, left, window_height, window_width)
        for top in _starts(height, window_height, overlap)
        for left in _starts(width, window_width, overlap)
    ]


def _starts(length: int, window: int, overlap: float) -> list[int]:
    step = max(1, int(window * (1 - overlap)))
    count = 1 + -(-(length - window) // step)
    return [round(i * (length - window) / max(count - 1, 1)) for i in range(count)]


def _many(size: Size, inference: InferenceSettings) -> bool:
    """Whether the model runs more than once, so that scores are probabilities."""
    return inference.flip or len(inference.scales) > 1 or len(windows(size, inference.window, inference.overlap)) > 1


@torch.inference_mode()
def passes_over(runtime: Runtime, images: np.ndarray, inference: InferenceSettings) -> list[Pass]:
    """Every run of the model that `inference` asks for on images (B, H, W, C) uint8 or uint16."""
    return list(_run(runtime, images, inference))


def _run(runtime: Runtime, images: np.ndarray, inference: InferenceSettings) -> Iterator[Pass]:
    size = (images.shape[1], images.shape[2])
    for window in windows(size, inference.window, inference.overlap):
        crop = images[:, window.top : window.top + window.height, window.left : window.left + window.width]
        pixels = torch.from_numpy(np.array(crop, order="C")).to(runtime.device).permute(0, 3, 1, 2)  # (B, C, h, w)
        pixels = normalise(pixels, runtime.mean, runtime.std)
        for factor in inference.factors(size):
            scaled = scale_images(pixels, factor)  # (B, C, h * factor, w * factor)
            yield Pass(window, _native(runtime(scaled), window), flipped=False)
            if inference.flip:
                yield Pass(window, _native(runtime(scaled.flip(3)), window), flipped=True)


def _native(out: SegOutput, window: Window) -> SegOutput:
    """A padded model's logits for a resized image are brought to that image: rows are cut from these."""
    if out.padded_size == out.image_size or out.image_size == (window.height, window.width):
        return out

    def brought(x: Tensor | None) -> Tensor | None:
        return None if x is None else to_image(out._replace(logits=x), out.image_size)

    logits = to_image(out, out.image_size)  # (B, K, h * scale, w * scale)
    centers, offsets = brought(out.centers), brought(out.offsets)
    return SegOutput(logits, out.image_size, out.image_size, False, centers=centers, offsets=offsets)


def _rows(run: Pass, start: int, stop: int) -> Tensor:
    """Rows start..stop (of the window) of `to_image(out, window)`, (B, K, stop - start, w), without the others."""
    out, size = run.out, (run.window.height, run.window.width)
    full = size if out.padded_size == out.image_size else out.padded_size
    if (start, stop) == (0, size[0]):
        rows = to_image(out, size)
    else:
        rows = resize_rows(out.logits, full, start, stop, align_corners=out.align_corners)[..., : size[1]]
    return rows.flip(3) if run.flipped else rows


def resize_rows(x: Tensor, size: Size, start: int, stop: int, *, align_corners: bool) -> Tensor:
    """Rows start..stop of `layers.resize.resize(x, size)`: (B, C, h, w) -> (B, C, stop - start, W)."""
    height = x.shape[2]
    row = torch.arange(start, stop, device=x.device, dtype=torch.float32)
    if align_corners:
        source = row * ((height - 1) / max(size[0] - 1, 1))
    else:
        source = ((row + 0.5) * (height / size[0]) - 0.5).clamp(min=0.0)
    above = source.floor().long().clamp(max=height - 1)
    below = (above + 1).clamp(max=height - 1)
    share = (source - above).view(1, 1, -1, 1)
    lines = x[:, :, above] * (1 - share) + x[:, :, below] * share  # (B, C, rows, w)
    return resize(lines, (stop - start, size[1]), align_corners=align_corners)  # (B, C, rows, W)


def _blend(passes: list[Pass], start: int, stop: int, width: int, overlap: float) -> Tensor:
    """Mean probabilities of the rows start..stop, windows weighted down towards their edges: (B, K, rows, W)."""
    first = passes[0].out.logits
    total = first.new_zeros(first.shape[0], first.shape[1], stop - start, width)
    weights = first.new_zeros(stop - start, width)
    for run in passes:
        window = run.window
        upper, lower = max(start, window.top), min(stop, window.top + window.height)
        if upper >= lower:
            continue
        weight = _ramp(window.height, overlap, first)[upper - window.top : lower - window.top, None]
        weight = weight * _ramp(window.width, overlap, first)  # (rows, w)
        scores = _rows(run, upper - window.top, lower - window.top).softmax(dim=1)  # (B, K, rows, w)
        columns = slice(window.left, window.left + window.width)
        total[:, :, upper - start : lower - start, columns] += scores * weight
        weights[upper - start : lower - start, columns] += weight
    return total.div_(weights)


def _ramp(length: int, overlap: float, like: Tensor) -> Tensor:
    """Weights (length,) that rise linearly from the window's edges over the overlap, 1 between."""
    place = torch.arange(length, device=like.device, dtype=torch.float32) + 0.5
    reach = max(1.0, length * overlap)
    return (torch.minimum(place, length - place) / reach).clamp(max=1.0)


def _text(size: Size) -> str:
    return f"{size[0]}x{size[1]}"
