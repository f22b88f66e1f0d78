"""Images of masks: index PNG, colours, overlay with legend. Class names come from strangers: shown, never trusted.

The font is Pillow's own, so that a drawing looks alike on every machine.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from io import BytesIO
from pathlib import Path

import numpy as np
from PIL import Image, ImageDraw, ImageFont

from featherseg.core.files import write_bytes
from featherseg.core.types import ClassInfo

VOID_COLOR = (0, 0, 0)
"""Colour of every value that is no class."""

LONGEST_NAME = 28
"""Characters after which a class name is cut in a legend."""

SMALLEST_SHARE = 0.0005
"""Share of the image under which a class is left out of a legend: it would read 0.0 %."""

_PAPER, _INK, _FAINT = (250, 250, 248), (28, 28, 30), (120, 120, 124)


def palette(classes: Sequence[ClassInfo]) -> np.ndarray:
    """(256, 3) uint8: the colour of every mask value."""
    colors = np.full((256, 3), VOID_COLOR, dtype=np.uint8)
    colors[: len(classes)] = [info.color for info in classes]
    return colors


def color_mask(mask: np.ndarray, classes: Sequence[ClassInfo]) -> Image.Image:
    """(H, W) uint8 class ids -> an RGB image in the classes' colours."""
    return index_image(mask, classes).convert("RGB")  # an index into an array would take 8 bytes a pixel on the way


def index_image(mask: np.ndarray, classes: Sequence[ClassInfo]) -> Image.Image:
    """(H, W) uint8 class ids as a palette image: viewers show the colours, Pillow reads the ids.

    OpenCV expands palettes: read such a file with Pillow, `np.array(Image.open(path))`.
    """
    image = Image.fromarray(mask)
    image.putpalette(palette(classes).tobytes())  # now of mode P, the values unchanged
    return image


def save_index_png(mask: np.ndarray, classes: Sequence[ClassInfo], path: Path) -> None:
    """Write (H, W) uint8 class ids as a palette PNG, as `index_image` draws it."""
    save_image(index_image(mask, classes), path)


def save_image(image: Image.Image, path: Path) -> None:
    """Write a PNG atomically. Raises FeathersegError where the disk refuses."""
    write_bytes(path, png_bytes(image))


def png_bytes(image: Image.Image) -> bytes:
    """The image as a PNG file."""
    file = BytesIO()
    image.save(file, format="PNG")
    return file.getvalue()


def rgb_view(image: np.ndarray) -> Image.Image:
    """(H, W, C) uint8 or uint16 as an RGB image to look at: of other than three channels the first, in grey."""
    eight_bit = (image >> 8).astype(np.uint8) if image.dtype == np.uint16 else image
    if eight_bit.shape[2] == 3:
        return Image.fromarray(np.ascontiguousarray(eight_bit))
    return Image.fromarray(np.ascontiguousarray(eight_bit[:, :, 0])).convert("RGB")


def overlay(image: np.ndarray, mask: np.ndarray, classes: Sequence[ClassInfo], opacity: float = 0.5) -> Image.Image:
    """The image with the mask's colours over it; opacity 0 shows the image alone, 1 the colours alone."""
    return Image.blend(rgb_view(image), color_mask(mask, classes), opacity)


@dataclass(frozen=True)
class _Entry:
    color: tuple[int, int, int]
    name: str
    share: str


def with_legend(image: Image.Image, classes: Sequence[ClassInfo], shares: Mapping[str, float]) -> Image.Image:
    """The image on a sheet, under it the classes it holds: swatch, name and share, the largest first.

    Text grows with the image; the sheet is wider than an image that is too narrow for the longest name.
    """
    shown = sorted((c for c in classes if shares[c.name] >= SMALLEST_SHARE), key=lambda c: -shares[c.name])
    entries = [_Entry(c.color, printable(c.name), f"{shares[c.name]:.1%}") for c in shown]
    text = min(max(round(max(image.size) / 45), 12), 120)  # pixels
    font = ImageFont.load_default(text)
    names = max((font.getlength(entry.name) for entry in entries), default=0.0)
    cell = round(names + font.getlength("100.0%") + 3.2 * text)  # swatch, name, share, gaps
    columns = max(1, min(len(entries), (image.width - text) // cell))
    rows = -(-len(entries) // columns)
    line = round(1.7 * text)
    width = max(image.width, columns * cell + text)
    sheet = Image.new("RGB", (width, image.height + rows * line + text), _PAPER)
    sheet.paste(image, ((width - image.width) // 2, 0))
    pen = ImageDraw.Draw(sheet)
    for number, entry in enumerate(entries):
        column, row = divmod(number, rows)
        corner = (text + column * cell, image.height + text // 2 + row * line)
        _draw_entry(pen, entry, corner, text, font, name_width=names)
    return sheet


def _draw_entry(
    pen: ImageDraw.ImageDraw,
    entry: _Entry,
    corner: tuple[int, int],
    text: int,
    font: ImageFont.FreeTypeFont | ImageFont.ImageFont,
    name_width: float,
) -> None:
    left, top = corner
    middle = top + round(0.85 * text)
    swatch = (left, middle - text // 2, left + text, middle - text // 2 + text)
    pen.rounded_rectangle(swatch, radius=text // 5, fill=entry.color, outline=_FAINT)
    pen.text((left + 1.5 * text, middle), entry.name, fill=_INK, font=font, anchor="lm")
    pen.text((left + 2.0 * text + name_width, middle), entry.share, fill=_FAINT, font=font, anchor="lm")


def printable(name: str) -> str:
    """A class name as it may be drawn or printed: one line, no control or direction characters, not too long."""
    clean = "".join(character if character.isprintable() else " " for character in name).strip()
    return clean if len(clean) <= LONGEST_NAME else clean[: LONGEST_NAME - 3] + "..."
