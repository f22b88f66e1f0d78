"""What a file holds beside the pixels that are read is seen in its header."""

import io
import struct
import zlib

import numpy as np
import pytest
from PIL import Image, ImageCms

from featherseg.data.images.decoding import EncodedImage
from featherseg.data.images.unused_parts import TOLD, unused_parts

RGB = Image.fromarray(np.random.default_rng(0).integers(0, 256, (20, 24, 3), np.uint8))
RGBA = Image.fromarray(np.random.default_rng(1).integers(0, 256, (20, 24, 4), np.uint8))
SRGB = ImageCms.ImageCmsProfile(ImageCms.createProfile("sRGB")).tobytes()
OTHER = SRGB.replace(b"sRGB", b"wide").replace(
    "sRGB".encode("utf-16-be"), "wide".encode("utf-16-be")
)
FORMATS = ("JPEG", "PNG", "WEBP", "TIFF")


def saved(image, format, **options):
    file = io.BytesIO()
    image.save(file, format, **options)
    return file.getvalue()


def with_chunk(png, kind, body):
    """A PNG with one more chunk behind its header."""
    chunk = struct.pack(">I", len(body)) + kind + body + struct.pack(">I", zlib.crc32(kind + body))
    return png[:33] + chunk + png[33:]


def unused(content, channels=3):
    return unused_parts(EncodedImage(content), channels)[1]


@pytest.mark.parametrize("format", [*FORMATS, "BMP", "GIF"])
def test_a_plain_image_has_nothing_else(format):
    assert unused(saved(RGB, format)) == set()


@pytest.mark.parametrize("format", FORMATS)
def test_a_profile_other_than_srgb_is_told(format):
    assert unused(saved(RGB, format, icc_profile=OTHER)) == {"profile"}
    assert unused(saved(RGB, format, icc_profile=SRGB)) == set()


@pytest.mark.parametrize(
    ("format", "options"), [("PNG", {}), ("WEBP", {}), ("WEBP", {"lossless": True}), ("TIFF", {})]
)
def test_alpha_is_told_unless_the_model_takes_it(format, options):
    content = saved(RGBA, format, **options)
    assert unused(content) == {"alpha"}
    assert unused(content, channels=4) == set()


def test_alpha_of_a_palette_is_told():
    assert unused(saved(RGB.quantize(8), "PNG", transparency=3)) == {"alpha"}


@pytest.mark.parametrize("format", ["PNG", "WEBP", "TIFF", "GIF"])
def test_further_pages_and_frames_are_told(format):
    others = [RGB.rotate(90 * n) for n in (1, 2)]
    assert unused(saved(RGB, format, save_all=True, append_images=others)) == {"pages"}


def test_smaller_versions_and_masks_of_a_tiff_are_no_pages():
    small = RGB.resize((12, 10))
    small.encoderinfo = {"tiffinfo": {254: 1}}
    assert unused(saved(RGB, "TIFF", save_all=True, append_images=[small])) == set()


def test_a_transfer_curve_of_high_dynamic_range_is_told():
    png = saved(RGB, "PNG")
    assert unused(with_chunk(png, b"cICP", bytes([9, 16, 0, 1]))) == {"hdr"}
    assert unused(with_chunk(png, b"cICP", bytes([1, 13, 0, 1]))) == set()
    jpeg = saved(RGB, "JPEG")
    body = b'http://ns.adobe.com/xap/1.0/\0<x hdrgm:Version="1.0"/>'
    assert unused(jpeg[:2] + b"\xff\xe1" + struct.pack(">H", len(body) + 2) + body + jpeg[2:]) == {
        "hdr"
    }


def test_a_world_file_is_told_by_the_ending_of_its_image(tmp_path):
    for name, world, told in (
        ("a.tif", "a.tfw", True),
        ("b.jpg", "b.jgw", True),
        ("c.png", "c.tfw", False),
    ):
        RGB.save(tmp_path / name)
        (tmp_path / world).touch()
        assert unused_parts(tmp_path / name, 3) == (None, {"world"} if told else set())


@pytest.mark.parametrize("format", FORMATS)
def test_damaged_headers_are_left_to_the_decoder(format):
    sound = saved(RGB, format, icc_profile=OTHER)
    for length in range(0, len(sound), max(1, len(sound) // 200)):
        assert unused(sound[:length]) <= set(TOLD)
        assert unused(sound[:length] + b"\xff" * 40) <= set(TOLD)
