"""What a model predicts for images: the class of every pixel, objects, or class probabilities."""

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import numpy as np

from featherseg.core.arrays import softmax, to_numpy, without_gradients
from featherseg.core.machine import default_threads, torch_threads
from featherseg.core.types import Size
from featherseg.inference.panoptic import Panoptic, merge
from featherseg.inference.runtimes import Runtime
from featherseg.inference.settings import InferenceSettings, check_panoptic, own_settings
from featherseg.inference.soft_output import SoftKind, agreeing, soft_output
from featherseg.inference.test_time_augmentation import Pass, masks_of, passes_over, score_blocks
from featherseg.kernels.library import own_threads
from featherseg.layers.resize import to_image


def predict_masks(
    runtime: Runtime, images: np.ndarray, inference: InferenceSettings | None = None
) -> np.ndarray:
    """Return the class of every pixel: (B, H, W, C) uint8 or uint16 -> (B, H, W) uint8.

    inference: by default `own_settings` of the runtime.
    """
    inference = inference or own_settings(runtime)
    with threads_of(runtime):
        return masks_of(passes_over(runtime, images, inference), images.shape[1:3], inference)


def predict_mask(
    runtime: Runtime, image: np.ndarray, inference: InferenceSettings | None = None
) -> np.ndarray:
    """Return the class of every pixel of one image: (H, W, C) uint8 or uint16 -> (H, W) uint8."""
    return predict_masks(runtime, image[None], inference)[0]


@without_gradients
def predict_panoptic(
    runtime: Runtime, images: np.ndarray, inference: InferenceSettings | None = None
) -> list[tuple[np.ndarray, Panoptic]]:
    """Return the mask (H, W) uint8 and the objects of each image (B, H, W, C) uint8 or uint16.

    The model runs once, on the whole image.

    Raises:
        ConfigError: The settings ask for several passes.
    """
    assert runtime.panoptic is not None
    inference = inference or own_settings(runtime)
    check_panoptic(inference)
    size, things = images.shape[1:3], [i for i, info in enumerate(runtime.classes) if info.thing]
    with threads_of(runtime):
        (only,) = passes_over(runtime, images, inference)
        out = only.out
        assert out.centers is not None
        assert out.offsets is not None
        centers = to_image(out._replace(logits=out.centers), size)[:, 0]  # (B, H, W)
        offsets = (
            to_image(out._replace(logits=out.offsets), size) / inference.factors(size)[0]
        )  # (B, 2, H, W)
        masks = masks_of([only], size, inference)
        return [
            (mask, merge(mask, center, offset, things, runtime.panoptic))
            for mask, center, offset in zip(masks, centers, offsets, strict=True)
        ]


@without_gradients
def predict_soft(
    runtime: Runtime, images: np.ndarray, inference: InferenceSettings, kind: SoftKind
) -> list[tuple[np.ndarray, np.ndarray]]:
    """Return the mask (H, W) uint8 and the `soft_output` of each image (B, H, W, C), on the CPU."""
    size = images.shape[1:3]
    with threads_of(runtime):
        passes = passes_over(runtime, images, inference)
        masks = masks_of(passes, size, inference)
        shape = (
            (len(images), len(runtime.classes), *size)
            if kind == "probabilities"
            else (len(images), *size)
        )
        soft = np.empty(shape, dtype=np.float16 if kind == "probabilities" else np.uint8)
        for start, block in probability_blocks(passes, size, inference):
            rows = slice(start, start + block.shape[2])
            soft[..., rows, :] = soft_output(block, masks[:, rows], kind)
    return list(zip(masks, soft, strict=True))


@without_gradients
def probabilities(
    runtime: Runtime, image: np.ndarray, inference: InferenceSettings | None = None
) -> np.ndarray:
    """Return class probabilities of one image (H, W, C) uint8 or uint16: (K, H, W) float32.

    In every pixel the class of `predict_mask` has the highest one.
    """
    inference = inference or own_settings(runtime)
    with threads_of(runtime):
        passes = passes_over(runtime, image[None], inference)
        mask = masks_of(passes, image.shape[:2], inference)
        blocks = [
            to_numpy(block) for _, block in probability_blocks(passes, image.shape[:2], inference)
        ]
        return agreeing(np.concatenate(blocks, axis=2), mask)[0]  # (K, H, W)


def probability_blocks(
    passes: list[Pass], size: Size, inference: InferenceSettings
) -> Iterator[tuple[int, Any]]:
    """Yield (first row, probabilities (B, K, rows, W) float32) from top to bottom."""
    for start, scores in score_blocks(passes, size, inference):
        yield start, scores if len(passes) > 1 else softmax(scores)


@contextmanager
def threads_of(runtime: Runtime) -> Iterator[None]:
    """Let the work around a model use the runtime's threads: torch's, or a file's own."""
    threads: int | None = getattr(runtime, "threads", None)
    if getattr(runtime, "own_threads", False):
        with own_threads(threads or default_threads()):
            yield
    else:
        with torch_threads(threads):
            yield
