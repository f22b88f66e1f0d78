"""`folder`: your own images and masks, described by a dataset.toml (`data.dataset_toml`, docs/data/folder.md)."""

import hashlib
import os
import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path

import numpy as np

from featherseg.core.errors import ConfigError, DataError, DataNotFound, unknown
from featherseg.core.files import composed
from featherseg.core.types import IGNORE, ClassInfo, Sample
from featherseg.core.wording import size_text
from featherseg.data.datasets.dataset_toml import AFFIXES, DatasetToml, SourceTable, read_dataset_toml
from featherseg.data.images import IMAGE_SUFFIXES, read_mask
from featherseg.data.pairs import FilesByStem, Listing, Pair, PairedFiles, files_by_stem, make_pairs
from featherseg.data.sequences import SplitBy, split_by_share

MAX_OBJECT = 65535
"""The largest number of an object in a file of instances."""


@dataclass(frozen=True)
class FolderListing(Listing):
    """The files of a folder of one's own; `instances` is the folder that tells objects apart, where there is one.

    `config` describes them; `wholes` are the pairs of every folder and list that it names, before a share is cut out of
    them, and those of all under "" where the splits are fractions.
    """

    config: DatasetToml = field(kw_only=True)
    wholes: Mapping[str, list[Pair]] = field(kw_only=True)
    instances: Path | None = None

    @property
    def groups(self) -> str | None:
        """What tells its sequences, see `data.sequences.sequence_names`."""
        return self.config.groups

    def instances_of(self, pair: Pair) -> Path | None:
        """Where the numbers of the objects of a pair stand: the file of its key, whether it is there or not."""
        return self.instances and self.instances / f"{pair.key}.png"

    def check_objects(self, pair: Pair, ids: np.ndarray) -> None:
        """Raises what `read_instances` raises."""
        if objects := self.instances_of(pair):
            read_instances(objects, np.where(ids < 0, IGNORE, ids), self.classes)


class FolderData(PairedFiles):
    """One split of a folder; keys are the stems below the folder of images, "train/frame_0007".

    `files` is the dataset.toml, or the files as they were listed. Raises ConfigError for a slip in the file,
    UnknownName for an unknown split, DataNotFound for missing folders, missing partners or no images.
    """

    def __init__(
        self, files: Path | FolderListing, split: str, root: Path | None = None, size: int | None = None
    ) -> None:
        listing = folder_listing(files, root) if isinstance(files, Path) else files
        for part in split.split("+"):
            if part not in listing.splits:
                raise unknown(f"split of {files if isinstance(files, Path) else files.name}", part, listing.splits)
        super().__init__(listing, split, size)
        self.groups = listing.groups
        self._instances = [listing.instances_of(pair) for pair in self.pairs]
        self._digests: dict[int, bytes] = {}
        missing = [path for path in self._instances if path and not path.is_file()]
        if missing:
            raise DataNotFound(
                f"{listing.name} {split}: {len(missing)} of {len(self)} samples have no file of instances: "
                f"{missing[0]}. `featherseg check` lists all of them."
            )

    def __getitem__(self, index: int) -> Sample:
        sample, path = super().__getitem__(index), self._instances[index]
        if path is None:
            return sample
        return replace(sample, instances=read_instances(path, sample.label, self.classes))

    def annotation(self, index: int) -> bytes | None:
        """What decides sample `index` beside image, mask and map: the class of its folder, its file of instances."""
        own, path = super().annotation(index), self._instances[index]
        if path is not None and index not in self._digests:
            try:
                self._digests[index] = hashlib.sha256(path.read_bytes()).digest()
            except OSError as error:
                raise DataError(f"{path} cannot be read: {error.strerror}.") from error
        return own if path is None else (own or b"") + self._digests[index]


def read_instances(path: Path, label: np.ndarray, classes: Sequence[ClassInfo]) -> np.ndarray:
    """The number of the object at every pixel, (H, W) int32; 0 where `label` (H, W) is of no class of things.

    Raises what `read_mask` raises, and DataError for a file of colours, of another size, or of numbers over MAX_OBJECT.
    """
    raw = read_mask(path)
    if raw.ndim != 2:
        raise DataError(f"{path} is a colour image: expected the number of an object at every pixel, 8 or 16 bits.")
    if raw.shape != label.shape:
        raise DataError(f"{path} is {size_text(raw.shape)}, but its mask is {size_text(label.shape)} (height x width).")
    if raw.min(initial=0) < 0 or raw.max(initial=0) > MAX_OBJECT:
        raise DataError(
            f"{path} holds values from {raw.min()} to {raw.max()}. Expected numbers of objects, 0 to {MAX_OBJECT}."
        )
    of_thing = np.zeros(IGNORE + 1, bool)
    of_thing[: len(classes)] = [info.thing for info in classes]
    return np.where(of_thing[label], raw, 0).astype(np.int32)


def folder_listing(toml: Path, root: Path | None = None, split_by: SplitBy | None = None) -> FolderListing:
    """The files of every split of a dataset.toml, also those without a partner.

    `root` is the folder that the paths in the file start from, by default its own; `split_by` is what a split by share
    keeps together, by default what the file says.
    """
    return list_folder(read_dataset_toml(toml), root or toml.parent, split_by)


def list_folder(
    config: DatasetToml,
    base: Path,
    split_by: SplitBy | None = None,
    lists: Mapping[str, list[str]] | None = None,
) -> FolderListing:
    """The files that `config` describes, its paths starting from `base`; `lists` are lists that are not written yet."""
    links = list[Path]()
    pairs = {pair.key: pair for pair in list_pairs(config, base, links)}
    by = split_by or config.split_by

    # Every split as it is said: a share of all, a folder, a list; then the shares of these
    how, splits = "", dict[str, list[str]]()
    if config.shares:
        splits, how = split_by_share(list(pairs), config.shares, by, config.groups)
        wholes = {"": list(pairs)}
    else:
        taken = {name for names in config.parts.values() for name in names}
        for name, part in config.splits.items():
            below = composed(f"{part.removeprefix('./').rstrip('/')}/")
            splits[name] = [] if name in taken else [key for key in pairs if composed(key).startswith(below)]
            if part.endswith(".txt"):
                splits[name] = lists[part] if lists and part in lists else _by_list(base / part, pairs)
        wholes = {name: keys for name, keys in splits.items() if name not in taken}
        for whole, shares in config.parts.items():
            rest = {whole: 1 - sum(shares.values())}
            found, said = split_by_share(splits[whole], rest | shares, by, config.groups)
            splits |= found
            how = f"{how}; {whole} {said}" if how else f"{whole} {said}"
    listed = {key for keys in splits.values() for key in keys}
    instances = base / config.things.instances if config.things else None
    own = {instances, *(base / place for source in config.sources for place in (source.images, source.masks))}

    def found_in(named: Mapping[str, list[str]]) -> dict[str, list[Pair]]:
        return {name: [pairs.get(key, Pair(key, None, None)) for key in keys] for name, keys in named.items()}

    return FolderListing(
        config.name,
        config.class_infos(),
        config.label_map(),
        found_in(splits),
        config.licence,
        channels=config.channels,
        unlisted=[key for key in pairs if key not in listed],
        how_split=how,
        links=[link for link in dict.fromkeys(links) if link not in own],
        config=config,
        wholes=found_in(wholes),
        instances=instances,
    )


def list_pairs(config: DatasetToml, base: Path, links: list[Path] | None = None) -> list[Pair]:
    """The pairs of all folders that `config` names, in whatever split; `links` is as for `files_by_stem`."""
    return [pair for source in config.sources for pair in _pairs_of(source, config, base, links)]


def _pairs_of(source: SourceTable, config: DatasetToml, base: Path, links: list[Path] | None) -> list[Pair]:
    """The pairs of one folder of images and its masks; where there are several, keys begin with that of the images."""
    images, masks = base / source.images, base / source.masks
    for key, folder in (("images", images), ("masks", masks)):
        if not os.path.isdir(folder):  # Path.is_dir raises of a name that is too long
            raise DataNotFound(f"{folder}, which is {key!r} in the dataset.toml of {config.name!r}, is not a folder.")
    together = images.resolve() == masks.resolve()
    if together and not any(getattr(config, key) for key in AFFIXES):
        raise ConfigError(
            f"images and masks are both {images}: set the suffix of the masks, such as mask_suffix = "
            '"_mask", or ".png" where only masks end in it; or mask_prefix = "mask_".'
        )
    apart = {"images": None, "masks": None} if together else {"images": masks, "masks": images}
    image_files = files_by_stem(images, config.image_suffix, apart["images"], config.image_prefix, links)
    mask_files = files_by_stem(masks, config.mask_suffix, apart["masks"], config.mask_prefix, links)
    if together and (config.mask_suffix or config.mask_prefix):  # a mask by its name is no image, or the reverse
        image_files = _without(image_files, mask_files)
    elif together:
        mask_files = _without(mask_files, image_files)
    spelled = {composed(stem): stem for stem in image_files}  # the key is as the image is spelled
    for stem in [stem for stem in mask_files if stem not in image_files and composed(stem) in spelled]:
        mask_files.setdefault(spelled[composed(stem)], []).extend(mask_files.pop(stem))
    pairs = make_pairs(sorted({*image_files, *mask_files}), image_files, mask_files)
    if not config.source:
        return pairs
    label_map = None if source.class_ is None else config.label_map(source.class_)
    place = Path(source.images).as_posix()
    below = "" if place == "." else f"{place}/"
    return [replace(pair, key=f"{below}{pair.key}", label_map=label_map) for pair in pairs]


def _without(files: FilesByStem, others: FilesByStem) -> FilesByStem:
    taken = {path for paths in others.values() for path in paths}
    left = {stem: [path for path in paths if path not in taken] for stem, paths in files.items()}
    return {stem: paths for stem, paths in left.items() if paths}


def _by_list(path: Path, keys: Iterable[str]) -> list[str]:
    """The stems of a list file, one a line: one of `keys` as it stands, else without an ending like an image's.

    Other lines that are empty or start with `#` are passed over.
    """
    try:
        lines = path.read_text(encoding="utf-8-sig").split("\n")
    except FileNotFoundError:
        raise DataNotFound(
            f"{path} does not exist. Expected a list of stems, one per line, such as seq1/0001."
        ) from None
    except (OSError, UnicodeDecodeError) as error:
        raise DataError(f"{path} cannot be read: {error}.") from error
    endings = "|".join(map(re.escape, IMAGE_SUFFIXES))
    ending = re.compile(rf"(?:{endings})\Z", re.IGNORECASE)  # "seq1/0001.png" names the stem "seq1/0001"
    spelled, found = {composed(key): key for key in keys}, list[str]()
    for line in lines:
        text = line.strip()
        stem = ending.sub("", text)
        known = [spelled[name] for name in map(composed, (line, text, stem)) if name in spelled]
        if known or (text and not text.startswith("#")):
            found.append(known[0] if known else stem)
    return found
