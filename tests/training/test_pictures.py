"""What is drawn of a training: right, small, and without a trace in the training itself."""

import json
import random

import numpy as np
import pytest
import torch
from PIL import Image
from support.models.small_training import (
    Killed,
    KilledAt,
    Silent,
    equal_state,
    outcome,
    request,
    trained,
)

from featherseg.core.types import ClassInfo, Sample
from featherseg.data.pipeline.augmentation import Augment
from featherseg.data.pipeline.loader import FlatBatches, TrainingSamples, training_loader
from featherseg.inference.drawing import overlay
from featherseg.training import pictures, train
from featherseg.training import run as training_run

CLASSES = (ClassInfo("grass", (10, 200, 30)), ClassInfo("path", (200, 180, 20)))


class Photos:
    """Noise in red and green, whose left half is grass; the first row is ignored."""

    name, classes, channels, licence = "photos", CLASSES, 3, ""
    keys = [f"p{i}" for i in range(5)]

    def __len__(self):
        return len(self.keys)

    def label(self, index):
        label = np.ones((32, 48), dtype=np.uint8)
        label[:, :24], label[0] = 0, 255
        return label

    def __getitem__(self, index):
        random.random(), np.random.rand(), torch.rand(1)  # a user's own data may ask for them
        rng = np.random.default_rng(index)
        image = rng.integers(0, 256, (32, 48, 3), dtype=np.uint8)
        return Sample(self.keys[index], image, self.label(index))


@pytest.fixture
def loader():
    samples = TrainingSamples(Photos(), Augment(crop=(32, 48), flip=0.5), seed=3)
    return training_loader(samples, FlatBatches(5, 4, seed=3, start=0, total=2), workers=0)


def test_the_first_batch_is_that_of_the_training(loader):
    drawn = np.array(pictures.draw_batch(loader, CLASSES))
    assert drawn.shape == (2 * 36 - 4, 2 * 52 - 4, 3)
    images, labels = next(iter(loader))
    for i in range(4):
        top, left = 36 * (i // 2), 52 * (i % 2)
        wanted = overlay(images[i].permute(1, 2, 0).numpy(), labels[i].numpy(), CLASSES)
        tile = drawn[top + 1 : top + 32, left : left + 48]  # without the row that is ignored
        assert np.array_equal(tile, np.array(wanted)[1:])


def test_drawing_the_first_batch_leaves_no_trace(loader):
    def states():
        numpy = np.random.get_state()
        return random.getstate(), numpy[1].tolist(), numpy[2], torch.get_rng_state().tolist()

    before, depth = states(), loader.dataset._depth
    pictures.draw_batch(loader, CLASSES)
    assert states() == before
    assert loader.dataset._depth is depth is None


def test_classes_are_counted_in_masks_spread_over_the_split(monkeypatch):
    data = Photos()
    assert pictures.count_labels(data) == {
        "images": 5,
        "counted": 5,
        "pixels": [5 * 31 * 24] * 2,
        "images_with": [5, 5],
        "ignored": 1 / 32,
    }
    seen, label = [], data.label
    monkeypatch.setattr(data, "label", lambda index: seen.append(index) or label(index))
    monkeypatch.setattr(pictures, "COUNTED_PIXELS", 2 * 32 * 48)
    assert pictures.count_labels(data)["counted"] == 2
    assert seen == [0, 0, 2]  # the first one for its size


def test_a_long_training_is_drawn_a_few_times():
    drawn = [n for n in range(1, 101) if pictures.is_drawn(n, last=n == 100)]
    assert drawn == [1, 2, 4, 8, 16, 32, 64, 100]


class AllPath:
    """A model that sees a path everywhere."""

    panoptic, image_range = None, 65536


def test_predictions_are_drawn_in_a_column_a_step(tmp_path, monkeypatch):
    monkeypatch.setattr(
        pictures, "predict_mask", lambda runtime, image: np.ones(image.shape[:2], np.uint8)
    )
    for step in (10, 20):
        pictures.draw_predictions(tmp_path, AllPath(), Photos(), step)
    folder = tmp_path / "progress"
    names = ["ground-truth.webp", "image.webp", "step-0000010.webp", "step-0000020.webp"]
    assert sorted(file.name for file in folder.iterdir()) == names
    label, image, first, second = (np.array(Image.open(folder / n), int) for n in names)
    assert label.shape == image.shape == first.shape == (4 * 36 - 4, 48, 3)
    assert np.array_equal(first, second)
    left, right = np.s_[4:28, 4:20], np.s_[4:28, 28:44]
    assert abs(first[right] - label[right]).mean() < 5 < abs(first[left] - label[left]).mean()


@pytest.mark.usefixtures("tiny")
def test_pictures_change_nothing_of_a_training_and_are_drawn_once(tmp_path, monkeypatch):
    drawn = tmp_path / "drawn"
    with pytest.raises(Killed):
        train(request(), drawn, KilledAt(3))
    first = (drawn / "batch.jpg").stat().st_mtime_ns
    resumed = train(request(), drawn, Silent(), resume=True)
    assert (drawn / "batch.jpg").stat().st_mtime_ns == first
    assert json.loads((drawn / "labels.json").read_text())["images"] == 8
    assert (drawn / "progress" / "step-0000004.webp").is_file()

    monkeypatch.setattr(training_run, "write_beginning", lambda *_: None)
    monkeypatch.setattr("featherseg.training.recorder.draw_predictions", lambda *_: None)
    plain = trained(tmp_path / "plain")
    assert not (tmp_path / "plain" / "progress").exists()
    assert equal_state(outcome(resumed), outcome(plain))
