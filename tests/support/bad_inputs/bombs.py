"""Small files that would fill the memory: a huge header, huge inflated data, or huge metadata."""

import struct
import zlib
from functools import cache

from PIL import Image
from support.bad_inputs.by_hand import (
    PNG_START,
    bmp,
    chunk,
    png,
    png_header,
    png_rows,
    tiff,
    tiff_entries,
)
from support.bad_inputs.case import RGB, BadInput, bad, either, saved

SIZES = {
    "30000x30000": (30_000, 30_000),
    "1 by 2^31 - 1": (1, 2**31 - 1),
    "2^31 - 1 squared": (2**31 - 1, 2**31 - 1),
}


@cache
def bombs() -> list[BadInput]:
    """Refused before they are decoded."""
    black = bad("bomb/PNG of 900 million black pixels", "black.png", black_square(30_000))
    return [*_headers(), black, *_remarks(), *_decoders(), *_directories()]


def _headers() -> list[BadInput]:
    cases = []
    for words, size in SIZES.items():
        rows = png_rows(RGB)
        cases.append(bad(f"bomb/PNG of {words}", "huge.png", png(png_header(size), rows)))
        cases.append(
            bad(f"bomb/16-bit PNG of {words}", "huge.png", png(png_header(size, 16, 6), rows))
        )
        cases.append(bad(f"bomb/BMP of {words}", "huge.bmp", bmp(size, 24, bytes(99))))
        cases.append(
            bad(
                f"bomb/BMP of {words} in run lengths",
                "huge.bmp",
                bmp(size, 8, b"\xff\0" * 99, compression=1),
            )
        )
        entries = tiff_entries(size, 3, 8, 2, 99)
        cases.append(bad(f"bomb/TIFF of {words}", "huge.tif", tiff(entries, bytes(99))))
    jpeg = saved(RGB, "JPEG")
    frame = jpeg.index(b"\xff\xc0") + 5
    webp = b"VP8L" + struct.pack("<IBI", 5, 0x2F, 16383 | 16383 << 14)
    canvas = b"VP8X" + struct.pack("<II", 10, 2) + (16383).to_bytes(3, "little") * 2
    moving = canvas + b"ANIM" + struct.pack("<I", 6) + bytes(6)
    entries = [
        entry for entry in tiff_entries((24, 33), 3, 8, 2, 99) if entry[0] not in (273, 278, 279)
    ]
    tile = [(322, "long", [2**30]), (323, "long", [2**30]), (324, "long", [8]), (325, "long", [99])]
    return [
        *cases,
        bad(
            "bomb/JPEG of 65500x65500",
            "huge.jpg",
            jpeg[:frame] + struct.pack(">HH", 65500, 65500) + jpeg[frame + 4 :],
        ),
        bad(
            "bomb/WebP of 16384x16384",
            "huge.webp",
            b"RIFF" + struct.pack("<I", 4 + len(webp)) + b"WEBP" + webp,
        ),
        bad(
            "bomb/animated WebP of 16384x16384",
            "huge.webp",
            b"RIFF" + struct.pack("<I", 4 + len(moving)) + b"WEBP" + moving,
        ),
        bad("bomb/TIFF in tiles of 2^30 squared", "huge.tif", tiff([*entries, *tile], bytes(99))),
        either("bomb/TIFF with an entry of 2^32 - 1 values", "huge.tif", _many_values(), RGB),
    ]


def _decoders() -> list[BadInput]:
    """Small by width and height, but not by what a decoder allocates for them, or works."""
    zeros = deflated_zeros(500_000_000)[:-4]  # without the checksum at the end
    own = [
        entry
        for entry in tiff_entries((16, 16), 3, 8, 2, 0)
        if entry[0] not in (259, 273, 278, 279)
    ]
    tile = [
        (322, "long", [12_800]),
        (323, "long", [12_800]),
        (324, "long", [8]),
        (325, "long", [len(zeros)]),
    ]
    rows = 2**17 + 1
    column = [
        entry for entry in tiff_entries((rows, 1), 1, 8, 1, 0) if entry[0] not in (273, 278, 279)
    ]
    strips = [(273, "long", [8] * rows), (278, "long", [1]), (279, "long", [1] * rows)]
    twice = [*tiff_entries((24, 33), 3, 8, 2, RGB.nbytes), (257, "long", [9])]
    lines = saved(Image.new("L", (8000, 16_000)), "JPEG", progressive=True)
    strip = [entry for entry in tiff_entries((8, 8000), 1, 8, 1, len(lines)) if entry[0] != 259]
    skips = bmp(
        (16, 2**20), 8, bytes([0, 2, 0, 255]) * 99, colors=bytes(range(256)) * 4, compression=1
    )
    scans = saved(RGB, "JPEG", progressive=True)
    last = scans[scans.rindex(b"\xff\xda") : -2]
    return [
        bad(
            "bomb/TIFF in a tile of 12800x12800",
            "tile.tif",
            tiff([*own, (259, "short", [8]), *tile], zeros),
        ),
        bad("bomb/TIFF of 131073 strips", "strips.tif", tiff([*column, *strips], bytes(8))),
        bad(
            "bomb/TIFF of 8 lines in a JPEG of 16000",
            "lines.tif",
            tiff([*strip, (259, "short", [7])], lines),
        ),
        bad("bomb/TIFF with a tag twice", "twice.tif", tiff(twice, RGB.tobytes())),
        bad("bomb/BMP whose run lengths skip lines", "skip.bmp", skips),
        bad("bomb/JPEG of 100 scans", "scans.jpg", scans[:-2] + last * 100 + scans[-2:]),
    ]


def _directories() -> list[BadInput]:
    """Tags that hold the same bytes again and again, and a tag of millions of numbers."""

    def exif(tags: int, length: int) -> bytes:
        entries = b"".join(struct.pack("<HHII", 1000 + tag, 7, length, 8) for tag in range(tags))
        return (b"II*\0\x08\0\0\0" + struct.pack("<H", tags) + entries + bytes(4)).ljust(
            length + 8, b"\0"
        )

    def segment(kind: bytes, body: bytes) -> bytes:
        return kind + struct.pack(">H", len(body) + 2) + body

    jpeg, block = saved(RGB, "JPEG"), exif(4000, 50_000)
    entries = tiff_entries((24, 33), 3, 8, 2, RGB.nbytes)
    same = [(2000 + tag, "undefined", [0]) for tag in range(400)]
    numbers = (
        RGB.tobytes()
        + struct.pack("<HHHII", 1, 4000, 6, 8_000_000, 8)
        + bytes(4)
        + b"\x80" * 8_000_000
    )
    content = bytearray(tiff([*entries, *same], RGB.tobytes() + bytes(1_000_000)))
    for tag, _, _ in same:
        place = (
            content.rindex(struct.pack("<HHI", tag, 7, 1)) + 4
        )  # the directory lies behind the bytes
        content[place : place + 8] = struct.pack("<II", 1_000_000, 8)
    return [
        bad(
            "bomb/JPEG with an EXIF block of 200 MB",
            "exif.jpg",
            jpeg[:2] + segment(b"\xff\xe1", b"Exif\0\0" + block) + jpeg[2:],
        ),
        bad(
            "bomb/JPEG with an MPF block of 200 MB",
            "mpf.jpg",
            jpeg[:2] + segment(b"\xff\xe2", b"MPF\0" + block) + jpeg[2:],
        ),
        bad(
            "bomb/PNG with an EXIF block of 400 MB",
            "exif.png",
            png(png_header((24, 33)), png_rows(RGB), before=chunk(b"eXIf", exif(400, 1_000_000))),
        ),
        bad(
            "bomb/WebP with an EXIF block of 400 MB",
            "exif.webp",
            saved(RGB, "WEBP", lossless=True, exif=exif(400, 1_000_000)),
        ),
        bad("bomb/TIFF with 400 tags of one MB", "tags.tif", bytes(content)),
        bad(
            "bomb/TIFF with an EXIF directory of 8 million numbers",
            "inner.tif",
            tiff([*entries, (34665, "long", [8 + RGB.nbytes])], numbers),
        ),
    ]


def _remarks() -> list[BadInput]:
    header, rows = png_header((24, 33)), png_rows(RGB)
    zeros = deflated_zeros(100_000_000)
    international = b"Comment\0\1\0\0\0"
    wide = b"x" * 999_000 + "\N{GRINNING FACE}".encode()  # Python keeps four bytes a letter
    exif = Image.Exif()
    exif[0x9286] = "x" * 60_000  # a comment of the user
    remarks = {
        "zTXt of 100 MB": chunk(b"zTXt", b"Comment\0\0" + zeros),
        "iTXt of 100 MB": chunk(b"iTXt", international + zeros),
        "iCCP of 100 MB": chunk(b"iCCP", b"Profile\0\0" + zeros),
        "tEXt of 3 MB": chunk(b"tEXt", b"Comment\0" + b"x" * 3_000_000),
        "100000 remarks": chunk(b"tEXt", b"Comment\0x") * 100_000,
        "64 remarks of 4 MB, once decoded": chunk(b"iTXt", international + zlib.compress(wide, 9))
        * 64,
        "100 remarks of 1 MB": chunk(b"zTXt", b"Comment\0\0" + zlib.compress(bytes(1_000_000), 9))
        * 100,
    }
    cases = [
        either(f"bomb/PNG with {words}", "talk.png", png(header, rows, before=c), RGB)
        for words, c in remarks.items()
    ]
    cases += [
        either(f"bomb/PNG, then {words}", "talk.png", png(header, rows, after=c), RGB)
        for words, c in remarks.items()
    ]
    return [
        *cases,
        either("bomb/PNG with a long EXIF block", "talk.png", saved(RGB, "PNG", exif=exif), RGB),
    ]


def _many_values() -> bytes:
    """The count of an entry says 2^32 - 1 values of two bytes."""
    content = bytearray(
        tiff(
            [*tiff_entries((24, 33), 3, 8, 2, RGB.nbytes), (700, "undefined", [0] * 9)],
            RGB.tobytes(),
        )
    )
    place = content.index(struct.pack("<HH", 700, 7)) + 4
    content[place : place + 4] = b"\xff\xff\xff\xff"
    return bytes(content)


def black_square(side: int) -> bytes:
    """A sound 1-bit PNG of side x side black pixels: a megabyte holds more than 900 million."""
    data = deflated_zeros(side * (1 + -(-side // 8)))
    return PNG_START + png_header((side, side), 1, 0) + chunk(b"IDAT", data) + chunk(b"IEND", b"")


def deflated_zeros(count: int) -> bytes:
    """Return the zlib stream of `count` zeros, which repeats the block of a million zeros."""
    deflate, million = zlib.compressobj(9), bytes(1_000_000)
    blocks = [
        deflate.compress(million) + deflate.flush(zlib.Z_FULL_FLUSH) for _ in range(2)
    ]  # header, or none
    last = deflate.compress(bytes(count % len(million))) + deflate.flush()
    whole = count // len(million)
    start = blocks[0] + blocks[1] * (whole - 1) if whole else zlib.compress(b"")[:2]
    return start + last[:-4] + struct.pack(">HH", count % 65_521, 1)  # Adler-32 (RFC 1950)
