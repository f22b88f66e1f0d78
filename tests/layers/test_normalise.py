import numpy as np
import pytest
import torch
from torch.testing import assert_close

from featherseg.layers.normalise import normalise


def test_every_channel_has_its_own_mean_and_scale():
    images = torch.tensor([[[[10]], [[20]], [[30]]]], dtype=torch.uint8)
    assert_close(
        normalise(images, (10, 10, 10), (1, 2, 4)).flatten(), torch.tensor([0.0, 5.0, 5.0])
    )


def test_sixteen_bits_are_brought_to_the_range_of_eight():
    eight = torch.tensor([[[[0, 1, 127, 255]]]], dtype=torch.uint8)
    sixteen = (eight.to(torch.int32) * 257).to(torch.uint16)
    assert_close(normalise(sixteen, (127,), (128,)), normalise(eight, (127,), (128,)))


def test_values_of_a_smaller_range_are_brought_to_0_to_255_by_a_power_of_two():
    eight = torch.tensor([[[[0, 1, 127, 255]]]], dtype=torch.uint8)
    twelve = (eight.to(torch.int32) * 16).to(torch.uint16)
    assert torch.equal(normalise(twelve, (127,), (128,), 4096), normalise(eight, (127,), (128,)))
    assert torch.equal(
        normalise(eight, (127,), (128,), 4096), normalise(eight, (127,), (128,))
    )  # 8 bits are full


def test_the_images_stay_as_they_were():
    images = torch.tensor([[[[1.0, 2.0]]]])
    assert_close(normalise(images, (1,), (2,)), torch.tensor([[[[0.0, 0.5]]]]))
    assert images.flatten().tolist() == [1.0, 2.0]


@pytest.mark.parametrize(("dtype", "image_range"), [(np.uint8, 2**16), (np.uint16, 2**12)])
def test_arrays_are_normalised_to_the_bits_of_tensors(dtype, image_range):
    pixels = np.random.default_rng(0).integers(0, np.iinfo(dtype).max, (2, 150, 31, 3), dtype)
    planes, values = pixels.transpose(0, 3, 1, 2), ((1.0, 20.0, 123.675), (4.0, 5.0, 58.395))
    found = normalise(planes, *values, image_range)
    assert found.flags.c_contiguous
    assert (found == normalise(torch.from_numpy(planes), *values, image_range).numpy()).all()
