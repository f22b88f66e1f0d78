from itertools import cycle
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from support.data.joined_splits import assert_joined

from featherseg.core.errors import DataError, DataNotFound
from featherseg.data import dataset_facts, open_dataset
from featherseg.data.checks.check import check_data
from featherseg.data.datasets.class_lists import read_classes
from featherseg.data.datasets.pascal_context import PascalContext, PascalContext60
from featherseg.data.images.palettes import voc_palette
from featherseg.runs.run import RESTRICTED

KEYS = {"train": ["2008_000008", "2008_000002"], "val": ["2008_000003"]}  # lists need no order
RAW_IDS = [  # as mmsegmentation's converter lists them, which sorts them and counts from 0
    *(
        0,
        2,
        259,
        260,
        415,
        324,
        9,
        258,
        144,
        18,
        19,
        22,
        23,
        397,
        25,
        284,
        158,
        159,
        416,
        33,
        162,
        420,
        454,
        295,
        296,
    ),
    *(
        427,
        44,
        45,
        46,
        308,
        59,
        440,
        445,
        31,
        232,
        65,
        354,
        424,
        68,
        326,
        72,
        458,
        34,
        207,
        80,
        355,
        85,
        347,
        220,
        349,
    ),
    *(360, 98, 187, 104, 105, 366, 189, 368, 113, 115),
]
CONVERTED = np.arange(60, dtype=np.uint8).reshape(4, 15)  # every value once
DEEP = np.array(RAW_IDS, np.uint16).reshape(4, 15)


@pytest.fixture
def root(tmp_path: Path) -> Path:
    """A small copy of the converter's output: two train images, one val, one of VOC in neither."""
    root = tmp_path / "VOCdevkit/VOC2010"
    for folder in ("JPEGImages", "SegmentationClassContext", "ImageSets/SegmentationContext"):
        (root / folder).mkdir(parents=True)
    for number, key in enumerate([*KEYS["train"], *KEYS["val"], "2008_000001"]):
        pixels = np.random.default_rng(number).integers(0, 256, (4, 15, 3), dtype=np.uint8)
        Image.fromarray(pixels).save(root / f"JPEGImages/{key}.jpg")
    for split, keys in KEYS.items():
        (root / f"ImageSets/SegmentationContext/{split}.txt").write_text(
            "".join(f"{key}{end}\n" for key, end in zip(keys, cycle(("", ".jpg"))))
        )
        for key in keys:
            write_mask(root, key, CONVERTED)
    return root


def write_mask(root: Path, key: str, values: np.ndarray) -> None:
    Image.fromarray(values).save(root / f"SegmentationClassContext/{key}.png")


def test_with_60_classes_the_values_are_the_class_ids(root):
    np.testing.assert_array_equal(PascalContext60(root, "val").label(0), CONVERTED)


def test_with_59_classes_background_is_ignored_and_every_other_value_is_one_less(root):
    expected = np.array([255, *range(59)]).reshape(4, 15)
    np.testing.assert_array_equal(PascalContext(root, "val").label(0), expected)


@pytest.mark.parametrize("dataset", [PascalContext, PascalContext60])
def test_raw_ids_in_16_bits_read_as_the_converter_numbers_them(root, dataset):
    converted = {raw: value for value, raw in enumerate(sorted(RAW_IDS))}
    write_mask(
        root,
        "2008_000003",
        np.array([[converted[raw] for raw in row] for row in DEEP.tolist()], np.uint8),
    )
    expected = dataset(root, "val").label(0)
    write_mask(root, "2008_000003", DEEP)
    np.testing.assert_array_equal(dataset(root, "val").label(0), expected)


def test_names_stand_in_the_order_of_the_masks():
    """Their raw ids number 459 names alphabetically, so the 59 must be in that order too."""
    names = {raw: info.name for raw, info in read_classes("pascal_context").items()}
    assert list(names) == sorted(RAW_IDS)[1:]
    assert list(names.values()) == sorted(names.values())
    assert [names[raw] for raw in (2, 23, 59, 284, 360, 458)] == [
        *("aeroplane", "bicycle", "car", "person", "sky", "wood")
    ]
    by_59, by_60 = (dataset_facts(f"pascal-context-{classes}").classes for classes in (59, 60))
    assert (len(by_59), len(by_60)) == (59, 60)
    assert by_60[0].name == "background"
    assert by_60[1:] == by_59
    assert [info.color for info in by_60] == [(0, 0, 0), *voc_palette(59)]


@pytest.mark.parametrize(
    ("values", "sentence"),
    [
        (np.full((4, 15), 60, np.uint8), r"2008_000003\.png holds value 60 \(60 pixels\)"),
        (np.full((4, 15), 255, np.uint8), "holds value 255"),
        (np.full((4, 15), 1, np.uint16), r"holds value 1 .*all 459 labels are not read: convert"),
        (np.full((4, 15), 459, np.uint16), r"holds value 459 .*all 459 labels are not read"),
    ],
)
def test_other_values_are_refused(root, values, sentence):
    write_mask(root, "2008_000003", values)
    for dataset in (PascalContext, PascalContext60):
        with pytest.raises(DataError, match=sentence):
            dataset(root, "val").label(0)


@pytest.mark.parametrize("above", [".", "..", "../.."])
@pytest.mark.parametrize("name", ["pascal-context-59", "pascal-context-60"])
def test_splits_are_the_lists_wherever_the_root_points(root, above, name):
    data = open_dataset(name, "train", (root / above).resolve())
    assert data.keys == KEYS["train"]
    assert data[0].image.shape == (4, 15, 3)
    assert (data.name, data.classes) == (name, dataset_facts(name).classes)
    assert check_data(name, root).clean
    assert any(word in data.licence for word in RESTRICTED)


def test_what_is_missing_is_named(root):
    (root / "ImageSets/SegmentationContext/val.txt").unlink()
    with pytest.raises(
        DataNotFound, match=r"SegmentationContext/val\.txt does not exist.*mmsegmentation"
    ):
        PascalContext(root, "val")
    (root / "SegmentationClassContext").rename(root / "masks")
    with pytest.raises(DataNotFound, match="JPEGImages but no SegmentationClassContext"):
        PascalContext(root, "train")
    (root / "trainval").mkdir()
    (root / "trainval/2008_000002.mat").touch()
    with pytest.raises(
        DataNotFound, match=r"annotations of 459 labels \(trainval/\*\.mat\), which are not read"
    ):
        PascalContext(root, "train")
    (root / "JPEGImages").rename(root / "images")
    (root / "trainval/2008_000002.mat").unlink()
    with pytest.raises(DataNotFound, match="has neither JPEGImages nor"):
        PascalContext(root, "train")


@pytest.mark.parametrize("name", ["pascal-context-59", "pascal-context-60"])
def test_train_and_val_may_be_trained_on_as_one(root, name):
    assert_joined(name, root, "train", "val")
