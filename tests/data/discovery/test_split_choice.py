"""Numbered images: frames stay together; photographs are split so that val has every class."""

import tomllib
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from featherseg.data.checks.check import check_data
from featherseg.data.checks.report import CheckReport
from featherseg.data.discovery.lookalikes import (
    Look,
    look_of,
    neighbours_look_alike,
    order_by_look,
    show_same,
)
from featherseg.data.discovery.split_choice import PoolImage, SplitChoice, choose_split

SHARE = 0.2


def photo(seed: int) -> np.ndarray:
    """Return a photograph unlike any other (48, 64, 3): 6 x 8 random squares and a little noise."""
    rng = np.random.default_rng(seed)
    squares = rng.integers(0, 256, (6, 8, 3)).repeat(8, 0).repeat(8, 1)
    return np.clip(squares + rng.integers(-9, 10, (48, 64, 3)), 0, 255).astype(np.uint8)


def walk(frames: int, seed: int, step: int = 8) -> list[np.ndarray]:
    """Return frames (48, 64, 3) of a camera that passes a wall of soft colours by `step` pixels."""
    rng = np.random.default_rng(seed)
    columns = frames * step // 16 + 6
    patches = Image.fromarray(rng.integers(0, 256, (3, columns, 3), dtype=np.uint8))
    wall = np.asarray(patches.resize((16 * columns, 48), Image.Resampling.BICUBIC))
    return [np.ascontiguousarray(wall[:, step * f : step * f + 64]) for f in range(frames)]


def noisy(image: np.ndarray, seed: int) -> np.ndarray:
    """A copy with salt-and-pepper noise on 4 % of its pixels."""
    chance, copy = np.random.default_rng(seed).random(image.shape[:2]), image.copy()
    copy[chance < 0.02], copy[chance > 0.98] = 0, 255
    return copy


def pool(images: dict[str, np.ndarray], rare: set[str] = frozenset()) -> list[PoolImage]:
    """Images with class 0 everywhere, and class 1 in the rare ones."""
    classes = {key: frozenset({0, 1} if key in rare else {0}) for key in images}
    return [
        PoolImage(key, classes[key], look_of(image), image.tobytes())
        for key, image in images.items()
    ]


def parts(choice: SplitChoice, images: list[PoolImage]) -> tuple[list[str], list[str]]:
    """The keys of train and val."""
    from featherseg.data.datasets.sequences import split_by_share

    found = (
        choice.lists
        or split_by_share([i.key for i in images], {"train": 0.8, "val": 0.2}, choice.split_by)[0]
    )
    return found["train"], found["val"]


def test_a_rare_class_in_a_run_of_numbered_photographs_is_in_train_and_val():
    images = pool(
        {f"field_{i:04}": photo(i) for i in range(1, 401)},
        {f"field_{i:04}" for i in range(371, 391)},
    )
    choice = choose_split(images, SHARE)
    train, val = parts(choice, images)
    rare = {image.key for image in images if 1 in image.classes}
    assert (len(train), len(val)) == (320, 80)
    assert choice.split_by == "image"
    assert rare & set(train)
    assert rare & set(val)
    assert any("no more alike than other images" in note for note in choice.notes)


@pytest.mark.parametrize("count", [2, 3, 7, 9])
def test_of_a_few_photographs_none_is_lost_and_val_has_one(count):
    images = pool({f"people{i}": photo(i) for i in range(count)}, {"people0", "people1"})
    train, val = parts(choose_split(images, SHARE), images)
    assert len(train) + len(val) == count
    assert len(val) == max(1, round(SHARE * count))
    assert all({"people0", "people1"} & set(part) for part in (train, val))


def beside(train: list[str], val: list[str], number: Callable[[str], int]) -> int:
    """How many images of val stand next to one of train in time."""
    times = {number(key) for key in train}
    return sum(bool({number(key) - 1, number(key) + 1} & times) for key in val)


def test_a_time_lapse_stays_in_order_and_is_cut_with_a_gap():
    images = pool({f"garden_{i:03}": frame for i, frame in enumerate(walk(100, 0))})
    choice = choose_split(images, SHARE)
    assert (choice.split_by, choice.lists) == ("sequence-2", {})
    assert not beside(*parts(choice, images), lambda key: int(key[-3:]))


@pytest.mark.parametrize("name", ["cam{letter}_{frame:04}", "img_{number:04}"])
def test_two_cameras_in_turns_are_frames(name):
    left, right = walk(60, 1), walk(60, 2)
    images = {}
    for frame in range(60):
        for letter, image in (("A", left[frame]), ("B", right[frame])):
            images[name.format(letter=letter, frame=frame, number=2 * frame + (letter == "B"))] = (
                image
            )
    choice = choose_split(pool(images), SHARE)
    assert choice.split_by == "sequence-2"
    alternate = "number" in name
    assert not beside(
        *parts(choice, pool(images)), lambda key: int(key[-4:]) // (2 if alternate else 1)
    )


def test_frames_whose_class_lies_in_one_stretch_are_cut_so_that_val_has_it():
    keys = [f"drive_{i:03}" for i in range(200)]
    images = pool(dict(zip(keys, walk(200, 3), strict=True)), set(keys[20:60]))
    choice = choose_split(images, SHARE)
    train, val = parts(choice, images)
    assert all(set(keys[20:60]) & set(part) for part in (train, val))
    assert not beside(train, val, lambda key: int(key[-3:]))
    assert len(train) + len(val) >= 0.85 * len(keys)


@pytest.mark.parametrize("scenes", [1, 20])
def test_shuffled_frames_that_look_alike_are_in_one_split(scenes):
    frames = [frame for scene in range(scenes) for frame in walk(100 // scenes, scene, step=1)]
    order = np.random.default_rng(0).permutation(len(frames))
    images = pool({f"f_{place:03}": frames[i] for place, i in enumerate(order)})
    assert not neighbours_look_alike([[image.look for image in images]])
    train, val = parts(choose_split(images, SHARE), images)
    assert len(val) >= 10
    assert len(train) + len(val) >= 85
    groups = show_same([image.look for image in images])
    looks = {image.key: image.look for image in images}
    for key in val:
        assert not any(len(set(show_same([looks[key], looks[other]]))) == 1 for other in train)
    assert len(set(groups)) == scenes


@pytest.mark.parametrize("name", ["p{}_jpg.rf.{:032x}", "p{}_{}", "photo{1}of{0}"])
def test_three_versions_of_each_photograph_are_in_one_split(name):
    images = {name.format(i, k): noisy(photo(i), 100 * i + k) for i in range(30) for k in range(3)}
    of = {name.format(i, k): i for i in range(30) for k in range(3)}
    images = pool(images)
    train, val = parts(choose_split(images, SHARE), images)
    assert len(train) + len(val) == 90
    assert len(val) == 18
    assert {of[key] for key in train}.isdisjoint(of[key] for key in val)


def test_versions_of_the_frames_of_a_video_are_not_on_both_sides_of_a_cut():
    frames = walk(40, 5)
    images = pool(
        {
            f"f{i:03}_jpg.rf.{k:032x}": noisy(frames[i], 100 * i + k)
            for i in range(40)
            for k in range(3)
        }
    )
    choice = choose_split(images, SHARE)
    train, val = parts(choice, images)
    assert choice.split_by == "sequence-2"
    assert {key[:4] for key in train}.isdisjoint(key[:4] for key in val)


def test_images_in_the_order_of_their_looks_are_a_walk_again():
    frames = walk(50, 0, step=3)
    order = np.random.default_rng(1).permutation(50)
    looks: list[Look] = [look_of(frames[i]) for i in order]
    found = [int(order[i]) for i in order_by_look(looks)]
    assert found in (list(range(50)), list(range(49, -1, -1)))


def test_copies_one_after_the_other_are_no_video():
    looks = [look_of(noisy(photo(i), 10 * i + k)) for i in range(60) for k in range(3)]
    assert not neighbours_look_alike([looks])
    assert neighbours_look_alike([[look_of(frame) for frame in walk(60, 0)]])


def save(path: Path, pixels: np.ndarray) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(pixels).save(path)


def proposed(folder: Path) -> CheckReport:
    """The report after the proposal was written, which is that of the proposal itself."""
    first = check_data(str(folder))
    assert first.proposal is not None
    first.proposal.write(folder)
    again = check_data(str(folder / "dataset.toml"))
    assert {split: entry.images for split, entry in again.splits.items()} == {
        split: entry.images for split, entry in first.splits.items()
    }
    assert again.faults == first.faults
    return again


@pytest.mark.seconds
def test_check_writes_splits_that_have_each_class(tmp_path):
    for i in range(60):
        mask = np.zeros((48, 64), np.uint8)
        mask[10:20, 10:20] = 50 <= i < 55
        save(tmp_path / f"images/{i:04}.png", photo(i))
        save(tmp_path / f"masks/{i:04}.png", mask)
    report = proposed(tmp_path)
    assert report.clean
    assert [min(entry.statistics.images) > 0 for entry in report.splits.values()] == [True, True]
    assert sum(entry.images for entry in report.splits.values()) == 60
    assert not any("stand beside" in note for note in report.notes)


def test_numbered_photographs_of_an_older_dataset_toml_keep_their_splits_and_are_told_the_rule(
    tmp_path,
):
    for i in range(40):
        save(tmp_path / f"images/{i:04}.png", photo(i))
        save(tmp_path / f"masks/{i:04}.png", np.full((48, 64), i == 20, np.uint8))
    (tmp_path / "dataset.toml").write_text(
        'name = "field"\nimages = "images"\nmasks = "masks"\nsplits = {train = 0.8, val = 0.2}\n'
        'classes = ["soil", "crop"]\nmap = {0 = "soil", 1 = "crop"}\n'
    )
    report = check_data(str(tmp_path))
    assert [entry.images for entry in report.splits.values()] == [31, 8]
    assert any('put split_by = "image" into dataset.toml' in note for note in report.notes)


@pytest.mark.seconds
def test_images_of_a_class_folder_are_in_train_and_val(tmp_path):
    for kind, name in enumerate(("MT_Crack", "MT_Fray", "MT_Free")):
        for i in range(12):
            mask = np.zeros((48, 64), np.uint8)
            mask[4 + i : 12 + i, 10:20] = 255 * (name != "MT_Free")
            save(tmp_path / f"{name}/Imgs/exp1_num_{i}.jpg", photo(100 * kind + i))
            save(tmp_path / f"{name}/Imgs/exp1_num_{i}.png", mask)
    report = proposed(tmp_path)
    assert report.clean
    for split, entry in report.splits.items():
        assert min(entry.statistics.images) > 0, split
    assert "splits" in tomllib.loads((tmp_path / "dataset.toml").read_text())
