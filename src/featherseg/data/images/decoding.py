"""Reading images and masks with Pillow: bounded, upright, with messages that name the file.

Pillow may use only the decoders of the formats listed here.
"""

import ctypes
import logging
import os
import sys
import warnings
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from io import BytesIO
from pathlib import Path
from typing import BinaryIO

import numpy as np
import PIL
from PIL import (  # those of all formats here: Pillow loads all that it has if one is missing
    AvifImagePlugin,  # noqa: F401
    ExifTags,
    Image,
    ImageFile,
    Jpeg2KImagePlugin,  # noqa: F401
    TiffImagePlugin,  # noqa: F401
    WebPImagePlugin,  # noqa: F401
)

from featherseg.core.errors import (
    DataError,
    DataNotFound,
    FeathersegError,
    TooLarge,
)
from featherseg.core.types import Color, Size
from featherseg.core.wording import counted, one_line
from featherseg.data.images.headers import bounded
from featherseg.data.images.matlab import read_matrix
from featherseg.data.images.tiff_bands import BandedTiff, banded_tiff
from featherseg.data.images.unread import (
    REMEDY,
    UNREAD_SUFFIXES,
)

MATLAB_SUFFIX, MATLAB_NAME = ".mat", "S"
"""A mask may be a MATLAB file with the matrix S, as in COCO-Stuff 10k."""

LOSSY = "JPEG or of another lossy format, which changes values along edges: write masks as PNG"
"""The note on masks that are `is_lossy`."""

CMYK = (
    "is a CMYK image: its four channels are inks, not the 4 that the model or dataset takes. "
    "Expected RGBA, or a TIFF with 4 single-channel pages. Convert it."
)
"""The message on a CMYK image for a model of four channels."""

MAX_PIXELS = 2 * 89_478_485
"""Most pixels of an image that is decoded: Pillow's own limit, about 179 megapixels."""

MAX_PAGES = 512
"""Most single-channel pages of a TIFF."""

MOST_PLAIN_PIXELS = 2**24
"""Most pixels of a PNM with its values as text, which Pillow decodes in Python."""

_FORMATS = ("JPEG", "PNG", "WEBP", "BMP", "TIFF", "AVIF", "GIF", "JPEG2000", "PPM")
_TURNS = {  # EXIF orientation -> what turns the image upright (CIPA DC-008, table 6)
    2: Image.Transpose.FLIP_LEFT_RIGHT,
    3: Image.Transpose.ROTATE_180,
    4: Image.Transpose.FLIP_TOP_BOTTOM,
    5: Image.Transpose.TRANSPOSE,
    6: Image.Transpose.ROTATE_270,
    7: Image.Transpose.TRANSVERSE,
    8: Image.Transpose.ROTATE_90,
}
# Tags of a TIFF, and the value of the last one for signed values
_BITS, _PLANES, _SAMPLE_FORMAT, _SIGNED = 258, 284, 339, 2
# NewSubfileType, the relation of a page to the image before it, and its values (TIFF 6.0, page 36)
_KIND, _SMALLER, _MASK = 254, 1, 4
_SWAPPED = "B" if sys.byteorder == "little" else "L"
# Raw mode in which Pillow keeps the high bytes of 16-bit colour -> the mode for the low bytes
_LOW_BYTE = {
    f"{mode};16{high}": f"{mode};16{low}"
    for mode in ("RGB", "RGBA", "RGBX")
    for high, low in (("B", "L"), ("L", "B"), ("N", _SWAPPED))
}

# Pillow and libtiff would print faults that are raised as DataError too
logging.getLogger("PIL").addHandler(logging.NullHandler())
with suppress(AttributeError):  # on Windows libtiff is linked in without its names
    ctypes.CDLL(Image.core.__file__).TIFFSetErrorHandler(None)


@dataclass(frozen=True)
class EncodedImage:
    """An image file in memory: its bytes, and its name for messages."""

    content: bytes
    name: str = "the image"

    def __str__(self) -> str:
        return self.name


Source = Path | EncodedImage
"""A file of an image, on disk or in memory."""


def is_lossy(path: Path) -> bool:
    """Whether the pixels of a file are only near what was stored.

    This is so for a JPEG, an AVIF, and a WebP or JPEG 2000 that is not lossless.
    """
    try:
        with open(path, "rb") as file:
            head = file.read(4096)
    except OSError:
        return False
    # The marker COD of JPEG 2000
    style = head.find(b"\xff\x52\x00", head.find(b"\xff\x4f\xff\x51"))
    jpeg2000 = head.startswith((b"\xff\x4f\xff\x51", b"\x00\x00\x00\x0cjP  ")) and style > 0
    return (
        head.startswith(b"\xff\xd8")
        or (head[8:12] == b"WEBP" and b"VP8 " in head[:64])
        or (head[4:8] == b"ftyp" and head[8:12] in (b"avif", b"mif1"))
        or (jpeg2000 and head[style + 13 : style + 14] == b"\0")  # the irreversible wavelet
    )


def image_size(path: Source) -> Size:
    """Return (height, width) in pixels of the upright image, from the header alone.

    Raises:
        DataNotFound, DataError: As `read_image`.
    """
    if (tiff := _banded(path)) is not None:
        return tiff.seen_size
    with _opened(path) as image:
        return image.size if _orientation(image) >= 5 else image.size[::-1]


def exif_turn(path: Source) -> Image.Transpose | None:
    """Return what turns the stored pixels upright, by the EXIF orientation; None if they are.

    Raises:
        DataNotFound, DataError: As `read_image`.
    """
    if _banded(path) is not None:  # it is turned when it is read
        return None
    with _opened(path) as image:
        return _TURNS.get(_orientation(image))


def read_image(path: Source, channels: int = 3) -> np.ndarray:
    """Return the image as (H, W, channels) uint8 or uint16, upright by its EXIF orientation.

    For three channels palette and CMYK images become RGB, grey is repeated, and alpha is dropped.
    For four channels alpha stays, and CMYK is refused. A TIFF with single-channel pages of one size
    has a channel per page; smaller versions of an image and its mask are no pages. The bands of a
    TIFF with one page are its channels; for three channels, bands beside RGB are dropped.

    Raises:
        DataNotFound: The file is missing.
        DataError: It is damaged, truncated, larger than MAX_PIXELS, or has other channels.
    """
    return image_and_turn(path, channels)[0]


def image_and_turn(path: Source, channels: int) -> tuple[np.ndarray, Image.Transpose | None]:
    """Return `read_image` and `exif_turn` of an image."""
    if (tiff := _banded(path)) is not None:
        with _file(path) as file, _faults(path):
            if channels == tiff.bands:
                return tiff.read(file, _decode_grey), None
            if channels == tiff.colors == 3:
                return np.ascontiguousarray(tiff.read(file, _decode_grey)[:, :, :3]), None
        raise _other_channels(path, tiff.bands, channels)
    with _opened(path) as image:
        turn = _TURNS.get(_orientation(image))
        if _is_single(image) and len(_pages(image, path)) > 1:
            return _read_pages(image, path, channels), turn
        pixels = _pixels(image, path, keep_fourth=channels == 4)  # (H, W, C)
        if image.format == "PPM":
            pixels = _full_range(pixels, image.info.get("largest", 0))
    stored = pixels.shape[2]
    if stored == 1 and channels == 3:
        pixels = np.repeat(pixels, 3, axis=2)  # (H, W, 3)
    elif stored != channels:
        raise _other_channels(path, stored, channels)
    return pixels, turn


def read_mask(path: Path, colors: bool = False) -> np.ndarray:
    """Return the raw values of a mask: (H, W) uint8, uint16, int32 or int64, or (H, W, 3) uint8.

    The latter is for a colour image. A palette image has its indices, a 1-bit image 0 and 1, a
    MATLAB file its matrix S. Alpha is dropped.

    Args:
        path: The file.
        colors: Return every mask as (H, W, 3) colours.

    Raises:
        DataNotFound, DataError: As `read_image`; also for a TIFF with several pages, and for a mask
            of one colour with classes in its alpha alone.
    """
    if path.suffix == MATLAB_SUFFIX:
        return read_matrix(path, MATLAB_NAME, MAX_PIXELS)
    with _opened_mask(path) as image:
        return _mask_values(image, path, colors)


def mask_and_colors(path: Path, colors: bool) -> tuple[np.ndarray, list[Color], Color | None]:
    """Return `read_mask`, the palette, and a colour that is both opaque and transparent.

    The palette is empty for other images. The last is None without such a colour, whose pixels are
    one class because alpha is dropped.
    """
    if path.suffix == MATLAB_SUFFIX:
        return read_mask(path), [], None
    with _opened_mask(path) as image:
        raw = _mask_values(image, path, colors)
        return raw, _palette(image) if image.mode == "P" else [], _veiled(image)


@contextmanager
def _opened_mask(path: Path) -> Iterator[ImageFile.ImageFile]:
    """Open the image of a mask; raises as `read_mask`."""
    if (tiff := _banded(path)) is not None and (tiff.colors != 3 or tiff.depth != 8):
        raise DataError(
            f"{path} has {counted(tiff.bands, 'band')}. Expected a mask of one, or colours of 8 "
            "bits."
        )
    with _opened(path) as image:
        pages = len(_pages(image, path)) if _is_single(image) or image.mode in ("P", "PA") else 1
        if pages > 1:
            raise DataError(
                f"{path} holds {pages} pages. Expected a mask of one page, with a value for each "
                "class: join its pages into one."
            )
        # Pillow would keep the high byte
        if ";16" in _raw_mode(image) and not image.mode.startswith("I"):
            raise DataError(
                f"{path} has 16 bits for each of several channels. Expected class ids in one "
                "channel, or colours of 8 bits. Save it so."
            )
        yield image


def _mask_values(image: ImageFile.ImageFile, path: Path, colors: bool) -> np.ndarray:
    """Return the raw values of an opened mask, as `read_mask`."""
    upright = _upright(image)
    if upright.mode in ("RGBA", "LA", "PA"):
        *constant, constant_alpha = np.ptp(np.array(upright.getextrema()), axis=1) == 0
        if all(constant) and not constant_alpha:
            raise DataError(
                f"{path} has one colour everywhere, and shows classes by transparency (alpha) "
                "alone, which is not read. Save it without transparency, with a colour for the "
                "background."
            )
    if colors or upright.mode not in ("1", "L", "P", "LA", "PA", "I", "I;16", "I;16B", "I;16L"):
        return np.array(_to_rgb(upright, path))  # (H, W, 3)
    if upright.mode in ("LA", "PA"):
        return np.array(upright.getchannel(0))  # (H, W)
    raw = np.array(upright)  # (H, W)
    return raw.astype(np.uint8) if raw.dtype == bool else _native(raw)


def _veiled(image: Image.Image) -> Color | None:
    """Return a colour that is both opaque and transparent in the image, or None."""
    if image.mode not in ("RGBA", "LA", "PA"):
        return None
    *bands, alpha = np.moveaxis(np.array(image.convert("RGBA"), np.int32), 2, 0)  # (H, W) each
    values = bands[0] << 16 | bands[1] << 8 | bands[2]
    both = np.intersect1d(values[alpha == 0], values[alpha == 255])
    return (int(both[0]) >> 16, int(both[0]) >> 8 & 255, int(both[0]) & 255) if len(both) else None


def _palette(image: Image.Image) -> list[Color]:
    """Return the colours of a palette image. For a PNG the pixels are not decoded."""
    palette = image.palette
    if (
        palette is not None
        and palette.mode == "RGB"
        and palette.rawmode is None
        and image.format == "PNG"
    ):
        bands = list(bytes(palette.palette))
    else:
        bands = image.getpalette("RGB") or []
    return list(zip(bands[::3], bands[1::3], bands[2::3], strict=True))


def image_channels(path: Path) -> int:
    """Return the channels of an image: pages or bands of a TIFF, 1 for grey, else 3.

    Alpha is not counted. A fourth band that is marked as alpha, which GDAL does by itself, is
    counted if most of its values are neither 0 nor the largest.
    """
    if (tiff := _banded(path)) is not None:
        return tiff.bands
    with _opened(path) as image:
        if image.format == "TIFF" and image.mode == "RGBA":
            fourth = read_image(path, 4)[:, :, 3]
            if np.isin(fourth, (0, np.iinfo(fourth.dtype).max)).mean() < 0.5:
                return 4
        return len(_pages(image, path)) if _is_single(image) else 3


def _banded(path: Source) -> BandedTiff | None:
    """Return the page of a TIFF with bands that Pillow does not read; None for any other file."""
    with _faults(path), _file(path) as file:
        tiff = banded_tiff(file, str(path), MAX_PIXELS)
        alpha = tiff is not None and tiff.alpha and not (tiff.planar and tiff.depth == 16)
        return None if alpha else tiff


def _decode_grey(content: bytes, name: str) -> np.ndarray:
    """Return a grey TIFF in memory as (H, W) uint8 or uint16."""
    with _opened(EncodedImage(content, name)) as image:
        return np.array(image)


@contextmanager
def _opened(path: Source) -> Iterator[ImageFile.ImageFile]:
    """Open an image after checking its header and size; any fault in the block is a DataError."""
    with _faults(path), warnings.catch_warnings():
        # Pillow warns from half of MAX_PIXELS on, and about slightly odd headers
        warnings.simplefilter("ignore")
        with (
            _file(path) as file,
            Image.open(bounded(file, str(path), MAX_PIXELS), formats=_FORMATS) as image,
        ):
            _check_page(image, path)
            if image.format == "PPM":
                _keep_values(image, path)
            yield image


@contextmanager
def _faults(path: Source) -> Iterator[None]:
    """Raise any fault in the block as a DataError that names the file.

    Every exception is caught, because Pillow's decoders raise nearly anything for damaged files.
    """
    try:
        yield
    except FeathersegError as error:
        raise type(error)(one_line(str(error))) from None  # the image's name is in it
    except FileNotFoundError:
        raise DataNotFound(f"{path} does not exist.") from None
    except Image.UnidentifiedImageError:
        ending = os.path.splitext(str(path))[1].lower()
        if ending in UNREAD_SUFFIXES:
            raise DataError(
                f"{path} cannot be read: {ending} is not read. Convert it {REMEDY}."
            ) from None
        raise DataError(
            f"{path} cannot be read: it is not an image of a supported format, or its header is "
            f"damaged. Expected one of {', '.join(_FORMATS)}."
        ) from None
    except Image.DecompressionBombError:
        raise TooLarge(
            f"{path} is too large: its header declares more than {MAX_PIXELS:,} pixels, the limit. "
            "Split it into parts."
        ) from None
    except Exception as error:
        reason = str(error) or type(error).__name__
        advice = "The file is damaged or truncated; replace it."
        is_tiff = str(path).lower().endswith((".tif", ".tiff"))
        if is_tiff and int(PIL.__version__.partition(".")[0]) < 12:
            advice += " If it is compressed by zstd, run: pip install 'pillow>=12'"
        raise DataError(f"{path} cannot be read: {reason}. {advice}") from error


def _file(source: Source) -> BinaryIO:
    """Open the file for Pillow, which would map a raw TIFF of a path, and scramble a turned one."""
    if isinstance(source, EncodedImage):
        return BytesIO(source.content)
    if source.exists() and not source.is_file():
        raise DataError(
            f"{source} cannot be read: it is not a file but a folder, a pipe or a device."
        )
    return source.open("rb")


def _check_page(image: ImageFile.ImageFile, path: Source) -> None:
    """Refuse images that are too large, and values that Pillow does not read rightly."""
    width, height = image.size
    if width * height > MAX_PIXELS:
        raise TooLarge(
            f"{path} is too large: {height}x{width} (height x width) is {width * height:,} pixels, "
            f"the limit is {MAX_PIXELS:,}. Split it into parts."
        )
    tags = getattr(image, "tag_v2", {})
    if _SIGNED in tags.get(_SAMPLE_FORMAT, ()) and not image.mode.startswith("I"):
        raise DataError(
            f"{path} holds signed 8-bit values, which are not supported in images. Save it as 0 to "
            "255."
        )
    if len(image.getbands()) > 1 and tags.get(_PLANES, 1) != 1 and max(tags.get(_BITS, (8,))) > 8:
        raise DataError(
            f"{path} stores more than 8 bits per channel in separate planes. Save it as "
            "interleaved RGB."
        )


def _keep_values(image: ImageFile.ImageFile, path: Source) -> None:
    """Let Pillow decode a PNM as stored; else it scales values in Python, and colour to 8 bits."""
    (tile,) = image.tile
    plain = tile.codec_name == "ppm_plain"
    if plain and image.width * image.height > MOST_PLAIN_PIXELS:
        raise TooLarge(
            f"{path} is too large: it holds {image.width * image.height:,} pixels as text, the "
            f"limit is {MOST_PLAIN_PIXELS:,}. Save it as PNG."
        )
    if not isinstance(tile.args, tuple) or image.mode not in ("L", "I", "RGB"):
        return
    mode, largest = tile.args
    if plain and mode == "RGB" and largest > 255:
        raise DataError(f"{path} holds 16-bit colour as text, which is not read. Save it as PNG.")
    image.info["largest"] = largest
    if plain:
        image.tile = [tile._replace(args=(mode, 65535 if image.mode == "I" else 255))]
    else:
        raw_mode = mode if largest < 256 else "I;16B" if mode == "L" else "RGB;16B"
        image.tile = [tile._replace(codec_name="raw", args=raw_mode)]


def _full_range(pixels: np.ndarray, largest: int) -> np.ndarray:
    """Scale the values of a PNM, whose header names the largest one, to 8 or 16 bits."""
    full = np.iinfo(pixels.dtype).max
    if largest in (0, full):
        return pixels
    values = np.minimum(pixels, largest).astype(np.uint32)
    return ((values * full + largest // 2) // largest).astype(pixels.dtype)


def _orientation(image: Image.Image) -> int:
    """Return the EXIF orientation 1..8 to apply. Pillow turns TIFF files itself.

    For a PNG only EXIF before the pixels counts: to look behind them Pillow decodes the whole file.
    """
    if image.format == "TIFF" or (image.format == "PNG" and "exif" not in image.info):
        return 1
    try:
        orientation = image.getexif().get(ExifTags.Base.Orientation, 1)
        return orientation if orientation in _TURNS else 1
    except Exception:  # a damaged EXIF block damages no pixel, and Pillow raises nearly anything
        return 1


def _upright(image: Image.Image) -> Image.Image:
    turn = _TURNS.get(_orientation(image))
    image.load()
    return image if turn is None else image.transpose(turn)


def _pixels(image: ImageFile.ImageFile, path: Source, keep_fourth: bool) -> np.ndarray:
    """Return one page as (H, W, C) uint8 or uint16."""
    raw_mode = _raw_mode(image)
    if ";16" in raw_mode and not image.mode.startswith("I"):
        return _deep_color(image, path, raw_mode, keep_fourth)
    upright = _upright(image)
    if upright.mode in ("1", "L", "LA"):
        return np.array(upright.convert("L"))[:, :, None]  # (H, W, 1)
    if upright.mode.startswith("I"):
        return _sixteen_bits(_native(np.array(upright)), path)[:, :, None]  # (H, W, 1)
    if keep_fourth and upright.mode == "CMYK":
        raise DataError(f"{path} {CMYK}")
    if keep_fourth and len(upright.getbands()) == 4:
        return np.array(upright)  # (H, W, 4)
    return np.array(_to_rgb(upright, path))  # (H, W, 3)


def _pages(image: ImageFile.ImageFile, path: Source) -> list[int]:
    """Return the pages of a TIFF that are images of their own; [0] for any other file.

    Smaller versions of an image and the mask of its valid pixels, which GDAL stores behind it, do
    not count.

    Raises:
        DataError: There are more than MAX_PAGES.
    """
    pages = [0]
    if image.format != "TIFF":
        return pages
    try:
        # Pillow would count them all: a minute for a file of small ones
        for page in range(1, MAX_PAGES + 1):
            image.seek(page)
            if not image.tag_v2.get(_KIND, 0) & (_SMALLER | _MASK):  # type: ignore[attr-defined]
                pages.append(page)
    except EOFError:
        image.seek(0)
        return pages
    raise DataError(f"{path} holds more than {MAX_PAGES} pages. Expected one page per channel.")


def _is_single(image: ImageFile.ImageFile) -> bool:
    return image.mode in ("1", "L", "LA") or image.mode.startswith("I")


def _read_pages(image: ImageFile.ImageFile, path: Source, channels: int) -> np.ndarray:
    """Return the single-channel pages of a TIFF, stacked to (H, W, pages)."""
    pages = _pages(image, path)
    if len(pages) != channels:
        raise _other_channels(path, len(pages), channels)
    planes, (width, height) = [], image.size
    for page in pages:
        image.seek(page)
        _check_page(image, path)
        # Checked before it is decoded: callers know the size of the first page
        if image.size != (width, height):
            raise DataError(
                f"{path} holds pages of different size ({height}x{width}, "
                f"{image.height}x{image.width}; height x width). Expected one channel per page, "
                "all of the same size."
            )
        planes.append(_pixels(image, path, keep_fourth=False))
    if len({(plane.shape, plane.dtype) for plane in planes}) > 1:
        kinds = ", ".join(f"{p.shape[2]} of {p.dtype}" for p in planes)
        raise DataError(
            f"{path} holds pages of different kinds (channels: {kinds}). Expected one channel per "
            "page, all alike."
        )
    return np.concatenate(planes, axis=2)  # (H, W, pages)


def _deep_color(
    image: ImageFile.ImageFile, path: Source, raw_mode: str, keep_fourth: bool
) -> np.ndarray:
    """Return 16-bit colour as (H, W, C) uint16.

    Pillow keeps one byte of each value, so the file is decoded twice.
    """
    if raw_mode not in _LOW_BYTE:
        raise DataError(
            f"{path} stores 16-bit colour as {raw_mode}. Save it as plain RGB, with one TIFF page "
            "per channel, or with 8 bits."
        )
    with _opened(path) as again:
        again.seek(image.tell())
        low = _LOW_BYTE[raw_mode]
        again.tile = [
            tile._replace(args=(low, *tile.args[1:]) if isinstance(tile.args, tuple) else low)
            for tile in again.tile
        ]
        lower = np.array(_upright(again))
    pixels = np.array(_upright(image)).astype(np.uint16) << 8 | lower  # (H, W, 3 | 4)
    return pixels if keep_fourth else pixels[:, :, :3]


def _raw_mode(image: ImageFile.ImageFile) -> str:
    """Return how pixels are stored in the file, such as "RGB;16B", by Pillow's tiles."""
    args = image.tile[0].args if image.tile else ""
    return str(args[0] if isinstance(args, tuple) else args)


def _to_rgb(image: Image.Image, path: Source) -> Image.Image:
    if image.mode == "F":
        raise DataError(
            f"{path} is an image of mode F, which holds floats. Expected 8 or 16 bits: convert it."
        )
    if image.mode == "LAB" or image.mode.startswith("I"):
        raise DataError(
            f"{path} is an image of mode {image.mode}, which cannot be converted to RGB. Save it "
            "with 8 bits per channel."
        )
    if image.mode == "P" and image.palette is None:
        raise DataError(f"{path} holds palette indices, but its palette is missing.")
    has_alpha = image.mode in ("RGBA", "LA", "PA", "RGBa", "La") or "transparency" in image.info
    if has_alpha:
        return image.convert("RGBA").convert("RGB")
    return image if image.mode == "RGB" else image.convert("RGB")  # convert copies


def _native(raw: np.ndarray) -> np.ndarray:
    """Return the same values in this machine's byte order."""
    return raw.astype(raw.dtype.newbyteorder("="), copy=False)


def _sixteen_bits(raw: np.ndarray, path: Source) -> np.ndarray:
    if raw.dtype != np.uint16 and (raw.min() < 0 or raw.max() > 65535):
        raise DataError(
            f"{path} holds values from {raw.min()} to {raw.max()}. Expected 8 or 16 bits: 0 to "
            "65535."
        )
    return raw.astype(np.uint16, copy=False)


def _other_channels(path: Source, stored: int, asked: int) -> DataError:
    remedy = f"Store it as a TIFF with {asked} single-channel pages"
    if asked == 1:
        remedy = "Convert it to grey"
    return DataError(
        f"{path} has {counted(stored, 'channel')}, but the model or dataset takes {asked}. "
        f"{remedy}, or set the dataset's channels to {stored}."
    )
