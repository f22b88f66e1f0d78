"""Bands of a TIFF of one page, beside tifffile (and rasterio, where it is installed)."""

import io
import logging
import struct
import zlib
from pathlib import Path

import numpy as np
import PIL
import pytest
from packaging.version import Version
from PIL import Image

from featherseg.core.errors import DataError, TooLarge
from featherseg.data.images.decoding import (
    EncodedImage,
    image_channels,
    image_size,
    read_image,
    read_mask,
)
from featherseg.data.images.unused_parts import unused_parts

tifffile = pytest.importorskip("tifffile")
RNG = np.random.default_rng(0)
SIDES = {"photometric": "minisblack", "planarconfig": "contig"}


def written(pixels: np.ndarray, **options) -> bytes:
    """(H, W, C), or (C, H, W) in separate planes, as tifffile writes it."""
    buffer = io.BytesIO()
    tifffile.imwrite(buffer, pixels, **{**SIDES, **options})
    return buffer.getvalue()


def image(content: bytes) -> EncodedImage:
    return EncodedImage(content, "a.tif")


@pytest.mark.parametrize("bands", [2, 4, 5, 12])
@pytest.mark.parametrize("dtype", [np.uint8, np.uint16])
@pytest.mark.parametrize("planar", [False, True])
@pytest.mark.parametrize("order", ["<", ">"])
@pytest.mark.parametrize(
    "form",
    [{}, {"rowsperstrip": 7}, {"tile": (16, 32)}, {"rowsperstrip": 7, "compression": "zlib"},
     {"tile": (16, 32), "compression": "zlib", "predictor": True}],
    ids=str,
)  # fmt: skip
def test_bands_are_those_that_tifffile_wrote(bands, dtype, planar, order, form):
    pixels = RNG.integers(0, np.iinfo(dtype).max + 1, (37, 53, bands), dtype=dtype)
    stored = np.moveaxis(pixels, 2, 0) if planar else pixels
    content = written(
        stored, planarconfig="separate" if planar else "contig", byteorder=order, **form
    )
    assert np.array_equal(tifffile.imread(io.BytesIO(content)), stored)
    found = read_image(image(content), bands)
    assert found.dtype == dtype
    assert found.flags.c_contiguous
    assert np.array_equal(found, pixels)
    assert image_size(image(content)) == (37, 53)
    assert image_channels(image(content)) == bands


def test_an_old_pillow_says_which_one_reads_zstd(monkeypatch, tmp_path):
    monkeypatch.setattr(PIL, "__version__", "11.3.0")
    content = io.BytesIO()
    Image.new("RGB", (64, 64)).save(content, "TIFF", compression="tiff_lzw")
    (tmp_path / "a.tif").write_bytes(content.getvalue().replace(b"\x80", b"\xff"))
    with pytest.raises(DataError, match=r"a\.tif cannot be read: .* 'pillow>=12'"):
        read_image(tmp_path / "a.tif")


@pytest.mark.filterwarnings("ignore:Dataset has no geotransform")
@pytest.mark.parametrize("compression", ["lzw", "deflate", "zstd", "packbits"])
@pytest.mark.parametrize("interleave", ["pixel", "band"])
@pytest.mark.parametrize("predictor", [1, 2])
def test_compressions_of_gdal_are_read(tmp_path: Path, compression, interleave, predictor):
    rasterio = pytest.importorskip("rasterio")
    if predictor == 2 and compression == "packbits":
        pytest.skip("has no predictor")
    if compression == "zstd" and Version(PIL.__version__) < Version("12"):
        pytest.skip("Pillow before 12 has no zstd")
    pixels = RNG.integers(0, 4000, (6, 70, 90), dtype=np.uint16)
    options = {
        "driver": "GTiff",
        "height": 70,
        "width": 90,
        "count": 6,
        "dtype": "uint16",
        "predictor": predictor,
    }
    form = {
        "compress": compression,
        "interleave": interleave,
        "tiled": True,
        "blockxsize": 32,
        "blockysize": 16,
    }
    with rasterio.open(tmp_path / "a.tif", "w", **options, **form) as file:
        file.write(pixels)
    assert np.array_equal(read_image(tmp_path / "a.tif", 6), np.moveaxis(pixels, 0, 2))


def test_a_big_tiff_is_read():
    pixels = RNG.integers(0, 256, (9, 11, 5), dtype=np.uint8)
    assert np.array_equal(read_image(image(written(pixels, bigtiff=True)), 5), pixels)


@pytest.mark.parametrize("orientation", range(1, 9))
def test_bands_are_turned_as_pillow_turns_a_tiff(orientation):
    pixels = RNG.integers(0, 256, (4, 6, 5), dtype=np.uint8)
    grey = Image.open(io.BytesIO(written(pixels[:, :, 2], extratags=[(274, "H", 1, orientation)])))
    found = image(written(pixels, extratags=[(274, "H", 1, orientation)]))
    assert np.array_equal(read_image(found, 5)[:, :, 2], np.array(grey))
    assert image_size(found) == read_image(found, 5).shape[:2]


@pytest.mark.parametrize("extra", [["unspecified"], ["unspecified"] * 3])
def test_of_rgb_with_further_bands_rgb_is_read_where_three_channels_are_asked_and_the_rest_is_named(
    extra,
):
    pixels = RNG.integers(0, 256, (8, 9, 3 + len(extra)), dtype=np.uint8)
    content = image(written(pixels, photometric="rgb", extrasamples=extra))
    assert np.array_equal(read_image(content), pixels[:, :, :3])
    assert np.array_equal(read_image(content, pixels.shape[2]), pixels)
    assert unused_parts(content, 3)[1] == {"bands"}
    assert not unused_parts(content, pixels.shape[2])[1]


def test_alpha_is_dropped_and_named_and_a_band_that_is_only_marked_as_alpha_counts():
    rgb, band = (
        RNG.integers(0, 256, (8, 9, 3), dtype=np.uint8),
        RNG.integers(0, 200, (8, 9), dtype=np.uint8),
    )
    for kind in ("assocalpha", "unassalpha"):
        near_infrared = image(
            written(np.dstack([rgb, band]), photometric="rgb", extrasamples=[kind])
        )
        assert image_channels(near_infrared) == 4
        assert unused_parts(near_infrared, 3)[1] == {"alpha"}
        opaque = image(
            written(
                np.dstack([rgb, np.full((8, 9), 255, np.uint8)]),
                photometric="rgb",
                extrasamples=[kind],
            )
        )
        assert image_channels(opaque) == 3
        assert np.array_equal(read_image(opaque), rgb)
    assert np.array_equal(read_image(near_infrared, 4)[:, :, 3], band)


def test_16_bit_rgb_in_separate_planes_is_read():
    pixels = RNG.integers(0, 65536, (3, 8, 9), dtype=np.uint16)
    content = image(written(pixels, photometric="rgb", planarconfig="separate"))
    assert np.array_equal(read_image(content), np.moveaxis(pixels, 0, 2))


@pytest.mark.parametrize(
    ("pixels", "options", "said"),
    [
        (np.zeros((8, 9, 5), np.float32), {}, "of 5 bands with floats"),
        (np.zeros((8, 9, 3), np.float32), {"photometric": "rgb"}, "of 3 bands with floats"),
        (np.zeros((8, 9, 5), np.int16), {}, "of 5 bands with signed values"),
        (np.zeros((8, 9, 5), np.uint32), {}, "of 5 bands with 32 bits a value"),
    ],
)
def test_values_that_are_not_read_are_named(pixels, options, said):
    with pytest.raises(DataError, match=rf"a\.tif is an image {said}"):
        read_image(image(written(pixels, **options)), pixels.shape[2])


def test_other_channels_than_asked_are_refused_with_what_helps(tmp_path: Path):
    content = written(np.zeros((8, 9, 5), np.uint8))
    with pytest.raises(
        DataError, match=r"has 5 channels, but the model or dataset takes 3\..*channels to 5"
    ):
        read_image(image(content))
    (tmp_path / "a.tif").write_bytes(content)
    with pytest.raises(DataError, match=r"has 5 bands\. Expected a mask of one"):
        read_mask(tmp_path / "a.tif")


def changed(content: bytes, tag: int, value: int) -> bytes:
    """The TIFF (little-endian) whose first directory has another single number for a tag."""
    data = bytearray(content)
    (place,) = struct.unpack_from("<I", data, 4)
    for at in range(place + 2, place + 2 + 12 * struct.unpack_from("<H", data, place)[0], 12):
        if struct.unpack_from("<H", data, at)[0] == tag:
            struct.pack_into("<I", data, at + 8, value)
    return bytes(data)


@pytest.mark.parametrize(
    ("tag", "value", "error"),
    [
        (257, 60_000, DataError),  # strips for these rows are not there
        (257, 4_000_000, TooLarge),
        (277, 60_000, TooLarge),
        (259, 7, DataError),
        (317, 3, DataError),
        (279, 10**9, DataError),
    ],
)
def test_what_a_header_claims_is_bounded_before_memory_is_asked_for(tag, value, error):
    content = written(
        np.zeros((64, 90, 5), np.uint8), compression="zlib", predictor=True, rowsperstrip=64
    )
    read_image(image(content), 5)
    with pytest.raises(error, match=r"a\.tif"):
        read_image(image(changed(content, tag, value)), 5)


@pytest.mark.seconds
def test_a_strip_that_inflates_to_more_than_its_rows_is_cut_by_the_decoder():
    content = written(np.zeros((64, 90, 5), np.uint8), compression="zlib", rowsperstrip=64)
    bomb = zlib.compress(bytes(2**28), 9)
    data = changed(changed(content, 273, len(content)), 279, len(bomb)) + bomb
    assert not read_image(image(data), 5).any()  # libtiff stops at the rows of the strip


def test_spoiled_files_are_named_or_read():
    content = written(
        RNG.integers(0, 256, (40, 50, 6), dtype=np.uint8), compression="zlib", tile=(16, 16)
    )
    errors, rng = [], np.random.default_rng(2)
    for length in (len(content) // 2, 30, 9):
        with pytest.raises(DataError, match=r"^a\.tif "):
            read_image(image(content[:length]), 6)
    for _ in range(200):
        spoiled = bytearray(content)
        for place in rng.integers(0, len(content), 4):
            spoiled[place] = rng.integers(256)
        try:
            read_image(image(bytes(spoiled)), 6)
        except DataError as error:
            errors.append(str(error))
    assert errors
    assert all(text.startswith("a.tif ") for text in errors)


def test_twelve_bands_leave_no_bare_line_of_pillow(capfd):
    assert not any(
        isinstance(handler, logging.StreamHandler) for handler in logging.getLogger("PIL").handlers
    )
    logging.getLogger("PIL.TiffImagePlugin").error("More samples per pixel than can be decoded: 12")
    with pytest.raises(DataError):
        read_image(image(written(np.zeros((8, 9, 12), np.uint8))))
    with pytest.raises(DataError):
        read_image(image(written(np.zeros((2, 8, 9, 12), np.uint8))))  # two pages
    assert capfd.readouterr().err == ""
