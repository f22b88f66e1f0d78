import re
import shlex
import shutil
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from support.data.annotation_sources import coco, labelme, picture, polygon, square, write_json
from typer.testing import CliRunner

import featherseg
from featherseg import cli
from featherseg.core.errors import ConfigError, DataNotFound, FeathersegError, UnknownName
from featherseg.data import open_dataset


def run(*arguments: object):
    return CliRunner().invoke(
        cli.build_app(), ["convert", *(str(argument) for argument in arguments)]
    )


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
    first, note, use = result.stdout.splitlines()
    assert first.startswith("Cityscapes: 1 image (val 1); 19 classes: road, sidewalk,")
    assert note == f"note: {json} is written"
    assert use == f"Use it with --data cityscapes-panoptic --data-root {release}"
    sample = open_dataset("cityscapes-panoptic", "val", release)[0]
    assert sample.instances.tolist() == [[0, 0, 26001], [-26, -26, 0]]
    again = featherseg.convert(
        release, release / "gtFine", from_format="cityscapes-panoptic", progress=lambda *_: None
    )
    assert again.images == {"val": 1}
    assert again.notes == [f"{json} is written, 1 of its masks were already there"]


def test_another_folder_and_train_ids(release, tmp_path):
    result = run(release, "--from", "cityscapes-panoptic", "--out", tmp_path / "out", "--train-ids")
    json = tmp_path / "out/cityscapes_panoptic_val_trainId.json"
    assert result.stdout.splitlines()[1:] == [f"note: {json} is written"]
    assert (
        tmp_path / "out/cityscapes_panoptic_val_trainId/bonn_000000_000019_gtFine_panoptic.png"
    ).is_file()


def test_slips_are_sentences(release, tmp_path):
    result = run(release, "--from", "cityscapes-panoptc", "--out", tmp_path / "out")
    assert isinstance(result.exception, UnknownName)
    assert "Did you mean 'cityscapes-panoptic'?" in str(result.exception)
    missing = run(tmp_path, "--from", "cityscapes-panoptic", "--out", tmp_path / "out").exception
    assert isinstance(missing, DataNotFound)
    assert isinstance(run(release, "--train-ids", "--out", tmp_path / "out").exception, ConfigError)
    unfit = run(
        release,
        "--from",
        "cityscapes-panoptic",
        "--to",
        "coco",
        "--copy",
        "--out",
        tmp_path / "out",
    ).exception
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


def main(monkeypatch, capsys, *arguments: object) -> tuple[int, str]:
    """-> (exit code, all that is printed) of `featherseg *arguments`."""
    monkeypatch.setattr("sys.argv", ["featherseg", *map(str, arguments)])
    with pytest.raises(SystemExit) as finished:
        cli.main()
    captured = capsys.readouterr()
    return int(finished.value.code or 0), captured.out + captured.err


def commands_in(text: str) -> list[list[str]]:
    """The commands that a message names, each as arguments."""
    return [
        shlex.split(found) for found in re.findall(r"featherseg ((?:check|convert) [^`\n]*)", text)
    ]


def of_labelme(folder: Path) -> None:
    labelme(folder, [polygon("car", 1, 1, 9, 1, 9, 9)])
    picture(folder / "a.png")


def of_via(folder: Path) -> None:
    picture(folder / "a.png")
    write_json(folder / "via.json", {"_via_img_metadata": {}})


def of_nothing_known(folder: Path) -> None:
    picture(folder / "a.png")
    write_json(folder / "notes.json", {"a": 1})
    (folder / "readme.txt").write_text("text")
    (folder / "page.xml").write_text("<a/>")


def of_zip(folder: Path) -> None:
    coco(folder / "inside", [("car", [square(2, 2, 9, 9)])])
    shutil.make_archive(str(folder / "export"), "zip", folder / "inside")


def of_masks(folder: Path) -> None:
    rng = np.random.default_rng(0)
    for name in "abc":
        pixels = rng.integers(0, 256, (20, 30, 3), dtype=np.uint8)
        Image.fromarray(pixels).save(picture(folder / f"images/{name}.png"))
        half = np.repeat([[0, 1]], 20, 0).repeat(15, 1).astype(np.uint8)
        (folder / "masks").mkdir(exist_ok=True)
        Image.fromarray(half).save(folder / f"masks/{name}.png")
    write_json(folder / "notes.json", {"a": 1})


@pytest.mark.parametrize(
    ("make", "place", "expected"),
    [  # what is in the folder, what is given to check, what is said
        (
            lambda folder: coco(folder, [("car", [square(2, 2, 9, 9)])]),
            "",
            "contains annotations of COCO:",
        ),
        (
            lambda folder: coco(folder, [("car", [square(2, 2, 9, 9)])]),
            "coco.json",
            "contains annotations of COCO:",
        ),
        (of_labelme, "", "contains annotations of labelme:"),
        (of_zip, "export.zip", "If a tool exported it:"),
        (
            of_via,
            "",
            "is a file of VGG Image Annotator, which cannot be read. "
            "Export its annotations in COCO",
        ),
        (of_nothing_known, "", "no image has a mask of its name (1 file in .)"),
        (of_nothing_known, "notes.json", "is a file that is no dataset"),
    ],
)
@pytest.mark.parametrize("verb", ["prepare", "check"])
def test_what_is_no_dataset_is_sent_to_convert_only_where_that_goes_on(
    tmp_path, monkeypatch, capsys, make, place, expected, verb
):
    monkeypatch.setenv("FEATHERSEG_HOME", str(tmp_path / "home"))
    is_export = "contains annotations" in expected or "exported" in expected
    make(tmp_path / "my src")
    code, text = main(monkeypatch, capsys, verb, tmp_path / "my src" / place)
    if is_export and verb == "check":  # it converts by itself
        assert code == 0
        assert "road" in text or "car" in text
        return
    assert code == 2
    assert expected in text
    commands = [command for command in commands_in(text) if command[0] == "convert"]
    assert bool(commands) == is_export
    for command in commands:
        arguments = [
            str(tmp_path / "out") if argument == "OUT" else argument for argument in command
        ]
        assert main(monkeypatch, capsys, *arguments)[0] == 0


@pytest.mark.parametrize(
    ("make", "place", "code"),
    [(of_masks, "", 0), (of_masks, "notes.json", 0), (of_nothing_known, "", None)],
)
def test_what_is_no_annotation_is_sent_to_check_only_where_that_goes_on(
    tmp_path, monkeypatch, capsys, make, place, code
):
    make(tmp_path / "my src")
    monkeypatch.chdir(tmp_path)
    failed, text = main(
        monkeypatch, capsys, "convert", Path("my src") / place, "--out", tmp_path / "out"
    )
    assert failed == 2
    assert "contains no known annotations" in text
    assert [main(monkeypatch, capsys, *command)[0] for command in commands_in(text)] == (
        [] if code is None else [code]
    )
