"""`predict s3://... -o s3://...`: the bytes of a disk, whole objects, masks after other files."""

import json
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from support.servers.fake_bucket import install
from typer.testing import CliRunner

import featherseg
from featherseg.cli import build_app
from featherseg.core.errors import ConfigError, DataError, DataNotFound


@pytest.fixture
def bucket(monkeypatch, tmp_path):
    return install(monkeypatch, tmp_path / "home")


@pytest.fixture
def photos(bucket, tmp_path) -> Path:
    """Three images on the disk, and the same in s3://b/in."""
    folder = tmp_path / "photos"
    folder.mkdir()
    for number in range(3):
        pixels = np.random.default_rng(number).integers(
            0, 256, (40, 50 + number, 3), dtype=np.uint8
        )
        Image.fromarray(pixels).save(folder / f"{number}.png")
        bucket.objects[f"b/in/{number}.png"] = (folder / f"{number}.png").read_bytes()
    bucket.objects["b/in/notes.txt"] = b"no image"
    return folder


def predict(*words):
    return CliRunner().invoke(build_app(), ["predict", *map(str, words)])


def written(folder):
    return {path.name: path.read_bytes() for path in folder.glob("*.png")}


def test_the_objects_are_the_files_that_a_folder_gets(lawn_run, photos, bucket, tmp_path):
    assert predict(lawn_run, photos, "-o", tmp_path / "out").exit_code == 0
    result = predict(lawn_run, "s3://b/in", "-o", "s3://b/out/deep")
    assert result.exit_code == 0, (result.output, result.exception)
    found = {
        key.removeprefix("b/out/deep/"): content
        for key, content in bucket.objects.items()
        if "/out/" in key
    }
    record = found.pop("predictions.jsonl").splitlines()
    assert [json.loads(line)["image"] for line in record[1:]] == [
        f"s3://b/in/{n}.png" for n in range(3)
    ]
    assert found == written(tmp_path / "out")
    assert "in s3://b/out/deep" in result.output
    assert bucket.asked["read"] == 3  # each image once
    puts = [key for key in bucket.objects if key.startswith("b/out/deep/1_")]
    assert puts[-1] == "b/out/deep/1_mask.png"


def test_a_bucket_and_the_disk_go_together(lawn_run, photos, bucket, tmp_path):
    assert predict(lawn_run, photos, "-o", tmp_path / "out", "--masks").exit_code == 0
    assert predict(lawn_run, "s3://b/in/1.png", "-o", tmp_path / "out2", "--masks").exit_code == 0
    assert written(tmp_path / "out2") == {"1_mask.png": written(tmp_path / "out")["1_mask.png"]}
    assert predict(lawn_run, photos, "-o", "s3://c", "--masks").exit_code == 0
    assert {key.removeprefix("c/") for key in bucket.objects if key.startswith("c/")} == {
        *written(tmp_path / "out"),
        "predictions.jsonl",
    }


def test_what_is_there_is_replaced_only_where_that_is_asked(lawn_run, photos, bucket):
    bucket.objects["b/out/1_mask.png"] = b"mine"
    refused = predict(lawn_run, "s3://b/in", "-o", "s3://b/out", "--masks").exception
    assert isinstance(refused, ConfigError)
    assert "s3://b/out/1_mask.png exists, 1 file in all" in str(refused)
    assert bucket.objects["b/out/1_mask.png"] == b"mine"
    assert (
        predict(lawn_run, "s3://b/in", "-o", "s3://b/out", "--masks", "--overwrite").exit_code == 0
    )
    assert bucket.objects["b/out/1_mask.png"] != b"mine"


def test_a_stopped_command_goes_on_in_a_bucket(lawn_run, photos, bucket):
    assert predict(lawn_run, "s3://b/in", "-o", "s3://b/out").exit_code == 0
    whole = dict(bucket.objects)
    bucket.objects["b/out/predictions.jsonl"] = b"".join(
        whole["b/out/predictions.jsonl"].splitlines(True)[:2]
    )
    del bucket.objects["b/out/2_mask.png"]  # the record is behind: 1 is whole, 2 is begun
    reads = bucket.asked["read"]
    result = predict(lawn_run, "s3://b/in", "-o", "s3://b/out")
    assert "1 of 3 images are in s3://b/out already" in result.output
    assert bucket.objects == whole
    assert (
        bucket.asked["read"] - reads == 1 + 2 + 3 + 2
    )  # the record, two images, their files that are there
    assert (
        "nothing left to do: 3 images" in predict(lawn_run, "s3://b/in", "-o", "s3://b/out").output
    )


def test_an_image_that_cannot_be_fetched_is_named_and_the_others_are_written(
    lawn_run, photos, bucket
):
    bucket.faults["s3://b/in/1.png"] = TimeoutError("no answer")
    result = predict(lawn_run, "s3://b/in", "-o", "s3://b/out", "--masks")
    assert result.exit_code == 1
    assert "s3://b/in/1.png" in result.output
    names = {"0_mask.png", "2_mask.png", "predictions.jsonl"}
    assert {key for key in bucket.objects if "/out/" in key} == {f"b/out/{name}" for name in names}


def test_a_result_that_cannot_be_put_ends_the_command(lawn_run, photos, bucket):
    bucket.faults["s3://b/out/1_mask.png"] = PermissionError("read only")
    result = predict(lawn_run, "s3://b/in", "-o", "s3://b/out", "--masks")
    assert isinstance(result.exception, DataError)
    assert "s3://b/out/1_mask.png cannot be written" in str(result.exception)


@pytest.mark.parametrize(
    ("words", "error", "told"),
    [
        (["s3://b/in", "-o", "s3://b/in/"], ConfigError, "the folder of the images itself"),
        (["s3://b/empty", "-o", "out"], DataNotFound, "s3://b/empty"),
        (["s3://b/in/notes.txt", "-o", "out"], DataNotFound, "has no images"),
        (["s3://b/clip.mp4", "-o", "out"], ConfigError, "videos are read"),
        (["clip.mp4", "-o", "s3://b/out"], ConfigError, "videos are read"),
        (["s3://me:pass@b/in", "-o", "out"], ConfigError, "credentials"),
    ],
)
def test_slips_are_told_before_a_model_is_opened(photos, words, error, told):
    result = predict("no-such-run", *words)
    assert isinstance(result.exception, error)
    assert told in str(result.exception)


def test_the_function_takes_a_folder_in_a_bucket_and_an_image_of_it(lawn_run, photos):
    several, one = (
        featherseg.predict(lawn_run, "s3://b/in"),
        featherseg.predict(lawn_run, "s3://b/in/1.png"),
    )
    expected = featherseg.predict(lawn_run, photos)
    assert all(
        (found.mask == there.mask).all() for found, there in zip(several, expected, strict=True)
    )
    assert (one.mask == expected[1].mask).all()
    assert one.name == "1"
