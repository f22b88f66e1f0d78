"""AVIF, GIF, JPEG 2000 and PNM are read as Pillow decodes them, within every format's limits."""

import io
import struct
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from featherseg.core.errors import DataError, TooLarge
from featherseg.data.images.avif_header import check_avif
from featherseg.data.images.decoding import (
    MOST_PLAIN_PIXELS,
    EncodedImage,
    exif_turn,
    image_channels,
    image_size,
    is_lossy,
    read_image,
    read_mask,
)
from featherseg.data.images.header_limits import Steps
from featherseg.data.images.headers import bounded
from featherseg.data.images.listing import is_image

RNG = np.random.default_rng(0)
RGB = RNG.integers(0, 256, (20, 30, 3), dtype=np.uint8)
GREY = RGB[:, :, 0]
MANY = 10**9


def saved(image, format, **options) -> bytes:
    buffer = io.BytesIO()
    (image if isinstance(image, Image.Image) else Image.fromarray(image)).save(
        buffer, format, **options
    )
    return buffer.getvalue()


def pnm(magic: str, pixels: np.ndarray, largest: int | None) -> bytes:
    """A PNM as its manual page describes it; pixels (H, W) or (H, W, 3)."""
    head = f"{magic}\n# a remark\n{pixels.shape[1]} {pixels.shape[0]}\n"
    head += "" if largest is None else f"{largest}\n"
    if magic in ("P1", "P2", "P3"):
        return head.encode() + " ".join(map(str, pixels.ravel())).encode()
    if magic == "P4":
        return head.encode() + np.packbits(pixels, axis=1).tobytes()
    return head.encode() + pixels.astype(">u2" if largest > 255 else np.uint8).tobytes()


@pytest.mark.parametrize(
    "name", ["a.AVIF", "a.gif", "a.jp2", "a.j2k", "a.ppm", "a.pgm", "a.pbm", "a.pnm"]
)
def test_their_files_are_images(name):
    assert is_image(name)


@pytest.mark.parametrize(
    ("format", "options"),
    [("JPEG2000", {}), ("JPEG2000", {"no_jp2": True}), ("PPM", {}), ("AVIF", {"quality": 100})],
)
def test_colour_is_as_pillow_decodes_it(format, options):
    content = saved(RGB, format, **options)
    image = EncodedImage(content)
    assert np.array_equal(
        read_image(image), np.array(Image.open(io.BytesIO(content)).convert("RGB"))
    )
    assert image_size(image) == (20, 30)
    if format != "AVIF":
        assert np.array_equal(read_image(image), RGB)


def test_the_first_frame_of_a_gif_is_read_without_its_remarks():
    first = Image.fromarray(GREY % 7)
    first.putpalette([value for i in range(7) for value in (i * 30, 9, 255 - i)])
    content = saved(
        first, "GIF", save_all=True, append_images=[first.rotate(90)], comment=b"remark" * 100
    )
    expected = np.array(Image.open(io.BytesIO(content)).convert("RGB"))
    assert np.array_equal(read_image(EncodedImage(content)), expected)
    kept = bounded(io.BytesIO(content), "a", MANY)
    assert b"remark" not in kept.read()


def test_a_mask_in_a_gif_gives_its_indices(tmp_path: Path):
    mask = Image.fromarray(GREY % 3)
    mask.putpalette([0, 0, 0, 255, 0, 0, 0, 255, 0])
    mask.save(tmp_path / "a.gif")
    assert np.array_equal(read_mask(tmp_path / "a.gif"), GREY % 3)


def test_an_avif_is_turned_by_its_exif_orientation(tmp_path: Path):
    exif = Image.Exif()
    exif[274] = 6
    Image.fromarray(RGB).save(tmp_path / "a.avif", exif=exif, quality=100)
    assert image_size(tmp_path / "a.avif") == (30, 20)
    assert exif_turn(tmp_path / "a.avif") == Image.Transpose.ROTATE_270
    plain = np.array(Image.open(tmp_path / "a.avif").convert("RGB"))
    assert np.array_equal(read_image(tmp_path / "a.avif"), np.rot90(plain, -1))


@pytest.mark.parametrize("largest", [1, 15, 255, 1023, 4095, 65535])
@pytest.mark.parametrize("magic", ["P2", "P3", "P5", "P6"])
def test_a_pnm_is_brought_to_the_full_range_by_its_header_and_a_mask_is_not(
    tmp_path: Path, magic, largest
):
    channels = 3 if magic in ("P3", "P6") else 1
    pixels = RNG.integers(0, largest + 1, (4, 5, channels))
    path = tmp_path / "a.pnm"
    path.write_bytes(pnm(magic, pixels if channels == 3 else pixels[:, :, 0], largest))
    full = 255 if largest < 256 else 65535
    if magic == "P3" and full > 255:
        with pytest.raises(DataError, match="16-bit colour as text"):
            read_image(path)
        return
    found = read_image(path, channels)
    assert found.dtype == (np.uint8 if full == 255 else np.uint16)
    assert np.array_equal(found, np.floor(pixels * full / largest + 0.5))
    assert image_channels(path) == channels
    if channels == 1:
        assert np.array_equal(read_mask(path), pixels[:, :, 0])


@pytest.mark.parametrize("magic", ["P1", "P4"])
def test_a_bitmap_is_read(tmp_path: Path, magic):
    bits = RNG.integers(0, 2, (4, 8))
    (tmp_path / "a.pbm").write_bytes(pnm(magic, bits, None))
    assert np.array_equal(
        read_image(tmp_path / "a.pbm", 1)[:, :, 0], np.where(bits, 0, 255)
    )  # 1 is black


@pytest.mark.parametrize("bits", [12, 16])
def test_deep_grey_in_jpeg_2000_keeps_its_bits_and_deep_colour_is_refused(bits):
    deep = RNG.integers(0, 65536, (9, 9), dtype=np.uint16)
    assert np.array_equal(read_image(EncodedImage(saved(deep, "JPEG2000")), 1)[:, :, 0], deep)
    content = bytearray(saved(RGB, "JPEG2000", no_jp2=True))
    place = content.index(b"\xff\x51") + 2 + 38  # SIZ, and in it the depth of the first channel
    content[place : place + 9 : 3] = bytes([bits - 1] * 3)
    with pytest.raises(DataError, match=f"has {bits} bits a channel, of which 8 would be read"):
        read_image(EncodedImage(bytes(content)))


def with_style(**changes) -> bytes:
    """A JPEG 2000 of 1024 x 1024 pixels whose markers SIZ and COD say something else."""
    content = bytearray(saved(np.zeros((1024, 1024, 3), np.uint8), "JPEG2000", no_jp2=True))
    siz, cod = content.index(b"\xff\x51") + 4, content.index(b"\xff\x52") + 4
    if tile := changes.get("tile"):
        struct.pack_into(">II", content, siz + 18, tile, tile)
    if size := changes.get("size"):
        struct.pack_into(">II", content, siz + 2, size, size)
        struct.pack_into(">II", content, siz + 18, size, size)
    if layers := changes.get("layers"):
        struct.pack_into(">H", content, cod + 2, layers)
    if block := changes.get("block"):
        content[cod + 6 : cod + 8] = bytes([block - 2, block - 2])
    if components := changes.get("components"):
        struct.pack_into(">H", content, siz + 34, components)
    if precinct := changes.get("precinct"):
        content[cod] |= 1
        content[cod + 10 : cod + 10] = bytes([precinct * 17] * 6)
        struct.pack_into(">H", content, cod - 2, 12 + 6)
    return bytes(content)


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"tile": 8}, "16,384 tiles"),
        ({"size": 20_000}, "an image of 20000x20000"),
        ({"size": 12_000, "block": 2}, "code blocks in a tile"),
        ({"size": 12_000, "precinct": 4}, "(code blocks|precincts) in a tile"),
        ({"precinct": 2}, "precincts in a tile"),
        ({"layers": 65535, "precinct": 5}, "packets in a tile"),
    ],
)
def test_a_jpeg_2000_that_makes_its_decoder_allocate_is_refused_from_its_markers(changes, said):
    with pytest.raises(TooLarge, match=said):
        bounded(io.BytesIO(with_style(**changes)), "a.j2k", 178_956_970)
    assert bounded(io.BytesIO(with_style(tile=512, precinct=8)), "a.j2k", MANY).tell() == 0


def test_a_jpeg_2000_that_declares_another_size_than_its_data_have_is_refused():
    content = bytearray(saved(RGB, "JPEG2000"))
    struct.pack_into(">II", content, content.index(b"ihdr") + 4, 4, 4)
    with pytest.raises(DataError, match="declares another size"):
        image_size(EncodedImage(bytes(content), "a.jp2"))


def test_a_jpeg_2000_of_five_channels_is_named():
    with pytest.raises(
        DataError, match=r"has 5 channels, which are not read from JPEG 2000\. Save it as TIFF"
    ):
        read_image(EncodedImage(with_style(components=5)))


def test_a_style_in_a_tile_part_counts_too():
    content = bytearray(with_style())
    place = content.index(b"\xff\x90")  # SOT
    style = content[content.index(b"\xff\x52") :][:14]
    style[4] |= 1
    style[2:4] = struct.pack(">H", 12 + 6)
    content[place + 12 : place + 12] = bytes(style) + bytes([0x22] * 6)
    with pytest.raises(TooLarge, match="precincts in a tile"):
        bounded(io.BytesIO(bytes(content)), "a.j2k", MANY)


def avif(size=(64, 48)) -> bytes:
    return saved(Image.new("RGB", size, (9, 99, 199)), "AVIF")


@pytest.mark.seconds
def test_an_avif_whose_frames_are_larger_than_it_declares_is_refused():
    content = bytearray(avif((4000, 3000)))
    place = content.index(b"ispe") + 8
    assert struct.unpack_from(">II", content, place) == (4000, 3000)
    check_avif(io.BytesIO(bytes(content)), Steps("a"), MANY)
    struct.pack_into(">II", content, place, 40, 30)
    with pytest.raises(TooLarge, match=r"AV1 data of 3000x4000 \(height x width\)"):
        read_image(EncodedImage(bytes(content), "a.avif"))


def test_an_animated_avif_is_named():
    content = saved(
        Image.fromarray(RGB), "AVIF", save_all=True, append_images=[Image.fromarray(RGB[::-1])]
    )
    with pytest.raises(DataError, match="is an animation, which is not read from AVIF"):
        read_image(EncodedImage(content, "a.avif"))


def test_alpha_of_an_avif_is_the_fourth_channel():
    alpha = np.dstack([RGB, GREY])
    assert read_image(EncodedImage(saved(alpha, "AVIF", quality=100)), 4).shape == (20, 30, 4)


def test_text_of_a_pnm_is_bounded_before_it_is_decoded():
    side = int(MOST_PLAIN_PIXELS**0.5) + 1
    with pytest.raises(TooLarge, match="pixels as text"):
        read_image(EncodedImage(f"P2\n{side} {side}\n255\n0".encode()))


@pytest.mark.parametrize("head", [b"GIF89a", b"P5 ", b"P6 "])
def test_a_huge_size_in_a_header_is_refused(head):
    content = b"GIF89a" + struct.pack("<HHBBB", 60_000, 60_000, 0, 0, 0) + b"," + struct.pack(
        "<HHHHB", 0, 0, 60_000, 60_000, 0
    ) + b"\x08\x01\0\0;"  # fmt: skip
    with pytest.raises(TooLarge):
        read_image(EncodedImage(content if head == b"GIF89a" else head + b"60000 60000 255\n0"))


@pytest.mark.parametrize("format", ["AVIF", "GIF", "JPEG2000", "PPM"])
def test_a_file_that_is_cut_short_or_spoiled_is_named(format):
    content = saved(RGB, format)
    with pytest.raises(DataError, match=r"^a\.x "):
        read_image(EncodedImage(content[: len(content) // 2], "a.x"))
    rng, errors = np.random.default_rng(1), []
    for _ in range(40):
        spoiled = bytearray(content)
        for place in rng.integers(0, len(content), 3):
            spoiled[place] = rng.integers(256)
        try:
            read_image(EncodedImage(bytes(spoiled), "a.x"))
        except DataError as error:
            errors.append(str(error))
    assert errors
    assert all(text.startswith("a.x ") for text in errors)


def test_what_loses_is_told_from_what_does_not(tmp_path: Path):
    kinds = {
        "a.avif": (RGB, {}, True),
        "a.gif": (GREY, {}, False),
        "a.ppm": (RGB, {}, False),
        "a.jp2": (RGB, {}, False),
        "b.jp2": (RGB, {"irreversible": True}, True),
    }
    for name, (pixels, options, lossy) in kinds.items():
        Image.fromarray(pixels).save(tmp_path / name, **options)
        assert is_lossy(tmp_path / name) == lossy, name
