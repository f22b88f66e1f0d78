"""Datasets: pictures with their class ids. `DATASETS` is the catalogue, `open_dataset` the way in; torch-free."""

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from featherseg.core.errors import DataNotFound, unknown
from featherseg.core.types import ClassInfo, SegmentationData, Size

if TYPE_CHECKING:
    from featherseg.data.pairs import Listing


@dataclass(frozen=True)
class DataFacts:
    """What is known of a dataset without its pictures and masks.

    `licence` says under which terms weights that were trained on it may be used; `image_size` is the (height, width) of
    its pictures, None where that is not known.
    """

    classes: tuple[ClassInfo, ...]
    licence: str
    channels: int = 3
    image_size: Size | None = None


@dataclass(frozen=True)
class DatasetEntry:
    """One dataset of the catalogue.

    `open(split, root, size)` gives one split; `listing(root)` the files of all splits for `featherseg check`, None for
    a dataset that is drawn; `facts()` what holds without any file; `splits` are the parts that share no picture.
    """

    open: Callable[[str, Path | None, int | None], SegmentationData]
    listing: "Callable[[Path | None], Listing] | None"
    facts: Callable[[], DataFacts]
    splits: tuple[str, ...] = ("train", "val", "test")


def _open_camvid(split: str, root: Path | None, size: int | None) -> SegmentationData:
    from featherseg.data.camvid import CamVid

    return CamVid(_given("camvid", root), split, size)


def _list_camvid(root: Path | None) -> "Listing":
    from featherseg.data.camvid import camvid_listing

    return camvid_listing(_given("camvid", root))


def _camvid_facts() -> DataFacts:
    from featherseg.data.camvid import CAMVID_CLASSES, CAMVID_LICENCE

    return DataFacts(CAMVID_CLASSES, CAMVID_LICENCE, image_size=(360, 480))


def _open_cityscapes(split: str, root: Path | None, size: int | None) -> SegmentationData:
    from featherseg.data.cityscapes import Cityscapes

    return Cityscapes(_given("cityscapes", root), split, size)


def _list_cityscapes(root: Path | None) -> "Listing":
    from featherseg.data.cityscapes import cityscapes_listing

    return cityscapes_listing(_given("cityscapes", root))


def _cityscapes_facts() -> DataFacts:
    from featherseg.data.cityscapes import CITYSCAPES_CLASSES, CITYSCAPES_LICENCE

    return DataFacts(CITYSCAPES_CLASSES, CITYSCAPES_LICENCE, image_size=(1024, 2048))


def _open_bdd100k(split: str, root: Path | None, size: int | None) -> SegmentationData:
    from featherseg.data.bdd100k import BDD100K

    return BDD100K(_given("bdd100k", root), split, size)


def _list_bdd100k(root: Path | None) -> "Listing":
    from featherseg.data.bdd100k import bdd100k_listing

    return bdd100k_listing(_given("bdd100k", root))


def _bdd100k_facts() -> DataFacts:
    from featherseg.data.bdd100k import BDD100K_LICENCE, CITYSCAPES_CLASSES

    return DataFacts(CITYSCAPES_CLASSES, BDD100K_LICENCE, image_size=(720, 1280))


def _open_shapes(split: str, root: Path | None, size: int | None) -> SegmentationData:
    from featherseg.data.shapes import Shapes

    return Shapes(split, size)


def _shapes_facts() -> DataFacts:
    from featherseg.data.shapes import HEIGHT, WIDTH, Shapes

    return DataFacts(Shapes.classes, Shapes.licence, Shapes.channels, (HEIGHT, WIDTH))


DATASETS: dict[str, DatasetEntry] = {
    "camvid": DatasetEntry(_open_camvid, _list_camvid, _camvid_facts),
    "cityscapes": DatasetEntry(_open_cityscapes, _list_cityscapes, _cityscapes_facts, ("train", "val")),
    "bdd100k": DatasetEntry(_open_bdd100k, _list_bdd100k, _bdd100k_facts, ("train", "val")),
    "shapes": DatasetEntry(_open_shapes, None, _shapes_facts),
}
"""The datasets with a name. `folder` data has none: it is named by the path of its dataset.toml."""


def open_dataset(name: str, split: str, root: Path | None = None, size: int | None = None) -> SegmentationData:
    """Open one split of a dataset: a name of DATASETS, or the path of a dataset.toml.

    `root` is the folder of a dataset that lies on disk (for a dataset.toml: the folder its paths start from, by default
    its own); `size` takes at most so many samples, spread evenly. Raises UnknownName for an unknown dataset or split,
    DataNotFound and ConfigError for what is missing or wrong on disk.
    """
    if name.endswith(".toml"):
        from featherseg.data.folder import FolderData

        return FolderData(Path(name), split, root, size)
    return find_dataset(name).open(split, root, size)


def dataset_facts(name: str) -> DataFacts:
    """What is known of a dataset without its pictures: of a name of DATASETS, or of the path of a dataset.toml.

    Raises UnknownName for an unknown dataset, DataNotFound and ConfigError for a dataset.toml.
    """
    if name.endswith(".toml"):
        from featherseg.data.dataset_toml import read_dataset_toml

        config = read_dataset_toml(Path(name))
        return DataFacts(config.class_infos(), config.licence, config.channels)
    return find_dataset(name).facts()


def find_dataset(name: str) -> DatasetEntry:
    """The entry of the catalogue; raises UnknownName with the nearest name, DataNotFound for what looks like a path."""
    if "/" in name and not Path(name).exists():
        raise DataNotFound(
            f"{name} does not exist. Expected a dataset.toml, or one of the datasets {', '.join(DATASETS)}."
        )
    if name not in DATASETS:
        raise unknown("dataset", name, [*DATASETS, "path/to/dataset.toml"])
    return DATASETS[name]


def _given(name: str, root: Path | None) -> Path:
    if root is None:
        raise DataNotFound(f"{name} is not part of this package: say where it lies with --data-root PATH.")
    return root
