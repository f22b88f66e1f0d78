"""A teacher's outputs are augmented like the image, whose pixels here encode their origin."""

import json

import numpy as np
import pytest
import torch

from featherseg.core.types import ClassInfo, Sample
from featherseg.data.cache.prepared import INDEX
from featherseg.data.cache.teacher_outputs import (
    FORMAT_VERSION,
    Entry,
    Grid,
    TeacherLogits,
    Teaching,
    read_outputs,
    stored,
)
from featherseg.data.pipeline.augmentation import Augment
from featherseg.data.pipeline.loader import FlatBatches, TrainingSamples, training_loader
from featherseg.data.pipeline.rare import RareClasses
from featherseg.data.pipeline.sampling import ClassPoints, ClassUniform

SIZES = ((40, 56), (48, 44), (36, 60))  # two images with masks, one without
STEP = 100  # of a value in the images, a pixel


class Maps:
    """Images (H, W, 3) uint16 of row, column and image number; class 1 is in a corner."""

    name, channels, licence = "maps", 3, "none"
    classes = (ClassInfo("a", (0, 0, 0)), ClassInfo("b", (9, 9, 9)))

    def __init__(self, numbers):
        self.numbers, self.keys = numbers, [str(number) for number in numbers]

    def __len__(self):
        return len(self.numbers)

    def __getitem__(self, index):
        rows, columns = np.indices(SIZES[self.numbers[index]])
        image = np.stack([rows, columns, np.full_like(rows, self.numbers[index])], -1) * STEP + 50
        return Sample(self.keys[index], image.astype(np.uint16), self.label(index))

    def label(self, index):
        label = np.zeros(SIZES[self.numbers[index]], np.uint8)
        label[:12, :12] = 1
        return np.full_like(label, 255) if self.numbers[index] == 2 else label


def written(file, grids, resized=None):
    """Entries whose logits are row, column and number of the image at the places of their grid."""
    entries, content = [], b""
    for number, (size, grid) in enumerate(zip(SIZES, grids, strict=True)):
        brought = resized or size
        rows, columns = (grid.places(axis) * size[axis] / brought[axis] for axis in (0, 1))
        maps = np.stack(np.broadcast_arrays(rows[:, None], columns, number)).astype(np.float32)
        maps[2, 0, 0] += 1e-3  # a class whose logits are all alike has no steps
        entries.append(Entry(len(content), 3, grid, size, brought))
        content += stored(maps)
    file.write_bytes(content)
    return tuple(entries)


def fine(size):
    return Grid(size, size, False)


AUGMENTS = {
    "crop": Augment(crop=(24, 32)),
    "flip": Augment(crop=(24, 32), flip=1.0),
    "scale": Augment(crop=(24, 32), scale=(0.5, 2.0), flip=0.5),
    "padding": Augment(crop=(70, 80), flip=0.5, scale=(0.8, 1.2)),
    "resize": Augment(crop=(24, 32), resize=(20, 200)),
    "rotate": Augment(crop=(24, 32), rotate=40.0, flip=0.5),
    "cutmix": Augment(crop=(24, 32), scale=(0.8, 1.2), cutmix=1.0, flip=0.5),
    "all": Augment(
        crop=(50, 60), scale=(0.7, 1.5), rotate=30.0, flip=0.5, cutmix=0.7, copy_paste=0.7
    ),
}


def samples(tmp_path, augment, grid=None, **kwargs):
    file = tmp_path / "outputs.bin"
    entries = written(file, [fine(size) for size in SIZES])
    teaching = Teaching((file,), (entries,), grid or fine(augment.crop), Maps([2]), share=0.3)
    traced = augment.model_copy(update={"traced": True})
    return TrainingSamples(Maps([0, 1]), traced, seed=3, teaching=teaching, **kwargs)


@pytest.mark.parametrize("name", AUGMENTS)
def test_the_teacher_says_of_a_pixel_what_it_said_where_the_pixel_comes_from(tmp_path, name):
    augment = AUGMENTS[name]
    rare = RareClasses(np.array([[1, 0], [1, 1]], np.int32)) if augment.copy_paste else None
    points = ClassUniform(0.3, ClassPoints(np.array([[1, 1, 6, 6], [0, 0, 20, 30]], np.int32)))
    drawn, seen = samples(tmp_path, augment, rare=rare, class_uniform=points), set()
    for epoch in range(12):
        image, label, taught = drawn[epoch, epoch % 2]
        came_from = (
            image.float() - 50
        ) / STEP  # (3, H, W): the middle of the first pixel is 0 here
        said = taught.logits.float() - torch.tensor([0.5, 0.5, 0])[:, None, None]
        # If neighbours come from elsewhere, an image's pixels are mixed, as along its borders
        smooth = (came_from[2] - came_from[2].round()).abs() < 0.01
        for step in (-1, 1):
            for axis in (0, 1):
                smooth &= (came_from.roll(step, axis + 1) - came_from).abs().amax(0) < 4
        inside = taught.inside & smooth
        assert (said - came_from).abs()[:, inside].max() < 0.75
        assert (said - came_from).abs()[:, inside].mean() < 0.15
        seen |= set(came_from[2][inside].round().int().unique().tolist())
        if not rare and 2 not in came_from[2][inside].round():
            assert torch.equal(taught.inside, label != 255)  # what was filled up is not taught
        assert torch.equal(
            taught.logits[:, ~taught.inside], torch.zeros(3, int((~taught.inside).sum())).half()
        )
    assert seen == {0, 1, 2}


@pytest.mark.parametrize("align_corners", [False, True])
@pytest.mark.parametrize("covered", [(24, 32), (32, 40)], ids=["the crop", "padded"])
def test_at_any_stride_of_the_model_a_place_is_taught_what_lies_there(
    tmp_path, align_corners, covered
):
    augment = Augment(crop=(24, 32), flip=0.5)
    dense = samples(tmp_path, augment)
    coarse = samples(
        tmp_path, augment, Grid((covered[0] // 4, covered[1] // 4), covered, align_corners)
    )
    for index in range(2):
        full, found = dense[0, index][2].logits.float(), coarse[0, index][2]
        # torch's own interpolation of the model's logits must agree with the taught ones inside
        size = (covered[0] // 4, covered[1] // 4)
        maps = torch.nn.functional.interpolate(
            found.logits[None].float(), size=covered, mode="bilinear", align_corners=align_corners
        )[0]
        assert (int(found.inside.any(1).sum()), int(found.inside.any(0).sum())) == (6, 8)
        assert found.logits.shape == (3, *size)
        difference = (maps[:, :24, :32] - full)[:, 4:16, 4:24]
        assert difference.abs().max() < 0.35


@pytest.mark.parametrize("align_corners", [False, True])
def test_a_teacher_s_stride_padding_and_resizing_do_not_move_what_it_says(tmp_path, align_corners):
    file = tmp_path / "outputs.bin"
    entries = written(file, [Grid((16, 20), (64, 80), align_corners)] * 3, resized=(60, 72))
    rows, columns = np.meshgrid(np.linspace(4, 32, 9), np.linspace(4, 36, 11), indexing="ij")
    for number, entry in enumerate(entries):
        logits = entry.at(file, rows, columns)
        assert np.abs(logits[0] - rows).max() < 0.2
        assert np.abs(logits[1] - columns).max() < 0.2
        assert np.abs(logits[2] - number).max() < 0.01


def test_logits_are_stored_to_half_a_step_of_their_class(tmp_path):
    logits = np.random.default_rng(0).normal(0, 5, (4, 6, 7)).astype(np.float32)
    logits[3] = -2.5
    (tmp_path / "a").write_bytes(b"12345678" + stored(logits))
    found = Entry(8, 4, fine((6, 7)), (6, 7), (6, 7)).read(tmp_path / "a", slice(0, 6), slice(0, 7))
    steps = np.ptp(logits, axis=(1, 2)) / 255
    assert (np.abs(found - logits).max((1, 2)) <= 0.501 * steps + 1e-6).all()
    assert (found[3] == -2.5).all()


def test_of_several_teachers_the_mean_counts(tmp_path):
    augment = Augment(crop=(24, 32), traced=True)
    one = samples(tmp_path, augment)
    file = tmp_path / "other.bin"
    other = written(file, [Grid((s[0] // 2, s[1] // 2), s, False) for s in SIZES])
    single, teaching = Teaching((file,), (other,), fine((24, 32))), one.teaching
    both = Teaching((*teaching.files, file), (*teaching.entries, other), fine((24, 32)))
    crop = augment(Maps([0])[0], np.random.default_rng(0))
    first, second, mean = (x(crop.origins).logits.float() for x in (teaching, single, both))
    assert torch.allclose(mean, (first + second) / 2, atol=0.05)
    assert not torch.equal(first, second)


@pytest.mark.seconds
@pytest.mark.parametrize("workers", [1, 2])
def test_taught_batches_do_not_depend_on_workers_or_restarts(tmp_path, workers):
    drawn = samples(
        tmp_path, AUGMENTS["all"], rare=RareClasses(np.array([[1, 0], [1, 1]], np.int32))
    )

    def stream(count, start):
        batches = FlatBatches(2, 3, seed=1, start=start, total=5)
        return list(training_loader(drawn, batches, workers=count))

    whole = stream(0, 0)
    for here, there in zip(whole[2:], stream(workers, 2), strict=True):
        assert isinstance(there[2], TeacherLogits)
        assert all(
            torch.equal(a, b)
            for a, b in zip((*here[:2], *here[2]), (*there[:2], *there[2]), strict=True)
        )
    assert whole[0][2].logits.shape == (3, 3, 50, 60)


def test_an_index_that_is_torn_or_names_more_than_the_file_holds_is_read_as_far_as_it_is_whole(
    tmp_path,
):
    entries = written(tmp_path / "outputs.bin", [fine(size) for size in SIZES])
    head = {"format_version": FORMAT_VERSION, "file": "outputs.bin"}
    lines = [
        {"key": str(n), "stamp": [n, 2, 3], "sha256": f"{n}", **e.record()}
        for n, e in enumerate(entries)
    ]
    lines[1]["grid"] = [[0, 0], [1, 1], False]
    lines[2]["offset"] = 10**9
    text = "\n".join([*map(json.dumps, [head, *lines]), '{"key": "3", "sta'])
    (tmp_path / INDEX).write_text(text)
    found = read_outputs(tmp_path)
    assert found.entries == {"0": entries[0]}
    assert found.digests == {("0", (0, 2, 3)): "0"}
    (tmp_path / INDEX).write_text(
        text.replace(f'"format_version": {FORMAT_VERSION}', '"format_version": 99')
    )
    assert read_outputs(tmp_path) is None
