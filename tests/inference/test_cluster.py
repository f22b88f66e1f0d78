"""Workers' shares without a cluster: same bytes, effective once, whoever is killed when."""

import dataclasses
import hashlib
import json
from types import SimpleNamespace

import numpy as np
import pytest
from PIL import Image
from support.processes.without_cluster import in_this_process
from support.servers.fake_bucket import install

from featherseg.core.errors import ConfigError, DataError, DataNotFound, FeathersegError
from featherseg.inference import cluster
from featherseg.inference.cluster import Job, Manifest, Worker, predict_folder
from featherseg.inference.drawing import mask_bytes
from featherseg.inference.predictor import Predictor
from featherseg.inference.runtimes import open_runtime
from featherseg.inference.runtimes.digest import model_digest
from featherseg.inference.settings import InferenceSettings
from featherseg.recipe.panoptic import PanopticTable
from featherseg.runs.run import STARTER


@pytest.fixture(scope="module")
def predictor():
    return Predictor(STARTER)


@pytest.fixture
def photos(tmp_path):
    """Seven images of which two share a name, a text, and one that is cut short."""
    folder = tmp_path / "in"
    folder.mkdir()
    for number, name in enumerate(("a.png", "b.png", "b.jpg", "c.png", "d.png", "e.png", "f.png")):
        pixels = np.random.default_rng(number).integers(
            0, 256, (40, 48 + 4 * number, 3), dtype=np.uint8
        )
        Image.fromarray(pixels).save(folder / name)
    (folder / "notes.txt").write_text("no image")
    (folder / "d.png").write_bytes((folder / "d.png").read_bytes()[:200])
    return folder


@pytest.fixture
def expected(photos, predictor):
    """NAME_mask.png -> the bytes that `predict` writes."""
    names = {"a": "a.png", "b": "b.jpg", "b-2": "b.png", "c": "c.png", "e": "e.png", "f": "f.png"}
    return {
        f"{name}_mask.png": mask_bytes(predictor(photos / file).mask, predictor.classes)
        for name, file in names.items()
    }


@pytest.fixture
def job(photos, tmp_path, predictor):
    digest = model_digest(predictor.runtime)
    return Job(
        STARTER, str(photos), str(tmp_path / "out"), "cpu", InferenceSettings(), 4.0, None, digest
    )


def run(job, execute=in_this_process):
    told = []
    counts = predict_folder(job, execute, 2, lambda *numbers: told.append(numbers))
    return counts, told


def masks(tmp_path):
    return {path.name: path.read_bytes() for path in (tmp_path / "out").glob("*_mask.png")}


def manifest(tmp_path):
    return [
        json.loads(line) for line in (tmp_path / "out/predictions.jsonl").read_text().splitlines()
    ]


def test_the_masks_are_those_of_predict_and_the_manifest_tells_of_every_image(
    job, tmp_path, expected
):
    counts, told = run(job)
    assert counts == (6, 1)
    assert told[0] == (0, 0, 7)
    assert told[-1] == (6, 1, 7)
    assert masks(tmp_path) == expected
    lines = manifest(tmp_path)
    assert [line["name"] for line in lines] == ["a", "b", "b-2", "c", "d", "e", "f"]
    for line in lines:
        if line["name"] == "d":
            assert (line["status"], line["sha256"]) == ("failed", None)
            assert "d.png cannot be read" in line["reason"]
        else:
            digest = hashlib.sha256(expected[f"{line['name']}_mask.png"]).hexdigest()
            assert line == {
                "name": line["name"],
                "image": line["image"],
                "status": "done",
                "sha256": digest,
                "reason": None,
            }
    assert {line["image"] for line in lines if line["name"].startswith("b")} == {"b.jpg", "b.png"}


@pytest.mark.seconds
def test_the_same_again_does_only_what_is_missing(job, photos, tmp_path, expected, monkeypatch):
    run(job)
    (tmp_path / "out/c_mask.png").unlink()
    pixels = np.zeros((40, 64, 3), np.uint8)
    Image.fromarray(pixels).save(photos / "d.png")  # the spoiled one is mended
    written = []
    write = cluster.Place.write
    monkeypatch.setattr(
        cluster.Place, "write", lambda place, name, b: (written.append(name), write(place, name, b))
    )
    counts, told = run(job)
    assert counts == (7, 0)
    assert told[0] == (5, 0, 7)
    assert sorted(written) == ["c_mask.png", "d_mask.png"]
    assert {
        name: content for name, content in masks(tmp_path).items() if name != "d_mask.png"
    } == expected
    before = (tmp_path / "out/predictions.jsonl").read_bytes()
    assert run(job) == ((7, 0), [(7, 0, 7)])
    assert (tmp_path / "out/predictions.jsonl").read_bytes() == before


@pytest.mark.seconds
def test_a_share_that_is_done_again_by_another_worker_reads_what_the_first_left(
    job, tmp_path, expected
):
    def lossy(job, folder, tasks, size):
        """Of every task the first worker is lost after two images, and another does it whole."""
        with Manifest(folder) as plan:
            for number in range(tasks):
                first = Worker(job).predict(plan.share(number, size))
                for _, _ in zip(range(2), first, strict=False):
                    pass
                first.close()
                yield list(Worker(job).predict(plan.share(number, size)))

    assert run(job, lossy)[0] == (6, 1)
    assert masks(tmp_path) == expected
    assert len(manifest(tmp_path)) == 7


@pytest.mark.seconds
def test_of_a_stopped_command_the_manifest_tells_what_is_done_and_the_next_does_the_rest(
    job, tmp_path, expected
):
    def stopped(job, folder, tasks, size):
        yield from list(in_this_process(job, folder, tasks, size))[:3]
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        run(job, stopped)
    assert [line["name"] for line in manifest(tmp_path)] == ["a", "b", "b-2"]
    (tmp_path / "out/predictions.jsonl").unlink()  # as if the command had been killed instead
    assert run(job)[0] == (6, 1)
    assert masks(tmp_path) == expected
    assert len(manifest(tmp_path)) == 7


@pytest.mark.seconds
def test_two_at_once_do_no_harm(job, tmp_path, expected):
    def beside(job, folder, tasks, size):
        for number, records in enumerate(in_this_process(job, folder, tasks, size)):
            if number == 2:
                assert run(job)[0] == (6, 1)  # another command, from its start to its end
            yield records

    assert run(job, beside)[0] == (6, 1)
    assert masks(tmp_path) == expected
    assert len(manifest(tmp_path)) == 7


@pytest.mark.parametrize("change", [{"model": "another"}, {"max_side": 32}, {"device": "cuda"}])
def test_masks_of_another_model_or_other_settings_are_not_mixed(job, tmp_path, change):
    run(job)
    before = masks(tmp_path)
    with pytest.raises(ConfigError, match="predicted otherwise"):
        run(dataclasses.replace(job, **change))
    assert masks(tmp_path) == before


def test_masks_that_something_else_wrote_are_left_alone(job, tmp_path):
    (tmp_path / "out").mkdir()
    (tmp_path / "out/a_mask.png").write_bytes(b"mine")
    with pytest.raises(ConfigError, match=r"a_mask\.png exists"):
        run(job)
    assert masks(tmp_path) == {"a_mask.png": b"mine"}


def test_a_machine_with_another_run_of_the_same_name_is_told(job):
    with pytest.raises(ConfigError, match="not the same on"):
        Worker(dataclasses.replace(job, model="0" * 64))


def test_what_cannot_be_written_ends_the_command_and_keeps_what_is_done(job, tmp_path, monkeypatch):
    write = cluster.Place.write

    def full(place, name, content):
        if name == "c_mask.png":
            raise FeathersegError("cannot write c: no space left")
        write(place, name, content)

    monkeypatch.setattr(cluster.Place, "write", full)
    with pytest.raises(FeathersegError, match="no space left"):
        run(job)
    assert [line["name"] for line in manifest(tmp_path)] == ["a", "b", "b-2"]


def test_a_folder_without_images_or_without_itself_is_told(job, tmp_path):
    (tmp_path / "empty").mkdir()
    with pytest.raises(DataNotFound, match="has no images"):
        run(dataclasses.replace(job, folder=str(tmp_path / "empty")))
    with pytest.raises(DataNotFound, match="cannot be listed"):
        run(dataclasses.replace(job, folder=str(tmp_path / "none")))
    (tmp_path / "out").mkdir(exist_ok=True)
    (tmp_path / "out/settings.json").write_text("{")
    with pytest.raises(DataError, match="cannot be read"):
        run(job)


@pytest.mark.seconds
def test_the_same_through_a_bucket_each_object_by_one_put(
    job, photos, expected, tmp_path, monkeypatch
):
    bucket = install(monkeypatch, tmp_path / "home")
    for path in photos.iterdir():
        bucket.objects[f"b/in/{path.name}"] = path.read_bytes()
    job = dataclasses.replace(job, folder="s3://b/in", output="s3://b/out")
    assert run(job)[0] == (6, 1)
    found = {
        key.removeprefix("b/out/"): content
        for key, content in bucket.objects.items()
        if key.startswith("b/out/")
    }
    assert {
        name: content for name, content in found.items() if name.endswith("_mask.png")
    } == expected
    assert set(found) - set(expected) == {"predictions.jsonl", "settings.json"}
    assert bucket.asked["write"] == 6 + 2
    del (
        bucket.objects["b/out/predictions.jsonl"],
        bucket.objects["b/out/e_mask.png"],
    )  # of a client that was killed
    assert run(job)[0] == (6, 1)
    assert bucket.asked["write"] == 8 + 3  # settings, the missing mask, the manifest
    assert len(bucket.objects["b/out/predictions.jsonl"].splitlines()) == 7


def test_the_model_of_an_exported_file_is_known_by_its_bytes(tmp_path):
    (tmp_path / "m.onnx").write_bytes(b"graph")
    assert (
        model_digest(SimpleNamespace(path=tmp_path / "m.onnx"))
        == hashlib.sha256(b"graph").hexdigest()
    )
    for name, content in (("m.ncnn.param", b"layers"), ("m.ncnn.bin", b"weights")):
        (tmp_path / name).write_bytes(content)
    of_both = hashlib.sha256(b"layersweights").hexdigest()
    assert model_digest(SimpleNamespace(path=tmp_path / "m.ncnn.param")) == of_both


def test_a_bin_of_another_format_is_no_part_of_the_model(tmp_path):
    """OpenVINO's model.bin lies beside model.onnx where both were exported."""
    files = [tmp_path / f"m.{ending}" for ending in ("onnx", "pt2", "tflite", "xml")]
    for file in files:
        file.write_bytes(b"graph")
    before = [model_digest(SimpleNamespace(path=file)) for file in files]
    (tmp_path / "m.bin").write_bytes(b"weights")
    assert [model_digest(SimpleNamespace(path=file)) for file in files[:3]] == before[:3]
    assert (
        model_digest(SimpleNamespace(path=files[3])) == hashlib.sha256(b"graphweights").hexdigest()
    )


@pytest.mark.seconds
def test_the_model_of_a_run_is_known_by_all_that_decides_its_masks(predictor):
    digest, other = model_digest(predictor.runtime), open_runtime(STARTER, "cpu")
    assert digest == model_digest(other)
    for name, value in (
        ("classes", other.classes[::-1]),
        ("mean", (1.0, 2.0, 3.0)),
        ("std", (1.0, 2.0, 3.0)),
        ("image_range", 4096),
        ("panoptic", PanopticTable()),
    ):
        changed = open_runtime(STARTER, "cpu")
        setattr(changed, name, value)
        assert model_digest(changed) != digest, name
    convolution = next(m for m in other.model.modules() if getattr(m, "kernel_size", 1) == (3, 3))
    convolution.dilation = (2, 2)
    assert model_digest(other) != digest
    other = open_runtime(STARTER, "cpu")
    next(other.model.parameters()).data[..., 0] += 1
    assert model_digest(other) != digest
