"""Faults as people make them, planted into copies of masks: what the scorer learns from, and is measured by."""

import numpy as np
from scipy import ndimage

from featherseg.auditing.regions import components
from featherseg.core.types import IGNORE

FAULTS = ("dropped", "swapped", "shifted", "grown", "other")
"""A region left out; one of another class; a mask moved; a region too large; the mask of another image."""

SHIFT = (0.02, 0.06)
"""How far a mask is moved, in parts of the longer side."""

GROWN = (0.01, 0.03)
"""How far a region grows, in parts of the longer side."""


def plant(
    label: np.ndarray, fault: str, classes: int, rng: np.random.Generator, other: np.ndarray
) -> np.ndarray:
    """A copy of a mask (H, W) uint8 with one fault; the mask itself where it cannot have this one.

    Pixels that are ignored stay so. other (h, w): the mask of another image.
    """
    numbers, of = components(label)
    if fault == "other":
        rows = np.arange(label.shape[0]) * other.shape[0] // label.shape[0]
        columns = np.arange(label.shape[1]) * other.shape[1] // label.shape[1]
        made = other[rows[:, None], columns]
    elif fault == "shifted":
        far = rng.uniform(*SHIFT) * max(label.shape)
        angle = rng.uniform(0, 2 * np.pi)
        dy, dx = round(far * np.sin(angle)), round(far * np.cos(angle))
        rows = np.clip(np.arange(label.shape[0]) - dy, 0, label.shape[0] - 1)
        columns = np.clip(np.arange(label.shape[1]) - dx, 0, label.shape[1] - 1)
        made = label[rows[:, None], columns]
    elif not len(of):
        return label
    else:
        # No region that is most of the image is dropped or swapped: that a glance would show
        area = np.bincount(numbers.ravel(), minlength=len(of) + 1)[1:]
        fit = np.flatnonzero(area <= label.size / 4)
        if fault != "grown" and not (len(fit) and len(of) > 1):
            return label
        region = rng.choice(fit if len(fit) else np.arange(len(of))) + 1
        made, inside = label.copy(), numbers == region
        if fault == "dropped":  # what lies nearest takes its place
            _, (rows, columns) = ndimage.distance_transform_edt(
                inside | (label == IGNORE), return_indices=True
            )
            made[inside] = label[rows[inside], columns[inside]]
        elif fault == "swapped":
            made[inside] = (
                rng.choice([k for k in range(classes) if k != of[region - 1]]) if classes > 1 else 0
            )
        else:
            reach = max(1, round(rng.uniform(*GROWN) * max(label.shape)))
            made[ndimage.distance_transform_edt(~inside) <= reach] = of[region - 1]
    ignored = (label == IGNORE) | (made == IGNORE)
    return np.where(ignored, label, made).astype(np.uint8)
