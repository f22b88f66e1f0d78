from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from support.data.joined_splits import assert_joined

from featherseg.core.errors import DataError, DataNotFound
from featherseg.data import open_dataset
from featherseg.data.checks.check import check_data
from featherseg.data.datasets.bdd100k import BDD100K
from featherseg.data.datasets.cityscapes_labels import CITYSCAPES_CLASSES
from featherseg.runs.run import RESTRICTED

RAW = np.append(np.arange(19), 255).astype(np.uint8).reshape(4, 5)  # every value once
NEWER = ("images/10k/{split}/{key}.jpg", "labels/sem_seg/masks/{split}/{key}.png")
OLDER = ("seg/images/{split}/{key}.jpg", "seg/labels/{split}/{key}_train_id.png")
KEYS = ["0004a4c0-d4dff0ad", "00054602-3bf57337"]


def write_tree(base: Path, layout: tuple[str, str], mode: str = "L") -> None:
    """A miniature release: two images in train, one in val, one without a mask in test."""
    for split, keys in {
        "train": KEYS,
        "val": ["7d06fefd-f7be05a6"],
        "test": ["cabc30fc-e7726578"],
    }.items():
        for number, key in enumerate(keys):
            image, mask = (base / path.format(split=split, key=key) for path in layout)
            image.parent.mkdir(parents=True, exist_ok=True)
            seed = [number, len(split)]
            Image.fromarray(
                np.random.default_rng(seed).integers(0, 256, (4, 5, 3), dtype=np.uint8)
            ).save(image)
            if split != "test":
                mask.parent.mkdir(parents=True, exist_ok=True)
                image = Image.fromarray(RAW)
                if mode == "P":
                    image.putpalette(list(range(256)) * 3)
                image.save(mask)


@pytest.mark.parametrize("below", ["", "bdd100k"])
@pytest.mark.parametrize("layout", [NEWER, OLDER], ids=["newer", "older"])
@pytest.mark.parametrize("mode", ["L", "P"])
def test_both_layouts_are_read_from_their_folder_and_from_the_one_above(
    tmp_path, below, layout, mode
):
    write_tree(tmp_path / below, layout, mode)
    data = open_dataset("bdd100k", "train", tmp_path)
    assert data.keys == KEYS
    assert data[1].image.shape == (4, 5, 3)
    np.testing.assert_array_equal(data.label(0), RAW)
    assert data.classes == CITYSCAPES_CLASSES
    assert any(word in data.licence for word in RESTRICTED)


def test_the_masks_that_lie_beside_those_of_the_older_layout_are_passed_over(tmp_path):
    write_tree(tmp_path, OLDER)
    (tmp_path / "seg/color_labels/train").mkdir(parents=True)
    for path in (tmp_path / "seg/labels/train").iterdir():
        Image.new("RGBA", (5, 4)).save(path.with_name(path.name.replace("_id", "_color")))
    assert BDD100K(tmp_path, "train").keys == KEYS


@pytest.mark.data
def test_real_masks_read_as_they_are_stored(shared: Path, tmp_path: Path):
    """From the toolkit's tests: a car in unknown surroundings, and the pair of its IoU test."""
    fixtures = shared / "data/fixtures/bdd100k"
    write_tree(tmp_path, NEWER)
    mask = tmp_path / f"labels/sem_seg/masks/train/{KEYS[0]}.png"
    for file, values in (("semseg_mask.png", {13, 255}), ("eval/seg/gt/a.png", None)):
        mask.write_bytes((fixtures / file).read_bytes())
        found = BDD100K(tmp_path, "train").label(0)
        np.testing.assert_array_equal(found, np.array(Image.open(fixtures / file)))
        assert values is None or set(np.unique(found)) == values


def test_values_that_are_no_train_ids_are_refused(tmp_path):
    write_tree(tmp_path, NEWER)
    path = tmp_path / "labels/sem_seg/masks/val/7d06fefd-f7be05a6.png"
    Image.fromarray(np.full((4, 5), 26, np.uint8)).save(path)
    with pytest.raises(
        DataError, match=r"7d06fefd-f7be05a6\.png holds value 26 \(20 pixels\).*19 train ids"
    ):
        BDD100K(tmp_path, "val").label(0)
    Image.fromarray(np.random.default_rng(0).integers(0, 255, (4, 5, 3), dtype=np.uint8)).save(path)
    with pytest.raises(DataError, match="the mask is a colour image"):
        BDD100K(tmp_path, "val").label(0)


@pytest.mark.parametrize(
    ("folders", "sentence"),
    [
        ([], "has none of BDD100K's layouts"),
        (["images/10k/train"], "has images but no labels/sem_seg/masks"),
        (["bdd100k/labels/sem_seg/masks/train"], "no images/10k: unpack the 10K images"),
        (
            ["images/100k/train", "labels/sem_seg/masks/train"],
            "images/100k, but the segmentation labels belong to",
        ),
        (["images/10k/train", "labels/sem_seg/masks/train"], "images/10k has no images of train"),
    ],
)
def test_a_root_without_one_of_the_parts_is_told_which(tmp_path, folders, sentence):
    for folder in folders:
        (tmp_path / folder).mkdir(parents=True)
    with pytest.raises(DataNotFound, match=sentence):
        BDD100K(tmp_path, "train")


def test_check_reads_train_and_val_and_finds_what_is_missing(tmp_path):
    write_tree(tmp_path, NEWER)
    report = check_data("bdd100k", tmp_path)
    assert report.clean
    assert {name: split.images for name, split in report.splits.items()} == {"train": 2, "val": 1}
    (tmp_path / f"labels/sem_seg/masks/train/{KEYS[1]}.png").unlink()
    with pytest.raises(DataNotFound, match=f"1 of 2 samples have no mask: {KEYS[1]}"):
        BDD100K(tmp_path, "train")
    assert [fault.kind for fault in check_data("bdd100k", tmp_path).faults] == ["unpaired"]


@pytest.mark.parametrize("layout", [NEWER, OLDER], ids=["newer", "older"])
def test_train_and_val_may_be_trained_on_as_one(tmp_path, layout):
    write_tree(tmp_path, layout)
    assert_joined("bdd100k", tmp_path, "train", "val")
