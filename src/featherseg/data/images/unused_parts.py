"""What an image file contains beside the pixels that are read, reported once per command.

Only headers are read, within bounds. What cannot be read is left to the decoder, which refuses the
file.
"""

import os
import zlib
from collections.abc import Iterator
from io import BytesIO
from pathlib import Path
from typing import BinaryIO

from featherseg.data.images.decoding import EncodedImage, Source
from featherseg.data.images.georeference import (
    NODATA,
    PLACE_TAGS,
    TIFF_SUFFIXES,
    Directory,
    Georeference,
    georeference_of,
    read_directory,
)

TOLD = {
    "place": "with a place on the map: the mask is a GeoTIFF, NAME_mask.tif",
    "turned": "turned by the orientation tag of a GeoTIFF, so that the mask has no place on the "
    "map",
    "world": "with a world file beside, which is not read: copy it beside the mask as "
    "NAME_mask.pgw",
    "bands": "with bands beside red, green and blue, which are not used",
    "alpha": "with an alpha channel, which is not used",
    "pages": "with further pages or frames, of which the first is used",
    "profile": "with an ICC profile other than sRGB, which is not applied",
    "hdr": "with an HDR transfer curve or gain map, which is not applied",
}
"""Part of a file -> the note for one image."""

OF_PIXELS = frozenset({"bands", "alpha", "pages", "profile", "hdr"})
"""Parts that matter for training too."""

MOST_PARTS, MOST_PROFILE = 256, 2**20
"""Most segments or chunks that are read before the pixels, and most bytes of a profile."""

_HEAD = 2**16
_ORIENTATION, _KIND, _PHOTOMETRIC, _SAMPLES, _EXTRA, _PROFILE = 274, 254, 262, 277, 338, 34675
_TAGS = {*PLACE_TAGS, NODATA, _ORIENTATION, _KIND, _PHOTOMETRIC, _SAMPLES, _EXTRA, _PROFILE}
_COLOURS, _RGB = (2, 3, 5, 6), 2  # RGB, palette, CMYK and YCbCr
_ALPHA, _SMALLER_OR_MASK = (1, 2), 1 | 4
_PQ, _HLG = 16, 18  # ITU-T H.273


def unused_parts(source: Source, channels: int) -> tuple[Georeference | None, set[str]]:
    """Return the place of a GeoTIFF or None, and which parts of a file a model does not use.

    channels: the number of channels that the model takes. Parts are keys of TOLD.
    """
    try:
        with (
            BytesIO(source.content)
            if isinstance(source, EncodedImage)
            else open(source, "rb") as file
        ):
            start = file.read(16)
            place, parts = None, set[str]()
            if start.startswith((b"II", b"MM")):
                place, parts = _tiff(file)
            elif start.startswith(b"\xff\xd8"):
                parts = set(_jpeg(file))
            elif start.startswith(b"\x89PNG"):
                parts = set(_png(file))
            elif start[:4] == b"RIFF" or start[4:8] == b"ftyp" or start[:3] == b"GIF":
                file.seek(0)
                parts = set(_others(file.read(_HEAD)))
    except (OSError, ValueError, IndexError):
        return None, set()
    suffix = os.path.splitext(str(source))[1].lower()
    if suffix and suffix not in TIFF_SUFFIXES:
        place = None  # the ending of a mask's file follows from that of its image
    if isinstance(source, Path) and place is None:
        # a.tfw or a.tifw beside a.tif, and so on
        stem, suffix = os.path.splitext(source)
        endings = (f"{suffix[1:2]}{suffix[-1:]}", suffix[1:])
        if any(os.path.isfile(f"{stem}.{ending}w") for ending in endings):
            parts.add("world")
    return place, parts - ({"alpha", "bands"} if channels > 3 else set())


def _tiff(file: BinaryIO) -> tuple[Georeference | None, set[str]]:
    page = read_directory(file, _TAGS)
    if page is None:
        return None, set()
    place, parts = georeference_of(page), set[str]()
    if place and page.number(_ORIENTATION, 1) != 1:
        place, parts = None, {"turned"}
    extra = page.numbers(_EXTRA)
    if any(kind in _ALPHA for kind in extra):
        parts.add("alpha")
    spare = page.number(_SAMPLES, 1) - 3 - sum(kind in _ALPHA for kind in extra)
    if page.number(_PHOTOMETRIC, 0) == _RGB and spare > 0:
        parts.add("bands")
    if page.number(_PHOTOMETRIC, 0) in _COLOURS and _has_further_page(file, page):
        parts.add("pages")
    if (profile := page.tags.get(_PROFILE)) and _is_other_profile(profile.value):
        parts.add("profile")
    return place, parts


def _has_further_page(file: BinaryIO, page: Directory) -> bool:
    """Whether a further page is an image of its own, not a smaller version or mask of the first."""
    place = page.following
    for _ in range(MOST_PARTS):
        if not place or (following := read_directory(file, {_KIND}, place)) is None:
            return False
        if not following.number(_KIND, 0) & _SMALLER_OR_MASK:
            return True
        place = following.following
    return False


def _jpeg(file: BinaryIO) -> Iterator[str]:
    place = 2
    for _ in range(MOST_PARTS):
        file.seek(place)
        head = file.read(4)
        if len(head) < 4 or head[0] != 0xFF or head[1] == 0xDA:
            return
        if head[1] in (0xE1, 0xE2):
            body = file.read(int.from_bytes(head[2:], "big") - 2)
            if body.startswith(b"ICC_PROFILE\0\1") and _is_other_profile(body[14:]):
                yield "profile"
            if b"hdrgm:Version" in body or body.startswith(b"urn:iso:std:iso:ts:21496"):
                yield "hdr"
        place += 2 + int.from_bytes(head[2:], "big")


def _png(file: BinaryIO) -> Iterator[str]:
    place = 8
    for _ in range(MOST_PARTS):
        file.seek(place)
        head = file.read(8)
        length, kind = int.from_bytes(head[:4], "big"), head[4:]
        if kind in (b"IDAT", b"IEND", b""):
            return
        body = file.read(min(length, MOST_PROFILE))
        if kind == b"tRNS" or (kind == b"IHDR" and body[9] in (4, 6)):
            yield "alpha"
        elif kind == b"acTL":
            yield "pages"
        elif kind == b"cICP" and body[1] in (_PQ, _HLG):
            yield "hdr"
        elif kind == b"iCCP":
            name, _, packed = body.partition(b"\0")
            try:
                profile = zlib.decompressobj().decompress(packed[1:], MOST_PROFILE)
            except zlib.error:
                profile = b""
            if _is_other_profile(name + profile):
                yield "profile"
        place += 12 + length


def _others(head: bytes) -> Iterator[str]:
    """Yield the parts of a WebP, AVIF or GIF, by its first bytes."""
    if head[8:16] == b"WEBPVP8X":
        flags = head[20]
        if flags & 0x10:
            yield "alpha"
        if flags & 0x02:
            yield "pages"
        if flags & 0x20 and _is_other_profile(head):
            yield "profile"
    elif head[8:16] == b"WEBPVP8L" and int.from_bytes(head[21:25], "little") >> 28 & 1:
        yield "alpha"
    elif head[4:8] == b"ftyp":
        if b"auxiliary:alpha" in head:
            yield "alpha"
        if head[8:12] == b"avis":
            yield "pages"
        if (at := head.find(b"colrnclx")) > 0 and int.from_bytes(
            head[at + 10 : at + 12], "big"
        ) in (_PQ, _HLG):
            yield "hdr"
        if max(head.find(b"colrprof"), head.find(b"colrrICC")) > 0 and _is_other_profile(head):
            yield "profile"
    elif (
        head[:3] == b"GIF" and head.count(b"\x21\xf9\x04") > 1
    ):  # graphic control: one before each frame
        yield "pages"


def _is_other_profile(profile: bytes) -> bool:
    return b"sRGB" not in profile and "sRGB".encode("utf-16-be") not in profile
