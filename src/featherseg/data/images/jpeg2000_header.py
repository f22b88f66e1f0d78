"""What a JPEG 2000 file makes its decoder allocate, by its markers (ISO/IEC 15444-1, A, B, I)."""

import os
import struct
from collections.abc import Iterator
from typing import BinaryIO

from featherseg.core.errors import DataError
from featherseg.core.types import Size
from featherseg.data.images.header_limits import SEGMENT_STEPS, Steps, boxes, number, too_large

MOST_TILES = 4096
"""Most tiles: OpenJPEG keeps some 10 kB of each. Satellite images of 10,980 pixels have 121."""

MOST_BLOCKS = 2**20
"""Most code blocks of a tile: OpenJPEG keeps some 150 bytes of each.

Encoders write blocks of 32 x 32 or 64 x 64 pixels.
"""

MOST_PRECINCTS = 2**18
"""Most precincts of a tile; encoders write one, or some of 128 x 128 pixels and more."""

MOST_PACKETS = 2**25
"""Most layers times precincts of a tile: OpenJPEG keeps a number for each."""

_SIZ, _COD, _COC, _SOT, _SOD, _EOC = 0xFF51, 0xFF52, 0xFF53, 0xFF90, 0xFF93, 0xFFD9


def check_jpeg2000(file: BinaryIO, steps: Steps, max_pixels: int) -> None:
    """Raise TooLarge if decoding takes far more than the pixels, DataError if Pillow is wrong."""
    tile, components, layers = (0, 0), 0, 1
    place, declared = _codestream(file, steps)
    for marker, body in _markers(file, place, steps):
        if marker == _SIZ and len(body) >= 36:
            _, *sides, components = struct.unpack_from(">H8IH", body)
            right, bottom, left, top, tile_width, tile_height, tile_left, tile_top = sides
            width, height = right - left, bottom - top
            if declared not in (None, (height, width)):
                raise DataError(
                    f"{steps.name} cannot be read: it declares another size than its data have. "
                    "Replace it."
                )
            if width * height > max_pixels:
                raise too_large(
                    steps.name,
                    f"an image of {height}x{width} (height x width)",
                    f"{max_pixels:,} pixels",
                )
            across, down = (
                -(-(end - begin) // max(1, side))
                for begin, end, side in (
                    (tile_left, right, tile_width),
                    (tile_top, bottom, tile_height),
                )
            )
            if across * down > MOST_TILES:
                raise too_large(steps.name, f"{across * down:,} tiles", f"{MOST_TILES:,}")
            tile = (min(width, tile_width), min(height, tile_height))
            _check_components(steps.name, components, body[36::3])
        elif marker == _COD and len(body) >= 10:
            layers = number(body[2:4])
            _check_style(
                steps.name, tile, components, layers, body[5:], own_precincts=bool(body[0] & 1)
            )
        elif marker == _COC and len(body) >= 7:  # fewer than 257 components: one byte tells which
            _check_style(
                steps.name, tile, components, layers, body[2:], own_precincts=bool(body[1] & 1)
            )


def _check_components(name: str, components: int, depths: bytes) -> None:
    if components > 4:
        raise DataError(
            f"{name} has {components} channels, which are not read from JPEG 2000. Save it as TIFF."
        )
    if any(depth & 0x80 for depth in depths):
        raise DataError(
            f"{name} holds signed values, which are not supported in images. Save it without a "
            "sign."
        )
    if components > 1 and any(depth & 0x7F > 7 for depth in depths):
        bits = max(depth & 0x7F for depth in depths) + 1
        raise DataError(
            f"{name} has {bits} bits a channel, of which 8 would be read. Save it as PNG or TIFF."
        )


def _check_style(
    name: str,
    tile: tuple[int, int],
    components: int,
    layers: int,
    style: bytes,
    *,
    own_precincts: bool,
) -> None:
    """Check precincts and code blocks of a tile (width, height) by its coding style (A.6.1)."""
    levels, block = style[0], (style[1] + 2, style[2] + 2)
    blocks = precincts = most = 0
    for level in range(min(levels, 32) + 1):
        sizes = style[5 + level] if own_precincts and len(style) > 5 + level else 0xFF
        precinct = (sizes & 15, sizes >> 4)
        width, height = (-(-side >> (levels - level)) for side in tile)
        here = (-(-width >> precinct[0]) + 1) * (-(-height >> precinct[1]) + 1)
        inner = level > 0  # three bands of half the size
        sides = (
            (1 << min(block[axis], max(0, precinct[axis] - inner))) << inner for axis in (0, 1)
        )  # of a code block, in pixels of this level
        across, down = (-(-side // part) for side, part in zip((width, height), sides, strict=True))
        blocks += components * (3 if inner else 1) * max(across * down, here)
        precincts += components * here
        most = max(most, here)
    if blocks > MOST_BLOCKS:
        raise too_large(name, f"{blocks:,} code blocks in a tile", f"{MOST_BLOCKS:,}")
    if precincts > MOST_PRECINCTS:
        raise too_large(name, f"{precincts:,} precincts in a tile", f"{MOST_PRECINCTS:,}")
    packets = layers * components * (levels + 1) * most
    if packets > MOST_PACKETS:
        raise too_large(name, f"{packets:,} packets in a tile", f"{MOST_PACKETS:,}")


def _codestream(file: BinaryIO, steps: Steps) -> tuple[int, Size | None]:
    """Return the start of the codestream, and the (height, width) declared before it (I.4)."""
    file.seek(0)
    if file.read(4) == b"\xff\x4f\xff\x51":
        return 0, None
    declared = None
    for kind, place, _ in boxes(file, steps):
        if kind == b"jp2c":
            return place, declared
        if kind == b"jp2h":  # whose first box is ihdr
            file.seek(place)
            head = file.read(16)
            declared = (
                struct.unpack_from(">II", head, 8)
                if head[4:8] == b"ihdr" and len(head) == 16
                else (0, 0)
            )
    return file.seek(0, os.SEEK_END), None


def _markers(file: BinaryIO, place: int, steps: Steps) -> Iterator[tuple[int, bytes]]:
    """Yield (marker, body) of the main header and of the header of every tile-part."""
    file.seek(place + 2)
    next_part = None
    while len(head := file.read(4)) == 4:
        steps.take(SEGMENT_STEPS)
        marker, length = struct.unpack(">HH", head)
        here = file.tell()
        if marker == _SOD:
            if next_part is None:
                return
            file.seek(next_part)
            next_part = None
            continue
        if marker == _EOC or length < 2:
            return
        body = file.read(length - 2)
        if marker == _SOT and len(body) >= 6:
            part = number(body[2:6])
            next_part = here - 4 + part if part > 0 and here - 4 + part < 2**62 else None
        yield marker, body
