"""The lists of classes and their colours that lie beside masks in colours."""

import re
from collections.abc import Iterable
from pathlib import Path

from featherseg.core.errors import DataError
from featherseg.core.files import read_bounded
from featherseg.core.types import Color
from featherseg.data.images.palettes import color_text, default_palette

NAMES = ("labelmap.txt", "class_dict.csv", "label_colors.txt", "labelcolors.txt")
"""What such a list is called: that of CVAT and Datumaro ("road:128,64,128::"), of many releases ("road,128,64,128"), of
CamVid ("128 64 128 road").
"""

BACKGROUND_NAMES = ("background", "_background_", "__background__")
"""What lists and tools call, in lower case, the pixels that carry no annotation."""

IGNORE_NAMES = ("ignore", "__ignore__", "_ignore_", "void", "unlabeled", "unlabelled")
"""Classes, in lower case, whose pixels are neither trained on nor scored."""


def is_background(name: str) -> bool:
    """Whether a class of that name is what carries no annotation."""
    return name.lower() in BACKGROUND_NAMES


def is_ignored(name: str) -> bool:
    """Whether a class of that name is to be ignored."""
    return name.lower() in IGNORE_NAMES


def find_color_list(files: Iterable[Path]) -> Path | None:
    """The list among files, the first of NAMES that there is."""
    by_name = {path.name.lower(): path for path in files}
    return next((by_name[name] for name in NAMES if name in by_name), None)


def read_color_list(path: Path) -> dict[str, list[Color]]:
    """Class -> its colours, in the order of the list: lines of one name are one class.

    Raises DataError for a file that cannot be read, a line that is none of a class, and two classes of one colour, of
    which one is trained on.
    """
    try:
        text = read_bounded(path).decode("utf-8-sig")
    except (OSError, ValueError) as error:
        raise DataError(f"{path} cannot be read: {error}.") from error
    found: dict[str, list[Color]] = {}
    for number, line in enumerate(text.splitlines(), start=1):
        heads = re.fullmatch(r"name(?:[\s,;:].*)?", line.strip().lower()) and not re.search(
            r"\b\d|::", line
        )
        if not line.strip() or line.lstrip().startswith("#") or heads:
            continue
        three = r"\s*(?P<r>\d{1,3})\s*[, \t]\s*(?P<g>\d{1,3})\s*[, \t]\s*(?P<b>\d{1,3})\s*"
        match = re.fullmatch(rf"(?P<name>[^:]+):{three}:.*", line) or re.fullmatch(
            rf"(?P<name>[^,]+),{three}", line
        )
        match = match or re.fullmatch(rf"{three}(?P<name>\S.*)", line)
        if match is None:
            if match := re.fullmatch(
                r"(?P<name>[^:]+)::.*", line
            ):  # without a colour: that of Pascal VOC
                color = ((0, 0, 0), *default_palette(len(found)))[len(found)]
                found.setdefault(match["name"].strip(), [color])
                continue
            raise DataError(
                f"{path}, line {number}: {line[:80]!r} is no class with a colour, such as road:128,64,128::"
            )
        color = int(match["r"]), int(match["g"]), int(match["b"])
        if max(color) > 255:
            raise DataError(
                f"{path}, line {number}: {line[:80]!r} has a colour outside of 0 to 255."
            )
        found.setdefault(match["name"].strip(), []).append(color)
    owners: dict[Color, str] = {}
    for name, color in ((name, color) for name, colors in found.items() for color in colors):
        other = owners.setdefault(color, name)
        if other != name and not all(
            is_background(one) or is_ignored(one) for one in (name, other)
        ):
            raise DataError(
                f"{path} gives {other!r} and {name!r} one colour, {color_text(color)}: which of them a pixel is cannot "
                "be told. Remove the one that is not in the masks, or give both one name."
            )
    return found
