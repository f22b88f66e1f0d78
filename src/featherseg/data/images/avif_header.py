"""The sizes that an AVIF file makes its decoder allocate: those of its AV1 data.

A file names the size of its image (ISO/IEC 23008-12, `ispe`), and each AV1 image in it the size of
its frames (AV1, section 5.5.1), which may be another one. The decoder allocates by the latter.
"""

import struct
from collections.abc import Iterator, Mapping
from typing import BinaryIO

from featherseg.core.errors import DataError
from featherseg.data.images.header_limits import SEGMENT_STEPS, Steps, boxes, number, too_large

MOST_META = 2**24
"""Most bytes of the box that lists a file's images; an image of 64 tiles has 10 kB."""

MOST_GROWTH, ALWAYS = 4, 2**20
"""Most times the declared pixels (tiles are padded), and pixels that are always allowed."""

_SEQUENCE = 1  # the type of an OBU with sizes
Boxes = Iterator[tuple[bytes, bytes]]


def check_avif(file: BinaryIO, steps: Steps, max_pixels: int) -> None:
    """Raise TooLarge if AV1 images are much larger than declared, DataError for an animation."""
    meta = _meta(file, steps)
    parts = dict(_boxes(meta[4:], steps))
    declared = 0
    for kind, body in _boxes(dict(_boxes(parts.get(b"iprp", b""), steps)).get(b"ipco", b""), steps):
        if kind == b"ispe" and len(body) >= 12:
            width, height = struct.unpack_from(">II", body, 4)
            declared = max(declared, width * height)
    limit = min(max_pixels, max(ALWAYS, MOST_GROWTH * declared))
    kinds = _item_types(parts.get(b"iinf", b""), steps)
    total = 0
    for start, length, in_meta in _extents(parts.get(b"iloc", b""), kinds, steps):
        if in_meta:
            data = parts.get(b"idat", b"")[start : start + length]
        else:
            file.seek(start)
            data = file.read(length)
        total += len(data)
        if total > 2 * file.seek(0, 2):
            raise too_large(steps.name, "images that share their data", "its own bytes")
        for width, height in _frame_sizes(data, steps):
            if width * height > limit:
                data_text = f"AV1 data of {height}x{width} (height x width)"
                raise too_large(steps.name, data_text, f"{limit:,} pixels for what it declares")


def _meta(file: BinaryIO, steps: Steps) -> bytes:
    """Return the body of the first box `meta`."""
    meta = None
    for kind, place, length in boxes(file, steps):
        if kind in (b"moov", b"moof"):
            raise DataError(
                f"{steps.name} is an animation, which is not read from AVIF. Save one image of it."
            )
        if kind == b"meta" and meta is None:
            if (length or 0) > MOST_META:
                raise too_large(
                    steps.name, f"a list of images of {length:,} bytes", f"{MOST_META:,}"
                )
            file.seek(place)
            meta = file.read(MOST_META if length is None else length)
    return meta or b""


def _boxes(content: bytes, steps: Steps) -> Boxes:
    """Yield (type, body) of the boxes in a box."""
    place = 0
    while place + 8 <= len(content):
        steps.take()
        length, kind = struct.unpack_from(">I4s", content, place)
        inside = 8
        if length == 1 and place + 16 <= len(content):
            length, inside = number(content[place + 8 : place + 16]), 16
        length = length or len(content) - place
        if length < inside:
            return
        yield kind, content[place + inside : place + length]
        place += length


def _item_types(body: bytes, steps: Steps) -> dict[int, bytes]:
    """Return {item: its type} from the box `iinf`."""
    types = {}
    for kind, info in _boxes(body[6 if body[:1] == b"\0" else 8 :], steps):
        if kind == b"infe" and len(info) >= 12:
            wide = info[0] == 3  # version 2 has numbers of 16 bits, version 3 of 32
            types[number(info[4 : 8 if wide else 6])] = info[10:14] if wide else info[8:12]
    return types


def _extents(
    body: bytes, kinds: Mapping[int, bytes], steps: Steps
) -> Iterator[tuple[int, int, bool]]:
    """Yield (start, length, whether in `idat`) of every AV1 image's data, from the box `iloc`."""
    if len(body) < 8:
        return
    version, sizes = body[0], number(body[4:6])
    offset, length, base, index = (sizes >> shift & 15 for shift in (12, 8, 4, 0))
    place = 6

    def take(count: int) -> int:
        nonlocal place
        place += count
        return number(body[place - count : place])

    for _ in range(take(2 if version < 2 else 4)):
        if place >= len(body):
            return
        steps.take()
        item = take(2 if version < 2 else 4)
        in_meta = bool(take(2) & 15) if version else False
        take(2)
        begin = take(base)
        for _ in range(take(2)):
            if place >= len(body):
                return
            steps.take()
            if version:
                take(index)
            start = begin + take(offset)
            size = take(length)
            if kinds.get(item) == b"av01" and start < 2**62:
                yield start, size or 2**62, in_meta


def _frame_sizes(data: bytes, steps: Steps) -> Iterator[tuple[int, int]]:
    """Yield (width, height) of every sequence header in AV1 data (AV1, sections 5.3 and 5.5)."""
    place = 0
    while place < len(data):
        steps.take(SEGMENT_STEPS)
        head = data[place]
        place += 2 if head & 4 else 1  # an extension
        size = 0
        if head & 2:
            for shift in range(0, 56, 7):
                byte = data[place] if place < len(data) else 0
                place += 1
                size |= (byte & 127) << shift
                if not byte & 128:
                    break
        else:
            size = len(data) - place
        if head >> 3 & 15 == _SEQUENCE:
            yield _sequence_size(data[place : place + min(size, 1024)])
        place += size


def _sequence_size(header: bytes) -> tuple[int, int]:
    """Return max_frame_width and max_frame_height of a sequence header (AV1, section 5.5.1)."""
    bits, place = int.from_bytes(header), 8 * len(header)

    def take(count: int) -> int:
        nonlocal place
        place -= count
        return (bits >> place if place >= 0 else bits << -place) & ((1 << count) - 1)

    take(4)
    if take(1):  # reduced_still_picture_header
        take(5)
    else:
        delay_bits = model = 0
        if take(1):  # timing_info_present_flag
            take(64)
            if take(1):  # num_ticks_per_picture_minus_1, as uvlc
                zeros = 0
                while zeros < 32 and not take(1):
                    zeros += 1
                take(zeros)
            if model := take(1):
                delay_bits = take(5) + 1
                take(42)
        delays = take(1)
        for _ in range(take(5) + 1):
            take(12)
            if take(5) > 7:
                take(1)
            if model and take(1):
                take(2 * delay_bits + 1)
            if delays and take(1):
                take(4)
    width_bits, height_bits = take(4) + 1, take(4) + 1
    return take(width_bits) + 1, take(height_bits) + 1
