"""Compared with loops over the paper's equations; tests/models/test_segformer.py shows with the
published network's own figures that the whole is SegFormer's encoder."""

import math

import pytest
import torch
import torch.nn.functional as F
from support.golden.peer_golden import golden
from support.models.seeded import seeded64 as seeded
from torch import nn
from torch.testing import assert_close

from featherseg import backbones
from featherseg.backbones.mit import VARIANTS, Block, EfficientAttention, MixFeedForward
from featherseg.backbones.weights import load_official
from featherseg.core.errors import WeightsError
from featherseg.costs.cost import by_convention, count_layers
from featherseg.exporters.parity import perturb


def official():
    """Weights under the published names of the backbone alone."""
    state = golden("segformer_b0").state()
    return {k.removeprefix("backbone."): v for k, v in state.items() if k.startswith("backbone.")}


def reduced(block, x):
    """x (h, w, C) cut into whole R x R squares, each one matrix product and normalised: [(C,)]."""
    size, cells = block.reduction, []
    for i in range(x.shape[0] // size):
        for j in range(x.shape[1] // size):
            square = x[i * size : (i + 1) * size, j * size : (j + 1) * size].permute(2, 0, 1)
            cell = block.reduce.weight.flatten(1) @ square.flatten() + block.reduce.bias
            cell = (cell - cell.mean()) / (cell.var(unbiased=False) + 1e-5).sqrt()
            cells.append(cell * block.norm.weight + block.norm.bias)
    return cells


@torch.no_grad()
@pytest.mark.parametrize(("reduction", "size"), [(2, (4, 6)), (2, (5, 7)), (1, (3, 2))])
def test_every_position_attends_to_the_whole_squares_of_the_map(reduction, size):
    heads, width = 3, 2
    block, x = (
        perturb(EfficientAttention(6, heads=heads, reduction=reduction).double()),
        seeded(*size, 6),
    )
    cells = reduced(block, x) if reduction > 1 else list(x.flatten(0, 1))
    keys, values = zip(*(block.key_value(cell).chunk(2) for cell in cells), strict=True)
    expected = torch.zeros_like(x)
    for r in range(size[0]):
        for c in range(size[1]):
            query, gathered = block.query(x[r, c]), torch.zeros(6, dtype=x.dtype)
            for head in range(heads):
                part = slice(head * width, (head + 1) * width)
                scores = [
                    math.exp(float(query[part] @ key[part]) / math.sqrt(width)) for key in keys
                ]
                for score, value in zip(scores, values, strict=True):
                    gathered[part] += score / sum(scores) * value[part]
            expected[r, c] = block.project(gathered)
    assert_close(block(x[None])[0], expected, atol=1e-12, rtol=1e-12)


@torch.no_grad()
def test_the_feed_forward_network_is_its_equation():
    """Linear, a 3x3 window of every channel with zeros around the map, GELU, linear."""
    block, x = perturb(MixFeedForward(2).double()), seeded(4, 3, 2)
    hidden, (rows, columns, width) = block.expand(x), (4, 3, 8)
    near = block.depthwise.bias.repeat(rows, columns, 1)
    for r in range(rows):
        for c in range(columns):
            for k in range(width):
                for i in range(max(r - 1, 0), min(r + 2, rows)):
                    for j in range(max(c - 1, 0), min(c + 2, columns)):
                        near[r, c, k] += (
                            block.depthwise.weight[k, 0, i - r + 1, j - c + 1] * hidden[i, j, k]
                        )
    gelu = near * 0.5 * (1 + torch.erf(near / math.sqrt(2)))
    assert_close(block(x[None])[0], block.project(gelu), atol=1e-12, rtol=1e-12)


@torch.no_grad()
def test_a_block_adds_both_branches_of_what_it_normalises():
    block, x = perturb(Block(4, heads=2, reduction=2, drop=0.5).double()), seeded(1, 4, 6, 4)

    def normed(norm, x):
        return F.layer_norm(x, (4,), norm.weight, norm.bias, eps=1e-6)

    middle = x + block.attention(normed(block.attention_norm, x))
    expected = middle + block.feed_forward(normed(block.feed_forward_norm, middle))
    assert_close(block(x), expected, atol=1e-12, rtol=0)


def test_stochastic_depth_grows_from_block_to_block():
    with torch.device("meta"):
        backbone = backbones.build("mit-b1")
    rates = [block.drop.rate for stage in backbone.stages for block in stage.blocks]
    assert rates == pytest.approx([0.1 * i / 7 for i in range(8)])


@pytest.mark.parametrize("name", VARIANTS)
@pytest.mark.parametrize("size", [(32, 32), (65, 97), (33, 200)])
def test_stages_halve_the_size_rounded_up(name, size):
    with torch.device("meta"):
        backbone = backbones.build(name)
        stages = backbone(torch.empty(1, 3, *size))
    sizes = [tuple(math.ceil(side / 2 ** (i + 2)) for side in size) for i in range(4)]
    shapes = [(c, *s) for c, s in zip(backbone.stage_channels, sizes, strict=True)]
    assert [tuple(x.shape[1:]) for x in stages] == shapes


@pytest.mark.parametrize(("size", "keys"), [((8, 8), 16), ((9, 7), 12)])
def test_attention_costs_two_products_for_every_position_key_and_channel(size, keys):
    block = EfficientAttention(6, heads=3, reduction=2)
    layers, _ = count_layers(nn.Sequential(block), torch.zeros(2, *size, 6))
    positions = 2 * size[0] * size[1]
    linear = positions * 6 * 6 * 2 + 2 * keys * (
        6 * 12 + 6 * 6 * 4
    )  # q and output; k and v; the reduction
    assert by_convention(layers)["macs"] == linear + 2 * positions * keys * 6


def test_a_classifier_s_head_is_accepted_and_not_used():
    head = {"head.weight": torch.zeros(1000, 256), "head.bias": torch.zeros(1000)}
    backbone = backbones.build("mit-b0")
    assert load_official(backbone, {**official(), **head}) == list(head)
    assert_close(backbone.stages[0].embed.bias.double(), official()["patch_embed1.proj.bias"])


@pytest.mark.parametrize(("change", "message"), [
    (lambda s: s.pop("block3.1.attn.sr.weight"),
     r"missing: stages\.2\.blocks\.1\.attention\.reduce\.weight"),
    (lambda s: s.update({"block4.0.attn.sr.weight": torch.zeros(1)}),
     r"unexpected: stages\.3\.blocks\.0\.attention"),
    (lambda s: s.update({"block1.0.mlp.gate.weight": torch.zeros(1)}),
     r"unexpected: block1\.0\.mlp\.gate"),
    (lambda s: s.update({"norm3.bias": torch.zeros(7)}),
     r"shape of stages\.2\.norm\.bias: found \(7,\)"),
])  # fmt: skip
def test_a_key_that_does_not_fit_is_refused(change, message):
    state = official()
    change(state)
    with pytest.raises(WeightsError, match=message):
        load_official(backbones.build("mit-b0"), state)
