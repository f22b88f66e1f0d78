"""Opening a dataset: by its name in DATASETS, by its dataset.toml, or by its folder."""

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
    """Open one split of a dataset, or several as one, "train+val": a name of DATASETS, a dataset.toml, or its folder.

    One in a bucket, "s3://bucket/dataset.toml", is copied here first (data/cache/mirror.py).
    A folder without a dataset.toml is read as `featherseg check FOLDER --write` would write it, where that is clear.
    `root` is the folder of a dataset that lies on disk (for a dataset.toml: the folder its paths start from, by default
    its own); `size` takes at most so many samples, spread evenly. What `featherseg prepare` wrote is used where it is
    found; images that lost something by it only where `exact` is off. `split_by` is what a split by
    share keeps together where that is not what the dataset.toml says. Raises UnknownName for an
    unknown dataset or split, DataNotFound and ConfigError for what is missing or wrong on disk.
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
    """`open_dataset` without prepared data: every sample is read from its own files, or drawn."""
    if is_own(name):
        return FolderData(own_listing(name, root, split_by), split, size=size)
    dataset = find_dataset(name)
    return (
        dataset(split, size)
        if issubclass(dataset, Shapes)
        else dataset(given_root(name, root), split, size)
    )


def is_own(name: str) -> bool:
    """Whether a name is no name of DATASETS but the path of a dataset.toml, or of a folder, also in a bucket."""
    return (
        is_remote(name) or name.endswith(".toml") or (name not in DATASETS and os.path.isdir(name))
    )


def own_path(name: str) -> Path:
    """The dataset.toml that a path means, absolute; the folder itself where it has none."""
    path = Path(os.path.abspath(local_dataset(name) if is_remote(name) else name))
    return path / "dataset.toml" if os.path.isfile(path / "dataset.toml") else path


def own_config(name: str) -> DatasetToml:
    """What a dataset.toml says, or that of a folder; without one, what is proposed for the folder.

    Raises DataNotFound where there is none, or it is not clear what to propose, and ConfigError for a slip.
    """
    path = own_path(name)
    return proposed_config(path) if os.path.isdir(path) else read_dataset_toml(path)


def own_listing(
    name: str, root: Path | None = None, split_by: SplitBy | None = None
) -> FolderListing:
    """The files of a dataset.toml or a folder, of every split, also those without a partner. Raises as `own_config`."""
    base = data_folder(name, root).absolute()  # messages say where was looked
    return list_folder(own_config(name), base, split_by)


def data_folder(name: str, root: Path | None) -> Path:
    """The folder that a dataset on disk lies in; of one in a bucket, that of its copy."""
    if root is not None and is_remote(root):
        return local_folder(str(root))
    if root is None and is_remote(name):
        name = local_dataset(name)
    return root or (Path(name) if os.path.isdir(name) else Path(name).parent)


def dataset_facts(name: str) -> DataFacts:
    """What is known of a dataset without its images: of a name of DATASETS, of a dataset.toml, or of a folder.

    Raises UnknownName for an unknown dataset, DataNotFound and ConfigError for a dataset.toml.
    """
    if is_own(name):
        config = own_config(name)
        return DataFacts(config.name, config.class_infos(), config.licence, config.channels)
    return find_dataset(name).facts


def share_rule(name: str) -> SplitBy | None:
    """What a dataset.toml with splits by share keeps together; None for others, and for datasets with a name."""
    if not is_own(name):
        return None
    config = own_config(name)
    return config.split_by if config.shares or config.parts else None


def score_split(name: str, root: Path | None = None, validated: str = "val") -> str:
    """The split that a dataset is scored on unless another is named: test where it has masks here, else `validated`.

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
    """What the panoptic benchmark with these classes (by name and order) calls them; of no benchmark: 0..K-1."""
    names = [info.name for info in classes]
    for dataset in DATASETS.values():
        if dataset.facts.category_ids and [info.name for info in dataset.facts.classes] == names:
            return dataset.facts.category_ids
    return tuple(range(len(classes)))


def find_dataset(name: str) -> type[NamedData] | type[Shapes]:
    """The dataset with that name; raises UnknownName with the nearest one, DataNotFound for what looks like a path."""
    if name in DATASETS:
        return DATASETS[name]
    path = Path(name)
    expected = f"Expected a folder of images and masks, a dataset.toml, or one of the datasets {', '.join(DATASETS)}."
    if os.path.isfile(path) and path.suffix.lower() in (".yaml", ".yml") and read_masks_yaml(path):
        folder = shlex.quote(str(path.parent))
        raise DataNotFound(
            f"{name} names images and masks. Make a dataset.toml of them, and use its folder, {folder}:\n"
            f"    featherseg check {folder} --write"
        )
    if os.path.isfile(path):
        raise NoDataset(f"{name} is a file that is no dataset. {expected}", path)
    if "/" in name and not os.path.exists(path):
        raise DataNotFound(f"{name} does not exist.{near_path(path)} {expected}")
    raise unknown("dataset", name, [*DATASETS, "path/to/dataset.toml"], here=True)


def given_root(name: str, root: Path | None) -> Path:
    """The root itself; raises DataNotFound where a dataset that lies on disk was named without one."""
    if root is None:
        here = f" For the folder of that name here: ./{name}" if os.path.isdir(name) else ""
        raise DataNotFound(
            f"{name} is not part of this package: set its location with --data-root PATH.{here}"
        )
    return data_folder(name, root).absolute()


@dataclass(frozen=True)
class LabelledImages:
    """Name (or path), split, root, number of images, what keeps together, as `data.open_dataset` takes them."""

    name: str
    split: str
    root: Path | None = None
    size: int | None = None
    split_by: SplitBy | None = None

    def open(self) -> SegmentationData:
        """Raises UnknownName, DataNotFound, ConfigError."""
        return open_dataset(self.name, self.split, self.root, self.size, split_by=self.split_by)

    def is_of(self, name: str) -> bool:
        """Whether that name means the same dataset."""
        paths = [own_path(path).resolve() for path in (name, self.name) if path not in DATASETS]
        return self.name == name or (len(paths) == 2 and paths[0] == paths[1])
