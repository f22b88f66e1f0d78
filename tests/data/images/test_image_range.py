import numpy as np
import pytest
import torch

from featherseg.core.types import Sample
from featherseg.data.images.image_range import eight_bits, measure_range, range_above, range_note
from featherseg.data.pipeline.augmentation import Augment
from featherseg.data.pipeline.colours import Distortion


class Images:
    """A dataset of these images, which counts how many were read."""

    def __init__(self, *images):
        self.images, self.read = images, 0

    def __len__(self):
        return len(self.images)

    def __getitem__(self, index):
        self.read += 1
        return Sample(
            str(index), self.images[index], np.zeros(self.images[index].shape[:2], np.uint8)
        )


def deep(*values):
    return np.array(values, np.uint16).reshape(1, -1, 1)


@pytest.mark.parametrize(
    ("largest", "found"),
    [(0, 2), (1, 2), (255, 256), (4080, 4096), (4095, 4096), (4096, 8192), (65535, 65536)],
)
def test_the_range_is_the_next_power_of_two_above_the_largest_value(largest, found):
    assert range_above(largest) == found


def test_all_16_bit_images_are_measured_until_one_uses_the_upper_half_and_of_8_bits_one_is_read():
    twelve = Images(deep(1, 2), deep(4080), deep(7))
    assert (measure_range(twelve), twelve.read) == (4096, 3)
    full = Images(deep(5), deep(32768), deep(7))
    assert (measure_range(full), full.read) == (65536, 2)
    eight = Images(np.zeros((1, 1, 3), np.uint8), np.zeros((1, 1, 3), np.uint8))
    assert (measure_range(eight), eight.read) == (None, 1)
    assert measure_range(Images()) is None


def test_an_image_is_shown_as_its_8_bit_original():
    eight = np.arange(256, dtype=np.uint8).reshape(16, 16, 1)
    assert np.array_equal(eight_bits(eight.astype(np.uint16) * 16 + 15, 4096), eight)
    assert np.array_equal(eight_bits(eight.astype(np.uint16) * 256 + 255), eight)
    assert eight_bits(eight, 4096) is eight
    assert eight_bits(deep(4096, 65535), 4096).ravel().tolist() == [
        255,
        255,
    ]  # brighter than in training


@pytest.mark.parametrize(
    ("image", "image_range", "note"),
    [
        (deep(3000), 4096, ""),
        (deep(4096), 4096, "up to 4,096"),
        (deep(500), 4096, "a dark image, or one of fewer bits"),
        (deep(4080), 65536, "a dark image, or one of fewer bits"),
        (deep(40_000), 65536, ""),
        (deep(0), 4096, ""),
        (np.full((1, 1, 1), 9, np.uint8), 4096, "has 8 bits"),
        (np.full((1, 1, 1), 9, np.uint8), 65536, ""),
    ],
)
def test_an_image_of_another_range_is_named(image, image_range, note):
    found = range_note(image, image_range)
    assert note in found
    assert bool(found) == bool(note)


@pytest.mark.parametrize(
    "augment",
    [
        Augment(crop=(8, 8), photometric=True),
        Augment(crop=(8, 8), brightness=0.5, contrast=0.5, saturation=0.5, blur=1.0),
    ],
)
def test_colours_of_12_bits_are_changed_as_those_of_8(augment):
    image = np.random.default_rng(0).integers(0, 256, (8, 8, 3), dtype=np.uint8)
    label = np.zeros((8, 8), np.uint8)
    twelve = augment.model_copy(update={"image_range": 4096})
    for seed in range(20):
        expected = augment(Sample("a", image, label), np.random.default_rng(seed)).image
        sample = Sample("a", image.astype(np.uint16) * 16, label)
        found = twelve(sample, np.random.default_rng(seed)).image.to(torch.int32)
        assert found.max() < 4096
        assert (found / 16 - expected).abs().max() <= 2  # rounding, and 4095 / 16 for 255


def test_a_distortion_keeps_within_the_range_and_the_full_range_is_as_before():
    image = torch.from_numpy(np.full((3, 2, 2), 4000, np.uint16))
    assert (Distortion(brightness=0.5)(image, 4095) == 4095).all()
    assert torch.equal(Distortion(brightness=0.5)(image), Distortion(brightness=0.5)(image, 65535))
