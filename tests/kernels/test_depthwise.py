"""Gradients of depthwise convolutions against sums position by position in float64."""

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from torch.testing import assert_close

from featherseg.kernels import depthwise_conv2d

CASES = [  # channels, height and width, kernel, stride, padding, dilation
    (16, (9, 11), (3, 3), 1, (1, 1), 1),
    (40, (10, 13), (3, 3), 2, (0, 0), 1),
    (33, (11, 8), (5, 5), 1, (2, 2), 1),
    (130, (9, 12), (5, 5), 2, (2, 2), 1),
    (7, (13, 12), (7, 7), 1, (9, 9), 3),
    (20, (12, 7), (1, 11), 1, (0, 5), 1),
    (20, (7, 12), (11, 1), 1, (5, 0), 1),
    (5, (8, 8), (7, 7), 4, (3, 3), 1),
    (3, (1, 1), (5, 5), 1, (2, 2), 1),
    (2, (2, 30), (3, 3), 3, (1, 1), 1),
    (1, (40, 3), (3, 3), 1, (0, 0), 1),
    (4, (6, 5), (3, 3), 1, (2, 2), 1),  # wider than the map: torch computes it
    (4, (9, 9), (3, 3), 2, (2, 2), 2),  # stride and dilation: torch too
]


def summed(x, weight, pull, stride, padding, dilation):
    """The gradients of x, weight and bias, position by position."""
    to_x, to_weight = torch.zeros_like(x), torch.zeros_like(weight)
    for i, j in np.ndindex(*weight.shape[2:]):
        for row, column in np.ndindex(*pull.shape[2:]):
            y, z = (
                row * stride[0] - padding[0] + i * dilation[0],
                column * stride[1] - padding[1] + j * dilation[1],
            )
            if 0 <= y < x.shape[2] and 0 <= z < x.shape[3]:
                to_x[:, :, y, z] += pull[:, :, row, column] * weight[:, 0, i, j]
                to_weight[:, 0, i, j] += (pull[:, :, row, column] * x[:, :, y, z]).sum(0)
    return to_x, to_weight, pull.sum((0, 2, 3))


def draw(case, dtype, batch=3, layout=torch.channels_last):
    """-> (x, weight, bias, pull, (stride, padding, dilation)) of a case."""
    torch.manual_seed(0)
    channels, size, kernel, stride, padding, dilation = case
    geometry = ((stride, stride), padding, (dilation, dilation))
    x = torch.randn(batch, channels, *size).to(dtype, memory_format=layout).requires_grad_()
    weight = torch.randn(channels, 1, *kernel).requires_grad_()
    bias = torch.randn(channels).requires_grad_()
    shape = F.conv2d(x, weight.to(dtype), None, *geometry, groups=channels).shape
    pull = torch.randn(shape).to(dtype, memory_format=layout)
    return x, weight, bias, pull, geometry


def gradients(case, dtype, **kwargs):
    """-> the gradients of x, weight and bias of a case."""
    x, weight, bias, pull, geometry = draw(case, dtype, **kwargs)
    return torch.autograd.grad(
        depthwise_conv2d(x, weight, bias, *geometry), (x, weight, bias), pull
    )


@pytest.mark.usefixtures("code")
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("case", CASES, ids=str)
def test_gradients_are_the_sums_over_positions(case, dtype):
    x, weight, bias, pull, geometry = draw(case, dtype)
    out = depthwise_conv2d(x, weight, bias, *geometry)
    assert_close(out, F.conv2d(x, weight.to(dtype), bias.to(dtype), *geometry, groups=len(weight)))
    got = torch.autograd.grad(out, (x, weight, bias), pull)
    expected = summed(*(t.detach().double() for t in (x, weight, pull)), *geometry)
    rounding = 2**-8 if dtype == torch.bfloat16 else 1e-6
    for ours, theirs, error in zip(
        got, expected, (rounding, 1e-6, 4e-6), strict=True
    ):  # sums differ by order
        assert_close(
            ours.double(), theirs, rtol=error, atol=error * max(1.0, float(theirs.abs().max()))
        )
    assert [t.dtype for t in got] == [dtype, torch.float32, torch.float32]


@pytest.mark.parametrize("case", CASES[:11], ids=str)
def test_the_bits_depend_on_no_instruction_set_threads_or_layout(case, extension, use, monkeypatch):
    monkeypatch.setattr("featherseg.kernels.depthwise.THREAD_WORK", 1)
    before, results = torch.get_num_threads(), []
    for name in extension.clones():
        use(name)
        for threads, layout in (
            (1, torch.channels_last),
            (2, torch.channels_last),
            (5, torch.contiguous_format),
        ):
            torch.set_num_threads(threads)
            results.append(gradients(case, torch.bfloat16, layout=layout))
    torch.set_num_threads(before)
    for other in results[1:]:
        assert all(torch.equal(a, b) for a, b in zip(results[0], other, strict=True))


@pytest.mark.usefixtures("code")
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_nan_is_passed_on_within_its_channel(dtype):
    x, weight, bias, pull, geometry = draw(CASES[2], dtype)
    with torch.no_grad():
        pull[0, 4, 3, 3] = torch.nan
        x[1, 6, 5, 5] = torch.nan
    to_x, to_weight, to_bias = torch.autograd.grad(
        depthwise_conv2d(x, weight, bias, *geometry), (x, weight, bias), pull
    )
    assert to_x.isnan().sum() == 25
    assert to_x[0, 4, 1:6, 1:6].isnan().all()
    assert to_weight.isnan().flatten(1).any(1).nonzero().flatten().tolist() == [4, 6]
    assert to_bias.isnan().nonzero().flatten().tolist() == [4]


def test_double_precision_and_second_gradients_are_those_of_torch():
    x, weight, bias, _, geometry = draw((2, (4, 5), (3, 3), 1, (1, 1), 1), torch.float64, batch=2)
    inputs = (x, weight.detach().double().requires_grad_(), bias.detach().double().requires_grad_())
    assert torch.autograd.gradcheck(lambda *t: depthwise_conv2d(*t, *geometry), inputs)
    assert torch.autograd.gradgradcheck(lambda *t: depthwise_conv2d(*t, *geometry), inputs)


def test_a_map_of_another_precision_than_the_weights_has_a_gradient():
    x, weight, bias, _, geometry = draw((2, (4, 5), (3, 3), 1, (1, 1), 1), torch.float64, batch=2)
    single = [t.detach().float().requires_grad_() for t in (weight, bias)]
    double = [t.detach().double().requires_grad_() for t in single]
    found, expected = (
        torch.autograd.grad(depthwise_conv2d(x, *own, *geometry).square().sum(), (x, *own))
        for own in (single, double)
    )
    assert [t.dtype for t in found] == [torch.float64, torch.float32, torch.float32]
    for ours, theirs in zip(found, expected, strict=True):
        torch.testing.assert_close(ours.double(), theirs, rtol=1e-5, atol=1e-5)


def test_a_map_of_many_pixels_is_summed_as_exactly_as_one_of_few():
    x, weight, bias, pull, geometry = draw(
        (2, (150, 170), (3, 3), 1, (1, 1), 1), torch.float32, batch=2
    )
    got = torch.autograd.grad(depthwise_conv2d(x, weight, bias, *geometry), weight, pull)[0]
    x64, weight64 = x.detach().double(), weight.detach().double().requires_grad_()
    exact = torch.autograd.grad(
        F.conv2d(x64, weight64, None, *geometry, groups=2), weight64, pull.double()
    )[0]
    assert_close(got.double(), exact, rtol=0, atol=1e-6 * float(exact.abs().max()))
