import warnings
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
from PIL import Image
from support.data.joined_splits import assert_joined

from featherseg.core.errors import DataError, DataNotFound
from featherseg.data import open_dataset
from featherseg.data.checks.check import check_data
from featherseg.data.datasets.cityscapes import Cityscapes
from featherseg.data.datasets.cityscapes_labels import CITYSCAPES_CLASSES, FROM_LABEL_IDS, LABEL_IDS
from featherseg.runs.run import RESTRICTED

KEYS = ["aachen/aachen_000000_000019", "aachen/aachen_000001_000019", "ulm/ulm_000000_000019"]
RAW = np.arange(34, dtype=np.uint8).reshape(2, 17)  # every label id once


@pytest.fixture(scope="module")
def official() -> SimpleNamespace:
    """The parts of cityscapesscripts that know the labels and draw the masks."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        from cityscapesscripts.helpers import annotation, labels
        from cityscapesscripts.preparation import json2labelImg
    return SimpleNamespace(
        labels=labels.labels, annotation=annotation, draw=json2labelImg.createLabelImage
    )


def write_image(root: Path, split: str, key: str, seed: int = 0) -> None:
    path = root / f"leftImg8bit/{split}/{key}_leftImg8bit.png"
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(np.random.default_rng(seed).integers(0, 256, (2, 17, 3), dtype=np.uint8)).save(
        path
    )


def write_mask(root: Path, split: str, key: str, kind: str, values: np.ndarray) -> Path:
    path = root / f"gtFine/{split}/{key}_gtFine_{kind}.png"
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(values).save(path)
    return path


@pytest.fixture
def root(tmp_path: Path) -> Path:
    """The release in small: two cities in train, one image in val, with all kinds of masks."""
    root = tmp_path / "release"
    for number, (split, key) in enumerate(
        [*(("train", key) for key in KEYS), ("val", "bonn/bonn_000000_000019")]
    ):
        write_image(root, split, key, seed=number)
        write_mask(root, split, key, "labelIds", RAW)
        write_mask(root, split, key, "instanceIds", RAW.astype(np.uint16) * 1000)
        write_mask(root, split, key, "color", np.zeros((2, 17, 4), np.uint8))
        (root / f"gtFine/{split}/{key}_gtFine_polygons.json").write_text("{}")
    return root


def test_links_lead_to_the_folders_of_the_release_and_none_inside_them_is_passed_over(
    root, tmp_path
):
    for name in ("leftImg8bit", "gtFine"):
        (root / name).rename(tmp_path / name)
        (root / name).symlink_to(tmp_path / name)
    assert Cityscapes(root, "train").keys == KEYS
    for name in ("leftImg8bit", "gtFine"):
        (tmp_path / name / "train/ulm").rename(tmp_path / f"ulm-{name}")
        (tmp_path / name / "train/ulm").symlink_to(tmp_path / f"ulm-{name}")
    with pytest.raises(
        DataError, match=r"train/ulm is a link to a folder.* or make \S+/train the link"
    ):
        Cityscapes(root, "train")
    assert len(Cityscapes(root, "val")) == 1


def test_classes_colours_things_and_ids_are_those_of_cityscapesscripts(official):
    scored = sorted(
        (label for label in official.labels if 0 <= label.trainId < 255),
        key=lambda label: label.trainId,
    )
    assert [(c.name, c.color, c.thing) for c in CITYSCAPES_CLASSES] == [
        (label.name, label.color, label.hasInstances) for label in scored
    ]
    assert tuple(label.id for label in scored) == LABEL_IDS
    assert FROM_LABEL_IDS.ids == {
        label.id: label.trainId for label in official.labels if label.id >= 0
    }


@pytest.mark.data
def test_label_ids_of_the_real_mask_read_as_the_official_table_says(shared: Path, official):
    root = shared / "data/fixtures/cityscapes"
    sample = Cityscapes(root, "val")[0]
    assert sample.key == "frankfurt/frankfurt_000000_000294"
    assert sample.image.shape == (128, 256, 3)
    raw = np.array(Image.open(root / f"gtFine/val/{sample.key}_gtFine_labelIds.png"))
    table = {label.id: label.trainId for label in official.labels}
    np.testing.assert_array_equal(
        sample.label, [[table[value] for value in row] for row in raw.tolist()]
    )


@pytest.mark.data
def test_the_real_train_id_mask_reads_as_stored(shared: Path, tmp_path: Path):
    """It agrees with the label ids but for 77 of 32,768 pixels, nearly all on edges.

    There one label id has several train ids (7 at 0, 1, 5, 13 and 255), so no map of values makes
    them equal: the two files were downscaled separately.
    """
    fixture, key = shared / "data/fixtures/cityscapes", "frankfurt/frankfurt_000000_000294"
    for part in (
        f"leftImg8bit/val/{key}_leftImg8bit.png",
        f"gtFine/val/{key}_gtFine_labelTrainIds.png",
    ):
        (tmp_path / part).parent.mkdir(parents=True)
        (tmp_path / part).symlink_to(fixture / part)
    label = Cityscapes(tmp_path, "val").label(0)
    stored = np.array(Image.open(fixture / f"gtFine/val/{key}_gtFine_labelTrainIds.png"))
    np.testing.assert_array_equal(label, stored)
    assert (label != Cityscapes(fixture, "val").label(0)).sum() == 77


def test_both_kinds_of_masks_as_the_official_tool_draws_them_read_alike(root, official):
    """A car under a licence plate (label id -1, not drawn), a void area, a group of bicycles."""
    drawn = official.annotation.Annotation()
    drawn.imgWidth, drawn.imgHeight = 17, 12
    for name, box in (
        ("sky", (0, 0, 16, 3)),
        ("car", (2, 5, 9, 10)),
        ("license plate", (4, 8, 6, 9)),
        ("static", (11, 0, 13, 11)),
        ("bicyclegroup", (14, 6, 16, 11)),
    ):
        area = official.annotation.CsPoly()
        left, top, right, bottom = box
        area.label, area.deleted = name, 0
        area.polygon = [(left, top), (right, top), (right, bottom), (left, bottom)]
        drawn.objects.append(area)
    key = "bonn/bonn_000000_000019"
    write_mask(root, "val", key, "labelIds", np.array(official.draw(drawn, "ids")))
    by_label_ids = Cityscapes(root, "val").label(0)
    for path in (root / "gtFine/val").rglob("*labelIds.png"):
        path.unlink()
    write_mask(root, "val", key, "labelTrainIds", np.array(official.draw(drawn, "trainIds")))
    np.testing.assert_array_equal(by_label_ids, Cityscapes(root, "val").label(0))
    assert by_label_ids[9, 5] == 13  # the plate is car
    assert set(np.unique(by_label_ids)) == {10, 13, 18, 255}


def test_samples_go_by_city_and_void_labels_are_ignored(root):
    data = open_dataset("cityscapes", "train", root)
    assert data.keys == KEYS
    assert data[2].key == KEYS[2]
    assert data[0].image.shape == (2, 17, 3)
    label = data.label(0)
    assert label.dtype == np.uint8
    assert {
        int(raw): int(i) for raw, i in zip(RAW.ravel(), label.ravel(), strict=True) if i != 255
    } == dict(zip(LABEL_IDS, range(19), strict=True))
    assert any(word in data.licence for word in RESTRICTED)


def test_label_ids_come_before_train_ids(root):
    write_mask(
        root, "val", "bonn/bonn_000000_000019", "labelTrainIds", np.full((2, 17), 255, np.uint8)
    )
    assert (Cityscapes(root, "val").label(0) != 255).any()


@pytest.mark.parametrize(
    ("kind", "value", "sentence"),
    [
        (
            "labelIds",
            34,
            r"labelIds\.png holds value 34 \(1 pixel\).*label ids of Cityscapes \(0 to 33",
        ),
        ("labelIds", 255, r"holds value 255 .*train ids are expected in \*_labelTrainIds\.png"),
        (
            "labelTrainIds",
            19,
            r"labelTrainIds\.png holds value 19 .*19 train ids \(0 to 18, and 255",
        ),
    ],
)
def test_values_outside_a_kind_of_masks_are_refused(root, kind, value, sentence):
    key = "bonn/bonn_000000_000019"
    (root / f"gtFine/val/{key}_gtFine_labelIds.png").unlink()
    values = np.zeros((2, 17), np.uint8)
    values[0, 0] = value
    write_mask(root, "val", key, kind, values)
    with pytest.raises(DataError, match=sentence):
        Cityscapes(root, "val").label(0)


def test_roots_that_are_none_are_answered_with_the_one_that_is_meant(root):
    for wrong, sentence in (
        (root / "leftImg8bit", rf"a folder of Cityscapes, not .*use {root}\."),
        (root / "gtFine", rf"a folder of Cityscapes, not .*use {root}\."),
        (root / "leftImg8bit/train", "has neither leftImg8bit nor gtFine. Expected"),
        (root.parent, rf"has neither .*{root} does: use that"),
    ):
        with pytest.raises(DataNotFound, match=sentence):
            Cityscapes(wrong, "train")
    (root / "gtFine").rename(root / "labels")
    with pytest.raises(DataNotFound, match=r"no gtFine: unpack gtFine_trainvaltest\.zip"):
        Cityscapes(root, "train")
    (root / "labels").rename(root / "gtFine")
    (root / "leftImg8bit").rename(root / "images")
    with pytest.raises(DataNotFound, match=r"no leftImg8bit: unpack leftImg8bit_trainvaltest\.zip"):
        Cityscapes(root, "train")


def test_a_release_that_is_half_unpacked_is_read_as_far_as_images_and_masks_agree(root):
    for folder in ("leftImg8bit", "gtFine"):
        for path in (root / folder / "train/aachen").iterdir():
            path.unlink()
    assert Cityscapes(root, "train").keys == KEYS[2:]
    write_image(root, "train", "zurich/zurich_000000_000019")
    with pytest.raises(
        DataNotFound, match="1 of 2 samples have no mask: zurich/zurich_000000_000019"
    ):
        Cityscapes(root, "train")
    for path in root.glob("*/val/*/*"):
        path.unlink()
    with pytest.raises(DataNotFound, match="leftImg8bit has no images of val"):
        Cityscapes(root, "val")


def test_check_counts_the_splits_that_are_there(root):
    report = check_data("cityscapes", root)
    assert report.clean
    assert {name: split.images for name, split in report.splits.items()} == {"train": 3, "val": 1}
    write_image(root, "train", "zurich/zurich_000000_000019", seed=9)
    write_mask(root, "train", KEYS[0], "labelIds", RAW + 100)
    assert sorted(fault.kind for fault in check_data("cityscapes", root).faults) == [
        "unpaired",
        "values",
    ]


def test_train_and_val_may_be_trained_on_as_one(root):
    assert_joined("cityscapes", root, "train", "val")
