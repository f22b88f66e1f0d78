import json
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from support.data.joined_splits import assert_joined
from support.golden.golden_make import GOLDEN, digest

from featherseg.core.errors import DataError, DataNotFound
from featherseg.data import dataset_facts, open_dataset
from featherseg.data.checks.check import check_data
from featherseg.data.datasets.ade20k import ADE20K
from featherseg.data.datasets.class_lists import read_classes
from featherseg.runs.run import RESTRICTED

RAW = np.arange(151, dtype=np.uint8)[None]  # every value once
TRAIN, VAL = "training/ADE_train_00000001", "validation/ADE_val_00000001"


def write_pair(base: Path, stem: str, values: np.ndarray = RAW) -> Path:
    image, mask = base / f"images/{stem}.jpg", base / f"annotations/{stem}.png"
    for path in (image, mask):
        path.parent.mkdir(parents=True, exist_ok=True)
    seed = sum(stem.encode())
    Image.fromarray(
        np.random.default_rng(seed).integers(0, 256, (*values.shape[:2], 3), dtype=np.uint8)
    ).save(image)
    Image.fromarray(values).save(mask)
    return mask


@pytest.fixture
def root(tmp_path: Path) -> Path:
    """The release in small: one image a split."""
    root = tmp_path / "ADEChallengeData2016"
    write_pair(root, TRAIN)
    write_pair(root, VAL)
    return root


def test_names_and_things_are_those_of_the_benchmark_s_own_table():
    known = json.loads((GOLDEN / "class_tables.json").read_text())["ade20k"]
    classes = read_classes("ade20k")
    assert list(classes) == list(
        range(1, 151)
    )  # the order of the file is that of the masks' values
    assert (
        digest((info.name.split()[0], info.thing) for info in classes.values()).items()
        <= known.items()
    )


def test_colours_are_the_usual_ones():
    colors = {info.name: info.color for info in ADE20K.facts.classes}
    assert colors["wall"] == (120, 120, 120)
    assert colors["person"] == (150, 5, 61)
    assert colors["flag"] == (92, 0, 255)
    assert colors["road"] == colors["skyscraper"] == (140, 140, 140)
    assert len(set(colors.values())) == 149


@pytest.mark.data
def test_the_real_mask_reads_one_less_and_other_objects_are_ignored(shared: Path):
    data = ADE20K(shared / "data/fixtures/ade20k_sceneparsing", "val")
    sample = data[0]
    raw = np.array(
        Image.open(shared / "data/fixtures/ade20k_sceneparsing/annotations" / f"{VAL}.png")
    )
    expected = [[255 if value == 0 else value - 1 for value in row] for row in raw.tolist()]
    assert sample.key == "ADE_val_00000001"
    assert sample.image.shape == (*raw.shape, 3)
    np.testing.assert_array_equal(sample.label, expected)
    found = {data.classes[i].name for i in np.unique(sample.label) if i != 255}
    assert found == {"wall", "building", "sky", "tree", "road", "grass", "plant"}


def test_value_zero_is_ignored_and_every_other_is_one_less(root):
    assert ADE20K(root, "train").label(0).tolist() == [[255, *range(150)]]


@pytest.mark.parametrize("part", ["", "ADEChallengeData2016"])
def test_splits_are_found_from_the_folder_and_from_the_one_above(root, part):
    above = root.parent / part
    assert open_dataset("ade20k", "train", above).keys == ["ADE_train_00000001"]
    assert open_dataset("ade20k", "val", above).keys == ["ADE_val_00000001"]
    assert check_data("ade20k", above).clean
    assert any(word in dataset_facts("ade20k").licence for word in RESTRICTED)


def test_masks_that_were_shifted_before_are_refused(root):
    write_pair(root, VAL, np.array([[0, 149, 255]], np.uint8))
    with pytest.raises(
        DataError, match=r"ADE_val_00000001\.png holds value 255 .*shifted to 0 to 149 and 255"
    ):
        ADE20K(root, "val").label(0)


def test_a_mask_of_the_full_release_in_the_place_of_one_is_refused(root):
    """There R / 10 * 256 + G is the number of a class, and blue separates objects of a class."""
    colours = np.zeros((3, 4, 3), np.uint8)
    colours[0], colours[1:] = (120, 184, 1), (30, 55, 2)
    write_pair(root, TRAIN, colours)
    with pytest.raises(DataError, match=r"colour image.*Colours of the full release"):
        ADE20K(root, "train").label(0)


@pytest.mark.parametrize(
    "folder",
    [
        "images/ADE/training/urban/street",
        "ADE20K_2021_17_01/images/ADE/training/street",
        "images/training/a",
    ],
)
def test_the_full_release_is_recognised_and_refused(tmp_path, folder):
    place = tmp_path / folder
    place.mkdir(parents=True)
    Image.new("RGB", (4, 3)).save(place / "ADE_train_00016964.jpg")
    Image.new("RGB", (4, 3), (120, 184, 1)).save(place / "ADE_train_00016964_seg.png")
    (place / "ADE_train_00016964.json").write_text(
        '{"annotation": {"filename": "ADE_train_00016964.jpg"}}'
    )
    with pytest.raises(
        DataNotFound,
        match=r"full release of ADE20K.*Download SceneParsing.*ADEChallengeData2016\.zip",
    ):
        ADE20K(tmp_path, "train")


def test_roots_that_are_none_are_told_what_is_missing(root, tmp_path):
    for wrong, sentence in (
        (tmp_path / "nowhere", "nowhere is not a folder"),
        (root / "images", "has neither images nor annotations"),
    ):
        with pytest.raises(DataNotFound, match=sentence):
            ADE20K(wrong, "val")
    (root / "annotations").rename(root / "masks")
    with pytest.raises(DataNotFound, match="has images but no annotations"):
        ADE20K(root, "val")


def test_a_split_without_images_is_refused(root):
    for path in root.glob("*/validation/*"):
        path.unlink()
    with pytest.raises(DataNotFound, match="images has no images of val"):
        ADE20K(root, "val")


def test_train_and_val_may_be_trained_on_as_one(root):
    assert_joined("ade20k", root, "train", "val")
