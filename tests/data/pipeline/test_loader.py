import os
import subprocess
import sys
from collections import Counter

import numpy as np
import pytest
import torch

from featherseg.core.errors import DataError
from featherseg.core.types import ClassInfo, Sample
from featherseg.data.pipeline.augmentation import Augment
from featherseg.data.pipeline.loader import (
    GROWTH,
    FlatBatches,
    TrainingSamples,
    collate,
    training_loader,
)
from featherseg.data.pipeline.rare import find_rare_classes


class Tiny:
    """Seven images, each of its own grey."""

    name, channels, licence = "tiny", 3, "none"
    classes = (ClassInfo("a", (0, 0, 0)),)
    keys = [str(i) for i in range(7)]

    def __len__(self):
        return 7

    def __getitem__(self, index):
        return Sample(str(index), np.full((8, 8, 3), 10 * index, np.uint8), self.label(index))

    def label(self, index):
        return np.zeros((8, 8), np.uint8)


def batches(start=0, total=14, **kwargs):
    return list(FlatBatches(7, 2, seed=3, start=start, total=total, **kwargs))


def test_every_epoch_holds_every_sample_once():
    places = [place for batch in batches() for place in batch]  # 28 places, 4 epochs of 7
    assert Counter(epoch for epoch, _ in places) == {0: 7, 1: 7, 2: 7, 3: 7}
    assert all(len({i for e, i in places if e == epoch}) == 7 for epoch in range(4))
    assert [i for e, i in places if e == 0] != [i for e, i in places if e == 1]


@pytest.mark.parametrize("start", range(14))
def test_the_stream_goes_on_where_it_was_left(start):
    assert batches(start) == batches()[start:]
    assert len(FlatBatches(7, 2, seed=3, start=start, total=14)) == 14  # as Lightning needs it


def test_samples_are_small_at_first_and_whole_at_the_end():
    growing = batches(total=10, growth=GROWTH)
    assert [tuple(place[:2]) for batch in growing for place in batch] == [
        p for b in batches(total=10) for p in b
    ]
    assert [batch[0][2:] for batch in growing] == [(0.5,)] * 4 + [(0.75,)] * 3 + [()] * 3
    assert batches(6, total=10, growth=GROWTH) == growing[6:]
    assert [until for until, _ in GROWTH] == sorted(until for until, _ in GROWTH)
    assert GROWTH[-1] == (1.0, 1.0)


def test_images_of_other_bits_than_the_first_are_named():
    class Mixed(Tiny):
        def __getitem__(self, index):
            sample = super().__getitem__(index)
            return sample if index else Sample("0", sample.image.astype(np.uint16), sample.label)

    samples = TrainingSamples(Mixed(), Augment(crop=(8, 8)), seed=0)
    assert samples[0, 1][0].shape == (3, 8, 8)
    with pytest.raises(DataError, match="0 of tiny has 16 bits a channel, others 8 bits a channel"):
        samples[0, 0]


class Ramp(Tiny):
    """One image that gets brighter towards its lower right."""

    def __getitem__(self, index):
        ramp = np.add.outer(np.arange(64), np.arange(48)).astype(np.uint8)
        return Sample("ramp", ramp[..., None], ramp % 7)


def test_a_small_sample_shows_what_the_whole_one_shows():
    samples = TrainingSamples(Ramp(), Augment(crop=(32, 24), scale=(0.5, 2.0), flip=0.5), seed=1)
    for epoch in range(20):
        (whole, _), (half, label) = samples[epoch, 0], samples[epoch, 0, 0.5]
        assert (half.shape, label.shape) == ((1, 16, 12), (16, 12))
        means = (
            whole.float().reshape(1, 16, 2, 12, 2).mean(dim=(2, 4))
        )  # of the pixels that one of half stands for
        assert (half.float() - means).abs().mean() < 1.5


def test_ranks_share_the_stream_out():
    one = [place for batch in batches(total=6) for place in batch]
    two = [batches(total=3, rank=rank, world=2) for rank in range(2)]
    assert one == [place for k in range(3) for rank in range(2) for place in two[rank][k]]


@pytest.mark.parametrize("brightness", [0.0, 0.5])
def test_a_batch_is_its_samples_beside_each_other_in_the_memory_layout_that_they_have(brightness):
    samples = TrainingSamples(
        Tiny(), Augment(crop=(6, 5), scale=(0.5, 2.0), flip=0.5, brightness=brightness), seed=1
    )
    drawn = [samples[0, index] for index in range(4)]
    images, labels = collate(drawn)
    assert images.shape == (4, 3, 6, 5)
    for number, (image, label) in enumerate(drawn):
        assert torch.equal(images[number], image)
        assert torch.equal(labels[number], label)
    assert images.is_contiguous(
        memory_format=torch.channels_last if not brightness else torch.contiguous_format
    )


@pytest.mark.parametrize("workers", [1, 2])
def test_batches_do_not_depend_on_the_number_of_workers(workers):
    samples = TrainingSamples(
        Tiny(), Augment(crop=(6, 6), scale=(0.5, 2.0), flip=0.5, brightness=0.5), seed=1
    )

    def stream(count):
        return list(
            training_loader(samples, FlatBatches(7, 3, seed=1, start=2, total=6), workers=count)
        )

    for here, there in zip(stream(0), stream(workers), strict=True):
        assert torch.equal(here[0], there[0])
        assert torch.equal(here[1], there[1])


@pytest.mark.parametrize("name", ["TERM", "USR1"])
def test_a_worker_leaves_it_to_the_training_to_answer_a_signal(name):
    batches = FlatBatches(7, 3, seed=1, start=0, total=12)
    stream = iter(
        training_loader(TrainingSamples(Tiny(), Augment(crop=(4, 4)), seed=2), batches, workers=1)
    )
    next(stream)  # it has begun
    (worker,) = stream._workers
    subprocess.run(["/bin/kill", f"-{name}", str(worker.pid)], check=True)  # from a stranger
    assert len(list(stream)) == 11  # more than it had ready
    assert worker.exitcode in (None, 0)


def test_a_worker_ends_when_the_training_says_so():
    batches = FlatBatches(7, 3, seed=1, start=0, total=12)
    stream = iter(
        training_loader(TrainingSamples(Tiny(), Augment(crop=(4, 4)), seed=2), batches, workers=1)
    )
    next(stream)
    (worker,) = stream._workers
    worker.terminate()  # as multiprocessing does when this process ends
    worker.join(20)
    assert worker.exitcode == 0


class Places(Tiny):
    """Images and labels whose pixels encode their image and their place in it."""

    def __getitem__(self, index):
        rows, columns = np.mgrid[:8, :10]
        image = np.dstack([np.full((8, 10), index), rows, columns]).astype(np.uint8)
        return Sample(str(index), image, image[..., 0].copy())


def test_a_mixed_sample_has_one_box_of_another_label_and_image_alike():
    shares, sizes = [], set()
    samples = TrainingSamples(Places(), Augment(crop=(8, 10), cutmix=1.0), seed=1)
    for epoch in range(60):
        image, label = samples[epoch, 3]
        assert torch.equal(image[0], label)
        rows, columns = np.mgrid[:8, :10]
        assert np.array_equal(image[1:], np.stack([rows, columns]))  # each from its own place
        y, x = np.nonzero(label.numpy() != 3)
        assert len(set(label[y, x].tolist())) <= 1
        if len(y):
            height, width = np.ptp(y) + 1, np.ptp(x) + 1
            assert len(y) == height * width  # a whole box
            sizes.add((height, width))
        shares.append(len(y) / label.numel())
    assert len(sizes) > 20
    assert 0.15 < np.mean(shares) < 0.4
    again = TrainingSamples(Places(), Augment(crop=(8, 10), cutmix=1.0), seed=1)[59, 3]
    assert torch.equal(again[0], image)
    assert np.array_equal(samples.data[3].image[..., 0], np.full((8, 10), 3))


def test_as_many_are_mixed_as_the_probability_says_and_the_others_are_as_without():
    plain, often = (
        TrainingSamples(
            Tiny(), Augment(crop=(6, 6), scale=(0.5, 2.0), flip=0.5, cutmix=share), seed=1
        )
        for share in (0.0, 0.3)
    )
    same = [torch.equal(plain[epoch, 2][0], often[epoch, 2][0]) for epoch in range(200)]
    assert 0.65 < np.mean(same) < 0.85  # some boxes are empty, or of the same image


class PseudoMasks(Tiny):
    """Images of 100 with masks of class 9."""

    share = 0.5

    def __getitem__(self, index):
        return Sample("x", np.full((8, 8, 3), 100, np.uint8), np.full((8, 8), 9, np.uint8))


def test_where_some_have_pseudo_masks_all_change_more_and_get_boxes_of_images_with_masks():
    def drawn(**settings):
        augment = Augment(crop=(8, 8), **settings)
        samples = TrainingSamples(Tiny(), augment, seed=1, pseudo=PseudoMasks())
        pairs = [samples[epoch, index] for epoch in range(60) for index in range(7)]
        return [(image.numpy(), label.numpy()) for image, label in pairs]

    pseudo = [pair for pair in drawn(brightness=0.2) if (pair[1] == 9).any()]
    assert 180 < len(pseudo) < 240  # half of 420
    own = np.array([image[:, label == 9].mean() for image, label in pseudo])
    assert own.min() < 65  # of 100: by up to twice as much as the recipe says
    assert own.max() > 135
    assert own.min() >= 60
    assert own.max() <= 140
    boxes = [label for _, label in pseudo if (label == 0).any()]
    assert 0.3 < len(boxes) / len(pseudo) < 0.6
    for image, label in drawn():  # a recipe that keeps the colours keeps them here
        assert (image[:, label == 9] == 100).all()
    others = [image for image, label in drawn(brightness=0.2) if not (label == 9).any()]
    assert 75 < max(image.max() for image in others) <= 84  # of 60


class Rare(Tiny):
    """Classes 0 to 2 are frequent, 3 is in images 2 and 5, 4 is one pixel of 2; two are ignored."""

    def label(self, index):
        label = np.zeros((8, 8), np.uint8)
        label[:2], label[2:5, :4] = 1, 2
        label[7, :2] = 255
        if index in (2, 5):
            label[6, 2:5] = 3
        if index == 2:
            label[5, 5] = 4
        return label


def test_the_rare_third_of_the_classes_that_occur_is_found_with_the_images_that_hold_it(tmp_path):
    rare = find_rare_classes(Rare())
    assert rare.rows.tolist() == [[3, 2], [3, 5], [4, 2]]
    assert rare.classes == [3, 4]
    rng = np.random.default_rng(0)
    drawn = Counter(rare.draw(rng) for _ in range(3000))
    assert {key: round(n / 3000, 1) for key, n in drawn.items()} == {
        (3, 2): 0.2,
        (3, 5): 0.2,
        (4, 2): 0.5,
    }
    rare.save(tmp_path / "rare.npy")
    assert np.array_equal(np.load(tmp_path / "rare.npy"), rare.rows)
    data = Rare()
    data.label = lambda index: np.full((8, 8), 255, np.uint8)
    with pytest.raises(DataError, match="no class can be pasted"):
        find_rare_classes(data)


def test_pixels_of_rare_classes_are_pasted_with_their_colours_and_nothing_else():
    data, seen = Rare(), set()
    before = {index: data[index].image.copy() for index in range(7)}
    samples = TrainingSamples(
        data, Augment(crop=(8, 8), copy_paste=1.0), seed=1, rare=find_rare_classes(data)
    )
    for epoch in range(20):
        image, label = samples[epoch, 0]
        own, changed = torch.from_numpy(data.label(0)), label != torch.from_numpy(data.label(0))
        assert set(label[changed].tolist()) <= {3, 4}
        assert {3} <= set(label[changed].tolist())  # of images 2 and 5, whose crops are whole here
        assert torch.equal(label[~changed], own[~changed])
        (colour,) = set(image[:, changed].flatten().tolist())
        seen.add(colour)
        assert not image[:, ~changed].any()
        assert (4 in label) == (colour == 20)
    assert seen == {20, 50}
    assert all(np.array_equal(data[index].image, image) for index, image in before.items())


def test_a_small_crop_is_cut_around_the_rare_class():
    data = Rare()
    samples = TrainingSamples(
        data, Augment(crop=(2, 2), copy_paste=1.0), seed=1, rare=find_rare_classes(data)
    )
    assert all(samples[epoch, 0][1].ge(3).any() for epoch in range(50))
    never = TrainingSamples(data, Augment(crop=(2, 2)), seed=1, rare=find_rare_classes(data))
    plain = TrainingSamples(data, Augment(crop=(2, 2)), seed=1)
    assert all(torch.equal(never[epoch, 0][1], plain[epoch, 0][1]) for epoch in range(50))


def test_workers_deliver_batches_under_a_long_temporary_folder(tmp_path):
    long = tmp_path / ("t" * 80)
    long.mkdir()
    code = (
        "from test_loader import FlatBatches, Tiny, TrainingSamples, training_loader, Augment\n"
        "samples = TrainingSamples(Tiny(), Augment(crop=(4, 4)), seed=0)\n"
        "batches = FlatBatches(7, 2, seed=3, start=0, total=2)\n"
        "print(len(list(training_loader(samples, batches, workers=1))))\n"
    )
    search = os.pathsep.join([os.path.dirname(__file__), *sys.path])
    environment = os.environ | {"TMPDIR": str(long), "PYTHONPATH": search}
    run = subprocess.run(
        [sys.executable, "-c", code],
        env=environment,
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
    )
    assert run.stdout == "2\n", run.stderr
    assert list(long.iterdir()) == []
