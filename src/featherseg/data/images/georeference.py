"""The place of an image on the map: the GeoTIFF tags of a TIFF, and masks with the same tags.

The tags are copied byte by byte (OGC GeoTIFF 1.1; 50844 is GDAL's, for satellite images).
"""

import json
import math
import struct
import zlib
from collections.abc import Container, Sequence
from dataclasses import dataclass
from typing import BinaryIO

import numpy as np

from featherseg.core.types import ClassInfo
from featherseg.data.images.palettes import CLASSES_KEY

TIFF_SUFFIXES = (".tif", ".tiff")
"""Endings (in lower case) of images that may have a place; then their masks end in .tif."""

PLACE_TAGS = (33550, 33922, 34264, 34735, 34736, 34737, 50844)
"""ModelPixelScale, ModelTiepoint, ModelTransformation, GeoKeyDirectory with its doubles and text,
RPCCoefficient."""

NODATA, DESCRIPTION = 42113, 270

MOST_BYTES, MOST_ENTRIES = 2**20, 4096
"""Most bytes of these tags, and most tags of a directory: 10,000 control points have 480 kB."""

_TYPE_BYTES = {1: 1, 2: 1, 3: 2, 4: 4, 5: 8, 6: 1, 7: 1, 8: 2, 9: 4, 10: 8, 11: 4, 12: 8}
_STRIP_BYTES = 2**20


@dataclass(frozen=True)
class Tag:
    """One entry of a TIFF's directory; value: its bytes, in the order of the file."""

    number: int
    type: int
    count: int
    value: bytes


@dataclass(frozen=True)
class Georeference:
    """The tags of a place; order: of their bytes, "<" or ">"; nodata: that of the image."""

    order: str
    tags: tuple[Tag, ...]
    nodata: Tag | None = None


@dataclass(frozen=True)
class Directory:
    """Tags of one page by number; following: the place of the next page's, 0 after the last."""

    order: str
    tags: dict[int, Tag]
    following: int

    def number(self, tag: int, default: int) -> int:
        """Return the first value of a tag of whole numbers."""
        return next(iter(self.numbers(tag)), default)

    def numbers(self, tag: int) -> tuple[int, ...]:
        """Return the values of a tag of whole numbers; none for another tag."""
        entry = self.tags.get(tag)
        form = {1: "B", 3: "H", 4: "I"}.get(entry.type) if entry else None
        if entry is None or form is None:
            return ()
        return struct.unpack(f"{self.order}{entry.count}{form}", entry.value)


def read_directory(
    file: BinaryIO, wanted: Container[int], place: int | None = None
) -> Directory | None:
    """Return the directory of tags at `place`, by default of the first page; None if it is no TIFF.

    A tag of more than MOST_BYTES, or one that is cut short, is skipped.
    """
    try:
        file.seek(0)
        head = file.read(16)
        order = {b"II": "<", b"MM": ">"}.get(head[:2], "")
        if (
            not order
            or len(head) < 16
            or (version := struct.unpack(f"{order}H", head[2:4])[0]) not in (42, 43)
        ):
            return None
        pointer, count_form, entry, inline = (
            ("Q", "Q", "HHQ8s", 8) if version == 43 else ("I", "H", "HHI4s", 4)
        )
        file.seek(
            place or struct.unpack_from(f"{order}{pointer}", head, 8 if version == 43 else 4)[0]
        )
        (number,) = struct.unpack(
            f"{order}{count_form}", file.read(struct.calcsize(f"={count_form}"))
        )
        size = struct.calcsize(f"={entry}")
        rows = file.read(size * min(number, MOST_ENTRIES))
        following = struct.unpack(f"{order}{pointer}", file.read(inline))[0]
        tags: dict[int, Tag] = {}
        for tag, kind, count, cell in struct.iter_unpack(f"{order}{entry}", rows):
            length = count * _TYPE_BYTES.get(kind, MOST_BYTES + 1)
            if tag not in wanted or tag in tags or length > MOST_BYTES:
                continue
            if length > inline:
                file.seek(struct.unpack(f"{order}{pointer}", cell)[0])
                cell = file.read(length)
            if len(cell) >= length:
                tags[tag] = Tag(tag, kind, count, cell[:length])
    except (struct.error, OverflowError, OSError, ValueError):  # cut short, or with wrong places
        return None
    return Directory(order, tags, following)


def georeference_of(page: Directory) -> Georeference | None:
    """Return the place of a page's image; None without one."""
    place = tuple(page.tags[number] for number in PLACE_TAGS if number in page.tags)
    if not place or sum(len(tag.value) for tag in place) > MOST_BYTES:
        return None
    return Georeference(page.order, place, page.tags.get(NODATA))


def affine(georeference: Georeference) -> tuple[float, ...] | None:
    """Return (a, b, c, d, e, f) with x = a column + b row + c and y = d column + e row + f.

    Columns and rows count from the upper left corner of the image. None if the place is given in
    another way, by control points or by the model of a camera.
    """
    order, tags = georeference.order, {tag.number: tag for tag in georeference.tags}

    def doubles(number: int, least: int) -> tuple[float, ...]:
        tag = tags.get(number)
        if tag is None or tag.type != _DOUBLE or tag.count < least:
            return ()
        return struct.unpack(f"{order}{tag.count}d", tag.value)

    scale, tie = doubles(_PIXEL_SCALE, 2), doubles(_TIEPOINT, 6)
    if matrix := doubles(_TRANSFORMATION, 16):
        a, b, _, c, d, e, _, f, *_ = matrix
    elif scale and len(tie) == 6:
        a, b, d, e = scale[0], 0.0, 0.0, -scale[1]
        c, f = tie[3] - a * tie[0], tie[4] - e * tie[1]
    else:
        return None
    if _geo_keys(georeference).get(_RASTER_TYPE) == _PIXEL_IS_POINT:  # counted from its middle
        c, f = c - (a + b) / 2, f - (d + e) / 2
    coefficients = (a, b, c, d, e, f)
    is_usable = all(map(math.isfinite, coefficients)) and a * e != b * d
    return coefficients if is_usable else None


def epsg(georeference: Georeference) -> int | None:
    """Return the EPSG code of the reference system; None if it has none."""
    keys = _geo_keys(georeference)
    code = keys.get(_PROJECTED) or keys.get(_GEOGRAPHIC)
    return code if code and code < _USER_DEFINED else None


_PIXEL_SCALE, _TIEPOINT, _TRANSFORMATION, _GEO_KEYS = 33550, 33922, 34264, 34735
_SHORT, _DOUBLE = 3, 12
_RASTER_TYPE, _GEOGRAPHIC, _PROJECTED = 1025, 2048, 3072
_PIXEL_IS_POINT, _USER_DEFINED = 2, 32767


def _geo_keys(georeference: Georeference) -> dict[int, int]:
    """Return the keys of the GeoKeyDirectory whose values are whole numbers."""
    tag = next((tag for tag in georeference.tags if tag.number == _GEO_KEYS), None)
    if tag is None or tag.type != _SHORT:
        return {}
    values = struct.unpack(f"{georeference.order}{tag.count}H", tag.value)
    rows = zip(*(values[start::4] for start in range(4, 8)), strict=False)
    return {key: value for key, place, _, value in rows if place == 0}


def geotiff_bytes(
    mask: np.ndarray, classes: Sequence[ClassInfo], palette: bytes, georeference: Georeference
) -> bytes:
    """Return a mask (H, W) uint8 as a palette TIFF at the place of its image.

    The names of the classes are its description, as JSON. The image's nodata value is kept if no
    class has it. palette: 256 colours, RGB.
    """
    order, (height, width) = georeference.order, mask.shape
    rows = max(1, _STRIP_BYTES // width)
    strips = [
        zlib.compress(mask[start : start + rows].tobytes()) for start in range(0, height, rows)
    ]
    colors = np.frombuffer(palette, np.uint8).reshape(256, 3).T.astype(np.uint16) * 257  # (3, 256)
    text = json.dumps({CLASSES_KEY: [info.name for info in classes]}).encode() + b"\0"

    def numbers(tag: int, *values: int, long: bool = False) -> Tag:
        return Tag(
            tag,
            4 if long else 3,
            len(values),
            struct.pack(f"{order}{len(values)}{'I' if long else 'H'}", *values),
        )

    places = np.cumsum([8, *map(len, strips)])[:-1].tolist()
    tags = [
        numbers(256, width, long=True),
        numbers(257, height, long=True),
        numbers(258, 8),
        numbers(259, 8),  # deflate
        numbers(262, 3),  # a palette
        Tag(DESCRIPTION, 2, len(text), text),
        numbers(273, *places, long=True),
        numbers(277, 1),
        numbers(278, rows, long=True),
        numbers(279, *map(len, strips), long=True),
        numbers(284, 1),
        numbers(320, *colors.ravel().tolist()),
        *georeference.tags,
    ]
    if georeference.nodata and _unused(georeference.nodata, len(classes)):
        tags.append(georeference.nodata)
    return _tiff(order, b"".join(strips), sorted(tags, key=lambda tag: tag.number))


def _unused(nodata: Tag, classes: int) -> bool:
    """Whether nodata is a value of 8 bits that no class has."""
    try:
        value = float(nodata.value.rstrip(b"\0 ").decode("ascii"))
    except ValueError:
        return False
    return value.is_integer() and classes <= value <= 255


def _tiff(order: str, pixels: bytes, tags: Sequence[Tag]) -> bytes:
    """Return a TIFF: header, pixels, the directory of tags, and their larger values."""
    directory = 8 + len(pixels) + len(pixels) % 2
    behind = directory + 2 + 12 * len(tags) + 4
    entries, values = b"", b""
    for tag in tags:
        if len(tag.value) <= 4:
            cell = tag.value.ljust(4, b"\0")
        else:
            cell = struct.pack(f"{order}I", behind + len(values))
            values += tag.value + b"\0" * (len(tag.value) % 2)
        entries += struct.pack(f"{order}HHI", tag.number, tag.type, tag.count) + cell
    head = {"<": b"II", ">": b"MM"}[order] + struct.pack(f"{order}HI", 42, directory)
    count = struct.pack(f"{order}H", len(tags))
    return b"".join([head, pixels, b"\0" * (len(pixels) % 2), count, entries, bytes(4), values])
