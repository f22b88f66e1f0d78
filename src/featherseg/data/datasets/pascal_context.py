"""Pascal Context (Mottaghi et al., CVPR 2014): 4998 train / 5105 val images of PASCAL VOC 2010.

All pixels are labelled with one of the 59 most frequent classes or, as class 60, "background".
Masks are those that mmsegmentation's converter writes; docs/data/pascal-context.md shows the
layout and the licence.
"""

from collections.abc import Sequence
from pathlib import Path

import numpy as np

from featherseg.core.errors import DataNotFound
from featherseg.core.types import IGNORE, ClassInfo, DataFacts
from featherseg.data.datasets.class_lists import LazyFacts, read_classes
from featherseg.data.images.labels import LabelMap
from featherseg.data.images.pairs import Listing, NamedData, files_by_stem, make_pairs, read_list

PASCAL_CONTEXT_LICENCE = (
    "trained on Pascal Context: the licence of its labels is unknown, and its images, those of "
    "PASCAL VOC 2010, are under Flickr's terms of use; ask before any use beyond research"
)

BACKGROUND = ClassInfo("background", (0, 0, 0))


class ContextMap(LabelMap):
    """The map from values of masks to class ids; the value 0 is `background`.

    Masks of 8 bits have the values 0..59, masks of 16 bits the raw ids. One form cannot be
    mistaken for the other, because raw ids go up to 458.
    """

    def __init__(self, classes: int) -> None:
        raw_ids = list(read_classes("pascal_context"))
        background, first = (0, 1) if classes > len(raw_ids) else (IGNORE, 0)
        expected = (
            "the values of Pascal Context's masks (0 = background and 1 to 59, or in 16-bit "
            "masks the 59 raw ids). Masks of all 459 labels are not read: convert the annotation "
            "with tools/dataset_converters/pascal_context.py of mmsegmentation"
        )
        small = {i + 1: i + first for i in range(len(raw_ids))}
        super().__init__({0: background, **small}, expected=expected)
        deep = {raw: i + first for i, raw in enumerate(raw_ids)}
        self.deep = LabelMap({0: background, **deep}, expected=expected)

    def apply(self, raw: np.ndarray) -> np.ndarray:
        """Return the ids (H, W) int16 of raw values (H, W), -1 for a value outside the map."""
        return super().apply(raw) if raw.dtype == np.uint8 else self.deep.apply(raw)


class PascalContext(NamedData):
    """Pascal Context with 59 classes, background ignored; keys are stems, "2008_000002"."""

    facts = LazyFacts(lambda: _facts("pascal-context-59"))
    no_test = "the labels of the test images of VOC 2010 are not public: use val, as in the papers."

    @classmethod
    def list_files(cls, root: Path, splits: Sequence[str]) -> Listing:
        base = _find_base(root)
        images, masks = files_by_stem(base / IMAGES), files_by_stem(base / MASKS)
        lists = {split: base / LISTS / f"{split}.txt" for split in splits}
        stems = {split: read_list(path, _EXPECTED) for split, path in lists.items()}
        pairs = {split: make_pairs(stems[split], images, masks) for split in splits}
        facts = cls.facts
        label_map = ContextMap(len(facts.classes))
        return Listing(facts.name, facts.classes, label_map, pairs, facts.licence)


class PascalContext60(PascalContext):
    """Pascal Context with background as class 0; the ids of the other classes are one more."""

    facts = LazyFacts(lambda: _facts("pascal-context-60", BACKGROUND))


def _facts(name: str, *background: ClassInfo) -> DataFacts:
    classes = (*background, *read_classes("pascal_context").values())
    return DataFacts(name, classes, PASCAL_CONTEXT_LICENCE, image_size=(375, 500))


IMAGES, MASKS, LISTS = "JPEGImages", "SegmentationClassContext", "ImageSets/SegmentationContext"

_EXPECTED = (
    "Expected, in this folder or in VOC2010/ or VOCdevkit/VOC2010/ below it, JPEGImages/*.jpg "
    "(VOCtrainval_03-May-2010.tar) and SegmentationClassContext/*.png with "
    "ImageSets/SegmentationContext/{train,val}.txt, as written by "
    "tools/dataset_converters/pascal_context.py of mmsegmentation. Set their location with "
    "--data-root."
)


def _find_base(root: Path) -> Path:
    """Return `root` or the folder VOC2010 below it, the one with images and masks.

    Raises DataNotFound if none has them.
    """
    bases = (root, root / "VOC2010", root / "VOCdevkit/VOC2010")
    for base in bases:
        if (base / IMAGES).is_dir() and (base / MASKS).is_dir():
            return base
    if not root.is_dir():
        state = "is not a folder."
    elif any(next(base.glob("trainval/*.mat"), None) for base in bases):
        state = (
            "has the annotations of 459 labels (trainval/*.mat), which are not read: convert "
            "them to the 59 classes with mmsegmentation."
        )
    elif any((base / IMAGES).is_dir() for base in bases):
        state = "has JPEGImages but no SegmentationClassContext: convert the annotations to masks."
    else:
        state = "has neither JPEGImages nor SegmentationClassContext."
    raise DataNotFound(f"{root} {state} {_EXPECTED}")
