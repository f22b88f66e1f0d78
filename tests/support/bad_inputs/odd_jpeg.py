"""JPEG files that are unusual, or broken in one place (ITU T.81, CIPA DC-008)."""

import struct

import numpy as np
from PIL import Image
from support.bad_inputs.case import (
    GREY,
    RGB,
    BadInput,
    as_pillow_decodes,
    bad,
    either,
    good,
    saved,
    turned,
    upright,
)

PLAIN = saved(RGB, "JPEG", quality=95)
DECODED = as_pillow_decodes(PLAIN)
assert DECODED is not None


def odd_jpegs() -> list[BadInput]:
    """Return grey, CMYK, progressive and EXIF-rotated JPEGs, and ones with spoiled blocks."""
    return [*_forms(), *_orientations(), *_metadata(), *_broken()]


def _forms() -> list[BadInput]:
    grey = saved(GREY, "JPEG")
    cmyk = Image.fromarray(np.dstack([255 - RGB, np.zeros_like(GREY)]), "CMYK")
    inverted = saved(cmyk, "JPEG", quality=95)  # as Adobe's programs store it
    forms = {
        "grey": grey,
        "progressive": saved(RGB, "JPEG", progressive=True),
        "progressive grey": saved(GREY, "JPEG", progressive=True),
        "no subsampling": saved(RGB, "JPEG", subsampling=0),
        "4:2:0": saved(RGB, "JPEG", subsampling=2),
        "worst quality": saved(RGB, "JPEG", quality=1),
        "restart markers": saved(RGB, "JPEG", restart_marker_blocks=1),
        "stored as RGB": saved(RGB, "JPEG", keep_rgb=True),
        "one pixel": saved(RGB[:1, :1], "JPEG"),
        "one row": saved(RGB[:1], "JPEG"),
        "one column": saved(np.ascontiguousarray(RGB[:, :1]), "JPEG"),
        "CMYK": inverted,
        "YCCK": _with_adobe_transform(inverted, 2),
        "two images, as phones write": saved(
            RGB, "MPO", save_all=True, append_images=[Image.fromarray(255 - RGB)]
        ),
    }
    return [
        good(f"jpeg/{name}", "photo.jpg", content, _decoded(content))
        for name, content in forms.items()
    ]


def _orientations() -> list[BadInput]:
    cases = []
    for value in range(1, 9):
        content = saved(turned(RGB, value), "JPEG", quality=95, exif=_exif(value))
        stored = _decoded(
            saved(turned(RGB, value), "JPEG", quality=95)
        )  # the same, without the block
        cases.append(
            good(f"jpeg/orientation {value}", "phone.jpg", content, upright(stored, value))
        )
    for value in (0, 9, 65535):
        content = saved(RGB, "JPEG", quality=95, exif=_exif(value))
        cases.append(good(f"jpeg/orientation {value}", "phone.jpg", content, DECODED))
    return cases


def _metadata() -> list[BadInput]:
    exif = _exif(6)
    blocks = {
        "an EXIF block cut short": _app(1, exif[:12]),
        "an EXIF block without entries": _app(1, b"Exif\0\0II*\0\x08\0\0\0\0\0"),
        "an EXIF block of garbage": _app(1, b"Exif\0\0" + bytes(range(256))),
        "an EXIF block that points beyond itself": _app(1, b"Exif\0\0II*\0\xff\xff\xff\x7f"),
        "an EXIF block that points at itself": _app(1, b"Exif\0\0II*\0\x08\0\0\0\0\0\x08\0\0\0"),
        "an EXIF block with 65535 entries": _app(
            1, b"Exif\0\0II*\0\x08\0\0\0\xff\xff\x12\x01\x03\0"
        ),
        "an orientation in words": _app(1, _orientation_entry(2, 4, b"top\0")),
        "an orientation of eight numbers": _app(1, _orientation_entry(1, 4, bytes([6, 6, 6, 6]))),
        "an ICC profile of garbage": _app(2, b"ICC_PROFILE\0\x01\x01" + bytes(range(256)) * 3),
        "one of two pieces of an ICC profile": _app(2, b"ICC_PROFILE\0\x01\x02" + bytes(99)),
        "XMP of garbage": _app(
            1, b"http://ns.adobe.com/xap/1.0/\0<x:xmpmeta tiff:Orientation='zwei'"
        ),
        "a Photoshop block of garbage": _app(
            13, b"Photoshop 3.0\x008BIM\x03\xed\0\0\0\0\0\xff" + bytes(9)
        ),
        "a comment with escape sequences": b"\xff\xfe"
        + struct.pack(">H", 22)
        + b"\x1b[2J<script>\x1b]0;x\x07\0\0",
        "an MPF block of garbage": _app(2, b"MPF\0II*\0\x08\0\0\0\xff\xff" + bytes(20)),
    }
    return [
        good(f"jpeg/{name}", "photo.jpg", PLAIN[:2] + block + PLAIN[2:], DECODED)
        for name, block in blocks.items()
    ]


def _broken() -> list[BadInput]:
    frame = PLAIN.index(b"\xff\xc0")
    table = PLAIN.index(b"\xff\xdb")
    sof = frame + 5  # height, width, components
    start = PLAIN.index(b"\xff\xda")

    def patched(place: int, new: bytes) -> bytes:
        return PLAIN[:place] + new + PLAIN[place + len(new) :]

    return [
        good("jpeg/garbage behind the end", "a.jpg", PLAIN + b"PK\3\4 and more" * 99, DECODED),
        good(
            "jpeg/fill bytes before a marker", "a.jpg", PLAIN[:2] + b"\xff" * 9 + PLAIN[2:], DECODED
        ),
        either(
            "jpeg/an empty ICC profile",
            "a.jpg",
            PLAIN[:2] + _app(2, b"ICC_PROFILE\0") + PLAIN[2:],
            DECODED,
        ),
        either("jpeg/no end", "a.jpg", PLAIN[:-2], DECODED),
        either("jpeg/garbage before the beginning", "a.jpg", b"\0\0" + PLAIN, DECODED),
        bad("jpeg/no height", "a.jpg", patched(sof, b"\0\0")),
        bad("jpeg/no width", "a.jpg", patched(sof + 2, b"\0\0")),
        _as_pillow("twice as high as its pixels", patched(sof, struct.pack(">H", 48))),
        bad("jpeg/two components", "a.jpg", patched(sof + 4, b"\2")),
        bad("jpeg/no components", "a.jpg", patched(sof + 4, b"\0")),
        bad("jpeg/12 bits", "a.jpg", patched(frame + 4, b"\x0c")),
        bad("jpeg/lossless coding", "a.jpg", patched(frame + 1, b"\xc3")),
        bad("jpeg/hierarchical coding", "a.jpg", patched(frame + 1, b"\xc5")),
        bad("jpeg/no table of quantisation", "a.jpg", PLAIN[:table] + PLAIN[frame:]),
        either("jpeg/no tables of codes", "a.jpg", PLAIN[: frame + 19] + PLAIN[start:], DECODED),
        bad("jpeg/no pixels", "a.jpg", PLAIN[:start] + b"\xff\xd9"),
        bad("jpeg/the beginning alone", "a.jpg", b"\xff\xd8\xff"),
        bad("jpeg/beginning and end", "a.jpg", b"\xff\xd8\xff\xd9"),
        bad(
            "jpeg/a block longer than the file",
            "a.jpg",
            PLAIN[:2] + b"\xff\xe1\xff\xffExif\0\0" + PLAIN[2:],
        ),
        _as_pillow("a block of length zero", PLAIN[:2] + b"\xff\xe1\0\0" + PLAIN[2:]),
    ]


def _decoded(content: bytes) -> np.ndarray:
    pixels = as_pillow_decodes(content)
    assert pixels is not None
    return pixels


def _as_pillow(name: str, content: bytes) -> BadInput:
    """Decoders differ in what they make of it, so Pillow's image is right, or a refusal."""
    return either(f"jpeg/{name}", "a.jpg", content, as_pillow_decodes(content))


def _exif(orientation: int) -> bytes:
    return b"Exif\0\0" + struct.pack(
        "<2sHIHHHIHHI", b"II", 42, 8, 1, 0x0112, 3, 1, orientation, 0, 0
    )


def _orientation_entry(kind: int, count: int, value: bytes) -> bytes:
    return b"Exif\0\0" + struct.pack("<2sHIHHHI4sI", b"II", 42, 8, 1, 0x0112, kind, count, value, 0)


def _app(number: int, body: bytes) -> bytes:
    return bytes([0xFF, 0xE0 + number]) + struct.pack(">H", len(body) + 2) + body


def _with_adobe_transform(content: bytes, transform: int) -> bytes:
    """Declare another colour storage: 0 CMYK, 2 YCCK (Adobe's technical note 5116)."""
    place = content.index(b"Adobe") + 11
    return content[:place] + bytes([transform]) + content[place + 1 :]
