"""`featherseg check FOLDER --write` turns published folders into datasets ready for training."""

import json
import os
import re
import shlex
import shutil
import time
from collections.abc import Sequence
from pathlib import Path
from unicodedata import normalize

import numpy as np
import pytest
from PIL import Image
from support.data.published_layouts import (
    COUNT,
    LAYOUTS,
    TILES,
    TURNED,
    magnetic_tiles,
    save,
    scenes,
)
from support.models.small_training import SMALL
from typer.testing import CliRunner

import featherseg
from featherseg.cli import build_app
from featherseg.core.errors import AmbiguousData, ConfigError, DataError, DataNotFound, UnknownName
from featherseg.data import open_dataset, own_config
from featherseg.data.datasets.dataset_toml import read_dataset_toml
from featherseg.data.datasets.folder import folder_listing
from featherseg.data.discovery import image_tree, layouts, value_names
from featherseg.data.discovery.file_facts import FileFacts
from featherseg.data.discovery.image_tree import looks_like_mask
from featherseg.data.discovery.mask_folders import read_folders
from featherseg.data.discovery.mask_values import MaskValues, read_values
from featherseg.data.discovery.proposal import propose
from featherseg.data.images.decoding import read_mask
from featherseg.recipe.reading import parse_recipe, read_recipe
from featherseg.training.objects import NAMES_ALONE
from featherseg.training.open import open_unlabelled

pytestmark = pytest.mark.usefixtures("quick_training")

VALUES = {"0": "elsewhere", "1": "road", "2": "object", "3": "ignore"}
EXPECTED = {  # layout -> images a split, classes in the order of the masks' values
    "other_folder_names": ({"train": 10, "val": 2}, 4),
    "suffixes_on_both_sides": ({"train": 10, "val": 2}, 4),
    "image_name_and_ending": ({"train": 10, "val": 2}, 4),
    "one_folder": ({"train": 10, "val": 2}, 4),
    "one_folder_by_suffix": ({"train": 10, "val": 2}, 4),
    "class_is_the_folder": ({"train": 29, "val": 7}, 3),
    "splits_above": ({"train": 6, "val": 3, "test": 3}, 4),
    "splits_below": ({"train": 9, "val": 1, "test": 2}, 4),
    "lists_of_numbers": ({"train": 6, "val": 2, "test": 4}, 4),
    "lists_of_paths": ({"train": 8, "val": 1, "test": 3}, 4),
    "smoothed": ({"train": 10, "val": 2}, 2),
    "rgb_masks": ({"train": 10, "val": 2}, 3),
}


def run(*arguments: object):
    return CliRunner().invoke(build_app(), [str(argument) for argument in arguments])


def checked(folder: Path, *options: str) -> dict:
    """What `check --write` says as JSON; it must have written."""
    result = run("check", folder, "--write", "--json", *options)
    assert result.exit_code in (0, 1), result.exception
    report = json.loads(result.stdout)
    assert report["written"] == str(folder / "dataset.toml")
    assert (folder / "dataset.toml").read_text().partition("\n")[2] == report[
        "proposed_dataset_toml"
    ]
    return report


def test_every_layout_has_its_expectation():
    assert EXPECTED.keys() == LAYOUTS.keys()


@pytest.mark.seconds
@pytest.mark.parametrize("name", LAYOUTS)
def test_check_writes_a_dataset_that_reads_as_the_scenes_it_was_made_of(tmp_path: Path, name: str):
    LAYOUTS[name](tmp_path)
    before = {path for path in tmp_path.rglob("*") if path.is_file()}
    report = checked(tmp_path)
    splits, classes = EXPECTED[name]
    lacking = [fault["kind"] for fault in report["faults"]]
    assert lacking == ["classes"] * (name == "lists_of_numbers")  # whose val is its own
    assert {split: part["images"] for split, part in report["splits"].items()} == splits
    assert len(report["classes"]) == classes
    written = {path for path in tmp_path.rglob("*") if path.is_file()} - before
    assert {path.suffix for path in written} <= {".toml", ".txt"}

    # every sample is a scene, with its own mask
    known = {number: np.asarray(mask) for number, (_, mask) in enumerate(scenes())}
    for split in splits:
        data = open_dataset(str(tmp_path), split)
        for index in range(len(data)):
            sample = data[index]
            value, turn = TURNED.get(sample.key.split("/")[0], (0, np.s_[:]))
            image = sample.image[turn].astype(int)
            likest = min(
                known, key=lambda n: np.abs(scenes()[n][0] - image).mean()
            )  # called at once
            label, mask = sample.label[turn], known[likest]
            if name == "class_is_the_folder":
                expected = np.where(mask == value, value, 0)
            elif name == "smoothed":
                expected = np.where(mask == 2, 1, 0)
                assert (label != expected).mean() < 0.06  # at the edges
                continue
            else:  # black, green, red in the order of their numbers
                expected = np.array([0, 2, 1, 0])[mask] if name == "rgb_masks" else mask
            np.testing.assert_array_equal(label, expected)


def train(folder: Path, out: Path, steps: int):
    settings = [text for text in SMALL if not text.startswith("train.epochs")]
    settings += [f"train.steps={steps}", "train.batch_size=2", "data.train_size=6"]
    options = [part for text in settings for part in ("--set", text)]
    return run(
        "train", "efficientvit-seg-b0", "--data", folder, "--no-report", "--out", out, *options
    )


@pytest.mark.seconds
@pytest.mark.usefixtures("light_models")
@pytest.mark.parametrize("name", ["class_is_the_folder", "lists_of_numbers"])
def test_what_was_written_is_trained_on_without_an_edit(tmp_path: Path, name: str):
    LAYOUTS[name](tmp_path / "data")
    checked(tmp_path / "data")
    result = train(tmp_path / "data", tmp_path / "run", 2)
    assert result.exit_code == 0, result.exception
    result = run("evaluate", tmp_path / "run", "--data", tmp_path / "data", "--split", "val")
    assert result.exit_code == 0, result.exception


@pytest.mark.slow
@pytest.mark.parametrize("name", LAYOUTS)
def test_every_layout_is_trained_on_for_20_steps(tmp_path: Path, name: str):
    LAYOUTS[name](tmp_path / "data")
    checked(tmp_path / "data")
    result = train(tmp_path / "data", tmp_path / "run", 20)
    assert result.exit_code == 0, result.exception


@pytest.mark.seconds
@pytest.mark.usefixtures("light_models")
def test_smoothed_masks_in_class_folders_are_read_and_trained_on(tmp_path: Path):
    data = tmp_path / "data"
    magnetic_tiles(data)
    report = checked(data)
    assert report["classes"] == ["background", "blowhole", "break", "crack", "fray", "uneven"]
    assert [other["options"] for other in report["other_readings"]] == ["--groups-from-folders"]
    for split in report["splits"]:
        opened = open_dataset(str(data), split)
        for index, key in enumerate(opened.keys):
            name = key.partition("/")[0].removeprefix("MT_").lower()
            number = report["classes"].index(name) if name != "free" else 0
            drawn = np.asarray(Image.open(data / f"{key}.png")) >= 128
            np.testing.assert_array_equal(opened.label(index), np.where(drawn, number, 0))
    result = train(data, tmp_path / "run", 20)
    assert result.exit_code == 0, result.exception

    assert checked(data, "--groups-from-folders")["classes"] == ["background", "foreground"]
    found = folder_listing(data / "dataset.toml").splits.values()
    assert sum(len({pair.key.partition("/")[0] for pair in pairs}) for pairs in found) == len(TILES)


@pytest.mark.seconds
def test_a_defect_in_a_folder_without_a_class_is_a_fault(tmp_path: Path):
    magnetic_tiles(tmp_path, count=3)
    checked(tmp_path)
    mask = next((tmp_path / "MT_Free/Imgs").glob("*.png"))
    save(mask, np.full_like(np.asarray(Image.open(mask)), 200))
    report = json.loads(run("check", tmp_path, "--json").stdout)
    assert [(fault["kind"], Path(fault["key"]).name) for fault in report["faults"]] == [
        ("values", mask.stem)
    ]


@pytest.mark.parametrize(
    ("layout", "places"),
    [
        ("one_folder", "images and masks in Imgs"),
        (
            "splits_above",
            "images in test/images, train/images, valid/images, "
            "masks in test/masks, train/masks, valid/masks",
        ),
    ],
)
def test_a_proposal_names_all_folders_that_it_reads(tmp_path: Path, layout: str, places: str):
    LAYOUTS[layout](tmp_path / "data")
    assert propose(tmp_path / "data").summary.startswith(f"{places}; classes ")


@pytest.mark.seconds
@pytest.mark.usefixtures("light_models")
def test_a_folder_without_a_dataset_toml_is_trained_on_as_it_is_proposed(tmp_path: Path, caplog):
    LAYOUTS["smoothed"](tmp_path / "data")
    caplog.set_level("INFO", "featherseg")
    result = train(tmp_path / "data", tmp_path / "run", 1)
    assert result.exit_code == 0, result.exception
    (said,) = {text for text in caplog.messages if "has no dataset.toml" in text}
    assert (
        "--write` would write it (images in images, masks in masks; classes background, foreground)"
        in said
    )
    assert not (tmp_path / "data/dataset.toml").exists()
    assert json.loads((tmp_path / "run/resolved.json").read_text())["recipe"]["data"][
        "name"
    ] == str(tmp_path / "data")
    checked(tmp_path / "data")  # and goes on with the file that says the same
    result = run("evaluate", tmp_path / "run", "--split", "val", "--json")
    assert result.exit_code == 0, result.exception


@pytest.mark.parametrize("name", ["suffixes_on_both_sides", "lists_of_numbers"])
def test_a_folder_whose_meaning_is_not_clear_is_sent_to_check(tmp_path: Path, name: str):
    LAYOUTS[name](tmp_path / "data")
    result = train(tmp_path / "data", tmp_path / "run", 1)
    assert isinstance(result.exception, DataNotFound)
    assert f"featherseg check {tmp_path / 'data'} --write" in str(result.exception)
    assert not (tmp_path / "run").exists()


@pytest.mark.seconds
def test_names_are_given_to_values_colours_and_folders(tmp_path: Path):
    LAYOUTS["other_folder_names"](tmp_path / "a")
    report = checked(
        tmp_path / "a", *(part for v, n in VALUES.items() for part in ("--name", f"{v}={n}"))
    )
    assert report["classes"] == ["elsewhere", "road", "object"]
    assert read_dataset_toml(tmp_path / "a/dataset.toml").map == VALUES
    assert not [note for note in report["look_at"] if "without a name" in note]

    LAYOUTS["rgb_masks"](tmp_path / "b")
    report = checked(
        tmp_path / "b", "--name", "ff0000=rust", "--name", "#00FF00=rust", "--name", "000000=steel"
    )
    assert report["classes"] == ["steel", "rust"]

    LAYOUTS["class_is_the_folder"](tmp_path / "c")
    report = checked(tmp_path / "c", "--name", "MT_Fray=torn edge")
    assert report["classes"] == ["background", "crack", "torn edge"]
    colors = [info.color for info in read_dataset_toml(tmp_path / "c/dataset.toml").class_infos()]
    assert colors == [(0, 0, 0), (213, 94, 0), (86, 180, 233)]
    assert report["other_readings"] == []  # the name says that folders are classes
    assert checked(tmp_path / "c", "--name", "255=foreground")["classes"] == [
        "background",
        "foreground",
    ]
    for number in (1, 2):
        (tmp_path / "c" / ("MT_Crack", "MT_Fray")[number - 1]).rename(tmp_path / f"c/type{number}")
    assert checked(tmp_path / "c", "--name", "type1=crack", "--name", "MT_Free=none")["classes"][
        :2
    ] == [
        "background",
        "crack",
    ]


@pytest.mark.seconds
def test_masks_in_colours_are_named_by_the_list_beside_them(tmp_path: Path):
    LAYOUTS["rgb_masks"](tmp_path / "a")
    (tmp_path / "a/class_dict.csv").write_text(
        "name,r,g,b\nsteel,0,0,0\nrust,255,0,0\nmoss,0, 255, 0\npaint,1,2,3\n"
    )
    with (tmp_path / "a/class_dict.csv").open("a") as file:
        file.write("nameplate,4,5,6\nname board,7,8,9\n")
    report = checked(tmp_path / "a", "--name", "00ff00=lichen")
    assert sorted(report["classes"]) == [
        "lichen",
        "name board",
        "nameplate",
        "paint",
        "rust",
        "steel",
    ]
    assert "5 names of classes from class_dict.csv" in report["look_at"]

    LAYOUTS["rgb_masks"](tmp_path / "b")
    (tmp_path / "b/gt/labelmap.txt").write_text(
        "# label:color_rgb:parts:actions\nmoss:0,255,0::\nignore:0,0,0::\n"
    )
    assert sorted(checked(tmp_path / "b")["classes"]) == ["class_ff0000", "moss"]
    assert read_dataset_toml(tmp_path / "b/dataset.toml").map["#000000"] == "ignore"

    LAYOUTS["rgb_masks"](tmp_path / "v")
    (tmp_path / "v/label_colors.txt").write_text("0 0 0\tVoid\n255 0 0\trust\n0 255 0\tmoss\n")
    report = checked(tmp_path / "v")
    assert sorted(report["classes"]) == ["moss", "rust"]
    assert [
        note
        for note in report["look_at"]
        if "'Void' is ignored" in note and "--name 000000=Void" in note
    ]
    (tmp_path / "v/dataset.toml").unlink()
    assert sorted(checked(tmp_path / "v", "--name", "000000=Void")["classes"]) == [
        "Void",
        "moss",
        "rust",
    ]

    LAYOUTS["rgb_masks"](tmp_path / "c")
    (tmp_path / "c/labelmap.txt").write_text("what is this\n")
    report = checked(tmp_path / "c")
    assert "class_ff0000" in report["classes"]
    assert any(
        "line 1: 'what is this' is no class with a colour" in note for note in report["look_at"]
    )

    LAYOUTS["rgb_masks"](tmp_path / "d")
    (tmp_path / "d/class_dict.csv").write_text(
        "name,r,g,b\nrust,0,0,0\nmoss,0,255,0\nrust,255,0,0\n"
    )
    report = checked(tmp_path / "d")
    assert sorted(report["classes"]) == ["moss", "rust"]
    assert "2 names of classes from class_dict.csv" in report["look_at"]
    assert read_dataset_toml(tmp_path / "d/dataset.toml").map == {
        "#000000": "rust",
        "#00ff00": "moss",
        "#ff0000": "rust",
    }


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ("7=x", r"have no value or class 7\. Known: 0, 1, 2, 3"),
        ("class_5=x", "Did you mean 'class_"),
        ("=x", "expected VALUE=NAME"),
        ("1=", "expected VALUE=NAME"),
        ("1", "expected VALUE=NAME"),
    ],
)
def test_a_name_for_what_is_not_there_is_refused_and_nothing_written(
    tmp_path: Path, given: str, message: str
):
    LAYOUTS["other_folder_names"](tmp_path)
    result = run("check", tmp_path, "--write", "--name", given)
    assert isinstance(result.exception, ConfigError)
    with pytest.raises(ConfigError, match=message):
        raise result.exception
    assert not (tmp_path / "dataset.toml").exists()


@pytest.mark.seconds
def test_of_two_folders_of_masks_the_one_with_more_classes_is_taken_and_the_other_can_be(
    tmp_path: Path,
):
    LAYOUTS["suffixes_on_both_sides"](tmp_path)
    report = checked(tmp_path)
    assert 'masks = "annotations"' in report["proposed_dataset_toml"]
    (other,) = report["other_readings"]
    assert other["options"] == "--masks binary"
    for given in ("binary", "binary/", str(tmp_path / "binary")):
        report = checked(tmp_path, "--masks", given)
        assert report["classes"] == ["background", "foreground"]
    assert isinstance(
        run("check", tmp_path / "images", "--masks", "nowhere").exception, DataNotFound
    )


@pytest.mark.seconds
@pytest.mark.parametrize("place", ["{}/{}.png", "day1/{}/{}.png|day2/{}/{}.png", "gt/{1}_{0}.png"])
def test_masks_with_as_many_values_are_a_question_and_each_answer_works(tmp_path: Path, place: str):
    for number, (image, mask) in enumerate(scenes()):
        path = place.split("|")[number % 2 if "|" in place else 0]
        save(
            tmp_path
            / (path.format("images", number) if "gt" not in path else f"images/{number}.png"),
            image,
        )
        for name, turned in (
            ("first", mask),
            ("second", np.where(mask == 0, 2, np.where(mask == 2, 0, mask))),
        ):
            save(tmp_path / path.format(name, number), turned.astype(np.uint8))
    result = run("check", tmp_path, "--write")
    assert result.exit_code == 1
    assert "with the same number of values" in result.stdout
    commands = [
        shlex.split(line)[1:]
        for line in result.stdout.splitlines()
        if line.startswith("    featherseg ")
    ]
    assert len(commands) == 2
    for command in commands:
        report = json.loads(run(*command, "--json").stdout)
        assert (
            sum(part["images"] for part in report["splits"].values()) >= COUNT - 2
        )  # some lie beside a cut
    assert commands[0] != commands[1]


def test_masks_of_single_objects_are_not_taken_for_those_with_more_classes(tmp_path: Path):
    for number, (image, mask) in enumerate(scenes()):
        save(tmp_path / f"images/{number}.png", image)
        save(tmp_path / f"coarse/{number}.png", mask)
        ids = (
            np.arange(128, dtype=np.uint8)[:, None]
            .repeat(64, 1)
            .reshape(-1, 64)[: mask.shape[0] * 2 : 2]
            + number * 5
        )
        save(tmp_path / f"numbers/{number}.png", np.ascontiguousarray(ids[:, : mask.shape[1]]))
    report = checked(tmp_path)
    assert read_dataset_toml(tmp_path / "dataset.toml").masks == "coarse"
    assert [other["options"] for other in report["other_readings"]] == ["--masks numbers"]


@pytest.mark.seconds
@pytest.mark.parametrize("edited", ["dataset.toml", "train.txt", "val.txt"])
def test_a_proposal_is_replaced_by_the_next_until_it_or_a_list_is_edited(
    tmp_path: Path, edited: str
):
    LAYOUTS["lists_of_numbers"](tmp_path)
    checked(tmp_path)
    lists = {path.name: path.read_text() for path in tmp_path.glob("*.txt")}
    assert lists.keys() == {"train.txt", "val.txt", "test.txt"}
    report = checked(
        tmp_path, "--name", "1=road"
    )  # not by its own lists, which are in no two splits
    assert "road" in report["classes"]
    assert [note for note in report["look_at"] if "1 image in two lists" in note]
    assert {path.name: path.read_text() for path in tmp_path.glob("*.txt")} == lists

    with pytest.raises(ConfigError, match=r"Edit it, or add --write to replace it\."):
        raise run("check", tmp_path, "--name", "1=lane").exception
    for data in (tmp_path / "dataset.toml", "shapes"):
        with pytest.raises(ConfigError, match=r"(Edit it|Leave them out)\."):
            raise run("check", data, "--name", "1=lane").exception
    with (tmp_path / edited).open("a") as file:
        file.write("\n")
    kept = {path: path.read_bytes() for path in tmp_path.glob("*.t*")}
    with pytest.raises(DataError, match="exists and is not replaced, because it was edited"):
        raise run("check", tmp_path, "--write", "--name", "1=lane").exception
    assert {path: path.read_bytes() for path in tmp_path.glob("*.t*")} == kept


@pytest.mark.seconds
def test_lists_go_with_the_proposal_that_they_belonged_to(tmp_path: Path):
    LAYOUTS["other_folder_names"](tmp_path)
    (tmp_path / "split.yaml").write_text("train: [0, 1, 2, 3, 4, 5, 6, 7]\nval: [8, 9, 10, 11]\n")
    checked(tmp_path)
    (tmp_path / "notes.txt").write_text("mine")
    (tmp_path / "split.yaml").unlink()
    checked(tmp_path)
    assert [path.name for path in tmp_path.glob("*.txt")] == ["notes.txt"]
    assert read_dataset_toml(tmp_path / "dataset.toml").shares == {"train": 0.8, "val": 0.2}


@pytest.mark.seconds
def test_a_dataset_toml_of_another_origin_is_never_written_over(tmp_path: Path):
    LAYOUTS["one_folder"](tmp_path)
    text = featherseg.check(tmp_path).proposal.text  # as an older version wrote it
    for content in (
        "mine",
        text,
        "# Written by `featherseg check --write`, which replaces it until it is edited: " + text,
    ):
        (tmp_path / "dataset.toml").write_text(content)
        assert isinstance(run("check", tmp_path, "--write").exception, DataError)
        assert (tmp_path / "dataset.toml").read_text() == content
    assert isinstance(run("check", "shapes", "--write").exception, ConfigError)


def test_faults_end_with_1_and_the_file_is_written_all_the_same(tmp_path: Path):
    LAYOUTS["splits_above"](tmp_path)
    (tmp_path / "train/masks/0003.png").unlink()
    result = run("check", tmp_path, "--write")
    assert result.exit_code == 1
    assert "train/images/0003.jpg has no mask" in result.stdout
    assert f"wrote {tmp_path / 'dataset.toml'}" in result.stdout
    assert "featherseg train" not in result.stdout  # it would be refused
    assert f"featherseg check {tmp_path} --fix OUT" in result.stdout


def test_an_image_in_two_lists_stays_in_test_and_is_named(tmp_path: Path):
    LAYOUTS["lists_of_numbers"](tmp_path)
    report = checked(tmp_path)
    assert [
        note
        for note in report["look_at"]
        if "1 image in two lists" in note and note.endswith("tile_003")
    ]
    assert "tile_003\n" in (tmp_path / "test.txt").read_text()
    assert "tile_003\n" not in (tmp_path / "train.txt").read_text()


def test_a_list_in_our_own_form_is_used_where_it_lies(tmp_path: Path):
    LAYOUTS["other_folder_names"](tmp_path)
    for split, part in (("train", range(8)), ("val", range(8, COUNT))):
        (tmp_path / "ImageSets").mkdir(exist_ok=True)
        (tmp_path / f"ImageSets/{split}.txt").write_text(
            "".join(f"{number:03}\n" for number in part)
        )
    checked(tmp_path)
    assert read_dataset_toml(tmp_path / "dataset.toml").splits == {
        "train": "ImageSets/train.txt",
        "val": "ImageSets/val.txt",
    }
    assert [path.name for path in tmp_path.glob("*.txt")] == []


@pytest.mark.parametrize(
    ("files", "splits", "note"),
    [  # which images a list names, images a split, and what is said of it
        (
            {"test.txt": range(3)},
            {"train": 8, "val": 1, "test": 3},
            "only splits are test (test.txt): train takes the other 9 images",
        ),
        (
            {"a/val.txt": range(3), "b/test.txt": [3]},
            {"train": 8, "val": 3, "test": 1},
            "train takes the other 8 images",
        ),
        (
            {"train.txt": range(8)},
            {"train": 7, "val": 1},
            "only split is train (train.txt): no split takes the other 4",
        ),
        (
            {"train.txt": range(8), "val.txt": [8, 9, 10, 11, 99]},
            {"train": 8, "val": 4},
            "val.txt: 1 name of val",
        ),
        (
            {"train.txt": range(8), "val.txt": range(11, 15)},
            {"train": 7, "val": 1},
            "val.txt is not used: it names 1 ",
        ),
        (
            {"test.txt": range(12)},
            {"train": 10, "val": 2},
            "not used, because nothing would be left for train: test (test",
        ),
        ({"train.txt": range(12)}, {"train": 10, "val": 2}, ""),
    ],
)
def test_lists_of_some_splits_are_used_and_what_is_not_is_said(
    tmp_path: Path, files: dict, splits: dict, note: str
):
    for number, (image, mask) in enumerate(scenes()):
        save(tmp_path / f"images/p{chr(97 + number)}.png", image)
        save(tmp_path / f"masks/p{chr(97 + number)}.png", mask)
    for name, numbers in files.items():
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).write_text("".join(f"p{chr(97 + number)}\n" for number in numbers))
    report = checked(tmp_path)
    assert {split: part["images"] for split, part in report["splits"].items()} == splits
    assert any(note in text for text in report["look_at"])
    for name, numbers in files.items():  # what a list holds out is not trained on
        trained = {
            key for split in ("train", "val") for key in open_dataset(str(tmp_path), split).keys
        }
        held_out = (
            {f"p{chr(97 + number)}" for number in numbers}
            if "test" in name and len(numbers) < 12
            else set()
        )
        assert trained.isdisjoint(held_out)


@pytest.mark.parametrize(
    ("place", "splits"),
    [
        ("images/train/{}", {"train": 7, "val": 1}),
        ("images/test/{}", {"train": 3, "val": 1, "test": 8}),
        ("images/val/{}|images/{}|pi", {"train": 3, "val": 8, "test": 1}),  # and a test.txt
        (
            "images/test/{}|images/more/{}",
            {"train": 10, "val": 2},
        ),  # which may be a class, or a place
    ],
)
def test_a_folder_called_as_a_split_beside_loose_images_is_that_split(
    tmp_path: Path, place: str, splits: dict
):
    inside, beside, listed = (*place.split("|"), "", "")[:3]
    for number, (image, mask) in enumerate(scenes()):
        path = tmp_path / (inside if number < 8 else beside or "images/{}").format(
            f"p{chr(97 + number)}.png"
        )
        save(path, image)
        save(Path(str(path).replace("/images/", "/masks/")), mask)
    (tmp_path / "test.txt").write_text(listed)
    report = checked(tmp_path)
    assert {split: part["images"] for split, part in report["splits"].items()} == splits
    assert any(
        "the only split" in note or "8 images in a folder called test: not" in note
        for note in report["look_at"]
    )


@pytest.mark.parametrize(
    "content",
    [
        "a: &a [1, 2]\ntrain: *a\ntest: *a",
        "train: {x: 1}\ntest: [[1]]",
        "train: [",
        "!!python/object/apply:os.system [x]",
        "[1]",
        f"train: [0x{'f' * 5000}, 1]\ntest: [2, 3]",
    ],
)
def test_a_yaml_that_is_no_list_is_passed_over(tmp_path: Path, content: str):
    LAYOUTS["other_folder_names"](tmp_path)
    (tmp_path / "split.yaml").write_text(content)
    (tmp_path / "split.json").write_text("[" * 5000)
    checked(tmp_path)
    assert read_dataset_toml(tmp_path / "dataset.toml").shares == {"train": 0.8, "val": 0.2}


def test_smoothed_masks_get_a_threshold_and_the_share_of_pixels_it_touches_is_named(tmp_path: Path):
    for number in range(4):
        mask = np.zeros((64, 100), np.uint8)
        mask[:, 50:] = 255
        mask[:, 49], mask[:, 50] = 1, 254
        mask[0, 48:52] = 2, 1, 253, 254
        save(tmp_path / f"images/{number}.png", scenes()[number][0][:64, :100])
        save(tmp_path / f"masks/{number}.png", mask)
    report = checked(tmp_path)
    assert read_dataset_toml(tmp_path / "dataset.toml").threshold == 128
    touched = (2 * 64 + 2) / 6400
    assert [note for note in report["look_at"] if f"smoothed: {touched:.2%} of the pixels" in note]
    assert open_dataset(str(tmp_path), "train").label(0)[:, :50].max() == 0
    assert open_dataset(str(tmp_path), "train").label(0)[:, 50:].min() == 1


@pytest.mark.seconds
@pytest.mark.parametrize("colors", [(0, 100, 200), ((0, 0, 0), (255, 0, 0), (0, 128, 128))])
def test_what_jpeg_leaves_along_edges_is_no_class_and_not_clean(tmp_path: Path, colors: tuple):
    y, x = np.mgrid[:320, :400] // 2
    masks = [((y - 40) ** 2 + (x - 50 - 9 * n) ** 2 < 900) + 2 * (y > 110 + n) for n in range(6)]
    for number, mask in enumerate(masks):
        image = np.random.default_rng(number).integers(0, 256, (320, 400, 3)).astype(np.uint8)
        save(tmp_path / f"images/{number}.png", image)
        drawn = np.array(colors, np.uint8)[mask]
        save(
            tmp_path / f"masks/{number}.{'png' if (number, drawn.ndim) == (5, 2) else 'jpg'}", drawn
        )
    report = checked(tmp_path)
    assert len(report["classes"]) == 3
    assert not report["clean"]
    assert {fault["kind"] for fault in report["faults"]} == {"values"}
    assert [
        note
        for note in report["look_at"]
        if "write masks as PNG" in note and "along their edges" in note
    ]
    (tmp_path / "dataset.toml").unlink()
    (tmp_path / "masks").rename(
        tmp_path / "jpegs"
    )  # beside masks that are exact they do not count as more classes
    for number, mask in enumerate(masks):
        save(
            tmp_path / f"masks/{number}.png", np.where((x < 9) & (y < 9), 3, mask).astype(np.uint8)
        )
    checked(tmp_path)
    assert read_dataset_toml(tmp_path / "dataset.toml").masks == "masks"


def test_tens_of_thousands_of_values_are_judged_in_a_moment(tmp_path: Path):
    values = {f"#{number:06x}": 1 for number in range(40_000)} | {
        "#ff0000": 50_000,
        "#00ff00": 50_000,
    }
    begun = time.process_time()
    found = value_names.map_values(tmp_path, MaskValues(values, {}, {}), False, {})
    assert set(found) == {"#ff0000", "#00ff00"}
    assert time.process_time() - begun < 5


@pytest.mark.parametrize(
    ("stray", "width", "threshold"), [(1, 1, 128), (254, 1, 128), (7, 1, 128), (1, 8, None)]
)
def test_a_stray_pixel_does_not_make_the_foreground_ignored(
    tmp_path: Path, stray: int, width: int, threshold: int
):
    for number in range(4):
        mask = np.zeros((64, 100), np.uint8)
        mask[:, 20:] = 255
        mask[3, 3 : 3 + width] = stray if number == 2 else 0
        save(tmp_path / f"images/{number}.png", scenes()[number][0][:64, :100].repeat(2, 0)[:64])
        save(tmp_path / f"masks/{number}.png", mask)
    checked(tmp_path)
    config = read_dataset_toml(tmp_path / "dataset.toml")
    assert (
        config.threshold == threshold
    )  # eight in a row are an object: 255 may well be what is not labelled
    assert config.map["255"] == ("foreground" if threshold else "ignore")


@pytest.mark.parametrize(
    ("values", "classes"),
    [
        ((0, 1, 255), 2),  # 255 is ignored
        ((0, 1, 2, 3, 255), 4),
        ((0, 128, 255), 3),  # greys that cover areas, spread evenly: 255 is one of them
        ((0, 85, 170, 255), 4),
        ((0, 60, 255), 2),
        ((*range(20), 254, 255), 21),
    ],
)
def test_classes_are_not_taken_for_smoothed_edges(
    tmp_path: Path, values: tuple[int, ...], classes: int
):
    mask = np.repeat(np.array(values, np.uint8), 8)[None].repeat(16, 0)
    for number in range(3):
        save(
            tmp_path / f"images/{number}.png",
            np.random.default_rng(number).integers(0, 256, (*mask.shape, 3)).astype("u1"),
        )
        save(tmp_path / f"masks/{number}.png", mask)
    notes = checked(tmp_path)["look_at"]
    config = read_dataset_toml(tmp_path / "dataset.toml")
    assert (config.threshold, len(config.classes)) == (None, classes)
    share = (
        f"255 ({1 / len(values):.2%} of the pixels) is taken for not labelled; "
        "--name 255=NAME if it is a class"
    )
    assert (share in notes) == (config.map["255"] == "ignore") == (classes < len(values))


def binary_in_folders(
    folder: Path, images: str, masks: str, names: Sequence[str], empty: Sequence[str] = ()
) -> None:
    """Write images and masks of 0 and 255 in these folders; `empty` ones are all background."""
    for turn, name in enumerate(names):
        for number, (image, mask) in enumerate(scenes()[:4]):
            road = (
                np.zeros_like(mask)
                if name in empty
                else np.where(mask == 1, 255, 0).astype(np.uint8)
            )
            save(folder / images.format(name, number), np.rot90(image, turn))
            save(folder / masks.format(name, number), np.rot90(road, turn))


GROUPS = {  # from public releases and reports: names of folders, images, masks
    "patients": (
        ("TCGA_CS_4941_19960909", "TCGA_DU_5849"),
        "kaggle/{0}/{0}_{1}.tif",
        "kaggle/{0}/{0}_{1}_mask.tif",
    ),
    "people": (("Meyer", "Okafor", "Rossi"), "{}/images/{}.png", "{}/masks/{}.png"),
    "cities": (("austin", "chicago", "vienna"), "{}/images/{}.tif", "{}/gt/{}.tif"),
    "cities_inside": (("austin", "chicago", "vienna"), "images/{}/{}.tif", "gt/{}/{}.tif"),
    "flights": (("2024-05-01_field", "2024-06-11_field"), "{}/images/{}.jpg", "{}/masks/{}.png"),
    "clips": (("clip1", "clip2"), "{}/rgb/{}.png", "{}/gt/{}.png"),
    "inside_splits": (("a/austin", "b/austin", "b/vienna"), "x/{}/img/{}.png", "x/{}/lbl/{}.png"),
}


@pytest.mark.seconds
@pytest.mark.parametrize("name", GROUPS)
def test_binary_masks_in_folders_are_a_question_and_both_answers_work(tmp_path: Path, name: str):
    folders, images, masks = GROUPS[name]
    place = tmp_path / "my data"
    binary_in_folders(place, images, masks, folders)
    result = run("check", place, "--write")
    assert result.exit_code == 1
    assert not (place / "dataset.toml").exists()
    commands = [
        shlex.split(line)[1:]
        for line in result.stdout.splitlines()
        if line.startswith("    featherseg ")
    ]
    assert [command[-1] for command in commands] == [
        "--classes-from-folders",
        "--groups-from-folders",
    ]

    if name == "people":
        shown = run(*(word for word in commands[1] if word != "--write")).stdout
        assert f"Write it: featherseg {shlex.join(commands[1])}\n" in shown
    classes, groups = (
        run(*command, "--json") for command in commands
    )  # the second replaces what the first wrote
    assert len(json.loads(classes.stdout)["classes"]) == 1 + len(
        {name.partition("/")[0] for name in folders}
    )
    assert json.loads(groups.stdout)["classes"] == ["background", "foreground"]
    listing = folder_listing(place / "dataset.toml")
    names = {name.partition("/")[0] for name in folders}
    found = [
        {name for name in names for pair in pairs if name in pair.key.split("/")}
        for pairs in listing.splits.values()
    ]
    assert set.union(*found) == names
    assert sum(map(len, found)) == len(names)  # no folder lies in two splits
    assert all(pair.image and pair.mask for pairs in listing.splits.values() for pair in pairs)


@pytest.mark.seconds
@pytest.mark.parametrize("name", ["free", "Good", "OK", "normal", "None", "background", "MT_FREE"])
def test_folders_are_classes_where_an_empty_one_is_named_as_normal(tmp_path: Path, name: str):
    binary_in_folders(
        tmp_path, "{}/img/{}.png", "{}/lbl/{}.png", ("crack", "rust", name), empty=(name,)
    )
    report = checked(tmp_path)
    assert report["classes"] == ["background", "crack", "rust"]
    assert [
        note
        for note in report["look_at"]
        if note.endswith(f"{name} is named as normal and all its masks are background")
    ]
    (other,) = report["other_readings"]
    assert checked(tmp_path, other["options"])["classes"] == ["background", "foreground"]


def test_images_without_masks_beside_class_folders_are_named(tmp_path: Path):
    """As in MVTec AD: sound products have no mask."""
    binary_in_folders(
        tmp_path, "test/{}/{:03}.png", "ground_truth/{}/{:03}_mask.png", ("broken", "bent", "good")
    )
    shutil.rmtree(tmp_path / "ground_truth/good")
    report = checked(tmp_path, "--classes-from-folders")
    assert report["classes"] == ["background", "bent", "broken"]
    assert "4 images in test/good without a mask: left out" in report["look_at"]
    assert sum(part["images"] for part in report["splits"].values()) == 8


@pytest.mark.parametrize(("name", "empty"), [("winter", True), ("free", False), ("freedom", True)])
def test_an_empty_folder_or_its_name_alone_is_no_evidence(tmp_path: Path, name: str, empty: bool):
    binary_in_folders(
        tmp_path, "{}/img/{}.png", "{}/lbl/{}.png", ("spring", name), empty=(name,) * empty
    )
    result = run("check", tmp_path, "--write", "--json")
    assert result.exit_code == 1
    report = json.loads(result.stdout)
    assert (report["clean"], report["written"], len(report["readings"])) == (False, None, 2)
    with pytest.raises(AmbiguousData, match="--groups-from-folders"):
        own_config(tmp_path)
    with pytest.raises(
        UnknownName, match=r"unknown meaning of folders 'class'\. Did you mean 'classes'"
    ):
        featherseg.check(tmp_path, folders="class")


def test_class_folders_below_split_folders_are_classes_in_their_splits(tmp_path: Path):
    for split in ("train", "val"):
        binary_in_folders(
            tmp_path,
            f"images/{split}/{{}}/{{}}.png",
            f"masks/{split}/{{}}/{{}}.png",
            ("rust", "ok"),
            ("ok",),
        )
    assert checked(tmp_path)["classes"] == ["background", "rust"]
    splits = folder_listing(tmp_path / "dataset.toml").splits
    assert {split: len(pairs) for split, pairs in splits.items()} == {"train": 8, "val": 8}


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (["--classes-from-folders", "--groups-from-folders"], "exclude each other"),
        (
            ["--classes-from-folders", "--name", "255=rust"],
            "--name 255=rust names one class of all folders",
        ),
        (["--groups-from-folders", "--name", "austin=rust"], "have no value or class austin"),
    ],
)
def test_contradicting_answers_are_refused(tmp_path: Path, options: list[str], message: str):
    binary_in_folders(tmp_path, "{}/img/{}.png", "{}/lbl/{}.png", ("austin", "vienna"))
    with pytest.raises(ConfigError, match=message):
        raise run("check", tmp_path, "--write", *options).exception
    assert not (tmp_path / "dataset.toml").exists()


@pytest.mark.seconds
def test_answers_for_folders_that_are_not_there_are_refused(tmp_path: Path):
    LAYOUTS["other_folder_names"](tmp_path / "one")
    for option in ("classes", "groups"):
        with pytest.raises(
            ConfigError,
            match=f"lie in one folder .*are no {option}. Leave out --{option}-from-folders",
        ):
            raise run("check", tmp_path / "one", f"--{option}-from-folders").exception
    for name in ("austin", "vienna"):
        LAYOUTS["other_folder_names"](tmp_path / f"several/{name}")
    with pytest.raises(ConfigError, match="have 4 values, expected 0 and one other"):
        raise run("check", tmp_path / "several", "--classes-from-folders").exception
    hint = "images lie in 2 folders (austin, vienna): "
    hint += "if each is a patient, a city or a day, --groups-from-folders"
    assert [note for note in checked(tmp_path / "several")["look_at"] if note.startswith(hint)]
    checked(tmp_path / "several", "--groups-from-folders")
    found = folder_listing(tmp_path / "several/dataset.toml").splits.values()
    assert sorted({pair.key.split("/")[0] for pair in pairs} for pairs in found) == [
        {"austin"},
        {"vienna"},
    ]


def test_more_folders_than_classes_can_be_are_groups(tmp_path: Path):
    pair = image_tree.FolderPair("images", "masks", ("", ""), ("", ""), 512)
    held = {(0, f"{number:03}"): {"0", "255"} for number in range(256)}
    values = MaskValues({"0": 9, "255": 9}, {}, held, images=dict.fromkeys(held, 2))
    found = read_folders(tmp_path, layouts.Reading((pair,), ()), values, {}, None, "")
    assert (
        found.hint == "images lie in 256 folders (000, 001, 002, ...), "
        "more than classes can be: each stays in one split"
    )
    assert (found.groups, [source.class_ for source in found.sources]) == ("^([^/]+)/", [None])


@pytest.mark.seconds
def test_folders_of_single_images_and_values_that_tell_classes_are_no_question(tmp_path: Path):
    for number, (image, mask) in enumerate(scenes()):
        leaf = f"leaf{chr(97 + number)}"
        save(tmp_path / f"single/{leaf}/{leaf}.png", image)
        save(
            tmp_path / f"single/{leaf}/{leaf}_mask.png",
            np.where(mask == 1, 255, 0).astype(np.uint8),
        )
        save(tmp_path / f"values/{('rust', 'dent')[number % 2]}/img/{number}.png", image)
        save(tmp_path / f"values/{('rust', 'dent')[number % 2]}/gt/{number}.png", mask)
    assert checked(tmp_path / "single")["classes"] == ["background", "foreground"]
    assert len(checked(tmp_path / "values")["classes"]) == 4


@pytest.mark.seconds
def test_names_as_of_cityscapes_and_its_colour_copies_are_told_apart(tmp_path: Path):
    colors = np.random.default_rng(0).integers(0, 256, (4, 3)).astype(np.uint8)
    for split, part in (("train", scenes()[:9]), ("val", scenes()[9:])):
        for number, (image, mask) in enumerate(part):
            stem = f"{split}/bern/bern_{number:06}_000019"
            save(tmp_path / f"leftImg8bit/{stem}_leftImg8bit.png", image)
            save(tmp_path / f"gtFine/{stem}_gtFine_labelIds.png", mask)
            save(tmp_path / f"gtFine/{stem}_gtFine_color.png", colors[mask])
    report = checked(tmp_path)
    config = read_dataset_toml(tmp_path / "dataset.toml")
    assert (config.image_suffix, config.mask_suffix) == ("_leftImg8bit", "_gtFine_labelIds")
    assert config.splits == {"train": "train", "val": "val"}
    assert {split: part["images"] for split, part in report["splits"].items()} == {
        "train": 9,
        "val": 3,
    }
    (other,) = report["other_readings"]
    assert other["options"] == "--masks 'gtFine/*_gtFine_color'"
    (tmp_path / "dataset.toml").unlink()
    checked(tmp_path, "--masks", "gtFine/*_gtFine_color")
    assert read_dataset_toml(tmp_path / "dataset.toml").mask_suffix == "_gtFine_color"


@pytest.mark.parametrize(("masks", "known"), [("annotations", True), ("labels", False)])
def test_folders_called_as_those_of_a_public_dataset_are_said_to_be_so(
    tmp_path: Path, masks: str, known: bool
):
    for number, (image, mask) in enumerate(scenes()):
        split = "training" if number < 9 else "validation"
        save(tmp_path / f"images/{split}/ADE_{split}_{number:08}.jpg", image)
        save(tmp_path / f"{masks}/{split}/ADE_{split}_{number:08}.png", mask)
    report = checked(tmp_path)
    notes = [note for note in report["look_at"] if "called as those of" in note]
    assert len(notes) == known
    assert not known or f"--data ade20k --data-root {tmp_path} knows its classes" in notes[0]


@pytest.mark.seconds
def test_a_folder_that_is_labelled_in_part_trains_on_the_part(tmp_path: Path):
    for number, (image, mask) in enumerate(scenes()):
        save(tmp_path / f"images/photo-{chr(97 + number)}.jpg", image)
        if number < 10:
            save(tmp_path / f"masks/photo-{chr(97 + number)}.png", mask)
    with pytest.raises(
        DataNotFound, match="2 of 12 images have no mask: lists of splits have to be written"
    ):
        own_config(tmp_path)
    report = checked(tmp_path)
    assert report["clean"]
    assert {split: part["images"] for split, part in report["splits"].items()} == {
        "train": 8,
        "val": 2,
    }
    (note,) = (text for text in report["look_at"] if text.startswith("2 of 12 images have no mask"))
    assert note.endswith(f"train MODEL --data {tmp_path} --unlabelled {tmp_path / 'images'}")
    recipe = parse_recipe(read_recipe("frm-lite0"), [f"data.unlabelled={tmp_path / 'images'}"])
    train, val = (open_dataset(str(tmp_path), split) for split in ("train", "val"))
    images = open_unlabelled(recipe, train, val, NAMES_ALONE)
    assert images.keys == ["photo-k.jpg", "photo-l.jpg"]
    assert len((tmp_path / "train.txt").read_text().splitlines()) == 10
    for number in (10, 11):  # the same command takes the further ones, whatever it listed before
        save(tmp_path / f"masks/photo-{chr(97 + number)}.png", scenes()[number][1])
    assert sum(part["images"] for part in checked(tmp_path)["splits"].values()) == 12
    shutil.rmtree(tmp_path / "masks")
    (tmp_path / "dataset.toml").unlink()
    assert isinstance(run("check", tmp_path, "--write").exception, DataNotFound)


@pytest.mark.parametrize("stem", ["ortho_{}.tif", "DJI_{}.jpg", "#{} field", "Kälber {}"])
def test_odd_names_of_images_are_listed_so_that_they_are_read_again(tmp_path: Path, stem: str):
    for number, (image, mask) in enumerate(scenes()[:10]):
        save(tmp_path / "images" / normalize("NFD", f"{stem.format(number)}.png"), image)
        if number < 6:
            save(tmp_path / "masks" / normalize("NFC", f"{stem.format(number)}.png"), mask)
    checked(tmp_path)
    lines = [
        line for path in sorted(tmp_path.glob("*.txt")) for line in path.read_text().splitlines()
    ]

    def complete() -> list[int]:
        splits = folder_listing(tmp_path / "dataset.toml").splits.values()
        return [sum(bool(pair.image and pair.mask) for pair in pairs) for pairs in splits]

    assert complete() == [5, 1]
    (tmp_path / "dataset.toml").unlink()
    (tmp_path / "train.txt").write_text("# of two\n" + normalize("NFC", "\n".join(lines[:4])))
    (tmp_path / "val.txt").write_text("\n".join(lines[4:]))
    checked(tmp_path)
    assert complete() == [4, 2]


def test_voc_is_read_by_its_classes_and_its_lists_for_segmentation(tmp_path: Path):
    objects = np.repeat(np.arange(8, dtype=np.uint8), 8)[None].repeat(32, 0)
    for number, (image, mask) in enumerate(scenes()):
        save(tmp_path / f"JPEGImages/2007_{number:06}.jpg", image)
        if number < 10:
            save(tmp_path / f"SegmentationClass/2007_{number:06}.png", mask)
            save(tmp_path / f"SegmentationObject/2007_{number:06}.png", objects)
    for task, splits in (
        ("Segmentation", {"train": 6, "trainval": 10, "val": -4}),
        ("Main", {"train": 9, "val": -3}),
    ):
        (tmp_path / f"ImageSets/{task}").mkdir(parents=True)
        for split, count in splits.items():
            names = [f"2007_{number:06}\n" for number in range(10)]
            text = "".join(names[:count] if count > 0 else names[count:])
            (tmp_path / f"ImageSets/{task}/{split}.txt").write_text(text)
    report = checked(tmp_path)
    config = read_dataset_toml(tmp_path / "dataset.toml")
    assert config.masks == "SegmentationClass"
    assert config.splits == {
        "train": "ImageSets/Segmentation/train.txt",
        "val": "ImageSets/Segmentation/val.txt",
    }
    assert [other["options"] for other in report["other_readings"]] == [
        "--masks SegmentationObject"
    ]


def test_further_files_beside_the_images_are_left_out_by_their_ending(tmp_path: Path):
    """As ISIC's: images and superpixels in one folder, masks in another, one for each split."""
    for number, (image, mask) in enumerate(scenes()):
        split = "Training" if number < 9 else "Test_v2"
        save(tmp_path / f"ISIC_{split}_Data/ISIC_{number:07}.jpg", image)
        save(tmp_path / f"ISIC_{split}_Data/ISIC_{number:07}_superpixels.png", image)
        binary = np.where(mask == 1, 255, 0).astype(np.uint8)
        save(tmp_path / f"ISIC_{split}_GroundTruth/ISIC_{number:07}_segmentation.png", binary)
    report = checked(tmp_path)
    assert report["clean"]
    assert report["other_readings"] == []
    assert list(report["splits"]) == ["train", "val", "test"]
    assert read_dataset_toml(tmp_path / "dataset.toml").image_suffix == ".jpg"


@pytest.mark.parametrize(
    ("image", "mask", "keys"),
    [  # where image and mask number n lie, and what the dataset calls them
        ("images/image_{:02}.png", "masks/mask_{:02}.png", "{:02}"),
        ("img_{}.jpg", "lbl_{}.png", "{}"),
        ("data/img_{}.png", "data/lbl_{}.png", "{}"),
        ("images/img{}.png", "labels/lbl{}.png", "{}"),
        ("a/{:03}.png", "b/gt_{:03}.png", "{:03}"),
        ("left_image_{}.png", "left_mask_{}.png", "{}"),
        ("x/seq1/image_{}.png", "y/seq1/mask_{}.png", "seq1/{}"),
        ("images/image_{}_rgb.png", "masks/mask_{}_id.png", "{}"),
        ("train/image_{}.png", "train/masks/mask_{}.png", "{}"),
    ],
)
def test_names_that_differ_in_their_beginning_are_paired(
    tmp_path: Path, image: str, mask: str, keys: str
):
    for number, pixels in enumerate(scenes()):
        for name, part in zip((image, mask), pixels, strict=True):
            save(tmp_path / name.format(number), part)
    report = checked(tmp_path)
    assert report["clean"], report
    assert report["classes"] == ["class_0", "class_1", "class_2", "class_3"]
    found = {}
    for split in report["splits"]:
        data = open_dataset(str(tmp_path), split)
        found |= {key: data[index] for index, key in enumerate(data.keys)}
    assert len(found) == COUNT - 1 + (report["splits"].keys() == {"train"}) or len(found) == COUNT
    for number, (_, label) in enumerate(scenes()):
        if keys.format(number) in found:
            np.testing.assert_array_equal(found[keys.format(number)].label, label)
    assert found.keys() <= {keys.format(number) for number in range(COUNT)}


def test_a_beginning_is_no_reason_to_pair_what_a_whole_name_pairs_otherwise(tmp_path: Path):
    """Numbers alone match between any two folders: cat_3 is the image of mask cat_3, not dog_3."""
    for number, (image, mask) in enumerate(scenes()):
        for kind in ("cat", "dog"):
            if (kind, number) != (
                "dog",
                0,
            ):  # so that more names of cats agree with masks of dogs than those of dogs
                save(tmp_path / f"{kind}_images/{kind}_{number}.png", image)
            save(
                tmp_path / f"{kind}_masks/{kind}_{number}.png",
                mask if kind == "cat" else np.minimum(mask, 1),
            )
    (reading,) = layouts.find_readings(tmp_path)
    assert [(pair.images, pair.masks, pair.count) for pair in reading.pairs] == [
        ("cat_images", "cat_masks", 12),
        ("dog_images", "dog_masks", 11),
    ]


@pytest.mark.parametrize("further", [0, 1])
def test_folders_that_hold_images_and_masks_each_are_not_paired_by_the_numbers_in_them(
    tmp_path: Path, further: int
):
    """As in BUSI: a folder per class, "cat (3).png" with "cat (3)_mask.png"; numbers repeat."""
    for number, (image, mask) in enumerate(scenes()):
        for kind, turn in (("cat", np.s_[:]), ("dog", np.s_[::-1])):
            binary = np.where(mask[turn] == 1, 255, 0).astype(np.uint8)
            save(tmp_path / f"{kind}/{kind} ({number}).png", image[turn])
            if (kind, number) != ("dog", 0):
                save(tmp_path / f"{kind}/{kind} ({number})_mask.png", binary)
            if kind == "cat" and number < further:
                save(tmp_path / f"{kind}/{kind} ({number})_mask_1.png", binary)
    (reading,) = layouts.find_readings(tmp_path)
    assert [(pair.images, pair.masks, pair.count) for pair in reading.pairs] == [
        ("cat", "cat", 12),
        ("dog", "dog", 11),
    ]
    assert read_values(tmp_path, reading, None, FileFacts()).classes == 2


@pytest.mark.parametrize(
    ("folders", "images"),
    [  # folder -> channels and size, as a part of that of the masks
        ({"rgb": (3, 1), "thermal": (1, 1)}, "rgb"),
        ({"visible": (3, 1), "images_small": (3, 2)}, "visible"),
        ({"RGB": (3, 1), "NIR": (1, 1), "Images_aug": (3, 1)}, "RGB"),
        ({"sensor": (3, 1), "label_like": (1, 1)}, "sensor"),
        ({"images": (1, 1), "overlays": (3, 1)}, "images"),
    ],
)
def test_of_two_folders_of_images_the_likelier_is_taken_and_the_other_named(
    tmp_path: Path, folders: dict, images: str
):
    for number, (image, mask) in enumerate(scenes()):
        for name, (channels, part) in folders.items():
            save(
                tmp_path / f"{name}/{number}.png",
                image[::part, ::part] if channels == 3 else image[:, :, 0],
            )
        save(tmp_path / f"label/{number}.png", mask)
    report = checked(tmp_path)
    config = read_dataset_toml(tmp_path / "dataset.toml")
    assert (config.images, config.channels) == (images, folders[images][0])
    said = " ".join(report["look_at"])
    for name in folders.keys() - {images}:
        kind = (
            "fit the images in"
            if folders[name][1] == 1
            else "not used, because no masks belong to them:"
        )
        assert re.search(rf"{kind}[^:]* {name}\b", said)


def test_one_or_two_names_that_agree_but_for_their_beginnings_are_no_dataset(tmp_path: Path):
    for number, (image, mask) in enumerate(scenes()[:2]):
        save(tmp_path / f"a/photo_{number}.png", image)
        save(tmp_path / f"b/label_{number}.png", mask)
    with pytest.raises(DataNotFound, match="no image has a mask of its name"):
        raise run("check", tmp_path).exception


def test_a_folder_of_one_class_is_not_sent_to_training(tmp_path: Path):
    save(tmp_path / "images/a.png", scenes()[0][0])
    save(tmp_path / "masks/a.png", np.zeros_like(scenes()[0][1]))
    output = run("check", tmp_path, "--write").output
    assert "every mask has one value, 0" in output
    assert "clean" not in output
    assert "Train with it" not in output


@pytest.mark.parametrize("weeds", [6, 4])
@pytest.mark.parametrize("images", ["images", "masks"])
def test_one_mask_for_each_class_of_an_image_is_a_layer(tmp_path: Path, weeds: int, images: str):
    for number, (image, mask) in enumerate(scenes()[:6]):
        save(tmp_path / f"{images}/p{number}.jpg", image)
        save(tmp_path / f"masks/p{number}_crop.png", (mask == 1) * np.uint8(255))
        if number < weeds:
            save(tmp_path / f"masks/p{number}_weed.png", (mask == 2) * np.uint8(255))
    report = checked(tmp_path)
    assert report["clean"]
    assert report["classes"] == ["background", "crop", "weed"]
    layers = {layer.class_: layer for layer in read_dataset_toml(tmp_path / "dataset.toml").layer}
    assert layers["weed"].optional == (weeds < 6)
    assert any(
        "2 of 6 images have no mask in masks/*_weed" in note for note in report["look_at"]
    ) == (weeds < 6)
    (tmp_path / "dataset.toml").unlink()
    assert checked(tmp_path, "--masks", "masks/*_crop")["classes"] == ["background", "foreground"]


@pytest.mark.parametrize("values", [(0, 1, -9999), (0, 3, 5, -1)])
def test_negative_values_are_taken_for_no_data(tmp_path: Path, values: tuple[int, ...]):
    for number in range(4):
        save(tmp_path / f"images/{number}.png", scenes()[number][0])
        save(
            tmp_path / f"masks/{number}.tif",
            np.array(values, np.int32)[scenes()[number][1] % len(values)],
        )
    report = checked(tmp_path)
    assert report["clean"]
    assert len(report["classes"]) == len(values) - 1
    assert read_dataset_toml(tmp_path / "dataset.toml").map[str(values[-1])] == "ignore"
    assert any(
        f"{values[-1]} (" in note and "taken for no data" in note for note in report["look_at"]
    )


def test_more_folders_than_a_dataset_can_have_are_refused():
    pairs = [
        layouts.FolderPair(f"{i}/images", f"{i}/masks", ("", ""), ("", ""), 1)
        for i in range(10_001)
    ]
    with pytest.raises(
        DataError, match=r"10,001 folders of images with masks, the limit is 10,000\. Put"
    ):
        read_values(Path("scenes"), layouts.Reading(tuple(pairs), ()), None, FileFacts())


@pytest.mark.parametrize("ground", [(0, 0, 0, 0), (255, 0, 0, 0), (0, 0, 255, 0)])
def test_what_alpha_alone_tells_apart_is_not_proposed_as_one_class(tmp_path: Path, ground: tuple):
    """Opaque objects of the colour that is transparent around them; else that colour is a class."""
    colors = np.array([ground, (*ground[:2], 0, 255), (0, 255, 0, 255), ground], np.uint8)
    for number, (image, mask) in enumerate(scenes()):
        save(tmp_path / f"images/{number}.png", image)
        save(tmp_path / f"masks/{number}.png", colors[mask])
    if ground[2]:
        assert len(checked(tmp_path)["classes"]) == 3
        return
    found = "#{:02x}{:02x}{:02x}".format(*ground)
    with pytest.raises(
        DataError, match=f"has {found} both opaque and transparent.*Save it without transparency"
    ):
        raise run("check", tmp_path).exception
    text = 'name = "x"\nimages = "images"\nmasks = "masks"\n'
    text += 'splits = {train = 1.0}\nclasses = ["a", "b"]\n[map]\n'
    (tmp_path / "dataset.toml").write_text(text + f'"{found}" = "a"\n"#00ff00" = "b"\n')
    result = run("check", tmp_path)  # whose author said what it means
    assert result.exit_code == 0
    assert "both opaque and transparent" in result.stdout


def test_masks_that_cannot_be_read_are_said_to_be_so(tmp_path: Path):
    save(tmp_path / "images/a.png", scenes()[0][0])
    save(tmp_path / "masks/a.tif", scenes()[0][1].astype(np.float32))
    with pytest.raises(DataError, match=r"no readable mask.*mode F"):
        raise run("check", tmp_path).exception
    (tmp_path / "masks").rename(tmp_path / "drawn")
    with pytest.raises(
        DataNotFound, match=r"no image has a mask of its name .*a\.tif is an image of mode F"
    ):
        raise run("check", tmp_path).exception


def test_a_folder_without_pairs_says_what_was_seen(tmp_path: Path):
    for number, (image, mask) in enumerate(scenes()):
        save(tmp_path / f"a/photo_{number}.png", image)
        save(tmp_path / f"b/label_{number + 100}.png", mask)
    with pytest.raises(
        DataNotFound, match=r"no image has a mask of its name \(12 files in a, 12 files in b\)"
    ):
        raise run("check", tmp_path).exception
    (tmp_path / "b").rename(tmp_path / "PixelLabelData")
    with pytest.raises(
        DataNotFound, match=r"MATLAB's labeler\. .* copy each file of gTruth\.LabelData\."
    ):
        raise run("check", tmp_path).exception


@pytest.mark.seconds
def test_a_smoothed_dataset_loses_nothing_when_it_is_mended(tmp_path: Path):
    LAYOUTS["smoothed"](tmp_path / "data")
    report = checked(tmp_path / "data")
    assert run("check", tmp_path / "data", "--fix", tmp_path / "out").exit_code == 0
    for split in report["splits"]:
        before, after = (
            open_dataset(str(tmp_path / "data"), split),
            open_dataset(str(tmp_path / "out"), split),
        )
        for index in range(len(before)):
            np.testing.assert_array_equal(after.label(index), before.label(index))


def test_a_list_is_found_behind_hundreds_of_annotations_of_single_images(tmp_path: Path):
    LAYOUTS["other_folder_names"](tmp_path)
    (tmp_path / "ann").mkdir()
    for number in range(300):
        (tmp_path / f"ann/{number:03}.json").write_text('{"shapes": []}')
    (tmp_path / "lists").mkdir()
    (tmp_path / "lists/split.json").write_text(
        json.dumps(
            {"train": [f"{n:03}" for n in range(7)], "val": [f"{n:03}" for n in range(7, 12)]}
        )
    )
    assert checked(tmp_path)["splits"].keys() == {"train", "val"}
    assert len(open_dataset(str(tmp_path), "val")) == 5


def test_a_copy_of_folders_beside_the_dataset_stays_in_its_own(tmp_path: Path):
    for number, (image, mask) in enumerate(scenes()):
        place = tmp_path / (
            "day1" if number < 6 else "set/day1"
        )  # ../day1 and day1: two folders of one name
        save(place / f"images/{number % 6:03}.png", image)
        save(place / f"masks/{number % 6:03}.png", mask)
    text = 'name = "x"\n[splits]\ntrain = 1.0\n[classes]\na = "#000000"\nb = "#ffffff"\n'
    text += '[map]\n0 = "a"\n1 = "b"\n2 = "b"\n3 = "ignore"\n'
    for place in ("../day1", "day1"):
        text += f'[[source]]\nimages = "{place}/images"\nmasks = "{place}/masks"\n'
    (tmp_path / "set/dataset.toml").write_text(text)
    assert run("check", tmp_path / "set", "--fix", tmp_path / "deep/out").exit_code == 0
    assert [path.name for path in (tmp_path / "deep").iterdir()] == ["out"]
    before, after = (
        open_dataset(str(tmp_path / "set"), "train"),
        open_dataset(str(tmp_path / "deep/out"), "train"),
    )
    assert len(after) == len(before) == COUNT
    assert {after.label(i).tobytes() for i in range(COUNT)} == {
        before.label(i).tobytes() for i in range(COUNT)
    }


@pytest.mark.seconds
def test_hundreds_of_folders_are_read_in_seconds_and_few_of_their_files(
    tmp_path: Path, monkeypatch
):
    opened = []
    monkeypatch.setattr(
        image_tree, "read_mask", lambda path: opened.append(path) or read_mask(path)
    )
    for patient in range(300):
        image, mask = scenes()[patient % COUNT]
        save(tmp_path / f"patient{patient:04}/scan/0.png", image)
        save(tmp_path / f"patient{patient:04}/labels/0.png", mask)
    readings = layouts.find_readings(tmp_path)
    assert [reading.count for reading in readings] == [300]
    assert len(opened) < 100


@pytest.mark.seconds
@pytest.mark.parametrize("name", ["50% of train", 'a "b" c', "ünï", "-x", "#1"])
def test_odd_names_of_folders_are_written_so_that_they_are_read_again(tmp_path: Path, name: str):
    for number, (image, mask) in enumerate(scenes()):
        save(tmp_path / name / f"images/{number}.png", image)
        save(tmp_path / name / f"masks/{number}.png", np.where(mask == 1, 255, 0).astype(np.uint8))
    for folder in (tmp_path / name, tmp_path):
        checked(folder)
        assert len(open_dataset(str(folder), "train")) > 0
        (folder / "dataset.toml").unlink()


def test_folders_whose_names_no_file_can_hold_and_classes_called_ignore_are_no_bug(tmp_path: Path):
    for number, (image, mask) in enumerate(scenes()):
        for name, turn in (("ignore", np.s_[:]), ("scratch", np.s_[::-1])):
            save(tmp_path / f"a/{name}/images/{number}.png", image[turn])
            save(
                tmp_path / f"a/{name}/masks/{number}.png",
                np.where(mask[turn] == 1, 255, 0).astype(np.uint8),
            )
        save(tmp_path / f"b/images/{number}.png", image)
        save(tmp_path / f"b/masks/{number}.png", mask)
    report = checked(tmp_path / "a", "--classes-from-folders")
    assert report["classes"] == ["background", "class_ignore", "scratch"]
    try:
        (tmp_path / "b/masks").rename(os.fsdecode(os.fsencode(tmp_path / "b") + b"/masks\xfe"))
    except OSError:  # a file system of text alone
        return
    with pytest.raises(DataNotFound, match="no image has a mask"):
        raise run("check", tmp_path / "b", "--write").exception


def test_links_lead_nowhere_and_hidden_folders_are_passed_over(tmp_path: Path):
    LAYOUTS["one_folder"](tmp_path / "data")
    LAYOUTS["other_folder_names"](tmp_path / "elsewhere")
    (tmp_path / "data/more").symlink_to(tmp_path / "elsewhere")
    LAYOUTS["other_folder_names"](tmp_path / "data/.hidden")
    report = checked(tmp_path / "data")
    assert sum(part["images"] for part in report["splits"].values()) == 12
    assert [
        note
        for note in report["look_at"]
        if note.startswith("links to folders are not followed: more. Name the")
    ]


def test_links_to_folders_and_files_of_other_kinds_are_named_where_nothing_is_found(tmp_path: Path):
    LAYOUTS["other_folder_names"](tmp_path / "real")
    (tmp_path / "data/other").mkdir(parents=True)
    for name in ("Training_Images", "Ground_Truth"):
        (tmp_path / "data" / name).symlink_to(tmp_path / "real" / name)
    with pytest.raises(
        DataNotFound, match=r"has no images.*not followed: Ground_Truth, Training_Images\. Name the"
    ):
        raise run("check", tmp_path / "data").exception
    for number in range(4):
        save(tmp_path / f"tga/train/{number}.jpg", scenes()[number][0])
        save(tmp_path / f"tga/train_masks/{number}_mask.tga", scenes()[number][1])
    with pytest.raises(
        DataNotFound,
        match=r"4 files in train.*4 files are skipped, because \.tga is not read: conv",
    ):
        raise run("check", tmp_path / "tga").exception


def test_a_root_beside_a_folder_without_a_dataset_toml_is_refused(tmp_path: Path):
    LAYOUTS["other_folder_names"](tmp_path)
    with pytest.raises(ConfigError, match=r"--data-root .*nowhere is where the paths .* has none"):
        raise run("check", tmp_path, "--data-root", tmp_path / "nowhere").exception


def test_a_photograph_is_no_mask_and_a_smoothed_mask_is_one():
    image, mask = scenes()[0]
    assert looks_like_mask(mask)
    assert not looks_like_mask(image)
    dull = np.random.default_rng(0).normal(110, 14, (200, 200)).round().astype(np.uint8)  # steel
    assert not looks_like_mask(dull)
    large = np.asarray(
        Image.fromarray((mask == 1).astype(np.uint8) * 255).resize(
            (1024, 512), Image.Resampling.BICUBIC
        )
    )
    assert looks_like_mask(large)
