"""Datasets in buckets: what is copied, announced first, and updated when the bucket changes."""

import logging
import shutil
from collections import namedtuple

import numpy as np
import pytest
from support.data.lawn import TOML, png
from support.servers.fake_bucket import install

import featherseg
from featherseg.core.errors import ConfigError, DataError, DataNotFound
from featherseg.core.storage import is_remote
from featherseg.data import LabelledImages, open_dataset, score_split
from featherseg.data.cache import mirror
from featherseg.recipe.reading import parse_recipe, read_recipe, with_absolute_paths
from featherseg.training.objects import NAMES_ALONE
from featherseg.training.open import open_unlabelled

LATE = TOML.replace('val = "val"', 'test = "late.txt"').encode()


def gray(value):
    return png(np.full((8, 9, 3), value, np.uint8))


@pytest.fixture
def bucket(monkeypatch, tmp_path):
    return install(monkeypatch, tmp_path / "home")


@pytest.fixture
def lawn(bucket):
    """s3://yard/lawn/dataset.toml with three images, and beside it what belongs to others."""
    files = {"dataset.toml": LATE, "late.txt": b"val/c\n", "other/huge.bin": b"x" * 1000}
    for number, key in enumerate(("train/a", "train/b", "val/c")):
        files[f"images/{key}.png"] = gray(60 * number)
        files[f"masks/{key}.png"] = png(np.full((8, 9), number % 2, np.uint8))
    bucket.objects = {f"yard/lawn/{name}": content for name, content in files.items()}
    return bucket


def again(bucket):
    """As another process would."""
    mirror.local_dataset.cache_clear()
    mirror.local_folder.cache_clear()
    bucket.asked.clear()


@pytest.mark.parametrize(
    "name", ["s3://yard/lawn/dataset.toml", "s3://yard/lawn", "s3://yard/lawn/"]
)
def test_a_dataset_in_a_bucket_is_read_like_one_on_the_disk(lawn, name):
    train = open_dataset(name, "train")
    assert train.keys == ["train/a", "train/b"]
    assert [int(train[index].image[0, 0, 0]) for index in range(2)] == [0, 60]
    assert [int(train[index].label.max()) for index in range(2)] == [0, 1]
    assert open_dataset(name, "test").keys == ["val/c"]
    assert score_split(name) == "test"
    assert LabelledImages(name, "train").is_of("s3://yard/lawn/dataset.toml")


def test_only_what_a_dataset_toml_names_is_copied(lawn, tmp_path):
    open_dataset("s3://yard/lawn/dataset.toml", "train")
    assert not (tmp_path / "home/mirror/s3/yard/lawn/other").exists()
    assert lawn.asked["read"] == 8  # the file itself, the list, three images and masks


def test_how_much_is_copied_is_said_before_the_first_file(lawn, caplog, monkeypatch):
    seen = []
    read = type(lawn).cat_file
    monkeypatch.setattr(
        type(lawn),
        "cat_file",
        lambda self, place: seen.append(len(caplog.messages)) or read(self, place),
    )
    with caplog.at_level(logging.INFO, "featherseg"):
        open_dataset("s3://yard/lawn/dataset.toml", "train")
    assert "7 files, 0.0 MB" in caplog.messages[0]
    assert seen[1] == 1  # the first file behind dataset.toml


def test_what_does_not_fit_on_the_disk_is_refused_before_it_is_fetched(lawn, monkeypatch):
    usage = namedtuple("usage", "total used free")
    monkeypatch.setattr(shutil, "disk_usage", lambda _: usage(10**9, 0, 10**9))
    with pytest.raises(DataError, match="FEATHERSEG_HOME"):
        open_dataset("s3://yard/lawn/dataset.toml", "train")
    assert lawn.asked["read"] == 0


def test_a_second_use_fetches_nothing_and_a_changed_file_alone(lawn):
    name = "s3://yard/lawn/dataset.toml"
    open_dataset(name, "train")
    again(lawn)
    open_dataset(name, "train")
    assert lawn.asked["read"] == 0
    value = next(
        value for value in range(61, 256) if len(gray(value)) == len(gray(60))
    )  # told by its version alone
    lawn.objects["yard/lawn/images/train/b.png"] = gray(value)
    again(lawn)
    assert open_dataset(name, "train")[1].image[0, 0, 0] == value
    assert lawn.asked["read"] == 1


def test_a_copy_that_was_spoiled_is_fetched_again(lawn, tmp_path):
    open_dataset("s3://yard/lawn", "train")
    (tmp_path / "home/mirror/s3/yard/lawn/images/train/a.png").write_bytes(b"")
    again(lawn)
    assert open_dataset("s3://yard/lawn", "train")[0].image.shape == (8, 9, 3)


def test_what_has_gone_from_the_bucket_goes_here_and_what_others_laid_here_stays(lawn, tmp_path):
    open_dataset("s3://yard/lawn", "train")
    folder = tmp_path / "home/mirror/s3/yard/lawn"
    (folder / "images/note.txt").write_text("mine")
    for kind in ("images", "masks"):
        del lawn.objects[f"yard/lawn/{kind}/train/b.png"]
    again(lawn)
    assert open_dataset("s3://yard/lawn", "train").keys == ["train/a"]
    assert not (folder / "images/train/b.png").exists()
    assert (folder / "images/note.txt").exists()


def test_a_copy_that_was_broken_off_goes_on_with_what_is_missing(lawn, tmp_path, monkeypatch):
    monkeypatch.setattr(mirror, "THREADS", 1)
    lawn.faults["s3://yard/lawn/masks/train/b.png"] = ConnectionError("gone")
    with pytest.raises(DataError, match="cannot be read"):
        open_dataset("s3://yard/lawn", "train")
    assert not (tmp_path / "home/mirror/s3/yard/lawn/masks/train/b.png").exists()
    lawn.faults.clear()
    before = lawn.asked["read"]
    again(lawn)
    assert open_dataset("s3://yard/lawn", "train").keys == ["train/a", "train/b"]
    assert 0 < lawn.asked["read"] < before


@pytest.mark.parametrize("part", ["../other", "/etc", "s3://other/images"])
def test_a_dataset_toml_in_a_bucket_names_folders_beside_it(lawn, part):
    lawn.objects["yard/lawn/dataset.toml"] = LATE.replace(b'"images"', f'"{part}"'.encode())
    with pytest.raises(ConfigError, match="expected folders beside it"):
        open_dataset("s3://yard/lawn/dataset.toml", "train")


@pytest.mark.parametrize("key", ["images/../../../up.png", "images//a.png", "images/a\\b.png"])
def test_a_name_that_leads_out_of_the_folder_is_refused(lawn, tmp_path, key):
    lawn.objects[f"yard/lawn/{key}"] = b"x"
    with pytest.raises(DataError, match="cannot be copied"):
        open_dataset("s3://yard/lawn/dataset.toml", "train")
    assert not list(tmp_path.rglob("up.png"))


def test_a_dataset_that_is_not_there_is_told(lawn):
    with pytest.raises(DataNotFound, match=r"s3://yard/missing/dataset\.toml"):
        open_dataset("s3://yard/missing/dataset.toml", "train")


def test_a_recipe_keeps_the_address_and_no_path_of_this_machine():
    recipe = parse_recipe(read_recipe("frm-lite0"), name="s3://yard/lawn/dataset.toml")
    assert is_remote(with_absolute_paths(recipe).data.name)
    with pytest.raises(ConfigError, match="credentials"):
        with_absolute_paths(
            parse_recipe(read_recipe("frm-lite0"), name="s3://me:secret@yard/dataset.toml")
        )


def test_predictions_in_a_bucket_are_scored(lawn):
    lawn.objects |= {
        f"b/masks/train_{key}.png": lawn.objects[f"yard/lawn/masks/train/{key}.png"] for key in "ab"
    }
    scores = featherseg.evaluate(data="s3://yard/lawn", split="train", predictions="s3://b/masks")
    assert scores.miou == 1.0


def test_images_without_masks_may_lie_in_a_bucket(lawn):
    lawn.objects |= {"b/more/x.png": gray(7), "b/more/y.png": gray(8)}
    recipe = parse_recipe(read_recipe("frm-lite0"), ['data.unlabelled="s3://b/more"'])
    lawn = open_dataset("s3://yard/lawn", "train")
    found = open_unlabelled(recipe, lawn, lawn, NAMES_ALONE)
    assert found.keys == ["x.png", "y.png"]
