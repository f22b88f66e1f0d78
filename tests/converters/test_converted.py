"""A tool's export in the place of a dataset: converted once and kept, or a question is asked."""

import os
import shutil
import zipfile
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from support.data.annotation_sources import coco, mask, picture, square

from featherseg.converters import convert
from featherseg.converters.converted import as_dataset
from featherseg.core.errors import AmbiguousData, DataError, DataNotFound
from featherseg.data import open_dataset

SHAPES = [("road", [square(0, 10, 30, 20)]), ("car", [square(5, 5, 15, 15)])]
CORNERS = "0.2 0.2 0.8 0.2 0.8 0.6 0.2 0.6"


@pytest.fixture
def home(tmp_path, monkeypatch):
    """$FEATHERSEG_HOME, and the current folder beside it."""
    monkeypatch.setenv("FEATHERSEG_HOME", str(tmp_path / "home"))
    monkeypatch.chdir(tmp_path)
    return tmp_path / "home"


def yolo(folder: Path, yaml: str = "names: [car, road]\n") -> Path:
    """Images a and b with a label each, and data.yaml."""
    for stem in "ab":
        picture(folder / f"images/{stem}.png")
        (folder / "labels").mkdir(exist_ok=True)
        (folder / f"labels/{stem}.txt").write_text(f"0 {CORNERS}\n")
    (folder / "data.yaml").write_text(yaml)
    return folder / "data.yaml"


def zipped(folder: Path) -> Path:
    return Path(shutil.make_archive(str(folder), "zip", folder))


def exports(folder: Path) -> dict[str, Path]:
    """An export of each kind that `--data` takes."""
    file = coco(folder / "coco", SHAPES)
    yaml = yolo(folder / "yolo")
    return {
        "folder": file.parent,
        "file": file,
        "yaml": yaml,
        "zip": zipped(yaml.parent),
        "yolo folder": yaml.parent,
    }


@pytest.mark.parametrize("kind", ["folder", "file", "yaml", "zip", "yolo folder"])
def test_an_export_is_converted_as_convert_does_it_and_only_once(home, tmp_path, kind):
    source = exports(tmp_path)[kind]
    toml = Path(as_dataset(str(source)))
    assert toml.parent.parent == home / "converted"
    expected = convert(source, tmp_path / "out").out
    assert (mask(toml.parent) == mask(expected)).all()
    assert len(np.unique(mask(toml.parent))) > 1
    made = toml.stat().st_mtime_ns
    assert as_dataset(os.path.relpath(source)) == str(toml)
    assert toml.stat().st_mtime_ns == made
    label = open_dataset(str(toml), "train").label(0)
    assert label.shape == mask(expected).shape


def test_an_export_that_changed_is_converted_again(home, tmp_path):
    file = coco(tmp_path / "coco", SHAPES)
    before = as_dataset("coco")
    file.write_text(file.read_text().replace("car", "van"))
    after = as_dataset("coco")
    assert before != after
    assert "van" in Path(after).read_text()


@pytest.mark.parametrize(
    "data", ["shapes", "camvid", "yard", "yard/dataset.toml", "no.zip", "s3://b"]
)
def test_other_data_stay_as_they_are(home, tmp_path, data):
    (tmp_path / "yard").mkdir()
    coco(tmp_path / "yard", SHAPES)
    (tmp_path / "yard/dataset.toml").write_text("")
    assert as_dataset(data) == data
    assert not home.exists()


def test_a_folder_of_images_and_masks_stays_as_it_is(home, tmp_path):
    with_masks(tmp_path / "yard")
    assert as_dataset("yard") == "yard"


def with_masks(folder: Path) -> None:
    for stem in "ab":
        picture(folder / f"images/{stem}.jpg")
        values = np.zeros((20, 30), np.uint8)
        values[5:] = 1
        (folder / "masks").mkdir(exist_ok=True)
        Image.fromarray(values).save(folder / f"masks/{stem}.png")


def test_masks_and_annotations_are_a_question_with_both_commands(home, tmp_path):
    with_masks(tmp_path / "my yard")
    coco(tmp_path / "my yard", SHAPES)
    with pytest.raises(AmbiguousData) as asked:
        as_dataset("my yard")
    assert [command for _, command in asked.value.readings] == [
        "featherseg check 'my yard' --write",
        "featherseg convert 'my yard' --from coco --out OUT",
    ]
    assert as_dataset("my yard", prefers_masks=True) == "my yard"
    assert not home.exists()


@pytest.mark.parametrize("kind", ["folder", "zip"])
def test_annotations_of_two_tools_are_a_question(home, tmp_path, kind):
    coco(tmp_path / "both", SHAPES)
    yolo(tmp_path / "both")
    source = "both" if kind == "folder" else str(zipped(tmp_path / "both"))
    with pytest.raises(AmbiguousData) as asked:
        as_dataset(source)
    assert [command for _, command in asked.value.readings] == [
        f"featherseg convert {source} --out OUT --from {name}" for name in ("coco", "yolo")
    ]
    assert list(home.rglob("*.toml")) == []


def test_a_yaml_away_from_its_labels_is_told_where_to_lie(home, tmp_path):
    yolo(tmp_path / "elsewhere")
    (tmp_path / "x").mkdir()
    (tmp_path / "x/coco8.yaml").write_text(
        "path: ../elsewhere\ntrain: images\nnames: [car, road]\n"
    )
    with pytest.raises(DataNotFound, match="into the folder that contains images/ and labels/"):
        as_dataset("x/coco8.yaml")


def test_nothing_outside_of_an_export_is_read(home, tmp_path):
    picture(tmp_path / "secret/c.png")
    yaml = yolo(tmp_path / "yolo", "train: ../secret\nval: /etc\nnames: [car, road]\n")
    (yaml.parent / "images/c.png").symlink_to(tmp_path / "secret/c.png")
    images = Path(as_dataset(str(yaml))).parent / "images"
    assert sorted(path.name for path in images.rglob("*.png")) == ["a.png", "b.png"]

    with zipfile.ZipFile(tmp_path / "evil.zip", "w") as archive:
        archive.writestr("../../evil.txt", "x")
    with pytest.raises(DataError, match="leads out of its folder"):
        as_dataset("evil.zip")
    assert list(tmp_path.parent.rglob("evil.txt")) == []
    assert len(list((home / "converted").iterdir())) == 1
