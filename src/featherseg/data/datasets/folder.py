"""A user's own images and masks, described by a dataset.toml (docs/data/folder.md)."""

import hashlib
import os
import re
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path

import numpy as np

from featherseg.core.config import SplitBy
from featherseg.core.errors import ConfigError, DataError, DataNotFound, unknown
from featherseg.core.files import composed
from featherseg.core.types import IGNORE, ClassInfo, Sample
from featherseg.core.wording import size_text
from featherseg.data.datasets.dataset_toml import ANY, DatasetToml, LayerTable, read_dataset_toml
from featherseg.data.datasets.sequences import split_by_share
from featherseg.data.images.decoding import read_mask
from featherseg.data.images.labels import LabelMap
from featherseg.data.images.listing import IMAGE_SUFFIXES
from featherseg.data.images.pairs import FilesByStem, Listing, Pair, PairedFiles, files_by_stem
from featherseg.data.images.unread import unread_note, warn_once

MAX_OBJECT = 65535
"""Largest number of an object in a file of instances."""


@dataclass(frozen=True)
class FolderListing(Listing):
    """The files that a dataset.toml describes.

    Args:
        config: the content of the dataset.toml.
        base_splits: the pairs of every folder and list that it names, before shares are split off;
            all pairs under "" if its splits are fractions.
        instances: the folder with the numbers of objects, if there is one.
    """

    config: DatasetToml = field(kw_only=True)
    base_splits: Mapping[str, list[Pair]] = field(kw_only=True)
    instances: Path | None = None

    @property
    def groups(self) -> str | None:
        """The pattern of the names of sequences, see `data.sequences.sequence_names`."""
        return self.config.groups

    @property
    def has_objects(self) -> bool:
        """Whether there is a folder with the numbers of objects."""
        return self.instances is not None

    def instances_of(self, pair: Pair) -> Path | None:
        """Return the path of a pair's file of instances, which may not exist."""
        return self.instances and self.instances / f"{pair.key}.png"

    def check_objects(self, pair: Pair, ids: np.ndarray) -> None:
        """Raise what `read_instances` raises."""
        if objects := self.instances_of(pair):
            read_instances(objects, np.where(ids < 0, IGNORE, ids), self.classes)


class FolderData(PairedFiles):
    """A split of a folder; keys are the stems below the folder of images, "train/frame_0007".

    Args:
        files: the dataset.toml, or its files as `folder_listing` returns them.
        split: one of its splits, or several with "+" between.
        root: the folder that its paths start from; default: the file's own.
        size: largest number of samples, spread evenly; default: all.

    Raises:
        ConfigError: for a mistake in the file.
        UnknownName: for an unknown split.
        DataNotFound: for missing folders, images without masks and the reverse, or no images.
    """

    def __init__(
        self,
        files: Path | FolderListing,
        split: str,
        root: Path | None = None,
        size: int | None = None,
    ) -> None:
        listing = folder_listing(files, root) if isinstance(files, Path) else files
        if listing.unread:
            warn_once(f"{listing.name}: {listing.unread}")
        source = files if isinstance(files, Path) else files.name
        for part in split.split("+"):
            if part not in listing.splits:
                raise unknown(f"split of {source}", part, listing.splits)
        super().__init__(listing, split, size)
        self.groups = listing.groups
        self._instances = [listing.instances_of(pair) for pair in self.pairs]
        self._annotations: dict[int, bytes | None] = {}
        missing = [path for path in self._instances if path and not path.is_file()]
        if missing:
            raise DataNotFound(
                f"{listing.name} {split}: {len(missing)} of {len(self)} samples have no file of "
                f"instances: {missing[0]}. `featherseg check` lists all of them."
            )

    def __getitem__(self, index: int) -> Sample:
        sample, path = super().__getitem__(index), self._instances[index]
        if path is None:
            return sample
        return replace(sample, instances=read_instances(path, sample.label, self.classes))

    def annotation(self, index: int) -> bytes | None:
        """Return what a sample depends on besides image, mask and map, None for nothing.

        That is its class, further masks and its file of instances.
        """
        if index not in self._annotations:
            of_class, instances = super().annotation(index), self._instances[index]
            parts = [] if of_class is None else [of_class]
            for path, label_map in self.pairs[index].layers:
                parts.append(repr(label_map.ids).encode() + _digest(path))
            parts += [_digest(instances)] if instances else []
            self._annotations[index] = b"".join(parts) if parts else None
        return self._annotations[index]


def _digest(path: Path) -> bytes:
    try:
        return hashlib.sha256(path.read_bytes()).digest()
    except OSError as error:
        raise DataError(f"{path} cannot be read: {error.strerror}.") from error


def read_instances(path: Path, label: np.ndarray, classes: Sequence[ClassInfo]) -> np.ndarray:
    """Return the number of the object at every pixel, (H, W) int32; 0 where `label` is no thing.

    Raises what `read_mask` raises, and DataError for a file with colours, of another size than the
    label (H, W), or with numbers above MAX_OBJECT.
    """
    raw = read_mask(path)
    if raw.ndim != 2:
        expected = "expected the number of an object at every pixel, 8 or 16 bits"
        raise DataError(f"{path} is a colour image: {expected}.")
    if raw.shape != label.shape:
        sizes = f"{size_text(raw.shape)}, but its mask is {size_text(label.shape)}"
        raise DataError(f"{path} is {sizes} (height x width).")
    if raw.min(initial=0) < 0 or raw.max(initial=0) > MAX_OBJECT:
        values = f"values from {raw.min()} to {raw.max()}"
        raise DataError(f"{path} has {values}. Expected numbers of objects, 0 to {MAX_OBJECT}.")
    of_thing = np.zeros(IGNORE + 1, bool)
    of_thing[: len(classes)] = [info.thing for info in classes]
    return np.where(of_thing[label], raw, 0).astype(np.int32)


def folder_listing(toml: Path, root: Path | None = None) -> FolderListing:
    """Return the files of every split of a dataset.toml, also images without masks and the reverse.

    root: the folder that the paths in the file start from; default: the file's own.
    """
    return list_folder(read_dataset_toml(toml), root or toml.parent)


def list_folder(
    config: DatasetToml,
    base: Path,
    split_by: SplitBy | None = None,
    lists: Mapping[str, list[str]] | None = None,
) -> FolderListing:
    """Return the files that `config` describes, with paths that start from `base`.

    lists: content of list files that are not written yet, by their path.
    """
    links, unread = list[Path](), Counter[str]()
    pairs = {pair.key: pair for pair in list_pairs(config, base, links, unread)}
    by = split_by or config.split_by

    # Each split is a share of all images, a folder, a list, or a share of another split.
    how, splits = "", dict[str, list[str]]()
    if config.shares:
        splits, how = split_by_share(list(pairs), config.shares, by, config.groups)
        base_splits = {"": list(pairs)}
    else:
        by_share = {name for names in config.parts.values() for name in names}
        for name, part in config.splits.items():
            below = composed(f"{part.removeprefix('./').rstrip('/')}/")
            if name in by_share:
                splits[name] = []  # until the splits that they are shares of are known
            elif not part.endswith(".txt"):
                splits[name] = [key for key in pairs if composed(key).startswith(below)]
            elif lists and part in lists:
                splits[name] = lists[part]
            else:
                splits[name] = _by_list(base / part, pairs)
        base_splits = {name: keys for name, keys in splits.items() if name not in by_share}
        for base_split, shares in config.parts.items():
            all_shares = {base_split: 1 - sum(shares.values())} | shares
            parts, note = split_by_share(splits[base_split], all_shares, by, config.groups)
            splits |= parts
            how = f"{how}; {base_split} {note}" if how else f"{base_split} {note}"
    listed = {key for keys in splits.values() for key in keys}
    instances = base / config.things.instances if config.things else None
    named = {base / place for place in config.folders}

    def pair_of(key: str) -> Pair:
        return pairs.get(key) or Pair(key, None, None)  # without files: reported later

    return FolderListing(
        config.name,
        config.class_infos(),
        config.label_map(),
        {split: list(map(pair_of, keys)) for split, keys in splits.items()},
        config.licence,
        channels=config.channels,
        unlisted=[key for key in pairs if key not in listed],
        how_split=how,
        links=[link for link in dict.fromkeys(links) if link not in named],
        unread=unread_note(unread),
        config=config,
        base_splits={split: list(map(pair_of, keys)) for split, keys in base_splits.items()},
        instances=instances,
    )


def list_pairs(
    config: DatasetToml,
    base: Path,
    links: list[Path] | None = None,
    unread: Counter[str] | None = None,
) -> list[Pair]:
    """Return the pairs of all folders that `config` names, whatever their split.

    If there are several folders of images, keys begin with the folder, or with the name that ANY
    stands for. `links` and `unread` are as in `files_by_stem`.
    """
    classes = {source.class_ for source in config.source} | {layer.class_ for layer in config.layer}
    # made once for each class: a map is a table of 65536 values
    maps = {name: None if name is None else config.label_map(name) for name in {None, *classes}}
    listed = list[Pair]()
    for source in config.sources:
        masks = [
            _MaskFiles(
                layer.masks or source.masks,
                layer.prefix,
                layer.suffix,
                maps[layer.class_],
                layer,
            )
            for layer in config.layer
        ]
        if not masks:
            label_map = maps[source.class_]
            masks = [_MaskFiles(source.masks, config.mask_prefix, config.mask_suffix, label_map)]
        for name in _any_folders([source.images, *(files.folder for files in masks)], base, links):
            images = _put(source.images, name)
            here = [replace(files, folder=_put(files.folder, name)) for files in masks]
            place = Path(images).as_posix() if config.source else name or "."
            head = "" if place == "." else f"{place}/"
            pairs = _pairs_in(images, here, config, base, links, unread)
            listed += [replace(pair, key=f"{head}{pair.key}") for pair in pairs]
    return listed


@dataclass(frozen=True)
class _MaskFiles:
    """A folder of masks, what their names add to the image's, and what their values mean."""

    folder: str
    prefix: str
    suffix: str
    label_map: LabelMap | None
    layer: LayerTable | None = None


def _any_folders(places: Sequence[str], base: Path, links: list[Path] | None) -> list[str]:
    """Return the names of the folders that ANY stands for, in order; [""] for paths without ANY."""
    if ANY not in places[0].split("/"):
        return [""]
    names = set[str]()
    for place in places:
        parts = place.split("/")
        at = parts.index(ANY)
        above = base / ("/".join(parts[:at]) or place[:1].strip(ANY))
        inside = "/".join(parts[at + 1 :])
        for name in next(os.walk(above), ("", [], []))[1]:
            if name.startswith(".") or not os.path.isdir(above / name / inside):
                continue
            if not os.path.islink(above / name):
                names.add(name)
            elif links is not None:
                links.append(above / name)
    if not names:
        raise DataNotFound(f"no folder in {base} matches {places[0]!r}: {ANY} stands for a folder.")
    return sorted(names)


def _put(place: str, name: str) -> str:
    """Return a path with ANY replaced by the name of a folder."""
    return "/".join(name if name and part == ANY else part for part in place.split("/"))


def _pairs_in(
    image_folder: str,
    masks: Sequence[_MaskFiles],
    config: DatasetToml,
    base: Path,
    links: list[Path] | None,
    unread: Counter[str] | None,
) -> list[Pair]:
    """Return the pairs of one folder of images and the folders of their masks."""
    images, folders = base / image_folder, [base / files.folder for files in masks]
    if ANY not in (config.images or "").split("/"):
        for key, folder in (("images", images), *(("masks", folder) for folder in folders)):
            if not os.path.isdir(folder):  # Path.is_dir raises of a name that is too long
                where = f"which is {key!r} in the dataset.toml of {config.name!r}"
                raise DataNotFound(f"{folder}, {where}, is not a folder.")
    every = {images, *folders}
    image_files = files_by_stem(
        images,
        config.image_suffix,
        every - {images},
        config.image_prefix,
        links,
        unread,
    )
    # the same name may be stored in two forms of Unicode: a pair's key is the image's
    spelled = {composed(stem): stem for stem in image_files}
    mask_files = list[FilesByStem]()
    for files, folder in zip(masks, folders, strict=True):
        by_stem = files_by_stem(folder, files.suffix, every - {folder}, files.prefix, links)
        if images.resolve() == folder.resolve():
            if not any((config.image_prefix, config.image_suffix, files.prefix, files.suffix)):
                raise ConfigError(
                    f"images and masks are both {images}: set the suffix of the masks, such as "
                    'mask_suffix = "_mask", or ".png" if only masks end in it; or mask_prefix = '
                    '"mask_".'
                )
            if files.suffix or files.prefix:  # a mask by its name is no image, or the reverse
                image_files = _without(image_files, by_stem)
            else:
                by_stem = _without(by_stem, image_files)
        if files.layer is not None and files.layer.objects:
            by_stem = _by_image(by_stem, image_files)
        for stem in [s for s in by_stem if s not in image_files and composed(s) in spelled]:
            by_stem.setdefault(spelled[composed(stem)], []).extend(by_stem.pop(stem))
        mask_files.append(by_stem)
    stems = sorted(set(image_files).union(*mask_files))
    return [_pair_of(stem, image_files, masks, mask_files) for stem in stems]


def _pair_of(
    stem: str,
    image_files: FilesByStem,
    masks: Sequence[_MaskFiles],
    mask_files: Sequence[FilesByStem],
) -> Pair:
    """Return the pair of a stem, without a mask if a mask that is not optional is missing."""
    image, *more = image_files.get(stem, [None])
    layers, missing = list[tuple[Path, LabelMap | None]](), list[str]()
    twins = [path for path in more if path]
    for files, by_stem in zip(masks, mask_files, strict=True):
        paths = by_stem.get(stem, [])
        single = files.layer is None or not files.layer.objects
        layers += [(path, files.label_map) for path in (paths[:1] if single else paths)]
        twins += paths[1:] if single else []
        if files.layer and not files.layer.optional and not paths:
            missing.append(files.layer.class_)
    if not layers or (image and missing):
        return Pair(stem, image, None, tuple(twins), missing=tuple(missing) if layers else ())
    (mask, label_map), *above = layers
    on_top = tuple((path, of_class) for path, of_class in above if of_class)
    return Pair(stem, image, mask, tuple(twins), label_map, on_top)


def _by_image(files: FilesByStem, images: Iterable[str]) -> FilesByStem:
    """Return the masks of objects by the stem of their image.

    The image has the name of their folder, or is the only one in that folder.
    """
    in_folder, by_name = dict[str, list[str]](), dict[str, str]()
    for stem in images:
        in_folder.setdefault(composed(stem.rpartition("/")[0]), []).append(stem)
        by_name[composed(stem)] = stem
    by_image: FilesByStem = {}
    for stem, paths in files.items():
        folder = composed(stem.rpartition("/")[0])
        beside = in_folder.get(folder, [])
        image = by_name.get(folder) or (beside[0] if len(beside) == 1 else folder or stem)
        by_image.setdefault(image, []).extend(paths)
    return by_image


def _without(files: FilesByStem, others: FilesByStem) -> FilesByStem:
    """Return the files that are not among the others."""
    excluded = {path for paths in others.values() for path in paths}
    kept = {stem: [path for path in paths if path not in excluded] for stem, paths in files.items()}
    return {stem: paths for stem, paths in kept.items() if paths}


def _by_list(path: Path, keys: Iterable[str]) -> list[str]:
    """Return the stems of a list file, one for each line.

    A line is one of `keys`, or a stem with or without the ending of an image. Other lines that
    are empty or begin with `#` are skipped.
    """
    try:
        lines = path.read_text(encoding="utf-8-sig").split("\n")
    except FileNotFoundError:
        expected = "Expected a list of stems, one per line, such as seq1/0001"
        raise DataNotFound(f"{path} does not exist. {expected}.") from None
    except (OSError, UnicodeDecodeError) as error:
        raise DataError(f"{path} cannot be read: {error}.") from error
    endings = "|".join(map(re.escape, IMAGE_SUFFIXES))
    ending = re.compile(rf"(?:{endings})\Z", re.IGNORECASE)  # "seq1/0001.png" names "seq1/0001"
    spelled, stems = {composed(key): key for key in keys}, list[str]()
    for line in lines:
        text = line.strip()
        stem = ending.sub("", text)
        known = [spelled[name] for name in map(composed, (line, text, stem)) if name in spelled]
        if known or (text and not text.startswith("#")):
            stems.append(known[0] if known else stem)
    return stems
