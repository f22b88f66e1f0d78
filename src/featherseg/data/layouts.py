"""Where images and masks lie in a folder, whatever its folders and files are called.

Published datasets agree in little but that an image and its mask share a name, up to a suffix or a prefix. So what is
told apart is what can be seen: a mask has few values in large patches, a photograph has not. Folders (or files of one
folder with a suffix, prefix or ending of their own) are paired by the names in them, from the top of the tree down.
"""

import os
import re
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from difflib import SequenceMatcher
from functools import cache, cached_property, partial
from itertools import product
from pathlib import Path
from typing import Any

import numpy as np

from featherseg.core.errors import DataError, DataNotFound, FeathersegError
from featherseg.core.files import composed
from featherseg.core.wording import counted
from featherseg.data.images import IMAGE_SUFFIXES, read_mask

MASK_WORDS = {"mask", "label", "annotation", "annot", "gt", "ground", "truth", "groundtruth", "seg", "segmentation"}
MASK_WORDS |= {"target", "segmentationclass", "manual", "trimap", "labelid", "trainid"}
"""Words in the name of a folder or a suffix that mark masks; consulted where the pixels do not tell."""

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

LEAST_BY_PREFIX = 3
"""Names that must agree but for their beginnings: img_1 and lbl_1 alone may be anything."""

MOST_BESIDE = 64
"""Folders beside one another up to which each is compared with each."""

FAR = 3
"""How many of those that come next are compared where there are more: 0001_gt comes before 0001_image."""

_TAIL = re.compile(r"(?:[-_. ]+[A-Za-z][A-Za-z0-9]*)+$")
"""What stands behind the number or name of an image: "_mask", "_gtFine_labelIds", "_leftImg8bit"."""

_HEADS = (re.compile(r"[A-Za-z]+(?:[-_. ]+(?=.)|(?=\d))"), re.compile(r"(?:[A-Za-z]+[-_. ]+)+(?=.)"))
"""What stands before it: one word, "mask_" or "img", and all words, "left_mask_"."""

Affix = tuple[str, str]
"""What a name has before and behind the part that an image and its mask share."""


@dataclass(frozen=True)
class FolderPair:
    """A folder of images and that of their masks, as paths from the top ("." is the top), and how many names agree."""

    images: str
    masks: str
    image_affix: Affix
    mask_affix: Affix
    count: int
    seen: bool = True  # that these are masks is seen by their pixels, not by the names alone

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


@dataclass(frozen=True)
class Reading:
    """One way to read a folder: its pairs, one for each folder of images, and the folders with images left over.

    `further` are patterns of more masks of the same images in the first of the masks' folders.
    """

    pairs: tuple[FolderPair, ...]
    unused: tuple[str, ...]
    further: tuple[str, ...] = ()

    @property
    def count(self) -> int:
        """Names of images that have a mask."""
        return sum(pair.count for pair in self.pairs)

    @property
    def affixes(self) -> dict[str, Any]:
        """As a dataset.toml says them."""
        image, mask = self.pairs[0].image_affix, self.pairs[0].mask_affix
        return {"image_prefix": image[0], "mask_prefix": mask[0], "image_suffix": image[1], "mask_suffix": mask[1]}


def find_readings(folder: Path, masks: str | None = None) -> list[Reading]:
    """The ways to read a folder of images and masks, the one with most images first.

    `masks` names the folder of masks to take, or in a folder of several those of a suffix: "gt/*_labels".
    Raises DataNotFound, saying what was seen, where no image has a mask, and DataError for too many files.
    """
    tree = _Tree(folder)
    if not tree.files:
        raise DataNotFound(f"{folder} has no images (files ending in {', '.join(IMAGE_SUFFIXES)}). {_hint(folder)}")
    found = _pairs_below(tree, ".")
    if masks is not None:
        given = Path(os.path.abspath(masks))
        wanted = os.path.relpath(given, folder) if given.is_relative_to(os.path.abspath(folder)) else masks.rstrip("/")
        known = ", ".join(sorted({pair.masks for pair in found})) or "none"
        found = [pair for pair in found if wanted in (pair.masks, pair.masks.rpartition("/")[2], pair.mask_pattern)]
        if not found:
            raise DataNotFound(f"{folder} has no masks in {masks}. Folders of masks found: {known}.")
    if not found:
        shown = sorted(tree.files.items(), key=lambda item: -sum(map(len, item[1].values())))[:SAMPLES]
        seen = ", ".join(f"{counted(sum(map(len, kinds.values())), 'file')} in {name}" for name, kinds in shown)
        raise DataNotFound(
            f"{folder}: no image has a mask of its name ({seen}). Expected a folder of images and one of masks with "
            f"the same names, up to a suffix or a prefix, as in images/01.jpg and masks/01_mask.png."
            f"{tree.unread} {_hint(folder)}"
        )
    kinds: dict[tuple[str, Affix, Affix], dict[str, FolderPair]] = {}
    for pair in found:
        kinds.setdefault(pair.kind, {}).setdefault(pair.images, pair)
    readings: list[Reading] = []
    for kind, pairs in kinds.items():
        for other, more in kinds.items():  # the affixes are those of all folders
            pairs = {**more, **pairs} if other[1:] == kind[1:] else pairs
        used = {name for pair in pairs.values() for name in (pair.images, pair.masks)}
        unused = [name for name in tree.files if used.isdisjoint(_above(name))]
        reading = Reading(
            ordered := tuple(pairs[name] for name in sorted(pairs)), tuple(unused), _further(tree, ordered[0])
        )
        masks_of = [{(pair.images, pair.mask_pattern) for pair in one.pairs} for one in (reading, *readings)]
        readings += [] if masks_of[0] in masks_of[1:] else [reading]
    return sorted(readings, key=lambda reading: -reading.count)


class _Tree:
    """The image files below a folder: {folder: {ending: [stem]}}, folders as paths from the top."""

    def __init__(self, top: Path) -> None:
        self.top = top
        self.files: dict[str, dict[str, list[str]]] = {}
        self.children: dict[str, list[str]] = {}
        self.unread = ""  # of the first file that could not be read
        self._below: dict[str, list[str]] = {}
        self._looks: dict[tuple[str, str, str], bool] = {}
        self._names: dict[tuple[str, str, str], list[bool]] = {}  # the same of folders that are called alike
        count = 0
        for place, folders, names in os.walk(top):  # links to folders are not followed
            name = Path(place).relative_to(top).as_posix()
            depth = 0 if name == "." else name.count("/") + 1
            folders[:] = sorted(f for f in folders if _is_sayable(f)) if depth < MOST_DEPTH else []
            self.children[name] = [join(name, child) for child in folders]
            for file in sorted(names):
                stem, ending = os.path.splitext(file)
                if ending.lower() in IMAGE_SUFFIXES and not file.startswith("."):
                    self.files.setdefault(name, {}).setdefault(ending, []).append(stem)
                    count += 1
            if count > MOST_FILES:
                raise DataError(f"{top} has more than {MOST_FILES:,} images, the limit. Name a folder inside it.")
        for name in self.files:
            for folder in _above(name):
                self._below.setdefault(folder, []).append(name)

    def below(self, folder: str) -> list[str]:
        """The folders with images in a folder, itself among them."""
        return self._below.get(folder, [])

    def is_mask(self, folder: str, ending: str, affix: str, stems: Sequence[str]) -> bool:
        """Whether most of the files of a kind in one folder look like masks; such as cannot be read do not count."""
        key, name = (folder, ending, affix), (folder.rpartition("/")[2], ending, affix)
        alike = self._names.setdefault(name, [])
        if key not in self._looks and len(alike) >= FOLDERS_SEEN and len(set(alike)) == 1:
            return alike[0]  # as in all of many folders of that name: patient0001/masks, patient0002/masks, ...
        if key not in self._looks:
            chosen = [stems[i * len(stems) // SAMPLES] for i in range(SAMPLES)] if len(stems) > SAMPLES else stems
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
class _Files:
    """Files that belong together: those of a folder and of the folders in it, or the part of them with one ending."""

    tree: _Tree
    folder: str
    ending: str = ""  # of the only files meant, or of all
    deep: bool = True  # with the folders inside
    without: Affix = ("", "")  # that these files do not have
    kinds: list[tuple[str, str, list[str]]] = field(default_factory=list)  # folder, ending, stems

    def __post_init__(self) -> None:
        for place in self.tree.below(self.folder) if self.deep else [self.folder]:
            for ending, stems in self.tree.files.get(place, {}).items():
                if self.ending in ("", ending.lower()):
                    kept = [stem for stem in stems if self.without == ("", "") or not _has(stem, self.without)]
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
        return [("", tail) for tail in self._frequent(_TAIL.search)]

    @cached_property
    def affixes(self) -> list[Affix]:
        """The suffixes, each without and with the prefixes that at least a tenth of the names have."""
        heads = dict.fromkeys(head for pattern in _HEADS for head in self._frequent(pattern.match))
        return [(head, tail) for head in heads for _, tail in self.tails]

    def _frequent(self, find: Callable[[str], re.Match[str] | None]) -> list[str]:
        counts = Counter(found[0] for stem in self.stems if (found := find(stem.rpartition("/")[2])))
        least = max(1, len(self.stems) // 10)
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


def _has(name: str, affix: Affix) -> bool:
    """Whether a name without folders has a prefix and a suffix, and something between them where both are given."""
    head, tail = affix
    return name.startswith(head) and name.endswith(tail) and (not head or len(name) > len(head) + len(tail))


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


def _pairs_below(tree: _Tree, folder: str) -> list[FolderPair]:
    """The pairs in a folder: among the folders in it, else in its own files, else those in each folder inside."""
    children = [child for child in tree.children[folder] if tree.below(child)]
    own = folder in tree.files
    found = _beside(tree, children)
    if own:
        found += _nested(tree, folder, children) or _together(tree, folder)
    paired = {name for pair in found for name in (pair.images, pair.masks)}
    for child in children:
        if child not in paired:
            found += _pairs_below(tree, child)
    return found


def _beside(tree: _Tree, folders: Sequence[str]) -> list[FolderPair]:
    """Folders beside one another of which one holds the images, another their masks; the likeliest masks first."""
    files = {name: _Files(tree, name) for name in folders}
    found: list[FolderPair] = []
    far = len(folders) if len(folders) <= MOST_BESIDE else FAR  # of many, those that come next by name
    for i, first in enumerate(folders):
        for second in folders[i + 1 : i + 1 + far]:
            found += _compared(files[first], files[second])
        if i > MOST_BESIDE and not found:
            break
    inside = cache(partial(_pairs_below, tree))  # what holds pairs of its own is no half of others
    found = [pair for pair in found if not (pair.by_prefix and (inside(pair.images) or inside(pair.masks)))]
    known = {name for pair in found if pair.seen for name in (pair.images, pair.masks)}
    found = [pair for pair in found if pair.seen or known.isdisjoint((pair.images, pair.masks))]
    plain = {name for pair in found if not pair.by_prefix for name in (pair.images, pair.masks)}
    found = [pair for pair in found if not pair.by_prefix or plain.isdisjoint((pair.images, pair.masks))]
    found.sort(key=lambda pair: (-pair.count, -SequenceMatcher(None, pair.images, pair.masks).ratio()))

    # Each folder of images with every folder of masks that is not nearer, by its name, to another folder of images
    owner: dict[str, str] = {}
    for pair in found:
        owner.setdefault(pair.masks, pair.images)
    images = set(owner.values())
    return [pair for pair in found if owner[pair.masks] == pair.images and pair.masks not in images]


def _nested(tree: _Tree, folder: str, children: Sequence[str]) -> list[FolderPair]:
    """The files of a folder, with the masks (or images) in one of the folders inside."""
    own = _Files(tree, folder, deep=False)
    return [pair for child in children for pair in _compared(own, _Files(tree, child))]


def _together(tree: _Tree, folder: str) -> list[FolderPair]:
    """Images and masks in one folder, told apart by a suffix, by their endings, or by a prefix."""
    files = _Files(tree, folder, deep=False)
    for image_affix in files.tails:
        if found := [pair for affix in files.tails[1:] if (pair := _told_apart(files, image_affix, affix))]:
            return found
    endings = sorted({ending.lower() for ending in tree.files[folder]})
    parts = [_Files(tree, folder, ending=ending, deep=False) for ending in endings]
    found = []
    for one, other in ((a, b) for a in parts for b in parts if a.ending < b.ending):
        for pair in _compared(one, other):
            first = False in one.look(pair.image_affix)  # whether the images are `one`
            image_ending, mask_ending = (one.ending, other.ending)[:: 1 if first else -1]
            (image_head, image_tail), (mask_head, mask_tail) = pair.image_affix, pair.mask_affix
            affixes = (image_head, image_tail + image_ending), (mask_head, mask_tail + mask_ending)
            found.append(FolderPair(folder, folder, *affixes, pair.count))
    if found:
        return sorted(found, key=lambda pair: (pair.by_prefix, -pair.count))[:1]
    for image_affix, mask_affix in product(files.affixes, files.affixes):
        pair = _told_apart(files, image_affix, mask_affix) if image_affix[0] != mask_affix[0] else None
        if pair and pair.count >= LEAST_BY_PREFIX:
            return [pair]
    return []


def _told_apart(files: _Files, image_affix: Affix, mask_affix: Affix) -> FolderPair | None:
    """Images and masks of one folder that these affixes tell apart, if they do."""
    if image_affix == mask_affix:
        return None
    rest = _Files(files.tree, files.folder, deep=False, without=mask_affix)
    masks = files.cut(mask_affix)
    common = len(rest.cut(image_affix) & masks)
    if common and 2 * common >= len(masks) and files.look(mask_affix) == {True} and False in rest.look(image_affix):
        return FolderPair(files.folder, files.folder, image_affix, mask_affix, common)
    return None


def _compared(first: _Files, second: _Files) -> list[FolderPair]:
    """The pairs that two sets of files make, by their names, with the affixes by which most agree; the best first."""
    agree: dict[tuple[Affix, Affix], int] = {}
    for affixes in product(first.tails, second.tails):
        one, other = first.cut(affixes[0]), second.cut(affixes[1])
        common = len(one & other)
        if common and 2 * common >= min(len(one), len(other)):
            agree[affixes] = common
    for affixes in () if agree else product(first.affixes, second.affixes):  # the beginnings, where nothing else agrees
        common = len(first.cut(affixes[0]) & second.cut(affixes[1]))
        if common >= LEAST_BY_PREFIX and 2 * common >= min(len(first.stems), len(second.stems)):
            agree[affixes] = common
    found: list[FolderPair] = []
    most, short = max(agree.values(), default=0), sorted(agree, key=lambda pair: len("".join(pair[0] + pair[1])))
    for affixes in short:
        if agree[affixes] < most or any(_implied(affixes, known) for known in short[: short.index(affixes)]):
            continue
        looks = [first.look(affixes[0]), second.look(affixes[1])]
        seen = looks not in ([{True}, {True}], [{False}, {False}])
        if not seen:  # no difference to be seen: the names tell, else nothing
            words = zip((first, second), affixes, strict=True)
            looks = [{any(map(_says_mask, (files.folder + tail, head)))} for files, (head, tail) in words]
        sides = [(first.folder, first.said(affixes[0])), (second.folder, second.said(affixes[1]))]
        if looks[0] == {True} and False in looks[1]:
            sides, looks = sides[::-1], looks[::-1]
        if False in looks[0] and looks[1] == {True}:
            (images, image_affix), (masks, mask_affix) = sides
            found.append(FolderPair(images, masks, image_affix, mask_affix, most, seen))
    return found


def _further(tree: _Tree, pair: FolderPair) -> tuple[str, ...]:
    """The patterns of masks beside those of a pair that are of the same images: a_weed.png beside a_crop.png."""
    affixes = (pair.image_affix, pair.mask_affix)
    endings = tuple(tail.rpartition(".")[0] if tail.lower().endswith(IMAGE_SUFFIXES) else tail for _, tail in affixes)
    image, own = (pair.image_affix[0], endings[0]), (pair.mask_affix[0], endings[1])
    if own == ("", ""):
        return ()
    names, masks = _Files(tree, pair.images).cut(image), _Files(tree, pair.masks)
    return tuple(
        f"{pair.masks}/{'*'.join(affix)}"
        for affix in masks.affixes
        if affix not in (("", ""), own)
        and not re.search("object|instance", "".join(affix), re.IGNORECASE)  # numbers of objects, no classes
        and len(masks.cut(affix) & names) >= min(2, pair.count)
        and masks.look(affix) == {True}
    )


def _implied(affixes: tuple[Affix, Affix], known: tuple[Affix, Affix]) -> bool:
    """Whether both affixes are longer than those of a pair by the same: the names agree in that part."""
    if not all(h.startswith(a) and t.endswith(b) for (h, t), (a, b) in zip(affixes, known, strict=True)):
        return False
    more = [(h.removeprefix(a), t.removesuffix(b)) for (h, t), (a, b) in zip(affixes, known, strict=True)]
    return more[0] == more[1]


def _says_mask(name: str) -> bool:
    words = re.split(r"[^a-z]+", re.sub(r"(?<=[a-z])(?=[A-Z])", " ", name).lower())
    return any(word.rstrip("s") in MASK_WORDS or word in MASK_WORDS for word in words)


def _is_sayable(folder: str) -> bool:
    """Whether a folder is not hidden, and its name is text that a dataset.toml can hold."""
    return not folder.startswith(".") and not any("\ud800" <= character <= "\udfff" for character in folder)


def _above(name: str) -> list[str]:
    """The folder itself and all that it lies in, up to the top."""
    parts = name.split("/") if name != "." else []
    return [".", *("/".join(parts[:depth]) for depth in range(1, len(parts) + 1))]


def join(folder: str, name: str) -> str:
    """The path of something in a folder that is itself named from the top, "."."""
    return name if folder == "." else f"{folder}/{name}"


def _hint(folder: Path) -> str:
    """What the folder may be instead, by the files in it."""
    kinds: Counter[str] = Counter()
    for _, _, names in os.walk(folder):
        kinds.update(os.path.splitext(name)[1].lower() for name in names)
        if sum(kinds.values()) > MOST_DEPTH * FEW_VALUES:
            break
    found = [ending for ending in (".json", ".xml", ".txt", ".zip") if kinds[ending]]
    if found:
        return f"For the files of an annotation tool ({', '.join(found)}): featherseg convert {folder} --out OUT"
    return f"See docs/data/folder.md. To check a dataset by its name: featherseg check NAME --data-root {folder}"
