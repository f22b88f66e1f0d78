"""panoptic.json of a folder that several commands predict into lists the images of all."""

import json
from dataclasses import replace
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from PIL import Image
from support.servers.fake_bucket import install

import featherseg
from featherseg import models
from featherseg.core.errors import ConfigError, DataError, FeathersegError
from featherseg.core.types import ClassInfo
from featherseg.data.panoptic.files import read_panoptic_json
from featherseg.inference.folder_record import version_of
from featherseg.inference.output import Output, OutputSettings, ReadImage
from featherseg.inference.predictor import Predictor
from featherseg.inference.runtimes.pytorch import TorchRuntime

CLASSES = (
    ClassInfo("road", (128, 64, 128)),
    ClassInfo("sky", (70, 130, 180)),
    ClassInfo("car", (0, 0, 142), True),
)
ONCE, AGAIN = (OutputSettings(masks=True, overwrite=overwrite) for overwrite in (False, True))


def runtime_of(classes):
    torch.manual_seed(0)
    return TorchRuntime(
        models.build("rsp-lite0-panoptic", len(classes)).eval(), classes, device="cpu"
    )


@pytest.fixture(scope="module")
def runtime():
    return runtime_of(CLASSES)


@pytest.fixture
def photos(tmp_path):
    for number, name in enumerate(("1", "01", "z")):
        pixels = np.random.default_rng(number).integers(0, 256, (32, 40, 3), dtype=np.uint8)
        (tmp_path / "photos").mkdir(exist_ok=True)
        Image.fromarray(pixels).save(tmp_path / f"photos/{name}.png")
    return tmp_path / "photos"


def predict(runtime, photo, out, settings=ONCE):
    return featherseg.predict(runtime, photo, out=out, settings=settings)


def listed(path):
    return {row.file_name: row.image_id for row in read_panoptic_json(path).annotations}


@pytest.mark.seconds
def test_images_of_earlier_commands_stay_listed_while_their_png_is_there(runtime, photos, tmp_path):
    out = tmp_path / "out"
    predict(runtime, photos / "1.png", out)
    before = json.loads((out / "panoptic.json").read_text())
    predict(runtime, photos / "z.png", out)
    after = json.loads((out / "panoptic.json").read_text())
    assert listed(out / "panoptic.json") == {"1.png": 1, "z.png": "z"}
    assert (after["images"][:1], after["annotations"][:1]) == (
        before["images"],
        before["annotations"],
    )
    assert predict(runtime, photos / "z.png", out).resumed == 1
    (out / "predictions.jsonl").unlink()
    with pytest.raises(ConfigError, match=r"z_mask\.png exists, 2 files"):
        predict(runtime, photos / "z.png", out)
    predict(runtime, photos / "z.png", out, AGAIN)
    assert json.loads((out / "panoptic.json").read_text()) == after
    (out / "panoptic/1.png").unlink()
    predict(runtime, photos / "01.png", out)
    assert listed(out / "panoptic.json") == {"z.png": "z", "01.png": 1}


def test_one_command_lists_what_its_own_reader_takes(runtime, photos, tmp_path):
    predict(runtime, photos, tmp_path / "out")
    assert listed(tmp_path / "out/panoptic.json") == {
        "01.png": "01.png",
        "1.png": "1.png",
        "z.png": "z",
    }


def test_what_an_earlier_command_listed_stays_in_a_bucket(runtime, photos, tmp_path, monkeypatch):
    objects = install(monkeypatch, tmp_path / "home").objects
    for name in ("1", "01", "z"):
        predict(runtime, photos / f"{name}.png", "s3://b/out")
    (tmp_path / "panoptic.json").write_bytes(objects["b/out/panoptic.json"])
    assert listed(tmp_path / "panoptic.json") == {
        "1.png": "1.png",
        "01.png": "01.png",
        "z.png": "z",
    }
    objects["b/out/panoptic.json"] = b"{"
    with pytest.raises(
        DataError, match=r"^s3://b/out/panoptic\.json cannot be read as JSON.*move that file away"
    ):
        predict(runtime, photos / "z.png", "s3://b/out", AGAIN)


@pytest.mark.seconds
def test_a_list_that_cannot_go_on_is_refused_before_the_model_works(runtime, photos, tmp_path):
    out = tmp_path / "out"
    predict(runtime, photos / "1.png", out)
    other = runtime_of((*CLASSES[:2], replace(CLASSES[2], name="bus")))
    with pytest.raises(
        DataError, match=r"panoptic\.json lists images with other classes.*Choose another folder"
    ):
        predict(other, photos / "z.png", out)
    predict(other, photos / "1.png", out, AGAIN)  # nothing of the other model's is left
    assert read_panoptic_json(out / "panoptic.json").categories[2]["name"] == "bus"
    good = json.loads((out / "panoptic.json").read_text())
    for damaged in (
        "{",
        "[]",
        json.dumps(good | {"images": 3}),
        json.dumps(good | {"images": [{"id": []}]}),
    ):
        (out / "panoptic.json").write_text(damaged)
        with pytest.raises(DataError, match=r"panoptic\.json.*move that file away"):
            predict(other, photos / "z.png", out)
        assert (out / "panoptic.json").read_text() == damaged
    (out / "panoptic.json").unlink()
    (out / "panoptic.json").symlink_to(tmp_path / "elsewhere.json")
    with pytest.raises(FeathersegError, match=r"panoptic\.json is a symbolic link"):
        predict(other, photos / "z.png", out)
    assert not (out / "z_mask.png").exists()


def test_what_a_stopped_command_wrote_is_listed(runtime, photos, tmp_path):
    out, files = tmp_path / "out", [photos / "1.png", photos / "z.png"]

    def stop(*told):
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        featherseg.predict(Predictor(runtime), files, out=out, progress=stop)
    assert listed(out / "panoptic.json") == {"1.png": 1}
    (tmp_path / "no.png").write_bytes(b"no image")
    with pytest.raises(DataError, match="cannot be read"):
        predict(runtime, tmp_path / "no.png", tmp_path / "none")
    assert not (tmp_path / "none").exists()


def test_the_list_is_written_from_time_to_time_so_that_a_kill_loses_little(
    runtime, photos, tmp_path, monkeypatch
):
    now, out = 0.0, tmp_path / "out"
    monkeypatch.setattr("featherseg.inference.output.time", SimpleNamespace(monotonic=lambda: now))
    result = Predictor(runtime)(photos / "z.png")
    output = Output(out, [photos / "z.png"], ONCE)
    output.check(Predictor(runtime))
    write = output.panoptic.writer.finish

    def slowly():
        nonlocal now
        now += 3.0
        return write()

    def list_at(second, name):
        nonlocal now
        now = second
        output.save(result, ReadImage(name, photos / "z.png", version_of(photos / "z.png")))
        return list(listed(out / "panoptic.json")) if (out / "panoptic.json").exists() else []

    assert list_at(29.0, "a") == []
    assert list_at(30.0, "b") == ["a.png", "b.png"]
    monkeypatch.setattr(output.panoptic.writer, "finish", slowly)
    assert list_at(59.0, "c") == ["a.png", "b.png"]
    assert list_at(60.0, "d") == [
        "a.png",
        "b.png",
        "c.png",
        "d.png",
    ]  # at 63, and not before 60 seconds behind
    assert list_at(122.0, "e") == ["a.png", "b.png", "c.png", "d.png"]
    assert list_at(123.0, "f") == ["a.png", "b.png", "c.png", "d.png", "e.png", "f.png"]
