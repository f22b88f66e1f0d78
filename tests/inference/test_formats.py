"""`predict --to`: the masks of all images in the formats of annotation tools, beside the masks."""

import csv
import json
import os
import shutil

import numpy as np
import pytest
from PIL import Image
from support.models.color_model import color_predictor

import featherseg
from featherseg.core.errors import ConfigError, UnknownName
from featherseg.data.images.decoding import read_mask
from featherseg.inference.output import OutputSettings

ALL = ("coco", "geojson", "csv", "labelme", "cvat", "yolo")


@pytest.fixture
def photos(tmp_path):
    """Two photos of smooth regions: b.png and a.jpeg."""
    (tmp_path / "photos").mkdir()
    for seed, name in enumerate(("b.png", "a.jpeg")):
        small = np.random.default_rng(seed).integers(0, 250, (5, 6, 3), dtype=np.uint8)
        image = Image.fromarray(small).resize((36, 30), Image.Resampling.BICUBIC)
        image.save(tmp_path / "photos" / name)
    return tmp_path / "photos"


def predict(photos, *formats, out="out", **settings):
    said = []
    result = featherseg.predict(
        color_predictor(),
        photos,
        out=photos.parent / out,
        settings={"masks": True, "to": formats, **settings},
        progress=lambda doing, done, total: said.append(doing),
    )
    return result, said


def test_every_format_holds_every_image(photos):
    result, said = predict(photos, *ALL)
    out = photos.parent / "out"
    assert result.to == tuple(str(out / name) for name in ALL)
    assert "converting" in said
    masks = {name: read_mask(out / f"{name}_mask.png") for name in ("a", "b")}
    coco = json.loads((out / "coco/annotations/instances_default.json").read_text(encoding="utf-8"))
    assert [row["file_name"] for row in coco["images"]] == ["a.jpeg", "b.png"]
    assert os.path.samefile(out / "coco/images/a.jpeg", photos / "a.jpeg")
    with open(out / "csv/areas.csv", encoding="utf-8", newline="") as file:
        rows = list(csv.DictReader(file))
    counts = {row["class"]: int(row["pixels"]) for row in rows if row["image"] == "b.png"}
    assert list(counts.values()) == np.bincount(masks["b"].ravel(), minlength=3).tolist()
    for name in ("geojson/a.geojson", "labelme/b.json", "cvat/annotations.xml"):
        assert (out / name).is_file()
    assert (out / "yolo/labels/train/a.txt").is_file()


def test_polygons_have_fewer_corners_than_those_of_convert(photos):
    predict(photos, "coco")
    out = photos.parent / "out"
    featherseg.convert(out, photos.parent / "exact", to_format="coco", images=photos)
    name = "annotations/instances_default.json"
    sizes = [
        sum(
            len(a["segmentation"][0])
            for a in json.loads((folder / name).read_text(encoding="utf-8"))["annotations"]
            if isinstance(a["segmentation"], list)
        )
        for folder in (out / "coco", photos.parent / "exact")
    ]
    assert sizes[0] < sizes[1] / 2


def test_what_is_complete_stays_and_what_lacks_images_is_refused_before_the_work(photos):
    predict(photos, "coco")
    out = photos.parent / "out"
    before = (out / "coco/annotations/instances_default.json").stat().st_mtime_ns
    result, _ = predict(photos, "coco", "csv")  # the second is new
    assert result.to == (str(out / "coco"), str(out / "csv"))
    assert (out / "coco/annotations/instances_default.json").stat().st_mtime_ns == before
    shutil.copy(photos / "b.png", photos / "c.png")
    with pytest.raises(ConfigError, match="coco exists, and does not contain all images"):
        predict(photos, "coco")
    assert not (out / "c_mask.png").exists()
    predict(photos)
    with pytest.raises(ConfigError, match="does not contain all images"):
        predict(photos, "coco")
    shutil.rmtree(out / "coco")
    predict(photos, "coco")
    coco = json.loads((out / "coco/annotations/instances_default.json").read_text(encoding="utf-8"))
    assert len(coco["images"]) == 3


def test_a_format_needs_images_on_a_disk(photos, tmp_path):
    with pytest.raises(UnknownName, match="Did you mean 'coco'"):
        OutputSettings(to=("cocoo",))
    with pytest.raises(ConfigError, match="Leave out masks, probabilities and formats"):
        OutputSettings(submission="cityscapes", to=("coco",))
    given = {"settings": {"to": ("coco",)}}
    with pytest.raises(ConfigError, match="--to is for images"):
        featherseg.predict(color_predictor(), "camera", out=tmp_path / "a.mp4", **given)
    with pytest.raises(ConfigError, match="--to cannot go with --cluster"):
        featherseg.predict("run", photos, out=tmp_path / "b", cluster="local", **given)
