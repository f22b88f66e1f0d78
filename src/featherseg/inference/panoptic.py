"""From classes, centres and offsets to a panoptic segmentation (Cheng et al., CVPR 2020, Sec. 3.3).

Every pixel of a class with instances belongs to the centre nearest to where its offset points.
Distances are computed for those pixels alone, a few rows at a time, so that memory does not grow
with pixels times centres. The authors' code cuts the centres below the k-th; here exactly the
`top_k` best are kept.
"""

from collections.abc import Collection
from typing import Any, NamedTuple

import numpy as np

from featherseg.core.arrays import Array, like, to_numpy, without_gradients
from featherseg.core.types import IGNORE
from featherseg.recipe.panoptic import PanopticTable

CHUNK_BYTES = 4 * 2**20
"""Most bytes of a block of distances, pixels x centres in float32; three exist at a time."""


class Panoptic(NamedTuple):
    """A panoptic segmentation: ids (H, W) int32, 0 = void, and the segments.

    A segment is {"id", "category_id": class id, "area": pixels, "iscrowd": 0}; an instance also has
    "score", 0..1, the value of its centre. Instances come first, by score, then stuff by class.
    """

    ids: np.ndarray
    segments: list[dict[str, Any]]


@without_gradients
def merge(
    mask: np.ndarray,
    centers: Array,
    offsets: Array,
    things: Collection[int],
    settings: PanopticTable,
) -> Panoptic:
    """Return the panoptic segmentation of one image.

    An instance has the class of most of its pixels; ties go to the lower id. Void are the void
    pixels of the mask, pixels of things without a centre, and stuff that is too small.

    Args:
        mask: (H, W) uint8 class ids, 255 = void.
        centers: (H, W), the centre map, an array or a tensor.
        offsets: (2, H, W), (dy, dx) in pixels, as the centre map and on the same device.
        things: Ids of the classes with instances.
        settings: Thresholds.
    """
    of_thing = np.isin(np.arange(IGNORE + 1), list(things))  # (256,)
    positions, scores = find_centers(centers, settings)  # (K, 2), (K,)
    numbers = nearest_centers(of_thing[mask], offsets, positions)  # (H, W): 1..K, 0 = none
    # Pixels of every class in every instance; the first row is for pixels of no instance
    votes = _count(numbers, mask, rows=len(scores) + 1)

    segments: list[dict[str, Any]] = []
    instance_id, stuff_id = np.zeros(len(votes), np.int32), np.zeros(IGNORE + 1, np.int32)
    for number, score in enumerate(scores.tolist(), start=1):
        if votes[number].any():
            segments.append(
                _segment(len(segments) + 1, votes[number].argmax(), votes[number].sum())
            )
            segments[-1]["score"] = min(score, 1.0)
            instance_id[number] = len(segments)
    for category, area in enumerate(votes[0, :IGNORE]):
        if area >= max(settings.stuff_area, 1) and not of_thing[category]:
            segments.append(_segment(len(segments) + 1, category, area))
            stuff_id[category] = len(segments)
    return Panoptic(np.where(numbers > 0, instance_id[numbers], stuff_id[mask]), segments)


def find_centers(heat: Array, settings: PanopticTable) -> tuple[np.ndarray, np.ndarray]:
    """Return the `top_k` best local maxima of a centre map (H, W), best first.

    These are (row, column) (K, 2) int64, and values (K,). Ties: the upper, then the left one.
    """
    highest = _highest_around(_highest_around(heat, settings.kernel).T, settings.kernel).T  # (H, W)
    # From top to bottom, left to right
    is_center = to_numpy((heat == highest) & (heat > settings.threshold))
    positions = np.argwhere(is_center)
    values = to_numpy(heat[like(positions[:, 0], heat), like(positions[:, 1], heat)])
    best = np.argsort(-values, kind="stable")[: settings.top_k]
    return positions[best], values[best]


def _highest_around(heat: Array, kernel: int) -> Array:
    """Return the highest value of `kernel` rows around each row of a map (H, W)."""
    highest = heat + 0
    for away in range(1, min(kernel // 2, len(heat) - 1) + 1):
        for one, other in ((highest[away:], heat[:-away]), (highest[:-away], heat[away:])):
            if isinstance(one, np.ndarray):
                np.maximum(one, other, out=one)
            else:
                one.copy_(one.maximum(other))
    return highest


def nearest_centers(on_thing: np.ndarray, offsets: Array, positions: np.ndarray) -> np.ndarray:
    """Return the nearest centre of each pixel of things: (H, W) int32, 1..K, 0 elsewhere.

    Ties go to the first centre. on_thing (H, W) bool, offsets (2, H, W), positions (K, 2).
    """
    numbers = np.zeros(on_thing.shape, np.int32)
    if len(positions) == 0:
        return numbers
    center_rows, center_columns = (
        like(places.astype(np.float32), offsets) for places in positions.T
    )  # (K,) each
    block = max(1, CHUNK_BYTES // (4 * len(positions) * on_thing.shape[1]))  # rows
    for first in range(0, len(on_thing), block):
        rows, columns = np.nonzero(on_thing[first : first + block])  # (N,) each
        rows += first
        row, column = like(rows, offsets), like(columns, offsets)
        place = like(rows.astype(np.float32), offsets), like(columns.astype(np.float32), offsets)
        dy = (offsets[0, row, column] + place[0])[:, None] - center_rows  # (N, K)
        dx = (offsets[1, row, column] + place[1])[:, None] - center_columns
        dy *= dy
        dx *= dx
        dy += dx
        numbers[rows, columns] = to_numpy(dy.argmin(1)) + 1
    return numbers


def _count(numbers: np.ndarray, mask: np.ndarray, rows: int) -> np.ndarray:
    """Return pixels of every class in every numbered part: (rows, 256)."""
    pairs = numbers * (IGNORE + 1) + mask
    return np.bincount(pairs.ravel(), minlength=rows * (IGNORE + 1)).reshape(rows, IGNORE + 1)


def _segment(number: int, category: int, area: int) -> dict[str, Any]:
    return {"id": number, "category_id": int(category), "area": int(area), "iscrowd": 0}
