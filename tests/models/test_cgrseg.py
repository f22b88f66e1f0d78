"""Against loops over the definition, the authors' key lists, and figures measured on their code."""

import copy

import pytest
import torch
import torch.nn.functional as F
from support.golden.parity_golden import misses, numbered
from support.models.seeded import seeded
from support.models.shallow import once_each
from torch import nn
from torch.testing import assert_close

from featherseg.backbones.weights import load_official
from featherseg.core.config import parse
from featherseg.core.errors import ConfigError, WeightsError
from featherseg.core.types import SegOutput
from featherseg.costs.cost import by_convention, count_layers, count_parameters
from featherseg.exporters.parity import perturb
from featherseg.layers.position_bias import PositionBias
from featherseg.layers.resize import to_image
from featherseg.models.cgrseg import (
    VARIANTS,
    CGRSeg,
    CGRSegConfig,
    ClassEmbedding,
    ContextFusion,
    PrototypeGate,
    PyramidContext,
    RectangularAttention,
    SpatialReconstruction,
    rectangular_module,
)

PARAMETERS = {  # classes: 150, 171, 59, 60
    "cgrseg-t": (9_364_647, 9_367_356, 9_352_908, 9_353_037),
    "cgrseg-b": (18_109_975, 18_115_372, 18_086_588, 18_086_845),
    "cgrseg-b6": (19_114_871, 19_120_268, 19_091_484, 19_091_741),
    "cgrseg-l": (35_677_703, 35_683_100, 35_654_316, 35_654_573),
}
COUNTS = {  # at 512 x 512, 150 classes: macs, conv-bn
    "cgrseg-t": (4_527_215_616, 4_024_062_208),
    "cgrseg-b": (8_525_393_920, 7_649_544_704),
    "cgrseg-b6": (8_589_358_080, 7_713_635_840),
    "cgrseg-l": (16_120_375_296, 14_975_967_744),
}
"""Counted on the authors' networks; printed: T, B, L 9.4, 18.1, 35.7 M and 4.0, 7.6, 14.9 G."""

KEY_SETS = {"cgrseg-t": "t", "cgrseg-b": "b5", "cgrseg-b6": "b", "cgrseg-l": "l"}


def network(name, classes=5, **options):
    return CGRSeg(
        parse(CGRSegConfig, {**VARIANTS[name].config.model_dump(), **options}, name), classes
    )


def light():
    """The same without the repetitions of its blocks."""
    return once_each(network("cgrseg-t"))


@pytest.fixture(scope="module")
def model():
    """No weight at its initial value: gates, layer scales and position tables act."""
    return perturb(light())


@pytest.mark.seconds
@pytest.mark.parametrize("name", PARAMETERS)
def test_it_weighs_what_the_authors_network_weighs(name):
    with torch.device("meta"):
        assert (
            tuple(count_parameters(network(name, k)) for k in (150, 171, 59, 60))
            == PARAMETERS[name]
        )


@pytest.mark.seconds
@pytest.mark.parametrize("name", COUNTS)
def test_it_costs_what_the_authors_network_costs(name):
    with torch.device("meta"):
        layers, _ = count_layers(
            network(name, 150).eval(), torch.empty(1, 3, 512, 512, device="meta")
        )
    counted = by_convention(layers)
    assert (counted["macs"], counted["conv-bn"]) == COUNTS[name]


@pytest.mark.parametrize(
    "dtype", [torch.float32, pytest.param(torch.float64, marks=pytest.mark.slow)]
)
def test_stages_taps_logits_and_gradient_equal_those_of_the_official_network(dtype):
    assert misses("cgrseg_t", dtype) == (40, [])


def band_at(x, conv, channel, row, column):
    """A depthwise convolution at one position, tap by tap; outside the map there are zeros."""
    weight, total = conv.weight[channel, 0], conv.bias[channel].clone()
    for i in range(weight.shape[0]):
        for j in range(weight.shape[1]):
            y, z = row + i - weight.shape[0] // 2, column + j - weight.shape[1] // 2
            if 0 <= y < x.shape[1] and 0 <= z < x.shape[2]:
                total += weight[i, j] * x[channel, y, z]
    return total


def everywhere(x, conv):
    """`band_at` at all positions: (C, h, w) -> (C, h, w)."""
    channels, height, width = x.shape
    values = [
        band_at(x, conv, c, r, k)
        for c in range(channels)
        for r in range(height)
        for k in range(width)
    ]
    return torch.stack(values).view_as(x)


@torch.no_grad()
@pytest.mark.parametrize("axial", ["add", "mul", "none"])
@pytest.mark.parametrize(("band", "local_kernel"), [(5, 3), (0, 3), (7, 0), (9, 1)])
def test_rectangular_attention_is_its_loops(axial, band, local_kernel):
    block = perturb(
        RectangularAttention(2, axial=axial, band=band, local_kernel=local_kernel).double()
    )
    x = seeded(2, 4, 6).double()
    g = x.clone()
    for c in range(2):
        for r in range(4):
            for k in range(6):
                row, column = x[c, r].mean(), x[c, :, k].mean()
                if axial != "none":
                    g[c, r, k] = row + column if axial == "add" else row * column
    if band:
        assert block.along_row.weight.shape[2:] == (1, band)
        norm = block.norm
        along = everywhere(g, block.along_row) - norm.running_mean[:, None, None]
        along = (
            along / (norm.running_var + norm.eps).sqrt()[:, None, None] * norm.weight[:, None, None]
        )
        g = everywhere((along + norm.bias[:, None, None]).clamp(min=0), block.along_column)
    expected = g.sigmoid() * (everywhere(x, block.local) if local_kernel else x)
    assert_close(block(x[None])[0], expected, atol=1e-12, rtol=0)


@torch.no_grad()
def test_a_rectangular_module_adds_its_scaled_branch():
    block = perturb(rectangular_module(3))
    x = seeded(2, 3, 4, 5)
    hidden = F.conv2d(block.norm(block.attention(x)), block.expand.weight, block.expand.bias)
    assert hidden.shape[1] == 6
    branch = F.conv2d(F.gelu(hidden), block.project.weight, block.project.bias)
    assert_close(block(x), x + block.scale.weight.view(1, 3, 1, 1) * branch)


@torch.no_grad()
@pytest.mark.parametrize("side", [2, 3, 5])  # of the map at 1/32: even and odd
def test_the_context_sees_every_stage_averaged_over_the_same_regions(side):
    context = PyramidContext((2, 3, 4), 1, nn.Identity)
    stages = [seeded(1, c, side * k, 4 * k) for c, k in ((2, 4), (3, 2), (4, 1))]
    out = context(stages)
    for stage, pooled in zip(stages, out, strict=True):
        assert_close(pooled, F.adaptive_avg_pool2d(stage, (-(-side // 2), 2)))


@torch.no_grad()
def test_a_stage_is_gated_by_its_context_before_the_gate_is_enlarged():
    fusion = perturb(ContextFusion(3, 4, gated=True))
    x, context = seeded(1, 3, 6, 8), 9 * seeded(1, 3, 2, 3)
    gate = (fusion.gate(context) + 3).clamp(0, 6) / 6
    assert (gate == 0).any()
    assert (gate == 1).any()
    lifted = F.interpolate(gate, size=(6, 8), mode="bilinear", align_corners=False)
    assert_close(fusion(x, context), fusion.project(x) * lifted)


@torch.no_grad()
def test_the_path_leads_from_the_coarsest_stage_to_the_finest():
    path = perturb(SpatialReconstruction((2, 3, 4), 5, rectangular_module, gated=True))
    stages = [seeded(1, c, 4 * k, 6 * k) for c, k in ((2, 4), (3, 2), (4, 1))]
    contexts = [seeded(1, c, 2, 3) for c in (2, 3, 4)]
    fused = path.fuse[2](path.reconstruct[2](stages[2]), contexts[2])
    for i in (1, 0):
        lifted = F.interpolate(
            fused, size=stages[i].shape[2:], mode="bilinear", align_corners=False
        )
        fused = path.fuse[i](path.reconstruct[i](stages[i] + path.lateral[i](lifted)), contexts[i])
    assert_close(path(stages, contexts), fused)
    assert fused.shape == (1, 5, 16, 24)


@torch.no_grad()
def test_a_class_embedding_is_a_softmax_weighted_mean_over_positions():
    x, coarse = seeded(1, 2, 3, 2).double(), torch.randn(1, 4, 3, 2, dtype=torch.float64)
    found = ClassEmbedding()(x, coarse)
    positions = [(r, c) for r in range(3) for c in range(2)]
    for k in range(4):
        total = sum(coarse[0, k, r, c].exp() for r, c in positions)
        expected = sum(coarse[0, k, r, c].exp() / total * x[0, :, r, c] for r, c in positions)
        assert_close(found[0, :, k, 0], expected, atol=1e-12, rtol=0)


@torch.no_grad()
def test_the_prototype_gate_is_its_loops():
    gate = perturb(PrototypeGate(3).double())
    x, coarse = seeded(1, 3, 4, 2).double(), torch.randn(1, 5, 4, 2, dtype=torch.float64)
    embedding = ClassEmbedding()(x, coarse)[0, :, :, 0]  # (3, 5)
    scores = torch.stack(
        [gate.pool.weigh.weight[0, :, 0, 0] @ embedding[:, k] for k in range(5)]
    ).exp()
    prototype = sum(scores[k] / scores.sum() * embedding[:, k] for k in range(5))
    hidden = gate.hidden.weight[:, :, 0, 0] @ prototype + gate.hidden.bias
    hidden = (hidden - hidden.mean()) / (hidden.var(unbiased=False) + 1e-5).sqrt()
    hidden = (hidden * gate.norm.weight + gate.norm.bias).clamp(min=0)
    expected = (gate.out.weight[:, :, 0, 0] @ hidden + gate.out.bias).sigmoid()
    assert_close(gate(x, coarse)[0, :, 0, 0], expected, atol=1e-12, rtol=0)


@torch.no_grad()
def test_the_gate_is_one_half_before_training():
    assert torch.equal(
        PrototypeGate(4)(seeded(2, 4, 3, 3), seeded(2, 6, 3, 3)), torch.full((2, 4, 1, 1), 0.5)
    )


@torch.no_grad()
def test_one_classifier_tells_classes_apart_twice(model):
    images, seen = seeded(1, 3, 64, 96), []
    handle = model.classifier.register_forward_hook(
        lambda _, given, out: seen.append((given[0], out))
    )
    logits = model(images).logits
    handle.remove()
    stages = model.backbone(images)[1:]
    x = model.decoder(stages, model.context(stages))
    coarse = model.classifier(model.smooth(x))
    assert len(seen) == 2
    assert_close(seen[0][1], coarse)
    assert_close(logits, model.classifier(model.prototype(x, coarse) * x + x))


@torch.no_grad()
@pytest.mark.parametrize(
    "size", [(33, 65), (64, 64), (97, 131), (100, 100), (520, 390), (65, 512), (1, 1)]
)
def test_any_size_is_the_zero_padded_image_cropped(model, size):
    images = seeded(1, 3, *size)
    padded_size = tuple(-(-side // 32) * 32 for side in size)
    padded = torch.zeros(1, 3, *padded_size)
    padded[:, :, : size[0], : size[1]] = images
    out, whole = model(images), model(padded)
    assert (out.image_size, out.padded_size) == (size, padded_size)
    assert_close(out.logits, whole.logits, atol=1e-5, rtol=0)
    enlarged = F.interpolate(whole.logits, size=padded_size, mode="bilinear", align_corners=False)
    found = to_image(out, size)
    assert found.shape == (1, 5, *size)
    assert_close(found, enlarged[:, :, : size[0], : size[1]], atol=1e-5, rtol=0)


def copied(model):
    return copy.deepcopy(model)


def averaged(model):
    """Copy the tensors as the EMA does, and load them into a network that ran before."""
    fresh = light().eval()
    fresh(torch.zeros(1, 3, 64, 64))
    fresh.load_state_dict(
        {key: value.detach().clone() for key, value in model.state_dict().items()}
    )
    return fresh


def compiled(model):
    torch._dynamo.reset()
    return torch.compile(model, backend="aot_eager")


def there_and_back(model):
    return copy.deepcopy(model).to(torch.float64).to(torch.float32)


@pytest.mark.seconds
@torch.no_grad()
@pytest.mark.filterwarnings("ignore")  # the compiler warns of its own insides
@pytest.mark.parametrize(
    "change", [copied, averaged, there_and_back, pytest.param(compiled, marks=pytest.mark.slow)]
)
def test_weights_loaded_after_a_first_run_are_the_ones_that_act(model, change):
    """The authors' code keeps position biases from when eval() was called."""
    images, worn = seeded(1, 3, 64, 96), light().eval()
    worn(images)
    changed = change(worn)
    changed(images)
    other = perturb(light())
    tables = [module.table for module in other.modules() if isinstance(module, PositionBias)]
    for table in tables:
        table.add_(seeded(*table.shape))
    changed.eval()
    getattr(changed, "_orig_mod", changed).load_state_dict(other.state_dict())
    expected = other(images).logits
    assert_close(changed(images).logits, expected, atol=1e-5, rtol=1e-5)
    assert_close(change(other)(images).logits, expected, atol=1e-5, rtol=1e-5)
    assert not torch.allclose(expected, model(images).logits, atol=1e-4)  # the tables matter


@pytest.mark.seconds
@pytest.mark.parametrize("name", KEY_SETS)
def test_the_authors_key_set_fills_every_tensor(name):
    state, ours = numbered(f"cgrseg_{KEY_SETS[name]}"), network(name, 150)
    unused = load_official(ours, state)
    assert all(key.rpartition(".")[2].startswith("attention_bias") for key in unused)
    found = sorted(float(tensor.flatten()[0]) for tensor in ours.state_dict().values())
    assert found == sorted(
        float(value.flatten()[0]) for key, value in state.items() if key not in unused
    )


@pytest.mark.parametrize(("name", "file"), [("cgrseg-b", "b"), ("cgrseg-b6", "b5")])
def test_a_file_with_another_number_of_modules_is_refused_with_a_sentence(name, file):
    found, own = (6, 5) if file == "b" else (5, 6)
    with torch.device("meta"):
        ours = network(name, 150)
    with pytest.raises(
        WeightsError, match=rf"has {found} modules, that of this model {own}.*cgrseg-b6"
    ):
        load_official(ours, numbered(f"cgrseg_{file}"))


@pytest.mark.parametrize(("change", "message"), [
    (lambda s: s.pop("decode_head.SIM.1.fuse2.conv.weight"),
     r"missing: decoder\.fuse\.1\.gate\.0\.weight"),
    (lambda s: s.update({"decode_head.extra.weight": torch.zeros(1)}),
     r"unexpected: decode_head\.extra\.weight"),
    (lambda s: s.update({"decode_head.meta.0.gamma": torch.zeros(3)}),
     r"reconstruct\.0\.scale\.weight: found \(3,\)"),
])  # fmt: skip
def test_a_key_that_does_not_fit_is_refused(change, message):
    state = numbered("cgrseg_t")
    change(state)
    with pytest.raises(WeightsError, match=message):
        load_official(network("cgrseg-t", 150), state)


@pytest.mark.seconds
@pytest.mark.parametrize("options", [
    {"axial": "mul"}, {"axial": "none"}, {"band": 0}, {"band": 5}, {"local_kernel": 0},
    {"local_kernel": 5},
    {"context": False}, {"reconstruction": False}, {"prototype_head": False}, {"repeats": 1},
    {"context": False, "reconstruction": False, "prototype_head": False},
])  # fmt: skip
def test_every_switch_builds_a_network_that_learns(options):
    ours = perturb(network("cgrseg-lite0", 4, channels=16, **options)).train()
    out = ours(seeded(2, 3, 64, 96))
    assert out.logits.shape == (2, 4, 8, 12)
    out.logits.square().mean().backward()
    assert [
        n for n, p in ours.named_parameters() if not n.startswith("backbone.") and p.grad is None
    ] == []


@pytest.mark.seconds
def test_switches_take_away_what_they_name():
    with torch.device("meta"):
        full = count_parameters(network("cgrseg-t", 150))
        without = {
            key: full - count_parameters(network("cgrseg-t", 150, **{key: False}))
            for key in ("context", "reconstruction", "prototype_head")
        }
        pyramid, modules = rectangular_module(392), [rectangular_module(c) for c in (48, 120, 224)]
        gates = 128 * 392 + 3 * 2 * 128
        assert without["context"] == 5 * count_parameters(pyramid) + gates
        assert without["reconstruction"] == sum(count_parameters(m) for m in modules)
        assert without["prototype_head"] == count_parameters(PrototypeGate(128))


@pytest.mark.seconds
def test_position_biases_can_be_resized_over_both_directions():
    ours = perturb(network("cgrseg-t", position_resize="two-dimensional"))
    official = network("cgrseg-t").eval()
    official.load_state_dict(ours.state_dict())
    assert all(m.how == "two-dimensional" for m in ours.modules() if isinstance(m, PositionBias))
    with torch.no_grad():
        assert not torch.allclose(
            ours(seeded(1, 3, 64, 96)).logits, official(seeded(1, 3, 64, 96)).logits
        )


@pytest.mark.parametrize(("options", "said"), [
    ({"band": 6}, "band"), ({"axial": "sum"}, "axial"), ({"repeat": 6}, "Did you mean 'repeats'"),
    ({"position_resize": "2d"}, "position_resize"),
])  # fmt: skip
def test_a_slip_in_the_switches_is_answered_with_a_sentence(options, said):
    with pytest.raises(ConfigError, match=said):
        network("cgrseg-t", **options)


def test_a_backbone_without_position_tables_refuses_their_switch():
    with pytest.raises(ConfigError, match="no position tables"):
        network("cgrseg-lite0", position_resize="two-dimensional")


def test_it_starts_as_the_authors_start_it():
    torch.manual_seed(0)
    ours = network("cgrseg-lite0", 150)
    assert float(ours.classifier.weight.detach().std()) == pytest.approx(0.01, rel=0.05)
    scales = [p for n, p in ours.named_parameters() if n.endswith("scale.weight")]
    assert len(scales) == 5 + 3
    assert all(torch.equal(p, torch.full_like(p, 1e-6)) for p in scales)


@pytest.mark.parametrize(
    "shape", [(1, 64, 64), (1, 32, 32), (1, 64, 512), (2, 32, 32), (1, 65, 33)]
)
def test_one_small_image_can_be_trained_on(shape):
    """At 64 x 64 the context is one position; the authors' code fails there with a batch of one."""
    ours = network("cgrseg-lite0", 3, channels=16).train()
    out = ours(seeded(shape[0], 3, *shape[1:]))
    assert isinstance(out, SegOutput)
    assert out.padded_size == ((96, 96) if shape[0] == 1 and max(shape[1:]) <= 64 else tuple(
        -(-side // 32) * 32 for side in shape[1:]))  # fmt: skip
    logits = to_image(out, shape[1:])
    assert logits.shape == (shape[0], 3, *shape[1:])
    logits.mean().backward()


@pytest.mark.seconds
def test_dropout_acts_on_both_answers_in_training_only():
    ours, kept = network("cgrseg-lite0", 3, channels=16), []
    ours.drop.register_forward_hook(lambda _, given, out: kept.append(torch.equal(given[0], out)))
    torch.manual_seed(0)
    ours.train()(seeded(4, 3, 64, 64))
    ours.eval()(seeded(4, 3, 64, 64))
    assert kept == [False, False, True, True]


@pytest.mark.seconds
@torch.no_grad()
def test_half_precision_moves_the_logits_little():
    ours = perturb(network("cgrseg-lite0", 3, channels=16))
    images = seeded(1, 3, 64, 96)
    full = ours(images).logits
    with torch.autocast("cpu", dtype=torch.bfloat16):
        half = ours(images).logits
    assert float((half.float() - full).abs().max() / (full.max() - full.min())) < 0.1
