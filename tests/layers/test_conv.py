import math
import warnings

import pytest
import torch
from torch import nn
from torch.testing import assert_close

from featherseg.layers.conv import (
    ConvNormAct,
    DepthwiseSeparable,
    convolve,
    normalise_act,
    pad_same,
    replace_strides,
    widen_input,
)


def same_convolution(x, weight, stride):
    """TensorFlow's "same" convolution of one channel by its documentation, in a loop."""
    kernel = weight.shape[-1]
    rows, columns = (math.ceil(n / stride) for n in x.shape)
    above, left = (
        max((out - 1) * stride + kernel - n, 0) // 2
        for out, n in zip((rows, columns), x.shape, strict=True)
    )
    out = torch.zeros(rows, columns, dtype=x.dtype)
    for r in range(rows):
        for c in range(columns):
            for i in range(kernel):
                for j in range(kernel):
                    y, z = r * stride + i - above, c * stride + j - left
                    if 0 <= y < x.shape[0] and 0 <= z < x.shape[1]:
                        out[r, c] += x[y, z] * weight[i, j]
    return out


@pytest.mark.parametrize("size", [(8, 10), (9, 11), (8, 9)])
@pytest.mark.parametrize("kernel", [3, 5])
def test_same_padding_gives_tensorflows_positions(size, kernel):
    torch.manual_seed(0)
    x, weight = (
        torch.randn(size, dtype=torch.float64),
        torch.randn(kernel, kernel, dtype=torch.float64),
    )
    ours = nn.functional.conv2d(pad_same(x[None, None], kernel, 2), weight[None, None], stride=2)[
        0, 0
    ]
    assert_close(ours, same_convolution(x, weight, 2))


@pytest.mark.parametrize(("kernel", "stride", "dilation", "bias"), [
    (3, 1, 1, False), (3, 2, 1, False), (5, 1, 1, False), (5, 2, 1, False), (5, 1, 1, True),
    (7, 1, 3, True),
])  # fmt: skip
def test_mixed_precision_depthwise_has_the_gradients_of_full_precision(
    kernel, stride, dilation, bias
):
    torch.manual_seed(0)
    padding = kernel // 2 * dilation
    conv = nn.Conv2d(6, 6, kernel, stride, padding, dilation, groups=6, bias=bias)
    x = torch.randn(2, 6, 12, 14, requires_grad=True)
    out = conv(x)
    pull = torch.randn_like(out)
    inputs = [x, *conv.parameters()]
    exact = torch.autograd.grad(out, inputs, pull)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        mixed_out = convolve(conv, x)
    assert mixed_out.dtype == torch.bfloat16
    mixed = torch.autograd.grad(mixed_out, inputs, pull.bfloat16())
    assert_close(mixed_out.float(), out, atol=0.03, rtol=0.02)
    for ours, theirs in zip(mixed, exact, strict=True):
        assert_close(ours, theirs, atol=0.01 * float(theirs.abs().max()), rtol=0.02)


class Convolved(nn.Module):
    def __init__(self):
        super().__init__()
        self.conv = nn.Conv2d(4, 4, 3, groups=4, bias=False)

    def forward(self, x):
        return convolve(self.conv, x)


def test_convolve_is_the_plain_convolution_outside_training_and_in_every_graph():
    layer, x = Convolved().train(), torch.randn(1, 4, 8, 8)
    assert "Depthwise" in layer(x).grad_fn.name()
    assert torch.equal(layer(x), layer.conv(x))
    with torch.no_grad(), torch.autocast("cpu", dtype=torch.bfloat16):
        assert torch.equal(layer(x), layer.conv(x))
    with warnings.catch_warnings(action="ignore"):  # of jit.trace, which torch calls deprecated
        graphs = [
            str(torch.jit.trace(layer, x).inlined_graph),
            str(torch.export.export(layer, (x,)).graph),
        ]
    assert all("conv" in graph and "epthwise" not in graph for graph in graphs)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        assert torch.equal(layer.eval()(x), layer.conv(x))
        assert "Convolution" in layer(x).grad_fn.name()


@pytest.mark.parametrize("channels", [1, 4, 8])
def test_a_widened_convolution_sees_equal_channels_as_a_grey_image(channels):
    torch.manual_seed(0)
    conv = nn.Conv2d(3, 5, 3)
    grey = torch.randn(1, 1, 9, 9)
    before = conv(grey.expand(-1, 3, -1, -1))
    widen_input(conv, channels)
    assert_close(conv(grey.expand(-1, channels, -1, -1)), before)


@torch.no_grad()
@pytest.mark.parametrize("act", [True, False])
def test_a_separable_convolution_filters_each_channel_then_mixes_them(act):
    torch.manual_seed(0)
    layer, x = DepthwiseSeparable(2, 3, 5, act=act).eval(), torch.randn(1, 2, 6, 7)
    each = [
        torch.nn.functional.conv2d(x[:, i : i + 1], layer.depthwise.weight[i : i + 1], padding=2)[
            :, 0
        ]
        for i in (0, 1)
    ]
    mixed = (
        torch.einsum("oc,bchw->bohw", layer.pointwise.weight[:, :, 0, 0], torch.stack(each, 1))
        / (1 + 1e-5) ** 0.5
    )
    assert_close(layer(x), mixed.clamp(min=0) if act else mixed)
    assert sum(p.numel() for p in layer.parameters()) == 25 * 2 + 2 * 3 + 2 * 3


@pytest.mark.parametrize("output_stride", [8, 16])
def test_replaced_strides_give_what_the_strides_gave_and_what_lies_between(output_stride):
    torch.manual_seed(0)
    stages = [
        nn.Sequential(*(nn.Conv2d(2, 2, 3, s, 1, dtype=torch.float64) for s in (2, 1, 1)))
        for _ in range(2)
    ]
    x = torch.randn(1, 2, 16, 20, dtype=torch.float64)
    strided, step = nn.Sequential(*stages)(x), 32 // output_stride
    replace_strides(stages, output_stride)
    assert_close(nn.Sequential(*stages)(x)[:, :, ::step, ::step], strided)


@pytest.mark.parametrize(
    "act", [nn.Identity(), nn.ReLU(), nn.ReLU6(), nn.SiLU()], ids=lambda act: type(act).__name__
)
@pytest.mark.parametrize("shape", [(2, 6, 5, 7), (1, 6, 4, 4), (1, 6, 1, 2)])
def test_norm_and_activation_are_those_of_the_layers_in_training(act, shape):
    torch.manual_seed(0)
    ours, theirs = nn.BatchNorm2d(6, momentum=0.3), nn.BatchNorm2d(6, momentum=0.3)
    for _ in range(3):
        x = torch.randn(shape).to(memory_format=torch.channels_last)
        assert_close(normalise_act(ours, act, x), act(theirs(x)))
    assert_close(ours.state_dict(), theirs.state_dict())
    graph = torch.export.export(ConvNormAct(3, 6, 1).train(), (torch.randn(1, 3, 2, 2),)).graph
    assert "batch_norm" in str(graph)
    ours, theirs = ours.eval(), theirs.eval()
    assert torch.equal(normalise_act(ours, act, x), act(ours(x)))


def test_one_value_a_channel_has_no_variance_and_is_refused():
    with pytest.raises(ValueError, match="more than 1 value"):
        normalise_act(nn.BatchNorm2d(3), nn.ReLU(), torch.zeros(1, 3, 1, 1))


@pytest.mark.parametrize("images", [1, 3, 16])
def test_a_pointwise_convolution_is_the_same_for_rows_as_for_images(images):
    torch.manual_seed(0)
    conv, x = (
        nn.Conv2d(5, 7, 1),
        torch.randn(images, 5, 6, 9).to(memory_format=torch.channels_last).requires_grad_(),
    )
    ours, theirs = convolve(conv, x), conv(x)
    assert ours.is_contiguous(memory_format=torch.channels_last)
    assert_close(ours, theirs)
    pull = torch.randn_like(theirs)
    inputs = [x, *conv.parameters()]
    for a, b in zip(
        torch.autograd.grad(ours, inputs, pull),
        torch.autograd.grad(theirs, inputs, pull),
        strict=True,
    ):
        assert_close(a, b)
