"""The lists of classes and their colours that lie beside masks in colours."""

import re
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path

from featherseg.core.errors import DataError
from featherseg.core.files import read_bounded
from featherseg.core.types import Color
from featherseg.data.images.palettes import color_text, is_background, voc_palette

NAMES = ("labelmap.txt", "class_dict.csv", "label_colors.txt", "labelcolors.txt")
"""File names of lists of CVAT and Datumaro ("road:128,64,128::"), many releases
("road,128,64,128") and CamVid ("128 64 128 road").
"""

IGNORE_NAMES = ("ignore", "__ignore__", "_ignore_", "void", "unlabeled", "unlabelled")
"""Names, in lower case, of classes whose pixels are neither trained on nor scored."""

_RGB = r"\s*(?P<r>\d{1,3})\s*[, \t]\s*(?P<g>\d{1,3})\s*[, \t]\s*(?P<b>\d{1,3})\s*"
_LINES = (
    re.compile(rf"(?P<name>[^:]+):{_RGB}:.*"),
    re.compile(rf"(?P<name>[^,]+),{_RGB}"),
    re.compile(rf"{_RGB}(?P<name>\S.*)"),
)
"""The lines of a list that give a class and its colour."""


def is_ignored(name: str) -> bool:
    """Return whether a class of that name is ignored."""
    return name.lower() in IGNORE_NAMES


def find_color_list(files: Iterable[Path]) -> Path | None:
    """Return the first of NAMES that is among the files."""
    by_name = {path.name.lower(): path for path in files}
    return next((by_name[name] for name in NAMES if name in by_name), None)


def color_list_above(folder: Path, masks: Sequence[str]) -> Path | None:
    """Return the list of colours beside or above the folders of masks, within `folder`."""
    return next(filter(None, map(find_color_list, files_above(folder, masks))), None)


def files_above(folder: Path, masks: Sequence[str]) -> Iterator[list[Path]]:
    """Yield the files beside the masks, and those of each folder above them within `folder`."""
    places = [
        above
        for place in masks
        for above in (folder / place, *(folder / place).parents)
        if above.is_relative_to(folder) and above.is_dir()  # it may be a pattern: data/*/masks
    ]
    for place in dict.fromkeys(places):
        yield sorted(path for path in place.iterdir() if path.is_file())


def read_color_list(path: Path) -> dict[str, list[Color]]:
    """Return {class: its colours} in the order of the list; lines with the same name are one class.

    Raises DataError for a file or line that cannot be read, and if two classes share a colour and
    one of them is trained on.
    """
    try:
        text = read_bounded(path).decode("utf-8-sig")
    except (OSError, ValueError) as error:
        raise DataError(f"{path} cannot be read: {error}.") from error
    colors: dict[str, list[Color]] = {}
    for number, line in enumerate(text.splitlines(), start=1):
        is_head = re.fullmatch(r"name(?:[\s,;:].*)?", line.strip().lower()) and not re.search(
            r"\b\d|::", line
        )
        if not line.strip() or line.lstrip().startswith("#") or is_head:
            continue
        match = next(filter(None, (pattern.fullmatch(line) for pattern in _LINES)), None)
        if match is None:
            # A class without a colour has that of Pascal VOC
            if match := re.fullmatch(r"(?P<name>[^:]+)::.*", line):
                color = ((0, 0, 0), *voc_palette(len(colors)))[len(colors)]
                colors.setdefault(match["name"].strip(), [color])
                continue
            raise DataError(
                f"{path}, line {number}: {line[:80]!r} is no class with a colour, such as "
                "road:128,64,128::"
            )
        color = int(match["r"]), int(match["g"]), int(match["b"])
        if max(color) > 255:
            raise DataError(
                f"{path}, line {number}: {line[:80]!r} has a colour outside of 0 to 255."
            )
        colors.setdefault(match["name"].strip(), []).append(color)

    owners: dict[Color, str] = {}
    for name, color in ((name, color) for name, of_class in colors.items() for color in of_class):
        other = owners.setdefault(color, name)
        both = (name, other)
        if other != name and not all(is_background(one) or is_ignored(one) for one in both):
            raise DataError(
                f"{path} gives {other!r} and {name!r} the same colour, {color_text(color)}, so "
                "their pixels cannot be told apart. Remove the one that is not in the masks, or "
                "give both the same name."
            )
    return colors
