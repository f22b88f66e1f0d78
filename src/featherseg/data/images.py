"""Reading pictures and masks with Pillow: bounded, oriented, and every fault a sentence that names the file.

Pillow's own reading is narrowed to the formats listed here, so that no other decoder ever sees a file.
"""

import sys
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
from PIL import ExifTags, Image, ImageFile

from featherseg.core.errors import DataError, DataNotFound, FeathersegError
from featherseg.core.types import Size
from featherseg.data.matlab import read_matrix

IMAGE_SUFFIXES = (".jpg", ".jpeg", ".png", ".webp", ".bmp", ".tif", ".tiff")
"""Endings (in lower case) of the files that are taken for pictures or masks."""

MATLAB_SUFFIX, MATLAB_NAME = ".mat", "S"
"""A mask may be a MATLAB file that holds it as the matrix S, as those of COCO-Stuff 10k do."""

MAX_PIXELS = 2 * 89_478_485
"""Height times width above which a file is refused before it is decoded: Pillow's own limit, about 179 megapixels."""

_FORMATS = ("JPEG", "PNG", "WEBP", "BMP", "TIFF")
_TURNS = {  # EXIF orientation -> what brings the picture upright (CIPA DC-008, table 6)
    2: Image.Transpose.FLIP_LEFT_RIGHT,
    3: Image.Transpose.ROTATE_180,
    4: Image.Transpose.FLIP_TOP_BOTTOM,
    5: Image.Transpose.TRANSPOSE,
    6: Image.Transpose.ROTATE_270,
    7: Image.Transpose.TRANSVERSE,
    8: Image.Transpose.ROTATE_90,
}
_SWAPPED = "B" if sys.byteorder == "little" else "L"
_LOW_BYTE = {  # raw mode in which Pillow keeps the high bytes of 16-bit colour -> the one that keeps the low bytes
    f"{mode};16{high}": f"{mode};16{low}"
    for mode in ("RGB", "RGBA", "RGBX")
    for high, low in (("B", "L"), ("L", "B"), ("N", _SWAPPED))
}


def is_image(path: Path) -> bool:
    """Whether the name ends like a picture's; hidden files ("._a.png") are none."""
    return path.suffix.lower() in IMAGE_SUFFIXES and not path.name.startswith(".")


def image_size(path: Path) -> Size:
    """(height, width) in pixels as the picture is seen (EXIF orientation counted), from the header alone.

    Raises DataNotFound or DataError as `read_image` does.
    """
    with _opened(path) as image:
        return image.size if _orientation(image) >= 5 else image.size[::-1]


def read_image(path: Path, channels: int = 3) -> np.ndarray:
    """The picture as (H, W, channels) uint8 or uint16, upright by its EXIF orientation; RGB for three channels.

    Palette and CMYK pictures become RGB; alpha is dropped unless four channels are asked, grey is repeated where three
    are. A TIFF whose pages are single-channel pictures of one size holds one channel a page. Raises DataNotFound for a
    missing file and DataError for one that is corrupt, cut short, larger than MAX_PIXELS, or of other channels.
    """
    with _opened(path) as image:
        if _pages(image) > 1:
            return _read_pages(image, path, channels)
        pixels = _pixels(image, path, keep_fourth=channels == 4)  # (H, W, C)
    found = pixels.shape[2]
    if found == 1 and channels == 3:
        pixels = np.repeat(pixels, 3, axis=2)  # (H, W, 3)
    elif found != channels:
        raise _other_channels(path, found, channels)
    return pixels


def read_mask(path: Path, colors: bool = False) -> np.ndarray:
    """The raw values of a mask: (H, W) uint8, uint16, int32 or int64, or (H, W, 3) uint8 for a colour picture.

    A palette picture gives its indices and a 1-bit one 0 and 1; with `colors` every mask comes as (H, W, 3) colours.
    Alpha is dropped. A MATLAB file gives its matrix S. Raises the errors of `read_image`.
    """
    if path.suffix == MATLAB_SUFFIX:
        return read_matrix(path, MATLAB_NAME, MAX_PIXELS)
    with _opened(path) as image:
        upright = _upright(image)
        if colors or upright.mode not in ("1", "L", "P", "LA", "PA", "I", "I;16", "I;16B", "I;16L"):
            return np.array(_to_rgb(upright, path))  # (H, W, 3)
        if upright.mode in ("LA", "PA"):
            return np.array(upright.getchannel(0))  # (H, W)
        raw = np.array(upright)  # (H, W)
        return raw.astype(np.uint8) if raw.dtype == bool else _native(raw)


def image_channels(path: Path) -> int:
    """Channels of the picture from its header: pages of a TIFF, 1 for grey, else 3 (alpha is not counted)."""
    with _opened(path) as image:
        return _pages(image) if _is_single(image) else 3


@contextmanager
def _opened(path: Path) -> Iterator[ImageFile.ImageFile]:
    """Open a picture whose header is sound and whose size is bounded; any fault inside the block is a DataError.

    The block catches every exception: on spoiled files Pillow's decoders raise nearly anything.
    """
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # Pillow warns from half of MAX_PIXELS on, and of slightly odd headers
            with Image.open(path, formats=_FORMATS) as image:
                _check_bound(path, *image.size)
                yield image
    except FeathersegError:
        raise
    except FileNotFoundError:
        raise DataNotFound(f"{path} does not exist.") from None
    except Image.UnidentifiedImageError:
        raise DataError(
            f"{path} cannot be read: it is no picture of a known format, or its header is damaged. "
            f"Expected one of {', '.join(_FORMATS)}."
        ) from None
    except Image.DecompressionBombError as error:
        raise DataError(
            f"{path} is too large: {error} The limit is {MAX_PIXELS:,} pixels; cut it into parts."
        ) from None
    except Exception as error:
        reason = str(error) or type(error).__name__
        raise DataError(f"{path} cannot be read: {reason}. The file is damaged or cut short; replace it.") from error


def _check_bound(path: Path, width: int, height: int) -> None:
    if width * height > MAX_PIXELS:
        raise DataError(
            f"{path} is too large: {height}x{width} (height x width) is {width * height:,} pixels, "
            f"the limit is {MAX_PIXELS:,}. Cut it into parts."
        )


def _orientation(image: Image.Image) -> int:
    """The EXIF orientation 1..8 that is still to be applied. Pillow turns TIFF files itself.

    Of a PNG only what stands before the pixels is asked: Pillow would decode the whole file to look behind them.
    """
    if image.format == "TIFF" or (image.format == "PNG" and "exif" not in image.info):
        return 1
    orientation = image.getexif().get(ExifTags.Base.Orientation, 1)
    return orientation if orientation in _TURNS else 1


def _upright(image: Image.Image) -> Image.Image:
    turn = _TURNS.get(_orientation(image))
    image.load()
    return image if turn is None else image.transpose(turn)


def _pixels(image: ImageFile.ImageFile, path: Path, keep_fourth: bool) -> np.ndarray:
    """One page as (H, W, C) uint8 or uint16."""
    raw_mode = _raw_mode(image)
    if ";16" in raw_mode and not image.mode.startswith("I"):
        return _deep_color(image, path, raw_mode, keep_fourth)
    upright = _upright(image)
    if upright.mode in ("1", "L", "LA"):
        return np.array(upright.convert("L"))[:, :, None]  # (H, W, 1)
    if upright.mode.startswith("I"):
        return _sixteen_bits(_native(np.array(upright)), path)[:, :, None]  # (H, W, 1)
    if keep_fourth and len(upright.getbands()) == 4:
        return np.array(upright)  # (H, W, 4)
    return np.array(_to_rgb(upright, path))  # (H, W, 3)


def _pages(image: ImageFile.ImageFile) -> int:
    """How many single-channel pages a TIFF has; 1 for any other file."""
    return getattr(image, "n_frames", 1) if image.format == "TIFF" and _is_single(image) else 1


def _is_single(image: ImageFile.ImageFile) -> bool:
    return image.mode in ("1", "L", "LA") or image.mode.startswith("I")


def _read_pages(image: ImageFile.ImageFile, path: Path, channels: int) -> np.ndarray:
    """The single-channel pages of a TIFF, stacked to (H, W, pages)."""
    pages = _pages(image)
    if pages != channels:
        raise _other_channels(path, pages, channels)
    planes = []
    for page in range(pages):
        image.seek(page)
        _check_bound(path, *image.size)
        planes.append(_pixels(image, path, keep_fourth=False))
    if len({(plane.shape, plane.dtype) for plane in planes}) > 1:
        found = ", ".join(f"{p.shape[0]}x{p.shape[1]}x{p.shape[2]} {p.dtype}" for p in planes)
        raise DataError(
            f"{path} holds pages of different form ({found}). Expected one channel a page, all of one size."
        )
    return np.concatenate(planes, axis=2)  # (H, W, pages)


def _deep_color(image: ImageFile.ImageFile, path: Path, raw_mode: str, keep_fourth: bool) -> np.ndarray:
    """16-bit colour as (H, W, C) uint16. Pillow keeps one byte of each value, so the file is decoded for each."""
    if raw_mode not in _LOW_BYTE:
        raise DataError(
            f"{path} stores 16-bit colour as {raw_mode}. Save it as plain RGB, one TIFF page a channel, or 8 bits."
        )
    with _opened(path) as again:
        again.seek(image.tell())
        again.tile = [tile._replace(args=_with_raw_mode(tile.args, _LOW_BYTE[raw_mode])) for tile in again.tile]
        lower = np.array(_upright(again))
    pixels = np.array(_upright(image)).astype(np.uint16) << 8 | lower  # (H, W, 3 | 4)
    return pixels if keep_fourth else pixels[:, :, :3]


def _raw_mode(image: ImageFile.ImageFile) -> str:
    """How the pixels lie in the file, e.g. "RGB;16B": Pillow's own name, kept in the tiles it is about to decode."""
    args = image.tile[0].args if image.tile else ""
    return str(args[0] if isinstance(args, tuple) else args)


def _with_raw_mode(args: Any, raw_mode: str) -> Any:
    return (raw_mode, *args[1:]) if isinstance(args, tuple) else raw_mode


def _to_rgb(image: Image.Image, path: Path) -> Image.Image:
    if image.mode in ("F", "LAB") or image.mode.startswith("I"):
        raise DataError(
            f"{path} is a picture of mode {image.mode}, which has no RGB form. Save it with 8 bits a channel."
        )
    has_alpha = image.mode in ("RGBA", "LA", "PA", "RGBa", "La") or "transparency" in image.info
    if has_alpha:
        return image.convert("RGBA").convert("RGB")
    return image if image.mode == "RGB" else image.convert("RGB")  # convert copies


def _native(raw: np.ndarray) -> np.ndarray:
    """The same values in this machine's byte order."""
    return raw.astype(raw.dtype.newbyteorder("="), copy=False)


def _sixteen_bits(raw: np.ndarray, path: Path) -> np.ndarray:
    if raw.dtype != np.uint16 and (raw.min() < 0 or raw.max() > 65535):
        raise DataError(f"{path} holds values from {raw.min()} to {raw.max()}. Expected 8 or 16 bits: 0 to 65535.")
    return raw.astype(np.uint16, copy=False)


def _other_channels(path: Path, found: int, asked: int) -> DataError:
    return DataError(
        f"{path} has {found} channel{'s' * (found != 1)}, but channels = {asked} was asked. "
        f"Set channels to {found}, or store a TIFF with {asked} single-channel pages."
    )
