"""Decode the bytes of a request to an image; only the content decides its format."""

from collections.abc import Callable
from typing import TypeVar

import numpy as np

from featherseg.core.errors import DataError, TooLarge
from featherseg.core.types import Size
from featherseg.data.images.decoding import EncodedImage, image_size, read_image
from featherseg.data.images.headers import MOST_SCANS, scan_count
from featherseg.serving.refusal import Refused

T = TypeVar("T")

FORMATS = "JPEG, PNG, WebP, BMP, TIFF, AVIF, GIF, JPEG 2000 or PNM"

_JPEG = b"\xff\xd8\xff"
_STARTS = (
    *(
        _JPEG,
        b"\x89PNG\r\n\x1a\n",
        b"BM",
        b"II*\0",
        b"MM\0*",
        b"II+\0",
        b"MM\0+",
        b"GIF87a",
        b"GIF89a",
    ),
    *(b"\xff\x4f\xff\x51", b"\x00\x00\x00\x0cjP  "),  # JPEG 2000
    *(f"P{kind}{blank}".encode() for kind in range(1, 7) for blank in " \t\r\n"),  # PNM
)


def size_of(content: bytes, most_pixels: int) -> Size:
    """Return (height, width) of an upright image from its header. Raises Refused: 400, 413, 415."""
    if not content:
        raise Refused(400, "empty", "The image is empty: the field contains no bytes.")
    boxed = content[:4] == b"RIFF" and content[8:12] == b"WEBP"
    boxed |= content[4:8] == b"ftyp" and content[8:12] in (b"avif", b"avis", b"mif1")
    if not boxed and not content.startswith(_STARTS):
        raise Refused(415, "format", f"This is not a {FORMATS} image. Send one of these.")
    if (
        content.startswith(_JPEG)
        and _readable(lambda source: scan_count(source.content), content) > MOST_SCANS
    ):
        raise Refused(
            413,
            "scans",
            f"The JPEG has more than {MOST_SCANS} scans. Save it again, not progressive.",
        )
    height, width = _readable(image_size, content)
    if height * width > most_pixels:
        raise Refused(
            413,
            "pixels",
            f"The image has {height}x{width} (height x width), {height * width:,} pixels; the "
            f"limit is {most_pixels:,}. Downscale it.",
        )
    return height, width


def decode(content: bytes, channels: int) -> np.ndarray:
    """Return the image as (H, W, channels) uint8 or uint16, as `featherseg predict` reads it.

    Raises Refused: 400, 413.
    """
    return _readable(lambda source: read_image(source, channels), content)


def _readable(read: Callable[[EncodedImage], T], content: bytes) -> T:
    try:
        return read(EncodedImage(content))
    except TooLarge as error:
        raise Refused(413, "pixels", _message(str(error))) from None
    except DataError as error:
        raise Refused(400, "unreadable", _message(str(error))) from None


def _message(text: str) -> str:
    return text[:1].upper() + text[1:]
