"""COCO-Stuff (Caesar, Uijlings, Ferrari, CVPR 2018): images of COCO, all pixels of 171 classes.

There are two releases: 164k (118287 train / 5000 val of COCO 2017) and 10k (9000 train / 1000 val),
on which CGRSeg reports. Each is read as released, or as mmsegmentation's converter writes it;
docs/data/coco-stuff.md shows the layouts and the licence.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from featherseg.core.errors import DataNotFound
from featherseg.core.types import IGNORE, DataFacts
from featherseg.data.datasets.class_lists import LazyFacts, read_classes
from featherseg.data.images.labels import LabelMap
from featherseg.data.images.pairs import (
    FilesByStem,
    Listing,
    NamedData,
    Pair,
    files_by_stem,
    make_pairs,
    make_splits,
    read_list,
)

COCO_STUFF_LICENCE = (
    "trained on COCO-Stuff: its labels are CC BY 4.0, its images belong to Flickr users, each "
    "under the licence chosen by its owner, some of them non-commercial"
)

CONVERTED = "_labelTrainIds.png"
"""End of the names of masks that mmsegmentation's converters wrote."""


@dataclass(frozen=True)
class Layout:
    """One way in which masks number the classes.

    Their names end in `ending`. The first class has the value `first`; those that follow have the
    next category ids as released, and consecutive numbers as converted. `void` is not labelled.
    """

    ending: str
    first: int
    void: int
    expected: str

    def label_map(self) -> LabelMap:
        """Return the map from the values of these masks to the class ids 0..170."""
        numbers = [category - 1 for category in read_classes("coco_stuff")]  # 0..181 with gaps
        if self.ending == CONVERTED:
            numbers = list(range(len(numbers)))
        ids = {self.first + number: i for i, number in enumerate(numbers)}
        return LabelMap({**ids, self.void: IGNORE}, expected=self.expected)


# As released and as converted. After a converter has run both are there: the first is read.
LAYOUTS_164K = (
    Layout(
        ".png",
        first=0,
        void=255,
        expected="the values of COCO-Stuff 164k (stuffthingmaps_trainval2017: category id - 1, 0 "
        "to 181 without the 11 ids that are never used, and 255 = void). 182 and 183 occur in the "
        "stuff-only masks of the COCO-Stuff API (92 to 182, and 183 = other), which have no "
        "things and are not read; ids that are never used occur in masks that were converted to "
        "0 to 170, which are expected in *_labelTrainIds.png",
    ),
    Layout(
        CONVERTED,
        first=0,
        void=255,
        expected="the train ids of COCO-Stuff 164k (0 to 170, and 255 = void)",
    ),
)
LAYOUTS_10K = (
    Layout(
        ".mat",
        first=1,
        void=0,
        expected="the values of COCO-Stuff 10k, version 1.1 (category ids, 1 to 182 without the 11 "
        "that are never used, and 0 = unlabelled). Ids that are never used occur in version 1.0, "
        "which numbers the classes from 2 to 172 and is not read: download cocostuff-10k-v1.1.zip",
    ),
    Layout(
        CONVERTED,
        first=1,
        void=0,
        expected="the train ids of COCO-Stuff 10k (1 to 171, and 0 = unlabelled)",
    ),
)


class CocoStuff164k(NamedData):
    """COCO-Stuff 164k with 171 classes; keys are the stems of the images, "000000000009"."""

    facts = LazyFacts(lambda: _facts("coco-stuff-164k"))
    no_test = (
        "the labels of the split test of COCO-Stuff 164k are not public, so it cannot be used "
        "for training or evaluation: use val."
    )

    @classmethod
    def list_files(cls, root: Path, splits: Sequence[str]) -> Listing:
        folders = {split: f"{split}2017" for split in splits}
        for layout in LAYOUTS_164K:
            masks = {s: _masks(root / "annotations" / name, layout) for s, name in folders.items()}
            if any(masks.values()):
                images = {s: files_by_stem(root / "images" / name) for s, name in folders.items()}
                pairs = make_splits({split: (images[split], masks[split]) for split in splits})
                return _listing(cls.facts, layout, pairs)
        raise DataNotFound(f"{root} {_state(root)} {_EXPECTED_164K}")


class CocoStuff10k(NamedData):
    """COCO-Stuff 10k with 171 classes; keys are stems, "COCO_train2014_000000000077".

    The split val is the release's list test.txt.
    """

    facts = LazyFacts(lambda: _facts("coco-stuff-10k"))
    no_test = "the 1000 images of test.txt are the val split of coco-stuff-10k: use val."

    @classmethod
    def list_files(cls, root: Path, splits: Sequence[str]) -> Listing:
        parts = {split: "test" if split == "val" else split for split in splits}
        released, converted = LAYOUTS_10K
        if all_masks := _masks(root / "annotations", released):
            all_images = files_by_stem(root / "images")
            lists = {split: root / "imageLists" / f"{part}.txt" for split, part in parts.items()}
            stems = {split: read_list(path, _EXPECTED_10K) for split, path in lists.items()}
            pairs = {split: make_pairs(stems[split], all_images, all_masks) for split in splits}
            return _listing(cls.facts, released, pairs)
        folders = {split: f"{part}2014" for split, part in parts.items()}
        masks = {s: _masks(root / "annotations" / name, converted) for s, name in folders.items()}
        if any(masks.values()):
            images = {s: files_by_stem(root / "images" / name) for s, name in folders.items()}
            pairs = make_splits({split: (images[split], masks[split]) for split in splits})
            return _listing(cls.facts, converted, pairs)
        raise DataNotFound(f"{root} {_state(root)} {_EXPECTED_10K}")


def _facts(name: str) -> DataFacts:
    classes = tuple(read_classes("coco_stuff").values())
    return DataFacts(name, classes, COCO_STUFF_LICENCE, image_size=(480, 640))


def _listing(facts: DataFacts, layout: Layout, pairs: Mapping[str, list[Pair]]) -> Listing:
    return Listing(facts.name, facts.classes, layout.label_map(), pairs, facts.licence)


def _masks(folder: Path, layout: Layout) -> FilesByStem:
    """Return the masks of one layout in a folder by the stem of their image."""
    paths = sorted(folder.glob(f"[!.]*{layout.ending}"))
    if layout.ending != CONVERTED:  # ".png" matches converted masks too
        paths = [path for path in paths if not path.name.endswith(CONVERTED)]
    return {path.name.removesuffix(layout.ending): [path] for path in paths}


_EXPECTED_164K = (
    "Expected images/{train2017,val2017}/*.jpg of COCO and annotations/{train2017,val2017}/*.png "
    "from stuffthingmaps_trainval2017.zip (github.com/nightrome/cocostuff). Set their location "
    "with --data-root."
)
_EXPECTED_10K = (
    "Expected images/*.jpg, annotations/*.mat and imageLists/{train,test}.txt from "
    "cocostuff-10k-v1.1.zip (github.com/nightrome/cocostuff10k), or "
    "images/{train2014,test2014}/*.jpg and annotations/{train2014,test2014}/*_labelTrainIds.png "
    "as converted. Set their location with --data-root."
)


def _state(root: Path) -> str:
    """Return what is there instead of masks in annotations."""
    if not root.is_dir():
        return "is not a folder."
    for pattern in ("stuff_*_pixelmaps", "annotations/stuff_*_pixelmaps"):
        if only_stuff := next(root.glob(pattern), None):
            masks = "the stuff-only masks of the COCO-Stuff API"
            return f"has {only_stuff.name}, {masks}, which have no things."
    if not (root / "annotations").is_dir():
        return "has no folder annotations."
    return "has no readable mask in annotations."
