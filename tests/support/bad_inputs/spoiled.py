"""Sound files, cut short at many places, and with single bits turned."""

import random

import numpy as np
from PIL import Image
from support.bad_inputs.by_hand import png, png_header, png_rows
from support.bad_inputs.case import (
    DEEP,
    GREY,
    RGB,
    BadInput,
    as_pillow_decodes,
    either,
    patches,
    saved,
)

CUTS, FLIPS = 9, 9
"""Of each sound file."""


def sound() -> dict[str, bytes]:
    """Return files of every format and compression, large enough to have an inside."""
    large = patches(96, 130)
    return {
        "a.png": saved(large, "PNG"),
        "deep.png": png(png_header((24, 33), 16), png_rows(DEEP)),
        "a.jpg": saved(large, "JPEG"),
        "progressive.jpg": saved(large, "JPEG", progressive=True),
        "lossy.webp": saved(large, "WEBP"),
        "lossless.webp": saved(large, "WEBP", lossless=True),
        "a.bmp": saved(RGB, "BMP"),
        "raw.tif": saved(RGB, "TIFF"),
        "lzw.tif": saved(RGB, "TIFF", compression="tiff_lzw"),
        "deflate.tif": saved(large, "TIFF", compression="tiff_adobe_deflate"),
        "jpeg.tif": saved(large, "TIFF", compression="jpeg"),
        "bands.tif": saved(GREY, "TIFF", save_all=True, append_images=[Image.fromarray(GREY)] * 2),
    }


def cut() -> list[BadInput]:
    """Return files cut near the start, inside and before the end: refused, or complete anyway."""
    cases = []
    for file, content in sound().items():
        whole = _pixels(file, content)
        places = {len(content) * part // 6 for part in range(1, 6)} | {
            2,
            11,
            len(content) - 9,
            len(content) - 1,
        }
        cases += [
            either(f"cut/{file} at {place}", file, content[:place], whole)
            for place in sorted(places)
        ]
    return cases


def flipped() -> list[BadInput]:
    """Return files with a flipped bit; PNG: refused or intact, others may show Pillow's pixels."""
    rng, cases = random.Random(0), []
    for file, content in sound().items():
        if file == "bands.tif":
            continue  # what Pillow decodes of it is its first band
        for place in sorted(rng.sample(range(len(content)), FLIPS)):
            spoiled = bytearray(content)
            spoiled[place] ^= 1 << rng.randrange(8)
            pixels = (
                _pixels(file, content)
                if file.endswith(".png")
                else as_pillow_decodes(bytes(spoiled))
            )
            cases.append(either(f"flipped/{file} at {place}", file, bytes(spoiled), pixels))
    return cases


def _pixels(file: str, content: bytes) -> np.ndarray | None:
    """What the sound file shows; Pillow alone keeps no 16-bit colour."""
    return DEEP if file == "deep.png" else as_pillow_decodes(content)
