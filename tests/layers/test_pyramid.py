"""Held against loops over the definitions."""

import pytest
import torch
import torch.nn.functional as F
from torch.testing import assert_close

from featherseg.costs.cost import count_parameters
from featherseg.exporters.parity import perturb
from featherseg.layers.pyramid import FPN, BiFPN, BiFPNLayer, WeightedFusion, enlarge

WIDTHS = (3, 4, 6, 10)


def stages(widths=WIDTHS, size=(16, 24)):
    generator = torch.Generator().manual_seed(0)
    return [
        torch.randn(2, c, size[0] >> i, size[1] >> i, generator=generator)
        for i, c in enumerate(widths)
    ]


def by_hand(node, *maps):
    weights = node.weight.clamp(min=0)
    x = sum(w * m for w, m in zip(weights, maps, strict=True)) / (weights.sum() + 1e-4)
    return node.conv(x * torch.sigmoid(x))


@torch.no_grad()
def test_a_node_weighs_its_inputs_by_their_positive_weights():
    node = perturb(WeightedFusion(2, 3))
    node.weight.copy_(torch.tensor([2.0, -1.0, 1.0]))
    a, b, c = (
        torch.randn(1, 2, 4, 5, generator=torch.Generator().manual_seed(i)) for i in range(3)
    )
    x = (2 * a + c) / 3.0001
    assert_close(node(a, b, c), node.conv(x * torch.sigmoid(x)), atol=1e-6, rtol=0)


def test_inputs_weigh_the_same_at_first():
    assert torch.equal(WeightedFusion(2, 3).weight, torch.ones(3))


@torch.no_grad()
def test_a_layer_goes_down_and_up_as_efficientdet_draws_it():
    layer = perturb(BiFPNLayer(4, 4))
    p2, p3, p4, p5 = maps = stages((4, 4, 4, 4))
    down, up = layer.down, layer.up

    def twice(x):
        return x.repeat_interleave(2, 2).repeat_interleave(2, 3)

    def half(x):
        return (
            F.pad(x, (1, 1, 1, 1), value=-torch.inf).unfold(2, 3, 2).unfold(3, 3, 2).amax((-2, -1))
        )

    middle4 = by_hand(down[2], p4, twice(p5))
    middle3 = by_hand(down[1], p3, twice(middle4))
    out2 = by_hand(down[0], p2, twice(middle3))
    out3 = by_hand(up[0], p3, middle3, half(out2))
    out4 = by_hand(up[1], p4, middle4, half(out3))
    out5 = by_hand(up[2], p5, half(out4))
    for found, expected in zip(layer(maps), (out2, out3, out4, out5), strict=True):
        assert_close(found, expected, atol=1e-5, rtol=1e-5)


def test_a_layer_has_the_nodes_of_four_levels():
    layer = BiFPNLayer(8, 4)
    assert [[len(node.weight) for node in way] for way in (layer.down, layer.up)] == [
        [2, 2, 2],
        [3, 3, 2],
    ]
    assert count_parameters(layer) == 6 * (9 * 8 + 8 * 8 + 2 * 8) + 14


@torch.no_grad()
def test_a_bifpn_is_laterals_and_layers_one_after_the_other():
    neck = perturb(BiFPN(WIDTHS, 8, repeats=2))
    x = [F.conv2d(s, lateral[0].weight) for s, lateral in zip(stages(), neck.lateral, strict=True)]
    x = [lateral[1](m) for m, lateral in zip(x, neck.lateral, strict=True)]
    for layer in neck.layers:
        x = layer(x)
    assert len(neck.layers) == 2
    for found, expected in zip(neck(stages()), x, strict=True):
        assert_close(found, expected)


@torch.no_grad()
def test_an_fpn_sums_from_coarse_to_fine_and_smooths_each_level():
    neck = perturb(FPN(WIDTHS, 5))
    levels = [
        torch.einsum("oc,bchw->bohw", lateral.weight[:, :, 0, 0], stage)
        + lateral.bias[:, None, None]
        for lateral, stage in zip(neck.lateral, stages(), strict=True)
    ]
    expected = []
    for i, level in enumerate(levels):
        for j in range(i + 1, 4):
            level = level + levels[j].repeat_interleave(2 ** (j - i), 2).repeat_interleave(
                2 ** (j - i), 3
            )
        expected.append(neck.smooth[i](level))
    for found, wanted in zip(neck(stages()), expected, strict=True):
        assert_close(found, wanted, atol=1e-5, rtol=1e-5)


@pytest.mark.parametrize(
    "neck", [BiFPN(WIDTHS, 8, repeats=2), FPN(WIDTHS, 8)], ids=["bifpn", "fpn"]
)
@pytest.mark.parametrize("size", [(8, 8), (16, 40)])
def test_every_level_keeps_its_size_and_gets_the_width(neck, size):
    out = neck(stages(size=size))
    assert [tuple(x.shape) for x in out] == [(2, 8, size[0] >> i, size[1] >> i) for i in range(4)]


@pytest.mark.parametrize(
    "make", [lambda w: BiFPN(w, 8, repeats=2), lambda w: FPN(w, 8)], ids=["bifpn", "fpn"]
)
def test_any_number_of_levels_is_taken_and_every_parameter_learns(make):
    neck = make(WIDTHS[:3])
    torch.manual_seed(0)
    for parameter in neck.parameters():
        torch.nn.init.normal_(parameter, mean=0.5, std=0.1)
    sum(x.square().mean() for x in neck(stages(WIDTHS[:3]))).backward()
    assert [
        name for name, p in neck.named_parameters() if p.grad is None or not p.grad.abs().sum() > 0
    ] == []


def test_enlarging_repeats_cells():
    x = torch.arange(6.0).reshape(1, 1, 2, 3)
    assert torch.equal(
        enlarge(x, torch.zeros(1, 7, 4, 6)), x.repeat_interleave(2, 2).repeat_interleave(2, 3)
    )
