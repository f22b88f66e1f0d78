"""Datasets: pictures with their class ids. `DATASETS` is the catalogue, `open_dataset` the way in; torch-free."""

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from featherseg.core.errors import DataNotFound, unknown
from featherseg.core.types import SegmentationData

if TYPE_CHECKING:
    from featherseg.data.pairs import Listing


@dataclass(frozen=True)
class DatasetEntry:
    """One dataset of the catalogue.

    `open(split, root, size)` gives one split; `listing(root)` the files of all splits for `featherseg check`, None for
    a dataset that is drawn; `splits` are the parts that share no picture.
    """

    open: Callable[[str, Path | None, int | None], SegmentationData]
    listing: "Callable[[Path | None], Listing] | None"
    splits: tuple[str, ...] = ("train", "val", "test")


def _open_camvid(split: str, root: Path | None, size: int | None) -> SegmentationData:
    from featherseg.data.camvid import CamVid

    return CamVid(_given("camvid", root), split, size)


def _list_camvid(root: Path | None) -> "Listing":
    from featherseg.data.camvid import camvid_listing

    return camvid_listing(_given("camvid", root))


def _open_shapes(split: str, root: Path | None, size: int | None) -> SegmentationData:
    from featherseg.data.shapes import Shapes

    return Shapes(split, size)


DATASETS: dict[str, DatasetEntry] = {
    "camvid": DatasetEntry(_open_camvid, _list_camvid),
    "shapes": DatasetEntry(_open_shapes, None),
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
