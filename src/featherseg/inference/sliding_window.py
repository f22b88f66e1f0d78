"""Sliding window: rectangles that cover an image, and weights that blend their overlaps."""

from dataclasses import dataclass

import numpy as np

from featherseg.core.types import Size


@dataclass(frozen=True)
class Window:
    """A rectangle of the image, in pixels."""

    top: int
    left: int
    height: int
    width: int


def windows(size: Size, window: Size | None, overlap: float) -> list[Window]:
    """Return evenly spaced windows that cover an image.

    Neighbours share at least `overlap` of their side.
    """
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


def edge_weights(length: int, overlap: float) -> np.ndarray:
    """Return weights (length,) that rise linearly from the edges over the overlap, 1 between."""
    place = np.arange(length, dtype=np.float32) + np.float32(0.5)
    reach = np.float32(max(1.0, length * overlap))
    return np.minimum(np.minimum(place, length - place) / reach, np.float32(1))
