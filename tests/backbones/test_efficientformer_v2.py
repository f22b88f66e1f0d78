"""Held against the definition of attention, the authors' key lists and their printed counts."""

import math

import pytest
import torch
import torch.nn.functional as F
from support.golden.parity_golden import numbered
from torch import nn
from torch.testing import assert_close

from featherseg import backbones
from featherseg.backbones.efficientformer_v2 import (
    VARIANTS,
    Attention,
    AttentionDownsample,
    Block,
    Residual,
    set_position_resize,
)
from featherseg.backbones.weights import load_official
from featherseg.core.errors import ConfigError, WeightsError
from featherseg.costs.cost import by_convention, count_layers, count_parameters
from featherseg.exporters.parity import perturb
from featherseg.layers.position_bias import PositionBias, resize_table

PARAMETERS = {
    "efficientformerv2-s0": 3_259_152,
    "efficientformerv2-s1": 5_748_360,
    "efficientformerv2-s2": 12_151_408,
    "efficientformerv2-l": 25_578_016,
}
"""S1, S2 and L: measured on the backbone in CGRSeg's code; S0: from the authors' key list."""

SMALL = "efficientformerv2-s0"


def imagenet(name):
    return numbered(name.replace("-", "_"))


def in_cgrseg():
    return {
        k.removeprefix("backbone."): v
        for k, v in numbered("cgrseg_t").items()
        if k.startswith("backbone.")
    }


def flat(conv_norm, x):
    """A convolution and a norm, (1, C, h, w) -> (h * w, C_out)."""
    return conv_norm(x)[0].flatten(1).T


def heads_of(x, head, heads=8):
    """(N, heads * d) -> (N, d), those of one head."""
    width = x.shape[1] // heads
    return x[:, head * width : (head + 1) * width]


@torch.no_grad()
@pytest.mark.parametrize(("stride", "size"), [(1, (3, 2)), (2, (5, 6)), (2, (4, 2))])
def test_attention_is_its_definition_position_by_position(stride, size):
    block = perturb(Attention(6, stride=stride, key_channels=2, value_channels=3).double())
    x = torch.randn(1, 6, *size, dtype=torch.float64)
    small = block.reduce(x)
    grid = tuple(small.shape[2:])
    assert grid == tuple(-(-side // stride) for side in size)
    q, k, v = (flat(part, small) for part in (block.query, block.key, block.value))
    bias = block.position(grid, grid)
    count = len(q)
    scores = torch.zeros(8, count, count, dtype=torch.float64)
    for head in range(8):
        for i in range(count):
            for j in range(count):
                product = sum(heads_of(q, head)[i, c] * heads_of(k, head)[j, c] for c in range(2))
                scores[head, i, j] = product / math.sqrt(2) + bias[head, i, j]
    mixed = [
        sum(block.talking_before.weight[h, g, 0, 0] * scores[g] for g in range(8)) for h in range(8)
    ]
    weights = [(m + block.talking_before.bias[h]).softmax(-1) for h, m in enumerate(mixed)]
    gathered = torch.zeros(count, 8 * 3, dtype=torch.float64)
    for h in range(8):
        weight = sum(block.talking_after.weight[h, g, 0, 0] * weights[g] for g in range(8))
        weight = weight + block.talking_after.bias[h]
        gathered[:, 3 * h : 3 * h + 3] = weight @ heads_of(v, h)
    out = gathered.T.view(1, 24, *grid) + block.local(block.value(small))
    if stride == 2:
        out = F.interpolate(out, size=size, mode="bilinear", align_corners=False)
    assert_close(block(x), block.project(out), atol=1e-10, rtol=0)


@torch.no_grad()
@pytest.mark.parametrize("size", [(4, 6), (3, 5), (2, 1)])
def test_attention_between_stages_asks_from_every_second_position(size):
    block = perturb(AttentionDownsample(6, 10, key_channels=2, value_channels=3).double())
    x = torch.randn(1, 6, *size, dtype=torch.float64)
    grid = tuple(-(-side // 2) for side in size)
    local = F.conv2d(
        x, block.query.local.weight, block.query.local.bias, stride=2, padding=1, groups=6
    )
    plain = torch.stack(
        [x[0, :, 2 * r, 2 * c] for r in range(grid[0]) for c in range(grid[1])], 1
    ).view(1, 6, *grid)
    q, k, v = flat(block.query.project, local + plain), flat(block.key, x), flat(block.value, x)
    bias = block.position(grid, size)
    parts = []
    for h in range(8):
        weights = (heads_of(q, h) @ heads_of(k, h).T / math.sqrt(2) + bias[h]).softmax(-1)
        parts.append(weights @ heads_of(v, h))
    gathered = torch.cat(parts, 1).T.view(1, 24, *grid)
    expected = block.project(gathered + block.local(block.value(x))) + block.shortcut(x)
    assert_close(block(x), expected, atol=1e-10, rtol=0)


@torch.no_grad()
def test_a_block_adds_its_scaled_branches():
    block = perturb(
        Block(Attention(4, stride=1, key_channels=2, value_channels=2), 4, expansion=3, drop=0.5)
    )
    x = torch.randn(2, 4, 3, 5)
    y = x + block.attention.scale.weight.view(1, 4, 1, 1) * block.attention.branch(x)
    ffn = block.feed_forward.branch
    hidden = F.gelu(ffn.depthwise[1](ffn.depthwise[0](F.gelu(ffn.expand[1](ffn.expand[0](y))))))
    branch = ffn.project[1](ffn.project[0](hidden))
    assert hidden.shape[1] == 12
    assert_close(block(x), y + block.feed_forward.scale.weight.view(1, 4, 1, 1) * branch)


def test_scores_stay_in_full_precision_under_autocast():
    block = perturb(Attention(4, stride=1))
    with torch.no_grad():
        block.talking_before.weight.mul_(
            50
        )  # sharp: in half precision the wrong position would win
        x = torch.randn(1, 4, 6, 6)
        seen = []
        block.talking_after.register_forward_hook(
            lambda _, given, out: seen.append((given[0].dtype, out.dtype))
        )
        with torch.autocast("cpu", dtype=torch.bfloat16):
            block(x)
    assert seen == [(torch.float32, torch.float32)]


@pytest.mark.parametrize("name", PARAMETERS)
def test_it_weighs_what_the_authors_network_weighs(name):
    with torch.device("meta"):
        assert count_parameters(backbones.build(name)) == PARAMETERS[name]


@pytest.mark.parametrize(("size", "stage_sizes"), [
    ((64, 96), [(16, 24), (8, 12), (4, 6), (2, 3)]),
    ((97, 131), [(25, 33), (13, 17), (7, 9), (4, 5)]),
    ((1, 1), [(1, 1)] * 4),
])  # fmt: skip
def test_stages_have_the_published_widths_and_sizes_rounded_up(size, stage_sizes):
    backbone = backbones.build(SMALL).eval()
    with torch.no_grad():
        stages = backbone(torch.randn(1, 3, *size))
    assert backbone.stage_channels == (32, 48, 96, 176)
    assert [tuple(s.shape[1:]) for s in stages] == [
        (c, *s) for c, s in zip(backbone.stage_channels, stage_sizes, strict=True)
    ]


@pytest.mark.seconds
@pytest.mark.parametrize("size", [(512, 512), (97, 131)])
def test_attention_products_are_counted(size):
    """At 512 x 512, 256 positions look at 256 in each attention and at 1024 between the stages."""
    with torch.device("meta"):
        backbone = backbones.build("efficientformerv2-s1").eval()
    layers, _ = count_layers(backbone, torch.empty(1, 3, *size, device="meta"))
    attentions = [name for name in layers if isinstance(backbone.get_submodule(name), Attention)]
    products = {name: layers[name].macs for name in attentions}
    between = layers["stages.3.embed"].macs
    coarse = -(-size[0] // 32) * -(-size[1] // 32)
    fine = -(-size[0] // 16) * -(-size[1] // 16)
    assert list(products.values()) == [8 * coarse * coarse * (32 + 128)] * 4
    assert between == 8 * coarse * fine * (16 + 64)
    assert by_convention(layers)["macs"] > sum(products.values()) + between


def test_it_starts_as_the_authors_start_it():
    torch.manual_seed(0)
    backbone = backbones.build("efficientformerv2-s1")
    branch = backbone.stages[3].blocks[0].feed_forward.branch
    for conv in (branch.expand[0], branch.project[0]):
        assert float(conv.weight.detach().std()) == pytest.approx(0.02, rel=0.05)
        assert not conv.bias.any()
    scales = [p for name, p in backbone.named_parameters() if name.endswith("scale.weight")]
    assert len(scales) == 3 + 3 + 9 + 6 + 2 + 2
    assert all(torch.equal(p, torch.full_like(p, 1e-5)) for p in scales)
    assert not any(
        module.table.any() for module in backbone.modules() if isinstance(module, PositionBias)
    )


@pytest.mark.parametrize(("name", "last"), [
    ("efficientformerv2-s0", 0.0), ("efficientformerv2-s1", 0.0),
    ("efficientformerv2-s2", 0.02), ("efficientformerv2-l", 0.1),
])  # fmt: skip
def test_stochastic_depth_grows_linearly_with_the_block(name, last):
    with torch.device("meta"):
        backbone = backbones.build(name)
    rates = [b.feed_forward.drop.rate for stage in backbone.stages for b in stage.blocks]
    assert rates == pytest.approx([last * i / (len(rates) - 1) for i in range(len(rates))])
    both = [(r.drop.rate, b.feed_forward.drop.rate) for s in backbone.stages for b in s.blocks
            for r in [b.attention] if isinstance(r, Residual)]  # fmt: skip
    assert both
    assert all(attention == feed_forward for attention, feed_forward in both)


def test_every_batch_norm_learns_from_its_batch():
    backbone = backbones.build(SMALL).train()
    backbone(torch.randn(2, 3, 64, 64))
    norms = [module for module in backbone.modules() if isinstance(module, nn.BatchNorm2d)]
    assert norms
    assert all(int(norm.num_batches_tracked) == 1 for norm in norms)


@pytest.mark.seconds
@pytest.mark.parametrize("name", PARAMETERS)
def test_the_authors_imagenet_key_set_fills_all_but_the_position_tables(name):
    state, backbone = imagenet(name), backbones.build(name)
    with torch.no_grad():
        for module in backbone.modules():
            if isinstance(module, PositionBias):
                module.table.fill_(-1)
    unused = load_official(backbone, state)
    attentions = 2 * VARIANTS[name].attention_blocks + 1
    assert {key.split(".")[0] for key in unused} == {"norm", "head", "dist_head", "network"}
    assert sum(key.endswith("attention_biases") for key in unused) == attentions
    assert sum(key.endswith("attention_bias_idxs") for key in unused) == attentions
    assert len(unused) == 9 + 2 * attentions
    own = backbone.state_dict()
    tables = {key for key in own if key.endswith("position.table")}
    assert len(tables) == attentions
    assert not any(own[key].any() for key in tables)
    found = sorted(float(own[key].flatten()[0]) for key in own if key not in tables)
    assert found == sorted(
        float(value.flatten()[0]) for key, value in state.items() if key not in unused
    )


def test_the_tables_of_imagenet_can_be_resized_over_both_directions():
    state, backbone = imagenet(SMALL), backbones.build(SMALL)
    set_position_resize(backbone, "two-dimensional")
    key, between = "network.4.4.token_mixer.attention_biases", "network.5.attn.attention_biases"
    state[key], state[between] = torch.randn(8, 49), torch.randn(8, 196)
    unused = load_official(backbone, state)
    assert not [name for name in unused if name.endswith("attention_biases")]
    assert torch.equal(
        backbone.stages[2].blocks[4].attention.branch.position.table,
        resize_table(state[key], (16, 16)),
    )
    assert torch.equal(
        backbone.stages[3].embed.position.table, resize_table(state[between], (32, 32))
    )


def test_the_backbone_of_a_cgrseg_file_brings_its_position_tables():
    state, backbone = in_cgrseg(), backbones.build("efficientformerv2-s1")
    unused = load_official(backbone, state)
    assert len(unused) == 5 * 3
    assert all(key.rpartition(".")[2].startswith("attention_bias") for key in unused)
    table = backbone.stages[3].embed.position.table
    assert torch.equal(table, state["network.5.attn.attention_biases_seg"])


@pytest.mark.parametrize(("change", "message"), [
    (lambda s: s.pop("network.4.5.mlp.mid.weight"),
     r"missing: stages\.2\.blocks\.5\.feed_forward\.branch\.depthwise\.0\.weight"),
    (lambda s: s.pop("network.6.3.token_mixer.attention_biases"),
     r"missing: stages\.3\.blocks\.3\.attention\.branch\.position\.table"),
    (lambda s: s.update({"network.4.5.mlp.gate.weight": torch.zeros(1)}),
     r"unexpected: network\.4\.5\.mlp\.gate"),
    (lambda s: s.update({"network.8.0.mlp.fc1.weight": torch.zeros(1)}),
     r"unexpected: stages\.4\."),
    (lambda s: s.update({"network.4.1.token_mixer.attention_biases": torch.zeros(8, 49)}),
     r"unexpected: stages\.2\.blocks\.1\.attention"),
    (lambda s: s.update({"head.scale": torch.zeros(1)}), r"unexpected: head\.scale"),
    (lambda s: s.update({"network.0.0.layer_scale_2": torch.zeros(7, 1, 1)}),
     r"scale\.weight: found \(7,\)"),
])  # fmt: skip
def test_a_key_that_does_not_fit_is_refused(change, message):
    state = imagenet(SMALL)
    change(state)
    with pytest.raises(WeightsError, match=message):
        load_official(backbones.build(SMALL), state)


def test_a_table_that_is_no_square_of_offsets_is_refused():
    state, backbone = imagenet(SMALL), backbones.build(SMALL)
    set_position_resize(backbone, "two-dimensional")
    state["network.5.attn.attention_biases"] = torch.zeros(8, 190)
    with pytest.raises(WeightsError, match=r"position\.table: found \(8, 190\)"):
        load_official(backbone, state)


def test_a_backbone_without_tables_has_no_way_to_resize_them():
    with pytest.raises(ConfigError, match="EfficientNetLite has no position tables"):
        set_position_resize(backbones.build("efficientnet-lite0"), "two-dimensional")
