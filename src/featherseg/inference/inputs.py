"""Images in any form become (H, W, C) uint8 or uint16; what is not clear is refused."""

import os
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar

import numpy as np
from PIL import Image, ImageOps

from featherseg.core.arrays import is_tensor
from featherseg.core.errors import DataError, FeathersegError
from featherseg.core.storage import MOST_BYTES, StoredFile, is_remote, refuse_address
from featherseg.core.wording import counted, size_text
from featherseg.data.images.decoding import CMYK, EncodedImage, read_image
from featherseg.data.images.georeference import Georeference
from featherseg.data.images.listing import stored_images
from featherseg.data.images.unused_parts import unused_parts

T = TypeVar("T")
S = TypeVar("S")

KNOWN = (
    "a path, a file opened in binary mode, a PIL image, an (H, W, C) uint8 or uint16 array, "
    "a (C, H, W) tensor (uint8, uint16, or float 0..1), a list or an iterator of these"
)


@dataclass(frozen=True)
class InputImage:
    """Pixels (H, W, C) uint8 or uint16, the name without ending, and the place of a GeoTIFF.

    file_name: The name with its ending; "" without a file.
    """

    pixels: np.ndarray
    name: str
    georeference: Georeference | None = None
    file_name: str = ""


def alike(first: np.ndarray, second: np.ndarray) -> bool:
    """Whether two images have one size and type, so that they can go through a model together."""
    return first.shape == second.shape and first.dtype == second.dtype


def read_ahead(
    items: Sequence[S], read: Callable[[S, bool], T | None]
) -> Iterator[T | FeathersegError]:
    """Yield what `read` returns for each item, or its error; it reads ahead in a thread.

    An item is read while the one before is used, if both are light, so that the memory has room for
    both.

    Args:
        items: What to read.
        read: Called with an item, and with whether to return None if it is not light; then it is
            called again without that.
    """
    following: Future[T | None] | None = None
    with ThreadPoolExecutor(max_workers=1) as reader:
        for number, item in enumerate(items):
            outcome: T | FeathersegError | None
            light = True
            try:
                outcome = (following or reader.submit(read, item, True)).result()
                if outcome is None:
                    light, outcome = False, read(item, False)
            except FeathersegError as error:
                light, outcome = True, error
            more = light and number + 1 < len(items)
            following = reader.submit(read, items[number + 1], True) if more else None
            yield outcome  # type: ignore[misc]
            del outcome  # not held while the next is read


def is_open_file(x: Any) -> bool:
    """Whether `x` is a file object, such as io.BytesIO; these are iterators as well."""
    return hasattr(x, "read") and not isinstance(x, StoredFile)


def fetched(x: Any) -> Any:
    """Read an image in a bucket or an open file into memory; return anything else unchanged.

    Raises:
        DataNotFound, DataError: It cannot be read.
    """
    if is_open_file(x):
        return _content(x)
    if isinstance(x, str | Path):
        refuse_address(x)
        x = stored_images(str(x))[0] if is_remote(x) else x
    return EncodedImage(x.read(), str(x)) if isinstance(x, StoredFile) else x


def _content(file: Any) -> EncodedImage:
    """Return the bytes of an open file from its beginning. Raises DataError."""
    name = getattr(file, "name", None)
    shown = name if isinstance(name, str) else "image"
    try:
        file.seek(0)
        content = file.read(MOST_BYTES + 1)
    except Exception as error:  # it may be closed, write-only, or of any class
        reason = str(error) or type(error).__name__
        raise DataError(
            f"{shown} cannot be read: {reason}. Open it with open(path, 'rb')."
        ) from None
    if not isinstance(content, bytes):
        raise DataError(
            f"{shown} is a file of {type(content).__name__}, not of bytes. Open it with "
            "open(path, 'rb')."
        )
    if len(content) > MOST_BYTES:
        raise DataError(f"{shown} has more than {MOST_BYTES:,} bytes, the limit for one file.")
    return EncodedImage(content, shown)


def read_input(x: Any, channels: int) -> InputImage:
    """Read one image in any known form, for a model of `channels` channels. Raises DataError."""
    if isinstance(x, str | Path):
        path = Path(x)
        if os.path.isdir(path):  # Path.is_dir raises for names that are too long
            raise DataError(
                f"{path} is a folder: pass its files, as in "
                f"predictor(sorted(Path({str(x)!r}).iterdir()))."
            )
        x = path
    if isinstance(x, Path | EncodedImage):
        file, place = Path(str(x)), unused_parts(x, channels)[0]
        return InputImage(read_image(x, channels), file.stem, place, file.name)
    file_name = ""
    if isinstance(x, Image.Image):
        file_name = Path(getattr(x, "filename", "")).name
        pixels, name = _from_pil(x, channels), Path(file_name or "image").stem
    elif isinstance(x, np.ndarray):
        pixels, name = x, "image"
    elif is_tensor(x):
        pixels, name = _from_tensor(x, channels), "image"
    else:
        raise DataError(f"an image of type {type(x).__name__} is not supported. Expected {KNOWN}.")
    return InputImage(_checked(pixels, channels), name, file_name=file_name)


def _from_pil(image: Image.Image, channels: int) -> np.ndarray:
    """Return the pixels of a PIL image, upright by its EXIF orientation.

    For three channels palette, grey and CMYK become RGB, and alpha is dropped.
    """
    try:
        upright = ImageOps.exif_transpose(image)
    except Exception as error:  # Pillow decodes late, and raises nearly anything for damaged files
        reason = str(error) or type(error).__name__
        raise DataError(
            f"the PIL image cannot be read: {reason}. Its file is damaged or closed."
        ) from error
    sixteen_bits = upright.mode.startswith("I;16")
    if sixteen_bits and channels in (1, 3):
        deep = np.array(upright).astype(np.uint16)[:, :, None]  # (H, W, 1)
        return np.repeat(deep, channels, axis=2)  # (H, W, C)
    if sixteen_bits or upright.mode in ("I", "F", "LAB", "La"):
        raise DataError(
            f"a PIL image of mode {upright.mode} has no {channels}-channel version. Pass an "
            f"(H, W, {channels}) array."
        )
    if channels == 3:
        upright = upright.convert("RGBA") if "transparency" in upright.info else upright
        return np.array(upright.convert("RGB"))  # (H, W, 3)
    if channels == 1 and upright.mode in ("1", "L", "LA"):
        return np.array(upright.convert("L"))[:, :, None]  # (H, W, 1)
    if channels == 4 and upright.mode == "CMYK":
        raise DataError(f"the PIL image {CMYK}")
    if upright.mode in ("P", "PA"):
        raise DataError(
            f"a PIL image with a palette has colours: expected {channels} channels. Convert it "
            "first."
        )
    pixels = np.array(upright)
    return pixels if pixels.ndim == 3 else pixels[:, :, None]  # (H, W, C)


def _from_tensor(tensor: Any, channels: int) -> np.ndarray:
    """Return a tensor (C, H, W) as (H, W, C); floats are 0..1, as torchvision gives them."""
    import torch

    if tensor.is_nested or tensor.is_meta or tensor.layout != torch.strided:
        raise DataError(
            f"a {tensor.type()} has no plain pixels: expected a dense ({channels}, H, W) tensor."
        )
    if tensor.ndim != 3 or tensor.shape[0] != channels:
        hint = (
            " It looks like (H, W, C): use .permute(2, 0, 1)."
            if tensor.shape[-1:] == (channels,)
            else ""
        )
        hint = " Pass a batch as a list: list(tensor)." if tensor.ndim == 4 else hint
        raise DataError(
            f"a tensor of shape {tuple(tensor.shape)}: expected ({channels}, H, W).{hint}"
        )
    values = tensor.detach().cpu()
    if values.is_floating_point() and values.numel():
        # Half precision would round twice
        values = values.float() if values.dtype.itemsize < 4 else values
        low, high = values.min().item(), values.max().item()
        if not (low >= 0 and high <= 1):
            raise DataError(
                f"a float tensor with values from {low:g} to {high:g}: expected 0 to 1, or uint8 "
                "values 0 to 255 (not normalised: the model has its own mean and std)."
            )
        values = (values * 255).round().to(torch.uint8)
    try:
        return values.permute(1, 2, 0).numpy()  # (H, W, C)
    except TypeError:  # such as a quantised one
        raise DataError(
            f"a tensor of {values.dtype}: expected uint8 or uint16 values, or floats 0 to 1."
        ) from None


def _checked(pixels: np.ndarray, channels: int) -> np.ndarray:
    if pixels.dtype.newbyteorder("=") not in (np.uint8, np.uint16):
        raise DataError(
            f"pixels of type {pixels.dtype}: expected uint8 or uint16, as stored in image files."
        )
    pixels = np.asarray(pixels).astype(pixels.dtype.newbyteorder("="), copy=False)
    if pixels.ndim == 2 and channels == 1:
        pixels = pixels[:, :, None]  # (H, W, 1)
    if pixels.ndim != 3 or pixels.shape[2] != channels:
        hint = (
            " It looks like (C, H, W): use .transpose(1, 2, 0)."
            if pixels.shape[:1] == (channels,)
            else ""
        )
        hint = " Pass a batch as a list: list(array)." if pixels.ndim == 4 else hint
        if (pixels.ndim, channels) == (2, 3):
            hint = " Repeat its channel: np.stack([x] * 3, -1)."
        raise DataError(
            f"an image of shape {pixels.shape}: expected (H, W, {channels}), the model takes "
            f"{counted(channels, 'channel')}.{hint}"
        )
    if 0 in pixels.shape:
        raise DataError(
            f"an image of size {size_text(pixels.shape)} (height x width) has no pixels."
        )
    return pixels
