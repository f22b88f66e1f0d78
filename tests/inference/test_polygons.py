"""Outlines of a prediction: as polygons, as a COCO file, as GeoJSON."""

import json

import numpy as np
import pytest
from PIL import Image
from support.models.color_model import CLASSES, color_predictor

import featherseg
from featherseg.core.errors import ConfigError
from featherseg.data import open_dataset

rasterio_features = pytest.importorskip("rasterio.features")


@pytest.fixture
def blobs():
    """(60, 80, 3): smooth regions of the three classes, with holes."""
    small = np.random.default_rng(2).integers(0, 250, (6, 8, 3), dtype=np.uint8)
    return np.array(Image.fromarray(small).resize((80, 60), Image.Resampling.BICUBIC))


def test_exact_polygons_filled_are_the_mask(blobs):
    prediction = color_predictor()(blobs)
    polygons = prediction.polygons(tolerance=0)
    geometry = [
        {"type": "Polygon", "coordinates": [[*ring, ring[0]] for ring in (p.exterior, *p.holes)]}
        for p in polygons
    ]
    shapes = [(shape, p.class_id) for shape, p in zip(geometry, polygons, strict=True)]
    assert (rasterio_features.rasterize(shapes, (60, 80), fill=9) == prediction.mask).all()
    assert {p.name for p in polygons} == {"wall", "grass", "ball"}
    assert sum(len(p.exterior) for p in polygons) > 2 * sum(
        len(p.exterior) for p in prediction.polygons()
    )
    assert repr(polygons[0]) == f"Polygon(wall, {len(polygons[0].exterior)} corners)"


def test_a_coco_file_names_its_image_and_comes_back_as_the_mask(blobs, tmp_path):
    path = tmp_path / "photos/street.jpeg.png"
    path.parent.mkdir()
    Image.fromarray(blobs).save(path)
    prediction = featherseg.predict(color_predictor(), path)
    content = prediction.to_coco(tolerance=0)
    size = {"height": 60, "width": 80}
    assert content["images"] == [{"id": 1, "file_name": "street.jpeg.png"} | size]
    areas = np.bincount(prediction.mask.ravel(), minlength=3)
    for row in content["categories"]:
        own = [a for a in content["annotations"] if a["category_id"] == row["id"]]
        assert sum(a["area"] for a in own) == areas[row["id"] - 1]
    (tmp_path / "photos/a.json").write_text(json.dumps(content), encoding="utf-8")
    featherseg.convert(tmp_path / "photos", tmp_path / "back")
    back = open_dataset(str(tmp_path / "back"), "train")
    names = np.array([info.name for info in back.classes])[back.label(0)]
    assert (names == np.array([info.name for info in CLASSES])[prediction.mask]).all()


def test_objects_are_one_annotation_each():
    pixels = np.zeros((20, 30, 3), dtype=np.uint8)
    pixels[..., 1] = 200
    for left in (2, 18):
        pixels[6:14, left : left + 8] = (0, 0, 250)
        pixels[10, left + 4] = (0, 0, 255)
    prediction = color_predictor(panoptic=True)(pixels)
    ids = [segment["id"] for segment in prediction.panoptic.segments if segment["category_id"] == 2]
    balls = [row for row in prediction.to_coco()["annotations"] if row["category_id"] == 3]
    assert [row["area"] for row in balls] == [64, 64]
    features = prediction.to_geojson()["features"]
    found = [row["properties"]["id"] for row in features if row["properties"]["name"] == "ball"]
    assert sorted(found) == sorted(ids)


@pytest.mark.parametrize("tolerance", [-1, float("nan"), float("inf")])
def test_a_tolerance_is_a_number_of_pixels(tolerance, blobs):
    prediction = color_predictor()(blobs)
    for outlines in (prediction.polygons, prediction.to_coco, prediction.to_geojson):
        with pytest.raises(ConfigError, match="expected pixels, from 0 on"):
            outlines(tolerance)
