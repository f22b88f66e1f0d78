"""`shapes-v1`: frozen, repeatable, exact, not easy. Figures: pytest -rP --log-level=INFO FILE."""

import hashlib
import logging
import subprocess
import sys

import numpy as np
import pytest

from featherseg.core.errors import DataError, UnknownName
from featherseg.core.types import IGNORE, Sample
from featherseg.data.shapes import CLASSES, Shapes, draw_scene

log = logging.getLogger(__name__)
CHECKSUM = "d782d6eff32827bebf7b8c9a99d7d093bf5349dfddb26f87c92cf492566a6a41"
THINGS = [i for i, info in enumerate(CLASSES) if info.thing]


@pytest.fixture(scope="module")
def train() -> list[Sample]:
    data = Shapes("train", 80)
    return [data[i] for i in range(len(data))]


@pytest.fixture(scope="module")
def val() -> list[Sample]:
    data = Shapes("val", 30)
    return [data[i] for i in range(len(data))]


@pytest.mark.seconds
def test_the_first_scenes_are_those_of_shapes_v1():
    digest = hashlib.sha256()
    for split in ("train", "val", "test"):
        for index in range(8):
            sample = draw_scene(split, index)
            for array in (sample.image, sample.label, sample.instances.astype("<i4")):
                digest.update(np.ascontiguousarray(array).tobytes())
    assert digest.hexdigest() == CHECKSUM


@pytest.mark.slow
def test_a_scene_is_the_same_in_another_process_whatever_was_drawn_before():
    code = (
        "import hashlib; from featherseg.data.shapes import draw_scene;"
        "draw_scene('val', 9); image = draw_scene('train', 5).image;"
        "print(hashlib.sha256(image.tobytes()).hexdigest())"
    )
    other = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert (
        other.stdout.strip() == hashlib.sha256(draw_scene("train", 5).image.tobytes()).hexdigest()
    )


def test_a_sample_has_the_types_that_are_promised(train):
    sample = train[0]
    assert (sample.image.shape, sample.image.dtype) == ((256, 512, 3), np.uint8)
    assert (sample.label.shape, sample.label.dtype) == ((256, 512), np.uint8)
    assert sample.instances is not None
    assert (sample.instances.shape, sample.instances.dtype) == ((256, 512), np.int32)
    assert sample.image.flags.c_contiguous
    assert sample.key == Shapes("train").keys[0] == "train/000000"


def test_eight_classes_of_which_three_have_instances():
    names = "road pavement building sky tree pole car person"
    assert [info.name for info in CLASSES] == names.split()
    assert [CLASSES[i].name for i in THINGS] == ["tree", "car", "person"]
    assert len({info.color for info in CLASSES}) == 8


@pytest.mark.seconds
def test_the_label_alone_is_the_label_of_the_sample(val):
    data = Shapes("val", len(val))
    for i, sample in enumerate(val):
        assert np.array_equal(data.label(i), sample.label)


def test_every_pixel_of_a_thing_has_an_id_and_no_other_pixel_has_one(train):
    for sample in train:
        assert np.array_equal(sample.instances > 0, np.isin(sample.label, THINGS))


@pytest.mark.seconds
def test_ids_run_from_one_without_a_gap_and_each_has_one_class(train):
    for sample in train:
        ids = np.unique(sample.instances)
        assert ids.tolist() == list(range(len(ids)))
        pairs = np.unique(
            np.stack([sample.instances, sample.label])[:, sample.instances > 0], axis=1
        )
        assert pairs.shape[1] == len(ids) - 1


def test_only_the_own_bonnet_is_ignored_and_only_in_some_scenes(train):
    ignored = [sample.label == IGNORE for sample in train]
    assert not any(mask[: 256 - 26].any() for mask in ignored)
    assert 0.03 < np.mean([mask.any() for mask in ignored]) < 0.35


@pytest.mark.seconds
def test_splits_have_their_default_sizes_and_share_no_scene(train, val):
    assert [len(Shapes(split)) for split in ("train", "val", "test")] == [2000, 200, 200]
    drawn = [*train[:20], *val[:20], *(draw_scene("test", i) for i in range(20))]
    assert len({sample.image.tobytes() for sample in drawn}) == 60


def test_a_smaller_dataset_is_the_start_of_the_larger_one(val):
    data = Shapes("val", 2)
    assert (len(data), data.keys) == (2, ["val/000000", "val/000001"])
    assert np.array_equal(data[1].image, val[1].image)
    assert np.array_equal(data[-1].image, val[1].image)
    assert len(list(data)) == 2


def test_an_unknown_split_a_size_of_nothing_and_a_wild_index_are_refused():
    with pytest.raises(UnknownName, match=r"'vall'.*Did you mean 'val'"):
        Shapes("vall")
    with pytest.raises(DataError, match="asked for 0 scenes"):
        Shapes("train", 0)
    with pytest.raises(IndexError, match="scene 3"):
        Shapes("train", 3)[3]


def test_the_rarest_class_covers_less_than_half_a_percent(train, val):
    for samples in (train, val):
        counts = np.bincount(np.concatenate([s.label.reshape(-1) for s in samples]), minlength=256)[
            :8
        ]
        shares = counts / counts.sum()
        log.info(
            "share %%: %s",
            {c.name: round(100 * float(s), 2) for c, s in zip(CLASSES, shares, strict=True)},
        )
        assert 0.001 < shares.min() < 0.005


def touching(sample: Sample) -> tuple[int, int]:
    """Return how many instances touch another of their class (4-neighbours), and their number."""
    found = set()
    for axis in (0, 1):
        size = sample.label.shape[axis]
        a, b = (np.take(sample.instances, range(i, size - 1 + i), axis) for i in (0, 1))
        p, q = (np.take(sample.label, range(i, size - 1 + i), axis) for i in (0, 1))
        meet = (p == q) & (a != b) & (a > 0) & (b > 0)
        found |= set(a[meet].tolist()) | set(b[meet].tolist())
    return len(found), int(sample.instances.max())


def test_a_fifth_of_the_instances_touch_one_of_their_own_class(train, val):
    for samples in (train, val):
        touch, count = np.sum([touching(s) for s in samples], axis=0)
        log.info(
            "%.1f instances a scene, %.1f %% touch their like",
            count / len(samples),
            100 * touch / count,
        )
        assert touch / count >= 0.2


def miou(predictions: np.ndarray, labels: np.ndarray) -> float:
    """Return mean IoU by its definition over occurring classes, without ignored pixels."""
    valid, scores = labels != IGNORE, []
    for k in range(len(CLASSES)):
        predicted, true = (predictions == k) & valid, labels == k
        scores.append((predicted & true).sum() / (predicted | true).sum())
    log.info("IoU: %s", {c.name: round(float(s), 3) for c, s in zip(CLASSES, scores, strict=True)})
    return float(np.mean(scores))


def color_and_place_bins(images: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Per pixel: which of 4096 colours, which of 512 places (squares of 16 pixels)."""
    color = np.moveaxis(images >> 4, -1, 0).astype(np.int64)
    rows, columns = np.indices(images.shape[1:3])
    place = np.broadcast_to(rows // 16 * 32 + columns // 16, images.shape[:3])
    return color[0] * 256 + color[1] * 16 + color[2], place


@pytest.mark.slow
def test_naive_bayes_on_colour_and_position_stays_under_35_percent(train, val):
    labels = np.stack([s.label for s in train])
    valid = labels != IGNORE
    log_posterior: list[np.ndarray] = []
    for bins, size in zip(
        color_and_place_bins(np.stack([s.image for s in train])), (4096, 512), strict=True
    ):
        counts = (
            np.bincount(bins[valid] * 8 + labels[valid], minlength=size * 8).reshape(size, 8) + 0.5
        )
        log_posterior.append(np.log(counts / counts.sum(1, keepdims=True)))
    prior = np.log(np.bincount(labels[valid], minlength=8) / valid.sum())
    color, place = color_and_place_bins(np.stack([s.image for s in val]))
    predictions = (log_posterior[0][color] + log_posterior[1][place] - prior).argmax(-1)
    score = miou(predictions, np.stack([s.label for s in val]))
    log.info("naive Bayes: mIoU %.3f", score)
    assert 0.2 < score < 0.35  # over 0.2: the classifier does what it can


@pytest.mark.slow
@pytest.mark.parametrize("balance", [0.0, 0.5])
def test_a_small_model_on_colour_and_position_stays_under_35_percent(train, val, balance):
    import torch
    from torch import nn

    def features(images: np.ndarray) -> torch.Tensor:
        rows, columns = (
            np.broadcast_to(g, images.shape[:3]) for g in np.indices(images.shape[1:3])
        )
        place = np.stack([rows / 128 - 1, columns / 256 - 1], -1)
        return torch.from_numpy(np.concatenate([images / 127.5 - 1, place], -1).astype(np.float32))

    torch.manual_seed(0)
    labels = torch.from_numpy(np.stack([s.label for s in train])).long()
    x, y = features(np.stack([s.image for s in train]))[labels != IGNORE], labels[labels != IGNORE]
    model = nn.Sequential(
        nn.Linear(5, 96), nn.ReLU(), nn.Linear(96, 96), nn.ReLU(),
        nn.Linear(96, 96), nn.ReLU(), nn.Linear(96, 8),
    )  # fmt: skip
    optimiser = torch.optim.Adam(model.parameters())
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimiser, 5e-3, total_steps=1000)
    loss_of = nn.CrossEntropyLoss((1 / torch.bincount(y).float()) ** balance)
    for _ in range(1000):
        batch = torch.randint(len(y), (4096,))
        optimiser.zero_grad()
        loss_of(model(x[batch]), y[batch]).backward()
        optimiser.step()
        schedule.step()
    with torch.no_grad():
        predictions = np.stack([model(features(s.image[None])[0]).argmax(-1).numpy() for s in val])
    score = miou(predictions, np.stack([s.label for s in val]))
    log.info(
        "three hidden layers of 96, class weights to the power %.1f: mIoU %.3f", balance, score
    )
    assert 0.2 < score < 0.35
