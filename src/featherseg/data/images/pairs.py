"""Datasets of pairs of files, image and mask, in the catalogue or in a folder."""

import os
from collections import Counter
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import ClassVar

import numpy as np

from featherseg.core.errors import ConfigError, DataError, DataNotFound, unknown
from featherseg.core.types import ClassInfo, DataFacts, Sample
from featherseg.core.wording import counted, size_text
from featherseg.data.images.decoding import LOSSY, is_lossy, read_image, read_mask
from featherseg.data.images.labels import LabelMap
from featherseg.data.images.listing import IMAGE_SUFFIXES, is_image
from featherseg.data.images.unread import unread_endings
from featherseg.data.views import DataView

SHOWN_NAMES = 3
"""Most missing files that a message names."""

Masks = Sequence[tuple[Path, LabelMap]]
"""The masks of one image, from the lowest to the topmost, each with its label map."""


@dataclass(frozen=True)
class Pair:
    """One sample on disk. A missing file is None.

    Attributes:
        twins: Further files of the same stem.
        label_map: The map of this mask, if other folders have other maps.
        layers: Further masks with their maps, each on top of those before it.
        missing: Names of missing layers.
    """

    key: str
    image: Path | None
    mask: Path | None
    twins: tuple[Path, ...] = ()
    label_map: LabelMap | None = field(default=None, compare=False)
    layers: tuple[tuple[Path, LabelMap], ...] = field(default=(), compare=False)
    missing: tuple[str, ...] = field(default=(), compare=False)

    @property
    def files(self) -> tuple[Path, Path]:
        """The image and the mask of a complete pair."""
        assert self.image is not None
        assert self.mask is not None
        return self.image, self.mask

    @property
    def mask_files(self) -> list[Path]:
        """The files of all its masks."""
        return [path for path in (self.mask, *(layer for layer, _ in self.layers)) if path]


@dataclass(frozen=True)
class Listing:
    """All files of a dataset, unchecked, and the map of its masks."""

    name: str
    classes: tuple[ClassInfo, ...]
    label_map: LabelMap
    splits: Mapping[str, list[Pair]]
    licence: str
    channels: int = 3
    unlisted: Sequence[str] = ()
    """Keys of images that are in no split."""
    how_split: str = ""
    """How a split by share was made, for a reader; empty for other splits."""
    links: Sequence[Path] = ()
    """Links to folders among the files, which are not followed."""
    unread: str = ""
    """The note on files whose format is not read."""

    @property
    def has_objects(self) -> bool:
        """Whether `check_objects` checks anything."""
        return type(self).check_objects is not Listing.check_objects

    def map_of(self, pair: Pair) -> LabelMap:
        """Return the label map of this pair: its own, or that of the dataset."""
        return pair.label_map or self.label_map

    def masks_of(self, pair: Pair) -> Masks:
        """Return the masks of a complete pair: one, or several layers."""
        return [(pair.files[1], self.map_of(pair)), *pair.layers]

    def check_objects(self, pair: Pair, ids: np.ndarray) -> None:
        """Raise DataError if the objects of a pair do not fit its mask. Most listings have none.

        ids: the mask in class ids (H, W), below 0 outside the map.
        """


class PairedFiles(DataView):
    """One split of a listing, or several ("train+val"), as `core.types.SegmentationData`.

    Files are read when they are used. groups: what distinguishes its sequences, see
    `data.datasets.sequences.sequence_names`.

    Raises:
        DataNotFound: A partner is missing.
        DataError: A file is faulty; raised on reading.
    """

    groups: str | None = None

    def __init__(self, listing: Listing, split: str, size: int | None = None) -> None:
        self.name, self.classes, self.channels = listing.name, listing.classes, listing.channels
        self.label_map, self.licence, self.masks_of = (
            listing.label_map,
            listing.licence,
            listing.masks_of,
        )
        parts = [
            complete(f"{listing.name} {part}", listing.splits.get(part, []))
            for part in split.split("+")
        ]
        self.pairs = spread(list(dict.fromkeys(pair for part in parts for pair in part)), size)
        self.keys = [pair.key for pair in self.pairs]

    def __len__(self) -> int:
        return len(self.pairs)

    def __getitem__(self, index: int) -> Sample:
        pair = self.pairs[index]
        image = read_image(pair.files[0], self.channels)  # (H, W, C)
        label = self.label(index)  # (H, W)
        if image.shape[:2] != label.shape:
            raise DataError(f"{pair.files[1]} {other_size(pair, image.shape[:2], label.shape)}")
        return Sample(pair.key, image, label)

    def label(self, index: int) -> np.ndarray:
        """Return class ids (H, W) uint8 of a sample, 255 = ignore; the image is not read."""
        return read_label(self.masks_of(self.pairs[index]))

    def annotation(self, index: int) -> bytes | None:
        """Return what decides a sample besides its files and the dataset's map, or None."""
        label_map = self.pairs[index].label_map
        return None if label_map is None else repr(label_map.ids).encode()


def read_label(masks: Masks) -> np.ndarray:
    """Return class ids (H, W) uint8 of the masks of one image.

    Raises:
        DataError: A mask cannot be read, a value is not in the map, or masks differ in size.
    """

    def class_ids(path: Path, label_map: LabelMap) -> np.ndarray:
        raw = read_mask(path, label_map.colors)
        try:
            return label_map(raw, str(path))
        except DataError as error:
            if not is_lossy(path):
                raise
            raise DataError(f"{error} The mask is {LOSSY}.") from None

    return laid_over(masks, [class_ids(path, label_map) for path, label_map in masks])


def read_ids(masks: Masks) -> np.ndarray:
    """Return class ids (H, W) int16 of the masks of one image, -1 for values outside the map.

    Raises:
        DataError: A mask cannot be read, or masks differ in size.
    """
    return laid_over(
        masks, [label_map.apply(read_mask(path, label_map.colors)) for path, label_map in masks]
    )


def laid_over(masks: Masks, layers: Sequence[np.ndarray]) -> np.ndarray:
    """Return class ids (H, W) of the masks of one image, laid over one another in their order.

    A mask covers those before it, except at pixels with raw value 0. layers: the class ids (H, W)
    of each.

    Raises:
        DataError: Masks differ in size.
    """
    covered = layers[0]
    for (path, label_map), ids in zip(masks[1:], layers[1:], strict=True):
        if ids.shape != covered.shape:
            sizes = f"{size_text(ids.shape)}, but {masks[0][0]} is {size_text(covered.shape)}"
            raise DataError(
                f"{path} is {sizes} (height x width). Expected masks of one size for an image."
            )
        covered = np.where(ids == label_map.ids[0], covered, ids)
    return covered


class NamedData(PairedFiles):
    """A dataset of the catalogue, on disk under a root that the user names.

    Attributes:
        facts: What is known without its files.
        splits: Its parts with public labels, without common images.
        subsplits: Parts of the splits.
        no_test: Why there is no split test.

    Raises:
        UnknownName: There is no such split.
        DataNotFound: The root is missing or incomplete, or test has no public labels.
    """

    facts: ClassVar[DataFacts]
    splits: ClassVar[tuple[str, ...]] = ("train", "val")
    subsplits: ClassVar[tuple[str, ...]] = ()
    no_test: ClassVar[str] = ""

    def __init__(self, root: Path, split: str, size: int | None = None) -> None:
        parts, known = split.split("+"), self.splits + self.subsplits
        if "test" in parts and self.no_test:
            raise DataNotFound(self.no_test)
        for part in parts:
            if part not in known:
                raise unknown(f"split of {self.facts.name}", part, known)
        super().__init__(self.list_files(root, parts), split, size)

    @classmethod
    def list_files(cls, root: Path, splits: Sequence[str]) -> Listing:
        """Return the unpacked files of the splits under `root`. Raises DataNotFound without any."""
        raise NotImplementedError


def plain_key(key: str) -> str:
    """Return a key as a path that stays in its folder, also for an image outside: ../day1/0001."""
    return "/".join(part for part in key.split("/") if part not in ("", ".", ".."))


FilesByStem = dict[str, list[Path]]


def files_by_stem(
    folder: Path,
    suffix: str = "",
    without: Collection[Path] = (),
    prefix: str = "",
    links: list[Path] | None = None,
    unread: Counter[str] | None = None,
) -> FilesByStem:
    """Return the images in and below a folder by stem, in order: {"seq1/frame_0007": [path]}.

    A stem of several files (a.jpg beside a.png) has several paths. If nothing is left of a name,
    its folder is the stem: "01" for 01/image.png with the suffix "image". Hidden files are skipped,
    and links to folders are not followed.

    Args:
        folder: The folder.
        suffix: Skip names without this end, and cut it off: "_mask" of a_mask.png, or with the
            ending of the file, ".png" or "_mask.png".
        without: Folders to skip.
        prefix: Skip names without this beginning, and cut it off: "mask_" of seq1/mask_01.png.
        links: A list to which links to folders are added.
        unread: A counter of files by ending whose format is not read.

    Raises:
        DataError: A name is not UTF-8, or a folder is a link and `links` is None.
    """
    apart = {str(place) for place in without if place != folder}
    with_ending, named = suffix.lower().endswith(IMAGE_SUFFIXES), list[str]()
    for place, folders, names in os.walk(folder):  # quicker than Path.rglob
        below = os.path.relpath(place, folder).replace(os.sep, "/")
        named += [
            name if below == "." else f"{below}/{name}"
            for name in names
            if is_image(name) and name[0] != "."
        ]
        if unread is not None:
            unread += unread_endings(names)
        folders[:] = [
            name
            for name in folders
            if os.path.join(place, name) not in apart and not name.startswith(".")
        ]
        linked = [
            Path(place, name)
            for name in sorted(folders)
            if os.path.islink(os.path.join(place, name))
        ]
        if links is not None:
            links += linked
        elif linked:
            raise DataError(
                f"{linked[0]} is a link to a folder, which is not followed. Put the folder itself "
                f"there, or make {folder} the link."
            )
    if not_text := [name for name in named if not _is_text(name)]:
        files = counted(len(not_text), "file")
        raise DataError(
            f"{folder} holds {files} of a name that is not UTF-8, first {not_text[0]!r}. Rename "
            "them."
        )
    by_stem: FilesByStem = {}
    for name in sorted(named, key=lambda name: name.split("/")):
        stem = name if with_ending else os.path.splitext(name)[0]
        # .JPG is .jpg
        fits = stem.lower().endswith(suffix.lower()) if with_ending else stem.endswith(suffix)
        below, _, last = stem[: len(stem) - len(suffix)].rpartition("/")
        if fits and last.startswith(prefix) and os.path.isfile(path := os.path.join(folder, name)):
            last = last.removeprefix(prefix)
            if shared := "/".join(filter(None, (below, last))):
                by_stem.setdefault(shared, []).append(Path(path))
    return by_stem


def _is_text(name: str) -> bool:
    """Whether a name is UTF-8; Python shows other bytes as lone surrogates."""
    try:
        name.encode()
    except UnicodeEncodeError:
        return False
    return True


def read_list(path: Path, expected: str) -> list[str]:
    """Return the stems of a list file. A line is a stem, a file name, or "image-path mask-path".

    Raises:
        DataNotFound: The file is missing; the message ends with `expected`.
        DataError: It cannot be read.
    """
    try:
        lines = path.read_text(encoding="utf-8-sig").splitlines()
    except FileNotFoundError:
        raise DataNotFound(f"{path} does not exist. {expected}") from None
    except (OSError, UnicodeDecodeError) as error:
        raise DataError(f"{path} cannot be read: {error}.") from error
    names = [Path(line.split()[0]) for line in lines if line.strip()]
    return [name.stem if is_image(name) else name.name for name in names]


def make_pairs(
    keys: Sequence[str], images: Mapping[str, list[Path]], masks: Mapping[str, list[Path]]
) -> list[Pair]:
    """Return one pair per key, from the files of either folder by stem."""
    pairs = []
    for key in keys:
        image, *more_images = images.get(key, [None])
        mask, *more_masks = masks.get(key, [None])
        pairs.append(
            Pair(key, image, mask, tuple(path for path in more_images + more_masks if path))
        )
    return pairs


def make_splits(
    files: Mapping[str, tuple[FilesByStem, FilesByStem]], missing: str = ""
) -> dict[str, list[Pair]]:
    """Return the pairs of the splits that have files, in the order of the stems.

    Raises:
        DataNotFound: No split has files; the message is `missing`.
    """
    pairs = {
        split: make_pairs(sorted({*images, *masks}), images, masks)
        for split, (images, masks) in files.items()
        if images or masks
    }
    if not pairs and missing:
        raise DataNotFound(missing)
    return pairs


def complete(name: str, pairs: Sequence[Pair]) -> list[Pair]:
    """Return the pairs. Raises DataNotFound if there are none or a partner is missing."""
    if not pairs:
        raise DataNotFound(f"{name}: this split has no images.")
    for part in ("image", "mask"):
        half = [pair.key for pair in pairs if getattr(pair, part) is None]
        if half:
            names = ", ".join(half[:SHOWN_NAMES]) + (", ..." if len(half) > SHOWN_NAMES else "")
            raise DataNotFound(
                f"{name}: {len(half)} of {len(pairs)} samples have no {part}: {names}. Add what is "
                "missing, or leave these out: `featherseg check DATA --fix OUT` lists all of them "
                "and writes a copy without them; or name the others in a list, as in "
                'train = "train.txt" of a dataset.toml.'
            )
    twins = [pair for pair in pairs if pair.twins]
    if twins:
        raise DataError(
            f"{name}: {twins[0].twins[0]} has the same stem as another file. Keep one file per "
            "stem."
        )
    return list(pairs)


def spread(pairs: list[Pair], size: int | None) -> list[Pair]:
    """Return at most `size` pairs, evenly spread, always the same ones; None: all of them."""
    if size is not None and size < 1:
        raise ConfigError(f"a dataset of {size} samples was asked for. Expected at least 1.")
    if size is None or size >= len(pairs):
        return pairs
    return [pairs[i * len(pairs) // size] for i in range(size)]


def other_size(pair: Pair, image: tuple[int, ...], mask: tuple[int, ...]) -> str:
    """Return the message on a mask that does not cover its image; sizes are (height, width)."""
    return (
        f"is {size_text(mask)}, but its image {pair.image} is {size_text(image)} (height x width)"
    )
