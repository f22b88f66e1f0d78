"""Numpy arrays, which exported files take, and tensors, which torch models take, alike.

torch is not imported for arrays. Letters: B images, C channels, H x W.
"""

from __future__ import annotations

import sys
from collections.abc import Callable
from functools import wraps
from typing import TYPE_CHECKING, Any, ParamSpec, TypeVar

import numpy as np

if TYPE_CHECKING:
    from torch import Tensor

Array = TypeVar("Array", np.ndarray, "Tensor")

SOFTMAX_VALUES = 2**17
"""Values of an array whose softmax is computed at a time, so that they stay in the cache."""

Given = ParamSpec("Given")
Result = TypeVar("Result")


def is_tensor(x: object) -> bool:
    """Whether x is a tensor of torch."""
    torch = sys.modules.get("torch")  # without it there is none
    return torch is not None and isinstance(x, torch.Tensor)


def like(values: np.ndarray, x: Array) -> Array:
    """Return an array as what x is: an array, or a tensor on the device of x."""
    if isinstance(x, np.ndarray):
        return values
    import torch

    return torch.from_numpy(values).to(x.device)


def to_numpy(x: Any) -> np.ndarray:
    """Return an array as it is, and a tensor on any device as an array."""
    return x if isinstance(x, np.ndarray) else x.detach().cpu().numpy()


def as_float(x: Array) -> Array:
    """Return x in float32; without a copy if it is already."""
    return x.astype(np.float32, copy=False) if isinstance(x, np.ndarray) else x.float()


def as_half(x: Array) -> Array:
    """Return x in float16."""
    return x.astype(np.float16) if isinstance(x, np.ndarray) else x.half()


def highest(scores: Array) -> Array:
    """Return the highest score of a class at each place: (B, K, H, W) -> (B, H, W)."""
    return scores.max(axis=1) if isinstance(scores, np.ndarray) else scores.amax(dim=1)


def mirrored(x: Array) -> Array:
    """Return images (B, C, H, W) with left and right exchanged."""
    return x[..., ::-1] if isinstance(x, np.ndarray) else x.flip(3)


def softmax(scores: Array, weights: np.ndarray | None = None) -> Array:
    """Return the softmax over the classes of (B, K, H, W), times the weights (H, W) if given."""
    if not isinstance(scores, np.ndarray):
        shares = scores.softmax(dim=1)
        return shares if weights is None else shares * like(weights, shares)
    values = np.empty(scores.shape, np.float32)
    step = max(1, SOFTMAX_VALUES * scores.shape[2] // max(scores.size, 1))
    for start in range(0, scores.shape[2], step):
        rows = slice(start, start + step)
        part, given = values[:, :, rows], scores[:, :, rows]
        np.subtract(given, given.max(axis=1, keepdims=True), out=part)
        np.exp(part, out=part)
        part *= (np.float32(1) if weights is None else weights[rows]) / part.sum(1, keepdims=True)
    return values


def without_gradients(function: Callable[Given, Result]) -> Callable[Given, Result]:
    """Run a function, or a generator, in torch's inference mode, if torch is imported."""

    @wraps(function)
    def call(*args: Given.args, **options: Given.kwargs) -> Result:
        torch = sys.modules.get("torch")
        inner = function if torch is None else torch.inference_mode()(function)
        return inner(*args, **options)

    return call
