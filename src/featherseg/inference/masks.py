"""What a model predicts for images: the class of every pixel, objects, or class probabilities."""

from collections.abc import Iterator
from contextlib import contextmanager, nullcontext

import numpy as np
import torch
from torch import Tensor

from featherseg.core.machine import torch_threads
from featherseg.inference.panoptic import Panoptic, merge
from featherseg.inference.runtimes import Runtime
from featherseg.inference.settings import InferenceSettings, check_panoptic, own_settings
from featherseg.inference.test_time_augmentation import masks_of, passes_over, score_blocks
from featherseg.kernels.library import beside_other_threads
from featherseg.layers.resize import to_image


def predict_masks(runtime: Runtime, images: np.ndarray, inference: InferenceSettings | None = None) -> np.ndarray:
    """The class of every pixel: images (B, H, W, C) uint8 or uint16 -> (B, H, W) uint8; by default `own_settings`."""
    inference = inference or own_settings(runtime)
    with threads_of(runtime):
        return masks_of(passes_over(runtime, images, inference), images.shape[1:3], inference)


def predict_mask(runtime: Runtime, image: np.ndarray, inference: InferenceSettings | None = None) -> np.ndarray:
    """The class of every pixel of one image: (H, W, C) uint8 or uint16 -> (H, W) uint8."""
    return predict_masks(runtime, image[None], inference)[0]


@torch.inference_mode()
def predict_panoptic(
    runtime: Runtime, images: np.ndarray, inference: InferenceSettings | None = None
) -> list[tuple[np.ndarray, Panoptic]]:
    """Classes and objects: images (B, H, W, C) uint8 or uint16 -> of each its mask (H, W) uint8 and its segmentation.

    The model runs once, over the whole image. Raises ConfigError for settings that ask for more.
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
        offsets = to_image(out._replace(logits=out.offsets), size) / inference.factors(size)[0]  # (B, 2, H, W)
        masks = masks_of([only], size, inference)
        return [
            (mask, merge(mask, center, offset, things, runtime.panoptic))
            for mask, center, offset in zip(masks, centers, offsets, strict=True)
        ]


def probabilities(runtime: Runtime, image: np.ndarray, inference: InferenceSettings | None = None) -> Tensor:
    """Class probabilities of one image: (H, W, C) uint8 or uint16 -> (K, H, W) float32 on the CPU."""
    inference = inference or own_settings(runtime)
    with threads_of(runtime):
        passes = passes_over(runtime, image[None], inference)
        blocks = [scores[0] for _, scores in score_blocks(passes, image.shape[:2], inference)]
    scores = torch.cat([block.cpu() for block in blocks], dim=1)  # (K, H, W)
    return scores if len(passes) > 1 else scores.softmax(dim=0)


@contextmanager
def threads_of(runtime: Runtime) -> Iterator[None]:
    """Meanwhile torch has the runtime's number of threads, or one where the model runs on threads of its own."""
    beside = beside_other_threads if getattr(runtime, "own_threads", False) else nullcontext
    with torch_threads(getattr(runtime, "threads", None)), beside():
        yield
