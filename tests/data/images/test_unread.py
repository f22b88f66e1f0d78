"""Files whose format is not read are named by count and ending in every verb."""

import json
import logging
from collections import Counter
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from featherseg.converters import convert
from featherseg.core.errors import DataError, DataNotFound
from featherseg.core.types import ClassInfo, DataFacts
from featherseg.data import open_dataset
from featherseg.data.checks.check import check_data
from featherseg.data.datasets.unlabelled import UnlabelledImages
from featherseg.data.images.decoding import read_image
from featherseg.data.images.listing import find_images
from featherseg.data.images.unread import unread_endings, unread_note, warn_once
from featherseg.inference.cluster import list_images

LIKE = np.zeros((1, 1, 3), np.uint8)
SKIPPED = "2 files are skipped, because .heic is not read: convert them to JPEG, PNG or TIFF"


@pytest.fixture(autouse=True)
def unsaid():
    warn_once.cache_clear()


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """Images and masks, each of two further images in HEIC, and files that are no images."""
    rng = np.random.default_rng(0)
    for name in "abcd":
        for place in ("images", "masks"):
            (tmp_path / place).mkdir(exist_ok=True)
        Image.fromarray(rng.integers(0, 255, (16, 16, 3), dtype=np.uint8)).save(
            tmp_path / f"images/{name}.png"
        )
        mask = np.zeros((16, 16), np.uint8)
        mask[4:9, 4:9] = 255
        Image.fromarray(mask).save(tmp_path / f"masks/{name}.png")
    for name in ("e.HEIC", "f.heic", ".g.heic", "notes.txt", "Thumbs.db"):
        (tmp_path / "images" / name).write_bytes(b"x")
    return tmp_path


def messages(caplog) -> list[str]:
    return [record.getMessage() for record in caplog.records if record.levelno >= logging.WARNING]


def test_the_note_counts_each_ending():
    assert unread_endings(["a.HEIC", "b.npy", "c/d.npy", ".e.npy", "f.png", "g.txt"]) == {
        ".heic": 1,
        ".npy": 2,
    }
    assert unread_note(Counter()) == ""
    assert unread_note(Counter({".heic": 2})) == SKIPPED
    assert unread_note(
        Counter({".heic": 1})
    ) == "1 file is skipped, because .heic is not read: " + ("convert it to JPEG, PNG or TIFF")
    assert "these formats are not read: 1 .heic, 2 .npy: convert" in unread_note(
        Counter({".heic": 1, ".npy": 2})
    )


def test_a_folder_of_images_to_predict_warns_once(folder, tmp_path, caplog):
    for _ in range(2):
        assert len(find_images([folder / "images"], tmp_path / "out")) == 4
    assert messages(caplog) == [f"{folder / 'images'}: {SKIPPED}"]


def test_predict_on_a_cluster_warns(folder, caplog):
    assert len(list(list_images(str(folder / "images")))) == 4
    assert messages(caplog) == [f"{folder / 'images'}: {SKIPPED}"]


def test_a_folder_in_which_nothing_is_read_names_them_in_the_error(folder, tmp_path):
    for path in (folder / "images").glob("*.png"):
        path.unlink()
    with pytest.raises(
        DataNotFound, match=r"has no images\. 2 files are skipped, because \.heic is not read"
    ):
        find_images([folder / "images"], tmp_path / "out")
    with pytest.raises(
        DataNotFound, match=r"has no images\. 2 files are skipped, because \.heic is not read"
    ):
        UnlabelledImages(
            folder / "images", DataFacts("a", (ClassInfo("b", (0, 0, 0)),), "MIT"), LIKE
        )
    with pytest.raises(DataNotFound, match=r"2 files are skipped, because \.heic is not read"):
        check_data(str(folder))


def test_a_single_file_gets_a_sentence(folder):
    with pytest.raises(
        DataError,
        match=r"f\.heic cannot be read: \.heic is not read\. Convert it to JPEG, PNG or TIF",
    ):
        read_image(folder / "images/f.heic")


def test_check_notes_them_and_whoever_opens_the_dataset_is_warned(folder, caplog):
    report = check_data(str(folder))
    assert SKIPPED in report.notes
    (folder / "dataset.toml").write_text(report.proposal.text)
    assert SKIPPED in check_data(str(folder)).notes
    assert not messages(caplog)
    for split in ("train", "val"):
        open_dataset(str(folder), split)
    assert len(messages(caplog)) == 1
    assert messages(caplog)[0].endswith(SKIPPED)


def test_images_without_masks_warn(folder, caplog):
    data = UnlabelledImages(
        folder / "images", DataFacts("a", (ClassInfo("b", (0, 0, 0)),), "MIT"), LIKE
    )
    assert len(data) == 4
    assert messages(caplog) == [f"{folder / 'images'}: {SKIPPED}"]


def test_convert_of_masks_names_the_ending(folder, tmp_path):
    for name in ("a", "b", "c", "d", "e"):
        colors = np.zeros((16, 16, 3), np.uint8)
        colors[4:9, 4:9] = (255, 0, 0)
        Image.fromarray(colors).save(folder / f"masks/{name}.png")
    report = convert(folder, tmp_path.with_name("converted-masks"), from_format="rgb-masks")
    assert "images in the unsupported format .heic" in json.dumps(report.as_dict())


def test_convert_names_the_ending_of_an_image_that_is_there(folder, tmp_path):
    names = ["a.png", "b.png", "e.HEIC", "gone.png"]
    shape = [[1, 1, 9, 1, 9, 9]]
    rows = [
        {
            "id": i,
            "image_id": i,
            "category_id": 1,
            "iscrowd": 0,
            "area": 1,
            "bbox": [1, 1, 8, 8],
            "segmentation": shape,
        }
        for i in range(4)
    ]
    images = [
        {"id": i, "file_name": name, "width": 16, "height": 16} for i, name in enumerate(names)
    ]
    content = {"images": images, "annotations": rows, "categories": [{"id": 1, "name": "a"}]}
    (folder / "a.json").write_text(json.dumps(content))
    report = convert(folder, tmp_path.with_name("converted"))
    left = json.dumps(report.as_dict())
    assert "images in the unsupported format .heic: convert them to JPEG, PNG or TIFF" in left
    assert "images that are not there" in left
