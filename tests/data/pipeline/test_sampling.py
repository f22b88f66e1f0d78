from collections import Counter

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from featherseg.core.errors import DataError
from featherseg.core.types import ClassInfo, Sample
from featherseg.data.pipeline.augmentation import Augment
from featherseg.data.pipeline.loader import FlatBatches, TrainingSamples, training_loader
from featherseg.data.pipeline.sampling import (
    ClassPoints,
    ClassUniform,
    find_class_points,
    tile_points,
)

RARE = 3


class Town:
    """Six images of classes 0 and 1; one of them holds a patch of class 3, none holds class 2."""

    name, channels, licence = "town", 3, "none"
    classes = tuple(ClassInfo(name, (0, 0, 0)) for name in "abcd")
    keys = [str(i) for i in range(6)]

    def __len__(self):
        return len(self.keys)

    def __getitem__(self, index):
        label = self.label(index)
        return Sample(str(index), np.repeat(label[:, :, None], 3, axis=2), label)

    def label(self, index):
        label = np.random.default_rng(index).choice(np.array([0, 1, 255], np.uint8), (40, 50))
        if index == 4:
            label[30:33, 41:46] = RARE
        return label


@pytest.fixture(scope="module")
def points():
    return find_class_points(Town(), 16)


@settings(max_examples=50)
@given(height=st.integers(1, 12), width=st.integers(1, 12), seed=st.integers(0, 1000))
def test_the_point_of_a_class_is_its_pixel_nearest_to_its_centre(height, width, seed):
    tile = np.random.default_rng(seed).choice(np.array([0, 7, 254, 255], np.uint8), (height, width))
    points = tile_points(tile)
    assert set(points) == set(tile.ravel().tolist()) - {255}
    for index, point in points.items():
        pixels = [(y, x) for y in range(height) for x in range(width) if tile[y, x] == index]
        centre = (sum(y for y, _ in pixels) / len(pixels), sum(x for _, x in pixels) / len(pixels))
        distances = [(y - centre[0]) ** 2 + (x - centre[1]) ** 2 for y, x in pixels]
        assert point in pixels
        assert distances[pixels.index(point)] == pytest.approx(min(distances))


def test_every_tile_leaves_one_point_for_each_class_it_holds(points):
    data, found = Town(), Counter()
    for index, image, row, column in points.rows.tolist():
        assert data.label(image)[row, column] == index
        found[index, image, row // 16, column // 16] += 1
    expected = {
        (int(index), image, top, left)
        for image in range(len(data))
        for top in range(3)  # 16 + 16 + 8 rows
        for left in range(4)  # 16 + 16 + 16 + 2 columns
        for index in np.unique(
            data.label(image)[16 * top : 16 * top + 16, 16 * left : 16 * left + 16]
        )
        if index != 255
    }
    assert found == dict.fromkeys(expected, 1)


def test_every_class_that_occurs_is_drawn_equally_often(points):
    rng, data = np.random.default_rng(0), Town()
    drawn = Counter()
    for _ in range(3000):
        image, (row, column) = points.draw(rng)
        drawn[int(data.label(image)[row, column])] += 1
    assert set(drawn) == {0, 1, RARE}
    assert all(abs(count - 1000) < 120 for count in drawn.values())  # 4.6 standard deviations


def test_all_points_of_a_class_are_drawn(points):
    rng = np.random.default_rng(0)
    drawn = {(image, *point) for image, point in (points.draw(rng) for _ in range(3000))}
    assert drawn == {tuple(row[1:]) for row in points.rows.tolist()}


def test_labels_that_are_all_ignored_give_a_sentence():
    class Void(Town):
        def label(self, index):
            return np.full((5, 5), 255, np.uint8)

    with pytest.raises(DataError, match="town: all pixels of all 6 labels are ignored"):
        find_class_points(Void(), 16)


def test_points_survive_a_file(points, tmp_path):
    points.save(tmp_path / "points.npy")
    loaded = ClassPoints(np.load(tmp_path / "points.npy"))
    assert [loaded.draw(np.random.default_rng(i)) for i in range(20)] == [
        points.draw(np.random.default_rng(i)) for i in range(20)
    ]


@pytest.mark.parametrize("share", [0.0, 0.3, 1.0])
def test_the_share_of_crops_that_hold_the_rare_class_follows_the_share_asked_for(points, share):
    samples = TrainingSamples(
        Town(), Augment(crop=(12, 12)), seed=1, class_uniform=ClassUniform(share, points)
    )
    places = [(epoch, index) for epoch in range(100) for index in range(6)]
    rare = sum((samples[place][1] == RARE).any().item() for place in places) / len(places)
    by_chance = np.mean(
        [
            (TrainingSamples(Town(), Augment(crop=(12, 12)), seed=1)[place][1] == RARE).any().item()
            for place in places
        ]
    )
    assert rare == pytest.approx(
        share / 3 + (1 - share) * by_chance, abs=0.07
    )  # a third of the draws is this class


def test_without_it_every_sample_is_the_one_asked_for():
    data, augment = Town(), Augment(crop=(12, 12), scale=(0.5, 2.0), flip=0.5, brightness=0.3)
    samples = TrainingSamples(data, augment, seed=1)
    for epoch, index in ((0, 3), (2, 5)):
        expected = augment(data[index], np.random.default_rng([1, epoch, index]))
        assert all(
            torch.equal(a, b) for a, b in zip(samples[epoch, index], expected[:2], strict=True)
        )


@pytest.mark.parametrize("workers", [0, 2])
@pytest.mark.parametrize("start", [0, 3])
def test_samples_depend_neither_on_workers_nor_on_where_the_stream_starts(points, workers, start):
    augment = Augment(crop=(12, 12), scale=(0.5, 2.0), flip=0.5)
    samples = TrainingSamples(Town(), augment, 2, ClassUniform(0.5, points))

    def stream(start, workers):
        return list(
            training_loader(
                samples, FlatBatches(6, 4, seed=2, start=start, total=6), workers=workers
            )
        )

    for here, there in zip(stream(0, 0)[start:], stream(start, workers), strict=True):
        assert torch.equal(here[0], there[0])
        assert torch.equal(here[1], there[1])
