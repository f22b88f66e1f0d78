"""Against the authors' network (tests/golden), its measured counts, and loops."""

import math

import pytest
import torch
from support.golden.peer import Peer
from support.golden.peer_golden import gmacs, golden
from support.models.seeded import seeded
from torch.testing import assert_close

from featherseg.backbones.weights import load_official
from featherseg.costs.cost import count_parameters
from featherseg.exporters.parity import perturb
from featherseg.layers.stochastic_depth import StochasticDepth
from featherseg.models.seaformer import (
    VARIANTS,
    AxisAttention,
    AxisPosition,
    SeaFormer,
    SeaFormerConfig,
)

# M parameters with 19 and with 150 classes; GMACs of 19 at 1024x2048, 512x1024, of 150 at 512x512
COUNTS = {
    "seaformer-tiny": (1.655, 1.667, 4.078, 1.021, 0.563),
    "seaformer-small": (3.973, 3.990, 7.661, 1.921, 1.031),
    "seaformer-base": (8.585, 8.606, 13.287, 3.335, 1.758),
    "seaformer-large": (13.926, 13.952, 49.758, None, 6.340),
}


class TestSeaFormer(Peer):
    model, config, variants, name = SeaFormer, SeaFormerConfig, VARIANTS, "seaformer-tiny"
    reference = "seaformer_tiny"
    counts = COUNTS
    slips = [*Peer.slips, ({"widths": ()}, "widths"), ({"widths": (8, 0)}, "widths")]
    test_with_its_auxiliary_heads_it_costs_what_was_measured = None
    test_weights_without_auxiliary_heads_leave_them_as_they_are = None
    test_the_backbone_gives_the_maps_it_says = None  # five: below

    def measured(self, name):
        with torch.device("meta"):
            small, large = network(name, 19).eval(), network(name, 150).eval()
        found = [count_parameters(model) / 1e6 for model in (small, large)]
        found += [gmacs(small, size)["macs"] for size in ((1024, 2048), (512, 1024))]
        return tuple(round(figure, 3) for figure in (*found, gmacs(large, (512, 512))["macs"]))


network = TestSeaFormer.network


@pytest.fixture(scope="module")
def model():
    return perturb(network())


def test_an_imagenet_network_s_weights_fit_the_backbone_but_for_its_head():
    state = golden("seaformer_tiny").state()
    inner = {k.removeprefix("backbone."): v for k, v in state.items() if k.startswith("backbone.")}
    head = {"linear.weight": torch.zeros(7, 160), "linear.bias": torch.zeros(7)}
    backbone = network().backbone
    assert load_official(backbone, {**inner, **head}) == list(head)
    assert_close(backbone.stages[4].blocks[1].attention.rows.key_position.table.double(),
                 inner["trans2.transformer_blocks.1.attn.pos_emb_rowk.pos_embed"])  # fmt: skip


@torch.no_grad()
@pytest.mark.parametrize("length", [1, 5, 16, 40])
def test_positions_are_read_between_the_table_s_entries(length):
    position = AxisPosition(2).double()
    table = position.table[0]
    expected = torch.zeros(1, 2, length, dtype=torch.float64)
    for i in range(length):
        place = min(
            max((i + 0.5) * 16 / length - 0.5, 0), 15
        )  # centres of cells; none beyond the first and the last
        low = math.floor(place)
        high = min(low + 1, 15)
        expected[0, :, i] = table[:, low] * (low + 1 - place) + table[:, high] * (place - low)
    assert_close(position(torch.zeros(1, 2, length, dtype=torch.float64)), expected)


@torch.no_grad()
def test_an_axis_is_attended_to_head_by_head():
    heads, d, length = 3, 4, 6
    block = perturb(AxisAttention(heads, d).double())
    q, k, v = (
        seeded(2, 12, length).double(),
        seeded(3, 12, length)[1:].double(),
        seeded(2, 24, length).double(),
    )
    query, key = block.query_position(q), block.key_position(k)
    context = torch.zeros(2, 24, length, dtype=torch.float64)
    for b in range(2):
        for n in range(heads):
            for i in range(length):
                own = slice(n * d, (n + 1) * d)
                scores = torch.stack(
                    [query[b, own, i] @ key[b, own, j] / 2 for j in range(length)]
                )  # sqrt(4)
                weights = scores.exp() / scores.exp().sum()
                context[b, 2 * n * d : 2 * (n + 1) * d, i] = (
                    v[b, 2 * n * d : 2 * (n + 1) * d] @ weights
                )
    assert_close(block(q, k, v), block.project(context[..., None]))


def test_before_training_the_global_part_of_an_attention_opens_every_gate_by_half():
    attention, x = network().backbone.stages[3].blocks[0].attention.eval(), seeded(1, 128, 3, 5)
    inside = torch.cat([attention.query(x), attention.key(x), attention.value(x)], dim=1)
    assert_close(attention(x), attention.detail(inside) / 2)


def test_stochastic_depth_grows_from_none_to_a_tenth_in_each_stage():
    with torch.device("meta"):
        rates = [
            m.rate for m in network("seaformer-base").modules() if isinstance(m, StochasticDepth)
        ]
    assert_close(torch.tensor(rates), torch.linspace(0, 0.1, 4).repeat(2))


@pytest.mark.parametrize("size", [(64, 64), (65, 33), (1, 300)])
def test_one_image_can_be_trained_on(size):
    """One position a row or column is one value a channel, without variance for a batch norm."""
    torch.manual_seed(0)
    ours = network().train()
    for layer in ours.modules():
        if isinstance(layer, StochasticDepth):
            layer.rate = 0.0
    ours(seeded(1, 3, *size)).logits.square().mean().backward()
    assert [name for name, p in ours.named_parameters() if p.grad is None] == []


@pytest.mark.seconds
def test_the_backbone_gives_five_maps():
    with torch.device("meta"):
        backbone = network("seaformer-large").backbone
        maps = backbone(torch.empty(1, 3, 97, 131))
    expected = [(64, 25, 33), (128, 13, 17), (192, 7, 9), (256, 4, 5), (320, 2, 3)]
    assert [tuple(x.shape[1:]) for x in maps] == expected
    assert backbone.stage_channels == tuple(shape[0] for shape in expected)
