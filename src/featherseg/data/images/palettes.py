"""Colours of classes: as text, other ones than their own, and some for datasets that name none."""

import re
from collections.abc import Mapping, Sequence
from dataclasses import replace
from types import MappingProxyType

import numpy as np

from featherseg.core.errors import ConfigError, unknown
from featherseg.core.types import ClassInfo, Color

CLASSES_KEY = "classes"
"""The text of a predicted PNG mask with the names of its classes as JSON."""

BACKGROUND_NAMES = ("background", "_background_", "__background__")
"""Names, in lower case, that lists and tools give to pixels without an annotation."""

BLACK: Color = (0, 0, 0)


def parse_color(text: str) -> Color:
    """Return `"#3a7d2c"` as (58, 125, 44). Raises ValueError."""
    if not re.fullmatch(r"#[0-9a-fA-F]{6}", text):
        raise ValueError(
            f"{text!r} is not a colour: expected '#' and six hexadecimal digits, such as '#3a7d2c'"
        )
    return int(text[1:3], 16), int(text[3:5], 16), int(text[5:7], 16)


def color_text(color: Color) -> str:
    """Return (58, 125, 44) as `"#3a7d2c"`."""
    return "#{:02x}{:02x}{:02x}".format(*color)


def color_numbers(pixels: np.ndarray) -> np.ndarray:
    """Return colours (H, W, 3) uint8 as one number 0xRRGGBB per pixel, (H, W) int32."""
    red, green, blue = (pixels[:, :, band].astype(np.int32) for band in range(3))
    return red << 16 | green << 8 | blue


def is_background(name: str) -> bool:
    """Return whether a class of that name stands for pixels without an annotation."""
    return name.lower() in BACKGROUND_NAMES


def class_colors(
    names: Sequence[str], known: Mapping[str, Color | None] = MappingProxyType({})
) -> dict[str, Color]:
    """Return a colour for each class, all different.

    A class has its known colour if no class before it has that one, and it is not black, which no
    overlay shows. Otherwise a background is black, and other classes have colours of
    `bright_palette`. At most 255 classes.
    """
    reserved = {BLACK, *known.values()}
    spare = (color for color in bright_palette() if color not in reserved)
    colors: dict[str, Color] = {}
    for name in names:
        color = known.get(name) or BLACK
        if color in colors.values() or (color == BLACK and not is_background(name)):
            color = next(spare)
        colors[name] = color
    return colors


def recolored(classes: Sequence[ClassInfo], palette: str | None) -> tuple[ClassInfo, ...]:
    """Return the classes in other colours.

    Args:
        classes: The classes.
        palette: "bright" for the colours of `class_colors`, "CLASS=#rrggbb,..." for those of some
            classes; None: their own.

    Raises:
        ConfigError: The text is neither, or names a class that is missing.
    """
    if palette is None:
        return tuple(classes)
    names = [info.name for info in classes]
    if palette == "bright":
        colors = class_colors(names)
        return tuple(replace(info, color=colors[info.name]) for info in classes)
    changed = dict[str, Color]()
    for row in palette.split(","):
        name, _, text = row.rpartition("=")
        try:
            color = parse_color(text.strip())
        except ValueError:
            raise ConfigError(
                f"palette {palette!r}: expected bright, or colours of classes such as "
                f"{names[0]}=#d55e00."
            ) from None
        if name.strip() not in names:
            raise unknown("class", name.strip(), names)
        changed[name.strip()] = color
    return tuple(replace(info, color=changed.get(info.name, info.color)) for info in classes)


def bright_palette() -> list[Color]:
    """Return at least 255 different colours without black, for classes that have none.

    The first seven are those of Okabe and Ito (Color Universal Design, 2008), which readers with
    any colour vision tell apart; then others as far from them as possible; then those of Pascal
    VOC. Vivid ones come first, so that a plant is not green on green leaves.
    """
    return list(dict.fromkeys((*map(parse_color, _BRIGHT), *voc_palette(255))))


_BRIGHT = (
    "#d55e00", "#56b4e9", "#f0e442", "#0072b2", "#e69f00", "#cc79a7", "#009e73",
    "#6020ff", "#00e0a0", "#c020a0", "#8080ff", "#c00000", "#80ffa0", "#e040e0",
    "#00e0ff", "#e0c060", "#ff80c0", "#60a0ff", "#ffff80", "#00c080",
)  # fmt: skip


def voc_palette(classes: int) -> list[Color]:
    """Return different colours without black: entries 1, 2, ... of the PASCAL VOC colour map.

    The bits of an entry's number go to red, green and blue in turn, to the highest colour bit
    first, so that the colours of few classes are far apart. At most 255 classes.
    """
    return [_voc_color(index) for index in range(1, classes + 1)]


def _voc_color(index: int) -> Color:
    red = green = blue = 0
    for bit in range(7, -1, -1):
        red |= (index & 1) << bit
        green |= (index >> 1 & 1) << bit
        blue |= (index >> 2 & 1) << bit
        index >>= 3
    return red, green, blue
