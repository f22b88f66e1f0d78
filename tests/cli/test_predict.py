import os
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from support.models.small_run import small_info
from support.processes.command import command

from featherseg import models
from featherseg.cli.predict import predict
from featherseg.core.errors import ConfigError, DataError, FeathersegError, UnknownName
from featherseg.core.files import unique_names
from featherseg.data.datasets.cityscapes_labels import CITYSCAPES_CLASSES, LABEL_IDS
from featherseg.inference.output import Output
from featherseg.runs.run import open_run, save_weights, write_info

run = command(predict)


@pytest.fixture
def photos(tmp_path: Path) -> Path:
    """Three images, two of them of one stem, and a file that is none."""
    folder = tmp_path / "photos"
    folder.mkdir()
    for name in ("a.png", "a.jpg", "b.webp"):
        Image.fromarray(
            np.random.default_rng(1).integers(0, 256, (64, 70, 3)).astype(np.uint8)
        ).save(folder / name)
    (folder / "notes.txt").write_text("no image")
    return folder


def test_a_folder_gives_three_files_an_image_and_names_stay_apart(lawn_run, photos, tmp_path):
    out = tmp_path / "out"
    result = run(lawn_run, photos, "-o", out)
    assert result.exit_code == 0
    kinds = ("color", "mask", "overlay")
    assert sorted(file.name for file in out.glob("*.png")) == sorted(
        f"{n}_{k}.png" for n in ("a", "a-2", "b") for k in kinds
    )
    assert "3 images" in result.stdout
    assert f"\na-2 ({photos / 'a.png'}): 64x70, whole" in f"\n{result.stdout}"
    assert "\na: 64x70, whole" in f"\n{result.stdout}"
    with Image.open(out / "b_mask.png") as mask:
        assert (mask.mode, mask.size) == ("P", (70, 64))
        assert np.array(mask).max() < 2


def test_a_folder_that_is_called_like_an_image_holds_the_files_of_all(lawn_run, photos, tmp_path):
    out = tmp_path / "out.png"
    out.mkdir()
    assert run(lawn_run, photos, "-o", out).exit_code == 0
    assert len(list(out.glob("*.png"))) == 9


def test_masks_alone_are_those_of_the_other_runs(lawn_run, photos, tmp_path):
    assert run(lawn_run, photos, "-o", tmp_path / "all").exit_code == 0
    result = run(lawn_run, photos, "-o", tmp_path / "masks", "--masks")
    assert "3 images: NAME_mask.png in" in result.stdout
    written = {file.name: file.read_bytes() for file in (tmp_path / "masks").glob("*.png")}
    assert written == {
        file.name: file.read_bytes() for file in (tmp_path / "all").glob("*_mask.png")
    }


def test_a_disk_that_refuses_ends_the_run_with_its_message(lawn_run, photos, tmp_path, monkeypatch):
    monkeypatch.setattr(
        os, "replace", lambda *paths: (_ for _ in ()).throw(OSError(28, "No space left on device"))
    )
    result = run(lawn_run, photos, "-o", tmp_path / "out")
    assert isinstance(result.exception, FeathersegError)
    assert "No space left" in str(result.exception)
    assert os.listdir(tmp_path / "out") == ["predictions.jsonl"]


def test_a_single_image_prints_its_shares(lawn_run, photos, tmp_path):
    result = run(lawn_run, photos / "b.webp", "-o", tmp_path / "out")
    assert "100.0%" in result.stdout or ("grass" in result.stdout and "path" in result.stdout)


def test_a_training_that_was_stopped_is_told(lawn_run, photos, tmp_path):
    assert "NOTE" not in run(lawn_run, photos / "a.png", "-o", tmp_path / "before").stdout
    (lawn_run / "last.ckpt").touch()
    result = run(lawn_run, photos / "a.png", "-o", tmp_path / "out")
    assert f"NOTE: {open_run(lawn_run).how_far}.\n" in result.stdout
    assert "its training was stopped" in result.stdout


def test_a_bad_image_in_a_folder_is_named_and_the_others_go_on(lawn_run, photos, tmp_path):
    (photos / "a.jpg").write_bytes(b"\xff\xd8 cut short")
    result = run(lawn_run, photos, "-o", tmp_path / "out", "--batch", 2)
    assert result.exit_code == 1
    assert "a.jpg cannot be read" in result.stdout
    assert (tmp_path / "out" / "b_mask.png").exists()
    assert len(list((tmp_path / "out").glob("*.png"))) == 6


def test_a_single_bad_image_is_an_error_and_the_only_one_of_a_folder_is_left_out(
    lawn_run, photos, tmp_path
):
    (photos / "a.jpg").write_bytes(b"\xff\xd8 cut short")
    result = run(lawn_run, photos / "a.jpg", "-o", tmp_path / "out")
    assert isinstance(result.exception, DataError)
    (tmp_path / "alone").mkdir()
    (photos / "a.jpg").rename(tmp_path / "alone" / "a.jpg")
    result = run(lawn_run, tmp_path / "alone", "-o", tmp_path / "out")
    assert result.exit_code == 1
    assert "1 of 1 left out" in result.stdout


def test_files_that_are_there_are_not_replaced_unasked(lawn_run, photos, tmp_path):
    out = tmp_path / "out"
    out.mkdir()
    (out / "b_color.png").write_bytes(b"mine")
    result = run(lawn_run, photos, "-o", out)
    assert isinstance(result.exception, ConfigError)
    assert "b_color.png exists" in str(result.exception)
    assert [file.name for file in out.iterdir()] == ["b_color.png"]
    assert run(lawn_run, photos, "-o", out, "--overwrite").exit_code == 0


@pytest.mark.seconds
def test_the_same_command_goes_on_and_one_with_other_options_is_refused(
    lawn_run, photos, tmp_path, monkeypatch
):
    out = tmp_path / "out"
    (photos / "c.png").write_bytes((photos / "a.png").read_bytes()[:500])
    assert run(lawn_run, photos, "-o", out).exit_code == 1
    before = {file.name: file.stat().st_mtime_ns for file in out.glob("*.png")}
    Image.fromarray(np.zeros((64, 70, 3), np.uint8)).save(photos / "c.png")
    monkeypatch.chdir(tmp_path)  # the same images by another path
    result = run(lawn_run, "photos", "-o", "out")
    assert "3 of 4 images are in out already: going on with the others\nc: 64x70" in result.stdout
    assert "4 images: NAME_mask.png" in result.stdout
    again = run(lawn_run, photos, "-o", out)
    assert (again.exit_code, again.stdout) == (
        0,
        f"nothing left to do: 4 images predicted in {out}\n",
    )
    assert {name: (out / name).stat().st_mtime_ns for name in before} == before
    for options, told in (
        (["--tta", "flip"], "inference.flip was false, now true"),
        (["--masks"], "masks was false, now true"),
        (["--batch", 2, "--max-side", 64], "batch was 1, now 2; max_side was null, now 64"),
    ):
        error = run(lawn_run, photos, "-o", out, *options).exception
        assert isinstance(error, ConfigError)
        assert (
            f"out holds predictions with other settings: {told}. Give the earlier options"
            in str(error)
        )
    assert run(lawn_run, photos, "-o", out, "--tta", "flip", "--overwrite").exit_code == 0
    assert "nothing left" in run(lawn_run, photos, "-o", out, "--tta", "flip").stdout


def test_ctrl_c_says_how_to_go_on(lawn_run, photos, tmp_path, monkeypatch):
    save = Output.save

    def stop(output, *given, **more):
        save(output, *given, **more)
        raise KeyboardInterrupt

    monkeypatch.setattr(Output, "save", stop)
    assert "the same command does the rest" in run(lawn_run, photos, "-o", tmp_path / "out").stdout
    monkeypatch.setattr(Output, "save", save)
    assert "1 of 3 images are in" in run(lawn_run, photos, "-o", tmp_path / "out").stdout


def test_an_image_is_never_replaced_by_its_own_result(lawn_run, photos, tmp_path):
    picture = Image.new("RGB", (40, 30), (9, 9, 9))
    for name in ("c.png", "c_mask.png"):
        picture.save(tmp_path / name)
    result = run(
        lawn_run, tmp_path / "c.png", tmp_path / "c_mask.png", "-o", tmp_path, "--overwrite"
    )
    assert "c_mask.png is one of the images itself" in str(result.exception)
    assert np.array(Image.open(tmp_path / "c_mask.png")).shape == (30, 40, 3)


def test_paths_that_cannot_be_are_refused_before_work(lawn_run, photos, tmp_path):
    (tmp_path / "empty").mkdir()
    (tmp_path / "rides" / "day").mkdir(parents=True)
    (clip := tmp_path / "clip.mp4").touch()
    Image.new("RGB", (40, 30)).save(tmp_path / "rides" / "day" / "a.png")
    for arguments, named in (
        ((photos / "none.jpg",), "none.jpg does not exist"),
        ((tmp_path / "empty",), "has no images. Expected"),
        (
            (tmp_path / "rides",),
            f"has no images; {tmp_path / 'rides' / 'day'} has: name folders of images. Expected",
        ),
        ((photos, "-o", photos), "folder of the images itself"),
        ((photos, "-o", tmp_path / "out.png"), "out.png names an image: expected a folder"),
        ((photos, "-o", "s3://b/out.png"), "-o s3://b/out.png names an image"),
        ((photos, "--masks", "--submission", "cityscapes"), "a submission holds masks alone"),
        (
            (photos, "--probabilities", "npz", "--submission", "bdd100k"),
            "a submission holds masks alone",
        ),
        ((photos, "--probabilities", "npy"), "probabilities 'npy': expected npz or png"),
        ((clip, "--probabilities", "png"), "--probabilities is for images"),
        ((photos, "--to", "coco, cocoo"), "unknown format 'cocoo'. Did you mean 'coco'"),
        ((clip, "--to", "coco"), "--to is for images"),
    ):
        result = run("no-such-run", *arguments)
        assert isinstance(result.exception, FeathersegError)
        assert named in str(result.exception)


def test_an_image_much_larger_than_those_of_the_training_earns_one_hint(lawn_run, tmp_path):
    for name in ("c.png", "d.png"):
        Image.new("RGB", (160, 130), (9, 90, 9)).save(tmp_path / name)
    result = run(lawn_run, tmp_path / "c.png", tmp_path / "d.png", "-o", tmp_path / "out")
    assert result.stdout.count("--max-side 72") == 1
    shrunk = run(lawn_run, tmp_path / "c.png", "-o", tmp_path / "out2", "--max-side", 72)
    assert "hint" not in shrunk.stdout
    with Image.open(tmp_path / "out2" / "c_mask.png") as mask:
        assert mask.size == (160, 130)


def test_names_are_unique_also_where_case_does_not_count():
    files = [Path(name) for name in ("x/a.png", "y/A.jpg", "a-2.png", "z/a.png")]
    assert unique_names(files) == ["a", "A-2", "a-2-2", "a-3"]


@pytest.fixture
def street_run(tmp_path: Path) -> Path:
    """A run of the 19 classes of Cityscapes, untrained."""
    path = tmp_path / "street-run"
    path.mkdir()
    torch.manual_seed(0)
    save_weights(path, models.build("frm-lite0", 19).state_dict())
    write_info(path, small_info(CITYSCAPES_CLASSES))
    return path


@pytest.mark.seconds
@pytest.mark.parametrize(
    ("benchmark", "values"), [("cityscapes", LABEL_IDS), ("bdd100k", range(19))]
)
def test_a_submission_holds_one_mask_an_image_and_nothing_else(
    street_run, tmp_path, benchmark, values
):
    for city in ("berlin", "bielefeld"):  # as in leftImg8bit/test
        image = tmp_path / "test" / city / f"{city}_000000_000019_leftImg8bit.png"
        image.parent.mkdir(parents=True)
        Image.fromarray(
            np.random.default_rng(1).integers(0, 256, (64, 96, 3)).astype(np.uint8)
        ).save(image)
    cities = sorted((tmp_path / "test").iterdir())
    plain, out = tmp_path / "plain", tmp_path / "out"
    assert run(street_run, *cities, "-o", plain).exit_code == 0
    result = run(street_run, *cities, "-o", out, "--submission", benchmark)
    assert result.exit_code == 0
    assert "2 images: NAME.png in" in result.stdout
    names = ["berlin_000000_000019_leftImg8bit", "bielefeld_000000_000019_leftImg8bit"]
    assert sorted(file.name for file in out.iterdir()) == [
        *(f"{name}.png" for name in names),
        "predictions.jsonl",
    ]
    for name in names:
        with (
            Image.open(out / f"{name}.png") as mask,
            Image.open(plain / f"{name}_mask.png") as indices,
        ):
            assert (mask.mode, mask.size) == ("L", (96, 64))
            np.testing.assert_array_equal(np.array(mask), np.array(values)[np.array(indices)])
    again = run(street_run, *cities, "-o", out, "--submission", benchmark)
    assert (again.exit_code, again.stdout) == (
        0,
        f"nothing left to do: 2 images predicted in {out}\n",
    )
    assert (
        run(street_run, *cities, "-o", out, "--submission", benchmark, "--overwrite").exit_code == 0
    )


def test_a_submission_of_other_classes_or_to_nobody_or_of_two_of_a_name_is_refused(
    lawn_run, street_run, photos
):
    out = photos / "out"
    result = run(lawn_run, photos / "b.webp", "-o", out, "--submission", "cityscapes")
    assert isinstance(result.exception, ConfigError)
    assert "lawn-run has 2 classes (grass, path)" in str(result.exception)
    result = run(lawn_run, photos / "b.webp", "-o", out, "--submission", "cityscape")
    assert isinstance(result.exception, UnknownName)
    assert "Did you mean 'cityscapes'" in str(result.exception)
    result = run(street_run, photos, "-o", out, "--submission", "cityscapes")
    assert isinstance(result.exception, ConfigError)
    assert "two images have the same name" in str(result.exception)
    assert not out.exists()


@pytest.mark.seconds
def test_objects_are_not_written_through_a_linked_folder(photos, tmp_path, tmp_path_factory):
    elsewhere, path, out = tmp_path_factory.mktemp("elsewhere"), tmp_path / "run", tmp_path / "out"
    path.mkdir()
    save_weights(path, models.build("rsp-lite0-panoptic", len(CITYSCAPES_CLASSES)).state_dict())
    write_info(path, small_info(CITYSCAPES_CLASSES, model="rsp-lite0-panoptic"))
    out.mkdir()
    (out / "panoptic").symlink_to(elsewhere)
    result = run(path, photos / "b.webp", "-o", out)
    assert isinstance(result.exception, FeathersegError)
    assert "panoptic is a symbolic link" in str(result.exception)
    assert not os.listdir(elsewhere)
