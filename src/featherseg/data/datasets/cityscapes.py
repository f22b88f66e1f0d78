"""Cityscapes, fine annotations (Cordts et al., CVPR 2016): 2975 train / 500 val / 1525 test images.

19 classes, images of 1024 x 2048. Masks of label ids or of train ids are read;
docs/data/cityscapes.md shows the layout and the licence.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from featherseg.core.errors import DataNotFound
from featherseg.core.types import DataFacts
from featherseg.data.datasets.cityscapes_labels import (
    CITYSCAPES_CLASSES,
    FROM_LABEL_IDS,
    FROM_TRAIN_IDS,
)
from featherseg.data.images.labels import LabelMap
from featherseg.data.images.pairs import FilesByStem, Listing, NamedData, files_by_stem, make_splits

CITYSCAPES_LICENCE = (
    "research and other non-commercial use only: trained on Cityscapes, whose terms allow academic "
    "research, teaching, scientific publications and personal experimentation"
)

IMAGE_SUFFIX = "_leftImg8bit"


@dataclass(frozen=True)
class MaskKind:
    """One form of masks: the end of their names, and the meaning of their values."""

    suffix: str
    label_map: LabelMap


MASK_KINDS = (  # the first that is there is read
    MaskKind("_gtFine_labelIds", FROM_LABEL_IDS),  # as released
    MaskKind("_gtFine_labelTrainIds", FROM_TRAIN_IDS),  # by cityscapesscripts
)


class Cityscapes(NamedData):
    """Cityscapes with 19 classes; keys are city/city_sequence_frame, "ulm/ulm_000000_000019"."""

    facts = DataFacts("cityscapes", CITYSCAPES_CLASSES, CITYSCAPES_LICENCE, image_size=(1024, 2048))
    no_test = (
        "the labels of the split test of Cityscapes are not public (the release has only masks "
        "of ignored pixels), so it cannot be used for training or evaluation: use val. To write "
        "masks for the benchmark server: featherseg predict RUN ROOT/leftImg8bit/test/* "
        "--submission cityscapes"
    )

    @classmethod
    def list_files(cls, root: Path, splits: Sequence[str]) -> Listing:
        _check_root(root)
        kind, masks = _find_masks(root, splits)
        folder = root / "leftImg8bit"
        images = {split: files_by_stem(folder / split, IMAGE_SUFFIX) for split in splits}
        missing = f"{folder} has no images of {' or '.join(splits)}. {_EXPECTED}"
        pairs = make_splits({split: (images[split], masks[split]) for split in splits}, missing)
        return Listing("cityscapes", CITYSCAPES_CLASSES, kind.label_map, pairs, CITYSCAPES_LICENCE)


def _find_masks(root: Path, splits: Sequence[str]) -> tuple[MaskKind, dict[str, FilesByStem]]:
    """Return the kind of masks to read, and these masks by split and key.

    If there are no masks at all, it is the first kind.
    """
    for kind in MASK_KINDS:
        masks = {split: files_by_stem(root / "gtFine" / split, kind.suffix) for split in splits}
        if any(masks.values()):
            return kind, masks
    return MASK_KINDS[0], {split: {} for split in splits}


_EXPECTED = (
    "Expected leftImg8bit/{train,val}/<city>/*_leftImg8bit.png and "
    "gtFine/{train,val}/<city>/*_gtFine_labelIds.png (or *_gtFine_labelTrainIds.png) from "
    "www.cityscapes-dataset.com. Set their location with --data-root."
)


def _check_root(root: Path) -> None:
    """Raise DataNotFound if `root` lacks one of the two folders; suggest the root that is meant."""
    missing = [name for name in ("leftImg8bit", "gtFine") if not (root / name).is_dir()]
    if not missing:
        return
    if not root.is_dir():
        state = "is not a folder."
    elif root.name in ("leftImg8bit", "gtFine"):
        state = f"is a folder of Cityscapes, not the folder above it: use {root.parent}."
    elif missing == ["gtFine"]:
        state = "has leftImg8bit but no gtFine: unpack gtFine_trainvaltest.zip next to it."
    elif missing == ["leftImg8bit"]:
        state = "has gtFine but no leftImg8bit: unpack leftImg8bit_trainvaltest.zip next to it."
    else:
        below = sorted(path.parent for path in root.glob("*/leftImg8bit"))
        hint = f", but {below[0]} does: use that" if below else ""
        state = f"has neither leftImg8bit nor gtFine{hint}."
    raise DataNotFound(f"{root} {state} {_EXPECTED}")
