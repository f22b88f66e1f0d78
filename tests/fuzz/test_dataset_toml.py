"""dataset.toml as nobody writes it: a dataset that reads, or a sentence."""

import numpy as np
import pytest
from hypothesis import strategies as st
from PIL import Image
from support.processes.fuzzing import BUDGETS, change_bytes, change_toml, fuzz, mutations, told

from featherseg.core.errors import FeathersegError
from featherseg.data import open_dataset
from featherseg.data.datasets.dataset_toml import DatasetToml, read_dataset_toml, toml_text

PLAIN = b"""name = "yard"
images = "images"
masks = "masks"
licence = "CC0"
[splits]
train = "train"
val = "val"
[classes]
ground = "#808080"
"a thing" = "#c00000"
[map]
0 = "ground"
1 = "a thing"
255 = "ignore"
"""
SHARES = (
    PLAIN.replace(b'train = "train"\nval = "val"', b"train = 0.5\nval = 0.5")
    .replace(b'[classes]\nground = "#808080"\n"a thing" = "#c00000"\n', b"")
    .replace(
        b"licence", b'classes = ["ground", "a thing"]\nmask_suffix = ""\nchannels = 3\nlicence'
    )
)
COLORS = (
    PLAIN.replace(b"0 =", b'"#000000" =', 1)
    .replace(b"1 =", b'"#010101" =', 1)
    .replace(b"255 =", b'"#ffffff" =', 1)
)
LAYERS = (
    (
        PLAIN.replace(b'images = "images"\nmasks = "masks"', b'images = "sets/*/images"')
        .replace(b'train = "train"\nval = "val"', b"train = 1.0")
        .replace(b'1 = "a thing"\n', b"")
        .replace(b'255 = "ignore"\n', b'7 = "ignore"\n')
    )
    + b"""[[layer]]
class = "a thing"
masks = "sets/*/things"
suffix = "_thing"
optional = true
"""
)


@pytest.fixture
def yard(tmp_path):
    """Two images of train, one of val."""
    for split, number in (("train", 0), ("train", 1), ("val", 2)):
        for folder in ("images", "masks"):
            (tmp_path / folder / split).mkdir(parents=True, exist_ok=True)
        Image.fromarray(np.zeros((8, 8, 3), np.uint8)).save(
            tmp_path / "images" / split / f"{number}.png"
        )
        Image.fromarray(np.eye(8, dtype=np.uint8)).save(
            tmp_path / "masks" / split / f"{number}.png"
        )
    for folder, name in (("images", "0.png"), ("things", "0_thing.png")):
        (tmp_path / "sets/a" / folder).mkdir(parents=True)
        Image.fromarray(np.eye(8, dtype=np.uint8)).convert("RGB").save(
            tmp_path / "sets/a" / folder / name
        )
    return tmp_path


@pytest.mark.parametrize(
    "text", [PLAIN, SHARES, COLORS, LAYERS], ids=["folders", "shares", "colours", "layers"]
)
def test_the_file_that_is_mutated_is_sound(yard, text):
    (yard / "dataset.toml").write_bytes(text)
    assert open_dataset(str(yard / "dataset.toml"), "train")[0].label.max() == 1


@pytest.mark.seconds
@BUDGETS
def test_any_dataset_toml_is_read_or_refused_in_a_sentence(yard, seconds, seed):
    path = yard / "dataset.toml"

    def target(case):
        text, mutate = case
        path.write_bytes(mutate(text))
        try:
            found = read_dataset_toml(path)
            again = yard / "again.toml"
            again.write_text(toml_text(found), encoding="utf-8")
            assert read_dataset_toml(again) == found
            assert isinstance(found, DatasetToml)
            data = open_dataset(str(path), "train")
            assert data[0].label.max() in (*range(len(data.classes)), 255)
        except FeathersegError as error:
            told(error)

    fuzz(
        target,
        st.tuples(
            st.sampled_from([PLAIN, SHARES, COLORS, LAYERS]), mutations(change_toml, change_bytes)
        ),
        seconds,
        seed,
    )
