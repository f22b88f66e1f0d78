"""Choose one of several ways to read a folder of images and masks."""

import shlex
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from featherseg.core.errors import AmbiguousData, DataError
from featherseg.core.files import mentions
from featherseg.core.types import Progress
from featherseg.core.wording import first_few
from featherseg.data.discovery.color_lists import color_list_above, files_above
from featherseg.data.discovery.file_facts import FileFacts
from featherseg.data.discovery.layouts import Reading, find_readings
from featherseg.data.discovery.mask_values import MAX_CLASSES, MaskValues, read_values
from featherseg.data.discovery.naming import names_objects
from featherseg.data.discovery.proposed_layers import LayeredReading, read_layers
from featherseg.data.panoptic.files import SEGMENTS

NEARLY = 0.9
"""Share of the first reading's images that another reading must have to be considered."""

MOST_JSONS = 20
"""Number of JSON files that are searched for segments: other tools write one for each image."""

SHOWN = 3
"""Number of readings for which a message gives the command."""

Candidate = tuple[Reading, MaskValues]
"""A way to read a folder, and the values of its masks."""


@dataclass(frozen=True)
class ReadingChoice:
    """The chosen reading of a folder, the values of its masks, and the other readings.

    `layers` describes the masks of each image if it has several.
    """

    reading: Reading
    values: MaskValues
    others: list[Candidate]
    layers: LayeredReading | None


def choose_reading(
    folder: Path,
    masks: str | None,
    names: Mapping[str, str],
    command: str,
    progress: Progress | None,
    facts: FileFacts,
) -> ReadingChoice:
    """Return the reading whose masks have the most classes; numbers are preferred to colours.

    Args:
        masks: The folder of masks that the user names.
        names: {raw value, folder or suffix of masks: class name}, as the user gives them.
        command: The command that reads the folder; messages add options to it.

    Raises:
        DataError: No mask can be read, an image has several masks that are no layers, or the
            values are ids of segments.
        AmbiguousData: Two readings are equally likely.
    """
    # Read the masks of every reading that has nearly all images
    readings = find_readings(folder, masks)
    candidates, refusal = list[Candidate](), DataError("")
    for reading in readings:
        if reading.count >= NEARLY * readings[0].count:
            try:
                candidates.append((reading, read_values(folder, reading, progress, facts)))
            except DataError as error:
                refusal = error
    if not candidates:
        raise refusal
    candidates.sort(key=_likeliest)
    reading, values = candidates[0]
    others = [candidate for candidate in candidates[1:] if not candidate[1].segment_ids]

    # Several masks of one image may be layers
    if masks is None or reading.pairs[0].objects:
        layers = read_layers(folder, candidates, readings, names, command, progress, facts)
        if layers is not None:
            _refuse_segment_ids(folder, reading, layers.values)
            return ReadingChoice(reading, layers.values, others, layers)

    # Else one of them must be the likeliest
    colored = {other.pairs[0].mask_pattern: of_other.colored for other, of_other in others}
    further = [
        pattern
        for pattern in reading.further
        if colored.get(pattern, values.colored) == values.colored
    ]
    if masks is None and values.classes <= 2 and further:
        pattern = reading.pairs[0].mask_pattern
        raise DataError(
            f"{folder} has several masks for one image: {', '.join((pattern, *further))}. Expected "
            "one with a value for each class: join them, or read one kind alone with "
            f"--masks {shlex.quote(pattern)}."
        )
    ties = [other for other in others if _likeliest(other) == _likeliest(candidates[0])]
    if masks is None and ties:
        places = [masks_option(reading, ties[0][0])]
        places += [masks_option(other, reading) for other, _ in ties]
        raise AmbiguousData(
            f"{folder} has masks of the same images in {first_few(places)}, with the same number "
            "of values. Which masks should a model learn?",
            [
                (f"the masks in {place}", f"{command} --masks {shlex.quote(place)}")
                for place in places[:SHOWN]
            ],
        )
    _refuse_segment_ids(folder, reading, values)
    return ReadingChoice(reading, values, others, None)


def masks_option(reading: Reading, other: Reading) -> str:
    """Return the value of --masks that selects one reading and not the other."""
    pair = reading.pairs[0]
    name = pair.masks.rpartition("/")[2]
    if pair.masks == other.pairs[0].masks:
        return pair.mask_pattern
    same_name = all(pair.masks.rpartition("/")[2] == name for pair in reading.pairs)
    return name if same_name else pair.masks


def _likeliest(candidate: Candidate) -> tuple[bool, int, bool]:
    """Sort key: more classes first, then numbers before colours.

    Masks of objects and masks with too many values come last.
    """
    reading, values = candidate
    pattern = reading.pairs[0].mask_pattern
    objects = names_objects(pattern) or values.classes > MAX_CLASSES or values.segment_ids
    return objects, -values.classes, values.colored


def _refuse_segment_ids(folder: Path, reading: Reading, values: MaskValues) -> None:
    """Raise DataError if a panoptic JSON lists the values, or most values occur in one mask."""
    masks = [pair.masks for pair in reading.pairs]
    if values.colored and (path := _panoptic_json(folder, masks, values.segment_ids)):
        raise DataError(
            f"the PNGs in {folder / masks[0]} contain ids that {path} lists as segments. Make a "
            f"dataset of them: featherseg convert {shlex.quote(str(folder))} --out OUT"
        )
    if values.segment_ids and not (values.colored and color_list_above(folder, masks)):
        kind = "colours" if values.colored else "values"
        raise DataError(
            f"the masks in {folder / masks[0]} look like ids of segments, because "
            f"{values.in_one_mask} of their {len(values.pixels)} {kind} occur in one mask each. "
            f"Put the panoptic JSON that lists them beside the folder, as {masks[0]}.json; if they "
            f"are classes, list these in {folder / 'class_dict.csv'} as lines NAME,R,G,B."
        )


def _panoptic_json(folder: Path, masks: Sequence[str], any_name: bool) -> Path | None:
    """Return the JSON beside or above the masks, or in annotations/, that lists their segments.

    It has the name of the masks' folder; with `any_name` also another one, unless a folder has it.
    """
    places = [*masks, *({"annotations"} if (folder / "annotations").is_dir() else ())]
    names = {place.rpartition("/")[2] for place in masks}
    paths = {
        path
        for files in files_above(folder, places)
        for path in files
        if path.suffix.lower() == ".json"
        and (path.stem in names or (any_name and not path.with_suffix("").is_dir()))
    }
    likely = sorted(
        paths, key=lambda path: (path.stem not in names, "panoptic" not in path.stem.lower(), path)
    )
    return next((path for path in likely[:MOST_JSONS] if mentions(path, SEGMENTS.encode())), None)
