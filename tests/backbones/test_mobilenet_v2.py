"""MobileNetV2 against Table 2 of its paper, run on torchvision's published weights by key name."""

import pytest
import torch
import torch.nn.functional as F
from torch.testing import assert_close

from featherseg import backbones
from featherseg.backbones.weights import find_pretrained, load_official, read_state

NAME = "mobilenet-v2"
TABLE = [
    (1, 16, 1, 1),
    (6, 24, 2, 2),
    (6, 32, 3, 2),
    (6, 64, 4, 2),
    (6, 96, 3, 1),
    (6, 160, 3, 2),
    (6, 320, 1, 1),
]
STRIDES = {24: 4, 32: 8, 96: 16, 320: 32}


@pytest.fixture(scope="module")
def official():
    return read_state(find_pretrained(NAME), is_published=True)


def layer(state, x, conv, norm, act=True, **how):
    x = F.conv2d(x, state[f"{conv}.weight"], padding=state[f"{conv}.weight"].shape[-1] // 2, **how)
    x = F.batch_norm(
        x, *(state[f"{norm}.{name}"] for name in ("running_mean", "running_var", "weight", "bias"))
    )
    return x.clamp(0, 6) if act else x


def by_the_table(state, x):
    """The maps in front of every strided row, and the last."""
    x, stages, channels, block = (
        layer(state, x, "features.0.0", "features.0.1", stride=2),
        [],
        32,
        1,
    )
    for t, c, n, s in TABLE:
        for i in range(n):
            stride, path = s if i == 0 else 1, f"features.{block}.conv"
            y, at = x, 0
            if t != 1:
                y, at = layer(state, y, f"{path}.0.0", f"{path}.0.1"), 1
            y = layer(
                state, y, f"{path}.{at}.0", f"{path}.{at}.1", stride=stride, groups=channels * t
            )
            y = layer(state, y, f"{path}.{at + 1}", f"{path}.{at + 2}", act=False)
            x = x + y if stride == 1 and channels == c else y
            channels, block = c, block + 1
        if c in STRIDES:
            stages.append(x)
    return stages


@pytest.mark.parametrize("size", [(64, 96), (65, 99)])
def test_it_is_the_table_on_the_published_weights(official, size):
    backbone = backbones.build(NAME).eval()
    assert {
        key.split(".")[0] + "." + key.split(".")[1] for key in load_official(backbone, official)
    } == {
        "features.18",
        "classifier.1",
    }
    images = torch.randn(1, 3, *size, generator=torch.Generator().manual_seed(0))
    with torch.no_grad():
        found, expected = backbone(images), by_the_table(official, images)
    assert backbone.stage_channels == tuple(STRIDES)
    for stage, own, stride in zip(found, expected, STRIDES.values(), strict=True):
        assert stage.shape[2:] == tuple(-(-side // stride) for side in size)
        assert_close(stage, own, atol=1e-4, rtol=1e-4)


def test_a_dilated_network_agrees_wherever_the_strided_one_has_a_position(official):
    strided, dilated = (backbones.build(NAME, stride).eval() for stride in (32, 16))
    for backbone in (strided, dilated):
        load_official(backbone, official)
    images = torch.randn(1, 3, 64, 96, generator=torch.Generator().manual_seed(0))
    with torch.no_grad():
        *fine, coarse = strided(images)
        *same, dense = dilated(images)
    assert_close(same, fine)
    assert_close(dense[:, :, ::2, ::2], coarse, atol=1e-4, rtol=1e-4)


def test_it_has_the_parameters_of_the_published_one():
    with torch.device("meta"):
        backbone = backbones.build(NAME)
    head = 320 * 1280 + 2 * 1280 + 1281 * 1000
    assert sum(p.numel() for p in backbone.parameters()) == 3_504_872 - head
