"""Datasets: images with their class ids. `DATASETS` is the catalogue, `open_dataset` the way in; torch-free."""

import os
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path

from featherseg.core.errors import DataNotFound, near_path, unknown
from featherseg.core.types import ClassInfo, SegmentationData, Size
from featherseg.data.cache import with_cache
from featherseg.data.datasets.ade20k import ADE20K, ADE20K_CLASSES, ADE20K_LICENCE, ade20k_listing
from featherseg.data.datasets.bdd100k import BDD100K, BDD100K_LICENCE, bdd100k_listing
from featherseg.data.datasets.bdd100k_panoptic import (
    BDD100K_PANOPTIC_CLASSES,
    CATEGORY_IDS,
    BDD100KPanoptic,
    bdd100k_panoptic_listing,
)
from featherseg.data.datasets.camvid import CAMVID_CLASSES, CAMVID_LICENCE, CamVid, camvid_listing
from featherseg.data.datasets.cityscapes import CITYSCAPES_LICENCE, Cityscapes, cityscapes_listing
from featherseg.data.datasets.cityscapes_labels import CITYSCAPES_CLASSES, LABEL_IDS
from featherseg.data.datasets.cityscapes_panoptic import CityscapesPanoptic, cityscapes_panoptic_listing
from featherseg.data.datasets.coco_panoptic import COCO_PANOPTIC_LICENCE, CocoPanoptic, coco_panoptic_listing
from featherseg.data.datasets.coco_panoptic_classes import CLASS_OF, COCO_PANOPTIC_CLASSES
from featherseg.data.datasets.coco_stuff import (
    COCO_STUFF_CLASSES,
    COCO_STUFF_LICENCE,
    CocoStuff10k,
    CocoStuff164k,
    coco_stuff_10k_listing,
    coco_stuff_164k_listing,
)
from featherseg.data.datasets.dataset_toml import read_dataset_toml
from featherseg.data.datasets.folder import FolderData
from featherseg.data.datasets.pascal_context import (
    PASCAL_CONTEXT_LICENCE,
    PascalContext,
    pascal_context_classes,
    pascal_context_listing,
)
from featherseg.data.pairs import Listing, PairedFiles
from featherseg.data.shapes import HEIGHT, WIDTH, Shapes


@dataclass(frozen=True)
class DataFacts:
    """What is known of a dataset without its images and masks.

    `licence` says under which terms weights that were trained on it may be used; `image_size` is the (height, width) of
    its images (of a usual one where they differ), None where that is not known; `category_ids` are what a panoptic
    benchmark calls the classes, in their order.
    """

    classes: tuple[ClassInfo, ...]
    licence: str
    channels: int = 3
    image_size: Size | None = None
    category_ids: tuple[int, ...] | None = None


@dataclass(frozen=True)
class OnDisk:
    """One dataset of the catalogue that lies on disk, under a root that the user gives.

    `open(root, split, size)` gives one split; `listing(root)` the files of all splits for `featherseg check`; `splits`
    are the parts with public labels that share no image.
    """

    facts: DataFacts
    open: Callable[[Path, str, int | None], SegmentationData]
    listing: Callable[[Path], Listing]
    splits: tuple[str, ...] = ("train", "val")


@dataclass(frozen=True)
class Synthetic:
    """One dataset of the catalogue that the program draws: `open(split, size)` gives one split."""

    facts: DataFacts
    open: Callable[[str, int | None], SegmentationData]
    splits: tuple[str, ...] = ("train", "val", "test")


def _pascal_context(classes: int) -> OnDisk:
    """Pascal Context with 59 classes, or with 60: background as well."""
    return OnDisk(
        DataFacts(pascal_context_classes(classes), PASCAL_CONTEXT_LICENCE, image_size=(375, 500)),
        partial(PascalContext, classes=classes),
        partial(pascal_context_listing, classes=classes),
    )


DATASETS: dict[str, OnDisk | Synthetic] = {
    "camvid": OnDisk(
        DataFacts(CAMVID_CLASSES, CAMVID_LICENCE, image_size=(360, 480)),
        CamVid,
        camvid_listing,
        ("train", "val", "test"),
    ),
    "cityscapes": OnDisk(
        DataFacts(CITYSCAPES_CLASSES, CITYSCAPES_LICENCE, image_size=(1024, 2048)), Cityscapes, cityscapes_listing
    ),
    "bdd100k": OnDisk(DataFacts(CITYSCAPES_CLASSES, BDD100K_LICENCE, image_size=(720, 1280)), BDD100K, bdd100k_listing),
    "ade20k": OnDisk(DataFacts(ADE20K_CLASSES, ADE20K_LICENCE, image_size=(512, 683)), ADE20K, ade20k_listing),
    "coco-stuff-10k": OnDisk(
        DataFacts(COCO_STUFF_CLASSES, COCO_STUFF_LICENCE, image_size=(480, 640)), CocoStuff10k, coco_stuff_10k_listing
    ),
    "coco-stuff-164k": OnDisk(
        DataFacts(COCO_STUFF_CLASSES, COCO_STUFF_LICENCE, image_size=(480, 640)), CocoStuff164k, coco_stuff_164k_listing
    ),
    "coco-panoptic": OnDisk(
        DataFacts(COCO_PANOPTIC_CLASSES, COCO_PANOPTIC_LICENCE, image_size=(480, 640), category_ids=tuple(CLASS_OF)),
        CocoPanoptic,
        coco_panoptic_listing,
    ),
    "cityscapes-panoptic": OnDisk(
        DataFacts(CITYSCAPES_CLASSES, CITYSCAPES_LICENCE, image_size=(1024, 2048), category_ids=LABEL_IDS),
        CityscapesPanoptic,
        cityscapes_panoptic_listing,
    ),
    "bdd100k-panoptic": OnDisk(
        DataFacts(BDD100K_PANOPTIC_CLASSES, BDD100K_LICENCE, image_size=(720, 1280), category_ids=CATEGORY_IDS),
        BDD100KPanoptic,
        bdd100k_panoptic_listing,
    ),
    "pascal-context-59": _pascal_context(59),
    "pascal-context-60": _pascal_context(60),
    "shapes": Synthetic(DataFacts(Shapes.classes, Shapes.licence, Shapes.channels, (HEIGHT, WIDTH)), Shapes),
}
"""The datasets with a name. `folder` data has none: it is named by the path of its dataset.toml."""


def open_dataset(
    name: str, split: str, root: Path | None = None, size: int | None = None, *, exact: bool = True
) -> SegmentationData:
    """Open one split of a dataset: a name of DATASETS, or the path of a dataset.toml.

    `root` is the folder of a dataset that lies on disk (for a dataset.toml: the folder its paths start from, by default
    its own); `size` takes at most so many samples, spread evenly. What `featherseg prepare` wrote is used where it is
    found (data/cache.py); images that lost something by it only where `exact` is off. Raises UnknownName for an
    unknown dataset or split, DataNotFound and ConfigError for what is missing or wrong on disk.
    """
    data = open_files(name, split, root, size)
    return with_cache(data, data_folder(name, root), exact=exact) if isinstance(data, PairedFiles) else data


def open_files(name: str, split: str, root: Path | None = None, size: int | None = None) -> SegmentationData:
    """`open_dataset` without prepared data: every sample is read from its own files, or drawn."""
    if name.endswith(".toml"):
        return FolderData(Path(name).absolute(), split, root and root.absolute(), size)  # messages say where was looked
    entry = find_dataset(name)
    if isinstance(entry, Synthetic):
        return entry.open(split, size)
    return entry.open(given_root(name, root), split, size)


def data_folder(name: str, root: Path | None) -> Path:
    """The folder that a dataset on disk lies in."""
    return root or Path(name).parent


def dataset_facts(name: str) -> DataFacts:
    """What is known of a dataset without its images: of a name of DATASETS, or of the path of a dataset.toml.

    Raises UnknownName for an unknown dataset, DataNotFound and ConfigError for a dataset.toml.
    """
    if name.endswith(".toml"):
        config = read_dataset_toml(Path(name))
        return DataFacts(config.class_infos(), config.licence, config.channels)
    return find_dataset(name).facts


def category_ids(classes: Sequence[ClassInfo]) -> tuple[int, ...]:
    """What the panoptic benchmark with these classes (by name and order) calls them; of no benchmark: 0..K-1."""
    names = [info.name for info in classes]
    for entry in DATASETS.values():
        if entry.facts.category_ids and [info.name for info in entry.facts.classes] == names:
            return entry.facts.category_ids
    return tuple(range(len(classes)))


def find_dataset(name: str) -> OnDisk | Synthetic:
    """The entry of the catalogue; raises UnknownName with the nearest name, DataNotFound for what looks like a path."""
    if name in DATASETS:
        return DATASETS[name]
    path = Path(name)
    if os.path.isfile(path / "dataset.toml"):
        raise DataNotFound(f"{name} is a folder. Name the file in it that describes the data: {path / 'dataset.toml'}")
    if os.path.isdir(path):
        raise DataNotFound(
            f"{name} is a folder without a dataset.toml, the file that says what its masks mean. "
            f"Have one proposed: featherseg check {name}"
        )
    if "/" in name and not os.path.exists(path):
        raise DataNotFound(
            f"{name} does not exist.{near_path(path)} Expected a dataset.toml, or one of the datasets "
            f"{', '.join(DATASETS)}."
        )
    raise unknown("dataset", name, [*DATASETS, "path/to/dataset.toml"], here=True)


def given_root(name: str, root: Path | None) -> Path:
    """The root itself; raises DataNotFound where a dataset that lies on disk was named without one."""
    if root is None:
        raise DataNotFound(f"{name} is not part of this package: say where it lies with --data-root PATH.")
    return root.absolute()
