"""Class lists beside numbered masks: names that `check --write` uses, and those it reports."""

import json

import numpy as np
import pytest
from support.data.faces import (
    DATA_YAML,
    NAMES,
    checked,
    face,
    masks_yaml,
    nnunet,
    photo,
    run,
    written,
)
from support.data.published_layouts import save

from featherseg.core.errors import DataError, DataNotFound
from featherseg.data import open_dataset
from featherseg.data.discovery.class_lists import read_class_list

NUMBERS = {"background": 0, "eye": 1, "nose": 2}
ROWS = [{"id": 0, "name": "background"}, {"id": 1, "name": "eye"}, {"id": 2, "name": "nose"}]


def faces(folder, values=(0, 1, 2), masks: str = "masks"):
    for number, name in enumerate(NAMES):
        save(folder / f"images/{name}.jpg", photo(number))
        save(folder / f"{masks}/{name}.png", np.array(values, np.uint8)[face(number)])
    return folder


def listed(folder, name: str, text: str, values=(0, 1, 2)) -> dict:
    (faces(folder, values) / name).write_text(text)
    return checked(folder)


@pytest.mark.parametrize(
    ("name", "text"),
    [
        ("_classes.csv", "Pixel Value, Class\n0, background\n1, eye\n2, nose"),
        ("masks/_classes.csv", "Pixel Value, Class\n0, background\n1, eye\n2, nose"),
        ("classes.csv", "name,id\nbackground,0\neye,1\nnose,2\n"),
        ("classes.txt", "background\neye\nnose\n"),
        ("classes.txt", "eye\nnose\n"),  # the background has no name there
        ("labels.txt", "0: background\n1: eye\n2: nose\n"),
        ("label_names.txt", "# a comment\n0 background\n1 eye\n2 nose"),
        (
            "dataset.json",
            json.dumps({"labels": NUMBERS, "channel_names": {"0": "RGB"}, "numTraining": 10}),
        ),
        ("dataset.json", json.dumps({"labels": {"0": "background", "1": "eye", "2": "nose"}})),
        ("label_names.json", json.dumps(["background", "eye", "nose"])),
        ("classes.json", json.dumps({"categories": ROWS})),
        ("id2label.json", json.dumps({"0": "background", "1": "eye", "2": "nose"})),
    ],
)
def test_names_of_values_are_taken(tmp_path, name, text):
    report = listed(tmp_path, name, text)
    assert report["clean"]
    classes = report["classes"]
    assert classes == ["background", "eye", "nose"] or (
        text.startswith("eye") and classes == ["class_0", "eye", "nose"]
    )
    assert any(
        note.endswith(f"of classes from {name.rpartition('/')[2]}") for note in report["look_at"]
    )
    assert open_dataset(str(tmp_path), "val")[0].label.max() == 2


def test_as_many_names_as_values_are_taken_in_their_order(tmp_path):
    assert listed(tmp_path, "classes.txt", "skin\neye\nnose\n")["classes"] == [
        "skin",
        "eye",
        "nose",
    ]


def test_masks_of_0_and_255_take_two_names_of_which_one_is_the_background(tmp_path):
    report = listed(tmp_path, "classes.txt", "background\ncrack\n", values=(0, 255, 255))
    assert report["classes"] == ["background", "crack"]


def test_what_a_list_ignores_is_ignored(tmp_path):
    report = listed(
        tmp_path, "dataset.json", json.dumps({"labels": {"background": 0, "eye": 1, "ignore": 2}})
    )
    assert report["classes"] == ["background", "eye"]
    assert written(tmp_path).map["2"] == "ignore"


def test_a_class_of_the_list_that_no_mask_has_keeps_its_place(tmp_path):
    text = "Pixel Value, Class\n0, background\n1, eye\n2, ear\n3, nose"
    assert listed(tmp_path, "_classes.csv", text, values=(0, 1, 3))["classes"] == [
        "background",
        "eye",
        "ear",
        "nose",
    ]


@pytest.mark.parametrize(
    ("name", "text", "values"),
    [
        ("classes.txt", "eye\nnose\nmouth\n", (0, 1, 9)),
        ("_classes.csv", "Pixel Value, Class\n0, background\n1, eye\n", (0, 1, 2)),
        ("classes.txt", "eye\nnose\n", (0, 255, 255)),
    ],
)
def test_names_that_fit_in_two_ways_are_left_with_a_word(tmp_path, name, text, values):
    report = listed(tmp_path, name, text, values)
    assert not {"eye", "nose"} & set(report["classes"])
    assert any("which name is of which value is not clear" in note for note in report["look_at"])


def test_lists_that_differ_between_folders_are_left_with_a_word(tmp_path):
    for split, second in (("train", "eye"), ("valid", "ear")):
        for number, name in enumerate(NAMES[:5]):
            save(tmp_path / f"{split}/{split}{name}.jpg", photo(number + 10 * len(split)))
            save(tmp_path / f"{split}/{split}{name}_mask.png", face(number))
        (tmp_path / f"{split}/_classes.csv").write_text(
            f"Pixel Value, Class\n0, background\n1, {second}\n2, nose"
        )
    report = checked(tmp_path)
    assert report["classes"] == ["class_0", "class_1", "class_2"]
    assert any("name the classes differently" in note for note in report["look_at"])


def test_a_damaged_list_is_named_and_not_used(tmp_path):
    report = listed(tmp_path, "_classes.csv", "Pixel Value, Class\nzero, background\n")
    assert report["classes"] == ["class_0", "class_1", "class_2"]
    assert any("no value with a name" in note for note in report["look_at"])


@pytest.mark.parametrize(
    ("name", "text"),
    [
        ("labels.json", '{"shapes": [{"label": "eye"}]}'),
        ("categories.json", "[1, 2, 3]"),
        ("class_dict.csv", "name,r,g,b\neye,0,0,0\n"),
        ("labels.txt", ""),
        ("data.yaml", "names: [eye, nose]\ntrain: images\n"),  # of polygons
        ("classes.txt", "\n".join(map(str, range(400)))),
    ],
)
def test_files_that_name_no_values_are_no_lists(tmp_path, name, text):
    (tmp_path / name).write_text(text)
    assert read_class_list(tmp_path / name) is None


def test_a_list_that_is_no_text_is_refused(tmp_path):
    (tmp_path / "classes.txt").write_bytes(b"\xff\xfe\x00")
    with pytest.raises(DataError, match="cannot be read"):
        read_class_list(tmp_path / "classes.txt")


def test_names_given_by_hand_are_kept(tmp_path):
    (faces(tmp_path) / "classes.txt").write_text("background\neye\nnose\n")
    assert checked(tmp_path, "--name", "1=iris")["classes"] == ["background", "iris", "nose"]


def test_the_names_of_nnunet_are_taken(tmp_path):
    labels = {
        "channel_names": {"0": "xray"},
        "labels": {"background": 0, "nodule": 1},
        "file_ending": ".png",
    }
    (nnunet(tmp_path) / "dataset.json").write_text(json.dumps(labels))
    assert checked(tmp_path)["classes"] == ["background", "nodule"]


@pytest.mark.parametrize("masks", ["masks", "semantic"])
def test_a_data_yaml_with_masks_says_folders_names_and_splits(tmp_path, masks):
    report = checked(masks_yaml(tmp_path, masks))
    assert report["clean"]
    assert report["classes"] == ["ground", "eye", "nose"]
    assert (written(tmp_path).masks, written(tmp_path).splits) == (
        masks,
        {"train": "part1", "val": "part2"},
    )
    assert written(tmp_path).map["255"] == "ignore"


def test_one_folder_for_train_and_val_is_not_taken_for_both(tmp_path):
    report = checked(masks_yaml(tmp_path, text=DATA_YAML.replace("part2", "part1")))
    assert not report["faults"]
    assert written(tmp_path).splits != {"train": "part1", "val": "part1"}


@pytest.mark.seconds
@pytest.mark.parametrize("verb", [("check",), ("train", "frm-lite0-light", "--data"), ("convert",)])
def test_a_data_yaml_with_masks_is_sent_to_check_and_no_further(tmp_path, verb):
    file = masks_yaml(tmp_path / "d") / "data.yaml"
    result = run(
        *verb, file, *(("--out", tmp_path / "out") if len(verb) > 1 or verb[0] == "convert" else ())
    )
    assert isinstance(result.exception, DataNotFound)
    assert str(result.exception).endswith(f"\n    featherseg check {tmp_path / 'd'} --write")
    assert run("check", tmp_path / "d", "--write").exit_code == 0
