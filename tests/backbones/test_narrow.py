"""Narrow EfficientNet-Lites are held against the wide one with its other channels set to zero."""

import pytest
import torch
from torch import nn
from torch.testing import assert_close

from featherseg import backbones
from featherseg.backbones.narrow import WIDTHS, _largest
from featherseg.backbones.weights import find_pretrained, load_official, read_state
from featherseg.core.errors import WeightsError

NAME = "efficientnet-lite0-050"


@pytest.fixture(scope="module")
def official():
    return read_state(find_pretrained(NAME))


def kept(few, many):
    """Which channels of a norm the narrower one has, by all that a norm knows of a channel."""
    own, wide = (torch.stack([n.weight, n.bias, n.running_mean, n.running_var], dim=1) for n in (few, many))
    places = [(wide == row).all(dim=1).nonzero().flatten().tolist() for row in own]
    assert all(len(place) == 1 for place in places)
    return [place[0] for place in places]


def test_it_is_the_wide_one_without_the_channels_that_were_left_out(official):
    narrow, wide = backbones.build(NAME).eval(), backbones.build("efficientnet-lite0").eval()
    assert {key.split(".")[0] for key in load_official(narrow, official)} == {"_conv_head", "_bn1", "_fc"}
    load_official(wide, official)
    # Behind every norm of the wide one what was left out becomes zero, as if it was not there
    for path, norm in wide.named_modules():
        if isinstance(norm, nn.BatchNorm2d):
            rows = kept(narrow.get_submodule(path), norm)
            gone = torch.ones(len(norm.weight), dtype=torch.bool)
            gone[rows] = False
            norm.weight.data[gone] = norm.bias.data[gone] = 0
    images = torch.randn(1, 3, 65, 99, generator=torch.Generator().manual_seed(0))
    with torch.no_grad():
        for few, many in zip(narrow(images), wide(images), strict=True):
            left = many[:, many.abs().sum(dim=(0, 2, 3)) > 0]
            assert left.shape == few.shape
            assert_close(few, left, atol=1e-4, rtol=1e-4)


def test_the_statistics_of_the_wide_one_are_soon_forgotten():
    narrow = backbones.build(NAME).train()
    norms = [module for module in narrow.modules() if isinstance(module, nn.BatchNorm2d)]
    for norm in norms:
        norm.running_mean.fill_(1e3)
    with torch.no_grad():
        for _ in range(30):
            narrow(torch.zeros(2, 3, 64, 64))
    assert all((norm.running_mean < 100).all() for norm in norms)


def test_the_strongest_stay_in_order():
    assert _largest(torch.tensor([3.0, 1.0, 4.0, 1.0, 5.0]), 3).tolist() == [0, 2, 4]


@pytest.mark.parametrize("name", WIDTHS)
def test_every_width_has_a_part_of_the_channels(name):
    with torch.device("meta"):
        wide, narrow = backbones.build("efficientnet-lite0"), backbones.build(name)
    for few, many in zip(narrow.stage_channels, wide.stage_channels, strict=True):
        assert few % 8 == 0
        assert abs(few - WIDTHS[name] * many) <= 4 + 0.1 * many


def test_the_last_stage_can_be_left_out(official):
    whole, short = backbones.build("efficientnet-lite0").eval(), backbones.build("efficientnet-lite0").eval()
    short.leave_out_last_stage()
    load_official(whole, official)
    unused = load_official(short, official)
    assert sum(key.endswith("_depthwise_conv.weight") for key in unused) == 5  # four blocks at 1/32 and the last group
    images = torch.randn(1, 3, 65, 99, generator=torch.Generator().manual_seed(0))
    with torch.no_grad():
        for three, four in zip(short(images), whole(images)[:3], strict=True):
            assert_close(three, four, atol=0, rtol=0)


def test_its_own_weights_are_taken_as_they_are():
    own = backbones.build(NAME).state_dict()
    renamed, unused = backbones.build(NAME).rename_official(own)
    assert renamed.keys() == own.keys()
    assert unused == []


def test_a_file_of_another_network_is_named_key_by_key(official):
    with pytest.raises(WeightsError, match=r"shape of groups\.1\.0\.expand\.0\.weight"):
        load_official(backbones.build(NAME), official | {"_blocks.1._expand_conv.weight": torch.zeros(3, 3, 1, 1)})
