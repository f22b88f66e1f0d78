"""A run from before sequences were kept together goes on with its own split and is scored on it."""

import hashlib
import json
import shutil

import numpy as np
import pytest
from PIL import Image
from support.models.small_training import Killed, KilledAt, Silent, request

import featherseg
from featherseg.core.errors import ConfigError
from featherseg.data import open_dataset
from featherseg.exporters.calibration import labelled_split, training_images
from featherseg.runs.run import open_run
from featherseg.training import train

pytestmark = pytest.mark.usefixtures("tiny")

TOML = """
name = "yard"
images = "images"
masks = "masks"
classes = ["grass", "path"]
[splits]
train = 0.6
val = 0.2
test = 0.2
[map]
0 = "grass"
1 = "path"
"""
KEYS = [f"clip{clip}_{frame}" for clip in range(5) for frame in range(5)]


def by_hash() -> dict[str, list[str]]:
    """Each image by the hash of its own name, as all were once."""
    splits = {"train": [], "val": [], "test": []}
    for key in sorted(KEYS):
        place = int.from_bytes(hashlib.sha256(key.encode()).digest()[:8]) / 2**64
        splits["train" if place < 0.6 else "val" if place < 0.8 else "test"].append(key)
    return splits


@pytest.fixture(scope="module")
def begun(tmp_path_factory):
    """Five clips of five images, a run that an old featherseg stopped at step 2, and a new one."""
    folder, rng = tmp_path_factory.mktemp("old"), np.random.default_rng(0)
    for key in KEYS:
        for kind, pixels in (
            ("images", rng.integers(0, 256, (64, 96, 3))),
            ("masks", rng.integers(0, 2, (64, 96))),
        ):
            (folder / "yard" / kind).mkdir(parents=True, exist_ok=True)
            Image.fromarray(pixels.astype(np.uint8)).save(folder / "yard" / kind / f"{key}.png")
    toml = folder / "yard" / "dataset.toml"
    toml.write_text(TOML)
    settings = (
        "data.train_size=100",
        "data.val_size=100",
        "train.epochs=1",
        "train.checkpoint_seconds=1e-9",
    )
    with pytest.raises(Killed):
        train(request(*settings, "data.split_by=hash", data=str(toml)), folder / "old", KilledAt(2))
    values = json.loads((folder / "old" / "resolved.json").read_text())
    del values["recipe"]["data"]["split_by"]  # older records say nothing of it
    (folder / "old" / "resolved.json").write_text(json.dumps(values))
    train(request(*settings, data=str(toml)), folder / "new", Silent())
    return folder


def test_the_split_of_a_dataset_is_no_longer_the_old_one(begun):
    toml = str(begun / "yard" / "dataset.toml")
    assert {split: open_dataset(toml, split).keys for split in by_hash()} != by_hash()
    assert {
        split: open_dataset(toml, split, split_by="hash").keys for split in by_hash()
    } == by_hash()


@pytest.mark.seconds
def test_an_old_run_goes_on_and_is_scored_on_the_split_it_was_trained_with(begun, tmp_path):
    run = shutil.copytree(begun / "old", tmp_path / "old")
    with pytest.raises(
        ConfigError, match=r"data.split_by is 'hash' in the run and 'sequence-2' now"
    ):
        train(
            request("data.split_by=sequence", data=str(begun / "yard" / "dataset.toml")),
            run,
            Silent(),
            resume=True,
        )
    featherseg.train(
        out=run, resume=True, report=False
    )  # its data.json holds every image of train and val
    for split, keys in by_hash().items():
        for data in (None, begun / "yard" / "dataset.toml"):
            found = featherseg.evaluate(run, data, split)
            assert list(found.per_image) == keys
    assert "the splits are those of its training, made by hash" in " ".join(found.notes)
    shutil.copytree(begun / "yard", tmp_path / "moved")  # other data, for all that is known
    assert (
        list(featherseg.evaluate(run, tmp_path / "moved" / "dataset.toml").per_image)
        == by_hash()["test"]
    )
    opened = open_run(run)
    assert labelled_split(opened).data.keys == by_hash()["val"]
    calibrated, checked = training_images(opened, 100, 0)
    assert set(calibrated.keys) | set(checked.keys) == set(by_hash()["train"])


def test_a_new_run_keeps_its_rule_whatever_its_dataset_toml_says_later(begun, tmp_path):
    shutil.copytree(begun / "yard", tmp_path / "yard")
    run = shutil.copytree(begun / "new", tmp_path / "new")
    info = json.loads((run / "resolved.json").read_text())
    assert info["recipe"]["data"]["split_by"] == "sequence-2"
    toml = begun / "yard" / "dataset.toml"
    before = list(featherseg.evaluate(run, split="test").per_image)
    toml.write_text('split_by = "image"\n' + TOML)
    try:
        assert list(featherseg.evaluate(run, split="test").per_image) == before
    finally:
        toml.write_text(TOML)
    assert len({key[:5] for key in before}) == 1  # one whole clip


def test_a_run_of_the_first_rule_of_sequences_keeps_it(begun, tmp_path):
    run = shutil.copytree(begun / "new", tmp_path / "new")
    text = (run / "resolved.json").read_text()
    (run / "resolved.json").write_text(
        text.replace('"sequence-2"', '"sequence"')
    )  # as it was recorded
    assert open_run(run).recipe.data.split_by == "sequence-1"
    assert "made by sequence-1" in " ".join(featherseg.evaluate(run, split="val").notes)
