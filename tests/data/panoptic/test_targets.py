"""Targets of the instance branch, against loops from their definition and examples by hand."""

import math

import numpy as np
import pytest
import torch
from torch.utils.data import default_collate

from featherseg.data.panoptic.targets import PanopticTargets, panoptic_targets

THINGS = {1, 3}  # classes; 0 and 2 are stuff


def scene(seed, size=(70, 90), objects=8):
    """Overlapping rectangles of things, some crowds, void in between."""
    rng = np.random.default_rng(seed)
    label = rng.choice([0, 2], size=size).astype(np.uint8)
    instances = np.zeros(size, dtype=np.int32)
    for i in range(objects):
        top, left = rng.integers(0, size[0] - 4), rng.integers(0, size[1] - 4)
        box = (slice(top, top + rng.integers(1, 60)), slice(left, left + rng.integers(1, 80)))
        label[box] = rng.choice([1, 3])
        instances[box] = (7 + 1000 * i) * (-1 if i % 4 == 3 else 1)
    hole = (slice(20, 30), slice(10, 40))
    label[hole], instances[hole] = 255, 0
    return label, instances


def loop(label, instances, sigma=8):
    """Pixel by pixel: every object's mean, every pixel's nearest Gaussian and weights."""
    height, width = label.shape
    pixels = {}
    for y, x in np.ndindex(height, width):
        if instances[y, x] > 0 and label[y, x] in THINGS:
            pixels.setdefault(instances[y, x], []).append((y, x))
    center, offset = np.zeros((height, width)), np.zeros((2, height, width))
    semantic_weight, offset_weight = np.ones((height, width)), np.zeros((height, width))
    for members in pixels.values():
        cy = sum(y for y, _ in members) / len(members)
        cx = sum(x for _, x in members) / len(members)
        for y, x in np.ndindex(height, width):
            dy, dx = y - int(cy), x - int(cx)
            if (
                abs(dy) <= 3 * sigma + 1 and abs(dx) <= 3 * sigma + 1
            ):  # a patch of 6 sigma + 3 pixels: 51 for 8
                center[y, x] = max(center[y, x], math.exp(-(dy * dy + dx * dx) / (2 * sigma**2)))
        for y, x in members:
            offset[:, y, x] = cy - y, cx - x
            offset_weight[y, x] = 1
            semantic_weight[y, x] = 3 if len(members) < (8 * sigma) ** 2 else 1  # 64 x 64 for 8
    stuff = np.isin(label, [0, 2])
    return PanopticTargets(
        center, offset, np.where(stuff, 1, offset_weight), offset_weight, semantic_weight
    )


@pytest.mark.parametrize(("seed", "sigma"), [(0, 8), (1, 8), (2, 3), (3, 1)])
def test_they_are_what_the_definition_says_pixel_by_pixel(seed, sigma):
    label, instances = scene(seed)
    found, expected = (
        panoptic_targets(label, instances, THINGS, sigma),
        loop(label, instances, sigma),
    )
    assert expected.center.max() == 1
    assert (instances < 0).any()
    for name, ours, theirs in zip(found._fields, found, expected, strict=True):
        assert ours.dtype == np.float32
        np.testing.assert_allclose(ours, theirs, atol=1e-5, err_msg=name)


def test_an_object_of_three_pixels_by_hand():
    label, instances = np.zeros((2, 4), np.uint8), np.zeros((2, 4), np.int32)
    label[0, 1:3], label[1, 1] = 1, 1
    instances[label == 1] = 5
    found = panoptic_targets(
        label, instances, THINGS
    )  # the mean is (1/3, 4/3): the peak is at (0, 1)
    assert np.unravel_index(found.center.argmax(), (2, 4)) == (0, 1)
    assert found.center[0].tolist() == pytest.approx(
        [math.exp(-1 / 128), 1, math.exp(-1 / 128), math.exp(-4 / 128)]
    )
    assert found.offset[:, 0, 1].tolist() == pytest.approx([1 / 3, 1 / 3])
    assert found.offset[:, 0, 2].tolist() == pytest.approx([1 / 3, -2 / 3])
    assert found.offset[:, 1, 1].tolist() == pytest.approx([-2 / 3, 1 / 3])
    assert (found.semantic_weight == [[1, 3, 3, 1], [1, 3, 1, 1]]).all()


@pytest.mark.parametrize(("sigma", "side"), [(8, 64), (4, 32), (2, 16)])
@pytest.mark.parametrize(("missing", "weight"), [(1, 3), (0, 1)])
def test_an_object_of_64_by_64_pixels_is_not_small_and_less_in_smaller_images(
    sigma, side, missing, weight
):
    label = np.zeros((70, 70), np.uint8)
    label[: side - missing, :side] = 1
    found = panoptic_targets(label, label.astype(np.int32), THINGS, sigma)
    assert np.unique(found.semantic_weight[label == 1]).tolist() == [weight]


@pytest.mark.parametrize("region", [-3, 0])  # a crowd; a thing whose instances nobody has marked
def test_a_crowd_has_no_centre_and_no_weight(region):
    label, instances = np.ones((5, 6), np.uint8), np.full((5, 6), region, np.int32)
    label[:, 3:] = 0
    instances[:, 3:] = 0
    found = panoptic_targets(label, instances, THINGS)
    assert not found.center.any()
    assert not found.offset.any()
    assert not found.offset_weight.any()
    assert (found.center_weight == (label == 0)).all()
    assert (found.semantic_weight == 1).all()


def test_of_an_object_that_a_crop_cuts_the_centre_is_that_of_the_rest():
    label = np.zeros((40, 40), np.uint8)
    label[10:30, 4:24] = 1
    whole = panoptic_targets(label, label.astype(np.int32), THINGS)
    cut = panoptic_targets(label[:, 20:], label[:, 20:].astype(np.int32), THINGS)
    assert np.unravel_index(whole.center.argmax(), (40, 40)) == (19, 13)
    assert np.unravel_index(cut.center.argmax(), (40, 20)) == (19, 1)
    assert cut.offset[:, 10, 0].tolist() == [9.5, 1.5]


@pytest.mark.parametrize("value", [0, 255, 1])
def test_images_without_objects_have_targets_too(value):
    found = panoptic_targets(np.full((3, 4), value, np.uint8), np.zeros((3, 4), np.int32), THINGS)
    assert not found.center.any()
    assert not found.offset_weight.any()
    assert (found.center_weight == (value == 0)).all()


def test_ids_may_be_any_number():
    label, instances = scene(0)
    large = np.where(instances > 0, 2**31 - 1 - instances, instances).astype(np.int32)
    for ours, theirs in zip(
        *(panoptic_targets(label, ids, THINGS) for ids in (instances, large)), strict=True
    ):
        np.testing.assert_allclose(ours, theirs, atol=1e-6)


def test_a_batch_of_them_is_collated_by_name():
    batch = default_collate([panoptic_targets(*scene(seed), THINGS) for seed in range(3)])
    assert isinstance(batch, PanopticTargets)
    assert batch.offset.shape == (3, 2, 70, 90)
    assert batch.center.shape == (3, 70, 90)
    assert batch.center.dtype == torch.float32


def test_three_hundred_objects_in_a_large_image_have_a_centre_each():
    rng = np.random.default_rng(0)
    label, instances = np.zeros((1024, 2048), np.uint8), np.zeros((1024, 2048), np.int32)
    for i in range(300):
        top, left = 60 * (i // 20), 100 * (i % 20)
        box = (slice(top, top + rng.integers(20, 60)), slice(left, left + rng.integers(20, 100)))
        label[box], instances[box] = 1 + 2 * (i % 2), 26_000 + i
    found = panoptic_targets(label, instances, THINGS)
    assert (found.center == 1).sum() == 300
