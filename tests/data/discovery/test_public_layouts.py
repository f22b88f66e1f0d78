"""Data as they are released, from `check --write` to a training without an edit."""

import shutil
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from support.data.faces import checked, labelled_nnunet, masks_yaml, nuclei, run, written
from support.data.published_layouts import magnetic_tiles
from support.models.small_training import SMALL

from featherseg.data import open_dataset
from featherseg.runs.run import open_run

INDOOR = [
    "cabinet",
    "ceiling",
    "chair",
    "door",
    "elevator",
    "railing",
    "road",
    "stair",
    "tree",
    "wall",
]
INDOOR2 = [
    "Road",
    "bin",
    "ceiling",
    "chair",
    "door",
    "fire extinguisher",
    "glasses",
    "picture",
    "table",
]
INDOOR2 += ["vending machine", "wall"]
TILES = ["blowhole", "break", "crack", "fray", "uneven"]
MADE = {
    magnetic_tiles: ["background", *TILES],
    labelled_nnunet: ["background", "nodule"],
    nuclei: ["background", "foreground"],
    masks_yaml: ["ground", "eye", "nose"],
}
"""Layouts made of synthetic images -> the classes, with names where the data have them."""

REAL = {
    "road": ["background", "lane", "crack", "pothole"],
    "indoor": ["background", *INDOOR],
    "indoor2": ["background", *INDOOR2],
}


def train_20_steps(data: Path, out: Path) -> list[str]:
    """Train on what was written; returns the classes of the run."""
    settings = [text for text in SMALL if not text.startswith(("train.epochs", "data.train_size"))]
    settings += ["train.steps=20", "train.batch_size=2"]
    options = [part for text in settings for part in ("--set", text)]
    result = run(
        "train", "efficientvit-seg-b0", "--data", data, "--no-report", "--out", out, *options
    )
    assert result.exit_code == 0, result.exception or result.output
    return [row.name for row in open_run(out).info.classes]


def assert_val_has_every_class_that_it_can(report: dict) -> None:
    for number, name in enumerate(report["classes"]):
        images = {
            split: part["statistics"]["images"][number] for split, part in report["splits"].items()
        }
        assert images["train"], name
        assert images["val"] or images["train"] < 2, name


@pytest.mark.seconds
@pytest.mark.usefixtures("light_models")
@pytest.mark.parametrize("make", MADE, ids=lambda make: make.__name__)
def test_a_release_is_trained_on_without_an_edit(tmp_path, make):
    make(tmp_path / "data")
    before = {path: path.read_bytes() for path in (tmp_path / "data").rglob("*") if path.is_file()}
    report = checked(tmp_path / "data")
    assert report["clean"]
    assert report["classes"] == MADE[make]
    assert_val_has_every_class_that_it_can(report)
    assert train_20_steps(tmp_path / "data", tmp_path / "run") == MADE[make]
    assert before == {path: path.read_bytes() for path in before}


def part_of(shared: Path, name: str, folder: Path) -> Path:
    """A part of a real set in the layout of its release."""
    source = shared / "data" / name
    if name == "road":
        for split in ("train", "val", "test"):
            names = (source / f"{split}.txt").read_text().split()[::40]
            for one in names:
                shutil.copytree(source / "Dataset" / one, folder / "Dataset" / one)
            (folder / f"{split}.txt").write_text("\n".join(names))
        return folder
    for split in ("train", "valid", "test"):
        (folder / split).mkdir(parents=True)
        shutil.copy(source / split / "_classes.csv", folder / split)
        for image in sorted((source / split).glob("*.jpg"))[:: 12 if split == "train" else 3]:
            shutil.copy(image, folder / split)
            shutil.copy(image.with_name(f"{image.stem}_mask.png"), folder / split)
    return folder


@pytest.mark.slow
@pytest.mark.parametrize("name", REAL)
def test_a_real_release_is_trained_on_without_an_edit(tmp_path, shared, name):
    data = part_of(shared, name, tmp_path / "data")
    report = checked(data)
    assert not report["faults"]
    assert report["classes"] == REAL[name]
    if name == "road":
        assert_val_has_every_class_that_it_can(report)
    assert train_20_steps(data, tmp_path / "run") == REAL[name]


@pytest.mark.slow
def test_one_folder_of_the_road_set_reads_as_its_masks(tmp_path, shared):
    data = part_of(shared, "road", tmp_path / "data")
    checked(data)
    assert [layer.class_ for layer in written(data).layer] == REAL["road"][
        1:
    ]  # potholes over cracks over lanes
    sample = open_dataset(str(data), "val")[0]
    stem = sample.key.rpartition("/")[2]
    expected = np.zeros(sample.label.shape, np.uint8)
    for number, name in enumerate(("LANE", "CRACK", "POTHOLE"), start=1):
        mask = np.asarray(Image.open(data / f"Dataset/{stem}/{stem}_{name}.png").convert("L"))
        expected[mask > 127] = number
    np.testing.assert_array_equal(sample.label, expected)
