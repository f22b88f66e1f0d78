"""Several binary masks of one image: whether they are classes that lie over one another, and in what order."""

import os
import re
import shlex
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np

from featherseg.core.config import parse
from featherseg.core.errors import AmbiguousData, DataError
from featherseg.core.types import Progress
from featherseg.core.wording import counted
from featherseg.data.datasets.dataset_toml import ANY, IGNORE_NAME, DatasetToml
from featherseg.data.datasets.folder import list_pairs
from featherseg.data.discovery.file_facts import FileFacts
from featherseg.data.discovery.layouts import Reading
from featherseg.data.discovery.mask_values import THRESHOLD, MaskValues, read_values
from featherseg.data.discovery.naming import MASK_WORDS, names_mask
from featherseg.data.images.decoding import read_mask
from featherseg.data.images.pairs import Pair

FOREGROUND = "foreground"
"""The class of objects that nobody named."""

SAMPLED = 200
"""Images, spread over all, of which it is measured how masks overlap."""

SAME = 0.5
"""Intersection over union from which two masks may be of one thing, drawn twice."""

CROWDED = 1.5
"""Pixels of the masks of objects, as a multiple of those of their union, above which they are no objects."""

BY_PERSON = {"annotator", "expert", "ho", "manual", "observer", "rater", "reader"}
BY_PERSON |= {
    "boundary",
    "contour",
    "edge",
    "fov",
    "output",
    "pred",
    "prediction",
    "result",
    "roi",
    "skeleton",
    "weight",
}
"""Words of masks that are no classes: who drew them, or what was made of others."""

SHOWN = 3
"""How many masks a message names."""


@dataclass(frozen=True)
class LayeredReading:
    """The keys of a dataset.toml for masks that lie over one another, their values together, and what to look at.

    `names` are the names of values that are left to be used, `others` what --masks takes to read masks alone, whose
    patterns are `patterns`.
    """

    tables: Mapping[str, Any]
    values: MaskValues
    names: Mapping[str, str]
    notes: Sequence[str]
    others: Sequence[str] = ()
    patterns: Sequence[str] = ()

    @property
    def classes(self) -> list[str]:
        """From the lowest to the topmost."""
        return [layer["class"] for layer in self.tables["layer"]]


@dataclass(frozen=True)
class _Kind:
    """Masks of one kind: what tells them from others (`label`), their values, the pixels inside them."""

    label: str
    reading: Reading
    values: MaskValues

    @property
    def pixels(self) -> int:
        """How many are inside."""
        return sum(count for value, count in self.values.pixels.items() if int(value) >= self.least)

    @property
    def least(self) -> int:
        return THRESHOLD if self.values.smoothed else 1

    @property
    def pattern(self) -> str:
        """What --masks takes to read these alone."""
        pair, masks = self.reading.pairs[0], [pair.masks for pair in self.reading.pairs]
        place = pair.masks if pair.mask_affix == ("", "") else pair.mask_pattern
        if len(masks) < 2:
            return place
        above = list(filter(None, os.path.commonpath(masks).split(os.sep)))
        return "/".join(place.split("/")[len(above) + 1 :])  # what the folders have in common


def read_layers(
    folder: Path,
    judged: Sequence[tuple[Reading, MaskValues]],
    readings: Sequence[Reading],
    names: Mapping[str, str],
    command: str,
    progress: Progress | None,
    facts: FileFacts,
) -> LayeredReading | None:
    """The masks of the first reading with all others of the same images, where each is 0 and one other value.

    None where there is but one kind of masks, or they have several values. judged: readings and their values, the one
    that is taken first; readings: all that there are; names: the names of values, folders and suffixes; command: what
    reads the folder, to which options are added. Raises AmbiguousData where it is not clear that they are classes.
    """
    reading, values = judged[0]
    if reading.pairs[0].objects:
        return _objects(folder, reading, values, names)
    if not _is_binary(values):
        return None
    kinds = _kinds(folder, judged, readings, progress, facts)
    place = _one_place([kind.reading for kind in kinds])
    if len(kinds) < 2 or place is None:
        return None

    # The masks of each image, and how they overlap
    kinds = sorted(kinds, key=lambda kind: -kind.pixels)
    given = {kind.label: names[key] for kind in kinds for key in _keys(kind) & names.keys()}
    labels = [given.get(kind.label, kind.label) for kind in kinds]
    smoothed = any(kind.values.smoothed for kind in kinds)
    if smoothed and any("1" in kind.values.pixels and not kind.values.smoothed for kind in kinds):
        return None
    tables = _tables(kinds, labels, place) | ({"threshold": THRESHOLD} if smoothed else {})
    pairs = _listed(tables, folder, [f"class_{number}" for number in range(len(kinds))])
    present = [_numbers(pair) for pair in pairs]
    if 2 * sum(len(numbers) > 1 for numbers in present) < len(pairs):
        return None
    share, same = _overlaps(pairs, len(kinds))
    if len(given) < len(kinds) and (same or not _are_classes(labels)):
        raise _question(folder, kinds, same, command)

    notes = [
        f"an image has several masks, a class each. From the lowest to the topmost, with ever fewer pixels: "
        f"{', '.join(labels)}; {share:.2%} of the pixels are in more than one"
    ]
    for number, (kind, label) in enumerate(zip(kinds, labels, strict=True)):
        lacking = len(pairs) - sum(number in numbers for numbers in present)
        if not lacking:
            continue
        said = f"{lacking} of {counted(len(pairs), 'image')} have no mask in {kind.pattern}"
        if _has_empty(pairs, number, kind.least, facts):
            notes.append(
                f"{said}, though masks without a pixel of {label} are there: these are missing"
            )
        else:
            tables["layer"][number]["optional"] = True
            notes.append(
                f"{said}, and every mask there has pixels of {label}: optional, as these images have none"
            )
    rest = {
        key: name for key, name in names.items() if not any(key in _keys(kind) for kind in kinds)
    }
    patterns = [kind.reading.pairs[0].mask_pattern for kind in kinds]
    return LayeredReading(
        tables, _together(kinds), rest, notes, [kind.pattern for kind in kinds], patterns
    )


def _objects(
    folder: Path, reading: Reading, values: MaskValues, names: Mapping[str, str]
) -> LayeredReading | None:
    """The masks of objects as one class."""
    pair = reading.pairs[0]
    if not _is_binary(values):
        raise DataError(
            f"{folder} has several masks for one image in {pair.masks}, with {counted(len(values.pixels), 'value')}. "
            "Expected 0 and one other value, as in a mask for each object: write one mask for each image, with a value "
            "for each class."
        )
    named = [key for key in ("1", "255", FOREGROUND) if key in names]
    label = names[named[0]] if named else FOREGROUND
    layer = {
        "class": label,
        "prefix": pair.mask_affix[0],
        "suffix": pair.mask_affix[1],
        "objects": True,
    }
    tables: dict[str, Any] = {
        "images": pair.images,
        "masks": pair.masks,
        **_image_affixes(reading),
        "layer": [layer],
    }
    tables |= {"threshold": THRESHOLD} if values.smoothed else {}
    inside, union = 0, 0
    for one in _sampled(_listed(tables, folder, [label])):
        masks = [mask for _, mask in _inside(one)]
        inside += sum(int(mask.sum()) for mask in masks)
        union += int(np.logical_or.reduce(masks).sum()) if masks else 0
    if inside > CROWDED * union:
        raise DataError(
            f"{folder} has several masks for one image in {pair.masks}, which overlap ({inside / max(1, union):.1f} "
            "masks a pixel): they are neither objects nor called as classes. Keep one for each image, or name the "
            "files after their classes."
        )
    note = (
        f"an image has a mask for each object ({pair.masks}): together they are one class, {label}. Objects that touch "
        "are one region; --name 255=NAME names the class"
    )
    rest = {key: name for key, name in names.items() if key not in named}
    return LayeredReading(tables, values, rest, [note])


def _kinds(
    folder: Path,
    judged: Sequence[tuple[Reading, MaskValues]],
    readings: Sequence[Reading],
    progress: Progress | None,
    facts: FileFacts,
) -> list[_Kind]:
    """The masks of 0 and one other value that are of the images of the first reading."""
    known = dict(judged)
    first = judged[0][0]
    every = [first, *readings]
    for pattern in first.further:
        head, tail = pattern.rpartition("/")[2].split("*")
        pairs = tuple(replace(pair, mask_affix=(head, tail)) for pair in first.pairs)
        every.append(replace(first, pairs=pairs))
    found: dict[str, tuple[Reading, MaskValues]] = {}
    for reading in every:
        pair = reading.pairs[0]
        same = [(one.images, one.image_affix) for one in reading.pairs]
        if (
            same != [(one.images, one.image_affix) for one in first.pairs]
            or pair.mask_pattern in found
        ):
            continue
        if pair.objects or re.search("object|instance", pair.mask_pattern, re.IGNORECASE):
            continue
        try:
            values = (
                known[reading]
                if reading in known
                else read_values(folder, reading, progress, facts)
            )
        except DataError:
            continue
        if _is_binary(values):
            found[pair.mask_pattern] = reading, values
    words = [_words(pattern) for pattern in found]
    common = set(words[0]).intersection(*words) | MASK_WORDS if words else set()
    labels = ["_".join(dict.fromkeys(word for word in one if word not in common)) for one in words]
    return [_Kind(label, *one) for label, one in zip(labels, found.values(), strict=True)]


def _words(pattern: str) -> list[str]:
    """In lower case, with numbers: "masks/eye/*_Eye2" -> masks, eye, eye2."""
    stem = re.sub(r"\.[A-Za-z]+$", "", pattern)
    return re.findall("[a-z0-9]+", re.sub(r"(?<=[a-z])(?=[A-Z])", " ", stem).lower())


def _keys(kind: _Kind) -> set[str]:
    """What a user may call masks of a kind by: their label, their folder, what their names have beside the image's."""
    pair = kind.reading.pairs[0]
    affix = "".join(pair.mask_affix)
    return {
        kind.label,
        pair.masks,
        pair.masks.rpartition("/")[2],
        affix,
        affix.strip("-_. "),
        kind.pattern,
    } - {""}


def _is_binary(values: MaskValues) -> bool:
    return not values.colored and (values.inside is not None or values.pixels.keys() == {"0"})


def _are_classes(labels: Sequence[str]) -> bool:
    """Whether these can be names of classes, and not of persons, numbers or masks."""
    plain = all(
        re.fullmatch("[a-z_]{2,}", label) and not names_mask(label)
        for label in map(str.lower, labels)
    )
    words = {word for label in labels for word in label.lower().split("_")}
    return (
        plain
        and len(set(labels)) == len(labels)
        and words.isdisjoint(BY_PERSON)
        and IGNORE_NAME not in labels
    )


def _one_place(readings: Sequence[Reading]) -> str | None:
    """The folder of images, with ANY where they are several that differ in one part; None where they differ more."""
    pairs = readings[0].pairs
    images = _with_any([pair.images for pair in pairs])
    masks = [_with_any([pair.masks for pair in reading.pairs]) for reading in readings]
    counts = {place.split("/").count(ANY) for place in (images, *masks) if place}
    return images if images and all(masks) and len(counts) == 1 else None


def _with_any(places: Sequence[str]) -> str | None:
    parts = [place.split("/") for place in places]
    if len({len(part) for part in parts}) > 1:
        return None
    columns = [set(column) for column in zip(*parts, strict=True)]
    joined = "/".join(ANY if len(column) > 1 else next(iter(column)) for column in columns)
    return joined if joined.split("/").count(ANY) <= 1 else None


def _tables(kinds: Sequence[_Kind], labels: Sequence[str], images: str) -> dict[str, Any]:
    """The keys of a dataset.toml that say where images and layers lie."""
    masks = [str(_with_any([pair.masks for pair in kind.reading.pairs])) for kind in kinds]
    apart = len(set(masks)) > 1
    layers = []
    for kind, label, place in zip(kinds, labels, masks, strict=True):
        prefix, suffix = kind.reading.pairs[0].mask_affix
        own = {"masks": place} if apart else {}
        layers.append({"class": label, **own, "prefix": prefix, "suffix": suffix})
    tables = {"images": images, **_image_affixes(kinds[0].reading), "layer": layers}
    return tables if apart else tables | {"masks": masks[0]}


def _image_affixes(reading: Reading) -> dict[str, str]:
    return {key: text for key, text in reading.affixes.items() if key.startswith("image_")}


def _listed(tables: Mapping[str, Any], folder: Path, classes: Sequence[str]) -> list[Pair]:
    """The images that have a mask, each with those that are there: class 1 is that of the first layer, and so on."""
    layers = [
        layer | {"class": name, "optional": True}
        for layer, name in zip(tables["layer"], classes, strict=True)
    ]
    values = {
        "name": "any",
        "splits": {"train": 1.0},
        "classes": ["-", *classes],
        "map": {"0": "-"},
        **tables,
        "layer": layers,
    }
    config = parse(DatasetToml, values, f"the layers of {folder}")
    return [pair for pair in list_pairs(config, folder) if pair.image and pair.mask]


def _numbers(pair: Pair) -> set[int]:
    """Which layers the masks of an image are, from 0."""
    return {label_map.ids[255] - 1 for _, label_map in _masks(pair)}


def _masks(pair: Pair) -> list[tuple[Path, Any]]:
    assert pair.mask
    return [(pair.mask, pair.label_map), *pair.layers]


def _inside(pair: Pair) -> list[tuple[int, np.ndarray]]:
    """The number of the layer and the pixels inside (H, W) bool, of each mask that can be read."""
    found = []
    for path, label_map in _masks(pair):
        try:
            ids = label_map.apply(read_mask(path))
        except DataError:
            continue
        found.append((label_map.ids[255] - 1, ids != label_map.ids[0]))
    return found if len({mask.shape for _, mask in found}) < 2 else []


def _sampled(pairs: Sequence[Pair]) -> Sequence[Pair]:
    return pairs[:: max(1, len(pairs) // SAMPLED)]


def _overlaps(pairs: Sequence[Pair], count: int) -> tuple[float, tuple[int, int] | None]:
    """The share of pixels that are in several masks, and the first two masks that are nearly the same."""
    several, total = 0, 0
    both, either = np.zeros((count, count)), np.zeros((count, count))
    for pair in _sampled(pairs):
        masks = _inside(pair)
        depth = np.sum([mask for _, mask in masks], axis=0) if masks else np.zeros(0, int)
        several, total = several + int((depth > 1).sum()), total + depth.size
        for first, one in masks:
            for second, other in masks:
                both[first, second] += (one & other).sum()
                either[first, second] += (one | other).sum()
    alike = np.triu(both > SAME * np.maximum(either, 1), k=1)
    found = [(int(first), int(second)) for first, second in np.argwhere(alike)]
    return several / max(1, total), next(iter(found), None)


def _has_empty(pairs: Sequence[Pair], number: int, least: int, facts: FileFacts) -> bool:
    """Whether a mask of this layer has no pixel inside."""
    paths = [
        path
        for pair in pairs
        for path, label_map in _masks(pair)
        if label_map.ids[255] - 1 == number
    ]
    read = [mask for mask in facts.masks(paths, colors=False) if not isinstance(mask, DataError)]
    return any(mask.raw.max(initial=0) < least for mask in read)


def _together(kinds: Sequence[_Kind]) -> MaskValues:
    """The values of all masks; the folders are those of the first."""
    pixels, alike = dict[str, int](), dict[str, int]()
    for kind in kinds:
        for sums, counts in ((pixels, kind.values.pixels), (alike, kind.values.alike)):
            for value, count in counts.items():
                sums[value] = sums.get(value, 0) + count
    exact = {
        value for kind in kinds for value in kind.values.pixels.keys() - kind.values.lossy.keys()
    }
    lossy = {
        value: n for kind in kinds for value, n in kind.values.lossy.items() if value not in exact
    }
    ordered = {value: pixels[value] for value in sorted(pixels, key=int)}
    return MaskValues(ordered, alike, kinds[0].values.folders, lossy, kinds[0].values.images)


def _question(
    folder: Path, kinds: Sequence[_Kind], same: tuple[int, int] | None, command: str
) -> AmbiguousData:
    patterns = [kind.pattern for kind in kinds]
    shown = ", ".join(patterns[:SHOWN]) + ", ..." * (len(patterns) > SHOWN)
    why = (
        f" {kinds[same[0]].pattern} and {kinds[same[1]].pattern} are nearly the same."
        if same
        else ""
    )
    labels = [kind.label or f"class_{number}" for number, kind in enumerate(kinds, start=1)]
    every = " ".join(
        f"--name {shlex.quote(f'{kind.pattern}={label}')}"
        for kind, label in zip(kinds, labels, strict=True)
    )
    readings = [
        (f"the masks in {name} alone", f"{command} --masks {shlex.quote(name)}")
        for name in patterns[:SHOWN]
    ]
    return AmbiguousData(
        f"{folder} has several masks for one image: {shown}.{why} Is each a class, or are they of the same things, as "
        "two persons drew them?",
        [*readings, ("a class for each, with these names or others", f"{command} {every}")],
    )
