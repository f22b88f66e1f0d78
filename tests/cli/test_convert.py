from pathlib import Path

import numpy as np
import pytest
from annotation_sources import coco, square
from PIL import Image
from typer.testing import CliRunner

from featherseg import cli
from featherseg.core.errors import ConfigError, DataNotFound, FeathersegError, UnknownName
from featherseg.data import open_dataset


def run(*arguments: object):
    return CliRunner().invoke(cli.build_app(), ["convert", *(str(argument) for argument in arguments)])


@pytest.fixture
def release(tmp_path: Path) -> Path:
    """One image of Cityscapes: road, a car with a number and a group of cars without."""
    root, key = tmp_path / "cityscapes", "val/bonn/bonn_000000_000019"
    for path, pixels in (
        (f"leftImg8bit/{key}_leftImg8bit.png", np.zeros((2, 3, 3), np.uint8)),
        (f"gtFine/{key}_gtFine_instanceIds.png", np.array([[7, 7, 26001], [26, 26, 0]], np.uint16)),
    ):
        (root / path).parent.mkdir(parents=True)
        Image.fromarray(pixels).save(root / path)
    return root


def test_what_is_converted_can_be_used_and_is_kept_the_second_time(release):
    command = (release, "--from", "cityscapes-panoptic", "--out", release / "gtFine")
    result = run(*command)
    assert result.exit_code == 0, result.exception
    json = release / "gtFine/cityscapes_panoptic_val.json"
    assert result.stdout.splitlines() == [
        f"{json}: 1 image",
        f"Use it with --data cityscapes-panoptic --data-root {release}",
    ]
    sample = open_dataset("cityscapes-panoptic", "val", release)[0]
    assert sample.instances.tolist() == [[0, 0, 26001], [-26, -26, 0]]
    assert f"{json}: 1 image, 1 of them already there" in run(*command).stdout


def test_another_folder_and_train_ids(release, tmp_path):
    result = run(release, "--from", "cityscapes-panoptic", "--out", tmp_path / "out", "--train-ids")
    assert result.stdout == f"{tmp_path / 'out/cityscapes_panoptic_val_trainId.json'}: 1 image\n"
    assert (tmp_path / "out/cityscapes_panoptic_val_trainId/bonn_000000_000019_gtFine_panoptic.png").is_file()


def test_slips_are_sentences(release, tmp_path):
    result = run(release, "--from", "cityscapes-panoptc", "--out", tmp_path / "out")
    assert isinstance(result.exception, UnknownName)
    assert "Did you mean 'cityscapes-panoptic'?" in str(result.exception)
    missing = run(tmp_path, "--from", "cityscapes-panoptic", "--out", tmp_path / "out").exception
    assert isinstance(missing, DataNotFound)
    assert isinstance(run(release, "--train-ids", "--out", tmp_path / "out").exception, ConfigError)
    unfit = run(release, "--from", "cityscapes-panoptic", "--to", "coco", "--copy", "--out", tmp_path / "out").exception
    assert isinstance(unfit, ConfigError)
    assert "--to, --copy cannot go with --from cityscapes-panoptic" in str(unfit)


def test_what_was_converted_and_what_was_left_out_is_said(tmp_path):
    shapes = [("car", [square(2, 2, 9, 9)]), ("road", [[1.0, 1.0, 5.0, 5.0]])]
    src = coco(tmp_path / "src\x1b[2J", shapes).parent
    result = run(src, "--out", tmp_path / "my out")
    assert result.exit_code == 0, result.exception
    assert result.stdout.splitlines() == [
        "COCO: 1 image; 3 classes: background, car, road",
        "left out: polygons of fewer than three corners (1; first: a.png)",
        f"Use it with --data '{tmp_path / 'my out/dataset.toml'}'",
    ]
    result = run(tmp_path / "my out", "--to", "cvat", "--out", tmp_path / "back")
    assert result.stdout == "CVAT for images 1.1: 1 image; 2 classes: car, road\n"
    assert isinstance(run(src, "--out", tmp_path / "my out").exception, FeathersegError)


def test_a_file_of_annotations_in_place_of_a_dataset_is_told_the_way(tmp_path):
    path = coco(tmp_path / "src", [])
    with pytest.raises(DataNotFound, match=r"is a file of annotations.*featherseg convert .*coco\.json --out OUT"):
        open_dataset(str(path), "train")
