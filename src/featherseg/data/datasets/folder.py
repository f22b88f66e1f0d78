"""`folder`: your own images and masks, described by a dataset.toml (`data.dataset_toml`, docs/data/folder.md)."""

import hashlib
import os
import re
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path

import numpy as np

from featherseg.core.errors import ConfigError, DataError, DataNotFound, unknown
from featherseg.core.files import composed
from featherseg.core.types import IGNORE, ClassInfo, Sample
from featherseg.core.wording import size_text
from featherseg.data.datasets.dataset_toml import ANY, DatasetToml, LayerTable, read_dataset_toml
from featherseg.data.images import IMAGE_SUFFIXES, read_mask
from featherseg.data.labels import LabelMap
from featherseg.data.pairs import FilesByStem, Listing, Pair, PairedFiles, files_by_stem
from featherseg.data.sequences import SplitBy, split_by_share
from featherseg.data.unread import unread_note, warn_once

MAX_OBJECT = 65535
"""The largest number of an object in a file of instances."""


@dataclass(frozen=True)
class FolderListing(Listing):
    """The files of a folder of one's own; `instances` is the folder that tells objects apart, where there is one.

    `config` describes them; `wholes` are the pairs of every folder and list that it names, before
    a share is cut out of them, and those of all under "" where the splits are fractions.
    """

    config: DatasetToml = field(kw_only=True)
    wholes: Mapping[str, list[Pair]] = field(kw_only=True)
    instances: Path | None = None

    @property
    def groups(self) -> str | None:
        """What tells its sequences, see `data.sequences.sequence_names`."""
        return self.config.groups

    @property
    def has_objects(self) -> bool:
        """Whether there is a folder that tells objects apart."""
        return self.instances is not None

    def instances_of(self, pair: Pair) -> Path | None:
        """Where the numbers of the objects of a pair stand: the file of its key, whether it is there or not."""
        return self.instances and self.instances / f"{pair.key}.png"

    def check_objects(self, pair: Pair, ids: np.ndarray) -> None:
        """Raises what `read_instances` raises."""
        if objects := self.instances_of(pair):
            read_instances(objects, np.where(ids < 0, IGNORE, ids), self.classes)


class FolderData(PairedFiles):
    """One split of a folder; keys are the stems below the folder of images, "train/frame_0007".

    `files` is the dataset.toml, or the files as they were listed. Raises ConfigError for a slip
    in the file, UnknownName for an unknown split, DataNotFound for missing folders, missing
    partners or no images.
    """

    def __init__(
        self, files: Path | FolderListing, split: str, root: Path | None = None, size: int | None = None
    ) -> None:
        listing = folder_listing(files, root) if isinstance(files, Path) else files
        if listing.unread:
            warn_once(f"{listing.name}: {listing.unread}")
        for part in split.split("+"):
            if part not in listing.splits:
                raise unknown(f"split of {files if isinstance(files, Path) else files.name}", part, listing.splits)
        super().__init__(listing, split, size)
        self.groups = listing.groups
        self._instances = [listing.instances_of(pair) for pair in self.pairs]
        self._annotations: dict[int, bytes | None] = {}
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
        """What decides sample `index` beside image, mask and map: its class, further masks, its file of instances."""
        if index not in self._annotations:
            own, instances, layers = super().annotation(index), self._instances[index], self.pairs[index].layers
            parts = [] if own is None else [own]
            parts += [repr(label_map.ids).encode() + _digest(path) for path, label_map in layers]
            parts += [_digest(instances)] if instances else []
            self._annotations[index] = b"".join(parts) if parts else None
        return self._annotations[index]


def _digest(path: Path) -> bytes:
    try:
        return hashlib.sha256(path.read_bytes()).digest()
    except OSError as error:
        raise DataError(f"{path} cannot be read: {error.strerror}.") from error


def read_instances(path: Path, label: np.ndarray, classes: Sequence[ClassInfo]) -> np.ndarray:
    """The number of the object at every pixel, (H, W) int32; 0 where `label` (H, W) is of no class of things.

    Raises what `read_mask` raises, and DataError for a file of colours, of another size, or of
    numbers over MAX_OBJECT.
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


def folder_listing(toml: Path, root: Path | None = None) -> FolderListing:
    """Return the files of every split of a dataset.toml, also those without a partner.

    `root` is the folder that the paths in the file start from, by default its own.
    """
    return list_folder(read_dataset_toml(toml), root or toml.parent)


def list_folder(
    config: DatasetToml,
    base: Path,
    split_by: SplitBy | None = None,
    lists: Mapping[str, list[str]] | None = None,
) -> FolderListing:
    """The files that `config` describes, its paths starting from `base`; `lists` are lists that are not written yet."""
    links, unread = list[Path](), Counter[str]()
    pairs = {pair.key: pair for pair in list_pairs(config, base, links, unread)}
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
    own = {base / place for place in config.folders}

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
        unread=unread_note(unread),
        config=config,
        wholes=found_in(wholes),
        instances=instances,
    )


def list_pairs(
    config: DatasetToml, base: Path, links: list[Path] | None = None, unread: Counter[str] | None = None
) -> list[Pair]:
    """The pairs of all folders that `config` names, in whatever split; `links`, `unread` are as for `files_by_stem`.

    Where there are several folders of images, keys begin with that of the image, or with what ANY
    stands for.
    """
    classes = {source.class_ for source in config.source} | {layer.class_ for layer in config.layer}
    maps = {name: None if name is None else config.label_map(name) for name in {None, *classes}}  # one a class
    found = list[Pair]()
    for source in config.sources:
        masks = [
            _MaskFiles(layer.masks or source.masks, layer.prefix, layer.suffix, maps[layer.class_], layer)
            for layer in config.layer
        ] or [_MaskFiles(source.masks, config.mask_prefix, config.mask_suffix, maps[source.class_])]
        for name in _any_folders([source.images, *(files.folder for files in masks)], base, links):
            images = _put(source.images, name)
            here = [replace(files, folder=_put(files.folder, name)) for files in masks]
            place = Path(images).as_posix() if config.source else name or "."
            head = "" if place == "." else f"{place}/"
            pairs = _pairs_in(images, here, config, base, links, unread)
            found += [replace(pair, key=f"{head}{pair.key}") for pair in pairs]
    return found


@dataclass(frozen=True)
class _MaskFiles:
    """The masks that images have one of, or one for each object: where they lie, and what their values mean."""

    folder: str
    prefix: str
    suffix: str
    label_map: LabelMap | None
    layer: LayerTable | None = None


def _any_folders(places: Sequence[str], base: Path, links: list[Path] | None) -> list[str]:
    """The names of the folders that ANY stands for in these paths, in order; one empty name where it is in none."""
    if ANY not in places[0].split("/"):
        return [""]
    found = set[str]()
    for place in places:
        parts = place.split("/")
        at = parts.index(ANY)
        above, inside = base / ("/".join(parts[:at]) or place[:1].strip(ANY)), "/".join(parts[at + 1 :])
        for name in next(os.walk(above), ("", [], []))[1]:
            if name.startswith(".") or not os.path.isdir(above / name / inside):
                continue
            if not os.path.islink(above / name):
                found.add(name)
            elif links is not None:
                links.append(above / name)
    if not found:
        raise DataNotFound(f"no folder is called as {places[0]!r} says in {base}. Expected one for each {ANY}.")
    return sorted(found)


def _put(place: str, name: str) -> str:
    """A path with what ANY stands for, where it does."""
    return "/".join(name if name and part == ANY else part for part in place.split("/"))


def _pairs_in(
    image_folder: str,
    masks: Sequence[_MaskFiles],
    config: DatasetToml,
    base: Path,
    links: list[Path] | None,
    unread: Counter[str] | None,
) -> list[Pair]:
    """The pairs of one folder of images and the folders of their masks."""
    images, folders = base / image_folder, [base / files.folder for files in masks]
    if ANY not in (config.images or "").split("/"):
        for key, folder in (("images", images), *(("masks", folder) for folder in folders)):
            if not os.path.isdir(folder):  # Path.is_dir raises of a name that is too long
                raise DataNotFound(
                    f"{folder}, which is {key!r} in the dataset.toml of {config.name!r}, is not a folder."
                )
    apart = {images, *folders}
    image_files = files_by_stem(images, config.image_suffix, apart - {images}, config.image_prefix, links, unread)
    spelled = {composed(stem): stem for stem in image_files}  # the key is as the image is spelled
    mask_files = list[FilesByStem]()
    for files, folder in zip(masks, folders, strict=True):
        found = files_by_stem(folder, files.suffix, apart - {folder}, files.prefix, links)
        if images.resolve() == folder.resolve():
            if not any((config.image_prefix, config.image_suffix, files.prefix, files.suffix)):
                raise ConfigError(
                    f"images and masks are both {images}: set the suffix of the masks, such as mask_suffix = "
                    '"_mask", or ".png" where only masks end in it; or mask_prefix = "mask_".'
                )
            if files.suffix or files.prefix:  # a mask by its name is no image, or the reverse
                image_files = _without(image_files, found)
            else:
                found = _without(found, image_files)
        if files.layer is not None and files.layer.objects:
            found = _by_image(found, image_files)
        for stem in [stem for stem in found if stem not in image_files and composed(stem) in spelled]:
            found.setdefault(spelled[composed(stem)], []).extend(found.pop(stem))
        mask_files.append(found)
    return [_pair_of(stem, image_files, masks, mask_files) for stem in sorted(set(image_files).union(*mask_files))]


def _pair_of(
    stem: str, image_files: FilesByStem, masks: Sequence[_MaskFiles], mask_files: Sequence[FilesByStem]
) -> Pair:
    """The pair of a stem; it has no mask where one of several that are not optional is not there."""
    image, *more = image_files.get(stem, [None])
    layers, missing, twins = list[tuple[Path, LabelMap | None]](), list[str](), [path for path in more if path]
    for files, found in zip(masks, mask_files, strict=True):
        paths = found.get(stem, [])
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
    """The masks of objects by the stem of their image: it is called as their folder, else is alone in that folder."""
    beside, owners = dict[str, list[str]](), dict[str, str]()
    for stem in images:
        beside.setdefault(composed(stem.rpartition("/")[0]), []).append(stem)
        owners[composed(stem)] = stem
    found: FilesByStem = {}
    for stem, paths in files.items():
        folder = composed(stem.rpartition("/")[0])
        alone = beside.get(folder, [])
        owner = owners.get(folder) or (alone[0] if len(alone) == 1 else folder or stem)
        found.setdefault(owner, []).extend(paths)
    return found


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
