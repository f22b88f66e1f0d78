import pytest
import torch
from torch import nn
from torch.testing import assert_close

from featherseg.exporters.parity import perturb
from featherseg.layers.pooling import DeepAggregationPooling, PyramidPooling
from featherseg.layers.pre_norm import NormActConv, PreNormHead, norm_of_few


def test_of_one_value_a_channel_the_running_statistics_are_taken_and_kept():
    norm, x = perturb(nn.BatchNorm2d(5)), torch.randn(1, 5, 1, 1)
    before = {key: value.clone() for key, value in norm.state_dict().items()}
    assert_close(norm_of_few(norm.train(), x), norm.eval()(x))
    assert all(torch.equal(value, before[key]) for key, value in norm.state_dict().items())


@pytest.mark.parametrize("shape", [(2, 5, 1, 1), (1, 5, 1, 2)])
def test_of_more_values_it_is_the_norm(shape):
    norm, x = nn.BatchNorm2d(5).train(), torch.randn(*shape)
    expected = (x - x.mean((0, 2, 3), keepdim=True)) / (
        x.var((0, 2, 3), keepdim=True, correction=0) + norm.eps
    ).sqrt()
    assert_close(norm_of_few(norm, x), expected)
    assert norm.num_batches_tracked == 1


@torch.no_grad()
def test_norm_and_activation_come_before_the_convolution():
    block, x = perturb(NormActConv(4, 6, 3, groups=2, bias=True).eval()), torch.randn(1, 4, 5, 6)
    norm, _, conv = block
    assert_close(block(x), conv(norm(x).clamp(min=0)))
    assert block(x).shape == (1, 6, 5, 6)


def test_the_head_has_a_bias_at_its_end_alone():
    head = PreNormHead(4, 8, 3)
    assert [conv.bias is not None for conv in head.modules() if isinstance(conv, nn.Conv2d)] == [
        False,
        True,
    ]
    assert head(torch.randn(2, 4, 5, 6)).shape == (2, 3, 5, 6)


@pytest.mark.parametrize("pooling", [DeepAggregationPooling(4, 3, 5), PyramidPooling(4, 5)])
@pytest.mark.parametrize("size", [(3, 4), (9, 7)])
def test_pooling_can_be_trained_on_one_image(pooling, size):
    pooling.train()(torch.randn(1, 4, *size)).square().mean().backward()
    assert [name for name, p in pooling.named_parameters() if p.grad is None] == []
