"""Plant faults, as people make them, into copies of masks, for the scorer to learn from."""

import numpy as np
from scipy import ndimage

from featherseg.auditing.regions import components
from featherseg.core.types import IGNORE

FAULTS = ("dropped", "swapped", "shifted", "grown", "other")
"""A region is missing, or of another class; a mask is moved; a region is too large; the mask is
that of another image.
"""

SHIFT = (0.02, 0.06)
"""Distance by which a mask is moved, as a share of the longer side."""

GROWN = (0.01, 0.03)
"""Distance by which a region grows, as a share of the longer side."""


def plant(
    label: np.ndarray, fault: str, classes: int, rng: np.random.Generator, other: np.ndarray
) -> np.ndarray:
    """Return a copy of a mask (H, W) uint8 with one fault; the mask itself if it cannot have it.

    Ignored pixels stay ignored. other (h, w): the mask of another image.
    """
    height, width = label.shape
    if fault == "other":
        rows = np.arange(height) * other.shape[0] // height
        columns = np.arange(width) * other.shape[1] // width
        faulty = other[rows[:, None], columns]
    elif fault == "shifted":
        distance = rng.uniform(*SHIFT) * max(label.shape)
        angle = rng.uniform(0, 2 * np.pi)
        dy, dx = round(distance * np.sin(angle)), round(distance * np.cos(angle))
        rows = np.clip(np.arange(height) - dy, 0, height - 1)
        columns = np.clip(np.arange(width) - dx, 0, width - 1)
        faulty = label[rows[:, None], columns]
    else:
        numbers, class_of = components(label)
        # No region that is most of the image is dropped or swapped: a glance would show that
        area = np.bincount(numbers.ravel(), minlength=len(class_of) + 1)[1:]
        small = np.flatnonzero(area <= label.size / 4)
        enough = len(small) and len(class_of) > 1
        if not len(class_of) or (fault != "grown" and not enough):
            return label
        region = rng.choice(small if len(small) else np.arange(len(class_of))) + 1
        faulty, inside = label.copy(), numbers == region
        if fault == "dropped":  # the nearest other pixels take its place
            _, (rows, columns) = ndimage.distance_transform_edt(
                inside | (label == IGNORE), return_indices=True
            )
            faulty[inside] = label[rows[inside], columns[inside]]
        elif fault == "swapped":
            others = [k for k in range(classes) if k != class_of[region - 1]]
            faulty[inside] = rng.choice(others) if classes > 1 else 0
        else:
            reach = max(1, round(rng.uniform(*GROWN) * max(label.shape)))
            faulty[ndimage.distance_transform_edt(~inside) <= reach] = class_of[region - 1]
    ignored = (label == IGNORE) | (faulty == IGNORE)
    return np.where(ignored, label, faulty).astype(np.uint8)
