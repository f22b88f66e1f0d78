"""Compared with torchvision's published key names, parameter counts and layout by keys alone."""

from functools import cache

import pytest
import torch
from support.models import torchvision_resnet as official
from support.models.seeded import seeded64 as seeded
from torch.testing import assert_close

from featherseg import backbones
from featherseg.backbones.resnet import VARIANTS
from featherseg.backbones.weights import load_official
from featherseg.core.errors import ConfigError
from featherseg.costs.cost import count_parameters

DEPTHS = {"resnet-18": 18, "resnet-50": 50, "resnet-101": 101}
HEAD = {"fc.weight": (1000, 1), "fc.bias": (1000,)}


@cache
def made_up(depth):
    return official.made_up(official.shapes(depth))


def loaded(name, output_stride=32):
    """-> (the state by official names, ours with it)."""
    state = made_up(DEPTHS[name])
    backbone = backbones.build(name, output_stride).double().eval()
    load_official(backbone, state)
    return state, backbone


@pytest.mark.parametrize("name", DEPTHS)
def test_it_weighs_what_torchvision_s_weighs(name):
    with torch.device("meta"):
        backbone = backbones.build(name)
    head = 1000 * backbone.stage_channels[-1] + 1000
    assert count_parameters(backbone) + head == official.PARAMETERS[DEPTHS[name]]


@pytest.mark.seconds
@pytest.mark.parametrize("name", DEPTHS)
def test_torchvision_s_keys_fill_every_tensor_and_the_head_is_listed(name):
    shapes = {**official.shapes(DEPTHS[name]), **HEAD}
    state = {
        key: torch.full(shape, float(i)) for i, (key, shape) in enumerate(shapes.items())
    }  # a value a tensor
    backbone = backbones.build(name)
    assert load_official(backbone, state) == list(HEAD)
    found = sorted(float(value.flatten()[0]) for value in backbone.state_dict().values())
    assert found == [float(i) for i in range(len(state) - len(HEAD))]


@pytest.mark.seconds
@torch.no_grad()
@pytest.mark.parametrize(("name", "output_stride"), [
    ("resnet-18", 32), ("resnet-18", 16), ("resnet-18", 8), ("resnet-50", 16),
    pytest.param("resnet-50", 32, marks=pytest.mark.slow),
    pytest.param("resnet-50", 8, marks=pytest.mark.slow),
])  # fmt: skip
def test_stages_are_those_computed_over_the_official_keys(name, output_stride):
    state, backbone = loaded(name, output_stride)
    images = seeded(1, 3, 49, 64)
    expected = official.forward(state, images, DEPTHS[name], output_stride)
    for ours, theirs in zip(backbone(images), expected, strict=True):
        assert_close(ours, theirs, atol=1e-9, rtol=1e-9)


@pytest.mark.seconds
@torch.no_grad()
@pytest.mark.parametrize("size", [(64, 96), (75, 129)])
def test_a_dilated_network_agrees_wherever_the_strided_one_has_a_position(size):
    """What dilation is for: the same weights on a finer grid."""
    images = seeded(1, 3, *size)
    strided = loaded("resnet-18")[1](images)
    for output_stride in (16, 8):
        dilated = loaded("resnet-18", output_stride)[1](images)
        for i, (fine, coarse) in enumerate(zip(dilated, strided, strict=True)):
            step = max(1, 2 ** (i + 2) // output_stride)
            assert_close(fine[:, :, ::step, ::step], coarse, atol=1e-9, rtol=1e-9)


@torch.no_grad()
@pytest.mark.parametrize(
    "name", [pytest.param(n, marks=[pytest.mark.slow] * ("101" in n)) for n in VARIANTS]
)
@pytest.mark.parametrize(("output_stride", "strides"), [
    (32, (4, 8, 16, 32)), (16, (4, 8, 16, 16)), (8, (4, 8, 8, 8)),
])  # fmt: skip
def test_stages_have_the_published_widths_and_the_asked_strides(name, output_stride, strides):
    with torch.device("meta"):
        backbone = backbones.build(name, output_stride)
        stages = backbone(torch.zeros(1, 3, 97, 131))
    widths = (64, 128, 256, 512) if name.startswith("resnet-18") else (256, 512, 1024, 2048)
    assert backbone.stage_channels == widths
    sizes = [tuple(-(-side // stride) for side in (97, 131)) for stride in strides]
    assert [tuple(stage.shape[1:]) for stage in stages] == [
        (c, *s) for c, s in zip(widths, sizes, strict=True)
    ]


def test_a_stem_of_three_convolutions_replaces_the_one_of_seven_by_seven():
    with torch.device("meta"):
        plain, deep = (
            count_parameters(backbones.build(name)) for name in ("resnet-50", "resnet-50-v1c")
        )
    three = 9 * (3 * 32 + 32 * 32 + 32 * 64) + 2 * (32 + 32 + 64)
    assert deep - plain == three - (49 * 3 * 64 + 2 * 64)


def test_a_deep_stem_s_last_norm_is_torchvision_s_bn1():
    with torch.device("meta"):
        backbone = backbones.build("resnet-18-deep")
        theirs = ("conv1.0.weight", "conv1.4.bias", "conv1.6.weight", "bn1.running_var")
        renamed, _ = backbone.rename_official({key: torch.empty(1) for key in theirs})
    assert list(renamed) == ["stem.0.weight", "stem.4.bias", "stem.6.weight", "stem.7.running_var"]
    assert set(renamed) <= set(backbone.state_dict())


def test_a_backbone_without_a_dilated_form_says_so():
    with pytest.raises(
        ConfigError, match=r"output_stride = 16: VAN has no dilated version. Expected a ResNet"
    ):
        backbones.build("van-b0", 16)
