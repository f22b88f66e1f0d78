"""A run resumes only on its own data: each change is named before a step is taken."""

import os
import shutil

import numpy as np
import pytest
from PIL import Image
from support.models.small_training import YARD, Killed, KilledAt, Silent, request

import featherseg
from featherseg.core.errors import DataError, FeathersegError
from featherseg.data import open_dataset
from featherseg.data.cache.fingerprint import Fingerprint
from featherseg.data.cache.prepared import Storage
from featherseg.data.cache.prepared_writer import prepare_data
from featherseg.training import Request, train

pytestmark = pytest.mark.usefixtures("tiny")


@pytest.fixture(scope="module")
def begun(tmp_path_factory):
    """A dataset of six images, and a run on it that was stopped after its first step."""
    folder, rng = tmp_path_factory.mktemp("begun"), np.random.default_rng(0)
    for number in range(8):
        for kind, pixels in (
            ("images", rng.integers(0, 256, (64, 96, 3))),
            ("masks", rng.integers(0, 3, (64, 96))),
        ):
            (folder / "yard" / kind).mkdir(parents=True, exist_ok=True)
            Image.fromarray(pixels.astype(np.uint8)).save(folder / "yard" / kind / f"{number}.png")
    (folder / "yard" / "dataset.toml").write_text(YARD)
    (folder / "yard" / "train.txt").write_text("0\n1\n2\n3\n")
    (folder / "yard" / "val.txt").write_text("4\n5\n")
    data = str(folder / "yard" / "dataset.toml")
    with pytest.raises(Killed):
        train(request("train.checkpoint_seconds=1e-9", data=data), folder / "run", KilledAt(2))
    return folder


@pytest.fixture
def moved(begun, tmp_path):
    """The same in another place, where it may be changed."""
    return shutil.copytree(begun, tmp_path / "moved")


def edit(path, old, new):
    text = path.read_text()
    assert old in text
    path.write_text(text.replace(old, new))


def go_on(folder, reporter=None):
    data = str(folder / "yard" / "dataset.toml")
    return train(Request(None, data), folder / "run", reporter or Silent(), resume=True)


@pytest.mark.seconds
def test_a_run_whose_data_were_moved_is_scored_where_they_lie_now(moved, begun):
    edit(moved / "run" / "resolved.json", str(begun), "/no/longer/there")
    data = str(moved / "yard" / "dataset.toml")
    for _ in range(2):  # it goes on, then it is finished
        run = featherseg.train(None, data, out=moved / "run", resume=True, progress=Silent())
        assert [line["split"] for line in run.evaluations()][-1] == "val"
        (moved / "run" / "report.html").unlink()


CHANGES = {
    "[map] 1 was path, is plant": lambda y: edit(
        y / "dataset.toml", '1 = "path"\n2 = "plant"', '1 = "plant"\n2 = "path"'
    ),
    "[map] 9 was not there, is grass": lambda y: edit(
        y / "dataset.toml", "[map]", '[map]\n9 = "grass"'
    ),
    "class 2 was 'plant', is 'weed'": lambda y: edit(y / "dataset.toml", "plant", "weed"),
    "class 0 was 'grass', is 'path'": lambda y: edit(
        y / "dataset.toml", '["grass", "path"', '["path", "grass"'
    ),
    "class 3 'sky' is new": lambda y: (y / "dataset.toml").write_text(
        YARD.replace('"plant"]', '"plant", "sky"]') + '3 = "sky"\n'
    ),
    "2 images added to train: 6, 7": lambda y: edit(y / "train.txt", "3\n", "3\n6\n7\n"),
    "1 image removed from train: 1": lambda y: edit(y / "train.txt", "1\n", ""),
    "1 image removed from val: 4": lambda y: (
        edit(y / "train.txt", "3\n", "3\n4\n"),
        edit(y / "val.txt", "4\n", ""),
    ),
    "the images of train are in a different order": lambda y: edit(
        y / "train.txt", "0\n1\n", "1\n0\n"
    ),
    "2 masks of train changed: 0, 1": lambda y: [
        shutil.copy(y / "masks" / "7.png", y / "masks" / f"{number}.png") for number in (0, 1)
    ],
    "1 image of val changed: 5": lambda y: shutil.copy(
        y / "images" / "7.png", y / "images" / "5.png"
    ),
}


@pytest.mark.parametrize("named", CHANGES)
def test_data_that_changed_are_refused_and_the_change_is_named(moved, named):
    CHANGES[named](moved / "yard")
    before = {path: path.read_bytes() for path in (moved / "run").rglob("*") if path.is_file()}
    with pytest.raises(DataError) as told:
        go_on(moved)
    assert named in str(told.value)
    after = {path: path.read_bytes() for path in (moved / "run").rglob("*") if path.is_file()}
    assert after == before


def test_files_with_the_same_size_and_times_are_told_apart_after_a_rename(moved):
    """Two masks exchanged by renaming keep sizes and modification times; ctime differs."""
    masks = moved / "yard" / "masks"
    (masks / "0.png").write_bytes((masks / "0.png").read_bytes().ljust(9000, b"\0"))
    (masks / "1.png").write_bytes((masks / "1.png").read_bytes().ljust(9000, b"\0"))
    for name in ("0.png", "1.png"):
        os.utime(masks / name, ns=(0, 10**18))
    data = {"train": open_dataset(str(moved / "yard" / "dataset.toml"), "train")}
    known = Fingerprint.of(data)
    for before, after in (("0.png", "x"), ("1.png", "0.png"), ("x", "1.png")):
        (masks / before).rename(masks / after)
    assert known.differences(data) == ["2 masks of train changed: 0, 1"]


def test_the_same_data_in_another_place_are_accepted(begun, moved):
    assert max(go_on(moved).metrics()) == 2
    edit(moved / "yard" / "dataset.toml", "plant", "weed")
    with pytest.raises(DataError, match="'weed'"):  # of a finished run too
        go_on(moved)


def test_an_unchanged_file_is_not_read_again(moved, monkeypatch):
    data = {"train": open_dataset(str(moved / "yard" / "dataset.toml"), "train")}
    monkeypatch.setattr("featherseg.data.cache.prepared.SETTLED_SECONDS", -1e9)
    known, read = Fingerprint.of(data), []
    monkeypatch.setattr("featherseg.data.cache.prepared.file_digest", read.append)
    assert known.differences(data) == []
    assert not read


def test_a_run_from_before_goes_on_with_a_note_and_its_classes_are_compared(moved):
    (moved / "run" / "data.json").unlink()
    edit(moved / "yard" / "dataset.toml", "plant", "weed")
    with pytest.raises(DataError, match="class 2 was 'plant', is 'weed'"):
        go_on(moved)
    edit(moved / "yard" / "dataset.toml", "weed", "plant")
    reporter = Silent()
    go_on(moved, reporter)
    assert any("cannot be checked" in message for message in reporter.messages)
    assert (moved / "run" / "data.json").is_file()


def test_images_that_were_prepared_with_a_loss_meanwhile_are_refused(moved, monkeypatch):
    monkeypatch.delenv("FEATHERSEG_CACHE", raising=False)
    prepare_data(str(moved / "yard" / "dataset.toml"), "train", storage=Storage(60))
    with pytest.raises(
        DataError, match="prepared differently: as in their files; now 4 of 4 images as JPEG"
    ):
        go_on(moved)


@pytest.mark.parametrize("damage", ["[", "3", '{"channels": "x"}', "[" * 100_000])
def test_a_damaged_fingerprint_gets_a_message(moved, damage):
    (moved / "run" / "data.json").write_text(damage)
    with pytest.raises(FeathersegError, match=r"data\.json"):
        go_on(moved)


def test_a_generated_dataset_is_known_by_its_samples():
    known = Fingerprint.of({"train": open_dataset("shapes", "train", size=4)})
    assert known.differences({"train": open_dataset("shapes", "train", size=4)}) == []
    assert (
        "1 image removed from train: "
        in known.differences({"train": open_dataset("shapes", "train", size=3)})[0]
    )


def test_a_finished_run_stands_for_the_data_it_was_trained_on_alone(moved):
    asked, reporter = request("train.epochs=1", data=str(moved / "yard" / "dataset.toml")), Silent()
    train(asked, moved / "new", Silent())
    mask = moved / "yard" / "masks" / "1.png"
    kept = mask.read_bytes()
    Image.fromarray(np.zeros((64, 96), np.uint8)).save(mask)
    with pytest.raises(DataError, match=r"new are not those .*: 1 mask of train changed: 1\."):
        train(asked, moved / "new", Silent(), resume=True)
    mask.write_bytes(kept)
    train(asked, moved / "new", reporter, resume=True)
    shutil.rmtree(moved / "yard")  # it needs them no longer
    train(asked, moved / "new", reporter, resume=True)
    assert sum("is finished" in message for message in reporter.messages) == 2
