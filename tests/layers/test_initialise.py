import math

import pytest
import torch
from torch import nn

from featherseg.layers.initialise import initialise_by_fan_out


@pytest.mark.parametrize(
    ("groups", "kernel"), [(1, (3, 3)), (64, (5, 5)), (64, (1, 21)), (4, (1, 1))]
)
def test_a_convolution_starts_with_variance_two_over_what_each_input_feeds(groups, kernel):
    torch.manual_seed(0)
    layer = nn.Sequential(nn.Conv2d(64, 128, kernel, groups=groups), nn.BatchNorm2d(128))
    fed = kernel[0] * kernel[1] * 128 / groups
    initialise_by_fan_out(layer)
    assert not layer[0].bias.any()
    assert float(layer[0].weight.detach().std()) == pytest.approx(math.sqrt(2 / fed), rel=0.1)
    assert torch.equal(layer[1].weight, torch.ones(128))
