"""GeoJSON, read by rasterio: filled again, its polygons are the mask, at the image's place."""

import json

import numpy as np
import pytest
from PIL import Image
from support.data.annotation_sources import picture

import featherseg
from featherseg.core.types import ClassInfo
from featherseg.data.images.georeference import affine, epsg
from featherseg.data.images.unused_parts import unused_parts
from featherseg.inference.drawing import mask_bytes, save_index_png

rasterio = pytest.importorskip("rasterio")
from rasterio.features import rasterize  # noqa: E402

pytestmark = pytest.mark.filterwarnings("ignore")  # rasterio warns of images without a place
CLASSES = tuple(ClassInfo(name, (i, i, i)) for i, name in enumerate(("background", "road", "sky")))
PLACES = {
    "utm": ("EPSG:32633", rasterio.Affine(0.5, 0, 4e5, 0, -0.5, 5.5e6)),
    "turned": ("EPSG:3857", rasterio.Affine(0.5, 0.1, 1000, 0.2, -0.5, 2000)),
    "degrees": ("EPSG:4326", rasterio.Affine(1e-4, 0, 13.1, 0, -1e-4, 52.5)),
}


def blobs():
    rng = np.random.default_rng(4)
    small = Image.fromarray(rng.integers(0, 3, (6, 8), dtype=np.uint8))
    mask = np.array(small.resize((80, 60), Image.Resampling.NEAREST))
    mask[20:30, 30:40] = 1
    mask[23:26, 33:36] = 2  # a hole
    return mask


def geotiff(path, crs, transform, **tags):
    profile = {"driver": "GTiff", "width": 80, "height": 60, "count": 3, "dtype": "uint8"}
    with rasterio.open(path, "w", crs=crs, transform=transform, **profile) as file:
        file.update_tags(**tags)
        file.write(np.zeros((3, 60, 80), np.uint8))
    return path


def shapes(document):
    return [(row["geometry"], row["properties"]["class"]) for row in document["features"]]


@pytest.mark.parametrize("place", PLACES)
@pytest.mark.parametrize("point", [False, True])
def test_the_place_is_that_of_rasterio(place, point, tmp_path):
    tags = {"AREA_OR_POINT": "Point"} if point else {}
    path = geotiff(tmp_path / "a.tif", *PLACES[place], **tags)
    georeference, _ = unused_parts(path, 3)
    with rasterio.open(path) as file:
        assert affine(georeference) == pytest.approx(tuple(file.transform)[:6], rel=1e-12)
        assert epsg(georeference) == file.crs.to_epsg()


def test_masks_of_a_geotiff_are_filled_again_by_rasterio(tmp_path):
    crs, transform = PLACES["utm"]
    place, _ = unused_parts(geotiff(tmp_path / "a.tif", crs, transform), 3)
    mask = blobs()
    (tmp_path / "masks").mkdir()
    (tmp_path / "masks/a_mask.tif").write_bytes(mask_bytes(mask, CLASSES, place))
    save_index_png(mask, CLASSES, tmp_path / "masks/b_mask.png")
    conversion = featherseg.convert(tmp_path / "masks", tmp_path / "out", to_format="geojson")
    assert conversion.format == "GeoJSON"
    found = {
        name: json.loads((tmp_path / f"out/{name}.geojson").read_text(encoding="utf-8"))
        for name in "ab"
    }
    assert found["a"]["crs"]["properties"]["name"] == "urn:ogc:def:crs:EPSG::32633"
    assert found["b"]["crs"] is None
    for name, there in (("a", transform), ("b", rasterio.Affine.identity())):
        filled = rasterize(shapes(found[name]), mask.shape, transform=there, dtype="uint8")
        assert (filled == mask).all()  # the background has no polygon
    rows = [row["properties"] for row in found["a"]["features"]]
    assert sum(row["area"] for row in rows if row["name"] == "sky") == (mask == 2).sum()


def test_exteriors_turn_left_and_holes_right(tmp_path):
    place, _ = unused_parts(geotiff(tmp_path / "a.tif", *PLACES["utm"]), 3)
    for georeference in (None, place):
        (tmp_path / "masks").mkdir(exist_ok=True)
        file = tmp_path / "masks" / ("a_mask.tif" if georeference else "a_mask.png")
        file.write_bytes(mask_bytes(blobs(), CLASSES, georeference))
        out = tmp_path / f"out-{file.suffix[1:]}"
        featherseg.convert(tmp_path / "masks", out, to_format="geojson")
        file.unlink()
        for row in json.loads((out / "a.geojson").read_text(encoding="utf-8"))["features"]:
            for number, ring in enumerate(row["geometry"]["coordinates"]):
                assert ring[0] == ring[-1]
                x, y = (np.array(ring) - ring[0]).T
                turn = (x[:-1] * y[1:] - x[1:] * y[:-1]).sum()
                assert (turn > 0) == (number == 0)


def test_a_place_without_a_transform_gives_pixels(tmp_path):
    points = [rasterio.control.GroundControlPoint(r, c, r, c) for r, c in ((0, 0), (9, 0), (0, 9))]
    profile = {"driver": "GTiff", "width": 8, "height": 6, "count": 1, "dtype": "uint8"}
    with rasterio.open(tmp_path / "a.tif", "w", gcps=points, crs="EPSG:4326", **profile) as file:
        file.write(np.zeros((1, 6, 8), np.uint8))
    georeference, _ = unused_parts(tmp_path / "a.tif", 1)
    assert georeference is not None
    assert affine(georeference) is None


def test_the_table_of_areas_counts_every_class(tmp_path):
    mask = blobs()
    mask[0, :4] = 255
    (tmp_path / "masks").mkdir()
    save_index_png(mask, CLASSES, tmp_path / "masks/b_mask.png")
    picture(tmp_path / "images/b.png", mask.shape)
    images = tmp_path / "images"
    featherseg.convert(tmp_path / "masks", tmp_path / "out", to_format="csv", images=images)
    lines = (tmp_path / "out/areas.csv").read_text(encoding="utf-8").splitlines()
    assert lines[0] == "image,class,pixels,share"
    for number, name in enumerate(("background", "road", "sky", "ignore")):
        pixels = (mask == (255 if name == "ignore" else number)).sum()
        assert lines[1 + number] == f"b.png,{name},{pixels},{pixels / mask.size:.6f}"
