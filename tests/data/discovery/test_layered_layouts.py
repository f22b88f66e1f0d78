"""Folders with several masks or a folder per image, and what `check --write` makes of them."""

import shlex
from pathlib import Path

import numpy as np
import pytest
from PIL import Image, ImageFilter
from support.data.faces import (
    EYE,
    NAMES,
    NOSE,
    SIZE,
    checked,
    make,
    nnunet,
    photo,
    run,
    square,
    written,
)
from support.data.published_layouts import save

from featherseg.core.errors import DataError
from featherseg.data import open_dataset
from featherseg.data.datasets.folder import folder_listing


def label_of(folder: Path, key: str) -> np.ndarray:
    for split in written(folder).splits:
        data = open_dataset(str(folder), split)
        if key in data.keys:
            return data[data.keys.index(key)].label
    raise AssertionError(f"{key} is in no split")


@pytest.mark.parametrize(
    ("image", "mask", "images", "masks"),
    [
        ("images/{name}.jpg", "masks/eye/{name}.png", "images", "masks/eye"),
        ("images/images/{name}.jpg", "masks/{name}.png", "images/images", "masks"),
        ("images/images/{name}.jpg", "masks/masks/{name}.png", "images/images", "masks/masks"),
        ("data/rgb/{name}.jpg", "labels/{name}.png", "data/rgb", "labels"),
    ],
)
def test_masks_or_images_a_folder_deeper_are_found(tmp_path, image, mask, images, masks):
    report = checked(make(tmp_path, image, mask))
    assert report["clean"]
    assert report["classes"] == ["background", "foreground"]
    assert (written(tmp_path).images, written(tmp_path).masks) == (images, masks)


@pytest.mark.parametrize(
    ("image", "eye", "nose"),
    [
        ("images/{name}.jpg", "masks/eye/{name}.png", "masks/nose/{name}.png"),
        ("images/{name}.jpg", "eye/{name}.png", "nose/{name}.png"),
        ("images/{name}.jpg", "masks/eye/{name}_eye.png", "masks/nose/{name}_nose.png"),
        ("images/{name}.jpg", "masks/{name}_eye.png", "masks/{name}_nose.png"),
        ("all/{name}.jpg", "all/{name}_EYE.png", "all/{name}_NOSE.png"),
        ("images/{name}.jpg", "masks/{name}/eye.png", "masks/{name}/nose.png"),
        ("data/{name}/image.jpg", "data/{name}/eye.png", "data/{name}/nose.png"),
        ("data/{name}/{name}_RAW.jpg", "data/{name}/{name}_EYE.png", "data/{name}/{name}_NOSE.png"),
        ("{name}/{name}.jpg", "{name}/{name}_eye_mask.png", "{name}/{name}_nose_mask.png"),
    ],
)
def test_a_mask_for_each_class_becomes_a_layer(tmp_path, image, eye, nose):
    report = checked(make(tmp_path, image, eye, nose))
    assert report["clean"]
    assert report["classes"] == ["background", "eye", "nose"]  # fewer pixels lie on top
    assert any(
        "From the lowest to the topmost, with fewer pixels each: eye, nose;" in n
        for n in report["look_at"]
    )
    key = {"d": "leafb/leafb" if "RAW" in image else "leafb", "{": "leafb/leafb"}.get(
        image[0], "leafb"
    )
    expected = np.where(square(1, *NOSE), 2, np.where(square(1, *EYE), 1, 0))
    np.testing.assert_array_equal(label_of(tmp_path, key), expected)
    assert len(report["other_readings"]) == 2


def test_splits_as_folders_with_a_mask_for_each_class(tmp_path):
    for split in ("train", "val"):
        make(
            tmp_path / split,
            "images/" + split + "{name}.jpg",
            f"eye/{split}{{name}}.png",
            f"nose/{split}{{name}}.png",
        )
    report = checked(tmp_path)
    assert report["classes"] == ["background", "eye", "nose"]
    assert written(tmp_path).splits == {"train": "train", "val": "val"}
    assert written(tmp_path).images == "*/images"


@pytest.mark.seconds
def test_folders_of_images_with_layers_are_groups(tmp_path):
    for patient in range(5):
        top = tmp_path / f"data/patient{patient}"
        for number in range(4):
            save(top / f"slice_{number}.png", photo(10 * patient + number))
            for name, (left, side) in (("eye", EYE), ("nose", NOSE)):
                save(top / f"slice_{number}_{name}.png", square(number, left, side))
    report = checked(tmp_path)
    assert report["classes"] == ["background", "eye", "nose"]
    train, val = (open_dataset(str(tmp_path), split).keys for split in ("train", "val"))
    assert len(train) + len(val) == 20
    assert not {key.partition("/")[0] for key in train} & {key.partition("/")[0] for key in val}
    for reading in report["other_readings"]:
        parts = sum(
            part["images"]
            for part in checked(tmp_path, *shlex.split(reading["options"]))["splits"].values()
        )
        assert parts == 20


@pytest.mark.seconds
def test_one_of_several_masks_is_taken_alone(tmp_path):
    make(tmp_path, "images/{name}.jpg", "masks/eye/{name}.png", "masks/nose/{name}.png")
    checked(tmp_path)
    report = checked(tmp_path, "--masks", "masks/nose")  # which replaces what was proposed
    assert report["classes"] == ["background", "foreground"]
    np.testing.assert_array_equal(label_of(tmp_path, "leafb"), square(1, *NOSE) // 255)


@pytest.mark.parametrize("key", ["eye", "masks/eye"])
def test_layers_are_named(tmp_path, key):
    make(tmp_path, "images/{name}.jpg", "masks/eye/{name}.png", "masks/nose/{name}.png")
    assert checked(tmp_path, "--name", f"{key}=iris")["classes"] == ["background", "iris", "nose"]


def pasted(question) -> list[list[str]]:
    """The arguments of the commands that a question prints."""
    return [
        shlex.split(line)[1:]
        for line in question.output.splitlines()
        if line.strip().startswith("featherseg ")
    ]


@pytest.mark.seconds
def test_masks_of_two_persons_are_a_question(tmp_path):
    for number, name in enumerate(NAMES):
        save(tmp_path / f"images/{name}.jpg", photo(number))
        for person, side in (("anna", 20), ("bert", 19)):
            save(tmp_path / f"masks/{person}/{name}.png", square(number, 4, side))
    question = run("check", tmp_path, "--write")
    assert question.exit_code == 1
    assert not (tmp_path / "dataset.toml").exists()
    assert "masks/anna and masks/bert are nearly the same" in question.output
    commands = pasted(question)
    assert len(commands) == 3
    for command, classes in zip(commands, (2, 2, 3), strict=True):
        assert run(*command).exit_code == 0
        assert len(written(tmp_path).classes) == classes


@pytest.mark.parametrize(
    "names", [("ho1", "ho2"), ("mask1", "mask2"), ("expert", "student"), ("fov", "vessel")]
)
def test_names_that_are_no_classes_are_a_question(tmp_path, names):
    make(tmp_path, "images/{name}.jpg", *(f"masks/{{name}}_{name}.png" for name in names))
    question = run("check", tmp_path, "--write")
    assert question.exit_code == 1
    assert not (tmp_path / "dataset.toml").exists()
    assert run(*pasted(question)[-1]).exit_code == 0
    assert len(written(tmp_path).layer) == 2


@pytest.mark.seconds
def test_a_layer_is_optional_only_where_no_mask_of_it_is_empty(tmp_path):
    make(tmp_path, "images/{name}.jpg", "masks/eye/{name}.png", "masks/nose/{name}.png")
    for name in NAMES[:3]:
        (tmp_path / f"masks/nose/{name}.png").unlink()
    report = checked(tmp_path)
    assert report["clean"]
    assert [layer.optional for layer in written(tmp_path).layer] == [False, True]
    assert any("3 of 10 images have no mask in masks/nose" in note for note in report["look_at"])
    save(tmp_path / "masks/nose/leafd.png", np.zeros((SIZE, SIZE), np.uint8))
    report = checked(tmp_path)
    assert [layer.optional for layer in written(tmp_path).layer] == [False, False]
    assert any("these are missing" in note for note in report["look_at"])


def test_masks_that_images_have_one_of_are_no_layers(tmp_path):
    for number, name in enumerate(NAMES):
        save(tmp_path / f"images/{name}.jpg", photo(number))
        save(tmp_path / f"masks/{('eye', 'nose')[number % 2]}/{name}.png", square(number, *EYE))
    result = run("check", tmp_path, "--write")
    assert result.exit_code != 0 or not written(tmp_path).layer


def test_smoothed_layers_get_a_threshold(tmp_path):
    make(tmp_path, "images/{name}.jpg", "masks/eye/{name}.png", "masks/nose/{name}.png")
    for path in tmp_path.glob("masks/*/*.png"):
        Image.open(path).filter(ImageFilter.GaussianBlur(0.8)).save(path)
    report = checked(tmp_path)
    assert report["clean"]
    assert written(tmp_path).threshold == 128
    assert report["classes"] == ["background", "eye", "nose"]


@pytest.mark.seconds
@pytest.mark.parametrize(
    ("image", "masks", "images"),
    [
        (
            "stage1_train/{name}/images/{name}.png",
            "stage1_train/{name}/masks/{hash}.png",
            "stage1_train/*/images",
        ),
        ("data/{name}/{name}.png", "data/{name}/masks/{hash}.png", "data/*"),
        ("images/{name}.png", "masks/{name}/{hash}.png", "images"),
        ("data/{name}/image.png", "data/{name}/mask_{k}.png", "data"),
        ("data/{name}/image.png", "data/{name}/{hash}.png", "data"),
    ],
)
def test_a_mask_for_each_object_is_joined(tmp_path, image, masks, images):
    expected = {}
    for number, name in enumerate(NAMES):
        save(tmp_path / image.format(name=name), photo(number))
        for k in range(2 + number % 3):
            mask = square(number, 2 + 11 * k, 9)
            expected[name] = np.maximum(expected.get(name, 0), mask // 255)
            save(
                tmp_path / masks.format(name=name, k=k, hash=f"{hash((number, k)) % 2**60:x}"), mask
            )
    report = checked(tmp_path)
    assert report["clean"]
    assert report["classes"] == ["background", "foreground"]
    config = written(tmp_path)
    assert config.images == images
    assert [layer.objects for layer in config.layer] == [True]
    assert any("a mask for each object" in note for note in report["look_at"])
    for split in config.splits:
        for sample in (data := open_dataset(str(tmp_path), split)):
            name = (
                sample.key.rpartition("/")[2]
                if sample.key.rpartition("/")[2] != "image"
                else sample.key[:5]
            )
            np.testing.assert_array_equal(sample.label, expected[name])
        assert len(data)
    assert checked(tmp_path, "--name", "255=nucleus")["classes"] == ["background", "nucleus"]


def test_masks_that_overlap_are_no_objects(tmp_path):
    make(tmp_path, "data/{name}/image.png", "data/{name}/mask_0.png", "data/{name}/mask_1.png")
    for number, name in enumerate(NAMES):
        for k in range(2):
            save(tmp_path / f"data/{name}/mask_{k}.png", square(number, 4 + k, 20))
    result = run("check", tmp_path, "--write")
    assert isinstance(result.exception, DataError)
    assert "they are neither objects nor called as classes" in str(result.exception)


def test_the_folders_of_nnunet_are_found(tmp_path):
    report = checked(nnunet(tmp_path))
    assert report["clean"]
    assert (written(tmp_path).images, written(tmp_path).image_suffix) == ("imagesTr", "_0000")
    assert len(folder_listing(tmp_path / "dataset.toml").base_splits[""]) == 12
    assert any("not used" in note and "imagesTs" in note for note in report["look_at"])


def test_a_file_for_each_channel_is_refused_with_what_to_do(tmp_path):
    result = run("check", nnunet(tmp_path, channels=2), "--write")
    assert isinstance(result.exception, DataError)
    assert "2 files for each image, one a channel (_0000, _0001)" in str(result.exception)
    assert "one TIFF with a page for each channel" in str(result.exception)


def test_numbered_frames_have_no_channels(tmp_path):
    for number in range(6):
        save(tmp_path / f"images/frame_{number:04}.png", photo(number))
        save(tmp_path / f"masks/frame_{number:04}.png", square(number, *EYE))
    checked(tmp_path)
    assert written(tmp_path).image_suffix == ""


@pytest.mark.parametrize("ending", [".png", ".jpg"])
def test_a_folder_for_each_image_with_one_mask(tmp_path, ending):
    report = checked(make(tmp_path, f"data/{{name}}/image{ending}", "data/{name}/mask.png"))
    assert report["clean"]
    assert (written(tmp_path).images, written(tmp_path).source) == ("data", ())
    np.testing.assert_array_equal(label_of(tmp_path, "leafb"), square(1, *EYE) // 255)


def test_image_and_mask_in_a_folder_of_their_own_told_by_the_ending(tmp_path):
    report = checked(make(tmp_path, "data/{name}/{name}.jpg", "data/{name}/{name}.png"))
    assert report["clean"]
    assert written(tmp_path).source == ()
    np.testing.assert_array_equal(label_of(tmp_path, "leafb/leafb"), square(1, *EYE) // 255)


def test_the_folder_that_labelme_writes_for_an_image(tmp_path):
    make(tmp_path, "{name}_json/img.png", "{name}_json/label.png")
    for number, name in enumerate(NAMES):
        save(tmp_path / f"{name}_json/label_viz.png", photo(number) // 2 + 60)
    report = checked(tmp_path)
    assert report["clean"]
    assert (written(tmp_path).image_suffix, written(tmp_path).mask_suffix) == ("img", "label")
    assert any(
        "not used: 10 files" in note and "label_viz.png" in note for note in report["look_at"]
    )


def test_lists_of_folders_are_the_splits_of_a_folder_for_each_image(tmp_path):
    make(
        tmp_path,
        "Dataset/{name}/{name}_RAW.jpg",
        *(f"Dataset/{{name}}/{{name}}_{part}.png" for part in ("EYE", "NOSE")),
    )
    for split, names in (("train", NAMES[:6]), ("val", NAMES[6:])):
        (tmp_path / f"{split}.txt").write_text("\n".join(names))
    report = checked(tmp_path)
    assert {split: part["images"] for split, part in report["splits"].items()} == {
        "train": 6,
        "val": 4,
    }
