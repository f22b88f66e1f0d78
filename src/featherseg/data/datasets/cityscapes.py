"""Cityscapes, fine annotations (Cordts et al., CVPR 2016): 2975 train / 500 val / 1525 test images of 1024 x 2048.

19 classes. Masks of label ids or of train ids are read; docs/data/cityscapes.md shows the layout
and the licence.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from featherseg.core.errors import DataNotFound
from featherseg.core.types import DataFacts
from featherseg.data.datasets.cityscapes_labels import CITYSCAPES_CLASSES, FROM_LABEL_IDS, FROM_TRAIN_IDS
from featherseg.data.labels import LabelMap
from featherseg.data.pairs import FilesByStem, Listing, NamedData, files_by_stem, make_splits

CITYSCAPES_LICENCE = (
    "research and other non-commercial use only: trained on Cityscapes, whose terms allow academic research, teaching, "
    "scientific publications and personal experimentation"
)

IMAGE_SUFFIX = "_leftImg8bit"


@dataclass(frozen=True)
class MaskKind:
    """One form of masks: what their names end in, and what their values mean."""

    suffix: str
    label_map: LabelMap


MASK_KINDS = (  # the first that is there is read
    MaskKind("_gtFine_labelIds", FROM_LABEL_IDS),  # of the release
    MaskKind("_gtFine_labelTrainIds", FROM_TRAIN_IDS),  # as written by cityscapesscripts' createTrainIdLabelImgs
)


class Cityscapes(NamedData):
    """Cityscapes with 19 classes; keys are "frankfurt/frankfurt_000000_000294": city, then city_sequence_frame."""

    facts = DataFacts("cityscapes", CITYSCAPES_CLASSES, CITYSCAPES_LICENCE, image_size=(1024, 2048))
    no_test = (
        "the labels of the split test of Cityscapes are not public (the release has only masks of ignored pixels), "
        "so it cannot be used for training or evaluation: use val. To write masks for the benchmark server: "
        "featherseg predict RUN ROOT/leftImg8bit/test/* --submission cityscapes"
    )

    @classmethod
    def list_files(cls, root: Path, splits: Sequence[str]) -> Listing:
        _check_root(root)
        kind, masks = _find_masks(root, splits)
        images = {split: files_by_stem(root / "leftImg8bit" / split, IMAGE_SUFFIX) for split in splits}
        missing = f"{root / 'leftImg8bit'} has no images of {' or '.join(splits)}. {_EXPECTED}"
        pairs = make_splits({split: (images[split], masks[split]) for split in splits}, missing)
        return Listing("cityscapes", CITYSCAPES_CLASSES, kind.label_map, pairs, CITYSCAPES_LICENCE)


def _find_masks(root: Path, splits: Sequence[str]) -> tuple[MaskKind, dict[str, FilesByStem]]:
    """The kind of masks to read, and these masks by split and key; the first kind where there are none at all."""
    for kind in MASK_KINDS:
        masks = {split: files_by_stem(root / "gtFine" / split, kind.suffix) for split in splits}
        if any(masks.values()):
            return kind, masks
    return MASK_KINDS[0], {split: {} for split in splits}


_EXPECTED = (
    "Expected leftImg8bit/{train,val}/<city>/*_leftImg8bit.png and gtFine/{train,val}/<city>/*_gtFine_labelIds.png "
    "(or *_gtFine_labelTrainIds.png) from www.cityscapes-dataset.com. Set their location with --data-root."
)


def _check_root(root: Path) -> None:
    """Raises DataNotFound where `root` does not hold the two folders, with the root that was probably meant."""
    missing = [name for name in ("leftImg8bit", "gtFine") if not (root / name).is_dir()]
    if not missing:
        return
    if not root.is_dir():
        state = "is not a folder."
    elif root.name in ("leftImg8bit", "gtFine"):
        state = f"is one of the two folders of Cityscapes, not their parent folder: use {root.parent}."
    elif missing == ["gtFine"]:
        state = "has leftImg8bit but no gtFine: unpack gtFine_trainvaltest.zip next to it."
    elif missing == ["leftImg8bit"]:
        state = "has gtFine but no leftImg8bit: unpack leftImg8bit_trainvaltest.zip next to it."
    else:
        below = sorted(path.parent for path in root.glob("*/leftImg8bit"))
        state = f"has neither leftImg8bit nor gtFine{f', but {below[0]} does: use that' if below else ''}."
    raise DataNotFound(f"{root} {state} {_EXPECTED}")
