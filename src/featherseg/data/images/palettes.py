"""Colours of classes: as text, and a palette for datasets that name none."""

import re

import numpy as np

from featherseg.core.types import Color

CLASSES_KEY = "classes"
"""The text of a predicted PNG mask with the names of its classes as JSON."""


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


def default_palette(classes: int) -> list[Color]:
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
