"""Several binary masks of one image: whether they are classes in layers, and in what order."""

import os
import re
import shlex
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np

from featherseg.core.config import parse
from featherseg.core.errors import AmbiguousData, DataError
from featherseg.core.types import Progress
from featherseg.core.wording import counted, first_few
from featherseg.data.datasets.dataset_toml import ANY, IGNORE_NAME, DatasetToml
from featherseg.data.datasets.folder import list_pairs
from featherseg.data.discovery.file_facts import FileFacts
from featherseg.data.discovery.layouts import Reading
from featherseg.data.discovery.mask_values import THRESHOLD, MaskValues, read_values
from featherseg.data.discovery.naming import MASK_WORDS, names_mask, names_objects
from featherseg.data.images.decoding import read_mask
from featherseg.data.images.labels import LabelMap
from featherseg.data.images.pairs import Pair

FOREGROUND = "foreground"
"""The class of objects without a name."""

SAMPLED = 200
"""Number of images, spread evenly, in which the overlap of masks is measured."""

SAME = 0.5
"""Intersection over union from which two masks may show one thing, drawn twice."""

CROWDED = 1.5
"""Pixels of masks, as a multiple of those of their union, above which they are no objects."""

BY_PERSON = {"annotator", "expert", "ho", "manual", "observer", "rater", "reader"}
COMPUTED = {"boundary", "contour", "edge", "fov", "output", "pred", "prediction", "result", "roi"}
COMPUTED |= {"skeleton", "weight"}
"""Words in the names of masks that are no classes: who drew them, or what they come from."""

SHOWN = 3
"""Number of masks for which a message gives the command."""


@dataclass(frozen=True)
class LayeredReading:
    """Masks in layers.

    Attributes:
        tables: The keys of a dataset.toml for them.
        values: The values of all masks together.
        names: The names, given by the user, that no layer has.
        notes: What the user should look at.
        others: Values of --masks that read the masks of one layer alone.
        patterns: Their patterns.
    """

    tables: Mapping[str, Any]
    values: MaskValues
    names: Mapping[str, str]
    notes: Sequence[str]
    others: Sequence[str] = ()
    patterns: Sequence[str] = ()

    @property
    def classes(self) -> list[str]:
        """The classes from the lowest layer to the topmost."""
        return [layer["class"] for layer in self.tables["layer"]]


@dataclass(frozen=True)
class _Kind:
    """The masks of one layer; `label` is what tells their names from those of the others."""

    label: str
    reading: Reading
    values: MaskValues

    @property
    def pixels(self) -> int:
        """The number of foreground pixels."""
        return sum(count for value, count in self.values.pixels.items() if int(value) >= self.least)

    @property
    def least(self) -> int:
        """The lowest value of the foreground."""
        return THRESHOLD if self.values.smoothed else 1

    @property
    def pattern(self) -> str:
        """The value of --masks that reads these alone."""
        pair, masks = self.reading.pairs[0], [pair.masks for pair in self.reading.pairs]
        place = pair.masks if pair.mask_affix == ("", "") else pair.mask_pattern
        if len(masks) < 2:
            return place
        above = list(filter(None, os.path.commonpath(masks).split(os.sep)))
        return "/".join(place.split("/")[len(above) + 1 :])  # what the folders have in common

    @property
    def keys(self) -> set[str]:
        """What a user may call these masks: label, folder, or the affix of their names."""
        pair = self.reading.pairs[0]
        affix = "".join(pair.mask_affix)
        folder_name = pair.masks.rpartition("/")[2]
        names = {self.label, pair.masks, folder_name, affix, affix.strip("-_. "), self.pattern}
        return names - {""}


def read_layers(
    folder: Path,
    candidates: Sequence[tuple[Reading, MaskValues]],
    readings: Sequence[Reading],
    names: Mapping[str, str],
    command: str,
    progress: Progress | None,
    facts: FileFacts,
) -> LayeredReading | None:
    """Return the binary masks of the same images as layers; None if there is one kind of masks.

    Args:
        candidates: Readings and their values, the likeliest first.
        readings: All readings of the folder.
        names: {raw value, folder or affix: class name}, as the user gives them.
        command: The command that reads the folder; messages add options to it.

    Raises:
        DataError: Several masks of an image are neither objects nor classes.
        AmbiguousData: The masks may be of the same things.
    """
    reading, values = candidates[0]
    if reading.pairs[0].objects:
        return _object_layer(folder, reading, values, names)
    if not _is_binary(values):
        return None
    kinds = _kinds(folder, candidates, readings, progress, facts)
    place = _images_place([kind.reading for kind in kinds]) if len(kinds) > 1 else None
    if place is None:
        return None

    # The masks of each image; large ones lie below small ones
    kinds = sorted(kinds, key=lambda kind: -kind.pixels)
    given = {kind.label: names[key] for kind in kinds for key in kind.keys & names.keys()}
    labels = [given.get(kind.label, kind.label) for kind in kinds]
    smoothed = any(kind.values.smoothed for kind in kinds)
    if smoothed and any("1" in kind.values.pixels and not kind.values.smoothed for kind in kinds):
        return None
    tables = _tables(kinds, labels, place) | ({"threshold": THRESHOLD} if smoothed else {})
    pairs = _pairs_with_mask(tables, folder, [f"class_{number}" for number in range(len(kinds))])
    present = [{_layer(label_map) for _, label_map in _masks(pair)} for pair in pairs]
    if 2 * sum(len(numbers) > 1 for numbers in present) < len(pairs):
        return None

    # They are classes unless two are nearly the same, or their names cannot be classes
    overlap, same = _overlaps(pairs, len(kinds))
    if len(given) < len(kinds) and (same or not _are_classes(labels)):
        raise _question(folder, kinds, same, command)

    notes = [
        "an image has several masks, a class each. From the lowest to the topmost, with fewer "
        f"pixels each: {', '.join(labels)}; {overlap:.2%} of the pixels are in more than one"
    ]
    for number, (kind, label) in enumerate(zip(kinds, labels, strict=True)):
        lacking = len(pairs) - sum(number in numbers for numbers in present)
        if not lacking:
            continue
        note = f"{lacking} of {counted(len(pairs), 'image')} have no mask in {kind.pattern}"
        if _has_empty(pairs, number, kind.least, facts):
            notes.append(f"{note}: these are missing, because masks without {label} are there")
        else:
            tables["layer"][number]["optional"] = True
            notes.append(f"{note}: optional, because every mask there has pixels of {label}")
    used = set[str]().union(*(kind.keys for kind in kinds))
    return LayeredReading(
        tables,
        _merged_values(kinds),
        {key: name for key, name in names.items() if key not in used},
        notes,
        [kind.pattern for kind in kinds],
        [kind.reading.pairs[0].mask_pattern for kind in kinds],
    )


def _object_layer(
    folder: Path, reading: Reading, values: MaskValues, names: Mapping[str, str]
) -> LayeredReading:
    """Return masks of objects as one class. Raises DataError if they are not binary, or overlap."""
    pair = reading.pairs[0]
    if not _is_binary(values):
        raise DataError(
            f"{folder} has several masks for one image in {pair.masks}, with "
            f"{counted(len(values.pixels), 'value')}. Expected 0 and one other value, as in a mask "
            "for each object: write one mask for each image, with a value for each class."
        )
    named = [key for key in ("1", "255", FOREGROUND) if key in names]
    label = names[named[0]] if named else FOREGROUND
    prefix, suffix = pair.mask_affix
    tables: dict[str, Any] = {
        "images": pair.images,
        "masks": pair.masks,
        **_image_affixes(reading),
        "layer": [{"class": label, "prefix": prefix, "suffix": suffix, "objects": True}],
    }
    tables |= {"threshold": THRESHOLD} if values.smoothed else {}

    # Objects do not lie over one another
    inside, union = 0, 0
    for pair_of_objects in _sampled(_pairs_with_mask(tables, folder, [label])):
        masks = [mask for _, mask in _foreground(pair_of_objects)]
        inside += sum(int(mask.sum()) for mask in masks)
        union += int(np.logical_or.reduce(masks).sum()) if masks else 0
    if inside > CROWDED * union:
        raise DataError(
            f"{folder} has several masks for one image in {pair.masks}, which overlap "
            f"({inside / max(1, union):.1f} masks a pixel): they are neither objects nor called as "
            "classes. Keep one for each image, or name the files after their classes."
        )
    note = (
        f"an image has a mask for each object ({pair.masks}): together they are one class, "
        f"{label}. Objects that touch are one region; --name 255=NAME names the class"
    )
    names_left = {key: name for key, name in names.items() if key not in named}
    return LayeredReading(tables, values, names_left, [note])


def _kinds(
    folder: Path,
    candidates: Sequence[tuple[Reading, MaskValues]],
    readings: Sequence[Reading],
    progress: Progress | None,
    facts: FileFacts,
) -> list[_Kind]:
    """Return the binary masks that belong to the images of the first candidate."""
    known = dict(candidates)
    first = candidates[0][0]
    possible = [first, *readings]
    for pattern in first.further:
        head, tail = pattern.rpartition("/")[2].split("*")
        pairs = tuple(replace(pair, mask_affix=(head, tail)) for pair in first.pairs)
        possible.append(replace(first, pairs=pairs))

    binary: dict[str, tuple[Reading, MaskValues]] = {}
    images = [(pair.images, pair.image_affix) for pair in first.pairs]
    for reading in possible:
        pattern = reading.pairs[0].mask_pattern
        if [(pair.images, pair.image_affix) for pair in reading.pairs] != images:
            continue
        if reading.pairs[0].objects or names_objects(pattern) or pattern in binary:
            continue
        try:
            values = known.get(reading) or read_values(folder, reading, progress, facts)
        except DataError:
            continue
        if _is_binary(values):
            binary[pattern] = reading, values

    # A label is made of the words that not all patterns have
    words = [_words(pattern) for pattern in binary]
    common = set(words[0]).intersection(*words) | MASK_WORDS if words else set()
    labels = [
        "_".join(dict.fromkeys(word for word in of_kind if word not in common)) for of_kind in words
    ]
    return [_Kind(label, *kind) for label, kind in zip(labels, binary.values(), strict=True)]


def _words(pattern: str) -> list[str]:
    """Return the words in lower case, with numbers: "masks/eye/*_Eye2" -> masks, eye, eye2."""
    stem = re.sub(r"\.[A-Za-z]+$", "", pattern)
    return re.findall("[a-z0-9]+", re.sub(r"(?<=[a-z])(?=[A-Z])", " ", stem).lower())


def _is_binary(values: MaskValues) -> bool:
    return not values.colored and (values.inside is not None or values.pixels.keys() == {"0"})


def _are_classes(labels: Sequence[str]) -> bool:
    """Return whether labels can be names of classes, and not of persons, numbers or masks."""
    words = {word for label in labels for word in label.lower().split("_")}
    return (
        all(
            re.fullmatch("[a-z_]{2,}", label.lower()) and not names_mask(label.lower())
            for label in labels
        )
        and len(set(labels)) == len(labels)
        and words.isdisjoint(BY_PERSON | COMPUTED)
        and IGNORE_NAME not in labels
    )


def _images_place(readings: Sequence[Reading]) -> str | None:
    """Return the folder of images, with ANY for the one part in which several differ, else None."""
    images = _with_any([pair.images for pair in readings[0].pairs])
    masks = [_with_any([pair.masks for pair in reading.pairs]) for reading in readings]
    counts = {place.split("/").count(ANY) for place in (images, *masks) if place}
    return images if images and all(masks) and len(counts) == 1 else None


def _with_any(places: Sequence[str]) -> str | None:
    """Return the places as one, with ANY for the part in which they differ; None for two parts."""
    parts = [place.split("/") for place in places]
    if len(set(map(len, parts))) > 1:
        return None
    columns = [set(column) for column in zip(*parts, strict=True)]
    joined = [ANY if len(column) > 1 else next(iter(column)) for column in columns]
    return "/".join(joined) if joined.count(ANY) <= 1 else None


def _tables(kinds: Sequence[_Kind], labels: Sequence[str], images: str) -> dict[str, Any]:
    """Return the keys of a dataset.toml for the places of images and layers."""
    places = [str(_with_any([pair.masks for pair in kind.reading.pairs])) for kind in kinds]
    several = len(set(places)) > 1
    layers = []
    for kind, label, place in zip(kinds, labels, places, strict=True):
        prefix, suffix = kind.reading.pairs[0].mask_affix
        masks = {"masks": place} if several else {}
        layers.append({"class": label, **masks, "prefix": prefix, "suffix": suffix})
    tables = {"images": images, **_image_affixes(kinds[0].reading), "layer": layers}
    return tables if several else tables | {"masks": places[0]}


def _image_affixes(reading: Reading) -> dict[str, str]:
    return {key: text for key, text in reading.affixes.items() if key.startswith("image_")}


def _pairs_with_mask(tables: Mapping[str, Any], folder: Path, classes: Sequence[str]) -> list[Pair]:
    """Return the images that have a mask; class id 1 is the first layer's, and so on."""
    layers = [
        layer | {"class": name, "optional": True}
        for layer, name in zip(tables["layer"], classes, strict=True)
    ]
    settings = {
        "name": "any",
        "splits": {"train": 1.0},
        "classes": ["-", *classes],
        "map": {"0": "-"},
        **tables,
        "layer": layers,
    }
    config = parse(DatasetToml, settings, f"the layers of {folder}")
    return [pair for pair in list_pairs(config, folder) if pair.image and pair.mask]


def _layer(label_map: LabelMap) -> int:
    """Return the number of the layer that a mask is in, from 0."""
    return label_map.ids[255] - 1


def _masks(pair: Pair) -> list[tuple[Path, LabelMap]]:
    assert pair.mask
    assert pair.label_map
    return [(pair.mask, pair.label_map), *pair.layers]


def _foreground(pair: Pair) -> list[tuple[int, np.ndarray]]:
    """Return (number of the layer, foreground (H, W) bool) of each readable mask of an image.

    Empty if the masks differ in size.
    """
    masks = []
    for path, label_map in _masks(pair):
        try:
            ids = label_map.apply(read_mask(path))
        except DataError:
            continue
        masks.append((_layer(label_map), ids != label_map.ids[0]))
    return masks if len({mask.shape for _, mask in masks}) < 2 else []


def _sampled(pairs: Sequence[Pair]) -> Sequence[Pair]:
    return pairs[:: max(1, len(pairs) // SAMPLED)]


def _overlaps(pairs: Sequence[Pair], count: int) -> tuple[float, tuple[int, int] | None]:
    """Return (share of pixels in several masks, the first two layers that are nearly the same)."""
    several, total = 0, 0
    intersection, union = np.zeros((count, count)), np.zeros((count, count))
    for pair in _sampled(pairs):
        masks = _foreground(pair)
        depth = np.sum([mask for _, mask in masks], axis=0) if masks else np.zeros(0, int)
        several, total = several + int((depth > 1).sum()), total + depth.size
        for first, mask in masks:
            for second, other in masks:
                intersection[first, second] += (mask & other).sum()
                union[first, second] += (mask | other).sum()
    alike = np.argwhere(np.triu(intersection > SAME * np.maximum(union, 1), k=1)).tolist()
    return several / max(1, total), (alike[0][0], alike[0][1]) if alike else None


def _has_empty(pairs: Sequence[Pair], number: int, least: int, facts: FileFacts) -> bool:
    """Return whether a mask of this layer has no foreground."""
    paths = [
        path for pair in pairs for path, label_map in _masks(pair) if _layer(label_map) == number
    ]
    masks = facts.masks(paths, colors=False)
    return any(mask.raw.max(initial=0) < least for mask in masks if not isinstance(mask, DataError))


def _merged_values(kinds: Sequence[_Kind]) -> MaskValues:
    """Return the values of all masks; places are those of the first kind."""
    pixels, alike, lossy, exact = Counter[str](), Counter[str](), dict[str, int](), set[str]()
    for kind in kinds:
        pixels.update(kind.values.pixels)
        alike.update(kind.values.alike)
        lossy |= kind.values.lossy
        exact |= kind.values.pixels.keys() - kind.values.lossy.keys()
    first = kinds[0].values
    return MaskValues(
        {value: pixels[value] for value in sorted(pixels, key=int)},
        alike,
        first.folders,
        {value: flat for value, flat in lossy.items() if value not in exact},
        first.images,
    )


def _question(
    folder: Path, kinds: Sequence[_Kind], same: tuple[int, int] | None, command: str
) -> AmbiguousData:
    """Return the error for masks that may be classes, or the same things drawn several times."""
    patterns = [kind.pattern for kind in kinds]
    why = f" {patterns[same[0]]} and {patterns[same[1]]} are nearly the same." if same else ""
    labels = [kind.label or f"class_{number}" for number, kind in enumerate(kinds, start=1)]
    options = " ".join(
        f"--name {shlex.quote(f'{pattern}={label}')}"
        for pattern, label in zip(patterns, labels, strict=True)
    )
    alone = [
        (f"the masks in {pattern} alone", f"{command} --masks {shlex.quote(pattern)}")
        for pattern in patterns[:SHOWN]
    ]
    return AmbiguousData(
        f"{folder} has several masks for one image: {first_few(patterns)}.{why} Is each a class, "
        "or do they show the same things, drawn by several people?",
        [*alone, ("a class for each, with these names or others", f"{command} {options}")],
    )
