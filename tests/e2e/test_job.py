"""An engineer's job with a folder of images and masks, verb by verb; test_plugin.py: exports."""

import json
import re
import shutil

import numpy as np
import pytest
from PIL import Image
from typer.testing import CliRunner

from featherseg.cli import build_app
from featherseg.data import open_dataset

TOML = """
name = "yard"
images = "images"
masks = "masks"
[splits]
train = "train"
val = "val"
[classes]
ground = "#808080"
thing = "#c00000"
[map]
0 = "ground"
1 = "ground"
2 = "thing"
3 = "ignore"
"""
SETTINGS = (
    "model.pretrained=false",
    "data.workers=0",
    "augment.crop=[64, 96]",
    "train.epochs=1",
    "train.batch_size=2",
    "train.precision=fp32",
)


@pytest.fixture(scope="module")
def yard(tmp_path_factory):
    """Six small images of synthetic scenes with raw mask values 0..3, and a harmless seventh."""
    root = tmp_path_factory.mktemp("yard")
    for split, count in (("train", 4), ("val", 2)):
        scenes = open_dataset("shapes", split, size=count)
        for folder in ("images", "masks"):
            (root / folder / split).mkdir(parents=True)
        for index in range(count):
            scene = scenes[index]
            Image.fromarray(scene.image[::2, ::2]).save(
                root / "images" / split / f"{index}.jpg", quality=95
            )
            Image.fromarray(scene.label[::2, ::2].clip(max=3)).save(
                root / "masks" / split / f"{index}.png"
            )
    (root / "dataset.toml").write_text(TOML)
    return root


def call(*words, code=0):
    result = CliRunner().invoke(build_app(), [str(word) for word in words], catch_exceptions=False)
    assert result.exit_code == code, result.output
    return result


def test_check_train_evaluate_predict_report(yard, tmp_path):
    data, run = yard / "dataset.toml", tmp_path / "run"
    call("check", data)
    settings = [part for setting in SETTINGS for part in ("--set", setting)]
    call("train", "ddrnet-23-slim", "--data", data, *settings, "--out", run)
    logged = [json.loads(line) for line in (run / "metrics.jsonl").read_text().splitlines()][-1]

    scores = json.loads(call("evaluate", run, "--split", "val", "--json").stdout)
    assert scores["miou"] == logged["val_miou"]  # the logged figure, to the bit

    masks = tmp_path / "masks"
    call("predict", run, yard / "images" / "val", "-o", masks)
    words = ("--predictions", masks, "--data", data, "--split", "val", "--json")
    again = json.loads(call("evaluate", *words).stdout)
    assert again["confusion"] == scores["confusion"]
    val = open_dataset(str(data), "val")
    assert sum(map(sum, scores["confusion"])) == sum((val.label(i) != 255).sum() for i in range(2))

    call("report", run)
    page = (run / "report.html").read_text()
    assert "yard" in page
    assert not re.search(
        r"(src|href)=.?https?:|url\(.?https?:", page
    )  # nothing is fetched from anywhere


def test_a_mask_value_outside_the_map_is_named_before_training(yard, tmp_path):
    broken = tmp_path / "broken"
    shutil.copytree(yard, broken)
    mask = np.array(Image.open(broken / "masks" / "train" / "0.png"))
    mask[:5, :7] = 78
    Image.fromarray(mask).save(broken / "masks" / "train" / "0.png")
    found = call("check", broken / "dataset.toml", code=1).output
    assert "78" in found
    assert "35" in found
    call("check", broken / "dataset.toml", "--fix", tmp_path / "fixed", code=1)
    call("check", tmp_path / "fixed" / "dataset.toml")
