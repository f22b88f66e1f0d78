"""BDD100K, semantic segmentation (Yu et al., CVPR 2020): 7000 train / 1000 val / 2000 test images.

Images of 720 x 1280 with the 19 classes of Cityscapes as train ids. Two layouts are read;
docs/data/bdd100k.md shows them and the licence.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from featherseg.core.errors import DataNotFound
from featherseg.core.types import DataFacts
from featherseg.data.datasets.cityscapes_labels import CITYSCAPES_CLASSES, FROM_TRAIN_IDS
from featherseg.data.images.pairs import Listing, NamedData, files_by_stem, make_splits

BDD100K_LICENCE = (
    "research and other non-commercial use only: trained on BDD100K, whose data are free for "
    "educational, research and not-for-profit purposes (Regents of the University of California)"
)


@dataclass(frozen=True)
class Layout:
    """Folders of images and masks below the root; each has a folder for each split."""

    images: str
    masks: str
    mask_suffix: str = ""


LAYOUTS = (
    Layout("images/10k", "labels/sem_seg/masks"),
    Layout("seg/images", "seg/labels", mask_suffix="_train_id"),  # as released in 2018
)


class BDD100K(NamedData):
    """BDD100K with 19 classes; keys are the stems of the files, "0004a4c0-d4dff0ad"."""

    facts = DataFacts("bdd100k", CITYSCAPES_CLASSES, BDD100K_LICENCE, image_size=(720, 1280))
    no_test = (
        "the labels of the split test of BDD100K are not public, so it cannot be used for "
        "training or evaluation: use val. To write masks for the benchmark server: featherseg "
        "predict RUN ROOT/images/10k/test --submission bdd100k"
    )

    @classmethod
    def list_files(cls, root: Path, splits: Sequence[str]) -> Listing:
        base, layout = find_layout(root)
        folder, suffix = base / layout.images, layout.mask_suffix
        images = {split: files_by_stem(folder / split) for split in splits}
        masks = {split: files_by_stem(base / layout.masks / split, suffix) for split in splits}
        missing = f"{folder} has no images of {' or '.join(splits)}. {_EXPECTED}"
        pairs = make_splits({split: (images[split], masks[split]) for split in splits}, missing)
        return Listing("bdd100k", CITYSCAPES_CLASSES, FROM_TRAIN_IDS, pairs, BDD100K_LICENCE)


def find_layout(root: Path) -> tuple[Path, Layout]:
    """Return `root` or its folder bdd100k, and the layout there; raises DataNotFound if none is."""
    bases = (root, root / "bdd100k")
    for base in bases:
        for layout in LAYOUTS:
            if (base / layout.images).is_dir() and (base / layout.masks).is_dir():
                return base, layout
    raise DataNotFound(f"{root} {_state(root, bases)} {_EXPECTED}")


_EXPECTED = (
    "Expected, in this folder or in bdd100k/ below it, images/10k/{train,val}/*.jpg and "
    "labels/sem_seg/masks/{train,val}/*.png, or from the older release "
    "seg/images/{train,val}/*.jpg and seg/labels/{train,val}/*_train_id.png "
    "(bdd-data.berkeley.edu). Set their location with --data-root."
)


def _state(root: Path, bases: Sequence[Path]) -> str:
    """Return what is there instead of a layout."""
    if not root.is_dir():
        return "is not a folder."
    for base in bases:
        if (base / "images/10k").is_dir():
            return "has images but no labels/sem_seg/masks: unpack the labels next to them."
        if (base / "labels/sem_seg").is_dir():
            if (base / "images/100k").is_dir():
                return "has images/100k, but the segmentation labels belong to images/10k."
            return "has labels but no images/10k: unpack the 10K images next to them."
    return "has none of BDD100K's layouts."
