from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from support.data.joined_splits import assert_joined

from featherseg.core.errors import DataError, DataNotFound
from featherseg.data import open_dataset
from featherseg.data.checks.check import check_data
from featherseg.runs.run import is_restricted

# from the README of the release: road, lane markings, undrivable, movable, my car
COLORS = ("#402020", "#ff0000", "#808060", "#00ff66", "#cc00ff")
TRAIN, VAL = "0000_0085e9e41513078a_2018-08-19--13-26-08_11_864", "0001_a23b0de0bc12dcba_3_149"


def write_release(base: Path) -> None:
    """Two images, one of them with a name that ends in 9; each row of a mask is one class."""
    mask = Image.new("RGB", (4, 5))
    for row, color in enumerate(COLORS):
        mask.paste(color, (0, row, 4, row + 1))
    for folder in ("imgs", "masks"):
        (base / folder).mkdir(parents=True)
    for key, color in ((TRAIN, "gray"), (VAL, "black")):
        Image.new("RGB", (4, 5), color).save(base / f"imgs/{key}.png")
        mask.save(base / f"masks/{key}.png")


@pytest.mark.parametrize("below", ["", "comma10k"])
def test_colours_are_classes_and_names_that_end_in_9_are_val(tmp_path, below):
    write_release(tmp_path / below)
    for split, key in (("train", TRAIN), ("val", VAL)):
        data = open_dataset("comma10k", split, tmp_path)
        assert data.keys == [key]
        np.testing.assert_array_equal(data[0].label, np.repeat(np.arange(5)[:, None], 4, axis=1))
    assert [info.name for info in data.classes][:2] == ["road", "lane markings"]
    assert not is_restricted(data.licence)
    assert_joined("comma10k", tmp_path, "train", "val")
    assert check_data("comma10k", tmp_path).clean


def test_a_colour_of_the_driver_s_camera_is_refused(tmp_path):
    write_release(tmp_path)
    Image.new("RGB", (4, 5), "#00ccff").save(tmp_path / f"masks/{VAL}.png")
    with pytest.raises(DataError, match=rf"{VAL}\.png holds .*comma10k's five colours"):
        open_dataset("comma10k", "val", tmp_path).label(0)


@pytest.mark.parametrize(
    ("folders", "sentence"),
    [([], "has no imgs/ beside masks/"), (["imgs", "masks"], "imgs has no images of train")],
)
def test_a_root_without_one_of_the_parts_is_told_which(tmp_path, folders, sentence):
    for folder in folders:
        (tmp_path / folder).mkdir()
    with pytest.raises(DataNotFound, match=sentence):
        open_dataset("comma10k", "train", tmp_path)
    with pytest.raises(DataNotFound, match="has no split test"):
        open_dataset("comma10k", "test", tmp_path)
