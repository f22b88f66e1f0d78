"""A dataset.toml proposed for a folder that has none: from where its files lie, their names, and the masks' values."""

import logging
import os
import re
import shlex
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from functools import lru_cache
from pathlib import Path
from typing import Any

from featherseg.core.config import parse, parse_toml, toml_string
from featherseg.core.errors import (
    AmbiguousData,
    ConfigError,
    DataError,
    DataNotFound,
    FeathersegError,
    NoDataset,
    did_you_mean,
)
from featherseg.core.files import mentions
from featherseg.core.types import Progress
from featherseg.core.wording import counted
from featherseg.data.datasets import DATASETS
from featherseg.data.datasets.dataset_toml import (
    ANY,
    IGNORE_NAME,
    MOST_NAME,
    DatasetToml,
    toml_text,
)
from featherseg.data.datasets.folder import FolderListing, list_folder, list_pairs
from featherseg.data.discovery.class_lists import find_class_list
from featherseg.data.discovery.color_lists import find_color_list, is_ignored, read_color_list
from featherseg.data.discovery.file_facts import FileFacts
from featherseg.data.discovery.image_tree import not_followed
from featherseg.data.discovery.layouts import Reading, find_readings
from featherseg.data.discovery.mask_folders import FoldersAs, placeholder, read_folders
from featherseg.data.discovery.mask_values import COMMON, THRESHOLD, MaskValues, read_values
from featherseg.data.discovery.masks_yaml import find_masks_yaml
from featherseg.data.discovery.proposed_layers import LayeredReading, read_layers
from featherseg.data.discovery.proposed_splits import NO_MASK, SHOWN, with_splits
from featherseg.data.discovery.written_proposal import write_proposal
from featherseg.data.images.decoding import IMAGE_SUFFIXES, LOSSY, image_channels, is_image
from featherseg.data.images.pairs import NamedData, Pair
from featherseg.data.images.palettes import color_text, default_palette
from featherseg.data.images.unused_parts import unused_parts
from featherseg.data.panoptic.files import SEGMENTS

MAX_CLASSES = 64
"""Masks with more different values are taken for smoothed or compressed ones: then only common values are classes."""

PLAIN = ("background", "foreground")
"""What the two values of masks mean that have no more."""

NEARLY = 0.9
"""A second reading must have so many of the first one's images."""

MOST_JSONS = 20
"""JSON files that are looked into: of other tools there may be one for each image."""

CHECKED = 200
"""Images, spread over all, whose channels are looked at."""

log = logging.getLogger("featherseg")

Judged = tuple[Reading, MaskValues]
"""A way to read a folder, and the values that the masks have by it."""


@dataclass(frozen=True)
class Proposal:
    """A dataset.toml as text, the files it describes, and how often each raw value ("12" or "#40a0ff") occurs.

    `lists` are files that have to stand beside it; `notes` are for the user to look at, `others` the other readings of
    the folder, (what is read otherwise, the options of `featherseg check` for it), `options` those for this one.
    """

    text: str
    listing: FolderListing
    config: DatasetToml
    pixels: dict[str, int]
    lists: dict[str, list[str]] = field(default_factory=dict)
    notes: list[str] = field(default_factory=list)
    others: list[tuple[str, str]] = field(default_factory=list)
    options: str = ""

    @property
    def summary(self) -> str:
        """The folders and the classes, in a few words."""
        source, names = self.config.sources[0], list(self.config.classes)
        more = (
            f" and {len(self.config.sources) - 1} more folders"
            if len(self.config.sources) > 1
            else ""
        )
        classes = ", ".join(names[:SHOWN]) + ", ..." * (len(names) > SHOWN)
        return f"images in {source.images}, masks in {source.masks}{more}; classes {classes}"

    def meaning(self, value: str) -> str:
        """The class that a raw value becomes, for a reader."""
        config = self.config
        if config.threshold is not None:
            value = "0" if int(value) < config.threshold else "255"
        inside = value in ("1", "255") and (
            config.layer or any(source.class_ for source in config.source)
        )
        return "that of its masks" if inside else config.map.get(value, "")

    def write(self, folder: Path) -> Path:
        """Write dataset.toml and the lists that it names; returns its path. Raises as `write_proposal`."""
        lists = {name: "".join(f"{key}\n" for key in keys) for name, keys in self.lists.items()}
        return write_proposal(folder, self.text, lists)


def propose(
    folder: Path,
    names: Mapping[str, str] | None = None,
    masks: str | None = None,
    folders: FoldersAs | None = None,
    progress: Progress | None = None,
    facts: FileFacts | None = None,
) -> Proposal:
    """Look through `folder` for images and masks and propose a dataset.toml.

    Masks of 0 and one other value become background and foreground; of other masks each value is a class, and 255 is
    ignored, except of greys that are spread evenly up to it. names: raw value (or a folder that is a class) -> class;
    masks: the folder of masks to take where there are several; folders: what folders of masks of 0 and one other value
    are; facts: keeps what is read of the files. Raises DataNotFound where no image has a mask, DataError where no mask
    can be read, or where its values cannot be classes, AmbiguousData where it is not clear what folders are, and
    ConfigError for a name of what is not there.
    """
    names, facts = dict(names or {}), facts or FileFacts()
    options = [f"--masks {shlex.quote(masks)}"] if masks else []
    options += [f"--name {shlex.quote(f'{value}={name}')}" for value, name in names.items()]
    notes, others = list[str](), list[tuple[str, str]]()

    # Which folders hold images and masks, and the other ways to read them
    write = " ".join((f"featherseg check {shlex.quote(str(folder))} --write", *options))
    chosen = " ".join((*options, *([f"--{folders}-from-folders"] if folders else [])))
    described = find_masks_yaml(folder)
    wanted = masks or (described.masks if described else None)
    reading, values, rest, layers = _choose_reading(folder, wanted, names, write, progress, facts)
    if layers is not None:
        values, names = layers.values, dict(layers.names)
        notes += layers.notes
    for other, of_other in rest:
        if layers is not None and other.pairs[0].mask_pattern in layers.patterns:
            continue
        place = _masks_place(other, reading)
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
    left = [
        name
        for name in reading.unused
        if not any(name == one or name.startswith(f"{one}/") for one in taken)
    ]
    if left:
        notes.append(
            f"not used, as they are no images with masks: {', '.join(left[:SHOWN])}{', ...' * (len(left) > SHOWN)}"
        )
    if reading.links:
        notes.append(f"links to folders are {not_followed(reading.links)}")

    _refuse_segments(folder, reading, values)

    # What the values mean: a class each, or the class of their folder
    of_folders = read_folders(
        folder, reading, values, names, folders, write, layered=layers is not None
    )
    sources, names = of_folders.sources, dict(of_folders.names)
    if layers is not None:
        groups = " --groups-from-folders" * bool(of_folders.groups)
        others += [
            (f"the masks in {place} alone", f"--masks {shlex.quote(place)}{groups}")
            for place in layers.others
        ]
    of_folder = layers is not None or any(source.class_ for source in sources)
    hints = list(filter(None, [of_folders.hint]))
    if of_folder:
        notes += hints
    if of_folders.why and folders is None:
        notes.append(f"each folder is taken for a class, because {of_folders.why}")
        others.append(
            (
                "two classes, and no folder in two splits",
                " ".join((*options, "--groups-from-folders")),
            )
        )
    raw_map = _raw_map(folder, values, of_folder, names)
    if layers is None and (
        listed := _listed_names(folder, [s.masks for s in sources], values, raw_map, names, notes)
    ):
        raw_map |= listed
        if not values.colored:  # class ids in the order of the list
            raw_map = dict(
                sorted(raw_map.items(), key=lambda item: (int(item[0]) < 0, int(item[0])))
            )
    if raw_map.get("255") == IGNORE_NAME and "255" not in names:
        share = values.pixels["255"] / values.total
        notes.append(
            f"255 ({share:.2%} of the pixels) is taken for not labelled; --name 255=NAME if it is a class"
        )
    for value in (value for value in raw_map if value.startswith("-") and value not in names):
        share = values.pixels[value] / values.total
        notes.append(
            f"{value} ({share:.2%} of the pixels) is taken for no data; --name {value}=NAME if it is a class"
        )
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
        "classes": _colors(
            raw_map, layers.classes if layers else [s.class_ for s in sources if s.class_]
        ),
        "map": raw_map,
    }
    tables = [source.model_dump(by_alias=True, exclude_none=True) for source in sources]
    if layers is not None:
        values_of |= dict(layers.tables) | {"mask_prefix": "", "mask_suffix": ""}
    else:
        values_of |= {"source": tables} if len(tables) > 1 else tables[0]
        values_of |= {"threshold": THRESHOLD} if values.smoothed else {}
    values_of |= {"groups": of_folders.groups} if of_folders.groups else {}
    config = parse(DatasetToml, values_of, where)
    pairs = list_pairs(config, folder)
    ending = _ending_of_images(pairs)
    if ending and not config.image_suffix.lower().endswith(IMAGE_SUFFIXES):
        config = config.model_copy(update={"image_suffix": config.image_suffix + ending})
        pairs = list_pairs(config, folder)
    channels, beside_rgb = _channels(pairs)
    config = config.model_copy(update={"channels": channels})
    if beside_rgb:
        marked = " (it is marked as alpha, but has other values)" if beside_rgb == "alpha" else ""
        notes.append(
            f"what is beside red, green and blue is read as well{marked}: channels = 3 leaves it out"
        )

    if stray := _beside(
        folder, config, pairs, (*reading.further, *(one.pairs[0].mask_pattern for one, _ in rest))
    ):
        files = counted(len(stray), "file")
        notes.append(
            f"not used: {files} beside images and masks that are neither, such as {stray[0]}"
        )

    # The splits; of too few files for shares, one
    said = described.below(folder / config.images) if described and config.images else {}
    lists: dict[str, list[str]] = {}
    if said:
        config = config.model_copy(update={"splits": said})
    else:
        config, lists = with_splits(
            config, folder, pairs, notes, facts, progress, [] if of_folder else hints
        )
    listing = list_folder(config, folder, lists=lists)
    if "by time" in listing.how_split:
        notes.append(
            "images with numbers next to each other look alike, so they are taken for frames of videos, and cut in "
            'time with a gap. For single photographs put split_by = "image" into dataset.toml'
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
    if unnamed := [value for value, name in raw_map.items() if name == placeholder(value)]:
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
    config = parse(
        DatasetToml, parse_toml(toml_text(config), where), where
    )  # it can be read, whatever the names are
    return Proposal(toml_text(config), listing, config, values.pixels, lists, notes, others, chosen)


def _beside(
    folder: Path, config: DatasetToml, pairs: Sequence[Pair], known: Sequence[str]
) -> list[str]:
    """The image files in a folder of images with their masks that are of no pair, and of none of the known patterns."""
    if (
        config.images is None
        or config.images != (config.masks or config.images)
        or ANY in config.images.split("/")
    ):
        return []
    used = {path for pair in pairs for path in (pair.image, *pair.mask_files, *pair.twins)}
    ends = tuple(pattern.rpartition("*")[2] for pattern in known if not pattern.endswith("*"))
    files = (
        path
        for path in sorted((folder / config.images).rglob("*"))
        if is_image(path) and path not in used
    )
    shown = [
        path for path in files if not path.stem.endswith(ends) and not path.name.endswith(ends)
    ]
    return [path.relative_to(folder).as_posix() for path in shown if not path.name.startswith(".")]


def _choose_reading(
    folder: Path,
    masks: str | None,
    names: Mapping[str, str],
    command: str,
    progress: Progress | None,
    facts: FileFacts,
) -> tuple[Reading, MaskValues, list[Judged], LayeredReading | None]:
    """Of several readings the one whose masks tell more classes apart, of these one of numbers.

    -> it, the others, and how masks of one image lie over one another.
    """
    readings = find_readings(folder, masks)
    judged, refused = list[Judged](), DataError("")
    for reading in [one for one in readings if one.count >= NEARLY * readings[0].count]:
        try:
            judged.append((reading, read_values(folder, reading, progress, facts)))
        except DataError as error:
            refused = error
    if not judged:
        raise refused
    judged.sort(key=_likeliest)
    (reading, values), *rest = judged
    rest = [(other, of_other) for other, of_other in rest if not of_other.segment_ids]
    if (masks is None or reading.pairs[0].objects) and (
        layers := read_layers(folder, judged, readings, names, command, progress, facts)
    ):
        return reading, values, rest, layers
    colored = {one.pairs[0].mask_pattern: of_one.colored for one, of_one in rest}
    further = [
        place for place in reading.further if colored.get(place, values.colored) == values.colored
    ]
    if masks is None and values.classes <= 2 and further:
        own = reading.pairs[0].mask_pattern
        raise DataError(
            f"{folder} has several masks for one image: {', '.join((own, *further))}. Expected one, with a value for "
            f"each class: join them, or read one kind alone with --masks {shlex.quote(own)}."
        )
    alike = [other for other in rest if _likeliest(other) == _likeliest((reading, values))]
    if masks is None and alike:
        places = [
            _masks_place(reading, alike[0][0]),
            *(_masks_place(other, reading) for other, _ in alike),
        ]
        raise AmbiguousData(
            f"{folder} has masks of the same images in {', '.join(places[:SHOWN])}{', ...' * (len(places) > SHOWN)}, "
            "with as many values each. Which of them are to be learned?",
            [
                (f"the masks in {place}", f"{command} --masks {shlex.quote(place)}")
                for place in places[:SHOWN]
            ],
        )
    return reading, values, rest, None


def _masks_place(reading: Reading, beside: Reading) -> str:
    """What --masks takes to read a folder in one way, and not in the other."""
    pair = reading.pairs[0]
    name = pair.masks.rpartition("/")[2]
    if pair.masks == beside.pairs[0].masks:
        return pair.mask_pattern
    return (
        name if all(one.masks.rpartition("/")[2] == name for one in reading.pairs) else pair.masks
    )


def _raw_map(
    folder: Path, values: MaskValues, of_folder: bool, names: Mapping[str, str]
) -> dict[str, str]:
    """Raw value -> class name for the values that can be classes. Raises DataError where they cannot be."""
    # Which values are classes
    found = [
        value for value in values.pixels if not value.startswith("-") and value not in values.strays
    ]
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
        grey = (
            last > 1
            and not values.colored
            and all(abs(int(v) - 255 * i / last) <= 1 for i, v in enumerate(found))
        )
        raw_map = {
            value: IGNORE_NAME if value == "255" and not grey else placeholder(value)
            for value in found
        }

    raw_map |= {
        value: IGNORE_NAME for value in values.pixels if value.startswith("-")
    }  # no data, as of GIS

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


def _listed_names(
    folder: Path,
    masks: Sequence[str],
    values: MaskValues,
    raw_map: Mapping[str, str],
    names: Mapping[str, str],
    notes: list[str],
) -> dict[str, str]:
    """Raw value -> class name by a list beside the masks, for the values without a name; none by an unreadable list."""
    try:
        if values.colored:
            path = _color_list(folder, masks)
            colors = read_color_list(path) if path else {}
            listed = {
                color_text(color): name for name, of_class in colors.items() for color in of_class
            }
        else:
            path, listed = _class_names(folder, masks, values, raw_map)
    except DataError as error:
        notes.append(f"not used: {error}")
        return {}
    if path is None:
        return {}
    named = {f"#{raw.removeprefix('#').lower()}" if values.colored else raw for raw in names}
    nameless = {
        raw for raw in listed if raw_map.get(raw) in (None, IGNORE_NAME, placeholder(raw), *PLAIN)
    } - named
    notes.append(
        f"{counted(len({listed[raw] for raw in nameless}), 'name')} of classes from {path.name}"
    )
    notes += [
        f"{name!r} is ignored: neither trained on nor scored; --name {raw.removeprefix('#')}={name} if it is a class"
        for raw, name in listed.items()
        if raw in nameless and is_ignored(name) and name != IGNORE_NAME
    ]
    return {
        raw: IGNORE_NAME if is_ignored(name) else name
        for raw, name in listed.items()
        if raw in nameless
    }


def _class_names(
    folder: Path, masks: Sequence[str], values: MaskValues, raw_map: Mapping[str, str]
) -> tuple[Path | None, dict[str, str]]:
    """The list of names nearest to the masks, and what it calls their values.

    Raises DataError where the lists beside several folders of masks differ, or it is not clear what a name is of.
    """
    found = {
        top: next(filter(None, map(find_class_list, _files_above(folder, [top]))), None)
        for top in masks
    }
    lists = [one for one in found.values() if one]
    if not lists:
        return None, {}
    for other in lists[1:]:
        if other.names != lists[0].names:
            raise DataError(f"{lists[0].path} and {other.path} name the classes differently")
    held = {
        255 if values.smoothed and value != "0" else int(value)
        for value in raw_map
        if int(value) >= 0
    }
    return lists[0].path, {str(value): name for value, name in lists[0].named(held).items()}


def _color_list(folder: Path, masks: Sequence[str]) -> Path | None:
    """The list of colours in the folder, or beside or above the masks."""
    return next(filter(None, map(find_color_list, _files_above(folder, masks))), None)


def _files_above(folder: Path, masks: Sequence[str]) -> Iterator[list[Path]]:
    """The files beside the masks, and of each folder above these, as far as it lies in `folder`."""
    places = [
        up
        for top in masks
        for up in (folder / top, *(folder / top).parents)
        if up.is_relative_to(folder)
    ]
    for place in dict.fromkeys(
        place for place in places if place.is_dir()
    ):  # a place may be a pattern: data/*/masks
        yield sorted(path for path in place.iterdir() if path.is_file())


def _refuse_segments(folder: Path, reading: Reading, values: MaskValues) -> None:
    """Raises DataError where the values are ids of segments: a panoptic JSON lists them, or most are of one mask."""
    masks = [pair.masks for pair in reading.pairs]
    if values.colored and (path := _panoptic_json(folder, masks, values.segment_ids)):
        raise DataError(
            f"the PNGs in {folder / masks[0]} hold ids that {path} lists as segments. Make a dataset of them: "
            f"featherseg convert {shlex.quote(str(folder))} --out OUT"
        )
    if values.segment_ids and not (values.colored and _color_list(folder, masks)):
        kind = "colours" if values.colored else "values"
        raise DataError(
            f"the masks in {folder / masks[0]} look like ids of segments, as {values.in_one_mask} of its "
            f"{len(values.pixels)} {kind} occur in one mask each. Put the panoptic JSON that lists them beside the "
            f"folder, as {masks[0]}.json; or, where they are classes, a list of these, as {folder / 'class_dict.csv'} "
            "with lines NAME,R,G,B."
        )


def _panoptic_json(folder: Path, masks: Sequence[str], any_name: bool) -> Path | None:
    """The JSON that lists segments of the masks: beside or above these, or in a folder called annotations.

    It is called as the folder of the masks; with any_name otherwise, if there is no folder of its name.
    """
    places = [*masks, *({"annotations"} if (folder / "annotations").is_dir() else ())]
    names = {place.rpartition("/")[2] for place in masks}
    found = {
        path
        for files in _files_above(folder, places)
        for path in files
        if path.suffix.lower() == ".json"
    }
    found = {
        path
        for path in found
        if path.stem in names or (any_name and not path.with_suffix("").is_dir())
    }
    likely = sorted(
        found, key=lambda path: (path.stem not in names, "panoptic" not in path.stem.lower(), path)
    )
    return next((path for path in likely[:MOST_JSONS] if mentions(path, SEGMENTS.encode())), None)


def _colors(raw_map: Mapping[str, str], further: Sequence[str]) -> dict[str, str]:
    """Class name -> colour: the mask's own where the values are colours, else the default palette."""
    own: dict[str, str] = {}
    for raw, name in raw_map.items():
        own.setdefault(name, raw)
    for name in further:
        own.setdefault(name, "")
    own.pop(IGNORE_NAME, None)
    palette = default_palette(len(own))
    return {
        name: raw if raw.startswith("#") else color_text(color)
        for (name, raw), color in zip(own.items(), palette, strict=True)
    }


def _lies_in(dataset: type[NamedData], folder: Path) -> bool:
    """Whether a folder holds images and masks where a public dataset has them."""
    try:
        pairs = [
            pair
            for part in dataset.list_files(folder, dataset.splits).splits.values()
            for pair in part
        ]
    except FeathersegError:
        return False
    return any(pair.image and pair.mask for pair in pairs)


def _likeliest(judged: Judged) -> tuple[bool, int, bool]:
    """Sorts readings: more classes first, then numbers before colours; last those of objects and of too many values."""
    reading, values = judged
    name = reading.pairs[0].mask_pattern
    objects = (
        bool(re.search("object|instance", name, re.IGNORECASE)) or values.classes > MAX_CLASSES
    )
    objects = objects or values.segment_ids
    return objects, -values.classes, values.colored


def _ending_of_images(pairs: Sequence[Pair]) -> str:
    """The ending that all images with a mask have, where files without one have others; else empty."""
    endings: dict[bool, set[str]] = {True: set(), False: set()}
    for pair in pairs:
        for path in (pair.image, *pair.twins):
            if path:
                endings[pair.mask is not None].add(path.suffix.lower())
    return (
        next(iter(endings[True]))
        if len(endings[True]) == 1 and endings[False] - endings[True]
        else ""
    )


def _channels(pairs: Sequence[Pair]) -> tuple[int, str]:
    """The most channels that a readable image has, and whether three would leave out "alpha" or "bands".

    Grey images can be read as RGB, not the other way round.
    """
    found = []
    for pair in pairs[:: max(1, len(pairs) // CHECKED)]:
        try:
            channels = image_channels(pair.image) if pair.image else 1
            unused = unused_parts(pair.image, 3)[1] if pair.image and channels > 3 else set()
            found.append(
                (channels, "alpha" if "alpha" in unused else "bands" if "bands" in unused else "")
            )
        except DataError:
            continue
    return max(found, default=(3, ""))


@lru_cache(maxsize=4)
def _proposed(folder: Path, changed: int) -> Proposal:
    """The proposal for a folder, made once while nothing in it changes."""
    write = f"featherseg check {shlex.quote(str(folder))} --write"
    try:
        proposal = propose(folder)
    except AmbiguousData:
        raise
    except NoDataset as error:
        raise NoDataset(
            f"{folder} has no dataset.toml, and none can be proposed. {error}", folder
        ) from None
    except DataError as error:
        raise DataNotFound(
            f"{folder} has no dataset.toml, and `{write}` finds nothing to write: {error}"
        ) from None
    if proposal.others or proposal.lists:
        bare = "".join(f"{note.partition(':')[0]}: " for note in proposal.notes if NO_MASK in note)
        ways = [what for what, _ in proposal.others] or [
            f"{bare}lists of splits have to be written for it"
        ]
        raise DataNotFound(
            f"{folder} has no dataset.toml, and its meaning is not clear ({ways[0]}). Write one and look at it: {write}"
        )
    log.info(
        "%s has no dataset.toml: read as `%s` would write it (%s)", folder, write, proposal.summary
    )
    return proposal


def proposed_config(folder: Path) -> DatasetToml:
    """What a folder without a dataset.toml is read as. Raises DataNotFound where that is not clear."""
    places = [place for place, _, _ in os.walk(folder)]
    return _proposed(folder, hash(tuple(os.stat(place).st_mtime_ns for place in places))).config
