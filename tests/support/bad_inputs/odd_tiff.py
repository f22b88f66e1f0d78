"""TIFF files that are unusual, or broken in one place (TIFF 6.0)."""

import struct
import zlib
from collections.abc import Sequence

import numpy as np
import PIL
from packaging.version import Version
from PIL import Image
from support.bad_inputs.by_hand import tiff, tiff_entries
from support.bad_inputs.case import (
    ALPHA,
    COLORS,
    DEEP,
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
Entries = list[tuple[int, str, Sequence[int]]]
PLAIN = tiff_entries(SIZE, 3, 8, 2, RGB.nbytes)


def odd_tiffs() -> list[BadInput]:
    """Return TIFFs of many number types, in tiles, planes and pages, rotated, or spoiled."""
    return [*_compressed(), *_forms(), *_numbers(), *_pages(), *_orientations(), *_broken()]


def _compressed() -> list[BadInput]:
    ways = ["raw", "tiff_lzw", "tiff_adobe_deflate", "tiff_deflate", "packbits", "lzma"]
    if Version(PIL.__version__) >= Version("12"):  # older ones have no zstd
        ways.append("zstd")
    cases = [good(f"tiff/{way}", "a.tif", saved(RGB, "TIFF", compression=way), RGB) for way in ways]
    for words, image in (("colour", RGB), ("grey", GREY)):
        content = saved(image, "TIFF", compression="jpeg")
        decoded = as_pillow_decodes(content)
        assert decoded is not None
        cases.append(good(f"tiff/JPEG inside, {words}", "a.tif", content, decoded))
    for way in ("group3", "group4", "tiff_ccitt"):
        content = saved(Image.fromarray(GREY > 99), "TIFF", compression=way)
        cases.append(good(f"tiff/{way}", "fax.tif", content, ((GREY > 99) * 255).astype(np.uint8)))
    return cases


def _forms() -> list[BadInput]:
    planes = RGB.transpose(2, 0, 1)
    planar = _with(
        PLAIN,
        (273, "long", [8 + 792 * i for i in range(3)]),
        (279, "long", [792] * 3),
        (284, "short", [2]),
    )
    inverted = tiff_entries(SIZE, 1, 8, 0, GREY.nbytes)
    color_map = (
        320,
        "short",
        [v * 257 for v in np.pad(COLORS, ((0, 248), (0, 0))).T.ravel().tolist()],
    )
    palette = [*tiff_entries(SIZE, 1, 8, 3, INDICES.nbytes), color_map]
    alpha = [*tiff_entries(SIZE, 4, 8, 2, GREY.nbytes * 4), (338, "short", [2])]
    wide = (*tiff_entries(SIZE, 3, 8, 2, RGB.nbytes),)
    cmyk = np.dstack([255 - RGB, np.zeros_like(GREY)])
    strips = _with(
        PLAIN,
        (273, "long", [8 + 99 * row for row in range(24)]),
        (278, "long", [1]),
        (279, "long", [99] * 24),
    )
    return [
        good("tiff/from most to least significant", "a.tif", tiff(PLAIN, RGB.tobytes(), ">"), RGB),
        good("tiff/planes", "a.tif", tiff(planar, planes.tobytes()), RGB),
        good("tiff/tiles", "a.tif", _tiled(), RGB),
        good("tiff/a strip a row", "a.tif", tiff(strips, RGB.tobytes()), RGB),
        good("tiff/white is zero", "a.tif", tiff(inverted, GREY.tobytes()), 255 - GREY),
        good("tiff/palette", "a.tif", tiff(palette, INDICES.tobytes()), COLORS[INDICES]),
        good("tiff/alpha", "a.tif", tiff(alpha, np.dstack([RGB, ALPHA]).tobytes()), RGB),
        good("tiff/CMYK", "a.tif", saved(Image.fromarray(cmyk, "CMYK"), "TIFF"), RGB),
        good(
            "tiff/one bit",
            "a.tif",
            saved(Image.fromarray(GREY > 99), "TIFF"),
            ((GREY > 99) * 255).astype(np.uint8),
        ),
        good("tiff/one pixel", "a.tif", saved(RGB[:1, :1], "TIFF"), RGB[:1, :1]),
        good("tiff/one row", "a.tif", saved(RGB[:1], "TIFF"), RGB[:1]),
        good("tiff/64-bit places", "a.tif", saved(RGB, "TIFF", big_tiff=True), RGB),
        good(
            "tiff/an ICC profile of garbage",
            "a.tif",
            saved(RGB, "TIFF", icc_profile=b"no profile"),
            RGB,
        ),
        good(
            "tiff/garbage behind the end",
            "a.tif",
            tiff(list(wide), RGB.tobytes()) + b"PK\3\4 and more" * 99,
            RGB,
        ),
        bad("tiff/Lab", "a.tif", saved(Image.frombytes("LAB", (33, 24), RGB.tobytes()), "TIFF")),
        good(
            "tiff/differences of what is not compressed",
            "a.tif",
            tiff([*PLAIN, (317, "short", [2])], RGB.tobytes()),
            RGB,
        ),
    ]


def _numbers() -> list[BadInput]:
    kinds: dict[str, np.ndarray] = {
        "float": RGB[:, :, 0].astype(np.float32),
        "float with NaN": np.where(GREY > 99, np.nan, GREY).astype(np.float32),
        "float with infinities": np.where(GREY > 99, np.inf, -np.inf).astype(np.float32),
        "32 bits, beyond 65535": GREY.astype(np.int32) * 1000,
        "32 bits, below zero": GREY.astype(np.int32) - 99,
    }
    cases = [
        bad(f"tiff/{name}", "depth.tif", saved(values, "TIFF")) for name, values in kinds.items()
    ]
    deep = DEEP[:, :, 0]
    wide = deep.astype(np.int32)
    planes = DEEP.transpose(2, 0, 1)
    planar = _with(
        tiff_entries(SIZE, 3, 16, 2, DEEP.nbytes),
        (273, "long", [8 + 1584 * i for i in range(3)]),
        (279, "long", [1584] * 3),
        (284, "short", [2]),
    )
    floats = [*tiff_entries(SIZE, 3, 32, 2, RGB.size * 4), (339, "short", [3] * 3)]
    return [
        *cases,
        good("tiff/16-bit grey", "deep.tif", saved(deep, "TIFF"), deep),
        good("tiff/16-bit grey, swapped", "deep.tif", _one_band(deep.astype(">u2"), ">"), deep),
        good("tiff/32 bits, within 65535", "deep.tif", saved(wide, "TIFF"), deep),
        good(
            "tiff/16-bit colour",
            "deep.tif",
            tiff(tiff_entries(SIZE, 3, 16, 2, DEEP.nbytes), DEEP.tobytes()),
            DEEP,
        ),
        good(
            "tiff/16-bit colour, swapped",
            "deep.tif",
            tiff(tiff_entries(SIZE, 3, 16, 2, DEEP.nbytes), DEEP.astype(">u2").tobytes(), ">"),
            DEEP,
        ),
        either("tiff/16-bit colour in planes", "deep.tif", tiff(planar, planes.tobytes()), DEEP),
        either(
            "tiff/16-bit colour in planes, deflated", "deep.tif", _deflated_planes(planes), DEEP
        ),
        bad("tiff/float colour", "hdr.tif", tiff(floats, (RGB.astype(np.float32) / 255).tobytes())),
        bad(
            "tiff/float colour with NaN",
            "hdr.tif",
            tiff(floats, np.full(RGB.shape, np.nan, np.float32).tobytes()),
        ),
        bad(
            "tiff/64-bit float",
            "depth.tif",
            _one_band(GREY.astype(np.float64), "<", sample_format=3),
        ),
        bad(
            "tiff/complex", "radar.tif", _one_band(GREY.astype(np.complex64), "<", sample_format=6)
        ),
        bad(
            "tiff/signed bytes",
            "odd.tif",
            _one_band(GREY.astype(np.int8), "<", sample_format=2, below_zero=True),
        ),
    ]


def _pages() -> list[BadInput]:
    colour, other = Image.fromarray(RGB), Image.fromarray(255 - RGB)
    grey = [Image.fromarray(np.ascontiguousarray(RGB[:, :, band])) for band in range(3)]
    return [
        good(
            "tiff/pages in colour",
            "pages.tif",
            saved(colour, "TIFF", save_all=True, append_images=[other]),
            RGB,
        ),
        good(
            "tiff/three grey pages",
            "bands.tif",
            saved(grey[0], "TIFF", save_all=True, append_images=grey[1:]),
            RGB,
        ),
        bad(
            "tiff/two grey pages",
            "bands.tif",
            saved(grey[0], "TIFF", save_all=True, append_images=grey[1:2]),
        ),
        bad(
            "tiff/four grey pages",
            "bands.tif",
            saved(grey[0], "TIFF", save_all=True, append_images=grey),
        ),
        bad(
            "tiff/grey pages of several sizes",
            "bands.tif",
            saved(grey[0], "TIFF", save_all=True, append_images=[grey[1], grey[2].resize((8, 8))]),
        ),
    ]


def _orientations() -> list[BadInput]:
    cases = []
    for value in range(1, 9):
        exif = Image.Exif()
        exif[0x0112] = value
        stored = turned(RGB, value)
        cases.append(
            good(f"tiff/orientation {value}", "phone.tif", saved(stored, "TIFF", exif=exif), RGB)
        )
    grey = [turned(np.ascontiguousarray(RGB[:, :, band]), 6) for band in range(3)]
    exif[0x0112] = 6
    pages = [Image.fromarray(band) for band in grey]
    content = saved(pages[0], "TIFF", save_all=True, append_images=pages[1:], exif=exif)
    return [*cases, good("tiff/three grey pages, turned", "phone.tif", content, RGB)]


def _broken() -> list[BadInput]:
    data = RGB.tobytes()
    changed: dict[str, Entries] = {
        "no width": _with(PLAIN, (256, "long", [0])),
        "no height": _with(PLAIN, (257, "long", [0])),
        "no place of its pixels": [entry for entry in PLAIN if entry[0] != 273],
        "no size": [entry for entry in PLAIN if entry[0] not in (256, 257)],
        "pixels beyond the file": _with(PLAIN, (273, "long", [2**31])),
        "an unknown compression": _with(PLAIN, (259, "short", [4711])),
        "a compression that it does not have": _with(PLAIN, (259, "short", [5])),
        "an unknown kind of colour": _with(PLAIN, (262, "short", [4711])),
        "no bands": _with(PLAIN, (277, "short", [0])),
        "65535 bands": _with(PLAIN, (277, "short", [65535])),
        "7 bits": _with(PLAIN, (258, "short", [7] * 3)),
        "twice as high as its pixels": _with(PLAIN, (257, "long", [48]), (278, "long", [48])),
    }
    whole = tiff(PLAIN, data)
    directory = struct.unpack_from("<I", whole, 4)[0]
    return [
        *(bad(f"tiff/{name}", "a.tif", tiff(entries, data)) for name, entries in changed.items()),
        either(
            "tiff/a directory that follows itself",
            "a.tif",
            tiff(PLAIN, data, next_ifd=directory),
            RGB,
        ),
        either(
            "tiff/a next directory beyond the file", "a.tif", tiff(PLAIN, data, next_ifd=2**31), RGB
        ),
        either(
            "tiff/a resolution of garbage",
            "a.tif",
            tiff([*PLAIN, (282, "ascii", [b"x"])], data),
            RGB,
        ),
        bad("tiff/a header alone", "a.tif", whole[:8]),
        bad("tiff/a directory beyond the file", "a.tif", b"II*\0\xff\xff\xff\x7f" + data),
        bad("tiff/an empty directory", "a.tif", b"II*\0\x08\0\0\0\0\0\0\0\0\0"),
        bad("tiff/65535 entries", "a.tif", b"II*\0\x08\0\0\0\xff\xff" + data),
        bad("tiff/an order of bytes that does not exist", "a.tif", b"IM*\0" + whole[4:]),
        bad(
            "tiff/sizes that are text",
            "a.tif",
            tiff(_with(PLAIN, (256, "ascii", [b"3", b"3"])), data),
        ),
    ]


def _with(entries: Entries, *changed: tuple[int, str, Sequence[int]]) -> Entries:
    tags = [entry[0] for entry in changed]
    return [*(entry for entry in entries if entry[0] not in tags), *changed]


def _one_band(
    values: np.ndarray, order: str, sample_format: int = 1, below_zero: bool = False
) -> bytes:
    """(H, W) as a TIFF of one band; sample formats: 1 unsigned, 2 signed, 3 float, 6 complex."""
    values = values - values.max() - 1 if below_zero else values
    entries = tiff_entries(SIZE, 1, values.itemsize * 8, 1, values.nbytes)
    return tiff([*entries, (339, "short", [sample_format])], values.tobytes(), order)


def _deflated_planes(planes: np.ndarray) -> bytes:
    strips = [zlib.compress(plane.tobytes()) for plane in planes]
    lengths = [len(strip) for strip in strips]
    entries = _with(
        tiff_entries(SIZE, 3, 16, 2, 0),
        (259, "short", [8]),
        (273, "long", [8 + sum(lengths[:i]) for i in range(3)]),
        (279, "long", lengths),
        (284, "short", [2]),
    )
    return tiff(entries, b"".join(strips))


def _tiled() -> bytes:
    """Tiles of 16 x 16: two rows of three, the last of each filled up with zeros."""
    padded = np.zeros((32, 48, 3), np.uint8)
    padded[:24, :33] = RGB
    tiles = padded.reshape(2, 16, 3, 16, 3).transpose(0, 2, 1, 3, 4)  # (2, 3, 16, 16, 3)
    length = 16 * 16 * 3
    own = [entry for entry in PLAIN if entry[0] not in (273, 278, 279)]
    places = (324, "long", [8 + length * tile for tile in range(6)])
    return tiff(
        [*own, (322, "long", [16]), (323, "long", [16]), places, (325, "long", [length] * 6)],
        np.ascontiguousarray(tiles).tobytes(),
    )
