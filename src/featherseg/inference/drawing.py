"""Images of masks: index PNG, colours, overlay with legend, and objects with colours and outlines.

Class names come from others: they are shown, never trusted. The font is Pillow's, so that a drawing
looks alike on every machine.
"""

import json
import struct
import zlib
from collections.abc import Mapping, Sequence
from io import BytesIO
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image, ImageDraw, ImageFont
from PIL.PngImagePlugin import PngInfo, putchunk

from featherseg.core.files import write_bytes
from featherseg.core.types import IGNORE, ClassInfo
from featherseg.data.images.georeference import Georeference, geotiff_bytes
from featherseg.data.images.image_range import eight_bits
from featherseg.data.images.palettes import CLASSES_KEY, is_background
from featherseg.layers.normalise import FULL_RANGE

VOID_COLOR = (0, 0, 0)
"""Colour of values that are no class."""

LONGEST_NAME = 28
"""Most characters of a class name in a legend."""

SMALLEST_SHARE = 0.0005
"""Smallest share of a class in a legend: below, it would be 0.0 %."""

_ABOVE = 2  # PNG's filter that stores the difference to the row above

_PAPER, _INK, _FAINT = (250, 250, 248), (28, 28, 30), (120, 120, 124)
_WRONG = (220, 20, 60)


def palette(classes: Sequence[ClassInfo]) -> np.ndarray:
    """Return the colour of every mask value, (256, 3) uint8."""
    colors = np.full((256, 3), VOID_COLOR, dtype=np.uint8)
    colors[: len(classes)] = [info.color for info in classes]
    return colors


def color_mask(mask: np.ndarray, classes: Sequence[ClassInfo]) -> Image.Image:
    """Return class ids (H, W) uint8 as an RGB image in the classes' colours."""
    # Indexing an array would take 8 bytes per pixel
    return index_image(mask, classes).convert("RGB")


def index_image(mask: np.ndarray, classes: Sequence[ClassInfo]) -> Image.Image:
    """Return class ids (H, W) uint8 as a palette image: viewers show colours, Pillow reads ids.

    OpenCV expands palettes: read such a file with Pillow, `np.array(Image.open(path))`. Its text
    "classes" has the names of the classes, in JSON.
    """
    image = Image.fromarray(mask)
    image.putpalette(palette(classes).tobytes())  # now of mode P, the values unchanged
    image.info[CLASSES_KEY] = json.dumps([info.name for info in classes])
    return image


def mask_bytes(
    mask: np.ndarray, classes: Sequence[ClassInfo], georeference: Georeference | None = None
) -> bytes:
    """Return the file of a mask (H, W) uint8: a palette PNG, or a palette TIFF at a place."""
    if georeference is None:
        return png_bytes(index_image(mask, classes))
    return geotiff_bytes(mask, classes, palette(classes).tobytes(), georeference)


def save_index_png(mask: np.ndarray, classes: Sequence[ClassInfo], path: Path) -> None:
    """Write class ids (H, W) uint8 as a palette PNG, as `index_image` draws it."""
    write_bytes(path, mask_bytes(mask, classes))


def save_image(image: Image.Image, path: Path) -> None:
    """Write a PNG atomically. Raises FeathersegError if the disk refuses."""
    write_bytes(path, png_bytes(image))


def png_bytes(image: Image.Image) -> bytes:
    """Return the image as a PNG file, which is compressed by runs to save time.

    A mask of CamVid takes a third of the time, and 6 kB instead of 5. For RGB Pillow tries five
    filters on every row; here one is used: an overlay of CamVid takes 5 ms and 203 kB instead of 40
    ms and 176 kB, colours 1 ms instead of 4.
    """
    file = BytesIO()
    if image.mode != "RGB":
        about = PngInfo()
        if CLASSES_KEY in image.info:
            about.add_text(CLASSES_KEY, image.info[CLASSES_KEY])
        image.save(file, format="PNG", compress_type=zlib.Z_RLE, pnginfo=about)
        return file.getvalue()
    pixels = np.asarray(image).reshape(image.height, -1)  # (H, 3 W)
    rows = np.full((image.height, 1 + pixels.shape[1]), _ABOVE, dtype=np.uint8)
    rows[0, 1:] = pixels[0]
    np.subtract(pixels[1:], pixels[:-1], out=rows[1:, 1:])
    packer = zlib.compressobj(1, strategy=zlib.Z_RLE)
    file.write(b"\x89PNG\r\n\x1a\n")
    header = struct.pack(">IIBBBBB", *image.size, 8, 2, 0, 0, 0)  # 8 bits, RGB, not interlaced
    putchunk(file, b"IHDR", header)
    putchunk(file, b"IDAT", packer.compress(rows.data), packer.flush())
    putchunk(file, b"IEND")
    return file.getvalue()


def rgb_view(image: np.ndarray, image_range: int = FULL_RANGE) -> Image.Image:
    """Return (H, W, C) uint8 or uint16 as an RGB image to look at.

    Images of other channels than three show the first one, in grey. 16-bit values from image_range
    on are white.
    """
    eight_bit = eight_bits(image, image_range)
    if eight_bit.shape[2] == 3:
        return Image.fromarray(np.ascontiguousarray(eight_bit))
    return Image.fromarray(np.ascontiguousarray(eight_bit[:, :, 0])).convert("RGB")


def is_clear(info: ClassInfo) -> bool:
    """Return whether an overlay leaves the pixels of a class as they are.

    These are classes named background, whatever their colour, and classes in black, which would
    darken the image.
    """
    return is_background(info.name) or not any(info.color)


def overlay(
    image: np.ndarray,
    mask: np.ndarray,
    classes: Sequence[ClassInfo],
    alpha: float = 0.5,
    image_range: int = FULL_RANGE,
    *,
    contour: bool = True,
) -> Image.Image:
    """Return the image under the mask's colours, with each class outlined in its colour.

    Pixels of a class that `is_clear` are unchanged. 16-bit values from image_range on are white.

    Args:
        image: (H, W, C) uint8 or uint16.
        mask: Class ids (H, W) uint8.
        classes: Names and colours.
        alpha: Opacity of the colours inside the outlines, 0 to 1.
        image_range: Number of values of a 16-bit image.
        contour: Outline the classes.
    """
    seen, colors = rgb_view(image, image_range), color_mask(mask, classes)
    drawn = Image.blend(seen, colors, alpha)
    if contour:
        drawn.paste(colors, mask=Image.fromarray(outlines(mask, contour_width(mask.shape))))
    if clear := [i for i, info in enumerate(classes) if is_clear(info)]:
        drawn.paste(seen, mask=Image.fromarray(np.isin(mask, clear)))
    return drawn


def contour_width(shape: Sequence[int]) -> int:
    """Return the width of outlines in pixels, on either side of a border."""
    return max(1, round(max(shape) / 1000))


def hatch_ignored(image: Image.Image, label: np.ndarray) -> Image.Image:
    """Draw stripes over the pixels whose label (H, W) is ignored; return the image.

    Stripes are no colour of a class, and differ from a black background.
    """
    rows, columns = np.ogrid[: label.shape[0], : label.shape[1]]
    dark = (rows + columns) // max(2, round(max(label.shape) / 120)) % 2 == 0
    for stripe, gray in ((dark, _INK), (~dark, (190, 190, 194))):
        image.paste(gray, mask=Image.fromarray(stripe & (label == IGNORE)))
    return image


def error_map(
    image: np.ndarray, label: np.ndarray, mask: np.ndarray, image_range: int = FULL_RANGE
) -> Image.Image:
    """Return the image in pale grey, its wrong pixels in red, and ignored ones striped.

    Args:
        image: (H, W, C) uint8 or uint16.
        label: Class ids (H, W) uint8, 255 = ignore.
        mask: Predicted class ids (H, W) uint8.
        image_range: As for `overlay`.
    """
    gray = rgb_view(image, image_range).convert("L").convert("RGB")
    pale = Image.blend(gray, Image.new("RGB", gray.size, _PAPER), 0.45)
    pale.paste(_WRONG, mask=Image.fromarray((label != mask) & (label != IGNORE)))
    return hatch_ignored(pale, label)


def with_legend(
    image: Image.Image, classes: Sequence[ClassInfo], shares: Mapping[str, float]
) -> Image.Image:
    """Return the image with a legend below: swatch, name and share of its classes, largest first.

    The swatch of a class that `is_clear` is empty. Text grows with the image. The result is wider
    than an image that is too narrow for the longest name.
    """
    shown = [info for info in classes if shares[info.name] >= SMALLEST_SHARE]
    shown.sort(key=lambda info: -shares[info.name])
    text = min(max(round(max(image.size) / 45), 12), 120)  # pixels
    font = ImageFont.load_default(text)
    names = max((font.getlength(printable(info.name)) for info in shown), default=0.0)
    cell = round(names + font.getlength("100.0%") + 3.2 * text)  # swatch, name, share, gaps
    columns = max(1, min(len(shown), (image.width - text) // cell))
    rows = -(-len(shown) // columns)
    line = round(1.7 * text)
    width = max(image.width, columns * cell + text)
    sheet = Image.new("RGB", (width, image.height + rows * line + text), _PAPER)
    sheet.paste(image, ((width - image.width) // 2, 0))
    pen = ImageDraw.Draw(sheet)
    for number, info in enumerate(shown):
        column, row = divmod(number, rows)
        left, top = text + column * cell, image.height + text // 2 + row * line
        middle = top + round(0.85 * text)
        swatch = (left, middle - text // 2, left + text, middle - text // 2 + text)
        fill = None if is_clear(info) else info.color
        pen.rounded_rectangle(swatch, radius=text // 5, fill=fill, outline=_FAINT)
        place, share = (left + 1.5 * text, middle), f"{shares[info.name]:.1%}"
        pen.text(place, printable(info.name), fill=_INK, font=font, anchor="lm")
        place = (left + 2.0 * text + names, middle)
        pen.text(place, share, fill=_FAINT, font=font, anchor="lm")
    return sheet


def printable(name: str) -> str:
    """Return a class name on one line, without control characters, not too long."""
    clean = "".join(character if character.isprintable() else " " for character in name).strip()
    return clean if len(clean) <= LONGEST_NAME else clean[: LONGEST_NAME - 3] + "..."


TINT = 0.35
"""Share of a tint in the colour of a class, for instances that need a colour of their own."""

CLEAR = 40.0
"""Distance in RGB from which two colours are distinguishable."""

NEAR = 4
"""Most pixels between two neighbouring segments, in the same row or column."""

_TINTS = np.array([
    (255, 255, 255), (0, 0, 0), (255, 255, 0), (0, 255, 255),
    (255, 0, 255), (0, 255, 0), (255, 0, 0), (0, 0, 255),
], dtype=float)  # fmt: skip

Segments = Sequence[dict[str, Any]]
Box = tuple[float, float, float, float]
"""Left, top, right, bottom, in pixels."""


def overlay_panoptic(
    image: np.ndarray,
    ids: np.ndarray,
    segments: Segments,
    classes: Sequence[ClassInfo],
    alpha: float = 0.5,
    image_range: int = FULL_RANGE,
    *,
    contour: bool = True,
) -> Image.Image:
    """Return the image (H, W, C) under the colours of its segments.

    Instances have an outline and the name of their class. An instance has no name if it is too
    small, or if the name would cover that of a larger one. A class that `is_clear` leaves the image
    unchanged.

    Args:
        image: The image.
        ids: (H, W) integer, as `inference.panoptic.merge` returns them. Ids without a segment are
            void.
        segments: The segments; category_id is an index into `classes`.
        classes: Names and colours.
        alpha: Opacity of the colours, 0 to 1.
        image_range: As for `overlay`.
        contour: Outline the instances.
    """
    numbers = _numbered(ids, segments)  # (H, W): place in `segments` + 1, 0 = void
    colors = np.array([VOID_COLOR, *segment_colors(ids, segments, classes)], dtype=np.uint8)
    seen = rgb_view(image, image_range)
    canvas = Image.blend(seen, Image.fromarray(colors[numbers]), alpha)
    infos = [classes[segment["category_id"]] for segment in segments]
    black = ~colors[1:].any(axis=1)  # a tint of a black class is not
    clear = np.array([is_background(info.name) for info in infos], dtype=bool) | black
    canvas.paste(seen, mask=Image.fromarray(np.insert(clear, 0, False)[numbers]))
    if contour:
        is_thing = np.array([False, *(info.thing for info in infos)])
        edges = outlines(numbers, contour_width(ids.shape)) & is_thing[numbers]
        canvas.paste(_PAPER, mask=Image.fromarray(edges))
    _write_names(canvas, numbers, infos)
    return canvas


def segment_colors(
    ids: np.ndarray, segments: Segments, classes: Sequence[ClassInfo]
) -> list[tuple[int, int, int]]:
    """Return the colour of each segment: that of its class, for an instance also a tint of it.

    This is the first tint that is CLEAR of all neighbours, else the one farthest from them.
    """
    touching = _neighbours(_numbered(ids, segments), len(segments) + 1)[1:, 1:]
    infos = [classes[segment["category_id"]] for segment in segments]
    colors = np.array([info.color for info in infos], dtype=float).reshape(-1, 3)
    settled = np.array([not info.thing for info in infos], dtype=bool)
    for i, info in enumerate(infos):
        if info.thing:
            around = colors[touching[i] & settled]  # (n, 3)
            colors[i], settled[i] = _choose(colors[i], around), True
    return [(red, green, blue) for red, green, blue in colors.round().astype(int).tolist()]


def _choose(color: np.ndarray, around: np.ndarray) -> np.ndarray:
    """Return a colour (3,) at or near `color` that differs from those `around` (n, 3)."""
    if not len(around):
        return color
    options = np.vstack([color, color + TINT * (_TINTS - color)])  # (9, 3)
    gaps = np.linalg.norm(options[:, None] - around, axis=2).min(axis=1)  # (9,)
    return options[np.flatnonzero(gaps >= min(CLEAR, gaps.max()))[0]]


def _numbered(ids: np.ndarray, segments: Segments) -> np.ndarray:
    """Return the number of each id's segment, from 1 on; 0 for ids without one: (H, W)."""
    known = np.array([0, *(segment["id"] for segment in segments)])
    order = known.argsort()
    nearest = order[np.searchsorted(known, ids, sorter=order).clip(max=len(known) - 1)]
    return np.where(known[nearest] == ids, nearest, 0)


def _neighbours(numbers: np.ndarray, count: int) -> np.ndarray:
    """Return which parts are at most NEAR pixels apart: (count, count) bool, symmetric."""
    pairs = np.zeros((count, count), dtype=bool)
    for step in range(1, NEAR + 1):
        pairs[numbers[step:], numbers[:-step]] = True
        pairs[numbers[:, step:], numbers[:, :-step]] = True
    np.fill_diagonal(pairs, False)
    return pairs | pairs.T


def outlines(numbers: np.ndarray, width: int) -> np.ndarray:
    """Return pixels within `width` of another part, in their row or column: (H, W) bool."""
    edges = np.zeros(numbers.shape, dtype=bool)
    for step in range(1, width + 1):
        below, right = numbers[step:] != numbers[:-step], numbers[:, step:] != numbers[:, :-step]
        edges[step:] |= below
        edges[:-step] |= below
        edges[:, step:] |= right
        edges[:, :-step] |= right
    return edges


def _write_names(image: Image.Image, numbers: np.ndarray, infos: Sequence[ClassInfo]) -> None:
    """Write the class on every instance, the largest first, and move it into the image."""
    text = min(max(round(max(image.size) / 60), 10), 80)  # pixels
    font, pen, stroke = ImageFont.load_default(text), ImageDraw.Draw(image), max(1, text // 8)
    areas = np.bincount(numbers.ravel(), minlength=len(infos) + 1)[1:]
    written: list[Box] = []
    for i in np.argsort(-areas, kind="stable").tolist():
        if not infos[i].thing or areas[i] < (1.5 * text) ** 2:
            continue
        name, middle = printable(infos[i].name), _middle(numbers == i + 1)
        left, top, right, bottom = pen.textbbox(
            (0, 0), name, font=font, anchor="mm", stroke_width=stroke
        )
        y = max(min(middle[0], image.height - bottom), -top)
        x = max(min(middle[1], image.width - right), -left)
        box = (left + x, top + y, right + x, bottom + y)
        if not any(
            left + x <= other[2]
            and other[0] <= right + x
            and top + y <= other[3]
            and other[1] <= bottom + y
            for other in written
        ):
            pen.text(
                (x, y), name, _PAPER, font=font, anchor="mm", stroke_width=stroke, stroke_fill=_INK
            )
            written.append(box)


def _middle(part: np.ndarray) -> tuple[int, int]:
    """Return (row, column) of the pixel of a part (H, W) nearest to its centre of mass."""
    rows, columns = np.nonzero(part)
    nearest = np.argmin((rows - rows.mean()) ** 2 + (columns - columns.mean()) ** 2)
    return int(rows[nearest]), int(columns[nearest])
