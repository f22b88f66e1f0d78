"""WebP and BMP files that are unusual, or broken in one place."""

import struct

import numpy as np
from PIL import Image
from support.bad_inputs.by_hand import bmp, bmp_rows
from support.bad_inputs.case import (
    ALPHA,
    COLORS,
    GREY,
    INDICES,
    RGB,
    BadInput,
    as_pillow_decodes,
    bad,
    either,
    good,
    saved,
    turned,
)

SIZE = (24, 33)
BGR = np.ascontiguousarray(RGB[::-1, :, ::-1])
"""As a BMP holds them: blue first, the lowest row first."""


def odd_webps() -> list[BadInput]:
    """Lossy, lossless, with alpha, animated, turned, and with blocks that are spoiled."""
    lossy, lossless = saved(RGB, "WEBP"), saved(RGB, "WEBP", lossless=True)
    decoded = as_pillow_decodes(lossy)
    assert decoded is not None
    moving = saved(
        RGB,
        "WEBP",
        lossless=True,
        save_all=True,
        append_images=[Image.fromarray(255 - RGB)],
        duration=100,
    )
    riff = lossless[8:]
    cases = [
        good("webp/lossy", "a.webp", lossy, decoded),
        good("webp/lossless", "a.webp", lossless, RGB),
        good(
            "webp/alpha",
            "a.webp",
            saved(np.dstack([RGB, ALPHA]), "WEBP", lossless=True, exact=True),
            RGB,
        ),
        good("webp/animated", "a.webp", moving, RGB),
        good("webp/one pixel", "a.webp", saved(RGB[:1, :1], "WEBP", lossless=True), RGB[:1, :1]),
        good("webp/one row", "a.webp", saved(RGB[:1], "WEBP", lossless=True), RGB[:1]),
        good(
            "webp/an ICC profile of garbage",
            "a.webp",
            saved(RGB, "WEBP", lossless=True, icc_profile=b"no"),
            RGB,
        ),
        good(
            "webp/an EXIF block of garbage",
            "a.webp",
            saved(RGB, "WEBP", lossless=True, exif=b"Exif\0\0no"),
            RGB,
        ),
        either("webp/garbage behind the end", "a.webp", lossless + b"PK\3\4 and more" * 99, RGB),
        either("webp/a length of zero", "a.webp", b"RIFF\0\0\0\0" + riff, RGB),
        either("webp/a length beyond the file", "a.webp", b"RIFF\xff\xff\xff\x7f" + riff, RGB),
        bad("webp/a header alone", "a.webp", b"RIFF\x04\0\0\0WEBP"),
        bad("webp/an unknown kind of pixels", "a.webp", lossless.replace(b"VP8L", b"VP8Q")),
        bad("webp/a sound", "a.webp", lossless.replace(b"WEBP", b"WAVE")),
    ]
    for value in range(1, 9):
        exif = Image.Exif()
        exif[0x0112] = value
        content = saved(turned(RGB, value), "WEBP", lossless=True, exif=exif)
        cases.append(good(f"webp/orientation {value}", "phone.webp", content, RGB))
    return cases


def _jumping(table: bytes) -> tuple[bytes, np.ndarray]:
    """Only steps, far out of the image: what no run covers has the first colour."""
    content = bmp(SIZE, 8, b"\0\2\xff\xff" * 9, colors=table, compression=1)
    return content, np.broadcast_to(COLORS[0], RGB.shape)


def odd_bmps() -> list[BadInput]:
    """Return BMPs of every depth, top-down, with run lengths, and with impossible headers."""
    colors = np.zeros((8, 4), np.uint8)
    colors[:, :3] = COLORS[:, ::-1]
    table = colors.tobytes() + bytes(4 * 248)
    rows = bmp_rows(BGR.reshape(24, -1))
    indices = bmp_rows(INDICES[::-1])
    bits = np.packbits(INDICES[::-1] > 3, axis=1)
    nibbles = np.packbits(
        np.unpackbits(INDICES[::-1, :, None], axis=2)[:, :, 4:].reshape(24, -1), axis=1
    )
    five = RGB[::-1].astype(np.uint16) >> 3
    rgb555 = (five[:, :, 0] << 10 | five[:, :, 1] << 5 | five[:, :, 2]).astype("<u2")
    spread = ((RGB >> 3).astype(int) * 255 // 31).astype(np.uint8)
    four = np.dstack([BGR, ALPHA])
    runs = (
        b"".join(b"".join(bytes([1, v]) for v in row) + b"\0\0" for row in INDICES[::-1]) + b"\0\1"
    )
    return [
        good("bmp/24 bits", "a.bmp", bmp(SIZE, 24, rows), RGB),
        good(
            "bmp/from top to bottom",
            "a.bmp",
            bmp((-24, 33), 24, bmp_rows(RGB[:, :, ::-1].reshape(24, -1))),
            RGB,
        ),
        good("bmp/8 bits", "a.bmp", bmp(SIZE, 8, indices, colors=table), COLORS[INDICES]),
        good(
            "bmp/4 bits",
            "a.bmp",
            bmp(SIZE, 4, bmp_rows(nibbles), colors=table[:64]),
            COLORS[INDICES],
        ),
        good(
            "bmp/1 bit",
            "a.bmp",
            bmp(SIZE, 1, bmp_rows(bits), colors=table[:8]),
            COLORS[(INDICES > 3).astype(int)],
        ),
        good("bmp/15 bits", "a.bmp", bmp(SIZE, 16, bmp_rows(rgb555.view(np.uint8))), spread),
        good("bmp/32 bits", "a.bmp", bmp(SIZE, 32, four.tobytes()), RGB),
        good(
            "bmp/run lengths",
            "a.bmp",
            bmp(SIZE, 8, runs, colors=table, compression=1),
            COLORS[INDICES],
        ),
        good("bmp/grey", "a.bmp", saved(GREY, "BMP"), GREY),
        good("bmp/one pixel", "a.bmp", saved(RGB[:1, :1], "BMP"), RGB[:1, :1]),
        good(
            "bmp/garbage behind the end",
            "a.bmp",
            bmp(SIZE, 24, rows) + b"PK\3\4 and more" * 99,
            RGB,
        ),
        bad("bmp/no width", "a.bmp", bmp((24, 0), 24, rows)),
        bad("bmp/no height", "a.bmp", bmp((0, 33), 24, rows)),
        bad("bmp/a negative width", "a.bmp", bmp((24, -33), 24, rows)),
        bad("bmp/5 bits", "a.bmp", bmp(SIZE, 5, rows)),
        bad("bmp/a JPEG inside", "a.bmp", bmp(SIZE, 0, saved(RGB, "JPEG"), compression=4)),
        bad(
            "bmp/run lengths that end early",
            "a.bmp",
            bmp(SIZE, 8, runs[:99], colors=table, compression=1),
        ),
        either("bmp/run lengths that jump out", "a.bmp", *_jumping(table)),
        bad("bmp/no pixels", "a.bmp", bmp(SIZE, 24, b"")),
        bad(
            "bmp/pixels beyond the file",
            "a.bmp",
            b"BM" + struct.pack("<IHHI", 9, 0, 0, 2**31) + bmp(SIZE, 24, rows)[14:],
        ),
        bad(
            "bmp/a header of unknown length",
            "a.bmp",
            bmp(SIZE, 24, rows).replace(b"\x28\0\0\0", b"\x29\0\0\0", 1),
        ),
    ]
