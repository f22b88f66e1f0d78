"""Bytes are read like files; what cannot be read is refused by content before decoding."""

import struct
import zlib

import numpy as np
import pytest
from PIL import Image
from support.models.color_model import encoded, image

from featherseg.data.images.decoding import read_image
from featherseg.data.images.headers import MOST_SCANS, scan_count
from featherseg.serving.decode import decode, size_of
from featherseg.serving.refusal import Refused

MANY = 10**9


def refusal(content: bytes, most_pixels: int = MANY) -> tuple[int, str, str]:
    try:
        size_of(content, most_pixels)
        decode(content, 3)
    except Refused as refused:
        return refused.status, refused.code, str(refused)
    return 200, "", ""


def png_of_size(height: int, width: int) -> bytes:
    """A PNG whose header says so, and which holds no pixels."""
    chunks = [b"IHDR" + struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0), b"IDAT", b"IEND"]
    parts = [struct.pack(">I", len(c) - 4) + c + struct.pack(">I", zlib.crc32(c)) for c in chunks]
    return b"\x89PNG\r\n\x1a\n" + b"".join(parts)


@pytest.mark.parametrize("form", ["JPEG", "PNG", "WEBP", "BMP", "TIFF"])
@pytest.mark.parametrize("orientation", [1, 3, 6, 7])
def test_bytes_are_read_as_the_file_is_upright(form, orientation, tmp_path):
    exif = Image.Exif()
    exif[0x0112] = orientation
    content = encoded(image(), form, **({} if form == "BMP" else {"exif": exif}))
    file = tmp_path / "named.anything"
    file.write_bytes(content)
    assert size_of(content, MANY) == read_image(file).shape[:2]
    np.testing.assert_array_equal(decode(content, 3), read_image(file))


def test_of_an_animation_the_first_frame_is_taken():
    frames = [Image.fromarray(image(seed)) for seed in range(3)]
    content = encoded(image(0), "WEBP", save_all=True, append_images=frames[1:], lossless=True)
    np.testing.assert_array_equal(decode(content, 3), image(0))


@pytest.mark.parametrize(
    "content",
    [
        b"just text",
        b"\0\0\x02\0" + bytes(40),
        b"%PDF-1.7",
        b"RIFF\0\0\0\0WAVE",
        b"<svg xmlns='x'/>",
        b"\x80\x04pickle.",
    ],
)
def test_other_formats_are_refused_by_their_content(content):
    status, code, message = refusal(content)
    assert (status, code) == (415, "format")
    assert "JPEG, PNG, WebP, BMP, TIFF, AVIF, GIF, JPEG 2000 or PNM" in message


@pytest.mark.parametrize(
    "form", ["JPEG", "PNG", "WEBP", "BMP", "TIFF", "AVIF", "GIF", "JPEG2000", "PPM"]
)
def test_an_image_that_is_cut_short_is_refused_in_a_sentence(form):
    content = encoded(image(), form)
    for length in (12, len(content) // 2):
        status, code, message = refusal(content[:length])
        assert (status, code) == (400, "unreadable")
        assert message.startswith("The image ")


def test_an_empty_field_is_refused():
    assert refusal(b"")[:2] == (400, "empty")


def test_too_many_pixels_are_refused_from_the_header():
    assert refusal(encoded(image(0, (20, 30))), 599)[:2] == (413, "pixels")
    assert size_of(encoded(image(0, (20, 30))), 600) == (20, 30)
    status, code, message = refusal(png_of_size(9000, 9000), 32_000_000)
    assert (status, code) == (413, "pixels")
    assert "9000x9000" in message
    assert "81,000,000" in message


def test_more_pixels_than_pillow_takes_are_refused():
    assert refusal(png_of_size(60_000, 60_000))[0] == 413


def progressive(scans: int) -> bytes:
    """A progressive JPEG whose last scan comes again until there are so many."""
    content = encoded(image(), "JPEG", progressive=True)
    last = content.rindex(b"\xff\xda")
    scan = content[last:-2]
    return content[:-2] + scan * (scans - scan_count(content)) + content[-2:]


def test_scans_are_counted_from_the_markers_alone():
    assert scan_count(encoded(image(), "JPEG")) == 1
    assert scan_count(progressive(40)) == 40
    within = encoded(image(), "JPEG", comment=b"\xff\xda\xff\xd9" * 400)
    film = b"\0\0" + b"\xff\xda\0\2" * 400  # after the image, as telephones write one
    assert scan_count(within + film) == 1


def test_a_jpeg_of_endless_scans_is_refused():
    assert decode(progressive(20), 3).shape == (24, 40, 3)
    assert refusal(progressive(MOST_SCANS + 1))[:2] == (413, "scans")


@pytest.mark.parametrize(
    "content",
    [b"\xff\xd8\xff", b"\xff\xd8\xff\xe0", b"\xff\xd8\xff\xff\xff\xff", b"\xff\xd8\xff\xe0\0\0"],
)
def test_counting_scans_ends_on_anything(content):
    assert scan_count(content) == 0


def test_a_jpeg_of_endless_segments_is_refused_wherever_they_stand():
    content, many = encoded(image(), "JPEG"), b"\xff\xe0\0\2" * 20_000
    for place in (20, len(content) - 2):  # behind its first segment, and before its end
        status, code, message = refusal(content[:place] + many + content[place:])
        assert (status, code) == (413, "pixels")
        assert "too many segments" in message
