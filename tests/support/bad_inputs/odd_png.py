"""PNG files that are unusual, or broken in one place (ISO/IEC 15948, APNG 1.0, PNG 3 for eXIf)."""

import struct
import zlib

import numpy as np
from PIL import Image
from support.bad_inputs.by_hand import (
    PNG_START,
    chunk,
    interlaced_rows,
    packed_rows,
    png,
    png_header,
    png_rows,
)
from support.bad_inputs.case import (
    ALPHA,
    COLORS,
    DEEP,
    GREY,
    INDICES,
    RGB,
    BadInput,
    bad,
    either,
    good,
    saved,
    turned,
)

SIZE = (24, 33)
HEADER, ROWS = png_header(SIZE), png_rows(RGB)
PALETTE = chunk(b"PLTE", COLORS.tobytes())
END = chunk(b"IEND", b"")


def odd_pngs() -> list[BadInput]:
    """Of every colour type and depth, with chunks that are spoiled, missing or too many."""
    return [*_forms(), *_transparent(), *_orientations(), *_spoiled_chunks(), *_impossible()]


def _forms() -> list[BadInput]:
    cases = [
        good("png/16-bit colour", "deep.png", png(png_header(SIZE, 16), png_rows(DEEP)), DEEP),
        good(
            "png/16-bit grey",
            "deep-grey.png",
            png(png_header(SIZE, 16, 0), png_rows(DEEP[:, :, 0])),
            DEEP[:, :, 0],
        ),
        good("png/grey", "grey.png", saved(GREY, "PNG"), GREY),
        good("png/one pixel", "dot.png", saved(RGB[:1, :1], "PNG"), RGB[:1, :1]),
        good("png/one row", "row.png", saved(RGB[:1], "PNG"), RGB[:1]),
        good(
            "png/one column",
            "column.png",
            saved(np.ascontiguousarray(RGB[:, :1]), "PNG"),
            RGB[:, :1],
        ),
        good(
            "png/interlaced",
            "interlaced.png",
            png(png_header(SIZE, interlace=1), interlaced_rows(RGB)),
            RGB,
        ),
        good(
            "png/interlaced, one pixel",
            "dot.png",
            png(png_header((1, 1), interlace=1), png_rows(RGB[:1, :1])),
            RGB[:1, :1],
        ),
        good(
            "png/interlaced grey",
            "i.png",
            png(png_header(SIZE, 8, 0, 1), interlaced_rows(GREY)),
            GREY,
        ),
        good(
            "png/interlaced 16-bit",
            "i.png",
            png(png_header(SIZE, 16, 2, 1), interlaced_rows(DEEP)),
            DEEP,
        ),
        good(
            "png/animated",
            "moving.png",
            saved(RGB, "PNG", save_all=True, append_images=_frames()),
            RGB,
        ),
        good(
            "png/animated behind a still image",
            "moving.png",
            saved(RGB, "PNG", save_all=True, append_images=_frames(), default_image=True),
            RGB,
        ),
        good("png/pixels in many pieces", "pieces.png", _in_pieces(), RGB),
    ]
    for bits in (1, 2, 4):
        values = GREY >> (8 - bits)
        full = (values.astype(int) * 255 // (2**bits - 1)).astype(np.uint8)
        content = png(png_header(SIZE, bits, 0), packed_rows(values, bits))
        cases.append(good(f"png/{bits}-bit grey", f"grey{bits}.png", content, full))
        indices = INDICES % 2**bits
        content = png(
            png_header(SIZE, bits, 3),
            packed_rows(indices, bits),
            before=chunk(b"PLTE", COLORS[: 2**bits].tobytes()),
        )
        cases.append(
            good(f"png/{bits}-bit palette", f"palette{bits}.png", content, COLORS[indices])
        )
    return cases


def _transparent() -> list[BadInput]:
    palette = png(
        png_header(SIZE, 8, 3),
        png_rows(INDICES),
        before=PALETTE + chunk(b"tRNS", bytes([0, 128, 255])),
    )
    deep_alpha = np.dstack([DEEP, DEEP[:, :, :1]])
    return [
        good("png/alpha", "alpha.png", saved(np.dstack([RGB, ALPHA]), "PNG"), RGB),
        good("png/all transparent", "ghost.png", saved(np.dstack([RGB, ALPHA * 0]), "PNG"), RGB),
        good("png/grey and alpha", "alpha.png", saved(np.dstack([GREY, ALPHA]), "PNG"), GREY),
        good("png/palette with transparency", "alpha.png", palette, COLORS[INDICES]),
        good(
            "png/16-bit with alpha",
            "alpha.png",
            png(png_header(SIZE, 16, 6), png_rows(deep_alpha)),
            DEEP,
        ),
        bad(
            "png/16-bit grey with alpha",
            "alpha.png",
            png(png_header(SIZE, 16, 4), png_rows(deep_alpha[:, :, :2])),
        ),
        good(
            "png/a transparent colour",
            "key.png",
            png(HEADER, ROWS, before=chunk(b"tRNS", struct.pack(">3H", *RGB[0, 0]))),
            RGB,
        ),
        good(
            "png/a transparent grey",
            "key.png",
            png(
                png_header(SIZE, 8, 0),
                png_rows(GREY),
                before=chunk(b"tRNS", struct.pack(">H", GREY[0, 0])),
            ),
            GREY,
        ),
        good(
            "png/a transparent 16-bit colour",
            "key.png",
            png(
                png_header(SIZE, 16),
                png_rows(DEEP),
                before=chunk(b"tRNS", struct.pack(">3H", *DEEP[0, 0])),
            ),
            DEEP,
        ),
    ]


def _orientations() -> list[BadInput]:
    cases = []
    for value in range(1, 9):
        exif = Image.Exif()
        exif[0x0112] = value
        cases.append(
            good(
                f"png/orientation {value}",
                "phone.png",
                saved(turned(RGB, value), "PNG", exif=exif),
                RGB,
            )
        )
    return cases


def _spoiled_chunks() -> list[BadInput]:
    data = zlib.compress(ROWS)
    idat = chunk(b"IDAT", data)
    text = b"Comment\0\x1b[2J\x1b]0;owned\x07<script>alert(1)</script>"
    return [
        either(
            "png/wrong checksum of the header",
            "a.png",
            PNG_START + chunk(b"IHDR", HEADER[8:21], checksum=7) + idat + END,
            RGB,
        ),
        either(
            "png/wrong checksum of the pixels",
            "a.png",
            PNG_START + HEADER + chunk(b"IDAT", data, checksum=7) + END,
            RGB,
        ),
        either(
            "png/wrong checksum of a comment",
            "a.png",
            png(HEADER, ROWS, before=chunk(b"tEXt", text, checksum=7)),
            RGB,
        ),
        either(
            "png/wrong checksum of the end",
            "a.png",
            PNG_START + HEADER + idat + chunk(b"IEND", b"", checksum=7),
            RGB,
        ),
        either("png/no end", "a.png", PNG_START + HEADER + idat, RGB),
        either(
            "png/wrong sum inside the pixels",
            "a.png",
            PNG_START + HEADER + chunk(b"IDAT", data[:-4] + b"\0\0\0\0") + END,
            RGB,
        ),
        either(
            "png/two headers", "a.png", PNG_START + HEADER + png_header((9, 9)) + idat + END, RGB
        ),
        either("png/more pixels than the header says", "a.png", png(HEADER, ROWS + ROWS), RGB),
        bad("png/nothing after the header", "a.png", PNG_START + HEADER),
        bad("png/no header", "a.png", PNG_START + idat + END),
        bad("png/the signature alone", "a.png", PNG_START),
        bad("png/no pixels", "a.png", PNG_START + HEADER + END),
        bad("png/empty pixels", "a.png", PNG_START + HEADER + chunk(b"IDAT", b"") + END),
        either(
            "png/fewer pixels than the header says",
            "a.png",
            png(HEADER, ROWS[: len(ROWS) // 2]),
            _upper_half(),
        ),
        bad(
            "png/pixels that are not deflated",
            "a.png",
            PNG_START + HEADER + chunk(b"IDAT", ROWS) + END,
        ),
        bad("png/a filter that does not exist", "a.png", png(HEADER, b"\x09" + ROWS[1:])),
        either(
            "png/a chunk longer than the file",
            "a.png",
            PNG_START + HEADER + b"\x7f\xff\xff\xffIDAT" + data,
            RGB,
        ),
        either(
            "png/a chunk of negative length",
            "a.png",
            PNG_START + HEADER + b"\xff\xff\xff\xffIDAT" + data,
            RGB,
        ),
        good(
            "png/garbage behind the end", "a.png", png(HEADER, ROWS) + b"PK\3\4 and more" * 99, RGB
        ),
        good(
            "png/a comment with escape sequences",
            "a.png",
            png(HEADER, ROWS, before=chunk(b"tEXt", text)),
            RGB,
        ),
        good(
            "png/an unknown chunk",
            "a.png",
            png(HEADER, ROWS, before=chunk(b"frOb", bytes(999))),
            RGB,
        ),
        good(
            "png/an EXIF block of garbage",
            "a.png",
            png(HEADER, ROWS, before=chunk(b"eXIf", b"II*\0\xff\xff\xff\xff")),
            RGB,
        ),
        good(
            "png/an empty EXIF block", "a.png", png(HEADER, ROWS, before=chunk(b"eXIf", b"")), RGB
        ),
        good(
            "png/an EXIF block cut short",
            "a.png",
            png(HEADER, ROWS, before=chunk(b"eXIf", b"II*\0\x08\0\0\0\x09\0")),
            RGB,
        ),
        good(
            "png/an ICC profile of garbage",
            "a.png",
            png(HEADER, ROWS, before=chunk(b"iCCP", b"x\0\0" + bytes(40))),
            RGB,
        ),
        good(
            "png/an ICC profile that is none",
            "a.png",
            png(HEADER, ROWS, before=chunk(b"iCCP", b"x\0\0" + zlib.compress(b"no profile"))),
            RGB,
        ),
        good("png/gamma zero", "a.png", png(HEADER, ROWS, before=chunk(b"gAMA", bytes(4))), RGB),
        good("png/no pixel size", "a.png", png(HEADER, ROWS, before=chunk(b"pHYs", bytes(9))), RGB),
        either(
            "png/a gamma chunk cut short",
            "a.png",
            png(HEADER, ROWS, before=chunk(b"gAMA", b"\0")),
            RGB,
        ),
        either(
            "png/an animation of no frames",
            "a.png",
            png(HEADER, ROWS, before=chunk(b"acTL", bytes(8))),
            RGB,
        ),
        either(
            "png/an animation of 2^31 frames",
            "a.png",
            png(HEADER, ROWS, before=chunk(b"acTL", b"\x7f\xff\xff\xff\0\0\0\0")),
            RGB,
        ),
        bad(
            "png/a palette without colours", "a.png", png(png_header(SIZE, 8, 3), png_rows(INDICES))
        ),
        either(
            "png/a palette with too few colours",
            "a.png",
            png(
                png_header(SIZE, 8, 3),
                png_rows(INDICES),
                before=chunk(b"PLTE", COLORS[:2].tobytes()),
            ),
            np.pad(COLORS[:2], ((0, 6), (0, 0)))[INDICES],
        ),
        either(
            "png/a palette of 300 colours",
            "a.png",
            png(
                png_header(SIZE, 8, 3),
                png_rows(INDICES),
                before=chunk(b"PLTE", bytes(COLORS.tobytes() * 38)[:900]),
            ),
            COLORS[INDICES],
        ),
    ]


def _impossible() -> list[BadInput]:
    sizes = {"no height": (0, 33), "no width": (24, 0), "no size": (0, 0)}
    cases = [
        bad(f"png/{words}", "empty.png", png(png_header(size), ROWS))
        for words, size in sizes.items()
    ]
    for bits, color_type in ((3, 2), (16, 3), (8, 5), (4, 2), (0, 0), (255, 255)):
        content = png(png_header(SIZE, bits, color_type), ROWS)
        cases.append(bad(f"png/{bits} bits of colour type {color_type}", "odd.png", content))
    cases.append(
        bad("png/interlaced in an unknown way", "odd.png", png(png_header(SIZE, interlace=9), ROWS))
    )
    return cases


def _upper_half() -> np.ndarray:
    """The rows that are there, the others black, as viewers show them."""
    return np.where(np.arange(24)[:, None, None] < 12, RGB, 0).astype(np.uint8)


def _frames() -> list[Image.Image]:
    return [Image.fromarray(np.ascontiguousarray(RGB[::-1])), Image.fromarray(255 - RGB)]


def _in_pieces() -> bytes:
    data = zlib.compress(ROWS)
    pieces = b"".join(chunk(b"IDAT", data[i : i + 1]) for i in range(len(data)))
    return PNG_START + HEADER + pieces + END
