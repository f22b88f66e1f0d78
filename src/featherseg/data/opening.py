"""Open a dataset by its name in DATASETS, its dataset.toml or its folder."""

from __future__ import annotations

import os
import shlex
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from featherseg.core.config import SplitBy
from featherseg.core.errors import DataNotFound, NoDataset, near_path, unknown
from featherseg.core.storage import is_remote
from featherseg.core.types import ClassInfo, DataFacts, SegmentationData
from featherseg.data.cache.mirror import local_dataset, local_folder
from featherseg.data.cache.prepared import with_cache
from featherseg.data.datasets import DATASETS
from featherseg.data.datasets.dataset_toml import DatasetToml, read_dataset_toml
from featherseg.data.datasets.folder import FolderData, FolderListing, list_folder
from featherseg.data.discovery.masks_yaml import read_masks_yaml
from featherseg.data.discovery.proposal import proposed_config
from featherseg.data.images.pairs import NamedData, PairedFiles
from featherseg.data.shapes import Shapes


def open_dataset(
    name: str,
    split: str,
    root: Path | None = None,
    size: int | None = None,
    *,
    exact: bool = True,
    split_by: SplitBy | None = None,
) -> SegmentationData:
    """Open one split of a dataset, or several joined by `+`, such as "train+val".

        data = featherseg.open_dataset("photos", "train")
        loader = torch.utils.data.DataLoader(data.torch(), batch_size=8)

    Args:
        name: A name of DATASETS, a dataset.toml or a folder. One in a bucket is copied here first
            (data/cache/mirror.py). A folder without a dataset.toml is read as `featherseg check
            FOLDER --write` would write it, if that is clear.
        root: The folder of a dataset that lies on disk; for a dataset.toml the folder that its
            paths start from, by default its own.
        size: The largest number of samples, spread evenly; default: all.
        exact: Whether to ignore prepared images that lost something when they were prepared.
        split_by: What a split by share keeps together; default: as the dataset.toml says.

    Raises:
        UnknownName: The dataset or the split is unknown.
        DataNotFound, ConfigError: Something is missing or wrong on disk.
    """
    data = open_files(name, split, root, size, split_by)
    return (
        with_cache(data, data_folder(name, root), exact=exact)
        if isinstance(data, PairedFiles)
        else data
    )


def open_files(
    name: str,
    split: str,
    root: Path | None = None,
    size: int | None = None,
    split_by: SplitBy | None = None,
) -> SegmentationData:
    """Open a dataset as `open_dataset` does, without prepared data."""
    if is_own(name):
        return FolderData(own_listing(name, root, split_by), split, size=size)
    dataset = find_dataset(name)
    return (
        dataset(split, size)
        if issubclass(dataset, Shapes)
        else dataset(given_root(name, root), split, size)
    )


def is_own(name: str) -> bool:
    """Whether a name is the path of a dataset.toml or of a folder, here or in a bucket."""
    return (
        is_remote(name) or name.endswith(".toml") or (name not in DATASETS and os.path.isdir(name))
    )


def own_path(name: str) -> Path:
    """Return the absolute path of a dataset.toml, or of a folder that has none."""
    path = Path(os.path.abspath(local_dataset(name) if is_remote(name) else name))
    return path / "dataset.toml" if os.path.isfile(path / "dataset.toml") else path


def own_config(name: str) -> DatasetToml:
    """Read a dataset.toml or that of a folder; propose one for a folder without it.

    Raises:
        DataNotFound: There is nothing at the path, or it is not clear what to propose.
        ConfigError: The dataset.toml has a mistake.
    """
    path = own_path(name)
    return proposed_config(path) if os.path.isdir(path) else read_dataset_toml(path)


def own_listing(
    name: str, root: Path | None = None, split_by: SplitBy | None = None
) -> FolderListing:
    """List the files of every split, also those without a partner. Raises as `own_config` does."""
    base = data_folder(name, root).absolute()  # as messages name it
    return list_folder(own_config(name), base, split_by)


def data_folder(name: str, root: Path | None) -> Path:
    """Return the folder of a dataset on disk; for one in a bucket, that of its copy."""
    if root is not None and is_remote(root):
        return local_folder(str(root))
    if root is None and is_remote(name):
        name = local_dataset(name)
    return root or (Path(name) if os.path.isdir(name) else Path(name).parent)


def dataset_facts(name: str) -> DataFacts:
    """Return what is known of a dataset without opening its images.

    Raises UnknownName for an unknown dataset, DataNotFound and ConfigError for a dataset.toml.
    """
    if is_own(name):
        config = own_config(name)
        return DataFacts(config.name, config.class_infos(), config.licence, config.channels)
    return find_dataset(name).facts


def share_rule(name: str) -> SplitBy | None:
    """Return what a dataset.toml with splits by share keeps together; None for other datasets."""
    if not is_own(name):
        return None
    config = own_config(name)
    return config.split_by if config.shares or config.parts else None


def score_split(name: str, root: Path | None = None, validated: str = "val") -> str:
    """Return the split to score by default: test if it has masks here, else `validated`.

    Raises UnknownName for an unknown dataset, DataNotFound and ConfigError for a dataset.toml.
    """
    if is_own(name):
        test = own_listing(name, root).splits.get("test", ())
        return "test" if any(pair.mask for pair in test) else validated
    dataset = find_dataset(name)
    if "test" not in dataset.splits:
        return validated
    try:  # it may not have been unpacked
        if not issubclass(dataset, Shapes):
            dataset.list_files(given_root(name, root), ("test",))
    except DataNotFound:
        return validated
    return "test"


def category_ids(classes: Sequence[ClassInfo]) -> tuple[int, ...]:
    """Return the ids of these classes in the panoptic benchmark that has them; else 0..K-1.

    A benchmark has them if names and order are equal.
    """
    names = [info.name for info in classes]
    for dataset in DATASETS.values():
        if dataset.facts.category_ids and [info.name for info in dataset.facts.classes] == names:
            return dataset.facts.category_ids
    return tuple(range(len(classes)))


def find_dataset(name: str) -> type[NamedData] | type[Shapes]:
    """Return the dataset with that name.

    Raises:
        UnknownName: There is none; the nearest one is named.
        DataNotFound: The name is a path to something else.
    """
    if name in DATASETS:
        return DATASETS[name]
    path = Path(name)
    names = ", ".join(DATASETS)
    expected = (
        f"Expected a folder of images and masks, a dataset.toml, or one of the datasets {names}."
    )
    if os.path.isfile(path) and path.suffix.lower() in (".yaml", ".yml") and read_masks_yaml(path):
        folder = shlex.quote(str(path.parent))
        raise DataNotFound(
            f"{name} names images and masks. Make a dataset.toml of them and use its folder:\n"
            f"    featherseg check {folder} --write"
        )
    if os.path.isfile(path):
        raise NoDataset(f"{name} is a file that is no dataset. {expected}", path)
    if ("/" in name or path.suffix) and not os.path.exists(path):
        raise DataNotFound(f"{name} does not exist.{near_path(path)} {expected}")
    raise unknown("dataset", name, [*DATASETS, "path/to/dataset.toml"], here=True)


def given_root(name: str, root: Path | None) -> Path:
    """Return the absolute folder of a dataset. Raises DataNotFound if `root` is None."""
    if root is None:
        here = f" For the folder of that name here: ./{name}" if os.path.isdir(name) else ""
        raise DataNotFound(
            f"{name} is not part of this package: set its location with --data-root PATH.{here}"
        )
    return data_folder(name, root).absolute()


@dataclass(frozen=True)
class LabelledImages:
    """The arguments of `open_dataset` for one split."""

    name: str
    split: str
    root: Path | None = None
    size: int | None = None
    split_by: SplitBy | None = None

    def open(self) -> SegmentationData:
        """Open the split. Raises what `open_dataset` raises."""
        return open_dataset(self.name, self.split, self.root, self.size, split_by=self.split_by)

    def is_of(self, name: str) -> bool:
        """Whether `name` means the same dataset."""
        paths = [own_path(path).resolve() for path in (name, self.name) if path not in DATASETS]
        return self.name == name or (len(paths) == 2 and paths[0] == paths[1])
