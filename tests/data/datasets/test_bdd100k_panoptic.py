import json
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image
from support.data.joined_splits import assert_joined

from featherseg.core.errors import DataError, DataNotFound
from featherseg.data import dataset_facts, open_dataset
from featherseg.data.checks.check import check_data
from featherseg.data.datasets.bdd100k_panoptic import CATEGORY_IDS, BDD100KPanoptic, read_bitmask
from featherseg.data.datasets.class_lists import read_classes
from featherseg.runs.run import RESTRICTED

FIXTURES = "data/fixtures/bdd100k"
VOID, ROAD, CAR, OTHER_CAR, CROWD, IGNORED = (
    (0, 0, 0, 0),
    (7, 0, 0, 7),
    (35, 0, 0, 31),
    (35, 12, 1, 44),  # truncated and occluded; id 300
    (31, 2, 0, 33),
    (40, 1, 0, 34),
)
BYTES = np.array(
    [[VOID, ROAD, ROAD, CAR], [OTHER_CAR, CROWD, CROWD, IGNORED]], np.uint8
)  # (2, 4, 4)


def save(path: Path, pixels: np.ndarray) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(pixels).save(path)
    return path


def write_bitmask(path: Path, ids: np.ndarray, segments: list[dict]) -> None:
    """Write ids as the toolkit does: stuff has its category id, things count from 31 on."""
    pixels, number = np.zeros((*ids.shape, 4), np.uint8), 30
    for segment in segments:
        category, flags = segment["category_id"], 2 * bool(segment["iscrowd"])
        number += category > 30
        shown = number if category > 30 else category
        pixels[ids == segment["id"]] = (category, flags, shown >> 8, shown & 255)
    save(path, pixels)


def write_tree(base: Path) -> None:
    for split, keys in {
        "train": ["0004a4c0-d4dff0ad", "00054602-3bf57337"],
        "val": ["7d06fefd-f7be05a6"],
    }.items():
        for number, key in enumerate(keys):
            pixels = np.random.default_rng([number, len(split)]).integers(
                0, 256, (2, 4, 3), dtype=np.uint8
            )
            save(base / f"images/10k/{split}/{key}.jpg", pixels)
            save(base / f"labels/pan_seg/bitmasks/{split}/{key}.png", BYTES)


def test_a_bitmask_holds_category_flags_and_a_number_of_two_bytes(tmp_path):
    ids, segments = read_bitmask(save(tmp_path / "a.png", BYTES))
    assert ids.tolist() == [[0, 7, 7, 31], [300, 33, 33, 34]]
    rows = {s["id"]: (s["category_id"], s["area"], s["iscrowd"], s["ignored"]) for s in segments}
    assert rows == {
        7: (7, 2, 0, False),
        31: (35, 1, 0, False),
        33: (31, 2, 1, False),
        34: (40, 1, 1, True),
        300: (35, 1, 0, False),
    }


def test_the_classes_are_30_of_stuff_and_10_things_by_their_category_ids():
    assert tuple(read_classes("bdd100k_panoptic")) == CATEGORY_IDS
    assert [info.thing for info in BDD100KPanoptic.facts.classes] == [False] * 30 + [True] * 10
    of_cityscapes = {info.name: info for info in dataset_facts("cityscapes").classes}
    shared = [info for info in BDD100KPanoptic.facts.classes if info.name in of_cityscapes]
    assert len(shared) == 19
    assert all(info == of_cityscapes[info.name] for info in shared)


@pytest.mark.data
def test_names_and_numbers_are_those_of_the_toolkit_s_own_pair(shared: Path):
    """Its test draws polygons of 13 named classes into a bitmask that holds 13 category ids."""
    folder = shared / FIXTURES / "panseg_bdd100k"
    (frame,) = json.loads((folder / "panseg_bdd100k.json").read_text())
    ids, segments = read_bitmask(folder / "panseg_mask.png")
    names = [BDD100KPanoptic.facts.classes[segment["category_id"] - 1].name for segment in segments]
    assert set(names) == {label["category"] for label in frame["labels"]}
    assert names.count("car") == sum(label["category"] == "car" for label in frame["labels"]) == 2
    assert ids.shape == (720, 1280)


@pytest.mark.data
@pytest.mark.parametrize(
    "name", ["panseg_bdd100k/panseg_mask", "eval/pan_seg/gt/a", "eval/pan_seg/pred/b"]
)
def test_real_bitmasks_write_back_byte_for_byte(shared: Path, tmp_path: Path, name):
    """The toolkit numbers things from 31 as the writer does, and stuff by its category."""
    path = shared / FIXTURES / f"{name}.png"
    write_bitmask(tmp_path / "a.png", *read_bitmask(path))
    np.testing.assert_array_equal(
        np.array(Image.open(tmp_path / "a.png")), np.array(Image.open(path))
    )


@settings(max_examples=30)
@given(
    st.lists(
        st.tuples(st.integers(1, 16777215), st.sampled_from(CATEGORY_IDS), st.booleans()),
        max_size=9,
    ),
    st.integers(0, 999),
)
def test_any_segmentation_keeps_its_categories_and_things_in_a_bitmask(
    tmp_path_factory, rows, seed
):
    rows = list({row[0]: row for row in rows}.values())
    ids = np.random.default_rng(seed).choice([0, *(row[0] for row in rows)], (6, 9))
    segments = [
        {"id": i, "category_id": c, "iscrowd": crowd and c > 30}
        for i, c, crowd in rows
        if (ids == i).any()
    ]
    path = tmp_path_factory.mktemp("bitmask") / "a.png"
    write_bitmask(path, ids, segments)
    found, listed = read_bitmask(path)
    kinds = {s["id"]: (s["category_id"], s["iscrowd"]) for s in listed} | {0: (0, 0)}
    wanted = {s["id"]: (s["category_id"], int(s["iscrowd"])) for s in segments} | {0: (0, 0)}
    for new, old in np.unique(np.stack([found.ravel(), ids.ravel()]), axis=1).T.tolist():
        assert kinds[new] == wanted[old]
        assert wanted[old][0] <= 30 or (found == new).sum() == (ids == old).sum()


@pytest.mark.parametrize(
    ("pixel", "sentence"),
    [
        ((41, 0, 0, 31), "has category 41 with segment id 31"),
        ((35, 0, 0, 0), "has category 35 with segment id 0"),
        ((34, 0, 0, 31), "has segment 31 with two categories"),
        ((35, 2, 0, 31), "has segment 31 with two categories or flags"),
    ],
)
def test_a_bitmask_that_cannot_be_right_is_refused(tmp_path, pixel, sentence):
    pixels = BYTES.copy()
    pixels[0, 0] = pixel
    with pytest.raises(DataError, match=rf"a\.png {sentence}.*Expected a bitmask: red"):
        read_bitmask(save(tmp_path / "a.png", pixels))
    with pytest.raises(DataError, match=r"a\.png has 3 channels.*Expected a bitmask"):
        read_bitmask(save(tmp_path / "a.png", pixels[:, :, :3]))


@pytest.mark.parametrize("below", ["", "bdd100k"])
def test_samples_have_classes_objects_and_crowds_and_what_is_ignored_is_void(tmp_path, below):
    write_tree(tmp_path / below)
    data = open_dataset("bdd100k-panoptic", "train", tmp_path)
    sample = data[1]
    assert data.keys == ["0004a4c0-d4dff0ad", "00054602-3bf57337"]
    assert sample.image.shape == (2, 4, 3)
    assert sample.label.tolist() == [[255, 6, 6, 34], [34, 30, 30, 255]]
    assert sample.instances.tolist() == [[0, 0, 0, 31], [300, -33, -33, 0]]
    np.testing.assert_array_equal(data.label(1), sample.label)
    assert [category["id"] for category in data.categories] == list(CATEGORY_IDS)
    assert data.panoptic(0)[1] == read_bitmask(data.pairs[0].files[1])[1]
    assert any(word in data.licence for word in RESTRICTED)


def test_check_finds_categories_that_are_none(tmp_path):
    write_tree(tmp_path)
    report = check_data("bdd100k-panoptic", tmp_path)
    assert report.clean
    assert {name: split.images for name, split in report.splits.items()} == {"train": 2, "val": 1}
    save(
        tmp_path / "labels/pan_seg/bitmasks/val/7d06fefd-f7be05a6.png",
        np.full((2, 4, 4), 99, np.uint8) & 254,
    )
    (fault,) = check_data("bdd100k-panoptic", tmp_path).faults
    assert "holds value 98 (8 pixels), which is not in the 40 category ids of BDD100K" in fault.text


def test_check_finds_a_segment_of_two_categories(tmp_path):
    write_tree(tmp_path)
    pixels = BYTES.copy()
    pixels[0, 0] = 34, 0, 0, 31
    save(tmp_path / "labels/pan_seg/bitmasks/val/7d06fefd-f7be05a6.png", pixels)
    (fault,) = check_data("bdd100k-panoptic", tmp_path).faults
    assert "has segment 31 with two categories" in fault.text


def test_what_is_missing_is_named(tmp_path):
    with pytest.raises(DataNotFound, match=r"has no labels/pan_seg/bitmasks\. Expected"):
        BDD100KPanoptic(tmp_path, "val")
    write_tree(tmp_path)
    save(tmp_path / "images/10k/val/7d06fefd-f7be05a6.jpg", np.zeros((3, 3, 3), np.uint8))
    with pytest.raises(DataError, match=r"7d06fefd-f7be05a6\.png is 2x4, but its image .* is 3x3"):
        BDD100KPanoptic(tmp_path, "val")[0]
    (tmp_path / "labels/pan_seg/bitmasks/val/7d06fefd-f7be05a6.png").unlink()
    with pytest.raises(DataNotFound, match="1 of 1 samples have no mask"):
        BDD100KPanoptic(tmp_path, "val")


def test_train_and_val_may_be_trained_on_as_one(tmp_path):
    write_tree(tmp_path)
    assert_joined("bdd100k-panoptic", tmp_path, "train", "val")
