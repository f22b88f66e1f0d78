"""Files that list the images of splits: train.txt, ImageSets/Segmentation/val.txt, YAML or JSON."""

import os
import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import zip_longest
from pathlib import Path
from typing import Any

from featherseg.core.files import composed, parse_json, parse_yaml, read_bounded
from featherseg.data.discovery.naming import words_of
from featherseg.data.images.listing import IMAGE_SUFFIXES
from featherseg.data.images.pairs import Pair

SPLITS = ("train", "val", "test")
"""The splits of a proposed dataset.toml, in this order."""

_LONG_WORDS = {
    "training": "train",
    "trn": "train",
    "valid": "val",
    "validation": "val",
    "dev": "val",
    "testing": "test",
    **{split: split for split in SPLITS},
}
WORDS = _LONG_WORDS | {"tr": "train", "ts": "test"}  # imagesTr and imagesTs of nnU-Net
"""{word in the name of a folder or file: the split that it means}."""

MOST_LISTS = 200
"""Number of files that are read."""

MOST_DEPTH = 3
"""Depth of folders in which lists are searched."""

_LIKELY = re.compile("split|fold|" + "|".join(_LONG_WORDS), re.IGNORECASE)
"""In the name of a JSON that may list a split; others, up to thousands, annotate one image each."""

KNOWN, KNOWN_BY_NUMBER = 0.5, 0.9
"""Share of a list's entries that must name an image of the dataset; of a list of numbers alone."""


@dataclass(frozen=True)
class SplitList:
    """The keys of one split, in the order of the file that lists them.

    Attributes:
        exact: The file is a list as a dataset.toml takes it, a key a line.
        unknown: Number of entries that name no image.
        alone: The list counts also if no other split is listed: not numbers in a JSON or YAML.
    """

    split: str
    keys: list[str]
    file: str
    exact: bool
    unknown: int
    alone: bool


def split_of(*names: str) -> str | None:
    """Return the split that the first name with such a word means: "Training_Images" -> "train"."""
    for name in names:
        for word in words_of(name):
            if word in WORDS:
                return WORDS[word]
    return None


def find_lists(
    folder: Path, pairs: Sequence[Pair], replaced: Sequence[str] = ()
) -> tuple[dict[str, SplitList], list[SplitList]]:
    """Return ({split: its list}, lists that name too few of these images).

    The lists of one folder are used: of several (ImageSets/Main, ImageSets/Segmentation) the one
    for segmentation, then the one with more splits and images. If no folder has two lists, those of
    all folders are used. `replaced` are lists at the top that are not read, because a proposal
    replaces them.
    """
    by_name, by_number = _lookups(pairs)
    by_folder: dict[Path, dict[str, SplitList]] = {}
    unfit: list[SplitList] = []
    for path in _files(folder):
        if path.parent == folder and path.name in replaced:
            continue
        lists = by_folder.setdefault(path.parent, {})
        for split, lines in _entries(path):
            entries = [
                entry
                for entry in lines
                if entry[:1] != "#" or {entry, _without_ending(entry)} & by_name.keys()
            ]
            names = [_key_by_name(entry, by_name) for entry in entries]
            keys = [
                name or (by_number.get(int(entry)) if re.fullmatch("[0-9]{1,9}", entry) else None)
                for name, entry in zip(names, entries, strict=True)
            ]
            known = list(dict.fromkeys(key for key in keys if key))
            if split in lists and len(lists[split].keys) >= len(known):
                continue
            is_text = path.suffix == ".txt"
            exact = is_text and all(
                key in (entry, _without_ending(entry))
                for entry, key in zip_longest(entries, known, fillvalue="")
            )
            split_list = SplitList(
                split,
                known,
                path.relative_to(folder).as_posix(),
                exact,
                unknown=sum(key is None for key in keys),
                alone=is_text or any(names),
            )
            least = (KNOWN if any(names) else KNOWN_BY_NUMBER) * len(set(entries))
            if known and len(known) >= least:
                lists[split] = split_list
            elif any(names):
                unfit.append(split_list)

    def likely(item: tuple[Path, dict[str, SplitList]]) -> tuple[bool, int, int]:
        place, lists = item
        images = sum(len(split_list.keys) for split_list in lists.values())
        return "seg" in place.name.lower(), len(lists), images

    several = {place: lists for place, lists in by_folder.items() if len(lists) > 1}
    ordered = sorted((several or by_folder).items(), key=likely, reverse=True)
    best: dict[str, SplitList] = {}
    for _, lists in ordered[: 1 if several else None]:
        usable = {split: one for split, one in lists.items() if several or one.alone}
        best = usable | best
    return {split: best[split] for split in SPLITS if split in best}, unfit


def _files(folder: Path) -> list[Path]:
    """Return the files that may be lists, those nearest to the top first."""
    paths: list[Path] = []
    for place, folders, names in os.walk(folder):
        deep = len(Path(place).relative_to(folder).parts) >= MOST_DEPTH
        folders[:] = [] if deep else sorted(name for name in folders if not name.startswith("."))
        for name in sorted(names):
            ending = os.path.splitext(name)[1].lower()
            if ending in (".json", ".yaml", ".yml") or (ending == ".txt" and split_of(name)):
                paths.append(Path(place, name))
    # JSON files whose names mention no split are the first to be dropped
    paths.sort(key=lambda path: path.suffix.lower() == ".json" and not _LIKELY.search(path.stem))
    return sorted(paths[:MOST_LISTS], key=lambda path: len(path.parts))


def _entries(path: Path) -> Iterator[tuple[str, list[str]]]:
    """Yield (split, its entries, composed); nothing if the file is no list, or cannot be read."""
    try:
        if path.suffix.lower() == ".txt":
            split = split_of(path.stem)
            lines = [line.strip() for line in read_bounded(path).decode("utf-8-sig").splitlines()]
            if split:
                yield split, [composed(line) for line in lines if line]
            return
        if path.suffix.lower() == ".json":
            content = parse_json(read_bounded(path).decode("utf-8-sig"))
        else:
            content = parse_yaml(read_bounded(path).decode())
    except (OSError, ValueError):
        return
    tables = [content, *content.values()] if isinstance(content, dict) else [{path.stem: content}]
    for table in tables:
        for name, entries in table.items() if isinstance(table, dict) else ():
            split = split_of(str(name))
            if split and isinstance(entries, list) and entries and all(map(_is_name, entries)):
                yield split, [composed(str(entry)) for entry in entries]


def _is_name(entry: Any) -> bool:
    return isinstance(entry, str) or (type(entry) is int and 0 <= entry < 2**63)


def _lookups(pairs: Sequence[Pair]) -> tuple[dict[str, str], dict[int, str]]:
    """Return ({name: key}, {number: key}) of the names and numbers that mean one key alone."""
    names: dict[str, set[str]] = {}
    numbers: dict[int, set[str]] = {}
    for pair in pairs:
        key_name = pair.key.rpartition("/")[2]
        for name in {pair.key, key_name, *(path.stem for path in (pair.image, pair.mask) if path)}:
            names.setdefault(composed(name), set()).add(pair.key)
        if digits := re.findall(r"\d+", key_name):
            numbers.setdefault(int(digits[-1]), set()).add(pair.key)
    return (
        {name: next(iter(keys)) for name, keys in names.items() if len(keys) == 1},
        {number: next(iter(keys)) for number, keys in numbers.items() if len(keys) == 1},
    )


def _key_by_name(entry: str, by_name: Mapping[str, str]) -> str | None:
    """Return the key that a line means: a stem, a file, "image mask", or a path from elsewhere."""
    for text in (entry, entry.split()[0] if entry.split() else ""):
        path = text.replace("\\", "/")
        for stem in (path, _without_ending(path)):
            parts = stem.strip("/").split("/")
            for first in range(len(parts)):  # the longest part of the path that is known
                if key := by_name.get("/".join(parts[first:])):
                    return key
    return None


def _without_ending(name: str) -> str:
    stem, ending = os.path.splitext(name)
    return stem if ending.lower() in IMAGE_SUFFIXES else name
