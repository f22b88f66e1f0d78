"""Reading images and masks with Pillow: bounded, oriented, and every fault a message that names the file.

Pillow's own reading is narrowed to the formats listed here, so that no other decoder ever sees a file.
"""

import ctypes
import logging
import os
import sys
import warnings
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from io import BytesIO
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np
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
    ConfigError,
    DataError,
    DataNotFound,
    FeathersegError,
    TooLarge,
    near_path,
)
from featherseg.core.storage import StoredFile, address, is_remote, list_files
from featherseg.core.types import Color, Size
from featherseg.core.wording import counted, one_line
from featherseg.data.images.headers import bounded
from featherseg.data.images.matlab import read_matrix
from featherseg.data.images.tiff_bands import BandedTiff, banded_tiff
from featherseg.data.images.unread import (
    REMEDY,
    UNREAD_SUFFIXES,
    unread_endings,
    unread_note,
    warn_once,
)

IMAGE_SUFFIXES = (
    *(".jpg", ".jpeg", ".jfif", ".png", ".webp", ".bmp", ".tif", ".tiff"),
    *(".avif", ".gif", ".jp2", ".j2k", ".ppm", ".pgm", ".pbm", ".pnm"),
)
"""Endings (in lower case) of the files that are taken for images or masks."""

MATLAB_SUFFIX, MATLAB_NAME = ".mat", "S"
"""A mask may be a MATLAB file that holds it as the matrix S, as those of COCO-Stuff 10k do."""

LOSSY = "JPEG or of another lossy format, which changes values along edges: write masks as PNG"
"""What to say of masks for which `is_lossy` holds."""

CMYK = (
    "is a CMYK image: its four channels are inks, not the 4 that the model or dataset takes. Expected RGBA, or a TIFF "
    "with 4 single-channel pages. Convert it."
)
"""What to say of one where four channels are asked."""

MAX_PIXELS = 2 * 89_478_485
"""Height times width above which a file is refused before it is decoded: Pillow's own limit, about 179 megapixels."""

MAX_PAGES = 512
"""Single-channel pages of a TIFF, above which it is refused."""

MOST_PLAIN_PIXELS = 2**24
"""Of a PNM whose values are written as text, which Pillow decodes in Python."""

logging.getLogger("PIL").addHandler(
    logging.NullHandler()
)  # no bare lines of it on stderr: faults are raised here

_FORMATS = ("JPEG", "PNG", "WEBP", "BMP", "TIFF", "AVIF", "GIF", "JPEG2000", "PPM")
_TURNS = {  # EXIF orientation -> what brings the image upright (CIPA DC-008, table 6)
    2: Image.Transpose.FLIP_LEFT_RIGHT,
    3: Image.Transpose.ROTATE_180,
    4: Image.Transpose.FLIP_TOP_BOTTOM,
    5: Image.Transpose.TRANSPOSE,
    6: Image.Transpose.ROTATE_270,
    7: Image.Transpose.TRANSVERSE,
    8: Image.Transpose.ROTATE_90,
}
_BITS, _PLANES, _SAMPLE_FORMAT, _SIGNED = (
    258,
    284,
    339,
    2,
)  # tags of a TIFF, and a value of the last
_KIND, _SMALLER, _MASK = (
    254,
    1,
    4,
)  # what a page is of the image before it: NewSubfileType, TIFF 6.0, page 36
_SWAPPED = "B" if sys.byteorder == "little" else "L"
_LOW_BYTE = {  # raw mode in which Pillow keeps the high bytes of 16-bit colour -> the one that keeps the low bytes
    f"{mode};16{high}": f"{mode};16{low}"
    for mode in ("RGB", "RGBA", "RGBX")
    for high, low in (("B", "L"), ("L", "B"), ("N", _SWAPPED))
}

logging.getLogger("PIL").addHandler(
    logging.NullHandler()
)  # else Python prints what it logs beside our DataError
with suppress(AttributeError):  # on Windows libtiff is linked in without its names
    ctypes.CDLL(Image.core.__file__).TIFFSetErrorHandler(
        None
    )  # libtiff prints faults that Pillow raises as well


@dataclass(frozen=True)
class EncodedImage:
    """An image file that lies in memory: its bytes, and the name that stand for it in messages."""

    content: bytes
    name: str = "the image"

    def __str__(self) -> str:
        return self.name


Source = Path | EncodedImage
"""Where an image comes from: read in the same way from both."""


def is_image(path: Path | str) -> bool:
    """Whether the name ends like an image's; hidden files ("._a.png") are none."""
    name = os.path.basename(path)
    return os.path.splitext(name)[1].lower() in IMAGE_SUFFIXES and not name.startswith(".")


def images_in(folder: Path) -> list[Path]:
    """Return the images directly inside a folder, by name; a warning counts unreadable formats.

    Raises:
        DataNotFound: There is none.
    """
    files = sorted(file for file in folder.iterdir() if file.is_file())
    images, unread = list(filter(is_image, files)), unread_endings(map(str, files))
    if unread and images:
        warn_once(f"{folder}: {unread_note(unread)}")
    if images:
        return images
    deeper = folders_of_images(folder)
    hint = f"; {deeper[0]} has: name folders of images" if deeper else ""
    skipped = f"{unread_note(unread)}. " if unread else ""
    raise DataNotFound(
        f"{folder} has no images{hint}. {skipped}Expected files ending in "
        f"{', '.join(IMAGE_SUFFIXES)}; for videos, name the files, as in {folder}/*.mp4."
    )


def folders_of_images(folder: Path) -> list[Path]:
    """The folders in a folder that have images directly inside, by name; hidden ones are left out."""
    return sorted({file.parent for file in folder.glob("[!.]*/*") if is_image(file)})


def stored_images(place: str) -> list[StoredFile]:
    """Return the images directly in a folder of a bucket, by name; or the image at this address.

    Raises:
        DataNotFound: There is none.
        DataError: The bucket cannot be listed.
    """
    files = list(list_files(address(place)))
    images = [file for file in files if is_image(file.name)]
    unread = unread_endings(file.name for file in files)
    if not images:
        skipped = f"{unread_note(unread)}. " if unread else ""
        raise DataNotFound(
            f"{place} has no images. {skipped}Expected files ending in {', '.join(IMAGE_SUFFIXES)}."
        )
    if unread:
        warn_once(f"{place}: {unread_note(unread)}")
    return images


def find_images(paths: Sequence[Path], output: Path) -> list[Path | StoredFile]:
    """The files themselves, and the images directly inside the folders, by name; results are to go to `output`.

    Raises DataNotFound and DataError, ConfigError where `output` is one of the folders.
    """
    files: list[Path | StoredFile] = []
    for path in paths:
        if is_remote(path):
            if is_remote(output) and address(path) == address(output):
                raise ConfigError(
                    f"-o {address(output)} is the folder of the images itself. Choose another folder."
                )
            files += stored_images(str(path))
            continue
        if not os.path.exists(path):  # Path.exists raises of a name that is too long
            raise DataNotFound(
                f"{path} does not exist.{near_path(path)} Expected an image or a folder of images."
            )
        if not path.is_dir():
            files.append(path)
            continue
        if not is_remote(output) and output.resolve() == path.resolve():
            raise ConfigError(
                f"-o {output} is the folder of the images itself. Choose another folder."
            )
        files += images_in(path)
    return files


def is_lossy(path: Path) -> bool:
    """Whether the file is a JPEG, an AVIF, or a WebP or JPEG 2000 that is not lossless: its pixels are near what was
    stored, not equal.
    """
    try:
        with open(path, "rb") as file:
            head = file.read(4096)
    except OSError:
        return False
    style = head.find(
        b"\xff\x52\x00", head.find(b"\xff\x4f\xff\x51")
    )  # of JPEG 2000: its marker COD
    jpeg2000 = head.startswith((b"\xff\x4f\xff\x51", b"\x00\x00\x00\x0cjP  ")) and style > 0
    return (
        head.startswith(b"\xff\xd8")
        or (head[8:12] == b"WEBP" and b"VP8 " in head[:64])
        or (head[4:8] == b"ftyp" and head[8:12] in (b"avif", b"mif1"))
        or (jpeg2000 and head[style + 13 : style + 14] == b"\0")  # the irreversible wavelet
    )


def image_size(path: Source) -> Size:
    """(height, width) in pixels as the image is seen (EXIF orientation counted), from the header alone.

    Raises DataNotFound or DataError as `read_image` does.
    """
    if (tiff := _banded(path)) is not None:
        return tiff.seen_size
    with _opened(path) as image:
        return image.size if _orientation(image) >= 5 else image.size[::-1]


def exif_turn(path: Source) -> Image.Transpose | None:
    """What brings the pixels as they are stored upright, by the EXIF orientation; None where they are.

    Raises DataNotFound or DataError as `read_image` does.
    """
    if _banded(path) is not None:  # turned when it is read, as Pillow turns TIFFs
        return None
    with _opened(path) as image:
        return _TURNS.get(_orientation(image))


def read_image(path: Source, channels: int = 3) -> np.ndarray:
    """The image as (H, W, channels) uint8 or uint16, upright by its EXIF orientation; RGB for three channels.

    Palette and CMYK images become RGB; alpha is dropped unless four channels are asked, for which no CMYK is taken;
    grey is repeated where three are. A TIFF whose pages are single-channel images of one size holds one channel a page;
    smaller versions of an image and its mask are none. The bands of a TIFF of one page are its channels; of RGB with
    further bands, RGB alone is read where three channels are asked.
    Raises DataNotFound for a missing file and DataError for one that is corrupt, cut short, larger than MAX_PIXELS, or
    of other channels.
    """
    return image_and_turn(path, channels)[0]


def image_and_turn(path: Source, channels: int) -> tuple[np.ndarray, Image.Transpose | None]:
    """The image as `read_image` gives it, and its turn as `exif_turn` gives it."""
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
    found = pixels.shape[2]
    if found == 1 and channels == 3:
        pixels = np.repeat(pixels, 3, axis=2)  # (H, W, 3)
    elif found != channels:
        raise _other_channels(path, found, channels)
    return pixels, turn


def read_mask(path: Path, colors: bool = False) -> np.ndarray:
    """The raw values of a mask: (H, W) uint8, uint16, int32 or int64, or (H, W, 3) uint8 for a colour image.

    A palette image gives its indices and a 1-bit one 0 and 1; with `colors` every mask comes as (H, W, 3) colours.
    Alpha is dropped. A MATLAB file gives its matrix S. Raises the errors of `read_image`, and DataError for a TIFF with
    several pages of values, and for a mask of one colour that only its alpha tells apart.
    """
    if path.suffix == MATLAB_SUFFIX:
        return read_matrix(path, MATLAB_NAME, MAX_PIXELS)
    with _opened_mask(path) as image:
        return _mask_values(image, path, colors)


def mask_and_colors(path: Path, colors: bool) -> tuple[np.ndarray, list[Color], Color | None]:
    """The mask as `read_mask` gives it; the colours of its values; and a colour that is both opaque and transparent.

    The colours are empty if it is no palette image. The last is None without such a colour: as alpha is dropped, its
    pixels are one class.
    """
    if path.suffix == MATLAB_SUFFIX:
        return read_mask(path), [], None
    with _opened_mask(path) as image:
        raw = _mask_values(image, path, colors)
        return raw, _palette(image) if image.mode == "P" else [], _veiled(image)


@contextmanager
def _opened_mask(path: Path) -> Iterator[ImageFile.ImageFile]:
    """Open the image of a mask whose values Pillow reads; raises as `read_mask` does."""
    if (tiff := _banded(path)) is not None and (tiff.colors != 3 or tiff.depth != 8):
        raise DataError(
            f"{path} has {counted(tiff.bands, 'band')}. Expected a mask of one, or colours of 8 bits."
        )
    with _opened(path) as image:
        pages = len(_pages(image, path)) if _is_single(image) or image.mode in ("P", "PA") else 1
        if pages > 1:
            raise DataError(
                f"{path} holds {pages} pages. Expected a mask of one page, with a value for each class: join its pages "
                "into one."
            )
        if ";16" in _raw_mode(image) and not image.mode.startswith(
            "I"
        ):  # Pillow would keep the high byte
            raise DataError(
                f"{path} has 16 bits for each of several channels. Expected class ids in one channel, or colours of 8 "
                "bits. Save it so."
            )
        yield image


def _mask_values(image: ImageFile.ImageFile, path: Path, colors: bool) -> np.ndarray:
    """The raw values of an opened mask, as `read_mask` gives them."""
    upright = _upright(image)
    if upright.mode in ("RGBA", "LA", "PA"):
        *same, even = (
            np.ptp(np.array(upright.getextrema()), axis=1) == 0
        )  # of each channel, the last being alpha
        if all(same) and not even:
            raise DataError(
                f"{path} has one colour everywhere, drawn by transparency (alpha) alone, which is not read. Expected "
                "classes told by their values. Save it without transparency, its background painted in a colour of "
                "its own."
            )
    if colors or upright.mode not in ("1", "L", "P", "LA", "PA", "I", "I;16", "I;16B", "I;16L"):
        return np.array(_to_rgb(upright, path))  # (H, W, 3)
    if upright.mode in ("LA", "PA"):
        return np.array(upright.getchannel(0))  # (H, W)
    raw = np.array(upright)  # (H, W)
    return raw.astype(np.uint8) if raw.dtype == bool else _native(raw)


def _veiled(image: Image.Image) -> Color | None:
    """A colour that is both opaque and transparent in the image, or None."""
    if image.mode not in ("RGBA", "LA", "PA"):
        return None
    *bands, alpha = np.moveaxis(np.array(image.convert("RGBA"), np.int32), 2, 0)  # (H, W) each
    values = bands[0] << 16 | bands[1] << 8 | bands[2]
    both = np.intersect1d(values[alpha == 0], values[alpha == 255])
    return (int(both[0]) >> 16, int(both[0]) >> 8 & 255, int(both[0]) & 255) if len(both) else None


def _palette(image: Image.Image) -> list[Color]:
    """The colours of a palette image; those of a PNG stand before its pixels, which are not decoded for them."""
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
    """Channels of the image from its header: pages or bands of a TIFF, 1 for grey, else 3 (alpha is not counted).

    A fourth band that is marked as alpha, as GDAL marks it by itself, is counted where its values are not those of
    alpha: most of them neither 0 nor the largest.
    """
    if (tiff := _banded(path)) is not None:
        return tiff.bands
    with _opened(path) as image:
        if (
            image.format == "TIFF"
            and image.mode == "RGBA"
            and _is_band(read_image(path, 4)[:, :, 3])
        ):
            return 4
        return len(_pages(image, path)) if _is_single(image) else 3


def _is_band(values: np.ndarray) -> bool:
    """Whether a fourth band marked as alpha has the values of another band."""
    return bool(np.isin(values, (0, np.iinfo(values.dtype).max)).mean() < 0.5)


def _banded(path: Source) -> BandedTiff | None:
    """The page of a TIFF whose bands Pillow does not all read; None of any other file. Raises as `read_image` does."""
    with _faults(path), _file(path) as file:
        tiff = banded_tiff(file, str(path), MAX_PIXELS)
        alpha = tiff is not None and tiff.alpha and not (tiff.planar and tiff.depth == 16)
        return None if alpha else tiff


def _decode_grey(content: bytes, name: str) -> np.ndarray:
    """(H, W) uint8 or uint16 of a grey TIFF in memory."""
    with _opened(EncodedImage(content, name)) as image:
        return np.array(image)


@contextmanager
def _opened(path: Source) -> Iterator[ImageFile.ImageFile]:
    """Open an image whose header is sound and whose size is bounded; any fault inside the block is a DataError."""
    with _faults(path), warnings.catch_warnings():
        warnings.simplefilter(
            "ignore"
        )  # Pillow warns from half of MAX_PIXELS on, and of slightly odd headers
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
    """Any fault inside the block is a DataError that names the file.

    The block catches every exception: on spoiled files Pillow's decoders raise nearly anything.
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
            f"{path} cannot be read: it is not an image of a supported format, or its header is damaged. Expected one "
            f"of {', '.join(_FORMATS)}."
        ) from None
    except Image.DecompressionBombError:
        name = (
            f"its header declares more than {MAX_PIXELS:,} pixels, the limit. Split it into parts."
        )
        raise TooLarge(f"{path} is too large: {name}") from None
    except Exception as error:
        reason = str(error) or type(error).__name__
        raise DataError(
            f"{path} cannot be read: {reason}. The file is damaged or truncated; replace it."
        ) from error


def _file(source: Source) -> BinaryIO:
    """What Pillow reads. It is given no path: of a path it maps raw TIFFs into memory, and scrambles turned ones."""
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
            f"{path} holds signed 8-bit values, which are not supported in images. Save it as 0 to 255."
        )
    if len(image.getbands()) > 1 and tags.get(_PLANES, 1) != 1 and max(tags.get(_BITS, (8,))) > 8:
        raise DataError(
            f"{path} stores more than 8 bits per channel in separate planes. Save it as interleaved RGB."
        )


def _keep_values(image: ImageFile.ImageFile, path: Source) -> None:
    """Let Pillow decode a PNM as it is stored; by itself it scales values in Python, and colour to 8 bits."""
    (tile,) = image.tile
    plain = tile.codec_name == "ppm_plain"
    if plain and image.width * image.height > MOST_PLAIN_PIXELS:
        raise TooLarge(
            f"{path} is too large: it holds {image.width * image.height:,} pixels as text, the limit is "
            f"{MOST_PLAIN_PIXELS:,}. Save it as PNG."
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
    """The EXIF orientation 1..8 that is still to be applied. Pillow turns TIFF files itself.

    Of a PNG only what stands before the pixels is asked: Pillow would decode the whole file to look behind them.
    """
    if image.format == "TIFF" or (image.format == "PNG" and "exif" not in image.info):
        return 1
    try:
        orientation = image.getexif().get(ExifTags.Base.Orientation, 1)
        return orientation if orientation in _TURNS else 1
    except (
        Exception
    ):  # a spoiled EXIF block spoils no pixel, and Pillow raises nearly anything of it
        return 1


def _upright(image: Image.Image) -> Image.Image:
    turn = _TURNS.get(_orientation(image))
    image.load()
    return image if turn is None else image.transpose(turn)


def _pixels(image: ImageFile.ImageFile, path: Source, keep_fourth: bool) -> np.ndarray:
    """One page as (H, W, C) uint8 or uint16."""
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
    """The pages of a TIFF that are images of their own; [0] for any other file. Raises DataError above MAX_PAGES.

    Smaller versions of an image and the mask of its valid pixels, as GDAL stores them behind it, are none.
    """
    found = [0]
    if image.format != "TIFF":
        return found
    try:
        for page in range(
            1, MAX_PAGES + 1
        ):  # Pillow would count them all: a minute for a file of small ones
            image.seek(page)
            if not image.tag_v2.get(_KIND, 0) & (_SMALLER | _MASK):  # type: ignore[attr-defined]
                found.append(page)
    except EOFError:
        image.seek(0)
        return found
    raise DataError(f"{path} holds more than {MAX_PAGES} pages. Expected one page per channel.")


def _is_single(image: ImageFile.ImageFile) -> bool:
    return image.mode in ("1", "L", "LA") or image.mode.startswith("I")


def _read_pages(image: ImageFile.ImageFile, path: Source, channels: int) -> np.ndarray:
    """The single-channel pages of a TIFF, stacked to (H, W, pages)."""
    pages = _pages(image, path)
    if len(pages) != channels:
        raise _other_channels(path, len(pages), channels)
    planes, (width, height) = [], image.size
    for page in pages:
        image.seek(page)
        _check_page(image, path)
        if image.size != (
            width,
            height,
        ):  # before it is decoded: callers asked for the size of the first
            raise DataError(
                f"{path} holds pages of different size ({height}x{width}, {image.height}x{image.width}; height x "
                "width). Expected one channel per page, all of the same size."
            )
        planes.append(_pixels(image, path, keep_fourth=False))
    if len({(plane.shape, plane.dtype) for plane in planes}) > 1:
        found = ", ".join(f"{p.shape[2]} of {p.dtype}" for p in planes)
        raise DataError(
            f"{path} holds pages of different kinds (channels: {found}). Expected one channel per page, all alike."
        )
    return np.concatenate(planes, axis=2)  # (H, W, pages)


def _deep_color(
    image: ImageFile.ImageFile, path: Source, raw_mode: str, keep_fourth: bool
) -> np.ndarray:
    """16-bit colour as (H, W, C) uint16. Pillow keeps one byte of each value, so the file is decoded for each."""
    if raw_mode not in _LOW_BYTE:
        raise DataError(
            f"{path} stores 16-bit colour as {raw_mode}. Save it as plain RGB, with one TIFF page per channel, or "
            "with 8 bits."
        )
    with _opened(path) as again:
        again.seek(image.tell())
        again.tile = [
            tile._replace(args=_with_raw_mode(tile.args, _LOW_BYTE[raw_mode]))
            for tile in again.tile
        ]
        lower = np.array(_upright(again))
    pixels = np.array(_upright(image)).astype(np.uint16) << 8 | lower  # (H, W, 3 | 4)
    return pixels if keep_fourth else pixels[:, :, :3]


def _raw_mode(image: ImageFile.ImageFile) -> str:
    """How the pixels lie in the file, e.g. "RGB;16B": Pillow's own name, kept in the tiles it is about to decode."""
    args = image.tile[0].args if image.tile else ""
    return str(args[0] if isinstance(args, tuple) else args)


def _with_raw_mode(args: Any, raw_mode: str) -> Any:
    return (raw_mode, *args[1:]) if isinstance(args, tuple) else raw_mode


def _to_rgb(image: Image.Image, path: Source) -> Image.Image:
    if image.mode == "F":
        raise DataError(
            f"{path} is an image of mode F, which holds floats. Expected 8 or 16 bits: convert it."
        )
    if image.mode == "LAB" or image.mode.startswith("I"):
        raise DataError(
            f"{path} is an image of mode {image.mode}, which cannot be converted to RGB. Save it with 8 bits per "
            "channel."
        )
    if image.mode == "P" and image.palette is None:
        raise DataError(f"{path} holds palette indices, but its palette is missing.")
    has_alpha = image.mode in ("RGBA", "LA", "PA", "RGBa", "La") or "transparency" in image.info
    if has_alpha:
        return image.convert("RGBA").convert("RGB")
    return image if image.mode == "RGB" else image.convert("RGB")  # convert copies


def _native(raw: np.ndarray) -> np.ndarray:
    """The same values in this machine's byte order."""
    return raw.astype(raw.dtype.newbyteorder("="), copy=False)


def _sixteen_bits(raw: np.ndarray, path: Source) -> np.ndarray:
    if raw.dtype != np.uint16 and (raw.min() < 0 or raw.max() > 65535):
        raise DataError(
            f"{path} holds values from {raw.min()} to {raw.max()}. Expected 8 or 16 bits: 0 to 65535."
        )
    return raw.astype(np.uint16, copy=False)


def _other_channels(path: Source, found: int, asked: int) -> DataError:
    mend = (
        "Convert it to grey"
        if asked == 1
        else f"Store it as a TIFF with {asked} single-channel pages"
    )
    return DataError(
        f"{path} has {counted(found, 'channel')}, but the model or dataset takes {asked}. {mend}, or set the "
        f"dataset's channels to {found}."
    )
