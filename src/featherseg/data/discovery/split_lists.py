"""Files that say which image is of which split: train.txt, ImageSets/Segmentation/val.txt, a YAML or JSON list."""

import os
import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import zip_longest
from pathlib import Path
from typing import Any

from featherseg.core.files import composed, parse_json, parse_yaml, read_bounded
from featherseg.data.images.decoding import IMAGE_SUFFIXES
from featherseg.data.images.pairs import Pair

SPLITS = ("train", "val", "test")
"""The splits that folders and lists are taken for, in this order."""

WORDS = {
    "training": "train",
    "trn": "train",
    "valid": "val",
    "validation": "val",
    "dev": "val",
    "testing": "test",
}
WORDS |= {split: split for split in SPLITS}
"""Words of the names of folders and files -> the split that they mean."""

MOST_LISTS = 200
"""Files that are looked into."""

MOST_DEPTH = 3
"""Folders below one another in which lists are looked for."""

_TELLS = re.compile("split|fold|" + "|".join(WORDS), re.IGNORECASE)
"""In the name of a file that is no annotation of one image, of which there may be thousands."""

WORDS |= {"tr": "train", "ts": "test"}  # imagesTr and imagesTs of nnU-Net

KNOWN, KNOWN_BY_NUMBER = 0.5, 0.9
"""Share of a list's entries that must name an image for it to be one of these images; of one of numbers alone."""


@dataclass(frozen=True)
class SplitList:
    """The keys of one split, in the order of the file that lists them.

    `exact`: the file says them as a dataset.toml takes a list, a key a line; `unknown` counts entries that name none;
    `alone`: it is one also where no other split is listed, not numbers in some JSON or YAML.
    """

    split: str
    keys: list[str]
    file: str
    exact: bool
    unknown: int
    alone: bool


def split_of(*names: str) -> str | None:
    """The split that a word in the first of the names that has one says: "train" of "Training_Images"."""
    for name in names:
        for word in re.split(r"[^a-z]+", re.sub(r"(?<=[a-z])(?=[A-Z])", " ", name).lower()):
            if word in WORDS:
                return WORDS[word]
    return None


def find_lists(
    folder: Path, pairs: Sequence[Pair], replaced: Sequence[str] = ()
) -> tuple[dict[str, SplitList], list[SplitList]]:
    """-> (the lists in a folder that name these images, split by split; those that name too few of them).

    replaced: names of lists at the top of the folder that are not read, because a proposal replaces them.
    Lists lie in one folder; of several (ImageSets/Main, ImageSets/Segmentation) that for segmentation, then that with
    more splits and images. Where no folder has two, they are those of all folders.
    """
    of_name, of_number = _lookups(pairs)
    found: dict[Path, dict[str, SplitList]] = {}
    passed: list[SplitList] = []
    for path in _files(folder):
        if path.parent == folder and path.name in replaced:
            continue
        beside = found.setdefault(path.parent, {})
        for split, listed in _entries(path):
            entries = [
                entry
                for entry in listed
                if entry[:1] != "#" or {entry, _without_ending(entry)} & of_name.keys()
            ]
            names = [_named(entry, of_name) for entry in entries]
            keys = [
                name or _numbered(entry, of_number)
                for name, entry in zip(names, entries, strict=True)
            ]
            known = list(dict.fromkeys(key for key in keys if key))
            if split in beside and len(beside[split].keys) >= len(known):
                continue
            exact = path.suffix == ".txt" and all(
                key in (entry, _without_ending(entry))
                for entry, key in zip_longest(entries, known, fillvalue="")
            )
            place = path.relative_to(folder).as_posix()
            alone = path.suffix == ".txt" or any(names)
            one = SplitList(split, known, place, exact, sum(key is None for key in keys), alone)
            if known and len(known) >= (KNOWN if any(names) else KNOWN_BY_NUMBER) * len(
                set(entries)
            ):
                beside[split] = one
            elif any(names):
                passed.append(one)

    def likely(item: tuple[Path, dict[str, SplitList]]) -> tuple[bool, int, int]:
        place, lists = item
        return "seg" in place.name.lower(), len(lists), sum(len(one.keys) for one in lists.values())

    several = {place: lists for place, lists in found.items() if len(lists) > 1}
    best: dict[str, SplitList] = {}
    for _, lists in sorted((several or found).items(), key=likely, reverse=True)[
        : 1 if several else None
    ]:
        best = {**{split: one for split, one in lists.items() if several or one.alone}, **best}
    return {split: best[split] for split in SPLITS if split in best}, passed


def _files(folder: Path) -> list[Path]:
    """The files that may be lists, the nearest to the top first; where many, JSON files that tell of no split last."""
    found: list[Path] = []
    for place, folders, names in os.walk(folder):
        deep = len(Path(place).relative_to(folder).parts)
        folders[:] = (
            sorted(f for f in folders if not f.startswith(".")) if deep < MOST_DEPTH else []
        )
        for name in sorted(names):
            ending = os.path.splitext(name)[1].lower()
            if ending in (".json", ".yaml", ".yml") or (ending == ".txt" and split_of(name)):
                found.append(Path(place, name))
    likely = sorted(
        found, key=lambda path: path.suffix.lower() == ".json" and not _TELLS.search(path.stem)
    )
    return sorted(likely[:MOST_LISTS], key=lambda path: len(path.parts))


def _entries(path: Path) -> Iterator[tuple[str, list[str]]]:
    """(split, what is listed for it, composed); nothing of a file that is no list, or cannot be read."""
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
    """Name -> key and number -> key, of those that are of one key alone."""
    names: dict[str, set[str]] = {}
    numbers: dict[int, set[str]] = {}
    for pair in pairs:
        stems = {path.stem for path in (pair.image, pair.mask) if path}
        for name in {pair.key, pair.key.rpartition("/")[2]} | stems:
            names.setdefault(composed(name), set()).add(pair.key)
        if digits := re.findall(r"\d+", pair.key.rpartition("/")[2]):
            numbers.setdefault(int(digits[-1]), set()).add(pair.key)
    return (
        {name: next(iter(keys)) for name, keys in names.items() if len(keys) == 1},
        {number: next(iter(keys)) for number, keys in numbers.items() if len(keys) == 1},
    )


def _named(entry: str, of_name: Mapping[str, str]) -> str | None:
    """The key that a line names: a stem, a file, "image mask", or a path from elsewhere."""
    for text in (entry, entry.split()[0] if entry.split() else ""):
        whole = text.replace("\\", "/")
        for stem in (whole, _without_ending(whole)):
            parts = stem.strip("/").split("/")
            for first in range(len(parts)):  # the longest part of the path that is known
                if key := of_name.get("/".join(parts[first:])):
                    return key
    return None


def _numbered(entry: str, of_number: Mapping[int, str]) -> str | None:
    return of_number.get(int(entry)) if re.fullmatch(r"[0-9]{1,9}", entry) else None


def _without_ending(name: str) -> str:
    stem, ending = os.path.splitext(name)
    return stem if ending.lower() in IMAGE_SUFFIXES else name
