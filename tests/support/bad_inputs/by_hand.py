"""Files written byte by byte from their specifications, where Pillow writes no such thing."""

import struct
import zlib
from collections.abc import Sequence

import numpy as np

PNG_START = b"\x89PNG\r\n\x1a\n"


def chunk(kind: bytes, body: bytes, *, checksum: int | None = None) -> bytes:
    """A chunk of a PNG (ISO/IEC 15948, 5.3); with a checksum that need not be its own."""
    own = zlib.crc32(kind + body)
    return (
        struct.pack(">I", len(body))
        + kind
        + body
        + struct.pack(">I", own if checksum is None else checksum)
    )


def png_header(
    size: tuple[int, int], bits: int = 8, color_type: int = 2, interlace: int = 0
) -> bytes:
    """IHDR of (height, width). Colour types: 0 grey, 2 RGB, 3 palette, 4 grey and alpha, 6 RGBA."""
    return chunk(
        b"IHDR", struct.pack(">IIBBBBB", size[1], size[0], bits, color_type, 0, 0, interlace)
    )


def png_rows(pixels: np.ndarray) -> bytes:
    """(H, W) or (H, W, C) uint8 or uint16 as rows without a filter."""
    big_endian = pixels.astype(pixels.dtype.newbyteorder(">"))
    return b"".join(b"\0" + row.tobytes() for row in big_endian)


def packed_rows(values: np.ndarray, bits: int) -> bytes:
    """(H, W) values of 1, 2 or 4 bits, packed into bytes, each row with its filter byte."""
    each = np.unpackbits(values[:, :, None], axis=2)[:, :, 8 - bits :].reshape(
        len(values), -1
    )  # (H, W * bits)
    return b"".join(b"\0" + row.tobytes() for row in np.packbits(each, axis=1))


def png(header: bytes, rows: bytes, *, before: bytes = b"", after: bytes = b"") -> bytes:
    """A PNG with chunks before and after its pixels."""
    return (
        PNG_START
        + header
        + before
        + chunk(b"IDAT", zlib.compress(rows))
        + after
        + chunk(b"IEND", b"")
    )


def interlaced_rows(pixels: np.ndarray) -> bytes:
    """The seven passes of Adam7 (ISO/IEC 15948, 8.2)."""
    passes = (
        (0, 8, 0, 8),
        (0, 8, 4, 8),
        (4, 8, 0, 4),
        (0, 4, 2, 4),
        (2, 4, 0, 2),
        (0, 2, 1, 2),
        (1, 2, 0, 1),
    )
    parts = [pixels[y::dy, x::dx] for y, dy, x, dx in passes]
    return b"".join(png_rows(part) for part in parts if part.size)


TYPES = {
    "short": (3, "H"),
    "long": (4, "I"),
    "ascii": (2, "c"),
    "undefined": (7, "B"),
    "signed": (9, "i"),
}
"""Types of a TIFF's entries: code and `struct` letter (TIFF 6.0, section 2)."""


def tiff(
    entries: Sequence[tuple[int, str, Sequence[int]]],
    data: bytes,
    order: str = "<",
    next_ifd: int = 0,
) -> bytes:
    """Return a TIFF of one directory: `data` at byte 8, then the entries (tag, type, values).

    273 (StripOffsets) and 324 (TileOffsets) count from the file's start; the first is usually 8.
    """
    data += b"\0" * (len(data) % 2)
    directory = 8 + len(data)
    room = directory + 2 + 12 * len(entries) + 4
    rows, overflow = b"", b""
    for tag, kind, values in sorted(entries):
        code, letter = TYPES[kind]
        packed = struct.pack(f"{order}{len(values)}{letter}", *values)
        if len(packed) > 4:
            place = struct.pack(f"{order}I", room + len(overflow))
            overflow += packed + b"\0" * (len(packed) % 2)
        else:
            place = packed.ljust(4, b"\0")
        rows += struct.pack(f"{order}HHI", tag, code, len(values)) + place
    start = {"<": b"II*\0", ">": b"MM\0*"}[order] + struct.pack(f"{order}I", directory)
    count = struct.pack(f"{order}H", len(entries))
    return start + data + count + rows + struct.pack(f"{order}I", next_ifd) + overflow


def tiff_entries(
    size: tuple[int, int], bands: int, bits: int, photometric: int, length: int
) -> list[tuple[int, str, Sequence[int]]]:
    """Return a one-strip image's entries. Photometric: 0 white is 0, 1 black is, 2 RGB, 5 CMYK."""
    return [
        (256, "long", [size[1]]),
        (257, "long", [size[0]]),
        (258, "short", [bits] * bands),
        (259, "short", [1]),
        (262, "short", [photometric]),
        (273, "long", [8]),
        (277, "short", [bands]),
        (278, "long", [size[0]]),
        (279, "long", [length]),
    ]


def bmp(
    size: tuple[int, int], bits: int, data: bytes, *, colors: bytes = b"", compression: int = 0
) -> bytes:
    """A BMP with a BITMAPINFOHEADER; a negative height stands for rows from top to bottom."""
    offset = 54 + len(colors)
    info = struct.pack(
        "<IiiHHIIiiII", 40, size[1], size[0], 1, bits, compression, len(data), 2835, 2835, 0, 0
    )
    return b"BM" + struct.pack("<IHHI", offset + len(data), 0, 0, offset) + info + colors + data


def bmp_rows(rows: np.ndarray) -> bytes:
    """(H, bytes) uint8 as rows of a multiple of four bytes."""
    return b"".join(row.tobytes().ljust(-(-row.size // 4) * 4, b"\0") for row in rows)
