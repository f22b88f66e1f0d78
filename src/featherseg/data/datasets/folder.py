"""`folder`: your own images and masks, described by a dataset.toml (`data.dataset_toml`, docs/data/folder.md)."""

import os
import re
from pathlib import Path

from featherseg.core.errors import ConfigError, DataError, DataNotFound, unknown
from featherseg.data.datasets.dataset_toml import DatasetToml, read_dataset_toml
from featherseg.data.images import IMAGE_SUFFIXES
from featherseg.data.pairs import Listing, Pair, PairedFiles, files_by_stem, make_pairs
from featherseg.data.sequences import SplitBy, split_by_share


class FolderData(PairedFiles):
    """One split of a folder; keys are the stems below the folder of images, "train/frame_0007".

    `root` is the folder that the paths in the file start from, by default the file's own; `split_by` is what a split by
    share keeps together, by default what the file says. Raises ConfigError for a slip
    in the file, UnknownName for an unknown split, DataNotFound for missing folders, missing partners or no images.
    """

    def __init__(
        self,
        toml: Path,
        split: str,
        root: Path | None = None,
        size: int | None = None,
        split_by: SplitBy | None = None,
    ) -> None:
        listing = folder_listing(toml, root, split_by)
        for part in split.split("+"):
            if part not in listing.splits:
                raise unknown(f"split of {toml}", part, listing.splits)
        super().__init__(listing, split, size)


def folder_listing(toml: Path, root: Path | None = None, split_by: SplitBy | None = None) -> Listing:
    """The files of every split of a dataset.toml, also those without a partner."""
    return list_folder(read_dataset_toml(toml), root or toml.parent, split_by)


def list_folder(config: DatasetToml, base: Path, split_by: SplitBy | None = None) -> Listing:
    """The files that `config` describes, its paths starting from `base`."""
    pairs = {pair.key: pair for pair in _all_pairs(config, base)}
    how = ""
    if config.shares:
        splits, how = split_by_share(list(pairs), config.shares, split_by or config.split_by)
    else:
        splits = {
            name: _by_list(base / part)
            if part.endswith(".txt")
            else [key for key in pairs if key.startswith(part.removeprefix("./").rstrip("/") + "/")]
            for name, part in config.splits.items()
        }
    listed = {key for keys in splits.values() for key in keys}
    return Listing(
        config.name,
        config.class_infos(),
        config.label_map(),
        {name: [pairs.get(key, Pair(key, None, None)) for key in keys] for name, keys in splits.items()},
        config.licence,
        channels=config.channels,
        unlisted=[key for key in pairs if key not in listed],
        how_split=how,
    )


def _all_pairs(config: DatasetToml, base: Path) -> list[Pair]:
    images, masks = base / config.images, base / config.masks
    for key, folder in (("images", images), ("masks", masks)):
        if not os.path.isdir(folder):  # Path.is_dir raises of a name that is too long
            raise DataNotFound(f"{folder}, which is {key!r} in the dataset.toml of {config.name!r}, is not a folder.")
    image_files, mask_files = files_by_stem(images), files_by_stem(masks, config.mask_suffix)
    if images.resolve() == masks.resolve():
        if not config.mask_suffix:
            raise ConfigError(
                f'images and masks are both {images}: set the suffix of the masks, such as mask_suffix = "_mask".'
            )
        image_files = {stem: paths for stem, paths in image_files.items() if not stem.endswith(config.mask_suffix)}
    return make_pairs(sorted({*image_files, *mask_files}), image_files, mask_files)


def _by_list(path: Path) -> list[str]:
    """The stems of a list file, one a line; empty lines and lines that start with `#` are passed over."""
    try:
        lines = [line.strip() for line in path.read_text(encoding="utf-8").splitlines()]
    except FileNotFoundError:
        raise DataNotFound(
            f"{path} does not exist. Expected a list of stems, one per line, such as seq1/0001."
        ) from None
    except (OSError, UnicodeDecodeError) as error:
        raise DataError(f"{path} cannot be read: {error}.") from error
    endings = "|".join(map(re.escape, IMAGE_SUFFIXES))
    ending = re.compile(rf"(?:{endings})\Z", re.IGNORECASE)  # "seq1/0001.png" names the stem "seq1/0001"
    return [ending.sub("", line) for line in lines if line and not line.startswith("#")]
