import numpy as np
import pytest
import torch
from torch.testing import assert_close

from featherseg.core.types import SegOutput
from featherseg.layers.resize import pad_images, resize, resize_antialiased, to_image


@pytest.mark.parametrize(("size", "divisor", "minimum", "padded"), [
    ((97, 131), 32, 1, (128, 160)),
    ((64, 96), 32, 64, (64, 96)),
    ((33, 700), 1, 64, (64, 700)),
    ((1, 1), 1, 64, (64, 64)),
])  # fmt: skip
def test_images_are_padded_right_and_below_with_zeros(size, divisor, minimum, padded):
    images = torch.rand(2, 3, *size) + 1
    out, said = pad_images(images, divisor=divisor, minimum=minimum)
    assert said == padded == tuple(out.shape[2:])
    assert torch.equal(out[:, :, : size[0], : size[1]], images)
    assert out.sum().item() == pytest.approx(images.sum().item(), rel=1e-5)


def test_native_logits_go_straight_to_the_image():
    logits = torch.randn(1, 3, 5, 6)
    out = SegOutput(logits, (20, 24), (20, 24), align_corners=False)
    assert_close(to_image(out, (37, 41)), resize(logits, (37, 41), align_corners=False))


def test_padded_logits_are_cropped_at_full_resolution():
    ramp = torch.arange(8.0).view(1, 1, 1, 8).expand(1, 1, 8, 8)  # of a 32 x 32 padded image
    out = SegOutput(ramp, (20, 30), (32, 32), align_corners=False)
    full = resize(ramp, (32, 32), align_corners=False)
    assert_close(to_image(out, (20, 30)), full[:, :, :20, :30])
    assert to_image(out, (40, 60)).shape == (1, 1, 40, 60)


def test_an_image_smaller_than_the_network_takes_keeps_its_own_part_of_the_logits():
    ramp = torch.arange(16.0).view(1, 1, 1, 16).expand(1, 1, 16, 16)  # of a 64 x 64 padded image
    out = SegOutput(ramp, (64, 32), (64, 64), align_corners=False)
    assert to_image(out, (64, 32)).max() <= 8


@pytest.mark.parametrize("align_corners", [False, True])
@pytest.mark.parametrize("size", [(37, 50), (9, 12), (5, 7), (1, 1), (5, 50)])
def test_arrays_are_resized_as_tensors_are(size, align_corners):
    x = torch.randn(2, 3, 9, 12, generator=torch.Generator().manual_seed(1))
    expected = resize(x, size, align_corners=align_corners)
    found = resize(x.numpy(), size, align_corners=align_corners)
    assert found.dtype == np.float32
    assert_close(torch.from_numpy(found), expected, atol=2e-6, rtol=0)
    one = x[:, :, :1, :1].numpy()  # a single place has no neighbours
    assert (resize(one, size, align_corners=align_corners) == one).all()


@pytest.mark.parametrize("size", [(37, 50), (9, 12), (5, 7), (1, 1), (2, 30), (17, 23)])
def test_arrays_are_shrunk_without_aliases_as_tensors_are(size):
    x = torch.randn(2, 3, 17, 23, generator=torch.Generator().manual_seed(1))
    found = resize_antialiased(x.numpy(), size)
    assert_close(torch.from_numpy(found), resize_antialiased(x, size), atol=2e-6, rtol=0)
