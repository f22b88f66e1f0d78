"""Images of every kind, written by Pillow or byte by byte, must come back exactly."""

import struct
import zlib
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image, ImageOps

from featherseg.core.errors import DataError, DataNotFound
from featherseg.data.images import decoding as images
from featherseg.data.images.decoding import (
    EncodedImage,
    image_channels,
    image_size,
    read_image,
    read_mask,
)

RNG = np.random.default_rng(0)
RGB = RNG.integers(0, 256, (5, 7, 3), dtype=np.uint8)
GREY = RNG.integers(0, 256, (5, 7), dtype=np.uint8)
DEEP = RNG.integers(0, 65536, (5, 7, 4), dtype=np.uint16)


def png(pixels: np.ndarray, color_type: int) -> bytes:
    """A 16-bit PNG (H, W, C), from the specification: Pillow writes none with colour."""
    rows = b"".join(b"\0" + row.astype(">u2").tobytes() for row in pixels)
    return png_of_rows(rows, pixels.shape[0], pixels.shape[1], 16, color_type)


def png_of_rows(rows: bytes, height: int, width: int, bits: int, color_type: int) -> bytes:
    """A PNG whose header says (height, width), whatever the rows hold."""

    def chunk(name: bytes, body: bytes) -> bytes:
        return (
            struct.pack(">I", len(body)) + name + body + struct.pack(">I", zlib.crc32(name + body))
        )

    header = struct.pack(">IIBBBBB", width, height, bits, color_type, 0, 0, 0)
    return (
        b"\x89PNG\r\n\x1a\n"
        + chunk(b"IHDR", header)
        + chunk(b"IDAT", zlib.compress(rows))
        + chunk(b"IEND", b"")
    )


def tiff(pixels: np.ndarray, order: str, deflate: bool) -> bytes:
    """A one-strip 16-bit RGB TIFF (H, W, 3), from the specification, revision 6.0."""
    height, width, bands = pixels.shape
    strip = pixels.astype(f"{order}u2").tobytes()
    strip = zlib.compress(strip) if deflate else strip
    start = 8 + 2 * bands
    compression = 8 if deflate else 1
    short, long = 3, 4
    entries = [
        (256, long, 1, width),
        (257, long, 1, height),
        (258, short, bands, 8),
        (259, short, 1, compression),
    ]
    entries += [
        (262, short, 1, 2),
        (273, long, 1, start),
        (277, short, 1, bands),
        (278, long, 1, height),
    ]
    entries += [(279, long, 1, len(strip))]
    body = struct.pack(f"{order}{bands}H", *[16] * bands) + strip
    directory = struct.pack(f"{order}H", len(entries))
    for tag, kind, count, value in entries:
        packed = (
            struct.pack(f"{order}HH", value, 0)
            if (kind, count) == (short, 1)
            else struct.pack(f"{order}I", value)
        )
        directory += struct.pack(f"{order}HHI", tag, kind, count) + packed
    magic = b"II*\0" if order == "<" else b"MM\0*"
    return (
        magic
        + struct.pack(f"{order}I", 8 + len(body))
        + body
        + directory
        + struct.pack(f"{order}I", 0)
    )


@pytest.mark.parametrize("suffix", [".png", ".webp", ".bmp", ".tif", ".tiff"])
def test_rgb_survives_every_lossless_format(tmp_path: Path, suffix: str):
    path = tmp_path / f"a{suffix}"
    Image.fromarray(RGB).save(path, **({"lossless": True} if suffix == ".webp" else {}))
    np.testing.assert_array_equal(read_image(path), RGB)
    assert image_size(path) == (5, 7)


def test_a_jpeg_equals_pillows_own_decoding(tmp_path: Path):
    Image.fromarray(RGB).save(tmp_path / "a.JPG")
    np.testing.assert_array_equal(
        read_image(tmp_path / "a.JPG"), np.array(Image.open(tmp_path / "a.JPG"))
    )


def test_grey_is_one_channel_and_is_repeated_where_three_are_asked(tmp_path: Path):
    Image.fromarray(GREY).save(tmp_path / "a.png")
    np.testing.assert_array_equal(read_image(tmp_path / "a.png", 1), GREY[:, :, None])
    np.testing.assert_array_equal(read_image(tmp_path / "a.png", 3), np.stack([GREY] * 3, axis=2))


def test_alpha_is_dropped_without_blending_and_kept_where_four_channels_are_asked(tmp_path: Path):
    pixels = np.dstack([RGB, GREY])
    Image.fromarray(pixels).save(tmp_path / "a.png")
    np.testing.assert_array_equal(read_image(tmp_path / "a.png"), RGB)
    np.testing.assert_array_equal(read_image(tmp_path / "a.png", 4), pixels)


@pytest.mark.parametrize("transparency", [None, 1, bytes([0, 128, 255])])
def test_a_palette_image_becomes_its_colours(tmp_path: Path, transparency: int | bytes | None):
    image = Image.fromarray(np.array([[0, 1], [2, 1]], np.uint8))
    image.putpalette([10, 20, 30, 40, 50, 60, 70, 80, 90])
    image.save(
        tmp_path / "a.png", **({} if transparency is None else {"transparency": transparency})
    )
    expected = [[[10, 20, 30], [40, 50, 60]], [[70, 80, 90], [40, 50, 60]]]
    np.testing.assert_array_equal(read_image(tmp_path / "a.png"), expected)


def test_cmyk_becomes_rgb(tmp_path: Path):
    Image.new("CMYK", (2, 1), (255, 0, 0, 0)).save(tmp_path / "a.tif")
    np.testing.assert_array_equal(read_image(tmp_path / "a.tif"), [[[0, 255, 255]] * 2])


def test_the_inks_of_cmyk_are_no_four_channels(tmp_path: Path):
    image = Image.new("CMYK", (2, 1), (255, 0, 0, 0))
    for name in ("a.tif", "a.jpg"):
        image.save(tmp_path / name)
        with pytest.raises(DataError, match=rf"{name} is a CMYK image.* Expected RGBA"):
            read_image(tmp_path / name, 4)


def test_sixteen_bit_grey_is_uint16(tmp_path: Path):
    for name in ("a.png", "a.tif"):
        Image.fromarray(DEEP[:, :, 0]).save(tmp_path / name)
        pixels = read_image(tmp_path / name, 1)
        assert pixels.dtype == np.uint16
        np.testing.assert_array_equal(pixels, DEEP[:, :, :1])


@pytest.mark.parametrize(("color_type", "channels"), [(2, 3), (6, 3), (6, 4)])
def test_sixteen_bit_colour_png_keeps_all_its_bits(tmp_path: Path, color_type: int, channels: int):
    (tmp_path / "a.png").write_bytes(png(DEEP[:, :, : 3 if color_type == 2 else 4], color_type))
    np.testing.assert_array_equal(read_image(tmp_path / "a.png", channels), DEEP[:, :, :channels])


@pytest.mark.parametrize("order", ["<", ">"])
@pytest.mark.parametrize("deflate", [False, True])
def test_sixteen_bit_colour_tiff_keeps_all_its_bits(tmp_path: Path, order: str, deflate: bool):
    (tmp_path / "a.tif").write_bytes(tiff(DEEP[:, :, :3], order, deflate))
    np.testing.assert_array_equal(read_image(tmp_path / "a.tif"), DEEP[:, :, :3])


def test_sixteen_bits_that_cannot_be_kept_are_refused_and_not_cut(tmp_path: Path):
    (tmp_path / "a.png").write_bytes(png(DEEP[:, :, :2], 4))  # grey and alpha
    with pytest.raises(DataError, match=r"a\.png stores 16-bit colour as LA;16B"):
        read_image(tmp_path / "a.png")


def test_a_mask_of_16_bits_in_several_channels_is_refused_not_cut(tmp_path: Path):
    (tmp_path / "a.png").write_bytes(png(DEEP[:, :, :3] % 20, 2))
    with pytest.raises(
        DataError,
        match=r"a\.png has 16 bits for each of several channels\. Expected class ids in one",
    ):
        read_mask(tmp_path / "a.png")
    (tmp_path / "b.tif").write_bytes(tiff(DEEP[:, :, :3] % 20, "<", False))
    with pytest.raises(DataError, match="has 16 bits for each"):
        read_mask(tmp_path / "b.tif")


def test_a_colour_image_where_grey_is_taken_is_refused_with_what_helps(tmp_path: Path):
    Image.new("RGB", (5, 4)).save(tmp_path / "a.png")
    with pytest.raises(
        DataError, match=r"takes 1\. Convert it to grey, or set the dataset's channels to 3\."
    ):
        read_image(tmp_path / "a.png", 1)


@pytest.mark.parametrize("dtype", [np.uint8, np.uint16])
def test_a_tiff_of_n_pages_has_n_channels(tmp_path: Path, dtype: type):
    pixels = RNG.integers(0, np.iinfo(dtype).max, (6, 4, 5)).astype(dtype)
    first, *rest = [Image.fromarray(np.ascontiguousarray(pixels[:, :, page])) for page in range(5)]
    first.save(tmp_path / "a.tif", save_all=True, append_images=rest)
    np.testing.assert_array_equal(read_image(tmp_path / "a.tif", 5), pixels)
    assert image_channels(tmp_path / "a.tif") == 5
    with pytest.raises(
        DataError, match=r"has 5 channels, but the model or dataset takes 3\. Store it as a TIFF"
    ):
        read_image(tmp_path / "a.tif")


def test_smaller_versions_and_the_mask_of_an_image_are_no_channels(tmp_path: Path):
    levels = [
        Image.fromarray(RNG.integers(0, 60000, (8 >> level, 8 >> level)).astype(np.uint16))
        for level in range(3)
    ]
    for page in (*levels[1:], mask := Image.fromarray(np.full((8, 8), 65535, np.uint16))):
        page.encoderinfo = {
            "tiffinfo": {254: 4 if page is mask else 1}
        }  # NewSubfileType, as GDAL writes it
    levels[0].save(tmp_path / "a.tif", save_all=True, append_images=[*levels[1:], mask])
    assert image_channels(tmp_path / "a.tif") == 1
    np.testing.assert_array_equal(read_image(tmp_path / "a.tif", 1)[:, :, 0], np.array(levels[0]))
    np.testing.assert_array_equal(read_mask(tmp_path / "a.tif"), np.array(levels[0]))
    np.testing.assert_array_equal(
        read_image(tmp_path / "a.tif"), np.repeat(np.array(levels[0])[:, :, None], 3, 2)
    )


def test_pages_of_different_size_are_refused(tmp_path: Path):
    pages = [Image.new("L", (4, 4)), Image.new("L", (4, 5))]
    pages[0].save(tmp_path / "a.tif", save_all=True, append_images=pages[1:])
    with pytest.raises(DataError, match=r"different size \(4x4, 5x4; height x width\)"):
        read_image(tmp_path / "a.tif", 2)


def test_more_pages_than_any_image_has_are_refused_at_once(tmp_path: Path):
    page = Image.new("L", (1, 1))
    page.save(tmp_path / "a.tif", save_all=True, append_images=[page] * images.MAX_PAGES)
    with pytest.raises(DataError, match=f"more than {images.MAX_PAGES} pages"):
        read_image(tmp_path / "a.tif")


def test_bytes_in_memory_are_read_as_their_file_is(tmp_path: Path):
    (tmp_path / "a.png").write_bytes(png(DEEP[:, :, :3], 2))
    source = EncodedImage((tmp_path / "a.png").read_bytes())
    np.testing.assert_array_equal(read_image(source), DEEP[:, :, :3])
    assert image_size(source) == image_size(tmp_path / "a.png") == (5, 7)
    with pytest.raises(DataError, match=r"^the sent image cannot be read"):
        read_image(EncodedImage(source.content[:60], "the sent image"))


@pytest.mark.parametrize("orientation", range(1, 9))
@pytest.mark.parametrize("suffix", [".jpg", ".png", ".webp", ".tif"])
def test_exif_orientation_turns_the_image_as_pillows_exif_transpose_does(
    tmp_path: Path, orientation: int, suffix: str
):
    path = tmp_path / f"a{suffix}"
    exif = Image.Exif()
    exif[0x0112] = orientation
    Image.fromarray(RGB).save(path, exif=exif)
    expected = np.array(ImageOps.exif_transpose(Image.open(path)))
    np.testing.assert_array_equal(read_image(path), expected)
    assert image_size(path) == expected.shape[:2] == ((5, 7) if orientation < 5 else (7, 5))


@settings(max_examples=30)
@given(
    cut=st.integers(0, 400),
    flips=st.lists(st.tuples(st.integers(0, 400), st.integers(0, 255)), max_size=4),
)
@pytest.mark.parametrize("suffix", [".jpg", ".png", ".webp", ".bmp", ".tif"])
def test_a_spoiled_file_is_read_or_refused_with_its_name(
    tmp_path_factory: pytest.TempPathFactory, suffix: str, cut: int, flips: list[tuple[int, int]]
):
    path = tmp_path_factory.mktemp("spoiled") / f"a{suffix}"
    Image.fromarray(RGB).save(path)
    content = bytearray(path.read_bytes())
    for place, value in flips:
        content[place % len(content)] = value
    path.write_bytes(content[: len(content) - cut % len(content)])
    for read in (read_image, read_mask, image_size):
        message = None
        try:
            read(path)
        except DataError as error:
            message = str(error)
        assert message is None or str(path) in message


def test_a_truncated_file_is_named_with_the_reason(tmp_path: Path):
    path = tmp_path / "a.png"
    Image.fromarray(RNG.integers(0, 256, (64, 64, 3), dtype=np.uint8)).save(path)
    path.write_bytes(path.read_bytes()[:4000])
    with pytest.raises(DataError, match=r"a\.png cannot be read: .*truncated"):
        read_image(path)


def test_a_huge_image_is_refused_from_its_header(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    (tmp_path / "over.png").write_bytes(
        png_of_rows(b"", 9000, 20000, 8, 0)
    )  # beyond Pillow's own limit
    with pytest.raises(DataError, match=r"over\.png is too large"):
        read_image(tmp_path / "over.png")
    monkeypatch.setattr(images, "MAX_PIXELS", 34)
    Image.fromarray(RGB).save(tmp_path / "a.png")
    with pytest.raises(
        DataError, match=r"a\.png is too large: 5x7 \(height x width\) is 35 pixels"
    ):
        image_size(tmp_path / "a.png")


def test_pillows_warning_about_large_images_does_not_leak(tmp_path: Path):
    (tmp_path / "a.png").write_bytes(
        png_of_rows(b"", 9500, 10000, 8, 0)
    )  # warnings are errors in these tests
    assert image_size(tmp_path / "a.png") == (9500, 10000)


def test_missing_and_foreign_files_are_named(tmp_path: Path):
    with pytest.raises(DataNotFound, match=r"b\.png does not exist"):
        read_image(tmp_path / "b.png")
    Image.new("L", (2, 2)).save(tmp_path / "real.tga")
    (tmp_path / "real.tga").rename(
        tmp_path / "a.png"
    )  # TGA is not on the list, whatever the name says
    with pytest.raises(
        DataError, match=r"a\.png cannot be read: it is not an image of a supported format"
    ):
        read_image(tmp_path / "a.png")
    with pytest.raises(DataError, match="cannot be read"):
        read_image(tmp_path)


def test_masks_give_their_raw_values(tmp_path: Path):
    indices = np.array([[0, 3], [255, 7]], np.uint8)
    palette = Image.fromarray(indices)
    palette.putpalette([value % 256 for value in range(768)])
    wide = np.array([[0, 1], [300, 65535]], np.uint16)
    for name, image, expected in (
        ("palette.png", palette, indices),
        ("grey.png", Image.fromarray(indices), indices),
        ("deep.png", Image.fromarray(wide), wide),
        ("deep.tif", Image.fromarray(wide), wide),
        ("bit.png", Image.fromarray(indices > 4), (indices > 4).astype(np.uint8)),
        ("rgb.png", Image.fromarray(RGB), RGB),
        ("rgba.png", Image.fromarray(np.dstack([RGB, GREY])), RGB),
    ):
        image.save(tmp_path / name)
        raw = read_mask(tmp_path / name)
        assert raw.dtype == expected.dtype, name
        np.testing.assert_array_equal(raw, expected, err_msg=name)


@pytest.mark.parametrize("color", [(255, 0, 0), (255,)])
def test_a_mask_that_only_its_alpha_tells_apart_is_refused(tmp_path: Path, color: tuple[int, ...]):
    pixels = np.full((2, 3, len(color) + 1), (*color, 255), np.uint8)
    Image.fromarray(pixels).save(tmp_path / "all.png")
    assert (read_mask(tmp_path / "all.png") == 255).any()
    pixels[0, :, -1] = 0
    Image.fromarray(pixels).save(tmp_path / "part.png")
    with pytest.raises(
        DataError, match=r"part\.png has one colour .* Save it without transparency"
    ):
        read_mask(tmp_path / "part.png")


def test_a_palette_mask_can_be_read_as_colours(tmp_path: Path):
    mask = Image.fromarray(np.array([[0, 1]], np.uint8))
    mask.putpalette([9, 8, 7, 6, 5, 4])
    mask.save(tmp_path / "a.png")
    np.testing.assert_array_equal(
        read_mask(tmp_path / "a.png", colors=True), [[[9, 8, 7], [6, 5, 4]]]
    )


def test_a_mask_of_several_pages_is_refused(tmp_path: Path):
    values = [(GREY % 3).astype(np.uint8), (GREY % 5).astype(np.uint8)]
    palettes = [Image.fromarray(page) for page in values]
    for page in palettes:
        page.putpalette([9, 8, 7, 6, 5, 4])
    for name, pages in (
        ("grey", [Image.fromarray(page) for page in values]),
        ("deep", [Image.fromarray(page.astype(np.uint16)) for page in values]),
        ("bit", [Image.fromarray(page > 1) for page in values]),
        ("palette", palettes),
    ):
        pages[0].save(tmp_path / f"{name}.tif", save_all=True, append_images=pages[1:])
        for colors in (False, True):
            with pytest.raises(
                DataError, match=rf"{name}\.tif holds 2 pages\. Expected a mask of one page"
            ):
                read_mask(tmp_path / f"{name}.tif", colors)


def test_of_a_mask_of_colour_pages_or_an_animation_the_first_frame_is_used(tmp_path: Path):
    frames = [Image.fromarray(RGB), Image.fromarray(255 - RGB)]
    for name, more in (("a.tif", {}), ("a.png", {}), ("a.webp", {"lossless": True})):
        frames[0].save(tmp_path / name, save_all=True, append_images=frames[1:], **more)
        np.testing.assert_array_equal(read_mask(tmp_path / name), RGB)
