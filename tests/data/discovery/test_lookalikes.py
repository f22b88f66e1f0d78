"""Near-duplicate images in two splits are found among many; other images are not named."""

import io
import time

import numpy as np
import pytest
from PIL import Image

from featherseg.data import open_dataset
from featherseg.data.checks.check import check_data
from featherseg.data.discovery.lookalikes import Lookalikes, look_of

SPLITS = ["train", "val", "test"]


@pytest.fixture(scope="module")
def scenes() -> list[np.ndarray]:
    data = open_dataset("shapes", "train", size=12)
    return [data[index].image[::2, ::2] for index in range(12)]


def pairs_of(places: list[tuple[str, str, np.ndarray]]) -> list[tuple[str, str]]:
    alike = Lookalikes()
    for split, key, image in places:
        alike.add(split, key, look_of(image))
    return [
        (alike.places[image][1], alike.places[other][1]) for image, other in alike.across(SPLITS)
    ]


def jpeg(image: np.ndarray) -> np.ndarray:
    buffer = io.BytesIO()
    Image.fromarray(image).save(buffer, "JPEG", quality=60)
    return np.asarray(Image.open(buffer))


CHANGES = {
    "smaller": lambda image: np.asarray(
        Image.fromarray(image).resize((image.shape[1] // 2, image.shape[0] // 2))
    ),
    "compressed": jpeg,
    "brighter": lambda image: np.clip(image * 0.9 + 20, 0, 255).astype(np.uint8),
    "moved by a pixel": lambda image: np.roll(image, (1, 1), (0, 1)),
    "of 16 bits": lambda image: image.astype(np.uint16) << 8,
    "grey": lambda image: image.mean(axis=2, keepdims=True).astype(np.uint8),
}


@pytest.mark.parametrize("change", CHANGES)
def test_a_copy_that_was_changed_a_little_is_found_and_no_other_image(scenes, change):
    places = [("train", f"t{i}", image) for i, image in enumerate(scenes[:8])]
    places += [("val", f"v{i}", image) for i, image in enumerate(scenes[8:])]
    assert pairs_of(places) == []
    assert pairs_of([*places, ("test", "copy", CHANGES[change](scenes[3]))]) == [("copy", "t3")]


def test_images_of_one_split_and_images_that_show_nothing_are_not_named(scenes):
    plain = np.full((40, 60, 3), 128, np.uint8)
    assert pairs_of([("train", "a", scenes[0]), ("train", "b", jpeg(scenes[0]))]) == []
    assert pairs_of([("train", "a", plain), ("test", "b", plain)]) == []
    assert pairs_of([("train", "a", scenes[0])]) == []


def test_copies_within_a_split_are_passed_over(scenes):
    places = [
        ("train", "a", scenes[0]),
        ("val", "b", jpeg(scenes[0])),
        ("val", "c", CHANGES["brighter"](scenes[0])),
    ]
    assert pairs_of(places) == [("b", "a"), ("c", "a")]


def test_the_earlier_split_is_the_one_that_is_looked_like(scenes):
    places = [
        ("test", "a", scenes[0]),
        ("val", "b", jpeg(scenes[0])),
        ("train", "c", CHANGES["brighter"](scenes[0])),
    ]
    assert pairs_of(places) == [("a", "b"), ("b", "c")] or pairs_of(places) == [
        ("a", "c"),
        ("b", "c"),
    ]
    later_is_nearer = [places[2], ("train", "other", scenes[1]), places[1], places[0]]
    assert pairs_of(later_is_nearer) == [("b", "c"), ("a", "b")]


@pytest.mark.seconds
def test_of_a_fixed_camera_all_images_are_alike_and_it_still_takes_seconds(scenes):
    alike, frame = Lookalikes(), scenes[0][::8, ::8]
    for number in range(20_000):
        alike.places.append((SPLITS[number % 3], str(number)))
    one = Lookalikes()
    one.add("train", "x", look_of(frame))
    alike._thumbnails, alike._hashes = one._thumbnails * 20_000, one._hashes * 20_000
    assert len(alike._thumbnails) + len(alike._hashes) == 20_000 * 264
    begun = time.process_time()
    assert len(alike.across(SPLITS)) == 2 * 20_000 // 3
    assert time.process_time() - begun < 20


def test_check_names_them(tmp_path, scenes):
    for number, image in enumerate(scenes):
        split = "train" if number < 10 else "test"
        for kind, pixels in (("images", image), ("masks", np.zeros(image.shape[:2], np.uint8))):
            (tmp_path / kind / split).mkdir(parents=True, exist_ok=True)
            Image.fromarray(pixels).save(tmp_path / kind / split / f"{chr(97 + number)}.png")
    Image.fromarray(jpeg(scenes[4])).save(tmp_path / "images/test/k.png")
    notes = check_data(str(tmp_path)).notes
    assert (
        "test: images that look nearly like one of train: "
        "scores will be too high (1): test/k (train/e)" in notes
    )
