"""BDD100K panoptic (Yu et al., CVPR 2020): 7000 train / 1000 val images of 720 x 1280.

40 classes, 10 of them things. Masks are the bitmasks of the release; docs/data/bdd100k-panoptic.md
shows the format, the layout and the licence.
"""

from collections.abc import Sequence
from itertools import pairwise
from pathlib import Path

import numpy as np

from featherseg.core.errors import DataError, DataNotFound
from featherseg.core.types import IGNORE, DataFacts, Sample
from featherseg.data.datasets.bdd100k import BDD100K_LICENCE
from featherseg.data.datasets.class_lists import LazyFacts, read_classes
from featherseg.data.images.decoding import read_image
from featherseg.data.images.labels import LabelMap
from featherseg.data.images.pairs import (
    Listing,
    NamedData,
    Pair,
    files_by_stem,
    make_splits,
    other_size,
)
from featherseg.data.panoptic.data import categories
from featherseg.data.panoptic.segments import Panoptic, list_segments, to_sample

CATEGORY_IDS = tuple(range(1, 41))  # and 0 = void

IGNORED, CROWD = 1, 2
"""Bits of the flags of a bitmask; 4 = occluded and 8 = truncated are not read."""

MASKS = "labels/pan_seg/bitmasks"

_FORMAT = (
    "Expected a bitmask: red = category 0 to 40, green = flags, blue and alpha = segment id, "
    "from 1, each with a single category and set of flags."
)


class Bitmask(LabelMap):
    """The map from a bitmask, read as colours, to class ids: red has category ids, green flags."""

    def __init__(self) -> None:
        ids = {0: IGNORE} | {category: category - 1 for category in CATEGORY_IDS}
        super().__init__(
            ids,
            colors=True,
            expected="the 40 category ids of BDD100K (1 to 40, 0 = void), red in a bitmask",
        )

    def values(self, raw: np.ndarray) -> np.ndarray:
        """Return the category ids (H, W) uint8 of colours (H, W, 3), 0 where flagged IGNORED."""
        return np.where(raw[:, :, 1] & IGNORED, np.uint8(0), raw[:, :, 0])

    def text(self, value: int) -> str:
        """Return a category id as a text: it is not a colour."""
        return str(value)


class BitmaskListing(Listing):
    """A listing whose masks are bitmasks."""

    def check_objects(self, pair: Pair, ids: np.ndarray) -> None:
        """Raise what `read_bitmask` raises, unless categories are outside the map."""
        if ids.min(initial=0) >= 0:
            read_bitmask(pair.files[1])


class BDD100KPanoptic(NamedData):
    """BDD100K panoptic with 40 classes; keys are the stems of the files, "0004a4c0-d4dff0ad".

    `instances` of a sample has the ids of the bitmask, negative for crowds; ignored segments are
    void.
    """

    facts = LazyFacts(
        lambda: DataFacts(
            "bdd100k-panoptic",
            tuple(read_classes("bdd100k_panoptic").values()),
            BDD100K_LICENCE,
            image_size=(720, 1280),
            category_ids=CATEGORY_IDS,
        )
    )
    no_test = (
        "the labels of the split test of BDD100K are not public, so it cannot be used for "
        "training or evaluation: use val."
    )
    rule = "bdd100k"  # of panoptic quality

    def __init__(self, root: Path, split: str, size: int | None = None) -> None:
        super().__init__(root, split, size)
        self.categories = categories(self.classes, CATEGORY_IDS)

    def __getitem__(self, index: int) -> Sample:
        pair = self.pairs[index]
        image, (ids, segments) = read_image(pair.files[0]), self.panoptic(index)  # (H, W, 3)
        if image.shape[:2] != ids.shape:
            raise DataError(f"{pair.files[1]} {other_size(pair, image.shape[:2], ids.shape)}")
        label, instances = to_sample(ids, segments, {i: i - 1 for i in CATEGORY_IDS}, self.classes)
        ignored = np.isin(ids, [segment["id"] for segment in segments if segment["ignored"]])
        label[ignored], instances[ignored] = IGNORE, 0
        return Sample(pair.key, image, label, instances)

    def panoptic(self, index: int) -> Panoptic:
        """Return the segmentation of a sample, for evaluation by the rule bdd100k."""
        return read_bitmask(self.pairs[index].files[1])

    @classmethod
    def list_files(cls, root: Path, splits: Sequence[str]) -> Listing:
        base = next((base for base in (root, root / "bdd100k") if (base / MASKS).is_dir()), None)
        if base is None:
            state = "has no labels/pan_seg/bitmasks" if root.is_dir() else "is not a folder"
            raise DataNotFound(f"{root} {state}. {_EXPECTED}")
        images = {split: files_by_stem(base / "images/10k" / split) for split in splits}
        masks = {split: files_by_stem(base / MASKS / split) for split in splits}
        missing = f"{base} has no images of {' or '.join(splits)}. {_EXPECTED}"
        pairs = make_splits({split: (images[split], masks[split]) for split in splits}, missing)
        facts = cls.facts
        return BitmaskListing(facts.name, facts.classes, Bitmask(), pairs, facts.licence)


def read_bitmask(path: Path) -> Panoptic:
    """Return the segmentation of a bitmask; "ignored" of its segments is whether they are ignored.

    A pixel has four bytes: category id (0 = void), flags, and the segment's id with the high byte
    first. Crowds and ignored segments both have "iscrowd" = 1, because the toolkit scores
    neither.

    Raises:
        DataError: for an image without four channels, a category above 40, or a segment without an
            id or with two categories.
    """
    raw = _read_bytes(path)  # (H, W, 4)
    category, flags = raw[:, :, 0], raw[:, :, 1]
    ids = np.where(category > 0, raw[:, :, 2] << 8 | raw[:, :, 3], 0)  # (H, W)
    joined = np.unique((ids.astype(np.int64) << 16 | category << 8 | flags)[category > 0])
    numbers = (joined >> 16).tolist()
    kinds = (joined >> 8 & 255).tolist()
    bits = (joined & 255).tolist()
    for number, kind in zip(numbers, kinds, strict=True):
        if number == 0 or kind > len(CATEGORY_IDS):
            raise DataError(f"{path} has category {kind} with segment id {number}. {_FORMAT}")
    if len(set(numbers)) < len(numbers):
        repeated = next(a for a, b in pairwise(numbers) if a == b)
        raise DataError(f"{path} has segment {repeated} with two categories or flags. {_FORMAT}")
    flag_of = dict(zip(numbers, bits, strict=True))
    crowds = frozenset(number for number, flag in flag_of.items() if flag & (CROWD | IGNORED))
    ids, segments = list_segments(ids, dict(zip(numbers, kinds, strict=True)) | {0: 0}, crowds)
    for segment, flag in zip(segments, bits, strict=True):
        segment["ignored"] = bool(flag & IGNORED)
    return ids, segments


def _read_bytes(path: Path) -> np.ndarray:
    """Return the four channels, (H, W, 4) int32, 0..255."""
    try:
        return read_image(path, channels=4).astype(np.int32)
    except DataNotFound:
        raise
    except DataError as error:
        raise DataError(f"{error} {_FORMAT}") from None


_EXPECTED = (
    "Expected, in this folder or in bdd100k/ below it, images/10k/{train,val}/*.jpg and "
    "labels/pan_seg/bitmasks/{train,val}/*.png (bdd-data.berkeley.edu: 10K Images, Panoptic "
    "Segmentation). Set their location with --data-root."
)
