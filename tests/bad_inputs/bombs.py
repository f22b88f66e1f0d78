"""Small files that would fill the memory: huge by their header, huge once inflated, or huge in their remarks."""

import struct
import zlib

from PIL import Image

from bad_inputs.by_hand import PNG_START, bmp, chunk, png, png_header, png_rows, tiff, tiff_entries
from bad_inputs.case import RGB, BadInput, bad, either, saved

SIZES = {"30000x30000": (30_000, 30_000), "1 by 2^31 - 1": (1, 2**31 - 1), "2^31 - 1 squared": (2**31 - 1, 2**31 - 1)}


def bombs() -> list[BadInput]:
    """Refused before they are decoded."""
    return [*_headers(), bad("bomb/PNG of 900 million black pixels", "black.png", black_square(30_000)), *_remarks()]


def _headers() -> list[BadInput]:
    cases = []
    for words, size in SIZES.items():
        rows = png_rows(RGB)
        cases.append(bad(f"bomb/PNG of {words}", "huge.png", png(png_header(size), rows)))
        cases.append(bad(f"bomb/16-bit PNG of {words}", "huge.png", png(png_header(size, 16, 6), rows)))
        cases.append(bad(f"bomb/BMP of {words}", "huge.bmp", bmp(size, 24, bytes(99))))
        cases.append(
            bad(f"bomb/BMP of {words} in run lengths", "huge.bmp", bmp(size, 8, b"\xff\0" * 99, compression=1))
        )
        entries = tiff_entries(size, 3, 8, 2, 99)
        cases.append(bad(f"bomb/TIFF of {words}", "huge.tif", tiff(entries, bytes(99))))
    jpeg = saved(RGB, "JPEG")
    frame = jpeg.index(b"\xff\xc0") + 5
    webp = b"VP8L" + struct.pack("<IBI", 5, 0x2F, 16383 | 16383 << 14)
    canvas = b"VP8X" + struct.pack("<II", 10, 2) + (16383).to_bytes(3, "little") * 2
    moving = canvas + b"ANIM" + struct.pack("<I", 6) + bytes(6)
    entries = [entry for entry in tiff_entries((24, 33), 3, 8, 2, 99) if entry[0] not in (273, 278, 279)]
    tile = [(322, "long", [2**30]), (323, "long", [2**30]), (324, "long", [8]), (325, "long", [99])]
    return [
        *cases,
        bad(
            "bomb/JPEG of 65500x65500", "huge.jpg", jpeg[:frame] + struct.pack(">HH", 65500, 65500) + jpeg[frame + 4 :]
        ),
        bad("bomb/WebP of 16384x16384", "huge.webp", b"RIFF" + struct.pack("<I", 4 + len(webp)) + b"WEBP" + webp),
        bad(
            "bomb/animated WebP of 16384x16384",
            "huge.webp",
            b"RIFF" + struct.pack("<I", 4 + len(moving)) + b"WEBP" + moving,
        ),
        bad("bomb/TIFF in tiles of 2^30 squared", "huge.tif", tiff([*entries, *tile], bytes(99))),
        either("bomb/TIFF with an entry of 2^32 - 1 values", "huge.tif", _many_values(), RGB),
    ]


def _remarks() -> list[BadInput]:
    header, rows = png_header((24, 33)), png_rows(RGB)
    zeros = zlib.compress(bytes(100_000_000))
    international = b"Comment\0\1\0\0\0"
    exif = Image.Exif()
    exif[0x9286] = "x" * 60_000  # a comment of the user
    remarks = {
        "zTXt of 100 MB": chunk(b"zTXt", b"Comment\0\0" + zeros),
        "iTXt of 100 MB": chunk(b"iTXt", international + zeros),
        "iCCP of 100 MB": chunk(b"iCCP", b"Profile\0\0" + zeros),
        "tEXt of 3 MB": chunk(b"tEXt", b"Comment\0" + b"x" * 3_000_000),
        "100000 remarks": chunk(b"tEXt", b"Comment\0x") * 100_000,
        "100 remarks of 1 MB": chunk(b"zTXt", b"Comment\0\0" + zlib.compress(bytes(1_000_000), 9)) * 100,
    }
    cases = [
        either(f"bomb/PNG with {words}", "talk.png", png(header, rows, before=c), RGB) for words, c in remarks.items()
    ]
    cases += [
        either(f"bomb/PNG, then {words}", "talk.png", png(header, rows, after=c), RGB) for words, c in remarks.items()
    ]
    return [*cases, either("bomb/PNG with a long EXIF block", "talk.png", saved(RGB, "PNG", exif=exif), RGB)]


def _many_values() -> bytes:
    """The count of an entry says 2^32 - 1 values of two bytes."""
    content = bytearray(
        tiff([*tiff_entries((24, 33), 3, 8, 2, RGB.nbytes), (700, "undefined", [0] * 9)], RGB.tobytes())
    )
    place = content.index(struct.pack("<HH", 700, 7)) + 4
    content[place : place + 4] = b"\xff\xff\xff\xff"
    return bytes(content)


def black_square(side: int) -> bytes:
    """A sound 1-bit PNG of side x side black pixels: a megabyte holds more than 900 million."""
    deflate, row = zlib.compressobj(9), bytes(1 + -(-side // 8))
    data = b"".join(deflate.compress(row) for _ in range(side)) + deflate.flush()
    return PNG_START + png_header((side, side), 1, 0) + chunk(b"IDAT", data) + chunk(b"IEND", b"")
