"""Bands of a TIFF that Pillow does not read: more than four in a page, or beside RGB and no alpha.

Pillow's libtiff decodes strips and tiles as grey images, whose rows have the bands of each pixel
side by side. So every compression that it knows is read, in its bounded buffers.
"""

import struct
from collections.abc import Callable
from dataclasses import dataclass
from math import prod
from typing import BinaryIO

import numpy as np

from featherseg.core.errors import DataError, TooLarge
from featherseg.core.types import Size
from featherseg.core.wording import counted
from featherseg.data.images.header_limits import Steps
from featherseg.data.images.headers import MOST_SEGMENTS, TiffDirectory, bounded, tiff_directories

MOST_BANDS = 512
"""Most bands of a page."""

GROUP_BYTES = 2**24
"""Most bytes of strips or tiles that are decoded together."""

COMPRESSIONS = {
    1: "none",
    5: "LZW",
    8: "deflate",
    32946: "deflate",
    32773: "PackBits",
    50000: "zstd",
}
_WIDTH, _HEIGHT, _BITS, _COMPRESSION, _COLOR, _ORIENTATION, _SAMPLES, _ROWS = (
    256,
    257,
    258,
    259,
    262,
    274,
    277,
    278,
)
_STRIPS, _STRIP_BYTES, _PLANES, _PREDICTOR = 273, 279, 284, 317
_TILE_WIDTH, _TILE_HEIGHT, _TILES, _TILE_BYTES, _EXTRA, _FORMAT = 322, 323, 324, 325, 338, 339
_KIND, _SMALLER, _MASK = 254, 1, 4
_GREY, _RGB = 1, 2

Decode = Callable[[bytes, str], np.ndarray]
"""Decodes a grey TIFF of 8 or 16 bits in memory, with a name for messages, to (H, W)."""


@dataclass(frozen=True)
class BandedTiff:
    """The only page of a TIFF: grey or RGB bands, and further ones.

    Attributes:
        size: (height, width) as stored.
        depth: Bits of a value.
        extra: Kinds of the further bands (0: not stated, 1 and 2: alpha).
        piece: (height, width) of a strip or tile.
        places: (offset, bytes) of each.
    """

    name: str
    order: str
    size: Size
    bands: int
    depth: int
    colors: int
    extra: tuple[int, ...]
    planar: bool
    compression: int
    predictor: int
    orientation: int
    tiled: bool
    piece: Size
    places: tuple[tuple[int, int], ...]

    @property
    def alpha(self) -> bool:
        """Whether its only further band is marked as alpha."""
        return self.bands == self.colors + 1 and self.extra[:1] in ((1,), (2,))

    @property
    def seen_size(self) -> Size:
        """(height, width) of the upright image."""
        return self.size[::-1] if self.orientation >= 5 else self.size

    def read(self, file: BinaryIO, decode: Decode) -> np.ndarray:
        """Return all bands, upright: (H, W, bands) uint8 or uint16. Raises DataError."""
        planes = self.bands if self.planar else 1
        samples = self.bands // planes
        down, across = (-(-side // part) for side, part in zip(self.size, self.piece, strict=True))
        kind = np.dtype(f"{self.order}u{self.depth // 8}")
        pixels = np.empty((*self.size, self.bands), kind.newbyteorder("="))
        count = max(1, GROUP_BYTES // (prod(self.piece) * samples * kind.itemsize))
        for plane in range(planes):
            for first in range(0, down * across, count):
                numbers = range(first, min(first + count, down * across))
                places = [self.places[plane * down * across + number] for number in numbers]
                pieces = self._decoded(
                    file, decode, places, samples, kind, numbers[-1] == down * across - 1
                )
                for number, piece in zip(numbers, pieces, strict=True):
                    top, left = (
                        n * side for n, side in zip(divmod(number, across), self.piece, strict=True)
                    )
                    here = pixels[top : top + self.piece[0], left : left + self.piece[1]]
                    target = here[..., plane : plane + 1] if self.planar else here
                    target[...] = piece[: here.shape[0], : here.shape[1]]
        return np.ascontiguousarray(_upright(pixels, self.orientation))

    def _decoded(
        self,
        file: BinaryIO,
        decode: Decode,
        places: list[tuple[int, int]],
        samples: int,
        kind: np.dtype,
        last: bool,
    ) -> list[np.ndarray]:
        """Decode strips or tiles, each (h, w, samples); the last strip may be lower."""
        height, width = self.piece
        rows = height * len(places)
        if last and not self.tiled:
            rows -= -self.size[0] % height
        contents = []
        for offset, length in places:
            file.seek(offset)
            contents.append(file.read(length))
            if len(contents[-1]) < length:
                raise DataError(f"{self.name} cannot be read: it is cut short. Replace it.")
        if self.compression == 1:
            values = np.frombuffer(b"".join(contents), kind)
            if len(values) < rows * width * samples:
                raise DataError(
                    f"{self.name} cannot be read: its strips or tiles are cut short. Replace it."
                )
            values = values[: rows * width * samples].reshape(rows, width * samples)
        else:
            values = decode(self._grey(contents, (rows, width * samples)), self.name)
        values = values.astype(kind.newbyteorder("="), copy=False).reshape(rows, width, samples)
        if self.predictor == 2:
            values = np.cumsum(values, axis=1, dtype=values.dtype)
        return [values[top : top + height] for top in range(0, rows, height)]

    def _grey(self, contents: list[bytes], size: Size) -> bytes:
        """Return a TIFF of one band with these strips or tiles; size: its rows and columns."""
        count, start = len(contents), 8
        offsets = [start + sum(map(len, contents[:i])) for i in range(count)]
        lengths = list(map(len, contents))
        rows = [
            (_WIDTH, [size[1]]),
            (_HEIGHT, [size[0]]),
            (_BITS, [self.depth]),
            (_COMPRESSION, [self.compression]),
            (_COLOR, [_GREY]),
            (_SAMPLES, [1]),
        ]
        if self.tiled:
            rows += [(_TILE_WIDTH, [size[1]]), (_TILE_HEIGHT, [self.piece[0]])]
            rows += [(_TILES, offsets), (_TILE_BYTES, lengths)]
        else:
            rows += [(_STRIPS, offsets), (_ROWS, [self.piece[0]]), (_STRIP_BYTES, lengths)]
        directory = start + sum(lengths)
        behind = directory + 2 + 12 * len(rows) + 4
        order, head, values = self.order, b"", b""
        for tag, numbers in sorted(rows):
            cell = struct.pack(f"{order}{len(numbers)}I", *numbers)
            if len(cell) > 4:
                place = behind + len(values)
                values += cell
                cell = struct.pack(f"{order}I", place)
            head += struct.pack(f"{order}HHI", tag, 4, len(numbers)) + cell
        magic = {"<": b"II", ">": b"MM"}[order] + struct.pack(f"{order}HI", 42, directory)
        return (
            magic
            + b"".join(contents)
            + struct.pack(f"{order}H", len(rows))
            + head
            + bytes(4)
            + values
        )


def banded_tiff(file: BinaryIO, name: str, max_pixels: int) -> BandedTiff | None:
    """Return the page of a TIFF with bands beside grey or RGB, or 16 bits in planes; else None.

    Raises:
        TooLarge: The page has too many pixels or bands.
        DataError: Its values or compression are not read, or it is cut short.
    """
    order = {b"II*\0": "<", b"MM\0*": ">", b"II+\0": "<"}.get(file.read(4))
    if order is None:
        return None
    bounded(file, name, max_pixels)
    pages = [
        d for d in tiff_directories(file, Steps(name)) if _WIDTH in d.values and _HEIGHT in d.values
    ]
    pages = [page for page in pages if not page.first(_KIND, 0) & (_SMALLER | _MASK)]
    if len(pages) != 1:
        return None
    page = pages[0]
    size, bands = (page.first(_HEIGHT, 0), page.first(_WIDTH, 0)), page.first(_SAMPLES, 1)
    colors = {_GREY: 1, _RGB: 3}.get(page.first(_COLOR, _GREY), 0)
    depths, planar = set(page.values.get(_BITS, (1,))), page.first(_PLANES, 1) == 2
    if not colors or bands < colors or min(size) < 1:
        return None
    foreign = 3 in page.values.get(_FORMAT, ()) or max(depths) > 16
    if bands == colors and (bands == 1 or not (foreign or (planar and depths == {16}))):
        return None
    _check_kind(name, page, bands, depths)
    if prod(size) > max_pixels or prod(size) * bands > 4 * max_pixels or bands > MOST_BANDS:
        bands_text = f"{size[0]}x{size[1]} (height x width) with {counted(bands, 'band')}"
        raise TooLarge(
            f"{name} is too large: it is {bands_text}, the limit is {max_pixels:,} pixels and "
            f"{4 * max_pixels:,} values. Split it into parts."
        )
    tiled = _TILES in page.values
    piece = (page.first(_TILE_HEIGHT, 0), page.first(_TILE_WIDTH, 0)) if tiled else (0, size[1])
    if not tiled:
        piece = (min(size[0], page.first(_ROWS, size[0])), size[1])
    if min(piece) < 1:
        raise DataError(
            f"{name} cannot be read: its tiles have no size. Save it again with another program."
        )
    keys = (_TILES, _TILE_BYTES) if tiled else (_STRIPS, _STRIP_BYTES)
    places = tuple(zip(*(page.values.get(key, ()) for key in keys), strict=False))
    length = file.seek(0, 2)
    expected = (bands if planar else 1) * prod(
        -(-side // part) for side, part in zip(size, piece, strict=True)
    )
    complete = expected <= len(places) and expected <= MOST_SEGMENTS
    if not complete or sum(count for _, count in places[:expected]) > length:
        raise DataError(
            f"{name} cannot be read: its strips or tiles are not all there. Replace it."
        )
    return BandedTiff(
        name=name,
        order=order,
        size=size,
        bands=bands,
        depth=depths.pop(),
        colors=colors,
        extra=page.values.get(_EXTRA, (0,) * (bands - colors)),
        planar=planar,
        compression=page.first(_COMPRESSION, 1),
        predictor=page.first(_PREDICTOR, 1),
        orientation=page.first(_ORIENTATION, 1),
        tiled=tiled,
        piece=piece,
        places=places[:expected],
    )


def _check_kind(name: str, page: TiffDirectory, bands: int, depths: set[int]) -> None:
    """Raise DataError for values, or a compression, that are not read."""
    of_bands = f"of {counted(bands, 'band')}"
    formats = set(page.values.get(_FORMAT, (1,)))
    if formats - {1, 4} or depths not in ({8}, {16}):
        kind = (
            "floats"
            if 3 in formats
            else "signed values"
            if 2 in formats
            else f"{max(depths)} bits a value"
        )
        raise DataError(
            f"{name} is an image {of_bands} with {kind}. Expected 8 or 16 bits without sign: "
            "convert it."
        )
    compression = page.first(_COMPRESSION, 1)
    if compression not in COMPRESSIONS or page.first(_PREDICTOR, 1) not in (1, 2):
        known = ", ".join(dict.fromkeys(list(COMPRESSIONS.values())[1:]))
        raise DataError(
            f"{name} is an image {of_bands} whose compression ({compression}) is not read for "
            f"them. Save it without one, or with {known}."
        )


def _upright(pixels: np.ndarray, orientation: int) -> np.ndarray:
    """Return (H, W, C) turned by an EXIF orientation (TIFF 6.0, page 36)."""
    if orientation in (5, 6, 7, 8):
        pixels = pixels.swapaxes(0, 1)
    down, right = orientation in (3, 4, 7, 8), orientation in (2, 3, 6, 7)
    return pixels[:: -1 if down else 1, :: -1 if right else 1]
