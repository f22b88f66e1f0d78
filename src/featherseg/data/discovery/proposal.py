"""Propose a dataset.toml for a folder that has none, from the places, names and values of files."""

import logging
import os
import shlex
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from functools import lru_cache
from pathlib import Path
from typing import Any

from featherseg.core.config import parse, parse_toml, toml_string
from featherseg.core.errors import (
    AmbiguousData,
    DataError,
    DataNotFound,
    FeathersegError,
    NoDataset,
)
from featherseg.core.types import Progress
from featherseg.core.wording import counted, first_few
from featherseg.data.datasets import DATASETS
from featherseg.data.datasets.dataset_toml import (
    ANY,
    IGNORE_NAME,
    MOST_NAME,
    DatasetToml,
    toml_text,
)
from featherseg.data.datasets.folder import FolderListing, list_folder, list_pairs
from featherseg.data.discovery.file_facts import FileFacts
from featherseg.data.discovery.image_tree import not_followed
from featherseg.data.discovery.mask_folders import (
    FolderReading,
    FoldersAs,
    placeholder,
    read_folders,
)
from featherseg.data.discovery.mask_values import THRESHOLD
from featherseg.data.discovery.masks_yaml import MasksYaml, find_masks_yaml
from featherseg.data.discovery.proposed_splits import NO_MASK, with_splits
from featherseg.data.discovery.reading_choice import ReadingChoice, choose_reading, masks_option
from featherseg.data.discovery.value_names import name_values
from featherseg.data.discovery.written_proposal import write_proposal
from featherseg.data.images.decoding import image_channels
from featherseg.data.images.listing import IMAGE_SUFFIXES, is_image
from featherseg.data.images.pairs import NamedData, Pair
from featherseg.data.images.palettes import class_colors, color_text, parse_color
from featherseg.data.images.unused_parts import unused_parts

CHECKED = 200
"""Number of images, spread evenly, whose channels are read."""

SHOWN = 3
"""Number of values for which a note gives the option that names them."""

log = logging.getLogger("featherseg")


@dataclass(frozen=True)
class Proposal:
    """A dataset.toml as text, the files it describes, and the pixels of each raw value.

    Raw values are text: "12" or "#40a0ff". `lists` are {file name: keys} of the lists of splits
    that belong to it. `notes` say what was assumed. `others` are the other readings of the folder:
    (what is read instead, the options of `featherseg check` for it); `options` lead to this one.
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
        """Name the folders and the first classes."""
        images, masks = (
            first_few(list(dict.fromkeys(map(str, folders))))
            for folders in zip(*((s.images, s.masks) for s in self.config.sources), strict=True)
        )
        places = f"images in {images}, masks in {masks}"
        if images == masks:
            places = f"images and masks in {images}"
        return f"{places}; classes {first_few(list(self.config.classes))}"

    def meaning(self, value: str) -> str:
        """Return the class of a raw value for display; "" if it has none."""
        config = self.config
        if config.threshold is not None:
            value = "0" if int(value) < config.threshold else "255"
        of_source = config.layer or any(source.class_ for source in config.source)
        if of_source and value in ("1", "255"):
            return "that of its masks"
        return config.map.get(value, "")

    def write(self, folder: Path) -> Path:
        """Write dataset.toml and its lists, return its path. Raises as `write_proposal`."""
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
    """Find images and masks in a folder and propose a dataset.toml for them.

    Binary masks (0 and one other value) become background and foreground. Otherwise each value is
    a class, and 255 is ignored unless it is the last of evenly spread greys.

    Args:
        names: {raw value, or folder that is a class: class name}.
        masks: The folder of masks to read if there are several.
        folders: What the folders of binary masks are.
        facts: Keeps what is read from the files.

    Raises:
        DataNotFound: No image has a mask.
        DataError: No mask can be read, or the values of the masks cannot be classes.
        AmbiguousData: Folders or masks can be read in several ways.
        ConfigError: `names` or `folders` do not fit the folder.
    """
    names, facts = dict(names or {}), facts or FileFacts()
    options = [f"--masks {shlex.quote(masks)}"] if masks else []
    options += [f"--name {shlex.quote(f'{value}={name}')}" for value, name in names.items()]
    command = " ".join((f"featherseg check {shlex.quote(str(folder))} --write", *options))

    # Choose the folders of images and masks
    masks_yaml = find_masks_yaml(folder)
    masks = masks or (masks_yaml.masks if masks_yaml else None)
    choice = choose_reading(folder, masks, names, command, progress, facts)
    layers, values = choice.layers, choice.values

    # Decide what folders mean: a class each, groups of images, or nothing
    names_left = layers.names if layers else names
    meaning = read_folders(
        folder, choice.reading, values, names_left, folders, command, layered=bool(layers)
    )
    of_folder = bool(layers) or any(source.class_ for source in meaning.sources)
    others = _other_readings(choice, meaning, options)
    notes = _notes_on_files(choice)
    notes += [meaning.hint] if of_folder and meaning.hint else []
    if meaning.why and folders is None:
        notes.append(f"each folder is taken for a class, because {meaning.why}")
        groups = " ".join((*options, "--groups-from-folders"))
        others.append(("two classes, and no folder in two splits", groups))

    # Name the values of the masks
    raw_map, value_notes = name_values(
        folder,
        [source.masks for source in meaning.sources],
        values,
        meaning.names,
        of_folder=of_folder,
        layered=bool(layers),
    )
    notes += value_notes

    # Describe the files in a dataset.toml, as one split
    config, pairs, channel_notes = _describe(folder, choice, meaning, raw_map)
    notes += channel_notes
    if unused := _unused_beside(folder, config, pairs, choice):
        files = counted(len(unused), "file")
        notes.append(
            f"not used: {files} beside images and masks that are neither, such as {unused[0]}"
        )

    # Divide the images into splits
    hints = [meaning.hint] if meaning.hint and not of_folder else []
    config, listing, lists, split_notes = _split(
        folder, config, pairs, masks_yaml, facts, progress, hints
    )
    notes += split_notes
    notes += _notes_on_classes(folder, config, raw_map)

    # The text must be readable whatever the names are
    text = toml_text(config)
    config = parse(DatasetToml, parse_toml(text, _title(folder)), _title(folder))
    chosen = " ".join((*options, *([f"--{folders}-from-folders"] if folders else [])))
    return Proposal(toml_text(config), listing, config, values.pixels, lists, notes, others, chosen)


def _title(folder: Path) -> str:
    """Return what errors call the dataset.toml."""
    return f"the dataset.toml proposed for {folder}"


def _other_readings(
    choice: ReadingChoice, meaning: FolderReading, options: Sequence[str]
) -> list[tuple[str, str]]:
    """Return the readings that were not chosen: (what is read instead, options of `check`)."""
    reading, layers = choice.reading, choice.layers
    others = []
    for other, values in choice.others:
        if layers and other.pairs[0].mask_pattern in layers.patterns:
            continue
        place, count = masks_option(other, reading), counted(values.classes, "value")
        what = f"the masks in {place} ({count}) instead of {reading.pairs[0].masks}"
        others.append((what, f"--masks {shlex.quote(place)}"))
    groups = " --groups-from-folders" * bool(meaning.groups)
    others += [
        (f"the masks in {place} alone", f"--masks {shlex.quote(place)}{groups}")
        for place in (layers.others if layers else ())
    ]
    return others


def _notes_on_files(choice: ReadingChoice) -> list[str]:
    """Return notes on the layers, and on folders that are not read."""
    reading = choice.reading
    notes = list(choice.layers.notes) if choice.layers else []
    also = list(dict.fromkeys(name for pair in reading.pairs for name in pair.also))
    if also:
        first = reading.pairs[0]
        notes.append(
            f"the masks in {first.masks} also fit the images in {first_few(also)}: to read these, "
            f"edit images = {toml_string(first.images)} and channels in dataset.toml"
        )
    known = {pair.masks for other, _ in choice.others for pair in other.pairs} | set(also)
    unused = [
        name
        for name in reading.unused
        if not any(name == place or name.startswith(f"{place}/") for place in known)
    ]
    if unused:
        notes.append(f"not used, because no masks belong to them: {first_few(unused)}")
    if reading.links:
        notes.append(f"links to folders are {not_followed(reading.links)}")
    return notes


def _describe(
    folder: Path, choice: ReadingChoice, meaning: FolderReading, raw_map: Mapping[str, str]
) -> tuple[DatasetToml, list[Pair], list[str]]:
    """Return (a dataset.toml that puts all files into train, its pairs, notes on channels)."""
    layers, sources = choice.layers, meaning.sources
    further = layers.classes if layers else [source.class_ for source in sources if source.class_]
    settings: dict[str, Any] = {
        "name": folder.resolve().name[:MOST_NAME] or "folder",
        **choice.reading.affixes,
        "splits": {"train": 1.0},
        "classes": _colors(raw_map, further),
        "map": raw_map,
    }
    if layers:
        settings |= dict(layers.tables) | {"mask_prefix": "", "mask_suffix": ""}
    else:
        tables = [source.model_dump(by_alias=True, exclude_none=True) for source in sources]
        settings |= {"source": tables} if len(tables) > 1 else tables[0]
        settings |= {"threshold": THRESHOLD} if choice.values.smoothed else {}
    settings |= {"groups": meaning.groups} if meaning.groups else {}
    config = parse(DatasetToml, settings, _title(folder))

    # The files add their ending, if other files have another, and the channels
    pairs = list_pairs(config, folder)
    ending = _image_ending(pairs)
    if ending and not config.image_suffix.lower().endswith(IMAGE_SUFFIXES):
        config = config.model_copy(update={"image_suffix": config.image_suffix + ending})
        pairs = list_pairs(config, folder)
    channels, beside_rgb = _channels(pairs)
    marked = " (it is marked as alpha, but has other values)" if beside_rgb == "alpha" else ""
    note = f"what is beside red, green and blue is read as well{marked}: channels = 3 leaves it out"
    config = config.model_copy(update={"channels": channels})
    return config, pairs, [note] if beside_rgb else []


def _colors(raw_map: Mapping[str, str], further: Sequence[str]) -> dict[str, str]:
    """Return {class: colour}: that of the masks if values are colours, else a made-up one.

    `further` are classes without a raw value.
    """
    raw_of: dict[str, str] = {}
    for raw, name in [*raw_map.items(), *(("", name) for name in further)]:
        raw_of.setdefault(name, raw)
    raw_of.pop(IGNORE_NAME, None)
    known = {name: parse_color(raw) for name, raw in raw_of.items() if raw.startswith("#")}
    colors = class_colors(list(raw_of), known) | known  # black stays black
    return {name: color_text(color) for name, color in colors.items()}


def _image_ending(pairs: Sequence[Pair]) -> str:
    """Return the ending of all images with a mask if images without one have others, else ""."""
    endings: dict[bool, set[str]] = {True: set(), False: set()}
    for pair in pairs:
        for path in filter(None, (pair.image, *pair.twins)):
            endings[pair.mask is not None].add(path.suffix.lower())
    same = len(endings[True]) == 1 and endings[False] - endings[True]
    return next(iter(endings[True])) if same else ""


def _channels(pairs: Sequence[Pair]) -> tuple[int, str]:
    """Return the largest number of channels, and what RGB would drop: "alpha", "bands" or "".

    Grey images can be read as RGB, but not the other way round.
    """
    readable = []
    for pair in pairs[:: max(1, len(pairs) // CHECKED)]:
        try:
            channels = image_channels(pair.image) if pair.image else 1
            unused = unused_parts(pair.image, 3)[1] if pair.image and channels > 3 else set()
        except DataError:
            continue
        dropped = [part for part in ("alpha", "bands") if part in unused]
        readable.append((channels, next(iter(dropped), "")))
    return max(readable, default=(3, ""))


def _unused_beside(
    folder: Path, config: DatasetToml, pairs: Sequence[Pair], choice: ReadingChoice
) -> list[str]:
    """Return the image files beside images and masks that are in no pair and no other reading."""
    if (
        config.images is None
        or config.images != (config.masks or config.images)
        or ANY in config.images.split("/")
    ):
        return []
    known = [*choice.reading.further, *(other.pairs[0].mask_pattern for other, _ in choice.others)]
    ends = tuple(pattern.rpartition("*")[2] for pattern in known if not pattern.endswith("*"))
    used = {path for pair in pairs for path in (pair.image, *pair.mask_files, *pair.twins)}
    return [
        path.relative_to(folder).as_posix()
        for path in sorted((folder / config.images).rglob("*"))
        if is_image(path)
        and path not in used
        and not path.stem.endswith(ends)
        and not path.name.endswith(ends)
        and not path.name.startswith(".")
    ]


def _split(
    folder: Path,
    config: DatasetToml,
    pairs: Sequence[Pair],
    masks_yaml: MasksYaml | None,
    facts: FileFacts,
    progress: Progress | None,
    hints: Sequence[str],
) -> tuple[DatasetToml, FolderListing, dict[str, list[str]], list[str]]:
    """Return (the dataset.toml with splits, its listing, the lists to write for it, notes)."""
    notes, lists = list[str](), dict[str, list[str]]()
    splits = masks_yaml.below(folder / config.images) if masks_yaml and config.images else {}
    if splits:
        config = config.model_copy(update={"splits": splits})
    else:
        config, lists, notes = with_splits(config, folder, pairs, facts, progress, hints)
    listing = list_folder(config, folder, lists=lists)
    if "by time" in listing.how_split:
        notes.append(
            "consecutive images look alike, so they are taken for frames of videos, and cut in "
            'time with a gap. For single photographs put split_by = "image" into dataset.toml'
        )
    if config.shares and not all(listing.splits.values()):  # too few files for shares
        config = config.model_copy(update={"splits": {"train": 1.0}})
        listing = list_folder(config, folder)
    return config, listing, lists, notes


def _notes_on_classes(folder: Path, config: DatasetToml, raw_map: Mapping[str, str]) -> list[str]:
    """Return notes on a single class, classes without a name, and public datasets."""
    notes = []
    if len(config.classes) == 1:
        values = ", ".join(value for value, name in raw_map.items() if name != IGNORE_NAME)
        notes.append(
            f"every mask has one value, {values}, apart from what is ignored: a model needs two "
            "classes. Look at the masks: were they drawn by transparency, or are they empty?"
        )
    if unnamed := [value for value, name in raw_map.items() if name == placeholder(value)]:
        given = " ".join(f"--name {value.removeprefix('#')}=NAME" for value in unnamed[:SHOWN])
        notes.append(
            f"{counted(len(unnamed), 'value')} of classes without a name: name these in "
            f"dataset.toml, or by {given}{' ...' * (len(unnamed) > SHOWN)}"
        )
    notes += [
        f"the folders are called as those of {name}: if it is that dataset, --data {name} "
        f"--data-root {shlex.quote(str(folder))} knows its classes"
        for name, dataset in DATASETS.items()
        if issubclass(dataset, NamedData) and _contains(folder, dataset)
    ]
    return notes


def _contains(folder: Path, dataset: type[NamedData]) -> bool:
    """Return whether a folder has images and masks in the places of a public dataset."""
    try:
        splits = dataset.list_files(folder, dataset.splits).splits
    except FeathersegError:
        return False
    return any(pair.image and pair.mask for pairs in splits.values() for pair in pairs)


def proposed_config(folder: Path) -> DatasetToml:
    """Return the dataset.toml of a folder without one. Raises DataNotFound if it is not clear."""
    places = [place for place, _, _ in os.walk(folder)]
    changed = hash(tuple(os.stat(place).st_mtime_ns for place in places))
    return _proposed(folder, changed).config


@lru_cache(maxsize=4)
def _proposed(folder: Path, changed: int) -> Proposal:
    """Return the proposal for a folder, computed once while `changed` stays the same."""
    command = f"featherseg check {shlex.quote(str(folder))} --write"
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
            f"{folder} has no dataset.toml, and `{command}` finds nothing to write: {error}"
        ) from None
    if proposal.others or proposal.lists:
        unlabelled = "".join(
            f"{note.partition(':')[0]}: " for note in proposal.notes if NO_MASK in note
        )
        reasons = [what for what, _ in proposal.others]
        reasons.append(f"{unlabelled}lists of splits have to be written for it")
        raise DataNotFound(
            f"{folder} has no dataset.toml, and its meaning is not clear ({reasons[0]}). Write one "
            f"and look at it: {command}"
        )
    log.info(
        "%s has no dataset.toml: read as `%s` would write it (%s)",
        folder,
        command,
        proposal.summary,
    )
    return proposal
