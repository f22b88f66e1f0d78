"""What an answer holds, beside the prediction it was made of."""

import json
import struct
from base64 import b64decode

import numpy as np
import pytest
from support.models.color_model import CLASSES, color_predictor, image, mask_in

from featherseg.data.images.georeference import Georeference, Tag, geotiff_bytes
from featherseg.serving import encode
from featherseg.serving.encode import batch_encoders, encoder, file_encoder, mask_png
from featherseg.serving.refusal import Refused
from featherseg.serving.schema import MaskAnswer
from featherseg.serving.uploads import Upload


@pytest.fixture(scope="module")
def blocks() -> np.ndarray:
    """(20, 30, 3): red and green, no blue."""
    pixels = np.zeros((20, 30, 3), dtype=np.uint8)
    pixels[..., 0] = 200
    pixels[5:9, 3:21] = (0, 200, 0)
    return pixels


@pytest.fixture(scope="module")
def balls() -> np.ndarray:
    """(20, 30, 3): two balls on green, the centre of each a pixel of full blue."""
    pixels = np.zeros((20, 30, 3), dtype=np.uint8)
    pixels[..., 1] = 200
    for left in (2, 18):
        pixels[6:14, left : left + 8] = (0, 0, 250)
        pixels[10, left + 4] = (0, 0, 255)
    return pixels


def answer(prediction, form):
    content = encoder("color", form)(prediction)
    MaskAnswer.model_validate_json(content)
    return json.loads(content)


def decoded(rle) -> np.ndarray:
    flat = np.repeat(np.arange(len(rle["counts"])) % 2, rle["counts"])
    return flat.reshape(rle["size"][::-1]).T.astype(bool)


def test_the_png_is_the_file_that_predict_writes(tmp_path):
    prediction = color_predictor()(image())
    mask, *_ = prediction.save(tmp_path, "photo")
    assert mask.name == "photo_mask.png"
    assert mask_png(prediction) == mask.read_bytes()


def test_a_segment_a_class_that_is_there(blocks):
    prediction = color_predictor()(blocks)
    found = answer(prediction, "rle")
    assert (found["model"], found["size"]) == ("color", [20, 30])
    assert [(row["index"], row["name"]) for row in found["classes"]] == [
        (0, "wall"),
        (1, "grass"),
        (2, "ball"),
    ]
    assert [row["share"] for row in found["classes"]] == [528 / 600, 72 / 600, 0]
    assert found["classes"][1]["color"] == list(CLASSES[1].color)
    wall, grass = found["segments"]
    assert {key: grass[key] for key in ("class", "name", "thing", "id", "area", "bbox")} == {
        "class": 1, "name": "grass", "thing": False, "id": None, "area": 72, "bbox": [3, 5, 18, 4],
    }  # fmt: skip
    np.testing.assert_array_equal(decoded(wall["rle"]), prediction.mask == 0)
    np.testing.assert_array_equal(decoded(grass["rle"]), prediction.mask == 1)


def test_polygons_lie_in_the_image_s_own_pixels(blocks):
    wall, grass = answer(color_predictor()(blocks), "polygons")["segments"]
    assert grass["polygons"] == [[[3, 5], [21, 5], [21, 9], [3, 9]]]
    assert grass["holes"] == []
    assert wall["polygons"] == [[[0, 0], [30, 0], [30, 20], [0, 20]]]
    assert wall["holes"] == [[[3, 5], [3, 9], [21, 9], [21, 5]]]


def test_a_panoptic_model_gives_objects_and_regions(balls):
    prediction = color_predictor(panoptic=True)(balls)
    found = answer(prediction, "rle")
    rows = [(s["name"], s["thing"], s["id"], s["area"], s["bbox"]) for s in found["segments"]]
    assert sorted(rows[:2], key=lambda row: row[4]) == [
        ("ball", True, rows[0][2], 64, [2, 6, 8, 8]),
        ("ball", True, rows[1][2], 64, [18, 6, 8, 8]),
    ]
    assert {rows[0][2], rows[1][2]} == {1, 2}
    assert rows[2:] == [("grass", False, None, 472, [0, 0, 30, 20])]
    for segment, own in zip(found["segments"], prediction.panoptic.segments, strict=True):
        np.testing.assert_array_equal(decoded(segment["rle"]), prediction.panoptic.ids == own["id"])


def test_the_png_of_a_panoptic_model_holds_its_classes(balls):
    prediction = color_predictor(panoptic=True)(balls)
    np.testing.assert_array_equal(mask_in(mask_png(prediction)), prediction.mask)
    found = answer(prediction, "png")
    assert b64decode(found["mask_png"]) == mask_png(prediction)
    assert found["classes"][2]["share"] == 128 / 600


def test_a_geotiff_has_its_own_coordinates_in_geojson():
    tags = [Tag(33550, 12, 3, struct.pack("<3d", 0.5, 0.5, 0))]
    tags.append(Tag(33922, 12, 6, struct.pack("<6d", 0, 0, 0, 4e5, 5.5e6, 0)))
    keys = (1, 1, 0, 2, 1025, 0, 1, 1, 3072, 0, 1, 32633)
    tags.append(Tag(34735, 3, len(keys), struct.pack(f"<{len(keys)}H", *keys)))
    mask = np.zeros((20, 30), np.uint8)
    content = geotiff_bytes(mask, CLASSES, bytes(768), Georeference("<", tuple(tags)))
    prediction = color_predictor()(image())
    found = json.loads(file_encoder("geojson", Upload(content, "field.tif"))(prediction))
    assert found["name"] == "field.tif"
    assert found["crs"]["properties"]["name"] == "urn:ogc:def:crs:EPSG::32633"
    x, y = found["features"][0]["geometry"]["coordinates"][0][0]
    assert 4e5 <= x <= 4e5 + 20
    assert 5.5e6 - 20 <= y <= 5.5e6


@pytest.mark.parametrize("form", ["coco", "geojson"])
def test_noise_is_refused_before_it_becomes_a_file(form, monkeypatch):
    monkeypatch.setattr(encode, "MOST_FILE_CORNERS", 100)
    noise, upload = color_predictor()(image()), Upload(b"", "noise.png")
    (encode_in_batch,) = batch_encoders("color", form, [upload])
    for encode_noise in (file_encoder(form, upload), encode_in_batch):
        with pytest.raises(Refused, match=r"limit is 100\. Ask for format=png"):
            encode_noise(noise)


@pytest.mark.parametrize(("form", "limit"), [("rle", "MOST_RUNS"), ("polygons", "MOST_CORNERS")])
def test_a_mask_of_noise_is_refused_before_it_is_traced(form, limit, monkeypatch):
    prediction = color_predictor()(image())
    monkeypatch.setattr(encode, limit, 100)
    with pytest.raises(Refused, match="limit is 100") as refused:
        encoder("color", form)(prediction)
    assert refused.value.status == 413
