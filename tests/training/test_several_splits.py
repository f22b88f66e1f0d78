"""Training on ["train", "val"]: without a split to choose by, the last weights are kept."""

import numpy as np
import pytest
from PIL import Image
from support.models.small_training import Silent, request

import featherseg
from featherseg.core.errors import ConfigError, UnknownName
from featherseg.data import open_dataset
from featherseg.recipe.reading import parse_recipe, read_recipe
from featherseg.runs.run import open_run
from featherseg.training import train

pytestmark = pytest.mark.usefixtures("tiny")


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    reporter = Silent()
    out = tmp_path_factory.mktemp("runs") / "both"
    short = request('data.train_split=["val", "test"]', "data.train_size=8", "train.epochs=1")
    return train(short, out, reporter), reporter.messages


def test_splits_are_joined_in_their_order_and_no_sample_is_lost():
    data = open_dataset("shapes", "val+test")
    parts = [open_dataset("shapes", split) for split in ("val", "test")]
    assert data.keys == [key for part in parts for key in part.keys]
    assert (data[205].image == parts[1][5].image).all()
    assert (data.label(3) == parts[0].label(3)).all()
    with pytest.raises(UnknownName, match="unknown split of shapes 'trian'"):
        open_dataset("shapes", "val+trian")


def test_files_of_several_splits_are_joined(tmp_path):
    (tmp_path / "dataset.toml").write_text(
        'name = "a"\nimages = "images"\nmasks = "masks"\nclasses = ["b", "c"]\n'
        '[splits]\ntrain = "train"\n'
        'val = "val"\n[map]\n0 = "b"\n1 = "c"\n'
    )
    for key in ("train/1", "train/2", "val/1"):
        for kind, shape in (("images", (4, 4, 3)), ("masks", (4, 4))):
            path = tmp_path / kind / f"{key}.png"
            path.parent.mkdir(parents=True, exist_ok=True)
            Image.fromarray(np.zeros(shape, np.uint8)).save(path)
    assert open_dataset(str(tmp_path / "dataset.toml"), "train+val").keys == [
        "train/1",
        "train/2",
        "val/1",
    ]


def test_the_last_weights_are_kept_and_nothing_is_called_selected(run):
    trained, messages = run
    assert any(
        "val is trained on too: the last weights are kept" in message for message in messages
    )
    assert trained.recipe.train.keep == "last"
    assert trained.recipe.data.train_split == "val+test"
    assert open_run(trained.path).recipe == trained.recipe
    scores = featherseg.evaluate(trained, split="val")
    assert not scores.selected
    assert "this run was trained on val: that says nothing of other images" in scores.notes


@pytest.mark.parametrize(
    ("trained_on", "validated_on"), [("val+test", "val+train"), ("val", "val")]
)
def test_so_they_are_whatever_the_splits_are_called(trained_on, validated_on, tmp_path):
    reporter = Silent()
    splits = (f"data.train_split={trained_on}", f"data.val_split={validated_on}")
    short = request(
        *splits, "data.train_size=8", "data.val_size=8", "train.epochs=1", "train.validations=1"
    )
    run = train(short, tmp_path / "run", reporter)
    assert any(
        f"{validated_on} is trained on too: the last weights" in message
        for message in reporter.messages
    )
    assert run.recipe.train.keep == "last"
    assert not run.selected_on("val")
    train(short, tmp_path / "run", Silent(), resume=True)  # the same recipe, which says "best"
    with pytest.raises(ConfigError, match=r"train\.patience: .* is trained on"):
        train(request(*splits, "train.patience=2"), tmp_path / "other", Silent())
    assert not (tmp_path / "other").exists()


def test_a_recipe_may_say_so_in_a_list_and_best_is_never_kept_by_images_trained_on():
    recipe = parse_recipe(
        read_recipe("frm-lite0"), ['data.train_split=["train", "val"]', "train.keep=best"]
    )
    assert (recipe.data.train_split, recipe.train.keep) == ("train+val", "last")
    other = parse_recipe(
        read_recipe("frm-lite0"), ['data.train_split=["train", "val"]', "data.val_split=test"]
    )
    assert other.train.keep == "best"
    with pytest.raises(ConfigError, match=r"train\.patience: val is trained on"):
        parse_recipe(
            read_recipe("frm-lite0"), ['data.train_split=["train", "val"]', "train.patience=3"]
        )
