import pytest
import torch
from torch import nn
from torch.testing import assert_close

from featherseg.exporters.parity import perturb
from featherseg.layers.official_keys import rename_block
from featherseg.layers.residual import (
    basic_block,
    bottleneck,
    open_basic_stage,
    open_bottleneck_stage,
    start_kaiming,
)


@torch.no_grad()
@pytest.mark.parametrize(("stride", "width"), [(1, 4), (1, 6), (2, 4)])
@pytest.mark.parametrize("make", [basic_block, bottleneck])
def test_a_block_adds_its_branch_to_its_shortcut(make, stride, width):
    x = torch.randn(2, 4, 7, 9)
    for act in (True, False):
        block = perturb(make(4, width, stride, act=act).eval())
        expected = block.branch(x) + (
            x if isinstance(block.shortcut, nn.Identity) else block.shortcut(x)
        )
        assert_close(block(x), expected.clamp(min=0) if act else expected)


@pytest.mark.parametrize(("stage", "acts"), [
    (open_basic_stage(4, 4, 3), [True, True, False]),
    (open_basic_stage(4, 4, 1), [False]),
    (open_bottleneck_stage(4, 4, 2), [False, False]),
])  # fmt: skip
def test_an_open_stage_ends_without_a_relu(stage, acts):
    assert [isinstance(block.act, nn.ReLU) for block in stage] == acts


def test_only_the_first_block_of_a_stage_has_a_stride():
    x = torch.randn(1, 4, 9, 13)
    assert open_basic_stage(4, 6, 3, stride=2)(x).shape == (1, 6, 5, 7)
    assert open_bottleneck_stage(4, 6, 2, stride=2)(x).shape == (1, 12, 5, 7)


def test_weights_start_with_the_deviation_of_he_et_al():
    conv = nn.Conv2d(8, 64, kernel_size=3)
    start_kaiming(nn.Sequential(conv))
    assert abs(conv.weight.std().item() / (2 / (9 * 64)) ** 0.5 - 1) < 0.05


@pytest.mark.parametrize(("theirs", "ours"), [
    ("conv1.weight", "branch.0.weight"),
    ("2.bn3.running_var", "2.branch.7.running_var"),
    ("0.downsample.1.bias", "0.shortcut.1.bias"),
    ("0.relu.weight", "0.relu.weight"),
])  # fmt: skip
def test_names_inside_a_block_are_translated(theirs, ours):
    assert rename_block(theirs) == ours
