"""Held against the package `efficientnet_lite_pytorch`, from which the published weights come."""

import pytest
import torch
from efficientnet_lite_pytorch import EfficientNet
from torch.testing import assert_close

from featherseg import backbones
from featherseg.backbones.weights import find_pretrained, load_official, read_state

SIZES = {"efficientnet-lite0": 224, "efficientnet-lite1": 240, "efficientnet-lite2": 260}
"""Pixels of a side: that package pads by constants which are right at its own training size alone."""


@pytest.mark.parametrize("name", SIZES)
def test_the_last_stage_equals_the_published_network(name):
    state = read_state(find_pretrained(name))
    theirs = EfficientNet.from_name(name).eval()
    theirs.load_state_dict(state)
    ours = backbones.build(name).eval()
    unused = load_official(ours, state)
    assert {key.split(".")[0] for key in unused} == {"_conv_head", "_bn1", "_fc"}
    images = torch.randn(1, 3, SIZES[name], SIZES[name], generator=torch.Generator().manual_seed(0))
    with torch.no_grad():
        expected = theirs.extract_features(images)  # after the head's convolution, norm and ReLU6
        head = theirs._bn1(theirs._conv_head(ours(images)[-1]))
    assert_close(head.clamp(0, 6), expected.clamp(0, 6), atol=1e-4, rtol=1e-4)


@pytest.mark.parametrize(("name", "channels"), [
    ("efficientnet-lite0", (24, 40, 112, 320)),
    ("efficientnet-lite1", (24, 40, 112, 320)),
    ("efficientnet-lite2", (24, 48, 120, 352)),
])  # fmt: skip
@pytest.mark.parametrize("size", [(64, 64), (97, 131)])
def test_stages_have_the_published_widths_and_strides(name, channels, size):
    net = backbones.build(name).eval()
    with torch.no_grad():
        stages = net(torch.zeros(1, 3, *size))
    assert net.stage_channels == channels
    strided = [tuple(-(-n // stride) for n in size) for stride in (4, 8, 16, 32)]
    assert [tuple(s.shape[1:]) for s in stages] == [(c, *s) for c, s in zip(channels, strided, strict=True)]
