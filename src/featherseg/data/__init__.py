"""Datasets: pictures with their class ids. `DATASETS` is the catalogue, `open_dataset` the way in; torch-free."""

from collections.abc import Callable
from pathlib import Path

from featherseg.core.errors import DataNotFound, unknown
from featherseg.core.types import SegmentationData


def _camvid(split: str, root: Path | None, size: int | None) -> SegmentationData:
    from featherseg.data.camvid import CamVid

    if root is None:
        raise DataNotFound("camvid is not part of this package: say where it lies with --data-root PATH.")
    return CamVid(root, split, size)


def _shapes(split: str, root: Path | None, size: int | None) -> SegmentationData:
    from featherseg.data.shapes import Shapes

    return Shapes(split, size)


DATASETS: dict[str, Callable[[str, Path | None, int | None], SegmentationData]] = {
    "camvid": _camvid,
    "shapes": _shapes,
}
"""Name -> a function (split, root, size) that opens the dataset. `folder` data is named by its dataset.toml instead."""


def open_dataset(name: str, split: str, root: Path | None = None, size: int | None = None) -> SegmentationData:
    """Open one split of a dataset: a name of DATASETS, or the path of a dataset.toml.

    `root` is the folder of a dataset that lies on disk (for a dataset.toml: the folder its paths start from, by default
    its own); `size` takes at most so many samples. Raises UnknownName for an unknown dataset or split, DataNotFound and
    ConfigError for what is missing or wrong on disk.
    """
    if name.endswith(".toml"):
        from featherseg.data.folder import FolderData

        return FolderData(Path(name), split, root, size)
    if name not in DATASETS:
        raise unknown("dataset", name, [*DATASETS, "path/to/dataset.toml"])
    return DATASETS[name](split, root, size)
