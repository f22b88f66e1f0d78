"""Bounds on what a decoder allocates besides the pixels, checked before Pillow reads a file.

Width and height do not bound a decoder: a TIFF names the size of its tiles, a directory of tags may
point at the same bytes a thousand times, texts in a PNG inflate, and a run of a BMP may skip lines
without end. Pillow bounds some of this from version 13 on. Values that cannot be read here are left
to Pillow, which refuses them.
"""

import os
import re
import struct
from collections.abc import Iterator
from dataclasses import dataclass
from io import BytesIO
from typing import BinaryIO

from featherseg.core.errors import DataError
from featherseg.data.images.avif_header import check_avif
from featherseg.data.images.header_limits import SEGMENT_STEPS, Steps, number, too_large
from featherseg.data.images.jpeg2000_header import check_jpeg2000

MOST_TILE_BYTES = 2**25
"""Most bytes of a TIFF tile that is larger than the image: four times 1024 x 1024 16-bit RGBA."""

MOST_SEGMENTS = 2**17
"""Most strips or tiles of a TIFF page: Pillow and libtiff keep some 300 bytes for each."""

MOST_VALUES = 2**18
"""Most numbers in a directory of tags, besides strips and tiles: Pillow takes 300 bytes each."""

MOST_ENTRIES = 4096
"""Most tags in one directory, and directories in one file."""

NUMBERS_PER_STEP = 64
"""Places of strips that count as one step, because they are read together."""

MOST_EXIF = 256
"""Most EXIF segments in a JPEG: Pillow copies all earlier ones for each. Cameras write one."""

MOST_RLE_PIXELS = 2**24
"""Most pixels of a BMP in run lengths, which Pillow decodes in Python, byte by byte."""

MOST_RLE_WIDTH = 2**16
"""Largest width of such a BMP: one run may skip 255 lines of any width."""

MOST_SCANS = 64
"""Most scans of a progressive JPEG: encoders write ten, and each goes over the whole image."""

_UNIT = {
    1: 1,
    2: 1,
    3: 2,
    4: 4,
    5: 8,
    6: 1,
    7: 1,
    8: 2,
    9: 4,
    10: 8,
    11: 4,
    12: 8,
    13: 4,
    16: 8,
    17: 8,
    18: 8,
}  # bytes
_WHOLE = {1: "B", 3: "H", 4: "I", 6: "b", 8: "h", 9: "i", 13: "I", 16: "Q", 17: "q", 18: "Q"}
_BYTES = (1, 2, 7)  # types that Pillow keeps as they are
_WIDTH, _HEIGHT, _BITS, _COMPRESSION, _COLOR, _SAMPLES, _ROWS, _PLANES = (
    256,
    257,
    258,
    259,
    262,
    277,
    278,
    284,
)
_TILE_WIDTH, _TILE_HEIGHT, _PLACES = 322, 323, (273, 279, 324, 325)
# EXIF, GPS and interoperability: directories that Pillow reads by itself
_INNER = (34665, 34853, 40965)
_STRIPS, _YCBCR, _JPEG = 273, 6, 7
_MARKER = re.compile(rb"\xff[^\x00\x01\xd0-\xd8\xff]")  # those that begin or end something
_SCAN, _END = b"\xff\xda", b"\xff\xd9"
# Bytes after \xff with which no segment begins for Pillow
_ALONE = bytes([0, 1, 0xC8, *range(0xD0, 0xDA), *range(0xF0, 0xFE), 0xFF])
_PROGRESSIVE = (0xC2, 0xC6, 0xCA, 0xCE)


def bounded(file: BinaryIO, name: str, max_pixels: int) -> BinaryIO:
    """Check a file and return it, rewound, for Pillow.

    For PNG and GIF this is a copy with only what the pixels of the first frame need.

    Args:
        file: The file, at its beginning.
        name: Its name, for messages.
        max_pixels: Most pixels, height times width, that may be decoded.

    Raises:
        TooLarge: A decoder would allocate far more than the image, or work far longer.
        DataError: Decoders disagree about its content.
    """
    start, steps = file.read(32), Steps(name)
    if start.startswith(b"\x89PNG\r\n\x1a\n"):
        file = _png(file, steps)
    elif start.startswith(b"\xff\xd8\xff"):
        _jpeg(file, steps)
    elif start[:4] == b"MM\0+":  # read as two different files by Pillow and by libtiff
        raise DataError(
            f"{name} is a BigTIFF in big-endian order, which is not read. Save it as a plain TIFF."
        )
    elif start[:4] in (b"II*\0", b"MM\0*", b"II+\0", b"MM*\0", b"II\0*"):
        _tiff(file, steps)
    elif start[:4] == b"RIFF" and start[8:12] == b"WEBP":
        _webp(file, steps, start, max_pixels)
    elif start.startswith(b"BM") and len(start) >= 18:
        file.seek(14)
        _bmp(file.read(32), name)
    elif start.startswith((b"GIF87a", b"GIF89a")):
        file = _gif(file, steps)
    elif start[4:8] == b"ftyp" and start[8:12] in (b"avif", b"avis", b"mif1", b"msf1"):
        check_avif(file, steps, max_pixels)
    elif start.startswith((b"\xff\x4f\xff\x51", b"\x00\x00\x00\x0cjP  ")):
        check_jpeg2000(file, steps, max_pixels)
    file.seek(0)
    return file


def scan_count(content: bytes, name: str = "the image") -> int:
    """Return the number of scans of a JPEG. Raises TooLarge for too many markers."""
    scans, place, steps = 0, 0, Steps(name)
    while (marker := _MARKER.search(content, place)) and marker[0] != _END:
        steps.take(SEGMENT_STEPS)
        scans += marker[0] == _SCAN
        place = marker.end() + number(content[marker.end() : marker.end() + 2])
    return scans


def _png(file: BinaryIO, steps: Steps) -> BinaryIO:
    """Return a PNG without texts and profiles, which inflate."""
    kept = BytesIO()
    file.seek(0)
    kept.write(file.read(8))
    while len(head := file.read(8)) == 8:
        length, kind = struct.unpack(">I4s", head)
        if kind == b"eXIf":
            body = file.read(length + 4)
            _check_block(body, steps)
            kept.write(head + body)
        elif kind[:1].isupper() or kind == b"tRNS":
            kept.write(head + file.read(length + 4))
        else:
            file.seek(length + 4, os.SEEK_CUR)
        if kind == b"IEND":
            break
    kept.write(head if len(head) < 8 else b"")
    return kept


def _gif(file: BinaryIO, steps: Steps) -> BinaryIO:
    """Return a GIF's first frame without comments, which Pillow joins byte by byte (GIF89a)."""
    file.seek(0)
    screen = file.read(13)
    kept = BytesIO()
    kept.write(
        screen
        + file.read(3 << (screen[10] & 7) + 1 if len(screen) == 13 and screen[10] & 128 else 0)
    )
    while kind := file.read(1):
        steps.take()
        if kind == b"!":
            label = file.read(1)
            content = b"".join(_blocks(file, steps))
            if label == b"\xf9":  # transparency
                kept.write(kind + label + content)
        elif kind == b",":
            place = file.read(9)
            kept.write(kind + place)
            kept.write(
                file.read(
                    (3 << (place[8] & 7) + 1 if len(place) == 9 and place[8] & 128 else 0) + 1
                )
            )
            kept.writelines(_blocks(file))
            kept.write(b";")
            break
        elif kind == b";":
            break
    return kept


def _blocks(file: BinaryIO, steps: Steps | None = None) -> Iterator[bytes]:
    """Yield the blocks of a GIF up to an empty one, with their lengths; each is one of `steps`."""
    while length := file.read(1):
        if steps is not None:
            steps.take()
        yield length + file.read(length[0])
        if length == b"\0":
            return


def _jpeg(file: BinaryIO, steps: Steps) -> None:
    """Check the directories of tags in a JPEG's header, and the number of its scans."""
    exif, progressive = list[bytes](), False
    for marker, body in _segments(file, 0, steps):
        if marker == 0xE1 and body.startswith(b"Exif\0\0"):
            exif.append(body[6:])
            if len(exif) > MOST_EXIF:
                raise too_large(
                    steps.name, f"more than {MOST_EXIF} segments of EXIF", f"{MOST_EXIF}"
                )
        elif marker == 0xE2 and body.startswith(b"MPF\0"):
            _check_block(body[4:], steps)
        progressive |= marker in _PROGRESSIVE
    _check_block(b"".join(exif), steps)  # Pillow joins them
    file.seek(0)
    if progressive and scan_count(file.read(), steps.name) > MOST_SCANS:
        raise too_large(steps.name, f"more than {MOST_SCANS} scans", f"{MOST_SCANS} scans")


def _segments(file: BinaryIO, place: int, steps: Steps) -> Iterator[tuple[int, bytes]]:
    """Yield (marker, body) of each segment of a JPEG that begins at `place`, up to its first scan.

    Bytes between two segments are skipped, as by Pillow and libjpeg.
    """
    file.seek(place)
    before = b"" if file.read(2) == b"\xff\xd8" else None
    while before is not None and (byte := file.read(1)):
        steps.take()
        if before == b"\xff" and byte not in _ALONE:
            length = file.read(2)
            if len(length) < 2 or byte == b"\xda":
                return
            steps.take(SEGMENT_STEPS)
            here = file.tell()
            body = file.read(max(0, number(length) - 2))
            yield number(byte), body
            file.seek(here + len(body))
        before = byte


def _webp(file: BinaryIO, steps: Steps, start: bytes, max_pixels: int) -> None:
    """Check the canvas, which libwebp allocates before Pillow has its size, and the EXIF block."""
    if start[12:16] == b"VP8X":
        width, height = (int.from_bytes(start[at : at + 3], "little") + 1 for at in (24, 27))
        if width * height > max_pixels:
            raise too_large(
                steps.name,
                f"a canvas of {height}x{width} (height x width)",
                f"{max_pixels:,} pixels",
            )
    file.seek(12)
    while len(head := file.read(8)) == 8:
        length = int.from_bytes(head[4:], "little")
        if head[:4] == b"EXIF":
            _check_block(file.read(length), steps)
            return
        file.seek(length + length % 2, os.SEEK_CUR)


def _bmp(header: bytes, name: str) -> None:
    """Check the size of a BMP in run lengths, which are decoded in Python."""
    if len(header) < 20 or int.from_bytes(header[:4], "little") < 40:
        return
    width, height, _, _, compression = struct.unpack_from("<iiHHI", header, 4)
    if compression in (1, 2) and (
        abs(width) > MOST_RLE_WIDTH or abs(width * height) > MOST_RLE_PIXELS
    ):
        limit = f"{MOST_RLE_PIXELS:,} pixels and a width of {MOST_RLE_WIDTH:,}"
        raise too_large(name, f"{abs(height)}x{abs(width)} (height x width) in run lengths", limit)


@dataclass(frozen=True)
class TiffDirectory:
    """One directory of tags (TIFF 6.0, section 2); `values` has those of whole numbers."""

    values: dict[int, tuple[int, ...]]
    counts: dict[int, int]
    tags: list[int]
    next: int

    def first(self, tag: int, default: int) -> int:
        """Return the first number of a tag."""
        return next(iter(self.values.get(tag, ())), default)


def _check_block(block: bytes, steps: Steps) -> None:
    """Check a directory of tags within another file: EXIF, or the index of a multi-image JPEG."""
    block = re.sub(b"^(Exif\0\0){1,2}", b"", block)
    for _ in tiff_directories(BytesIO(block), steps):
        pass


def _tiff(file: BinaryIO, steps: Steps) -> None:
    """Check the tiles and strips of every page, and all directories of tags."""
    for directory in tiff_directories(file, steps):
        if _WIDTH in directory.values and _HEIGHT in directory.values:
            _check_page(file, directory, steps)


def tiff_directories(file: BinaryIO, steps: Steps) -> Iterator[TiffDirectory]:
    """Yield all linked directories, checked; a truncated or unknown one is the last."""
    length = file.seek(0, os.SEEK_END)
    file.seek(0)
    start = file.read(16)
    order = {b"II": "<", b"MM": ">"}.get(start[:2])
    if order is None or len(start) < 8:
        return
    big = start[2:3] == b"+"
    first = struct.unpack_from(
        f"{order}{'Q' if big else 'I'}", start.ljust(16, b"\0"), 8 if big else 4
    )[0]
    seen: set[int] = set()
    waiting = [first]
    while waiting:
        place = waiting.pop(0)
        if not 0 < place < length or place in seen:
            continue
        seen.add(place)
        if len(seen) > MOST_ENTRIES:
            raise too_large(
                steps.name, f"more than {MOST_ENTRIES} directories of tags", f"{MOST_ENTRIES}"
            )
        directory = _directory(file, place, order, big, length, steps)
        yield directory
        inner = [value for tag in _INNER for value in directory.values.get(tag, ())]
        waiting += [*inner, directory.next]


def _directory(
    file: BinaryIO, place: int, order: str, big: bool, length: int, steps: Steps
) -> TiffDirectory:
    """Return the directory at `place`. Raises TooLarge for too many bytes or numbers in tags."""
    entry_form, inline = ("HHQ8s", 8) if big else ("HHI4s", 4)
    file.seek(place)
    head = file.read(inline if big else 2)
    count = int.from_bytes(head, "little" if order == "<" else "big")
    step = struct.calcsize(f"={entry_form}")
    rows = file.read(step * min(count, MOST_ENTRIES + 1))
    if count > MOST_ENTRIES and len(rows) > step * MOST_ENTRIES:
        raise too_large(steps.name, f"a directory of {count:,} tags", f"{MOST_ENTRIES:,}")
    size = numbers = 0
    values: dict[int, tuple[int, ...]] = {}
    counts: dict[int, int] = {}
    tags = []
    for at in range(0, len(rows) - step + 1, step):
        steps.take()
        # The bytes of each tag, without those within the entry
        tag, kind, many, cell = struct.unpack_from(f"{order}{entry_form}", rows, at)
        bytes_of_tag = many * _UNIT.get(kind, 8)
        size += bytes_of_tag if bytes_of_tag > inline else 0
        numbers += many if kind not in _BYTES and tag not in _PLACES else 0
        tags.append(tag)
        counts[tag] = max(many, counts.get(tag, 0))
        # Its first numbers, or those of all strips
        if kind in _WHOLE and tag not in values:
            few = min(many, MOST_SEGMENTS if tag in _PLACES else 16)
            steps.take(few // NUMBERS_PER_STEP)
            if bytes_of_tag > inline:
                file.seek(int.from_bytes(cell, "little" if order == "<" else "big"))
                cell = file.read(few * _UNIT[kind])
            values[tag] = struct.unpack_from(
                f"{order}{min(few, len(cell) // _UNIT[kind])}{_WHOLE[kind]}", cell
            )
    if size > length or numbers > MOST_VALUES:
        tags_text = f"tags of {size:,} bytes and {numbers:,} numbers"
        raise too_large(steps.name, tags_text, f"{length:,} and {MOST_VALUES:,}")
    file.seek(place + len(head) + step * count)
    following = int.from_bytes(file.read(inline), "little" if order == "<" else "big")
    return TiffDirectory(values, counts, tags, following)


def _check_page(file: BinaryIO, page: TiffDirectory, steps: Steps) -> None:
    """Check the size of the tiles of a page, and the number of its tiles or strips."""
    if len(set(page.tags)) < len(page.tags):  # Pillow takes the last, libtiff the first
        raise DataError(
            f"{steps.name} cannot be read: its header holds a tag twice. Save it again with "
            "another program."
        )
    width, height = page.first(_WIDTH, 0), page.first(_HEIGHT, 0)
    bits = page.first(_SAMPLES, 1) * max(page.values.get(_BITS, ()), default=1)
    planes = page.first(_SAMPLES, 1) if page.first(_PLANES, 1) == 2 else 1
    # The size of one piece in memory
    tiled = _TILE_WIDTH in page.tags or _TILE_HEIGHT in page.tags
    strip = (width, page.first(_ROWS, 2**32 - 1) or height)
    piece = (page.first(_TILE_WIDTH, 0), page.first(_TILE_HEIGHT, 0)) if tiled else strip
    if not tiled and (page.first(_COLOR, 0) != _YCBCR or piece[1] == 2**32 - 1):
        piece = (width, min(height, piece[1]))  # for YCbCr Pillow believes the rows of a strip
    if min(*piece, width, height) < 1:
        return  # refused by Pillow
    padded = -(-width // 16) * -(-height // 16) * 256
    most = max(MOST_TILE_BYTES, padded * max(bits, 32) // 8)
    if piece[0] * piece[1] * max(bits, 32) // 8 > most:
        shape = f"{piece[1]}x{piece[0]} (height x width)"
        tiles = f"tiles of {shape} in an image of {height}x{width}"
        raise too_large(steps.name, tiles, f"{most:,} bytes a tile")
    # The number of pieces
    pieces = -(-width // piece[0]) * -(-height // piece[1]) * planes
    pieces = max(pieces, *(page.counts.get(tag, 0) for tag in _PLACES))
    if pieces > MOST_SEGMENTS:
        raise too_large(steps.name, f"{pieces:,} tiles or strips", f"{MOST_SEGMENTS:,}")
    # A JPEG in the last strip of a plane may be higher than the strip, and is kept if progressive
    if page.first(_COMPRESSION, 1) == _JPEG and not tiled:
        rows = min(height, piece[1])
        down = -(-height // rows)
        for place in set(page.values.get(_STRIPS, ())[down - 1 : down * planes : down]):
            for marker, body in _segments(file, place, steps):
                lines = number(body[1:3])
                if 0xC0 <= marker <= 0xCF and marker not in (0xC4, 0xC8, 0xCC) and rows < lines:
                    raise too_large(
                        steps.name, f"a JPEG of {lines} lines", f"{rows}, as in its header"
                    )
