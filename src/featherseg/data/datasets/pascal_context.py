"""Pascal Context (Mottaghi et al., CVPR 2014): 4998 train / 5105 val images of PASCAL VOC 2010, all pixels labelled.

The 59 most frequent classes, with or without everything else as a class "background" (60). Masks
are those that mmsegmentation's converter writes; docs/data/pascal-context.md shows the layout and
the licence.
"""

from collections.abc import Sequence
from pathlib import Path

import numpy as np

from featherseg.core.errors import DataNotFound
from featherseg.core.types import IGNORE, ClassInfo, DataFacts
from featherseg.data.datasets.class_lists import LazyFacts, read_classes
from featherseg.data.labels import LabelMap
from featherseg.data.pairs import Listing, NamedData, files_by_stem, make_pairs, read_list

PASCAL_CONTEXT_LICENCE = (
    "trained on Pascal Context: the licence of its labels is unknown, and its images, those of PASCAL VOC 2010, are "
    "under Flickr's terms of use; ask before any use beyond research"
)

BACKGROUND = ClassInfo("background", (0, 0, 0))


class ContextMap(LabelMap):
    """The values of masks to class ids: 0..59 of masks with 8 bits, the raw ids of those with more; 0 is `background`.

    The two forms cannot be mistaken: raw ids go to 458, for which 8 bits are too few.
    """

    def __init__(self, classes: int) -> None:
        raw_ids = list(read_classes("pascal_context"))
        background, first = (0, 1) if classes > len(raw_ids) else (IGNORE, 0)
        expected = (
            "the values of Pascal Context's masks (0 = background and 1 to 59, or in 16-bit masks the 59 raw ids). "
            "Masks of all 459 labels are not read: convert the annotation with "
            "tools/dataset_converters/pascal_context.py of mmsegmentation"
        )
        super().__init__({0: background, **{i + 1: i + first for i in range(len(raw_ids))}}, expected=expected)
        self.deep = LabelMap({0: background, **{raw: i + first for i, raw in enumerate(raw_ids)}}, expected=expected)

    def apply(self, raw: np.ndarray) -> np.ndarray:
        """(H, W) raw values -> (H, W) int16 ids, -1 where the value is not in the map of its number of bits."""
        return super().apply(raw) if raw.dtype == np.uint8 else self.deep.apply(raw)


class PascalContext(NamedData):
    """Pascal Context with 59 classes, background ignored; keys are the stems of the files, "2008_000002"."""

    facts = LazyFacts(lambda: _facts("pascal-context-59"))
    no_test = "the labels of the test images of Pascal Context are not public: use val, as in the literature."

    @classmethod
    def list_files(cls, root: Path, splits: Sequence[str]) -> Listing:
        base = _find_base(root)
        images, masks = files_by_stem(base / IMAGES), files_by_stem(base / MASKS)
        lists = {split: base / LISTS / f"{split}.txt" for split in splits}
        pairs = {split: make_pairs(read_list(path, _EXPECTED), images, masks) for split, path in lists.items()}
        classes = cls.facts.classes
        return Listing(cls.facts.name, classes, ContextMap(len(classes)), pairs, PASCAL_CONTEXT_LICENCE)


class PascalContext60(PascalContext):
    """With background as class 0, so that every other class id is one more."""

    facts = LazyFacts(lambda: _facts("pascal-context-60", BACKGROUND))


def _facts(name: str, *background: ClassInfo) -> DataFacts:
    classes = (*background, *read_classes("pascal_context").values())
    return DataFacts(name, classes, PASCAL_CONTEXT_LICENCE, image_size=(375, 500))


IMAGES, MASKS, LISTS = "JPEGImages", "SegmentationClassContext", "ImageSets/SegmentationContext"

_EXPECTED = (
    "Expected, in this folder or in VOC2010/ or VOCdevkit/VOC2010/ below it, JPEGImages/*.jpg "
    "(VOCtrainval_03-May-2010.tar) and SegmentationClassContext/*.png with "
    "ImageSets/SegmentationContext/{train,val}.txt, as written by tools/dataset_converters/pascal_context.py of "
    "mmsegmentation. Set their location with --data-root."
)


def _find_base(root: Path) -> Path:
    """`root` or the folder VOC2010 below it that holds images and masks; raises DataNotFound where there is none."""
    bases = (root, root / "VOC2010", root / "VOCdevkit/VOC2010")
    for base in bases:
        if (base / IMAGES).is_dir() and (base / MASKS).is_dir():
            return base
    if not root.is_dir():
        state = "is not a folder."
    elif any(next(base.glob("trainval/*.mat"), None) for base in bases):
        state = (
            "has the annotations of 459 labels (trainval/*.mat), which are not read: convert them to the 59 classes."
        )
    elif any((base / IMAGES).is_dir() for base in bases):
        state = (
            "has JPEGImages but no SegmentationClassContext: the masks of Pascal Context are written by a converter."
        )
    else:
        state = "has neither JPEGImages nor SegmentationClassContext."
    raise DataNotFound(f"{root} {state} {_EXPECTED}")
