"""The regions of a mask and of a prediction, and what tells a wrong region from a right one.

Letters: (H, W) the size at which an image is audited, K classes, N regions, F features.
"""

from dataclasses import dataclass
from functools import cached_property

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

LEAST_CHANCE = 1e-5
"""Of the given label: what a model says below it is not worth telling apart."""

LOCAL = 5
"""Pixels across which evidence is averaged for `odds_local`."""

FEATURES = (
    "given",  # mean probability of the given label
    "best",  # mean probability of the predicted class
    "margin",  # mean of best - given
    "entropy",  # of the probabilities, 1 = all classes alike
    "odds",  # mean of log(best / given)
    "odds_sum",  # log of 1 + their sum
    "odds_most",  # the highest of them
    "odds_local",  # the highest mean over LOCAL x LOCAL pixels
    "thickness",  # log of 1 + the largest distance, inside, of a differing pixel from one that agrees
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
    "class_share",  # of the class in the image
    "predicted",  # 1 for a region of the prediction
)


class Prediction:
    """What a model says of an image: probabilities (K, H, W), and what follows from them, worked out once."""

    def __init__(self, probabilities: np.ndarray) -> None:
        self.probabilities = np.maximum(probabilities, 1e-7)
        self.mask: np.ndarray = probabilities.argmax(axis=0).astype(np.uint8)  # (H, W)
        self.best: np.ndarray = self.probabilities.max(axis=0)
        self._of: tuple[np.ndarray, tuple[np.ndarray, np.ndarray]] | None = None

    def components(self, known: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """As `components`, of the prediction where the mask is `known` (H, W): the same for all copies of a mask."""
        if self._of is None or not np.array_equal(self._of[0], known):
            self._of = known, components(np.where(known, self.mask, IGNORE))
        return self._of[1]

    @cached_property
    def entropy(self) -> np.ndarray:
        """(H, W), 1 = all classes alike."""
        total = -(self.probabilities * np.log(self.probabilities)).sum(axis=0)
        return total / np.log(max(2, len(self.probabilities)))

    @cached_property
    def logarithms(self) -> np.ndarray:
        """(K, H, W) of the probabilities; below LEAST_CHANCE of that."""
        return np.log(np.maximum(self.probabilities, LEAST_CHANCE))

    def of(self, mask: np.ndarray) -> np.ndarray:
        """The probability of the class that `mask` (H, W) names at each pixel; that of class 0 where it is ignored."""
        safe = np.where(mask == IGNORE, 0, mask).astype(np.int64)
        return np.take_along_axis(self.probabilities, safe[None], 0)[0]

    def log_odds(self, label: np.ndarray) -> np.ndarray:
        """log(best / given) (H, W), 0 where the mask is ignored: how much sooner the model believes its own mask."""
        odds = np.log(self.best / np.maximum(self.of(label), LEAST_CHANCE))
        return np.where(label == IGNORE, 0, odds).astype(np.float32)


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


def regions_of(label: np.ndarray, prediction: Prediction) -> Regions:
    """The regions of a mask and of a prediction: label (H, W) uint8, 255 = ignore.

    Pixels that are ignored are of no region.
    """
    known = label != IGNORE
    maps = _maps(label, prediction)
    found, numbers, before = [], np.zeros((2, *label.shape), np.int32), 0
    for kind, mask in enumerate((label, prediction.mask)):
        own, classes = prediction.components(known) if kind else components(mask)
        numbers[kind] = np.where(own > 0, own + before, 0)
        features, boxes = _features(own, mask, classes, known, prediction, maps)
        features[:, FEATURES.index("predicted")] = kind
        found.append((np.full(len(classes), kind), classes, boxes, features))
        before += len(classes)
    kinds, classes, boxes, features = (np.concatenate(parts) for parts in zip(*found, strict=True))
    return Regions(kinds, classes, boxes, features, numbers)


def components(mask: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Connected pixels (sides touch) of one class: -> (number at every pixel (H, W), 0 = none; class of each (N,)).

    Only the MOST largest of at least SMALLEST pixels, numbered by class, from 1 on. mask (H, W) uint8, 255 = ignore.
    """
    raw, classes, count = np.zeros(mask.shape, np.int32), [np.zeros(0, np.int64)], 0
    for index, box in enumerate(
        ndimage.find_objects(np.where(mask == IGNORE, 0, mask.astype(np.int32) + 1))
    ):
        if box is not None:
            parts, more = ndimage.label(mask[box] == index)
            raw[box] += np.where(parts > 0, parts + count, 0).astype(np.int32)
            classes.append(np.full(more, index, np.int64))
            count += more
    area = np.bincount(raw.ravel(), minlength=count + 1)[1:]
    kept = np.sort(np.argsort(-area, kind="stable")[:MOST])
    kept = kept[area[kept] >= SMALLEST]
    renumber = np.zeros(count + 1, np.int32)
    renumber[kept + 1] = np.arange(len(kept)) + 1
    return renumber[raw], np.concatenate(classes)[kept]


def thickness_of(differs: np.ndarray) -> np.ndarray:
    """Of every pixel of `differs` (H, W) bool the distance to the nearest that is not, in pixels; 0 elsewhere."""
    return ndimage.distance_transform_edt(np.pad(differs, 1))[1:-1, 1:-1]


def _maps(label: np.ndarray, prediction: Prediction) -> dict[str, np.ndarray]:
    """What is said of every pixel (H, W), whatever region it is of."""
    given, odds = prediction.of(label), prediction.log_odds(label)
    differs = (prediction.mask != label) & (label != IGNORE)
    return {
        "given": given,
        "best": prediction.best,
        "margin": prediction.best - given,
        "entropy": prediction.entropy,
        "odds": odds,
        "odds_local": ndimage.uniform_filter(odds, LOCAL),
        "thickness": np.log1p(thickness_of(differs)),
        "differs": differs.astype(np.float32),
    }


def _features(
    numbers: np.ndarray,
    mask: np.ndarray,
    classes: np.ndarray,
    known: np.ndarray,
    prediction: Prediction,
    maps: dict[str, np.ndarray],
) -> tuple[np.ndarray, np.ndarray]:
    """(features (N, F), boxes (N, 4)) of the regions `numbers` (H, W), 1..N, 0 = none, whose classes are `mask`."""
    count, (height, width) = len(classes), numbers.shape
    ids = numbers.ravel()
    area = np.maximum(np.bincount(ids, minlength=count + 1)[1:], 1)

    def mean(values: np.ndarray, where: np.ndarray | None = None) -> np.ndarray:
        """By region, over the pixels `where`; 0 of none."""
        weights = values.ravel() if where is None else np.where(where, values, 0).ravel()
        sums = np.bincount(ids, weights=weights, minlength=count + 1)[1:]
        of = (
            area
            if where is None
            else np.maximum(np.bincount(ids[where.ravel()], minlength=count + 1)[1:], 1)
        )
        return sums / of

    def most(values: np.ndarray) -> np.ndarray:
        found = np.zeros(count + 1, values.dtype)
        np.maximum.at(found, ids, values.ravel())
        return found[1:]

    # The edge: pixels with another region within EDGE along a row or a column
    padded = np.pad(numbers, EDGE, mode="edge")
    edge = np.zeros(numbers.shape, bool)
    for dy, dx in ((-EDGE, 0), (EDGE, 0), (0, -EDGE), (0, EDGE)):
        edge |= padded[EDGE + dy : EDGE + dy + height, EDGE + dx : EDGE + dx + width] != numbers

    # Across the border: each pair of neighbouring pixels of two classes counts for both, (P,) inside and outside
    places = np.arange(numbers.size).reshape(numbers.shape)
    pairs = []
    for a, b in ((np.s_[:, :-1], np.s_[:, 1:]), (np.s_[:-1], np.s_[1:])):
        apart = (mask[a] != mask[b]) & known[a] & known[b]
        pairs += [(places[a][apart], places[b][apart]), (places[b][apart], places[a][apart])]
    inside, outside = (np.concatenate(parts) for parts in zip(*pairs, strict=True))
    inside, outside = inside[ids[inside] > 0], outside[ids[inside] > 0]
    flat, by_class = (
        mask.ravel(),
        prediction.probabilities.reshape(len(prediction.probabilities), -1),
    )
    crossings = np.maximum(np.bincount(ids[inside], minlength=count + 1)[1:], 1)

    def across(values: np.ndarray) -> np.ndarray:
        return np.bincount(ids[inside], weights=values, minlength=count + 1)[1:] / crossings

    rows, columns = np.indices(numbers.shape)
    rim = (rows == 0) | (columns == 0) | (rows == height - 1) | (columns == width - 1)
    slices = ndimage.find_objects(numbers, max_label=count)
    boxes = np.array(
        [(s[1].start, s[0].start, s[1].stop - s[1].start, s[0].stop - s[0].start) for s in slices],
        np.int64,
    ).reshape(count, 4)
    shares = np.bincount(flat, minlength=IGNORE + 1) / mask.size
    odds = mean(maps["odds"])
    columns_of = {
        **{name: mean(maps[name]) for name in ("given", "best", "margin", "entropy")},
        "odds": odds,
        "odds_sum": np.log1p(odds * area),
        "odds_most": most(maps["odds"]),
        "odds_local": most(maps["odds_local"]),
        "thickness": most(maps["thickness"]),
        "differs_inside": mean(maps["differs"], ~edge),
        "differs_edge": mean(maps["differs"], edge),
        "given_edge": mean(maps["given"], edge),
        "own_inside": mean(prediction.of(mask)),
        "own_outside": across(by_class[flat[inside], outside]),
        "neighbour_inside": across(by_class[flat[outside], inside]),
        "differs_outside": across(maps["differs"].ravel()[outside]),
        "size": np.log(area / numbers.size),
        "edge_share": mean(edge.astype(np.float32)),
        "extent": area / np.maximum(boxes[:, 2] * boxes[:, 3], 1),
        "border": mean(rim.astype(np.float32)),
        "y": mean(rows / height),
        "x": mean(columns / width),
        "class": classes,
        "class_share": shares[classes],
        "predicted": np.zeros(count),
    }
    assert tuple(columns_of) == FEATURES
    return np.stack(list(columns_of.values()), axis=1).astype(np.float32), boxes
