"""The regions of a mask and of a prediction, and features that tell wrong regions from right ones.

Letters: (H, W) the size at which an image is audited, K classes, N regions, F features.
"""

from dataclasses import dataclass
from functools import cached_property

import numpy as np
from scipy import ndimage

from featherseg.core.types import IGNORE

KINDS = ("labelled", "predicted")
"""A region is connected pixels of one class in the given mask, or in the prediction."""

SMALLEST = 12
"""Least number of pixels of a region; smaller ones are nothing but edge."""

MOST = 100
"""Number of regions of a kind in an image, the largest: a noisy prediction has thousands."""

EDGE = 2
"""Distance from another region, in pixels, up to which a pixel is at the edge."""

LEAST_CHANCE = 1e-5
"""Probability of the given label below which differences mean nothing."""

LOCAL = 5
"""Side, in pixels, of the square in which `odds_local` averages."""

FEATURES = (
    "given",  # mean probability of the given label
    "best",  # mean probability of the predicted class
    "margin",  # mean of best - given
    "entropy",  # of the probabilities, 1 = all classes alike
    "odds",  # mean of log(best / given)
    "odds_sum",  # log of 1 + their sum
    "odds_most",  # the highest of them
    "odds_local",  # the highest mean over LOCAL x LOCAL pixels
    "thickness",  # log of 1 + the largest distance of a differing pixel from one that agrees
    "differs_inside",  # share of the pixels away from the edge where mask and prediction differ
    "differs_edge",  # share of those at the edge
    "given_edge",  # mean probability of the given label at the edge
    "own_inside",  # mean probability of the region's class
    "own_outside",  # the same one pixel outside
    "neighbour_inside",  # mean probability of the class across the border, one pixel inside
    "differs_outside",  # share of the pixels just outside where mask and prediction differ
    "size",  # log of the share of the image
    "edge_share",  # share of its pixels at the edge
    "extent",  # share of its box
    "border",  # share of its pixels at the border of the image
    "y",  # of its middle, 0..1
    "x",
    "class",
    "class_share",  # share of the class in the image
    "predicted",  # 1 for a region of the prediction
)


class Prediction:
    """A model's probabilities (K, H, W) for an image, and what follows from them, computed once."""

    def __init__(self, probabilities: np.ndarray) -> None:
        self.probabilities = np.maximum(probabilities, 1e-7)
        self.mask: np.ndarray = probabilities.argmax(axis=0).astype(np.uint8)  # (H, W)
        self.best: np.ndarray = self.probabilities.max(axis=0)
        self._components: tuple[np.ndarray, tuple[np.ndarray, np.ndarray]] | None = None

    def components(self, known: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Return `components` of the prediction at `known` pixels (H, W), computed once a mask."""
        if self._components is None or not np.array_equal(self._components[0], known):
            self._components = known, components(np.where(known, self.mask, IGNORE))
        return self._components[1]

    @cached_property
    def entropy(self) -> np.ndarray:
        """The entropy (H, W), 1 = all classes alike."""
        total = -(self.probabilities * np.log(self.probabilities)).sum(axis=0)
        return total / np.log(max(2, len(self.probabilities)))

    @cached_property
    def logarithms(self) -> np.ndarray:
        """The logarithms (K, H, W) of the probabilities, which count as LEAST_CHANCE at least."""
        return np.log(np.maximum(self.probabilities, LEAST_CHANCE))

    def of(self, mask: np.ndarray) -> np.ndarray:
        """Return the probability of each pixel's class in `mask` (H, W); of class 0 if ignored."""
        safe = np.where(mask == IGNORE, 0, mask).astype(np.int64)
        return np.take_along_axis(self.probabilities, safe[None], 0)[0]

    def log_odds(self, label: np.ndarray) -> np.ndarray:
        """Return log(best / given) (H, W), 0 where the mask is ignored."""
        odds = np.log(self.best / np.maximum(self.of(label), LEAST_CHANCE))
        return np.where(label == IGNORE, 0, odds).astype(np.float32)


@dataclass(frozen=True)
class Regions:
    """N regions: kind (index of KINDS), class, box (x, y, width, height) and FEATURES of each.

    numbers (2, H, W): for either kind 1 + the index of the region at each pixel, 0 = none.
    """

    kinds: np.ndarray
    classes: np.ndarray
    boxes: np.ndarray
    features: np.ndarray
    numbers: np.ndarray

    def share(self, mask: np.ndarray) -> np.ndarray:
        """Return the share of each region that a mask (H, W) bool covers, (N,)."""
        covered = np.zeros(len(self.kinds) + 1)
        area = np.zeros(len(self.kinds) + 1)
        for numbers in self.numbers:
            covered += np.bincount(numbers[mask], minlength=len(covered))
            area += np.bincount(numbers.ravel(), minlength=len(covered))
        return covered[1:] / np.maximum(area[1:], 1)


def regions_of(label: np.ndarray, prediction: Prediction) -> Regions:
    """Return the regions of a mask (H, W) uint8 and of a prediction. Ignored pixels are in none."""
    known = label != IGNORE
    maps = _maps(label, prediction)
    of_kinds, numbers, before = [], np.zeros((2, *label.shape), np.int32), 0
    for kind, mask in enumerate((label, prediction.mask)):
        of_kind, classes = prediction.components(known) if kind else components(mask)
        numbers[kind] = np.where(of_kind > 0, of_kind + before, 0)
        features, boxes = _features(of_kind, mask, classes, known, prediction, maps)
        features[:, FEATURES.index("predicted")] = kind
        of_kinds.append((np.full(len(classes), kind), classes, boxes, features))
        before += len(classes)
    parts = [np.concatenate(part) for part in zip(*of_kinds, strict=True)]
    return Regions(parts[0], parts[1], parts[2], parts[3], numbers)


def components(mask: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Return (number at each pixel (H, W), 0 = none; class of each (N,)) of connected pixels.

    Connected pixels of one class share a side. Only the MOST largest with at least SMALLEST pixels
    count; they are numbered by class, from 1 on. mask (H, W) uint8, 255 = ignore.
    """
    raw, classes, count = np.zeros(mask.shape, np.int32), [np.zeros(0, np.int64)], 0
    boxes = ndimage.find_objects(np.where(mask == IGNORE, 0, mask.astype(np.int32) + 1))
    for index, box in enumerate(boxes):
        if box is not None:
            parts, more = ndimage.label(mask[box] == index)
            raw[box] += np.where(parts > 0, parts + count, 0).astype(np.int32)
            classes.append(np.full(more, index, np.int64))
            count += more

    # Keep the largest, numbered anew
    area = np.bincount(raw.ravel(), minlength=count + 1)[1:]
    kept = np.sort(np.argsort(-area, kind="stable")[:MOST])
    kept = kept[area[kept] >= SMALLEST]
    renumber = np.zeros(count + 1, np.int32)
    renumber[kept + 1] = np.arange(len(kept)) + 1
    return renumber[raw], np.concatenate(classes)[kept]


def thickness_of(differs: np.ndarray) -> np.ndarray:
    """Return the distance of pixels of `differs` (H, W) bool to the nearest other one; else 0."""
    return ndimage.distance_transform_edt(np.pad(differs, 1))[1:-1, 1:-1]


def _maps(label: np.ndarray, prediction: Prediction) -> dict[str, np.ndarray]:
    """Return the features of pixels, each (H, W)."""
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
    """Return features (N, F) and boxes (N, 4) of the regions `numbers` (H, W), 1..N, 0 = none.

    mask (H, W) and classes (N,): the class of each pixel and of each region.
    """
    count, (height, width) = len(classes), numbers.shape
    ids = numbers.ravel()
    area = np.maximum(np.bincount(ids, minlength=count + 1)[1:], 1)

    def mean(values: np.ndarray, where: np.ndarray | None = None) -> np.ndarray:
        """Return the mean of each region over the pixels `where`; 0 without any."""
        if where is None:
            return np.bincount(ids, weights=values.ravel(), minlength=count + 1)[1:] / area
        weights = np.where(where, values, 0).ravel()
        sums = np.bincount(ids, weights=weights, minlength=count + 1)[1:]
        return sums / np.maximum(np.bincount(ids[where.ravel()], minlength=count + 1)[1:], 1)

    def highest(values: np.ndarray) -> np.ndarray:
        highest_of = np.zeros(count + 1, values.dtype)
        np.maximum.at(highest_of, ids, values.ravel())
        return highest_of[1:]

    # The edge: pixels with another region within EDGE along a row or a column
    padded = np.pad(numbers, EDGE, mode="edge")
    edge = np.zeros(numbers.shape, bool)
    for dy, dx in ((-EDGE, 0), (EDGE, 0), (0, -EDGE), (0, EDGE)):
        edge |= padded[EDGE + dy : EDGE + dy + height, EDGE + dx : EDGE + dx + width] != numbers

    # Across the border: pairs of neighbouring pixels of two classes, (P,) inside and outside; each
    # counts for both regions
    places = np.arange(numbers.size).reshape(numbers.shape)
    pairs = []
    for a, b in ((np.s_[:, :-1], np.s_[:, 1:]), (np.s_[:-1], np.s_[1:])):
        apart = (mask[a] != mask[b]) & known[a] & known[b]
        pairs += [(places[a][apart], places[b][apart]), (places[b][apart], places[a][apart])]
    inside, outside = (np.concatenate(parts) for parts in zip(*pairs, strict=True))
    inside, outside = inside[ids[inside] > 0], outside[ids[inside] > 0]
    flat = mask.ravel()
    by_class = prediction.probabilities.reshape(len(prediction.probabilities), -1)
    crossings = np.maximum(np.bincount(ids[inside], minlength=count + 1)[1:], 1)

    def across(values: np.ndarray) -> np.ndarray:
        """Return the mean of each region over pixels at its border."""
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
        "odds_most": highest(maps["odds"]),
        "odds_local": highest(maps["odds_local"]),
        "thickness": highest(maps["thickness"]),
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
