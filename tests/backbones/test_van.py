"""Held against the paper's equations, the authors' key lists and their printed counts."""

import math

import pytest
import torch
import torch.nn.functional as F
from support.golden.parity_golden import misses, numbered
from torch import nn
from torch.testing import assert_close

from featherseg import backbones
from featherseg.backbones.van import VARIANTS, Attention, Block, LargeKernelAttention
from featherseg.backbones.weights import load_official
from featherseg.core.errors import WeightsError
from featherseg.costs.cost import by_convention, count_layers, count_parameters

PARAMETERS = {"van-b0": 3_848_800, "van-b1": 13_348_800, "van-b2": 26_065_472, "van-b3": 44_252_608}
"""Of the authors' networks without their classifiers of 1000 classes."""

# {(H, W): {convention: G of the stages and of all}}, from the layer table that reproduces the FRM
# paper's figures
FRM_COUNTS = {
    (1024, 2048): {
        "macs": (24.0837, 24.0418, 41.0832, 15.0617, 104.2704),
        "ptflops-0.6": (24.6961, 24.3479, 41.3322, 15.1131, 105.4894),
    },
    (720, 1280): {
        "macs": (10.5837, 10.5652, 18.0541, 6.7660, 45.9690),
        "ptflops-0.6": (10.8528, 10.6998, 18.1636, 6.7891, 46.5052),
    },
}


def randomised(module, seed=0):
    """Every parameter drawn anew, so that small layer scales and zero biases hide nothing."""
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for parameter in module.parameters():
            parameter.copy_(
                torch.randn(parameter.shape, generator=generator, dtype=parameter.dtype) * 0.3
            )
    return module


def depthwise_at(x, conv, channel, row, column, dilation):
    """A depthwise convolution at one position, tap by tap; outside the map there are zeros."""
    weight = conv.weight[channel, 0]
    reach = len(weight) // 2
    total = conv.bias[channel].clone()
    for i in range(-reach, reach + 1):
        for j in range(-reach, reach + 1):
            y, z = row + i * dilation, column + j * dilation
            if 0 <= y < x.shape[1] and 0 <= z < x.shape[2]:
                total += weight[i + reach, j + reach] * x[channel, y, z]
    return total


def test_large_kernel_attention_is_its_equation():
    """Attention = Conv1x1(DW-D-Conv(DW-Conv(F))), Output = Attention * F; 5x5, 7x7 dilated by 3."""
    channels, rows, columns = 2, 5, 7
    block = randomised(LargeKernelAttention(channels).double())
    features = torch.randn(channels, rows, columns, dtype=torch.float64)
    near, far, expected = (torch.zeros_like(features) for _ in range(3))
    positions = [(r, c) for r in range(rows) for c in range(columns)]
    with torch.no_grad():
        for k in range(channels):
            for r, c in positions:
                near[k, r, c] = depthwise_at(features, block.depthwise, k, r, c, dilation=1)
        for k in range(channels):
            for r, c in positions:
                far[k, r, c] = depthwise_at(near, block.dilated, k, r, c, dilation=3)
        for k in range(channels):
            mixed = sum(block.pointwise.weight[k, j, 0, 0] * far[j] for j in range(channels))
            expected[k] = (mixed + block.pointwise.bias[k]) * features[k]
        assert_close(block(features[None])[0], expected, atol=1e-12, rtol=1e-12)


def test_large_kernel_attention_sees_23_by_23_positions():
    block = LargeKernelAttention(1)
    with torch.no_grad():
        for conv in (block.depthwise, block.dilated, block.pointwise):
            conv.weight.fill_(1.0)
    x = torch.ones(1, 1, 31, 31, requires_grad=True)
    seen = torch.autograd.grad(block(x)[0, 0, 15, 15], x)[0][0, 0] != 0
    assert [int(seen.any(dim).sum()) for dim in (0, 1)] == [23, 23]
    assert seen[4:27, 4:27].all()


def test_a_block_adds_two_scaled_branches():
    block = randomised(Block(4, expansion=2)).eval()
    x = torch.randn(2, 4, 6, 7)
    with torch.no_grad():
        branch = block.attention(block.attention_norm(x))
        y = x + block.attention_scale.weight.view(1, 4, 1, 1) * branch
        ffn = block.feed_forward
        hidden = F.conv2d(
            ffn.expand(block.feed_forward_norm(y)),
            ffn.depthwise.weight,
            ffn.depthwise.bias,
            1,
            1,
            1,
            8,
        )
        gelu = hidden * 0.5 * (1 + torch.erf(hidden / math.sqrt(2)))
        assert_close(
            block(x), y + block.feed_forward_scale.weight.view(1, 4, 1, 1) * ffn.project(gelu)
        )


def test_attention_has_a_shortcut_of_its_own():
    attention, x = Attention(3), torch.randn(1, 3, 5, 5)
    with torch.no_grad():
        for parameter in attention.project_out.parameters():
            parameter.zero_()
        assert torch.equal(attention(x), x)


@pytest.mark.parametrize("name", PARAMETERS)
def test_it_weighs_what_the_authors_network_weighs(name):
    with torch.device("meta"):
        assert count_parameters(backbones.build(name)) == PARAMETERS[name]


@pytest.mark.parametrize("size", FRM_COUNTS)
@pytest.mark.parametrize("convention", ["macs", "ptflops-0.6"])
def test_b1_costs_what_the_frm_papers_figures_need(size, convention):
    with torch.device("meta"):
        backbone = backbones.build("van-b1").eval()
    layers, _ = count_layers(backbone, torch.empty(1, 3, *size, device="meta"))
    stages = [
        {name: c for name, c in layers.items() if name.startswith(f"stages.{i}.")} for i in range(4)
    ]
    found = [by_convention(part)[convention] / 1e9 for part in (*stages, layers)]
    assert [round(value, 4) for value in found] == list(FRM_COUNTS[size][convention])


@pytest.mark.parametrize("size", [(64, 64), (97, 131), (1, 1), (33, 66)])
def test_stages_have_the_published_widths_and_sizes_rounded_up(size):
    backbone = backbones.build("van-b0").eval()
    with torch.no_grad():
        stages = backbone(torch.randn(1, 3, *size))
    assert backbone.stage_channels == VARIANTS["van-b0"].channels
    strided = [tuple(-(-n // stride) for n in size) for stride in (4, 8, 16, 32)]
    shapes = [(c, *s) for c, s in zip(backbone.stage_channels, strided, strict=True)]
    assert [tuple(s.shape[1:]) for s in stages] == shapes


def test_every_stage_leaves_normalised_over_its_channels():
    backbone = backbones.build("van-b0").eval()
    with torch.no_grad():
        stages = backbone(torch.randn(1, 3, 64, 64))
    for stage in stages:
        assert_close(stage.mean(1), torch.zeros_like(stage[:, 0]), atol=1e-4, rtol=0)
        assert_close(stage.var(1, unbiased=False), torch.ones_like(stage[:, 0]), atol=1e-2, rtol=0)
    assert {m.eps for m in backbone.modules() if isinstance(m, nn.LayerNorm)} == {1e-6}


def test_channels_last_and_contiguous_images_give_the_same_stages():
    backbone = randomised(backbones.build("van-b0")).eval()
    images = torch.randn(2, 3, 40, 72)
    with torch.no_grad():
        plain = backbone(images)
        last = backbone.to(memory_format=torch.channels_last)(
            images.contiguous(memory_format=torch.channels_last)
        )
    for a, b in zip(plain, last, strict=True):
        assert b.is_contiguous(memory_format=torch.channels_last)
        assert_close(a, b, atol=1e-4, rtol=1e-4)


def test_it_starts_as_the_authors_start_it():
    torch.manual_seed(0)
    backbone = backbones.build("van-b1").requires_grad_(False)
    first, wide = backbone.stages[0].embed[0], backbone.stages[0].blocks[0].feed_forward.depthwise
    assert float(first.weight.std()) == pytest.approx(math.sqrt(2 / (7 * 7 * 64)), rel=0.05)
    assert float(wide.weight.std()) == pytest.approx(math.sqrt(2 / 9), rel=0.05)
    assert not any(conv.bias.any() for conv in backbone.modules() if isinstance(conv, nn.Conv2d))
    scales = [p for name, p in backbone.named_parameters() if name.endswith("scale.weight")]
    assert len(scales) == 2 * sum(VARIANTS["van-b1"].depths)
    assert all(torch.equal(p, torch.full_like(p, 1e-2)) for p in scales)


@pytest.mark.seconds
@pytest.mark.parametrize("name", PARAMETERS)
def test_the_authors_key_set_fills_every_tensor(name):
    state = numbered(name.replace("-", "_"))
    backbone = backbones.build(name)
    assert load_official(backbone, state) == ["head.weight", "head.bias"]
    values = [float(tensor.flatten()[0]) for tensor in backbone.state_dict().values()]
    assert sorted(values) == sorted(
        float(v.flatten()[0]) for k, v in state.items() if not k.startswith("head.")
    )


def test_without_the_head_it_loads_too():
    state = {k: v for k, v in numbered("van_b0").items() if not k.startswith("head.")}
    assert load_official(backbones.build("van-b0"), state) == []


@pytest.mark.parametrize(("change", "message"), [
    (lambda s: s.pop("block2.1.mlp.dwconv.dwconv.weight"),
     r"missing: stages\.1\.blocks\.1\.feed_forward\.depthwise\.weight"),
    (lambda s: s.update({"block1.0.attn.gate.weight": torch.zeros(1)}),
     r"unexpected: block1\.0\.attn\.gate\.weight"),
    (lambda s: s.update({"block9.0.norm1.weight": torch.zeros(1)}), r"unexpected: stages\.8\."),
    (lambda s: s.update({"head.scale": torch.zeros(1)}), r"unexpected: head\.scale"),
    (lambda s: s.update({"norm3.bias": torch.zeros(3)}),
     r"shape of stages\.2\.norm\.bias: found \(3,\)"),
])  # fmt: skip
def test_a_key_that_does_not_fit_is_refused(change, message):
    state = numbered("van_b0")
    change(state)
    with pytest.raises(WeightsError, match=message):
        load_official(backbones.build("van-b0"), state)


@pytest.mark.seconds
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_stages_equal_those_of_the_official_network(dtype):
    assert misses("van_b1", dtype) == (8, [])  # tests/golden/README.md
