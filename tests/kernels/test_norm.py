"""Batch norm with an activation behind it, and its gradients, against torch in float64."""

import math

import pytest
import torch
import torch.nn.functional as F
from torch.testing import assert_close

from featherseg.kernels import library, norm_act, portable
from featherseg.kernels.norm import takes

CUTS = [(-math.inf, math.inf), (0.0, math.inf), (0.0, 6.0)]
SHAPES = [
    (2, 3, 5, 7),
    (3, 16, 9, 11),
    (1, 40, 3, 2),
    (2, 130, 6, 5),
    (2, 24, 40, 50),
    (4, 1, 3, 3),
    (1, 33, 64, 70),
]


def draw(shape, dtype):
    """-> x, weight, bias and what pulls at the result."""
    torch.manual_seed(0)
    spread, centre = torch.rand(shape[1]) * 2 + 0.5, torch.randn(shape[1]) * 3
    x = torch.randn(shape) * spread[:, None, None] + centre[:, None, None]
    weight, bias = torch.rand(shape[1]) + 0.5, torch.randn(shape[1]) + 1
    x, pull = (t.to(dtype, memory_format=torch.channels_last) for t in (x, torch.randn(shape)))
    return x.requires_grad_(), weight.requires_grad_(), bias.requires_grad_(), pull


@pytest.mark.usefixtures("clone")
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("cut", CUTS)
@pytest.mark.parametrize("shape", SHAPES, ids=str)
def test_values_statistics_and_gradients_are_those_of_float64(shape, cut, dtype):
    *inputs, pull = draw(shape, dtype)
    assert takes(inputs[0])
    out, mean, variance = norm_act(*inputs, 1e-3, *cut)
    exact = [t.detach().double().requires_grad_() for t in inputs]
    normed = F.batch_norm(exact[0], None, None, *exact[1:], training=True, eps=1e-3)
    expected = normed.clamp(*cut)
    rounding = 2**-8 if dtype == torch.bfloat16 else 3e-6
    assert_close(out.double(), expected, rtol=rounding, atol=rounding)
    assert_close(mean.double(), exact[0].mean((0, 2, 3)), rtol=1e-6, atol=1e-6)
    assert_close(variance.double(), exact[0].var((0, 2, 3), unbiased=False), rtol=1e-5, atol=1e-7)
    # a pixel at the edge of a cut may lie on either side of it: these are left out
    pull = pull.masked_fill(((normed - cut[0]).abs() < 1e-4) | ((normed - cut[1]).abs() < 1e-4), 0)
    got = torch.autograd.grad(out, inputs, pull)
    wanted = torch.autograd.grad(expected, exact, pull.double())
    for ours, theirs, error in zip(got, wanted, (rounding, 3e-6, 3e-6), strict=True):
        assert_close(
            ours.double(), theirs, rtol=error, atol=error * max(1.0, float(theirs.abs().max()))
        )
    assert [t.dtype for t in (out, *got)] == [dtype, dtype, torch.float32, torch.float32]


@pytest.mark.seconds
def test_the_bits_depend_on_no_instruction_set_and_no_threads(extension, use):
    before, results = torch.get_num_threads(), []
    for name in extension.clones():
        use(name)
        for threads in (1, 2, 5):
            torch.set_num_threads(threads)
            *inputs, pull = draw((3, 24, 90, 101), torch.bfloat16)
            out, *statistics = norm_act(*inputs, 1e-3, 0.0, 6.0)
            results.append([out, *statistics, *torch.autograd.grad(out, inputs, pull)])
    torch.set_num_threads(before)
    for other in results[1:]:
        assert all(torch.equal(a, b) for a, b in zip(results[0], other, strict=True))


@pytest.mark.seconds
def test_a_map_of_more_values_than_a_kernel_takes_at_once():
    lines = torch.tensor([[1.0, 5.0, -2.0, 8.0], [3.0, -5.0, 4.0, 0.0]]).repeat(
        1, 8
    )  # of 32 channels
    x = (
        lines.to(torch.bfloat16)
        .repeat(2**19 + 3, 1)
        .view(1, -1, 2, 32)
        .permute(0, 3, 1, 2)
        .requires_grad_()
    )
    out, mean, variance = norm_act(x, torch.ones(32), torch.zeros(32), 0.0, -math.inf, math.inf)
    assert x.numel() > 2**25
    assert_close(mean, lines.mean(0))
    assert_close(variance, lines.var(0, unbiased=False))
    assert torch.equal(
        out, ((lines - mean) / variance.sqrt()).T[None, :, None].bfloat16().expand_as(out)
    )
    (gradient,) = torch.autograd.grad(out, x, torch.ones_like(x))
    assert gradient.abs().max() < 1e-6


@pytest.mark.usefixtures("clone")
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_nan_is_passed_on_within_its_channel(dtype):
    *inputs, pull = draw((2, 20, 6, 7), dtype)
    with torch.no_grad():
        inputs[0][1, 3, 2, 2] = torch.nan
        pull[0, 5, 1, 1] = torch.nan
    out, mean, variance = norm_act(*inputs, 1e-3, -math.inf, math.inf)
    to_x, to_weight, to_bias = torch.autograd.grad(out, inputs, pull)
    for found, channels in (
        (out, [3]),
        (mean, [3]),
        (variance, [3]),
        (to_x, [3, 5]),
        (to_weight, [3, 5]),
    ):
        dims = [d for d in range(found.ndim) if d != (1 if found.ndim == 4 else 0)]
        every = found.isnan().all(dims) if dims else found.isnan()
        assert every.nonzero().flatten().tolist() == channels
        assert found.isnan().sum() == len(channels) * found.numel() // 20
    assert to_bias.isnan()[5]


@pytest.mark.usefixtures("clone")
def test_a_large_mean_takes_nothing_from_the_variance():
    x = (torch.randn(2, 8, 30, 31) + 1000.0).to(memory_format=torch.channels_last)
    _, mean, variance = norm_act(x, torch.ones(8), torch.zeros(8), 1e-5, 0.0, 6.0)
    assert_close(mean.double(), x.double().mean((0, 2, 3)), rtol=1e-7, atol=0)
    assert_close(variance.double(), x.double().var((0, 2, 3), unbiased=False), rtol=1e-5, atol=0)


def test_what_it_does_not_take(monkeypatch):
    x = torch.zeros(2, 4, 3, 3).to(memory_format=torch.channels_last)
    if library.kernels is not portable:
        assert takes(x)
    others = [x.double(), x.half(), x.contiguous(), x[:1, :, :1, :1], x.to("meta")]
    assert not any(takes(other) for other in others)
    monkeypatch.setattr(library, "kernels", portable)
    assert not takes(x)
