"""Exported files run where torch is not installed, and give the masks that they give beside it."""

import json
import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from support.models.small_onnx import write_onnx
from support.models.three_layer_run import three_layer_run
from support.processes.without_torch import without_torch

import featherseg
from featherseg.exporters import ExportSettings, export_formats

FACTS = {
    "size_divisor": 1, "minimum_size": 1, "align_corners": False, "things": [False, True],
    "mean": [128.0] * 3, "std": [40.0] * 3,
}  # fmt: skip

PREDICT = """
import json, sys
import numpy as np
import featherseg
import featherseg.serving.app
from featherseg.serving.models import open_models
from featherseg.serving.settings import Settings, allowed_hosts
from support.servers.asgi_client import Client

masks = {}
for name, options in json.loads(sys.argv[1]).items():
    file, soft = options.pop("file"), options.pop("soft", None)
    predictor = featherseg.Predictor(file, **options)
    predictor.soft = soft
    prediction = predictor("photos/large.png")
    masks[name] = prediction.mask
    if soft:
        masks[f"{name} soft"] = prediction.soft
    if prediction.panoptic:
        masks[f"{name} ids"] = prediction.panoptic.ids
assert prediction.to_coco()["annotations"]
np.savez("masks.npz", **masks)

settings = Settings(hosts=allowed_hosts("127.0.0.1", 8000, ()))
app = featherseg.serving.app.create_app(open_models(["model.onnx"]), settings)
client = Client(app, "http://127.0.0.1:8000")
for name in ("small", "large"):
    files = {"image": open(f"photos/{name}.png", "rb")}
    answer = client.post("/v1/segment?format=png", files=files)
    assert answer.status_code == 200, answer.content
    open(f"served_{name}.png", "wb").write(answer.content)
files = {"image": open("photos/small.png", "rb")}
assert client.post("/v1/segment?format=geojson", files=files).status_code == 200
client.close()
assert not {"torch", "scipy"} & {name for name, module in sys.modules.items() if module}
"""


@pytest.fixture
def place(tmp_path):
    """A folder with model.onnx, panoptic.onnx and photos."""
    write_onnx(tmp_path / "model.onnx", **FACTS)
    write_onnx(tmp_path / "panoptic.onnx", **FACTS, panoptic={"threshold": 0.1, "kernel": 7})
    rng = np.random.default_rng(5)
    (tmp_path / "photos").mkdir()
    for name, size in {"small": (40, 60), "large": (301, 417)}.items():
        pixels = rng.integers(0, 256, (size[0] // 5 + 1, size[1] // 5 + 1, 3), np.uint8)
        image = Image.fromarray(pixels).resize(size[::-1], Image.Resampling.BICUBIC)
        image.save(tmp_path / f"photos/{name}.png")
    return tmp_path


def test_predict_gives_the_masks_of_beside_torch(place):
    featherseg.predict(place / "model.onnx", place / "photos", out=place / "beside")
    done = without_torch(place, "-m", "featherseg", "predict", "model.onnx", "photos", "-o", "out")
    assert done.returncode == 0, done.stderr
    names = sorted(file.name for file in (place / "beside").glob("*.png"))
    assert len(names) == 6
    for name in names:
        assert (place / "out" / name).read_bytes() == (place / "beside" / name).read_bytes()


@pytest.mark.seconds
@pytest.mark.parametrize("name", ["openvino", "ncnn"])
def test_files_of_other_runtimes_give_theirs_too(place, name):
    pytest.importorskip(name)
    run = three_layer_run(place / "run")
    (report,), errors = export_formats(run, [name], settings=ExportSettings(image_size=(40, 60)))
    assert not errors
    photo, words = place / "photos/small.png", ("-m", "featherseg", "predict", report.path)
    featherseg.predict(report.path, photo, out=place / "beside")
    done = without_torch(place, *map(str, words), str(photo), "-o", "out", "--masks")
    assert done.returncode == 0, done.stderr
    masks = [place / folder / "small_mask.png" for folder in ("out", "beside")]
    assert masks[0].read_bytes() == masks[1].read_bytes()
    assert len(np.unique(Image.open(masks[0]))) > 1


@pytest.mark.seconds
def test_tiles_scales_objects_and_the_service_do_without_torch_too(place, monkeypatch):
    ways = {
        "whole": {"file": "model.onnx"},
        "tiles": {"file": "model.onnx", "inference": {"window": [128, 160]}},
        "scales": {"file": "model.onnx", "inference": {"scales": [0.5, 1.5], "flip": True}},
        "resized": {"file": "model.onnx", "max_side": 100},
        "probabilities": {"file": "model.onnx", "soft": "probabilities"},
        "confidence": {"file": "model.onnx", "inference": {"flip": True}, "soft": "confidence"},
        "objects": {"file": "panoptic.onnx", "inference": {"resize": [200, 200]}},
    }
    monkeypatch.setenv("PYTHONPATH", str(Path(__file__).parents[1]), prepend=os.pathsep)
    (place / "predict.py").write_text(PREDICT)
    done = without_torch(place, "predict.py", json.dumps(ways))
    assert done.returncode == 0, done.stderr
    monkeypatch.chdir(place)
    with np.load("masks.npz") as masks:
        assert len(masks.files) == 10
        for name, options in ways.items():
            file, soft = options.pop("file"), options.pop("soft", None)
            predictor = featherseg.Predictor(file, **options)
            predictor.soft = soft
            expected = predictor("photos/large.png")
            assert (masks[name] == expected.mask).all(), name
            assert len(np.unique(expected.mask)) == 2, name
            if soft:
                assert (masks[f"{name} soft"] == expected.soft).all(), name
            if expected.panoptic:
                assert (masks[f"{name} ids"] == expected.panoptic.ids).all(), name
                assert len(expected.panoptic.segments) > 3
    for name in ("small", "large"):
        served = np.array(Image.open(f"served_{name}.png"))
        assert (served == featherseg.Predictor("model.onnx")(f"photos/{name}.png").mask).all()


@pytest.mark.seconds
def test_files_are_timed_without_torch_against_the_first_one(place):
    write_onnx(place / "other.onnx", **FACTS)
    command = ["-m", "featherseg", "benchmark", "model.onnx", "other.onnx", "--image-size", "64x96"]
    done = without_torch(place, *command, "--rounds", "4", "--json", "-o", "page.html")
    assert done.returncode == 0, done.stderr
    (table,) = json.loads(done.stdout)["tables"]
    assert [row["variant"] for row in table["rows"]] == ["model.onnx", "other.onnx"]
    for row in table["rows"]:
        assert row["forward_ms"]["p50"] > 0
        assert row["fidelity"]["same_class"] == 1
        assert list(row["speedup"]["by_wall"]) == ["model.onnx"]
    assert "those of model.onnx" in (place / "page.html").read_text()


@pytest.mark.seconds
@pytest.mark.parametrize(
    "arguments",
    [
        "predict efficientvit-seg-b0-shapes photos",
        "predict model.pt2 photos --trust",
        "train frm-lite0 --data photos -o run",
        "benchmark frm-lite0",
        "audit photos",
    ],
)
def test_what_needs_torch_names_both_installs(place, arguments):
    (place / "model.pt2").touch()
    done = without_torch(place, "-m", "featherseg", *arguments.split())
    assert done.returncode == 2, done.stderr
    assert "pip install 'featherseg[train]'" in done.stderr
    if not arguments.startswith("train"):  # which no exported file can do
        assert "pip install 'featherseg[runtime]'" in done.stderr
    assert "Traceback" not in done.stderr


@pytest.mark.slow
def test_the_extra_runtime_brings_no_torch_and_predicts(place):
    """In an environment of its own, made from this checkout; it needs the package index."""
    source = Path(__file__).parents[2]
    for command in (
        [sys.executable, "-m", "venv", "bare"],
        ["bare/bin/python", "-m", "pip", "install", "-q", f"{source}[runtime]"],
        ["bare/bin/featherseg", "predict", "model.onnx", "photos", "-o", "out", "--masks"],
    ):
        environment = {key: value for key, value in os.environ.items() if key != "PYTHONPATH"}
        subprocess.run(command, cwd=place, env=environment, check=True)
    listed = subprocess.run(
        ["bare/bin/python", "-m", "pip", "list"], cwd=place, capture_output=True, text=True
    )
    packages = {line.split()[0] for line in listed.stdout.splitlines()}
    assert "onnxruntime" in packages
    assert not {"torch", "scipy", "lightning", "onnx"} & packages
    predictor = featherseg.Predictor(place / "model.onnx")
    for name in ("small", "large"):
        mask = np.array(Image.open(place / f"out/{name}_mask.png"))
        assert (mask == predictor(place / f"photos/{name}.png").mask).all()
