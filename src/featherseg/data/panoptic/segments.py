"""Panoptic segmentations as COCO has them, and the samples made from them.

A segmentation is (ids, segments): ids (H, W) int32, 0 = void, and for every other id of the map a
segment, `{"id", "category_id", "area", "bbox": [x, y, width, height], "iscrowd"}` in pixels. A
crowd is a region of things that are not told apart.
"""

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from featherseg.core.errors import DataError
from featherseg.core.types import IGNORE, ClassInfo
from featherseg.core.wording import first_few

Segment = dict[str, Any]
Panoptic = tuple[np.ndarray, list[Segment]]

CLASS_BITS = 8
"""Bits of a class id, which is joined with the number of an instance to one number."""

SHOWN_IDS = 5
"""Number of ids that a message names."""


def list_segments(
    ids: np.ndarray, category_of: Mapping[int, int], crowds: frozenset[int] = frozenset()
) -> Panoptic:
    """Return the segmentation of a map (H, W) of ids, with segments in the order of the ids.

    `category_of` must have every id of the map; `crowds` are the ids of crowds.
    """
    # Areas and boxes follow from runs of equal ids, which are far fewer than pixels
    values, starts, lengths = _runs(ids)
    known, numbers = np.unique(values, return_inverse=True)
    areas = np.bincount(numbers, lengths, len(known)).astype(np.int64)
    y, x = np.unravel_index(starts, ids.shape)
    boxes = _boxes(numbers, len(known), y, x, lengths)
    segments = [
        {
            "id": number,
            "category_id": category_of[number],
            "area": area,
            "bbox": box,
            "iscrowd": int(number in crowds),
        }
        for number, area, box in zip(known.tolist(), areas.tolist(), boxes.tolist(), strict=True)
        if number != 0
    ]
    return ids.astype(np.int32), segments


def to_sample(
    ids: np.ndarray,
    segments: Sequence[Mapping[str, Any]],
    class_of: Mapping[int, int],
    classes: Sequence[ClassInfo],
) -> tuple[np.ndarray, np.ndarray]:
    """Return label (H, W) uint8 and instances (H, W) int32 of a `Sample`.

    An instance has the id of its segment, a crowd of things its negative, stuff and void have 0.
    `class_of` maps category ids to class ids.
    """
    order = np.argsort([0, *(segment["id"] for segment in segments)])
    known = np.zeros(len(order), np.int64)
    label, instance = np.zeros(len(order), np.uint8), np.zeros(len(order), np.int32)
    label[0] = IGNORE
    for row, segment in enumerate(segments, start=1):
        known[row], label[row] = segment["id"], class_of[segment["category_id"]]
        if classes[label[row]].thing:
            instance[row] = -segment["id"] if segment.get("iscrowd") else segment["id"]
    # Look up each run, not each pixel
    values, _, lengths = _runs(ids)
    rows = order[np.searchsorted(known[order], values)]  # (R,)
    labels, instances = (of_row[rows].repeat(lengths) for of_row in (label, instance))
    return labels.reshape(ids.shape), instances.reshape(ids.shape)


def from_sample(
    label: np.ndarray,
    instances: np.ndarray,
    classes: Sequence[ClassInfo],
    category_ids: Sequence[int],
) -> Panoptic:
    """Return the segmentation of a sample; `category_ids` has the category id of every class.

    There is a segment for each class of stuff and each instance, with new ids: stuff has class id
    + 1, instances the numbers above. Pixels of a thing without an instance are a crowd with class
    id + 1.
    """
    kinds = len(classes)
    thing = np.zeros(IGNORE + 1, dtype=bool)
    thing[:kinds] = [info.thing for info in classes]

    # Instance and class as one number; those of things get new ids above the classes
    joined, _, lengths = _runs(instances.astype(np.int64) << CLASS_BITS | label)
    of_class = joined & IGNORE  # (R,)
    with_instance = thing[of_class] & (joined >> CLASS_BITS != 0)
    pairs, numbers = np.unique(joined[with_instance], return_inverse=True)  # instance and class
    runs = np.where(of_class == IGNORE, 0, of_class + 1)
    runs[with_instance] = kinds + 1 + numbers
    ids = runs.astype(np.int32).repeat(lengths).reshape(label.shape)

    # The category of each id, and the ids of crowds: things without an instance, or below 0
    of_instances = [category_ids[pair & IGNORE] for pair in pairs.tolist()]
    category_of = dict(enumerate([0, *category_ids, *of_instances]))
    crowds = [index + 1 for index, info in enumerate(classes) if info.thing]
    crowds += [kinds + 1 + number for number, pair in enumerate(pairs.tolist()) if pair < 0]
    return list_segments(ids, category_of, frozenset(crowds))


def check_agreement(ids: np.ndarray, segments: Sequence[Mapping[str, Any]], name: str) -> None:
    """Raise DataError, naming `name`, if map and list of segments do not have the same ids."""
    drawn = set(np.unique(_runs(ids)[0]).tolist()) - {0}
    listed = {segment["id"] for segment in segments}
    for strangers, verb, other in (
        (sorted(drawn - listed), "draws", "its annotation does not list"),
        (sorted(listed - drawn), "lists", "no pixel has"),
    ):
        if strangers:
            raise DataError(
                f"{name} {verb} the segment id {first_few(strangers, SHOWN_IDS)}, which {other}. "
                "PNG and JSON do not belong together."
            )


def _runs(ids: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Return value, flat start and length (R,) of each run of one value in rows of ids (H, W)."""
    new = np.ones(ids.shape, dtype=bool)
    new[:, 1:] = ids[:, 1:] != ids[:, :-1]
    starts = np.flatnonzero(new)
    return ids.ravel()[starts], starts, np.diff(starts, append=ids.size)


def _boxes(
    numbers: np.ndarray, count: int, y: np.ndarray, x: np.ndarray, lengths: np.ndarray
) -> np.ndarray:
    """Return x, y, width, height of the runs (R,) of each number, (count, 4); y, x: their start."""
    first, last = np.full((count, 2), np.iinfo(np.int64).max), np.zeros((count, 2), dtype=np.int64)
    np.minimum.at(first, numbers, np.stack([x, y], axis=1))
    np.maximum.at(last, numbers, np.stack([x + lengths, y + 1], axis=1))
    return np.concatenate([first, last - first], axis=1)
