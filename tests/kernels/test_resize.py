"""The gradient of a bilinear resize against torch's in float64."""

import pytest
import torch
import torch.nn.functional as F
from torch.testing import assert_close

from featherseg.kernels import resize_bilinear

CASES = [  # channels, from, to
    (16, (5, 7), (20, 28)),
    (3, (4, 6), (9, 11)),
    (40, (1, 1), (6, 5)),
    (33, (6, 5), (1, 1)),
    (8, (9, 12), (4, 5)),
    (1, (3, 4), (3, 4)),
    (70, (2, 30), (8, 31)),
]


def gradient(case, dtype, corners, *, resized=resize_bilinear):
    """-> the gradient of x, where that of the result is a part of a map with more channels."""
    torch.manual_seed(0)
    channels, size, target = case
    x = (
        torch.randn(3, channels, *size)
        .to(dtype, memory_format=torch.channels_last)
        .requires_grad_()
    )
    pull = torch.randn(3, 2 * channels + 1, *target).to(dtype, memory_format=torch.channels_last)[
        :, 1 : channels + 1
    ]
    out = resized(x, target, align_corners=corners)
    return torch.autograd.grad(out, x, pull)[0]


def exactly(x, size, *, align_corners):
    return F.interpolate(x.double(), size, mode="bilinear", align_corners=align_corners).to(x.dtype)


@pytest.mark.usefixtures("code")
@pytest.mark.parametrize("corners", [False, True])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("case", CASES, ids=str)
def test_the_gradient_is_that_of_float64(case, dtype, corners):
    ours, theirs = gradient(case, dtype, corners), gradient(case, dtype, corners, resized=exactly)
    error = 2**-7 if dtype == torch.bfloat16 else 1e-5
    assert_close(ours, theirs, rtol=error, atol=error * float(theirs.abs().max()))
    assert ours.is_contiguous(memory_format=torch.channels_last)


@pytest.mark.parametrize("case", CASES, ids=str)
def test_the_bits_depend_on_no_instruction_set_and_no_threads(case, extension, use, monkeypatch):
    monkeypatch.setattr("featherseg.kernels.resize.THREAD_WORK", 1)
    before, results = torch.get_num_threads(), []
    for name in extension.clones():
        use(name)
        for threads in (1, 2, 5):
            torch.set_num_threads(threads)
            results.append(gradient(case, torch.bfloat16, corners=False))
    torch.set_num_threads(before)
    assert all(torch.equal(results[0], other) for other in results[1:])


@pytest.mark.usefixtures("code")
def test_nan_is_passed_on_within_its_channel():
    x = torch.zeros(1, 4, 3, 3).to(memory_format=torch.channels_last).requires_grad_()
    pull = torch.zeros(1, 4, 6, 6)
    pull[0, 2, 0, 0] = torch.nan
    found = torch.autograd.grad(resize_bilinear(x, (6, 6), align_corners=False), x, pull)[0].isnan()
    assert found[0, 2, 0, 0]
    assert not found[0, [0, 1, 3]].any()


@pytest.mark.seconds
def test_double_precision_and_second_gradients_are_those_of_torch():
    x = torch.randn(2, 3, 3, 4, dtype=torch.float64, requires_grad=True)
    assert torch.autograd.gradcheck(lambda t: resize_bilinear(t, (5, 9), align_corners=False), x)
    assert torch.autograd.gradgradcheck(lambda t: resize_bilinear(t, (5, 9), align_corners=True), x)
