import json
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from support.data.joined_splits import assert_joined
from support.data.matlab_file import write_matrix
from support.golden.golden_make import GOLDEN, digest

from featherseg.core.errors import DataError, DataNotFound
from featherseg.data import dataset_facts, open_dataset
from featherseg.data.checks.check import check_data
from featherseg.data.datasets.class_lists import read_classes
from featherseg.data.datasets.coco_stuff import CocoStuff10k, CocoStuff164k
from featherseg.data.images.palettes import voc_palette
from featherseg.runs.run import RESTRICTED

UNUSED = (12, 26, 29, 30, 45, 66, 68, 69, 71, 83, 91)  # category ids without a segmentation
USED = [i for i in range(1, 183) if i not in UNUSED]
STEM_164K, STEM_10K = "000000000009", "COCO_train2014_000000000077"
LABEL = np.array([[*range(171), 255]], np.uint8)  # every class id once


def write_image(path: Path) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    seed = sum(str(path.name).encode())
    Image.fromarray(np.random.default_rng(seed).integers(0, 256, (1, 172, 3), dtype=np.uint8)).save(
        path
    )


def write_mask(path: Path, values: list[int] | np.ndarray) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(np.array(values, np.uint8).reshape(1, -1)).save(path)


@pytest.fixture
def large(tmp_path: Path) -> Path:
    """The 164k release in small: two images in train, one in val."""
    for split, stem in (("train", STEM_164K), ("train", "000000000025"), ("val", "000000000139")):
        write_image(tmp_path / f"images/{split}2017/{stem}.jpg")
        write_mask(tmp_path / f"annotations/{split}2017/{stem}.png", [*(i - 1 for i in USED), 255])
    return tmp_path


@pytest.fixture
def small(tmp_path: Path) -> Path:
    """The 10k release in small: one image a list, and one in none."""
    for stem in (STEM_10K, "COCO_train2014_000000000081", "COCO_train2014_000000000092"):
        write_image(tmp_path / f"images/{stem}.jpg")
        write_matrix(tmp_path / f"annotations/{stem}.mat", np.array([[*USED, 0]], np.uint16))
    (tmp_path / "imageLists").mkdir()
    (tmp_path / "imageLists/train.txt").write_text(f"{STEM_10K}\n")
    (tmp_path / "imageLists/test.txt").write_text("COCO_train2014_000000000081\n")
    return tmp_path


def convert(root: Path, year: int, parts: dict[str, list[str]], values: list[int]) -> None:
    """What mmsegmentation's converters write beside a release."""
    for part, stems in parts.items():
        for stem in stems:
            write_image(root / f"images/{part}{year}/{stem}.jpg")
            write_mask(root / f"annotations/{part}{year}/{stem}_labelTrainIds.png", values)


def test_164k_as_released_holds_the_category_id_less_one(large):
    data = CocoStuff164k(large, "train")
    np.testing.assert_array_equal(data.label(0), LABEL)
    write_mask(
        large / f"annotations/train2017/{STEM_164K}.png", [0, 10, 12, 91, 181, 255, *[255] * 166]
    )
    names = [data.classes[i].name for i in data.label(0)[0, :5]]
    assert names == ["person", "fire hydrant", "stop sign", "banner", "wood"]


def test_164k_as_converted_holds_the_class_id_and_is_not_shifted(large):
    convert(large, 2017, {"val": ["000000000139"]}, [*range(171), 255])
    (large / "annotations/val2017/000000000139.png").unlink()
    data = CocoStuff164k(large, "val")
    assert data.keys == ["000000000139"]
    np.testing.assert_array_equal(data.label(0), LABEL)


def test_10k_as_released_holds_the_category_id(small):
    data = CocoStuff10k(small, "train")
    assert data.keys == [STEM_10K]
    np.testing.assert_array_equal(data.label(0), LABEL)
    write_matrix(
        small / f"annotations/{STEM_10K}.mat", np.array([[1, 11, 13, 92, 182, 0]], np.uint8)
    )
    assert data.label(0).tolist() == [[0, 10, 11, 80, 170, 255]]


def test_10k_as_converted_holds_the_class_id_plus_one(small):
    convert(
        small,
        2014,
        {"train": [STEM_10K], "test": ["COCO_train2014_000000000081"]},
        [*range(1, 172), 0],
    )
    for path in (small / "annotations").glob("*.mat"):
        path.unlink()
    for split, key in (("train", STEM_10K), ("val", "COCO_train2014_000000000081")):
        data = CocoStuff10k(small, split)
        assert data.keys == [key]
        np.testing.assert_array_equal(data.label(0), LABEL)


def test_masks_as_released_come_before_those_that_a_converter_wrote_beside_them(large):
    convert(large, 2017, {"train": [STEM_164K, "000000000025"]}, [3] * 172)
    data = CocoStuff164k(large, "train")
    assert data.keys == [STEM_164K, "000000000025"]
    np.testing.assert_array_equal(data.label(0), LABEL)


def test_the_10k_release_comes_before_its_conversion(small):
    convert(small, 2014, {"train": [STEM_10K]}, [3] * 172)
    np.testing.assert_array_equal(CocoStuff10k(small, "train").label(0), LABEL)


@pytest.mark.parametrize("unused", UNUSED)
def test_ids_that_no_mask_holds_are_refused_in_either_release(large, unused):
    """They give away masks whose numbers were closed up, but not their names."""
    write_mask(large / f"annotations/train2017/{STEM_164K}.png", [unused - 1] * 172)
    with pytest.raises(
        DataError, match=rf"{STEM_164K}\.png holds value {unused - 1} .*converted to 0 to 170"
    ):
        CocoStuff164k(large, "train").label(0)


@pytest.mark.parametrize("unused", [*UNUSED, 183])
def test_masks_of_version_1_0_are_told_by_ids_that_are_never_used(small, unused):
    write_matrix(small / f"annotations/{STEM_10K}.mat", np.full((1, 172), unused, np.uint8))
    with pytest.raises(DataError, match=rf"{STEM_10K}\.mat holds value {unused} .*version 1\.0"):
        CocoStuff10k(small, "train").label(0)


@pytest.mark.parametrize("value", [171, 181, 254])
def test_converted_164k_masks_hold_nothing_above_170(large, value):
    convert(large, 2017, {"val": ["000000000139"]}, [value] * 172)
    (large / "annotations/val2017/000000000139.png").unlink()
    with pytest.raises(DataError, match=rf"holds value {value} .*0 to 170"):
        CocoStuff164k(large, "val").label(0)


@pytest.mark.parametrize("value", [172, 255])
def test_converted_10k_masks_hold_nothing_above_171(small, value):
    convert(small, 2014, {"test": ["COCO_train2014_000000000081"]}, [value] * 172)
    for path in (small / "annotations").glob("*.mat"):
        path.unlink()
    with pytest.raises(DataError, match=rf"holds value {value} .*1 to 171"):
        CocoStuff10k(small, "val").label(0)


@pytest.mark.parametrize("value", [182, 183])
def test_a_stuff_only_mask_is_refused_by_name(large, value):
    """There 92 to 182 are stuff and 183 stands for all things."""
    mask = np.array([[92, 105, 156, value]], np.uint8)
    Image.fromarray(mask).save(large / f"annotations/train2017/{STEM_164K}.png")
    with pytest.raises(
        DataError, match=r"holds value 18[23] .*stuff-only masks of the COCO-Stuff API"
    ):
        CocoStuff164k(large, "train").label(0)


@pytest.mark.parametrize("place", ["", "annotations"])
def test_the_folders_of_the_stuff_only_release_are_refused_by_name(large, place):
    (large / "annotations").rename(large / "other")
    (large / place / "stuff_train2017_pixelmaps").mkdir(parents=True)
    with pytest.raises(
        DataNotFound, match=r"pixelmaps, the stuff-only masks of the COCO-Stuff API.*stuffthingmaps"
    ):
        CocoStuff164k(large, "train")


def test_names_and_things_are_those_of_coco_s_own_tables():
    known = json.loads((GOLDEN / "class_tables.json").read_text())["coco-stuff"]
    names = {number: info.name for number, info in read_classes("coco_stuff").items()}
    assert digest(sorted(names.items())).items() <= known.items()
    assert [info.thing for info in CocoStuff164k.facts.classes] == [True] * 80 + [False] * 91


def test_the_171_names_and_colours_differ():
    classes = CocoStuff10k.facts.classes
    assert list(read_classes("coco_stuff")) == USED
    assert len({info.name for info in classes}) == 171
    assert [info.color for info in classes] == voc_palette(171)


def test_splits_are_train_and_val_of_both_releases(large):
    data = open_dataset("coco-stuff-164k", "val", large)
    assert data.keys == ["000000000139"]
    assert data[0].image.shape == (1, 172, 3)
    assert (
        data.classes
        == dataset_facts("coco-stuff-164k").classes
        == dataset_facts("coco-stuff-10k").classes
    )
    assert any(word in data.licence for word in RESTRICTED)
    assert {
        name: split.images for name, split in check_data("coco-stuff-164k", large).splits.items()
    } == {
        "train": 2,
        "val": 1,
    }


def test_val_of_10k_is_the_list_test(small):
    assert open_dataset("coco-stuff-10k", "val", small).keys == ["COCO_train2014_000000000081"]
    assert check_data("coco-stuff-10k", small).clean


def test_what_is_missing_is_named(small, tmp_path_factory):
    empty = tmp_path_factory.mktemp("empty")
    for reader, expected in (
        (CocoStuff164k, "stuffthingmaps"),
        (CocoStuff10k, r"cocostuff-10k-v1\.1\.zip"),
    ):
        with pytest.raises(DataNotFound, match=f"has no folder annotations.*{expected}"):
            reader(empty, "train")
    with pytest.raises(DataNotFound, match="has no readable mask in annotations"):
        CocoStuff164k(small, "train")
    (small / f"images/{STEM_10K}.jpg").unlink()
    with pytest.raises(DataNotFound, match=f"1 of 1 samples have no image: {STEM_10K}"):
        CocoStuff10k(small, "train")
    (small / "imageLists/train.txt").unlink()
    with pytest.raises(
        DataNotFound, match=r"imageLists/train\.txt does not exist\. Expected images/\*\.jpg"
    ):
        CocoStuff10k(small, "train")


def test_train_and_val_may_be_trained_on_as_one(large):
    assert_joined("coco-stuff-164k", large, "train", "val")


def test_so_may_those_of_the_10k_release(small):
    assert_joined("coco-stuff-10k", small, "train", "val")
