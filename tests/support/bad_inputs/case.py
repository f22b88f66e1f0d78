"""One bad input, and pixels to make many of."""

import io
from dataclasses import dataclass

import numpy as np
from PIL import Image, ImageOps


@dataclass(frozen=True)
class BadInput:
    """A file with its right answer.

    pixels (H, W, 3) uint8 or uint16: the upright image; None if it must be refused. may_fail: the
    file is spoiled, so that it may be refused, but it must not show other pixels.
    """

    name: str
    file: str
    content: bytes
    pixels: np.ndarray | None
    may_fail: bool = False


def good(name: str, file: str, content: bytes, pixels: np.ndarray) -> BadInput:
    """It is unusual, but clear: these pixels (grey or colour), and no refusal."""
    return BadInput(name, file, content, in_color(pixels))


def bad(name: str, file: str, content: bytes) -> BadInput:
    """It must be refused."""
    return BadInput(name, file, content, None)


def either(name: str, file: str, content: bytes, pixels: np.ndarray | None) -> BadInput:
    """Return an input that must be refused or show these pixels; refused if Pillow has none."""
    return BadInput(
        name, file, content, None if pixels is None else in_color(pixels), may_fail=True
    )


def in_color(pixels: np.ndarray) -> np.ndarray:
    """(H, W) or (H, W, 3) -> (H, W, 3)."""
    return np.repeat(pixels[:, :, None], 3, axis=2) if pixels.ndim == 2 else pixels


def patches(height: int = 24, width: int = 33, seed: int = 0) -> np.ndarray:
    """(H, W, 3) uint8: broad patches under noise, unlike themselves however turned."""
    rng = np.random.default_rng(seed)
    coarse = (
        rng.integers(0, 200, (-(-height // 8), -(-width // 8), 3))
        .repeat(8, 0)
        .repeat(8, 1)[:height, :width]
    )
    return (coarse + rng.integers(0, 56, coarse.shape)).astype(np.uint8)


RGB = patches()
GREY = np.ascontiguousarray(RGB[:, :, 1])
ALPHA = np.ascontiguousarray(RGB[::-1, :, 0])
DEEP = (RGB.astype(np.uint16) << 8) + patches(seed=1)
"""(H, W, 3) uint16"""
INDICES = (GREY // 32).astype(np.uint8)
"""(H, W) uint8, 0..7"""
COLORS = np.random.default_rng(2).integers(0, 256, (8, 3), dtype=np.uint8)


def saved(image: Image.Image | np.ndarray, kind: str, **options: object) -> bytes:
    """The file that Pillow writes."""
    file = io.BytesIO()
    image = Image.fromarray(image) if isinstance(image, np.ndarray) else image
    image.save(file, kind, **options)
    return file.getvalue()


def as_pillow_decodes(content: bytes) -> np.ndarray | None:
    """(H, W, 3) uint8: upright and in colour, by Pillow alone; None where it cannot."""
    try:
        with Image.open(
            io.BytesIO(content), formats=["JPEG", "PNG", "WEBP", "BMP", "TIFF"]
        ) as image:
            return np.array(ImageOps.exif_transpose(image).convert("RGB"))
    except Exception:
        return None


def turned(pixels: np.ndarray, orientation: int) -> np.ndarray:
    """Return the stored pixels that this EXIF orientation turns into `pixels` (CIPA DC-008)."""
    stored = {
        1: pixels,
        2: pixels[:, ::-1],
        3: pixels[::-1, ::-1],
        4: pixels[::-1],
        5: pixels.swapaxes(0, 1),
        6: np.rot90(pixels),
        7: pixels[::-1, ::-1].swapaxes(0, 1),
        8: np.rot90(pixels, -1),
    }
    return np.ascontiguousarray(stored[orientation])


def upright(stored: np.ndarray, orientation: int) -> np.ndarray:
    """The inverse of `turned`."""
    back = {6: 8, 8: 6}.get(orientation, orientation)
    return turned(stored, back)
