"""Name the values of masks: by what they are, by a list beside the masks, and by the user."""

from collections.abc import Mapping, Sequence
from pathlib import Path

from featherseg.core.errors import ConfigError, DataError, did_you_mean
from featherseg.core.wording import counted
from featherseg.data.datasets.dataset_toml import IGNORE_NAME
from featherseg.data.discovery.class_lists import find_class_list
from featherseg.data.discovery.color_lists import (
    color_list_above,
    files_above,
    is_ignored,
    read_color_list,
)
from featherseg.data.discovery.mask_folders import placeholder
from featherseg.data.discovery.mask_values import COMMON, MAX_CLASSES, THRESHOLD, MaskValues
from featherseg.data.images.decoding import LOSSY
from featherseg.data.images.palettes import color_text

BINARY_NAMES = ("background", "foreground")
"""Names of the two values of binary masks."""


def name_values(
    folder: Path,
    masks: Sequence[str],
    values: MaskValues,
    names: Mapping[str, str],
    *,
    of_folder: bool,
    layered: bool,
) -> tuple[dict[str, str], list[str]]:
    """Return ({raw value: class name}, notes on what was assumed).

    Args:
        masks: The folders of masks, near which a list of names is searched.
        names: {raw value: class name}, as the user gives them.
        of_folder: The class of a mask follows from its folder, so that 0 is the background.
        layered: The masks are layers, which no list names.

    Raises:
        DataError: The values cannot be classes.
        ConfigError: The user names a value that no mask has.
    """
    raw_map = map_values(folder, values, of_folder, names)
    listed, notes = ({}, []) if layered else _listed_names(folder, masks, values, raw_map, names)
    if listed:
        raw_map |= listed
        if not values.colored:  # class ids in the order of the list
            in_order = sorted(raw_map.items(), key=lambda item: (int(item[0]) < 0, int(item[0])))
            raw_map = dict(in_order)

    def share(raw_values: Sequence[str]) -> str:
        return f"{sum(values.pixels[value] for value in raw_values) / values.total:.2%}"

    if raw_map.get("255") == IGNORE_NAME and "255" not in names:
        notes.append(
            f"255 ({share(['255'])} of the pixels) is taken for not labelled; --name 255=NAME if "
            "it is a class"
        )
    notes += [
        f"{value} ({share([value])} of the pixels) is taken for no data; --name {value}=NAME if "
        "it is a class"
        for value in raw_map
        if value.startswith("-") and value not in names
    ]
    if values.smoothed:
        between = [value for value in values.pixels if value not in ("0", "255")]
        notes.append(
            f"the masks are smoothed: {share(between)} of the pixels are neither 0 nor 255. "
            f"threshold = {THRESHOLD} reads values from there on as 255, lower ones as 0"
        )
    if strays := [value for value in values.strays if value not in raw_map]:
        notes.append(
            f"masks are {LOSSY}. {counted(len(strays), 'value')} along their edges "
            f"({share(strays)} of the pixels) are taken for no classes, and --fix ignores them; "
            "--name VALUE=NAME if one is a class"
        )
    return raw_map, notes


def map_values(
    folder: Path, values: MaskValues, of_folder: bool, names: Mapping[str, str]
) -> dict[str, str]:
    """Return {raw value: class name} for the values that can be classes; see `name_values`."""
    # Which values are classes
    classes = [
        value for value in values.pixels if not value.startswith("-") and value not in values.strays
    ]
    if values.smoothed:
        classes = ["0", "255"]
    elif len(classes) > MAX_CLASSES:
        classes = [value for value in classes if values.pixels[value] >= COMMON * values.total]
        if len(classes) < 2:
            raise DataError(
                f"the masks in {folder} have {len(values.pixels)} different values, of which "
                f"{len(classes)} cover {COMMON:.1%} of the pixels. Expected masks whose values are "
                "classes: are these photographs, instance ids, or masks saved as JPEG?"
            )

    # Their names where nobody gives one
    if of_folder:
        raw_map = {"0": "background"}
    elif len(classes) == 2 and classes[0] in ("0", "#000000"):
        raw_map = dict(zip(classes, BINARY_NAMES, strict=True))
    else:
        # Greys that are spread evenly up to 255 are classes; else 255 is not labelled
        last = len(classes) - 1
        evenly_spread = (
            last > 1
            and not values.colored
            and all(abs(int(value) - 255 * i / last) <= 1 for i, value in enumerate(classes))
        )
        raw_map = {
            value: IGNORE_NAME if value == "255" and not evenly_spread else placeholder(value)
            for value in classes
        }
    no_data = [value for value in values.pixels if value.startswith("-")]  # of rasters of GIS
    raw_map |= dict.fromkeys(no_data, IGNORE_NAME)

    # The names that the user gives, for a value or for a class
    for given, name in names.items():
        value = _raw_value(given, values)
        same_class = [raw for raw, of_class in raw_map.items() if of_class == given]
        if value not in values.pixels and value not in raw_map and not same_class:
            known = [
                *raw_map,
                *(of_class for of_class in raw_map.values() if of_class != IGNORE_NAME),
            ]
            raise ConfigError(
                f"--name {given}={name}: the masks in {folder} have no value or class {given}."
                f"{did_you_mean(given, known)}"
            )
        raw_map |= dict.fromkeys(same_class or [value], name)
    return raw_map


def _raw_value(text: str, values: MaskValues) -> str:
    """Return what a user types for a value as it stands in `values`: "ff0000" as "#ff0000"."""
    return f"#{text.removeprefix('#').lower()}" if values.colored else text


def _listed_names(
    folder: Path,
    masks: Sequence[str],
    values: MaskValues,
    raw_map: Mapping[str, str],
    names: Mapping[str, str],
) -> tuple[dict[str, str], list[str]]:
    """Return ({raw value: class name} by a list near the masks, notes), for values without a name.

    A list that cannot be read names nothing; a note says why.
    """
    try:
        if values.colored:
            path = color_list_above(folder, masks)
            colors = read_color_list(path) if path else {}
            listed = {
                color_text(color): name for name, of_class in colors.items() for color in of_class
            }
        else:
            path, listed = _class_names(folder, masks, values, raw_map)
    except DataError as error:
        return {}, [f"not used: {error}"]
    if path is None:
        return {}, []

    named = {_raw_value(text, values) for text in names}
    nameless = {
        raw
        for raw in listed
        if raw_map.get(raw) in (None, IGNORE_NAME, placeholder(raw), *BINARY_NAMES)
    } - named
    new = {raw: name for raw, name in listed.items() if raw in nameless}
    notes = [f"{counted(len(set(new.values())), 'name')} of classes from {path.name}"]
    notes += [
        f"{name!r} is ignored: neither trained on nor scored; --name "
        f"{raw.removeprefix('#')}={name} if it is a class"
        for raw, name in new.items()
        if is_ignored(name) and name != IGNORE_NAME
    ]
    return {raw: IGNORE_NAME if is_ignored(name) else name for raw, name in new.items()}, notes


def _class_names(
    folder: Path, masks: Sequence[str], values: MaskValues, raw_map: Mapping[str, str]
) -> tuple[Path | None, dict[str, str]]:
    """Return the list of names nearest to the masks, and {raw value: its name there}.

    Raises DataError if lists beside several folders of masks differ, or a list does not fit.
    """
    nearest = (
        next(filter(None, map(find_class_list, files_above(folder, [place]))), None)
        for place in masks
    )
    lists = [class_list for class_list in nearest if class_list]
    if not lists:
        return None, {}
    for other in lists[1:]:
        if other.names != lists[0].names:
            raise DataError(f"{lists[0].path} and {other.path} name the classes differently")
    present = {
        255 if values.smoothed and value != "0" else int(value)
        for value in raw_map
        if int(value) >= 0
    }
    return lists[0].path, {str(value): name for value, name in lists[0].named(present).items()}
