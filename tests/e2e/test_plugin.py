"""Another package's model, dataset and loss, found by entry points after pip installed it."""

import shutil
import subprocess
import sys
from pathlib import Path

import pytest
from PIL import Image
from support.models.own_objects import SETTINGS, Halves

import featherseg
from featherseg.data import DATASETS
from featherseg.losses import LOSSES
from featherseg.models import MODELS

PACKAGE = Path(__file__).parents[1] / "support/plugin_package"
PIP = ["-m", "pip", "install", "--no-deps", "--no-build-isolation", "--no-index", "--target"]


@pytest.fixture
def installed(tmp_path, monkeypatch):
    """The package installed into a folder of its own, and images and masks of its dataset."""
    source, target = tmp_path / "source", tmp_path / "site"
    shutil.copytree(PACKAGE, source, ignore=shutil.ignore_patterns("__pycache__"))
    subprocess.run(
        [sys.executable, *PIP, str(target), str(source)], check=True, capture_output=True
    )
    monkeypatch.syspath_prepend(target)
    for catalogue in (MODELS, DATASETS, LOSSES):  # what a test loads is gone after it
        monkeypatch.setattr(catalogue, "_entries", dict(catalogue._entries))
    for split, count in (("train", 8), ("val", 6)):
        for kind in ("images", "masks"):
            (tmp_path / "data" / split / kind).mkdir(parents=True)
        for index in range(count):
            sample = Halves(count)[index]
            Image.fromarray(sample.image).save(
                tmp_path / "data" / split / "images" / f"{index}.png"
            )
            Image.fromarray(sample.label).save(tmp_path / "data" / split / "masks" / f"{index}.png")
    yield
    sys.modules.pop("halves_segmentation", None)


@pytest.mark.seconds
def test_a_package_s_model_dataset_and_loss_train_evaluate_and_export(installed, tmp_path):
    """Without a change in featherseg, and by name as its own."""
    own = {"data.root": str(tmp_path / "data"), "model.pretrained": False, "model.width": 12}
    own |= {"loss.name": "plain-mean", "loss.options.smoothing": 0.05, "loss.class_weights": "none"}
    run = featherseg.train(
        "two-strides", "halves", out=tmp_path / "run", settings={**SETTINGS, **own}
    )
    assert run.evaluations()[0]["miou"] > 0.9
    assert "two-strides" in (run.path / "report.html").read_text()
    assert featherseg.evaluate(tmp_path / "run").miou == run.evaluations()[0]["miou"]
    assert featherseg.load_run(tmp_path / "run").model.module.layers[0].out_channels == 12
    file = featherseg.export(tmp_path / "run", format="onnx").path
    assert (
        featherseg.evaluate(file, "halves", data_root=tmp_path / "data").miou
        == run.evaluations()[0]["miou"]
    )
    first, others = 16 * 24 * (27 * 8), 8 * 12 * (72 * 8 + 8 * 2)  # of 8 channels, its own width
    assert featherseg.cost("two-strides", (32, 48), 2).macs["macs"] == first + others
