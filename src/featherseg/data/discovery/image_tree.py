"""The image files below a folder, by the names that they share, and whether they look like masks."""

import os
import re
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path

import numpy as np

from featherseg.core.errors import DataError, FeathersegError
from featherseg.core.files import composed
from featherseg.data.images.decoding import IMAGE_SUFFIXES, read_mask
from featherseg.data.images.unread import unread_endings, unread_note

MOST_FILES = 5_000_000
"""Images of a folder above which it is refused: their names alone take a gigabyte."""

MOST_DEPTH = 12
"""Folders below one another that are looked into."""

SAMPLES = 3
"""Files of a kind in one folder that are opened to see whether they are masks."""

FOLDERS_SEEN = 24
"""Folders of one tree of which files are opened: more tell no more."""

FEW_VALUES = 64
"""A file with at most so many values (or colours) looks like a mask; a photograph has hundreds."""

FLAT = 0.85
"""Share of neighbouring pixels that are alike in a mask that was smoothed or saved as JPEG (photographs: below 0.7)."""

AFFIXES = 4
"""Suffixes, and prefixes, of the names in a folder that are tried, the most frequent ones."""

_TAIL = re.compile(r"(?:[-_. ]+[A-Za-z][A-Za-z0-9]*)+$")
"""What stands behind the number or name of an image: "_mask", "_gtFine_labelIds", "_leftImg8bit"."""

_HEADS = (
    re.compile(r"[A-Za-z]+(?:[-_. ]+(?=.)|(?=\d))"),
    re.compile(r"(?:[A-Za-z]+[-_. ]+)+(?=.)"),
)
"""What stands before it: one word, "mask_" or "img", and all words, "left_mask_"."""

CHANNEL = re.compile("_[0-9]{4}")
"""What stands behind the name of an image in nnU-Net's folders: the number of its channel."""

_CHANNEL_TAIL, MOST_CHANNELS = re.compile(f"{CHANNEL.pattern}$"), 8
"""Of so many channels at most the names of a folder are told from frames, which are numbered likewise."""

Affix = tuple[str, str]
"""What a name has before and behind the part that an image and its mask share."""


class ImageTree:
    """The image files below a folder: {folder: {ending: [stem]}}, folders as paths from the top."""

    def __init__(self, top: Path) -> None:
        self.top = top
        self.files: dict[str, dict[str, list[str]]] = {}
        self.children: dict[str, list[str]] = {}
        self.unread = ""  # of the first file that could not be read
        self.links: list[str] = []  # to folders, which are not followed
        self.other: Counter[str] = Counter()  # endings of images that are not read -> files
        self._below: dict[str, list[str]] = {}
        self._looks: dict[tuple[str, str, str], bool] = {}
        self._names: dict[
            tuple[str, str, str], list[bool]
        ] = {}  # the same of folders that are called alike
        count = 0
        for place, folders, names in os.walk(top):  # links to folders are not followed
            name = Path(place).relative_to(top).as_posix()
            depth = 0 if name == "." else name.count("/") + 1
            folders[:] = sorted(f for f in folders if _is_sayable(f)) if depth < MOST_DEPTH else []
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
                    f"{top} has more than {MOST_FILES:,} images, the limit. Name a folder inside it."
                )
        for name in self.files:
            for folder in above(name):
                self._below.setdefault(folder, []).append(name)

    @property
    def passed_over(self) -> str:
        """What was not looked at, in a sentence with a blank before it for each; empty where nothing was."""
        text = f" Links to folders are {not_followed(self.links)}." if self.links else ""
        if self.other:
            text += f" {unread_note(self.other)}."
        return text

    def below(self, folder: str) -> list[str]:
        """The folders with images in a folder, itself among them."""
        return self._below.get(folder, [])

    def is_mask(self, folder: str, ending: str, affix: str, stems: Sequence[str]) -> bool:
        """Whether most of the files of a kind in one folder look like masks; such as cannot be read do not count."""
        key, name = (folder, ending, affix), (folder.rpartition("/")[2], ending, affix)
        alike = self._names.setdefault(name, [])
        if key not in self._looks and len(alike) >= FOLDERS_SEEN and len(set(alike)) == 1:
            return alike[
                0
            ]  # as in all of many folders of that name: patient0001/masks, patient0002/masks, ...
        if key not in self._looks:
            chosen = (
                [stems[i * len(stems) // SAMPLES] for i in range(SAMPLES)]
                if len(stems) > SAMPLES
                else stems
            )
            looks = []
            for stem in chosen:
                try:
                    looks.append(looks_like_mask(read_mask(self.top / folder / f"{stem}{ending}")))
                except FeathersegError as error:
                    self.unread = self.unread or f" {error}"
            self._looks[key] = sum(looks) * 2 > len(looks)
            alike.append(self._looks[key])
        return self._looks[key]


@dataclass
class NamedFiles:
    """Files that belong together: those of a folder and of the folders in it, or the part of them with one ending."""

    tree: ImageTree
    folder: str
    ending: str = ""  # of the only files meant, or of all
    deep: bool = True  # with the folders inside
    without: Affix = ("", "")  # that these files do not have
    kinds: list[tuple[str, str, list[str]]] = field(default_factory=list)  # folder, ending, stems

    def __post_init__(self) -> None:
        for place in self.tree.below(self.folder) if self.deep else [self.folder]:
            for ending, stems in self.tree.files.get(place, {}).items():
                if self.ending in ("", ending.lower()):
                    kept = [
                        stem
                        for stem in stems
                        if self.without == ("", "") or not _has(stem, self.without)
                    ]
                    self.kinds += [(place, ending, kept)] if kept else []

    @cached_property
    def stems(self) -> list[str]:
        """Paths below the folder without endings."""
        found = []
        for place, _, stems in self.kinds:
            below = os.path.relpath(place, self.folder).replace(os.sep, "/")
            found += [stem if below == "." else f"{below}/{stem}" for stem in stems]
        return found

    @cached_property
    def tails(self) -> list[Affix]:
        """Nothing, and the suffixes that at least a tenth of the names have."""
        channels = [
            tail for tail in self._frequent(_CHANNEL_TAIL.search, 1 / MOST_CHANNELS, 2) if tail
        ]
        return [("", tail) for tail in (*self._frequent(_TAIL.search), *channels)]

    @cached_property
    def affixes(self) -> list[Affix]:
        """The suffixes, each without and with the prefixes that at least a tenth of the names have."""
        heads = dict.fromkeys(head for pattern in _HEADS for head in self._frequent(pattern.match))
        return [(head, tail) for head in heads for _, tail in self.tails]

    def _frequent(
        self, find: Callable[[str], re.Match[str] | None], share: float = 0.1, least: int = 1
    ) -> list[str]:
        counts = Counter(
            found[0] for stem in self.stems if (found := find(stem.rpartition("/")[2]))
        )
        least = max(least, int(len(self.stems) * share))
        return ["", *(text for text, count in counts.most_common(AFFIXES) if count >= least)]

    def cut(self, affix: Affix) -> set[str]:
        """The names that have this affix, without it, and composed."""
        head, tail = affix
        if not head:
            return {composed(stem.removesuffix(tail)) for stem in self.stems if stem.endswith(tail)}
        cut = (stem.rpartition("/") for stem in self.stems)
        return {
            composed(f"{below}{bar}{name.removeprefix(head).removesuffix(tail)}")
            for below, bar, name in cut
            if _has(name, affix)
        }

    def said(self, affix: Affix) -> Affix:
        """As a dataset.toml says it: a suffix that is an ending itself, as in a.jpg.png, with that of the files."""
        endings = {ending for _, ending, _ in self.kinds}
        whole = not self.ending and len(endings) == 1 and affix[1].lower().endswith(IMAGE_SUFFIXES)
        return (affix[0], affix[1] + endings.pop()) if whole else affix

    def look(self, affix: Affix) -> set[bool]:
        """Whether they look like masks: True, False, or both."""
        kinds = self.kinds
        if len(kinds) > FOLDERS_SEEN:
            kinds = [kinds[i * len(kinds) // FOLDERS_SEEN] for i in range(FOLDERS_SEEN)]
        found = set()
        for place, ending, stems in kinds:
            if chosen := [stem for stem in stems if _has(stem, affix)]:
                told = f"{'*'.join(affix)}-{'*'.join(self.without)}"
                found.add(self.tree.is_mask(place, ending, told, chosen))
        return found


@dataclass(frozen=True)
class FolderPair:
    """A folder of images and that of their masks, and how many names agree.

    Folders are paths from the top ("." is the top); ANY in both stands for any folder.
    """

    images: str
    masks: str
    image_affix: Affix
    mask_affix: Affix
    count: int
    seen: bool = True  # that these are masks is seen by their pixels, not by the names alone
    also: tuple[str, ...] = ()  # other folders of images of these masks
    objects: bool = False  # of an image there is a mask for each object

    @property
    def kind(self) -> tuple[str, Affix, Affix]:
        """What pairs of one reading have in common: the name of the masks' folder but for the images', the affixes."""
        images, masks = (path.rpartition("/")[2] for path in (self.images, self.masks))
        return masks.replace(images, "*"), self.image_affix, self.mask_affix

    @property
    def mask_pattern(self) -> str:
        """The masks' folder and what their names have: "gt/mask_*_left"."""
        return f"{self.masks}/{'*'.join(self.mask_affix)}"

    @property
    def by_prefix(self) -> bool:
        """Whether the names agree but for their beginnings: by that, files of different things may agree, too."""
        return bool(self.image_affix[0] or self.mask_affix[0])


def _has(name: str, affix: Affix) -> bool:
    """Whether a name without folders has a prefix and a suffix, and something between them where both are given."""
    head, tail = affix
    return (
        name.startswith(head)
        and name.endswith(tail)
        and (not head or len(name) > len(head) + len(tail))
    )


def looks_like_mask(raw: np.ndarray) -> bool:
    """Whether (H, W) or (H, W, 3) pixels are those of a mask: few values, or large patches of one."""
    values = (
        raw
        if raw.ndim == 2
        else raw[:, :, 0].astype(np.int32) << 16 | raw[:, :, 1].astype(np.int32) << 8 | raw[:, :, 2]
    )
    rows = values[:: max(1, values.shape[0] // 256)]  # neighbours in a row stay neighbours
    _, counts = np.unique(rows, return_counts=True)
    if len(counts) <= FEW_VALUES:
        return True
    alike = float((rows[:, 1:] == rows[:, :-1]).mean()) if rows.shape[1] > 1 else 0.0
    return alike >= FLAT and np.sort(counts)[-FEW_VALUES:].sum() >= 0.9 * rows.size


def not_followed(links: Sequence[str]) -> str:
    """What to say of links to folders, which an ImageTree does not look into."""
    return (
        f"not followed: {', '.join(links[:SAMPLES])}{', ...' * (len(links) > SAMPLES)}. Name the folder that they lead "
        "to, or write a dataset.toml, whose images and masks may be links"
    )


def _is_sayable(folder: str) -> bool:
    """Whether a folder is not hidden, and its name is text that a dataset.toml can hold."""
    return not folder.startswith(".") and not any(
        "\ud800" <= character <= "\udfff" for character in folder
    )


def above(name: str) -> list[str]:
    """The folder itself and all that it lies in, up to the top."""
    parts = name.split("/") if name != "." else []
    return [".", *("/".join(parts[:depth]) for depth in range(1, len(parts) + 1))]


def join(folder: str, name: str) -> str:
    """The path of something in a folder that is itself named from the top, "."."""
    return name if folder == "." else f"{folder}/{name}"
