"""The image files below a folder, by the names that they share, and whether they are masks."""

import os
import re
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import TypeVar

import numpy as np

from featherseg.core.errors import DataError, FeathersegError
from featherseg.core.files import composed
from featherseg.core.wording import first_few
from featherseg.data.images.decoding import read_mask
from featherseg.data.images.listing import IMAGE_SUFFIXES
from featherseg.data.images.palettes import color_numbers
from featherseg.data.images.unread import unread_endings, unread_note

MOST_FILES = 5_000_000
"""Number of images above which a folder is refused: their names alone take a gigabyte."""

MOST_DEPTH = 12
"""Depth of folders that are searched."""

SAMPLES = 3
"""Number of files of a kind in one folder that are opened to see whether they are masks."""

FOLDERS_SEEN = 24
"""Number of folders of a tree of which files are opened."""

FEW_VALUES = 64
"""Number of values (or colours) up to which a file looks like a mask; a photograph has hundreds."""

FLAT = 0.85
"""Share of equal neighbours in a smoothed mask or one saved as JPEG (photographs: below 0.7)."""

AFFIXES = 4
"""Number of suffixes, and of prefixes, of the names in a folder that are tried."""

_TAIL = re.compile(r"(?:[-_. ]+[A-Za-z][A-Za-z0-9]*)+$")
"""What follows the number or name of an image: "_mask", "_gtFine_labelIds", "_leftImg8bit"."""

_HEADS = (
    re.compile(r"[A-Za-z]+(?:[-_. ]+(?=.)|(?=\d))"),
    re.compile(r"(?:[A-Za-z]+[-_. ]+)+(?=.)"),
)
"""What precedes it: one word, "mask_" or "img", or all words, "left_mask_"."""

CHANNEL = re.compile("_[0-9]{4}")
"""What follows the name of an image in nnU-Net's folders: the number of its channel."""

_CHANNEL_TAIL = re.compile(f"{CHANNEL.pattern}$")
MOST_CHANNELS = 8
"""Number of channels up to which they are told from numbered frames."""

Item = TypeVar("Item")

Affix = tuple[str, str]
"""What precedes and follows, in a name, the part that an image and its mask share."""


class ImageTree:
    """The image files below a folder: {folder: {ending: [stem]}}, folders as paths from the top."""

    def __init__(self, top: Path) -> None:
        self.top = top
        self.files: dict[str, dict[str, list[str]]] = {}
        self.children: dict[str, list[str]] = {}
        self.unread = ""  # why the first unreadable file cannot be read
        self.links: list[str] = []  # to folders, which are not followed
        self.other: Counter[str] = Counter()  # {ending of images that cannot be read: files}
        self._below: dict[str, list[str]] = {}
        self._looks: dict[tuple[str, str, str], bool] = {}  # by folder, ending, affix
        self._looks_by_name: dict[tuple[str, str, str], list[bool]] = {}  # by the folder's name
        count = 0
        for place, folders, names in os.walk(top):
            name = Path(place).relative_to(top).as_posix()
            depth = 0 if name == "." else name.count("/") + 1
            folders[:] = sorted(filter(_is_usable, folders)) if depth < MOST_DEPTH else []
            self.children[name] = [join(name, child) for child in folders]
            self.links += [child for child in self.children[name] if os.path.islink(top / child)]
            self.other += unread_endings(names)
            for file in sorted(names):
                stem, ending = os.path.splitext(file)
                if ending.lower() in IMAGE_SUFFIXES and not file.startswith("."):
                    self.files.setdefault(name, {}).setdefault(ending, []).append(stem)
                    count += 1
            if count > MOST_FILES:
                raise DataError(
                    f"{top} has more than {MOST_FILES:,} images, the limit. Name a folder inside "
                    "it."
                )
        for name in self.files:
            for folder in above(name):
                self._below.setdefault(folder, []).append(name)

    @property
    def skipped(self) -> str:
        """Sentences, each after a blank, on links and files that were not read; "" without any."""
        text = f" Links to folders are {not_followed(self.links)}." if self.links else ""
        return text + (f" {unread_note(self.other)}." if self.other else "")

    def below(self, folder: str) -> list[str]:
        """Return the folders with images in a folder, itself included."""
        return self._below.get(folder, [])

    def is_mask(self, folder: str, ending: str, affix: str, stems: Sequence[str]) -> bool:
        """Return whether most readable files of a kind in one folder look like masks."""
        key, name_key = (folder, ending, affix), (folder.rpartition("/")[2], ending, affix)
        same_name = self._looks_by_name.setdefault(name_key, [])
        if key not in self._looks:
            # Many folders with one name and one look: patient0001/masks, patient0002/masks, ...
            if len(same_name) >= FOLDERS_SEEN and len(set(same_name)) == 1:
                return same_name[0]
            looks = []
            for stem in _spread(stems, SAMPLES):
                try:
                    looks.append(looks_like_mask(read_mask(self.top / folder / f"{stem}{ending}")))
                except FeathersegError as error:
                    self.unread = self.unread or f" {error}"
            self._looks[key] = sum(looks) * 2 > len(looks)
            same_name.append(self._looks[key])
        return self._looks[key]


@dataclass
class NamedFiles:
    """The image files of a folder and the folders in it.

    Attributes:
        ending: Ending of the files; "" for all.
        deep: Whether folders inside count.
        without: Affix that the files do not have.
        kinds: (folder, ending, stems).
    """

    tree: ImageTree
    folder: str
    ending: str = ""
    deep: bool = True
    without: Affix = ("", "")
    kinds: list[tuple[str, str, list[str]]] = field(default_factory=list)

    def __post_init__(self) -> None:
        for place in self.tree.below(self.folder) if self.deep else [self.folder]:
            for ending, stems in self.tree.files.get(place, {}).items():
                if self.ending in ("", ending.lower()):
                    if self.without != ("", ""):
                        stems = [stem for stem in stems if not _has(stem, self.without)]
                    self.kinds += [(place, ending, stems)] if stems else []

    @cached_property
    def stems(self) -> list[str]:
        """The paths below the folder without endings."""
        paths = []
        for place, _, stems in self.kinds:
            below = os.path.relpath(place, self.folder).replace(os.sep, "/")
            paths += [stem if below == "." else f"{below}/{stem}" for stem in stems]
        return paths

    @cached_property
    def tails(self) -> list[Affix]:
        """The empty suffix, and those that at least a tenth of the names have."""
        channels = self._frequent(_CHANNEL_TAIL.search, 1 / MOST_CHANNELS, 2)
        return [("", tail) for tail in ("", *self._frequent(_TAIL.search), *channels)]

    @cached_property
    def affixes(self) -> list[Affix]:
        """The suffixes, without a prefix and with those that at least a tenth of the names have."""
        heads = dict.fromkeys(head for pattern in _HEADS for head in self._frequent(pattern.match))
        return [(head, tail) for head in ("", *heads) for _, tail in self.tails]

    def _frequent(
        self, find: Callable[[str], re.Match[str] | None], share: float = 0.1, least: int = 1
    ) -> list[str]:
        """Return the most frequent texts that `find` matches in the names."""
        matches = (find(stem.rpartition("/")[2]) for stem in self.stems)
        counts = Counter(match[0] for match in matches if match)
        least = max(least, int(len(self.stems) * share))
        return [text for text, count in counts.most_common(AFFIXES) if count >= least]

    def cut(self, affix: Affix) -> set[str]:
        """Return the names that have this affix, without it, and composed."""
        head, tail = affix
        if not head:
            return {composed(stem.removesuffix(tail)) for stem in self.stems if stem.endswith(tail)}
        parts = (stem.rpartition("/") for stem in self.stems)
        return {
            composed(f"{below}{bar}{name.removeprefix(head).removesuffix(tail)}")
            for below, bar, name in parts
            if _has(name, affix)
        }

    def in_toml(self, affix: Affix) -> Affix:
        """Return an affix as a dataset.toml has it: the suffix ".jpg" in a.jpg.png gets ".png"."""
        endings = {ending for _, ending, _ in self.kinds}
        double = not self.ending and len(endings) == 1 and affix[1].lower().endswith(IMAGE_SUFFIXES)
        return (affix[0], affix[1] + endings.pop()) if double else affix

    def look(self, affix: Affix) -> set[bool]:
        """Return whether the files with an affix look like masks: {True}, {False}, or both."""
        looks = set()
        kind = f"{'*'.join(affix)}-{'*'.join(self.without)}"
        for place, ending, stems in _spread(self.kinds, FOLDERS_SEEN):
            if chosen := [stem for stem in stems if _has(stem, affix)]:
                looks.add(self.tree.is_mask(place, ending, kind, chosen))
        return looks


@dataclass(frozen=True)
class FolderPair:
    """A folder of images, the folder of their masks, and the number of names that agree.

    Attributes:
        images, masks: Paths from the top ("." is the top); ANY in both is any folder.
        seen: Whether the pixels show that these are masks, not the names alone.
        also: Other folders of images that fit these masks.
        objects: Whether an image has a mask for each object.
    """

    images: str
    masks: str
    image_affix: Affix
    mask_affix: Affix
    count: int
    seen: bool = True
    also: tuple[str, ...] = ()
    objects: bool = False

    @property
    def kind(self) -> tuple[str, Affix, Affix]:
        """What the pairs of one reading share: affixes, and how the masks' folder is named."""
        images, masks = (path.rpartition("/")[2] for path in (self.images, self.masks))
        return masks.replace(images, "*"), self.image_affix, self.mask_affix

    @property
    def mask_pattern(self) -> str:
        """The masks' folder and the affix of their names: "gt/mask_*_left"."""
        return f"{self.masks}/{'*'.join(self.mask_affix)}"

    @property
    def by_prefix(self) -> bool:
        """Whether a prefix is cut from the names: then files of different things may agree, too."""
        return bool(self.image_affix[0] or self.mask_affix[0])


def _spread(items: Sequence[Item], most: int) -> Sequence[Item]:
    """Return at most `most` of the items, spread evenly."""
    if len(items) <= most:
        return items
    return [items[i * len(items) // most] for i in range(most)]


def _has(name: str, affix: Affix) -> bool:
    """Return whether a name has a prefix and a suffix, and a prefix not without text between."""
    head, tail = affix
    between = not head or len(name) > len(head) + len(tail)
    return name.startswith(head) and name.endswith(tail) and between


def looks_like_mask(raw: np.ndarray) -> bool:
    """Return whether (H, W) or (H, W, 3) pixels have few values, or large patches of one."""
    rows = raw[:: max(1, raw.shape[0] // 256)]  # neighbours in a row stay neighbours
    values = rows if rows.ndim == 2 else color_numbers(rows)
    _, counts = np.unique(values, return_counts=True)
    if len(counts) <= FEW_VALUES:
        return True
    alike = float((values[:, 1:] == values[:, :-1]).mean()) if values.shape[1] > 1 else 0.0
    return alike >= FLAT and np.sort(counts)[-FEW_VALUES:].sum() >= 0.9 * values.size


def not_followed(links: Sequence[str]) -> str:
    """Return the note on links to folders, which an ImageTree does not follow."""
    return (
        f"not followed: {first_few(links)}. Name the folder that they lead to, or write a "
        "dataset.toml, whose images and masks may be links"
    )


def _is_usable(folder: str) -> bool:
    """Return whether a folder is not hidden, and its name is text that a dataset.toml can hold."""
    return not folder.startswith(".") and not re.search("[\ud800-\udfff]", folder)


def above(name: str) -> list[str]:
    """Return the folder itself and all that contain it, from the top down."""
    parts = name.split("/") if name != "." else []
    return [".", *("/".join(parts[:depth]) for depth in range(1, len(parts) + 1))]


def join(folder: str, name: str) -> str:
    """Return the path of something in a folder; "." is the top."""
    return name if folder == "." else f"{folder}/{name}"
