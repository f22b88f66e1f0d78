"""A dataset.toml proposed for a folder that has none: from where its files lie, their names, and the masks' values."""

import logging
import os
import re
import shlex
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from functools import lru_cache, partial
from pathlib import Path
from typing import Any, BinaryIO

from featherseg.core.config import parse, parse_toml, toml_string
from featherseg.core.errors import ConfigError, DataError, DataNotFound, FeathersegError, did_you_mean
from featherseg.core.files import write_together
from featherseg.core.types import Progress
from featherseg.core.wording import ESCAPES, counted
from featherseg.data.color_lists import find_color_list, is_ignored, read_color_list
from featherseg.data.datasets import DATASETS
from featherseg.data.datasets.dataset_toml import IGNORE_NAME, MOST_NAME, DatasetToml, SourceTable, toml_text
from featherseg.data.datasets.folder import FolderListing, list_folder, list_pairs
from featherseg.data.image_tree import join, not_followed
from featherseg.data.images import IMAGE_SUFFIXES, LOSSY, image_channels
from featherseg.data.layouts import Reading, find_readings
from featherseg.data.mask_values import COMMON, THRESHOLD, MaskValues, read_values
from featherseg.data.pairs import NamedData, Pair
from featherseg.data.palettes import color_text, default_palette
from featherseg.data.proposed_splits import NO_MASK, SHOWN, with_splits
from featherseg.data.sequences import sequence_names
from featherseg.data.split_lists import split_of

MAX_CLASSES = 64
"""Masks with more different values are taken for smoothed or compressed ones: then only common values are classes."""

PLAIN = ("background", "foreground")
"""What the two values of masks mean that have no more."""

NEARLY = 0.9
"""A second reading must have so many of the first one's images."""

CHECKED = 200
"""Images, spread over all, whose channels are looked at."""

log = logging.getLogger("featherseg")

_SERIES = re.compile(
    r"\d$|^(?:clip|seq|video|scene|patient|case|day|site|batch|part|set|session|run|cam)", re.IGNORECASE
)
"""Names of folders that tell one series from another, not one class."""

Judged = tuple[Reading, MaskValues]
"""A way to read a folder, and the values that the masks have by it."""


@dataclass(frozen=True)
class Proposal:
    """A dataset.toml as text, the files it describes, and how often each raw value ("12" or "#40a0ff") occurs.

    `lists` are files that have to stand beside it; `notes` are for the user to look at, `others` the other readings of
    the folder, (what is read otherwise, the options of `featherseg check` for it).
    """

    text: str
    listing: FolderListing
    config: DatasetToml
    pixels: dict[str, int]
    lists: dict[str, list[str]] = field(default_factory=dict)
    notes: list[str] = field(default_factory=list)
    others: list[tuple[str, str]] = field(default_factory=list)

    @property
    def summary(self) -> str:
        """The folders and the classes, in a few words."""
        source, names = self.config.sources[0], list(self.config.classes)
        more = f" and {len(self.config.sources) - 1} more folders" if len(self.config.sources) > 1 else ""
        classes = ", ".join(names[:SHOWN]) + ", ..." * (len(names) > SHOWN)
        return f"images in {source.images}, masks in {source.masks}{more}; classes {classes}"

    def meaning(self, value: str) -> str:
        """The class that a raw value becomes, for a reader."""
        config = self.config
        if config.threshold is not None:
            value = "0" if int(value) < config.threshold else "255"
        inside = value in ("1", "255") and any(source.class_ for source in config.source)
        return "that of its folder" if inside else config.map.get(value, "")

    def write(self, folder: Path) -> Path:
        """Write dataset.toml and the lists that it names; raises DataError where one is there, FeathersegError."""
        path = folder / "dataset.toml"
        refuse_written(folder)
        files = {folder / name: "".join(f"{key}\n" for key in keys) for name, keys in self.lists.items()}
        texts = {**files, path: self.text}
        write_together({place: partial(_put, text.encode(errors=ESCAPES)) for place, text in texts.items()})
        return path


def _put(content: bytes, file: BinaryIO) -> None:
    file.write(content)


def refuse_written(folder: Path) -> None:
    """Raises DataError where a dataset.toml is there: it is never written over."""
    if (folder / "dataset.toml").exists():
        raise DataError(
            f"{folder / 'dataset.toml'} exists and is not replaced. Remove or rename it, then run the command again."
        )


def propose(
    folder: Path, names: Mapping[str, str] | None = None, masks: str | None = None, progress: Progress | None = None
) -> Proposal:
    """Look through `folder` for images and masks and propose a dataset.toml.

    Masks of 0 and one other value become background and foreground; of other masks each value is a class, and 255 is
    ignored, except of greys that are spread evenly up to it. names: raw value (or a folder that is a class) -> class;
    masks: the folder of masks to take where there are several. Raises DataNotFound where no image has a mask, DataError
    where no mask can be read, or where its values cannot be classes, and ConfigError for a name of what is not there.
    """
    names = dict(names or {})
    notes, others = list[str](), list[tuple[str, str]]()

    # Which folders hold images and masks, and the other ways to read them
    reading, values, rest = _choose_reading(folder, masks, progress)
    for other, of_other in rest:
        place = other.pairs[0].masks
        place = other.pairs[0].mask_pattern if place == reading.pairs[0].masks else place
        what = f"the masks in {place} ({counted(of_other.classes, 'value')}) in place of {reading.pairs[0].masks}"
        others.append((what, f"--masks {shlex.quote(place)}"))
    taken = {pair.masks for one, _ in rest for pair in one.pairs}
    if also := list(dict.fromkeys(name for pair in reading.pairs for name in pair.also)):
        taken |= set(also)
        notes.append(
            f"the masks in {reading.pairs[0].masks} fit the images in {', '.join(also[:SHOWN])}"
            f"{', ...' * (len(also) > SHOWN)}, too: to take these, edit "
            f"images = {toml_string(reading.pairs[0].images)} and channels in dataset.toml"
        )
    left = [name for name in reading.unused if not any(name == one or name.startswith(f"{one}/") for one in taken)]
    if left:
        notes.append(
            f"not used, as they are no images with masks: {', '.join(left[:SHOWN])}{', ...' * (len(left) > SHOWN)}"
        )
    if reading.links:
        notes.append(f"links to folders are {not_followed(reading.links)}")

    # What the values mean: a class each, or the class of their folder
    sources = _sources(reading, values, names)
    of_folder = any(source.class_ for source in sources)
    if of_folder:
        others.append(("one class in all folders", f"--name {values.inside}=foreground"))
    raw_map = _raw_map(folder, values, of_folder, names)
    if values.colored and (path := _color_list(folder, sources)):
        raw_map |= _listed_names(path, raw_map, names, notes)
    if raw_map.get("255") == IGNORE_NAME and "255" not in names:
        share = values.pixels["255"] / values.total
        notes.append(f"255 ({share:.2%} of the pixels) is taken for not labelled; --name 255=NAME if it is a class")
    for value in (value for value in raw_map if value.startswith("-") and value not in names):
        share = values.pixels[value] / values.total
        notes.append(f"{value} ({share:.2%} of the pixels) is taken for no data; --name {value}=NAME if it is a class")
    if values.smoothed:
        touched = 1 - (values.pixels["0"] + values.pixels["255"]) / values.total
        notes.append(
            f"the masks are smoothed: {touched:.2%} of the pixels are neither 0 nor 255. threshold = {THRESHOLD} reads "
            "values from there on as 255, lower ones as 0"
        )

    if strays := [value for value in values.strays if value not in raw_map]:
        share = sum(values.pixels[value] for value in strays) / values.total
        notes.append(
            f"masks are {LOSSY}. {counted(len(strays), 'value')} along their edges ({share:.2%} of the pixels) are "
            "taken for no classes, and --fix ignores them; --name VALUE=NAME if one is a class"
        )

    # The dataset.toml without splits, and what its files say more: their ending, whether they are frames, channels
    where = f"the dataset.toml proposed for {folder}"
    values_of: dict[str, Any] = {
        "name": folder.resolve().name[:MOST_NAME] or "folder",
        **reading.affixes,
        "splits": {"train": 1.0},
        "classes": _colors(raw_map, sources),
        "map": raw_map,
    }
    tables = [source.model_dump(by_alias=True, exclude_none=True) for source in sources]
    values_of |= {"source": tables} if len(tables) > 1 else tables[0]
    values_of |= {"threshold": THRESHOLD} if values.smoothed else {}
    config = parse(DatasetToml, values_of, where)
    pairs = list_pairs(config, folder)
    ending = _ending_of_images(pairs)
    if ending and not config.image_suffix.lower().endswith(IMAGE_SUFFIXES):
        config = config.model_copy(update={"image_suffix": config.image_suffix + ending})
        pairs = list_pairs(config, folder)
    if of_folder and len(set(sequence_names([pair.key for pair in pairs]))) <= len(sources):
        notes.append('the names in a folder are numbered: taken for single images, split_by = "image"')
        config = config.model_copy(update={"split_by": "image"})
    config = config.model_copy(update={"channels": _channels(pairs)})

    # The splits; of too few files for shares, one
    config, lists = with_splits(config, folder, pairs, notes)
    listing = list_folder(config, folder, lists=lists)
    if "by time" in listing.how_split:
        notes.append(
            "the names are numbered, so they are taken for frames of videos, and cut in time with a gap. For single "
            'photographs put split_by = "image" into dataset.toml'
        )
    if config.shares and not all(listing.splits.values()):
        config = config.model_copy(update={"splits": {"train": 1.0}})
        listing = list_folder(config, folder)

    # What is left to say: nothing to learn, classes without a name, a public dataset that it may be
    if len(config.classes) == 1:
        held = [value for value, name in raw_map.items() if name != IGNORE_NAME]
        notes.append(
            f"every mask holds one value, {', '.join(held)}, but for what is ignored: a model needs two classes. "
            "Look at the masks: were they drawn by transparency, or are they empty?"
        )
    if unnamed := [value for value, name in raw_map.items() if name == _placeholder(value)]:
        given = " ".join(f"--name {value.removeprefix('#')}=NAME" for value in unnamed[:SHOWN])
        notes.append(
            f"{counted(len(unnamed), 'value')} of classes without a name: name these in dataset.toml, or by {given}"
            f"{' ...' * (len(unnamed) > SHOWN)}"
        )
    for name, dataset in DATASETS.items():
        if issubclass(dataset, NamedData) and _lies_in(dataset, folder):
            notes.append(
                f"the folders are called as those of {name}: if it is that dataset, --data {name} --data-root "
                f"{shlex.quote(str(folder))} knows its classes"
            )
    config = parse(DatasetToml, parse_toml(toml_text(config), where), where)  # it can be read, whatever the names are
    return Proposal(toml_text(config), listing, config, values.pixels, lists, notes, others)


def _choose_reading(
    folder: Path, masks: str | None, progress: Progress | None
) -> tuple[Reading, MaskValues, list[Judged]]:
    """Of several readings the one whose masks tell more classes apart, of these one of numbers; -> it, the others."""
    readings = find_readings(folder, masks)
    judged, refused = list[Judged](), DataError("")
    for reading in [one for one in readings if one.count >= NEARLY * readings[0].count]:
        try:
            judged.append((reading, read_values(folder, reading, progress)))
        except DataError as error:
            refused = error
    if not judged:
        raise refused
    (reading, values), *rest = sorted(judged, key=_likeliest)
    colored = {one.pairs[0].mask_pattern: of_one.colored for one, of_one in rest}
    further = [place for place in reading.further if colored.get(place, values.colored) == values.colored]
    if masks is None and values.classes <= 2 and further:
        own = reading.pairs[0].mask_pattern
        raise DataError(
            f"{folder} has several masks for one image: {', '.join((own, *further))}. Expected one, with a value for "
            f"each class: join them, or read one kind alone with --masks {shlex.quote(own)}."
        )
    return reading, values, rest


def _sources(reading: Reading, values: MaskValues, names: dict[str, str]) -> tuple[SourceTable, ...]:
    """The pairs of folders; with a class each where masks of one value lie in folders named differently.

    Names of folders are taken out of `names`.
    """
    plain = tuple(SourceTable(images=pair.images, masks=pair.masks) for pair in reading.pairs)
    if values.inside is None or values.inside in names:
        return plain

    # The folders that may be classes: those of the reading, or, of one, those inside
    places = list(values.folders)
    if len(plain) == 1 and len(places) > 1:
        if any(inside == "" for _, inside in places):
            return plain
        found = [
            SourceTable(images=join(plain[0].images, inside), masks=join(plain[0].masks, inside))
            for _, inside in places
        ]
        held = list(values.folders.values())
    else:
        found = list(plain)
        held = [set[str]() for _ in plain]
        for (number, _), seen in values.folders.items():
            held[number] |= seen

    # What sets them apart: one part of the path, and no number or split
    paths = [source.images.split("/") for source in found]
    if len(found) < 2 or len({len(path) for path in paths}) > 1:
        return plain
    apart = [
        parts for parts in zip(*paths, strict=True) if len(set(parts)) > 1 and not all(split_of(part) for part in parts)
    ]
    if len(apart) != 1 or (any(map(_SERIES.search, apart[0])) and not names.keys() & set(apart[0])):
        return plain
    labels = _class_names(apart[0])
    labels |= {part: names.pop(part) for part in set(apart[0]) & names.keys()}
    high = {value for value in values.pixels if values.smoothed and int(value) >= THRESHOLD} | {values.inside}
    return tuple(
        source.model_copy(update={"class_": labels[part] if seen & high else None})
        for source, part, seen in zip(found, apart[0], held, strict=True)
    )


def _class_names(folders: Sequence[str]) -> dict[str, str]:
    """Folder -> class: in lower case, without what all begin with ("MT_Crack", "MT_Fray": crack, fray)."""
    begins = {name[: -len(re.sub(r"^[^-_. ]+[-_. ]", "", name)) or None] for name in folders}
    names = {name: (name.removeprefix(*begins) if len(begins) == 1 else name).lower() for name in folders}
    names = names if "" not in names.values() else {name: name for name in folders}
    return {folder: _placeholder(name) if name == IGNORE_NAME else name for folder, name in names.items()}


def _raw_map(folder: Path, values: MaskValues, of_folder: bool, names: Mapping[str, str]) -> dict[str, str]:
    """Raw value -> class name for the values that can be classes. Raises DataError where they cannot be."""
    # Which values are classes
    found = [value for value in values.pixels if not value.startswith("-") and value not in values.strays]
    if values.smoothed:
        found = ["0", "255"]
    elif len(found) > MAX_CLASSES:
        found = [value for value in found if values.pixels[value] >= COMMON * values.total]
        if len(found) < 2:
            raise DataError(
                f"the masks in {folder} hold {len(values.pixels)} different values, of which {len(found)} cover "
                f"{COMMON:.1%} of the pixels. Expected masks whose values are classes: are these photographs, instance "
                "ids, or masks saved as JPEG?"
            )
    if of_folder:
        raw_map = {"0": "background"}
    elif len(found) == 2 and found[0] in ("0", "#000000"):
        raw_map = dict(zip(found, PLAIN, strict=True))
    else:
        last = len(found) - 1
        grey = last > 1 and not values.colored and all(abs(int(v) - 255 * i / last) <= 1 for i, v in enumerate(found))
        raw_map = {value: IGNORE_NAME if value == "255" and not grey else _placeholder(value) for value in found}

    raw_map |= {value: IGNORE_NAME for value in values.pixels if value.startswith("-")}  # no data, as of GIS

    # What they are called
    for given, name in names.items():
        value = f"#{given.removeprefix('#').lower()}" if values.colored else given
        called = [raw for raw, own in raw_map.items() if own == given]
        if value not in values.pixels and value not in raw_map and not called:
            known = [*raw_map, *(own for own in raw_map.values() if own != IGNORE_NAME)]
            raise ConfigError(
                f"--name {given}={name}: the masks in {folder} hold no {given}.{did_you_mean(given, known)}"
            )
        raw_map |= dict.fromkeys(called or [value], name)
    return raw_map


def _listed_names(path: Path, raw_map: Mapping[str, str], names: Mapping[str, str], notes: list[str]) -> dict[str, str]:
    """Raw value -> class name by a list of colours, for the values without a name; none by an unreadable list."""
    named = {f"#{raw.removeprefix('#').lower()}" for raw in names}
    try:
        listed = {color_text(color): name for name, colors in read_color_list(path).items() for color in colors}
    except DataError as error:
        notes.append(f"not used: {error}")
        return {}
    nameless = {raw for raw in listed if raw_map.get(raw) in (None, _placeholder(raw), *PLAIN)} - named
    notes.append(f"{counted(len({listed[raw] for raw in nameless}), 'name')} of classes from {path.name}")
    notes += [
        f"{name!r} is ignored: neither trained on nor scored; --name {raw[1:]}={name} if it is a class"
        for raw, name in listed.items()
        if raw in nameless and is_ignored(name) and name != IGNORE_NAME
    ]
    return {raw: IGNORE_NAME if is_ignored(name) else name for raw, name in listed.items() if raw in nameless}


def _color_list(folder: Path, sources: Sequence[SourceTable]) -> Path | None:
    """The list of colours in the folder, or beside or above the masks."""
    places = [folder / source.masks for source in sources]
    places = list(dict.fromkeys(up for place in places for up in (place, *place.parents) if up.is_relative_to(folder)))
    found = (find_color_list(sorted(path for path in place.iterdir() if path.is_file())) for place in places)
    return next(filter(None, found), None)


def _placeholder(value: str) -> str:
    return f"class_{value.removeprefix('#')}"


def _colors(raw_map: Mapping[str, str], sources: Sequence[SourceTable]) -> dict[str, str]:
    """Class name -> colour: the mask's own where the values are colours, else the default palette."""
    own: dict[str, str] = {}
    for raw, name in raw_map.items():
        own.setdefault(name, raw)
    for source in sources:
        if source.class_:
            own.setdefault(source.class_, "")
    own.pop(IGNORE_NAME, None)
    palette = default_palette(len(own))
    return {
        name: raw if raw.startswith("#") else color_text(color)
        for (name, raw), color in zip(own.items(), palette, strict=True)
    }


def _lies_in(dataset: type[NamedData], folder: Path) -> bool:
    """Whether a folder holds images and masks where a public dataset has them."""
    try:
        pairs = [pair for part in dataset.list_files(folder, dataset.splits).splits.values() for pair in part]
    except FeathersegError:
        return False
    return any(pair.image and pair.mask for pair in pairs)


def _likeliest(judged: Judged) -> tuple[bool, int, bool]:
    """Sorts readings: more classes first, then numbers before colours; last those of objects and of too many values."""
    reading, values = judged
    name = reading.pairs[0].mask_pattern
    objects = bool(re.search("object|instance", name, re.IGNORECASE)) or values.classes > MAX_CLASSES
    return objects, -values.classes, values.colored


def _ending_of_images(pairs: Sequence[Pair]) -> str:
    """The ending that all images with a mask have, where files without one have others; else empty."""
    endings: dict[bool, set[str]] = {True: set(), False: set()}
    for pair in pairs:
        for path in (pair.image, *pair.twins):
            if path:
                endings[pair.mask is not None].add(path.suffix.lower())
    return next(iter(endings[True])) if len(endings[True]) == 1 and endings[False] - endings[True] else ""


def _channels(pairs: Sequence[Pair]) -> int:
    """The most channels that a readable image has: grey ones can be read as RGB, not the other way round."""
    found = []
    for pair in pairs[:: max(1, len(pairs) // CHECKED)]:
        try:
            found.append(image_channels(pair.image) if pair.image else 1)
        except DataError:
            continue
    return max(found, default=3)


@lru_cache(maxsize=4)
def _proposed(folder: Path, changed: int) -> Proposal:
    """The proposal for a folder, made once while nothing in it changes."""
    write = f"featherseg check {shlex.quote(str(folder))} --write"
    try:
        proposal = propose(folder)
    except DataError as error:
        raise DataNotFound(f"{folder} has no dataset.toml, and `{write}` finds nothing to write: {error}") from None
    if proposal.others or proposal.lists:
        bare = "".join(f"{note.partition(':')[0]}: " for note in proposal.notes if NO_MASK in note)
        ways = [what for what, _ in proposal.others] or [f"{bare}lists of splits have to be written for it"]
        raise DataNotFound(
            f"{folder} has no dataset.toml, and its meaning is not clear ({ways[0]}). Write one and look at it: {write}"
        )
    log.info("%s has no dataset.toml: read as `%s` would write it (%s)", folder, write, proposal.summary)
    return proposal


def proposed_config(folder: Path) -> DatasetToml:
    """What a folder without a dataset.toml is read as. Raises DataNotFound where that is not clear."""
    places = [place for place, _, _ in os.walk(folder)]
    return _proposed(folder, hash(tuple(os.stat(place).st_mtime_ns for place in places))).config
