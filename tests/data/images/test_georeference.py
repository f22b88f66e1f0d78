"""Masks lie where their images lie: rasterio reads both, and finds one place."""

import struct

import numpy as np
import pytest
from PIL import Image

from featherseg.core.types import ClassInfo
from featherseg.data.images.decoding import read_mask
from featherseg.data.images.georeference import (
    MOST_BYTES,
    NODATA,
    PLACE_TAGS,
    georeference_of,
    geotiff_bytes,
    read_directory,
)
from featherseg.inference.drawing import palette

rasterio = pytest.importorskip("rasterio")
pytestmark = pytest.mark.filterwarnings("ignore")  # rasterio warns of images without a place
CLASSES = (ClassInfo("water", (10, 20, 200)), ClassInfo("land", (40, 160, 30)))
UTM = {"crs": "EPSG:32633", "transform": rasterio.Affine(0.5, 0, 4e5, 0, -0.5, 5.5e6)}
OWN = "+proj=laea +lat_0=52 +lon_0=10 +x_0=4321000 +y_0=3210000 +ellps=GRS80 +units=m"
PLACES = {
    "utm": UTM,
    "turned": {"crs": "EPSG:3857", "transform": rasterio.Affine(0.5, 0.1, 1000, 0.2, -0.5, 2000)},
    "degrees": {"crs": "EPSG:4326", "transform": rasterio.Affine(1e-5, 0, 13.1, 0, -1e-5, 52.7)},
    "of its own": {**UTM, "crs": OWN},
    "without a projection": {"transform": UTM["transform"]},
    "a BigTIFF": {**UTM, "BIGTIFF": "YES"},
    "big endian": {**UTM, "ENDIANNESS": "BIG"},
    "tiled JPEG": {**UTM, "compress": "jpeg", "photometric": "YCBCR", "tiled": True},
}


def write(path, size=(30, 44), **place):
    """A GeoTIFF of RGB noise."""
    pixels = np.random.default_rng(0).integers(0, 256, (3, *size), np.uint8)
    profile = {
        "driver": "GTiff",
        "height": size[0],
        "width": size[1],
        "count": 3,
        "dtype": "uint8",
        **place,
    }
    with rasterio.open(path, "w", **profile) as file:
        file.write(pixels)
    return path


def place_of(path):
    with open(path, "rb") as file:
        page = read_directory(file, {*PLACE_TAGS, NODATA})
    return page and georeference_of(page)


def mask_at(path, target, size=(30, 44)):
    mask = np.random.default_rng(1).integers(0, 2, size, np.uint8)
    target.write_bytes(geotiff_bytes(mask, CLASSES, palette(CLASSES).tobytes(), place_of(path)))
    return mask


@pytest.mark.parametrize("name", PLACES)
def test_a_mask_has_the_projection_the_transform_and_the_bounds_of_its_image(name, tmp_path):
    source, target = write(tmp_path / "a.tif", **PLACES[name]), tmp_path / "a_mask.tif"
    mask = mask_at(source, target)
    with rasterio.open(source) as image, rasterio.open(target) as found:
        assert (found.crs, found.transform, found.bounds) == (
            image.crs,
            image.transform,
            image.bounds,
        )
        np.testing.assert_array_equal(found.read(1), mask)
        assert found.colormap(1)[1] == (40, 160, 30, 255)
        assert found.tags()["TIFFTAG_IMAGEDESCRIPTION"] == '{"classes": ["water", "land"]}'
    np.testing.assert_array_equal(read_mask(target), mask)  # indices, as of a PNG


@pytest.mark.seconds
def test_ground_control_points_and_a_mask_of_many_strips_are_kept(tmp_path):
    size, target = (700, 3000), tmp_path / "m.tif"
    points = [
        rasterio.control.GroundControlPoint(10.0 * i, 20.0 * (i % 3), 13 + i / 7, 52 - i / 9)
        for i in range(12)
    ]
    with rasterio.open(write(tmp_path / "a.tif", size), "r+") as file:
        file.gcps = points, rasterio.crs.CRS.from_epsg(4326)
    mask = mask_at(tmp_path / "a.tif", target, size)
    with rasterio.open(tmp_path / "a.tif") as image, rasterio.open(target) as found:
        assert [p.asdict() | {"id": 0} for p in found.gcps[0]] == [
            p.asdict() | {"id": 0} for p in image.gcps[0]
        ]
        assert found.gcps[1] == image.gcps[1]
        np.testing.assert_array_equal(found.read(1), mask)


@pytest.mark.parametrize(
    ("nodata", "kept"), [(0, None), (1, None), (2, 2), (255, 255), (-9999, None), (2.5, None)]
)
def test_nodata_that_would_hide_a_class_is_left_out(tmp_path, nodata, kept):
    dtype = "uint8" if nodata in range(256) else "float32"
    mask_at(write(tmp_path / "a.tif", **UTM, nodata=nodata, dtype=dtype), tmp_path / "m.tif")
    with rasterio.open(tmp_path / "m.tif") as found:
        assert found.nodata == kept


def test_what_has_no_place_or_is_damaged_gives_none(tmp_path):
    plain, path = write(tmp_path / "plain.tif"), tmp_path / "damaged.tif"
    assert place_of(plain) is None
    Image.new("RGB", (4, 4)).save(tmp_path / "a.png")
    assert place_of(tmp_path / "a.png") is None
    sound = write(tmp_path / "a.tif", **UTM).read_bytes()
    for content in (
        sound[:12],
        sound[:200],
        b"II*\0" + b"\xff" * 20,
        b"II+\0\x08\0\0\0" + b"\xff" * 8,
        b"",
    ):
        path.write_bytes(content)
        assert place_of(path) is None
    many = struct.pack("<HHII", 33922, 12, MOST_BYTES // 8 + 1, 8)  # more numbers than are read
    path.write_bytes(b"II*\0\x08\0\0\0\x01\0" + many + bytes(4))
    assert place_of(path) is None
