"""The regions of a mask and of a prediction, and what tells a wrong region from a right one.

Letters: (H, W) the size at which an image is audited, K classes, N regions, F features.
"""

from dataclasses import dataclass

import numpy as np
from scipy import ndimage

from featherseg.core.types import IGNORE

KINDS = ("labelled", "predicted")
"""A region is connected pixels of one class of the given mask, or of the prediction."""

SMALLEST = 12
"""Pixels of a region, at the size that is audited: of smaller ones an edge is all there is."""

MOST = 100
"""Regions of a kind that one image may have, the largest: a noisy prediction has thousands."""

EDGE = 2
"""Pixels from another region that count as the edge, at the size that is audited."""

FEATURES = (
    "given",  # mean probability of the given label
    "given_log",  # mean of its -log
    "best",  # mean probability of the predicted class
    "margin",  # mean of best - given
    "entropy",  # of the probabilities, 1 = all classes alike
    "differs_inside",  # share of the pixels away from the edge where mask and prediction differ
    "differs_edge",  # share of those at the edge
    "given_edge",  # mean probability of the given label at the edge
    "own_inside",  # mean probability of the region's own class
    "own_outside",  # the same one pixel outside
    "neighbour_inside",  # mean probability of the class across the border, one pixel inside
    "differs_outside",  # share of the pixels just outside where mask and prediction differ
    "size",  # log of the share of the image
    "edge_share",  # of its pixels
    "extent",  # share of its box
    "border",  # share of its pixels that lie at the border of the image
    "y",  # of its middle, 0..1
    "x",
    "class",
    "neighbour_class",  # the mean number of the class across the border
    "class_share",  # of the class in the image
    "predicted",  # 1 for a region of the prediction
)


@dataclass(frozen=True)
class Regions:
    """N regions: kind (index of KINDS), class, box (x, y, width, height), FEATURES; and where they are.

    numbers (2, H, W): of either kind 1 + the index of the region at every pixel, 0 = of none.
    """

    kinds: np.ndarray
    classes: np.ndarray
    boxes: np.ndarray
    features: np.ndarray
    numbers: np.ndarray

    def share(self, mask: np.ndarray) -> np.ndarray:
        """The share of each region that a mask (H, W) bool covers, (N,)."""
        covered = np.zeros(len(self.kinds) + 1)
        area = np.zeros(len(self.kinds) + 1)
        for numbers in self.numbers:
            covered += np.bincount(numbers[mask], minlength=len(covered))
            area += np.bincount(numbers.ravel(), minlength=len(covered))
        return covered[1:] / np.maximum(area[1:], 1)


def regions_of(label: np.ndarray, probabilities: np.ndarray) -> Regions:
    """The regions of a mask and of a prediction: label (H, W) uint8, 255 = ignore; probabilities (K, H, W).

    Pixels that are ignored are of no region.
    """
    prediction = probabilities.argmax(axis=0).astype(np.uint8)
    known = label != IGNORE
    found, numbers, before = [], np.zeros((2, *label.shape), np.int32), 0
    for kind, mask in enumerate((label, prediction)):
        numbers[kind], classes = components(np.where(known, mask, IGNORE), before)
        features, boxes = _features(numbers[kind] - before, mask, classes, label, probabilities)
        features[:, FEATURES.index("predicted")] = kind
        found.append((np.full(len(classes), kind), classes, boxes, features))
        before += len(classes)
    kinds, classes, boxes, features = (np.concatenate(parts) for parts in zip(*found, strict=True))
    return Regions(kinds, classes, boxes, features, numbers)


def components(mask: np.ndarray, before: int = 0) -> tuple[np.ndarray, np.ndarray]:
    """Connected pixels (sides touch) of one class: -> (number at every pixel (H, W), 0 = none; class of each (N,)).

    Only the MOST largest of at least SMALLEST pixels, numbered by class, from before + 1 on.
    """
    raw, classes, count = np.zeros(mask.shape, np.int32), [np.zeros(0, np.int64)], 0
    for index in np.unique(mask[mask != IGNORE]):
        parts, more = ndimage.label(mask == index)
        raw += np.where(parts > 0, parts + count, 0).astype(np.int32)
        classes.append(np.full(more, index, np.int64))
        count += more
    area = np.bincount(raw.ravel(), minlength=count + 1)[1:]
    kept = np.sort(np.argsort(-area, kind="stable")[:MOST])
    kept = kept[area[kept] >= SMALLEST]
    renumber = np.zeros(count + 1, np.int32)
    renumber[kept + 1] = np.arange(len(kept)) + before + 1
    return renumber[raw], np.concatenate(classes)[kept]


def _features(
    numbers: np.ndarray, mask: np.ndarray, classes: np.ndarray, label: np.ndarray, probabilities: np.ndarray
) -> tuple[np.ndarray, np.ndarray]:
    """(features (N, F), boxes (N, 4)) of the regions `numbers` (H, W), 1..N, others below 1, whose classes are `mask`.

    Pixels that are ignored in `label` are of no region, so what is said of them counts nowhere.
    """
    numbers = np.maximum(numbers, 0)
    count, (height, width) = len(classes), numbers.shape
    ids = numbers.ravel()
    area = np.maximum(np.bincount(ids, minlength=count + 1)[1:], 1)

    def mean(values: np.ndarray, where: np.ndarray | None = None) -> np.ndarray:
        """By region, over the pixels `where`; 0 of none."""
        weights = values.ravel() if where is None else np.where(where, values, 0).ravel()
        sums = np.bincount(ids, weights=weights, minlength=count + 1)[1:]
        of = area if where is None else np.maximum(np.bincount(ids[where.ravel()], minlength=count + 1)[1:], 1)
        return sums / of

    # Maps (H, W) of what the model says
    safe = np.where(label == IGNORE, 0, label)
    given = np.take_along_axis(probabilities, safe[None].astype(np.int64), 0)[0]
    best = probabilities.max(axis=0)
    differs = (probabilities.argmax(axis=0) != safe).astype(np.float32)
    entropy = -(probabilities * np.log(np.maximum(probabilities, 1e-7))).sum(axis=0) / np.log(
        max(2, len(probabilities))
    )
    own = np.take_along_axis(probabilities, np.where(mask == IGNORE, 0, mask)[None].astype(np.int64), 0)[0]

    # The edge: pixels with another region within EDGE along a row or a column
    padded = np.pad(numbers, EDGE, mode="edge")
    around = [(dy, dx) for step in (-EDGE, EDGE) for dy, dx in ((step, 0), (0, step))]
    edge = np.zeros(numbers.shape, bool)
    for dy, dx in around:
        edge |= padded[EDGE + dy : EDGE + dy + height, EDGE + dx : EDGE + dx + width] != numbers

    # Across the border: each pair of neighbouring pixels of two classes counts for both, (P,) inside and outside
    places = np.arange(numbers.size).reshape(numbers.shape)
    pairs = [(places[:, :-1], places[:, 1:]), (places[:-1], places[1:])]
    inside = np.concatenate([part.ravel() for a, b in pairs for part in (a, b)])
    outside = np.concatenate([part.ravel() for a, b in pairs for part in (b, a)])
    flat, usable = mask.ravel(), (label != IGNORE).ravel()
    border = (flat[inside] != flat[outside]) & (ids[inside] > 0) & usable[outside]
    inside, outside = inside[border], outside[border]
    of = ids[inside]
    crossings = np.maximum(np.bincount(of, minlength=count + 1)[1:], 1)
    by_class = probabilities.reshape(len(probabilities), -1)

    def across(values: np.ndarray) -> np.ndarray:
        return np.bincount(of, weights=values, minlength=count + 1)[1:] / crossings

    rows, columns = np.indices(numbers.shape)
    rim = (rows == 0) | (columns == 0) | (rows == height - 1) | (columns == width - 1)
    slices = ndimage.find_objects(numbers, max_label=count)
    boxes = np.array(
        [(s[1].start, s[0].start, s[1].stop - s[1].start, s[0].stop - s[0].start) for s in slices], np.int64
    ).reshape(count, 4)
    shares = np.bincount(mask.ravel(), minlength=IGNORE + 1) / mask.size
    columns_of = {
        "given": mean(given),
        "given_log": mean(-np.log(np.maximum(given, 1e-4))),
        "best": mean(best),
        "margin": mean(best - given),
        "entropy": mean(entropy),
        "differs_inside": mean(differs, ~edge),
        "differs_edge": mean(differs, edge),
        "given_edge": mean(given, edge),
        "own_inside": mean(own),
        "own_outside": across(by_class[flat[inside], outside]),
        "neighbour_inside": across(by_class[flat[outside], inside]),
        "differs_outside": across(differs.ravel()[outside]),
        "size": np.log(area / numbers.size),
        "edge_share": mean(edge.astype(np.float32)),
        "extent": area / np.maximum(boxes[:, 2] * boxes[:, 3], 1),
        "border": mean(rim.astype(np.float32)),
        "y": mean(rows / height),
        "x": mean(columns / width),
        "class": classes,
        "neighbour_class": across(flat[outside].astype(np.float64)),
        "class_share": shares[classes],
        "predicted": np.zeros(count),
    }
    assert tuple(columns_of) == FEATURES
    return np.stack(list(columns_of.values()), axis=1).astype(np.float32), boxes
