"""Against loops over the definition, and figures measured on a prototype."""

from pathlib import Path

import pytest
import torch
import torch.nn.functional as F
from support.models.seeded import seeded
from torch import nn
from torch.export import Dim, export
from torch.fx import GraphModule
from torch.testing import assert_close

from featherseg.core.config import parse
from featherseg.core.errors import ConfigError
from featherseg.core.types import SegOutput
from featherseg.costs.cost import by_convention, count_layers, count_parameters
from featherseg.exporters.parity import perturb
from featherseg.layers.instance_branch import InstanceBranch
from featherseg.layers.resize import to_image
from featherseg.models import build
from featherseg.models.rsp import (
    RSP,
    VARIANTS,
    LearnedPrior,
    PixelToRegion,
    Propagation,
    RSPConfig,
    TopDownHead,
    distances,
)

PARTS = {  # (backbone, width): parameters of backbone, neck, head with 19 classes
    ("efficientnet-lite0", 64): (2_958_848, 118_698, 72_395),
    ("efficientnet-lite0", 128): (2_958_848, 384_810, 274_763),
    ("efficientnet-b3", 64): (10_103_336, 125_354, 72_395),
    ("efficientnet-b3", 128): (10_103_336, 398_122, 274_763),
    ("resnet-50", 64): (23_508_032, 332_714, 72_395),
}
MACS = {  # the same networks: macs of 1024x2048
    ("efficientnet-lite0", 64): 22_720_182_016,
    ("efficientnet-lite0", 128): 42_052_908_800,
    ("efficientnet-b3", 64): 46_507_382_592,
    ("efficientnet-b3", 128): 65_944_966_976,
    ("resnet-50", 64): 181_979_543_296,
}
MACS_512 = {("efficientnet-lite0", 64): 2_840_106_752, ("efficientnet-lite0", 128): 5_256_697_600}

ROUNDED = [  # backbone, width, options: M parameters, GMACs of 1024x2048, of 512x512
    ("efficientnet-lite0", 64, {"aggregation": "sum"}, "3.10", "20.2", "2.52"),
    ("efficientnet-lite0", 64, {"aggregation": "concat"}, "3.11", "21.0", "2.62"),
    ("efficientnet-lite0", 128, {"aggregation": "sum"}, "3.42", "32.9", "4.12"),
    ("efficientnet-lite0", 128, {"aggregation": "concat"}, "3.47", "35.9", "4.49"),
    *(
        pytest.param(*row, marks=pytest.mark.slow)
        for row in [
            ("efficientnet-lite0", 128, {"window": 3}, "3.62", "41.5", "5.19"),
            ("efficientnet-lite0", 128, {"window": 7}, "3.62", "42.8", "5.36"),
            ("efficientnet-lite0", 128, {"window": 9}, "3.62", "43.9", "5.49"),
            ("efficientnet-lite2", 64, {}, "4.55", "30.7", "3.83"),
            ("efficientnet-lite2", 128, {}, "5.02", "50.0", "6.25"),
            ("efficientnet-b0", 64, {}, "3.79", "22.7", "2.84"),
            ("efficientnet-b0", 128, {}, "4.25", "42.1", "5.26"),
            ("efficientnet-b3", 64, {}, "10.30", "46.5", "5.82"),
            ("efficientnet-b3", 128, {}, "10.78", "65.9", "8.24"),
            ("efficientnet-b5", 64, {}, "27.50", "103.8", "12.98"),
            ("efficientnet-b5", 128, {}, "27.99", "123.4", "15.43"),
            ("resnet-50", 256, {"neck": "bifpn"}, "26.80", "286.4", "35.79"),
            ("resnet-50", 256, {"neck": "fpn"}, "27.93", "345.3", "43.16"),
        ]
    ),
]


def network(name="rsp-lite0", classes=5, **options):
    return RSP(parse(RSPConfig, {**VARIANTS[name].config.model_dump(), **options}, name), classes)


def on_meta(backbone, width, **options):
    with torch.device("meta"):
        return network(classes=19, backbone=backbone, channels=width, **options).eval()


def macs(model, height, width):
    layers, _ = count_layers(model, torch.empty(1, 3, height, width, device="meta"))
    return by_convention(layers)["macs"]


@pytest.fixture(scope="module")
def model():
    """Small, and no weight at its initial value."""
    return perturb(network(channels=16, repeats=1))


def with_slow(keys):
    """Cases of the keys; those of ResNet-50 are slow."""
    return [pytest.param(*k, marks=pytest.mark.slow if "resnet-50" in k else ()) for k in keys]


@pytest.mark.parametrize(("backbone", "width"), with_slow(PARTS))
def test_each_part_weighs_what_the_prototype_weighed(backbone, width):
    model = on_meta(backbone, width)
    parts = tuple(count_parameters(part) for part in (model.backbone, model.neck, model.head))
    assert parts == PARTS[backbone, width]
    assert count_parameters(model) == sum(parts)


@pytest.mark.parametrize(("backbone", "width"), with_slow(MACS))
def test_it_costs_what_the_prototype_cost(backbone, width):
    model = on_meta(backbone, width)
    assert macs(model, 1024, 2048) == MACS[backbone, width]
    if (backbone, width) in MACS_512:
        assert macs(model, 512, 512) == MACS_512[backbone, width]


@pytest.mark.parametrize(("backbone", "width", "options", "params", "large", "small"), ROUNDED)
def test_baselines_and_other_windows_cost_what_the_table_says(
    backbone, width, options, params, large, small
):
    model = on_meta(backbone, width, **options)
    found = (
        f"{count_parameters(model) / 1e6:.2f}",
        f"{macs(model, 1024, 2048) / 1e9:.1f}",
        f"{macs(model, 512, 512) / 1e9:.2f}",
    )
    assert found == (params, large, small)


SEMANTIC = {name: row for name, row in VARIANTS.items() if not row.panoptic}


def test_the_page_about_the_paper_prints_these_counts():
    page = (Path(__file__).parents[2] / "docs" / "papers" / "rsp.md").read_text()
    lines = {
        name: next(x for x in page.splitlines() if x.startswith(f"| `{name}` | "))
        for name in SEMANTIC
    }
    for name, row in SEMANTIC.items():
        key = row.backbone, row.config.channels
        counts = [*PARTS.get(key, ()), sum(PARTS.get(key, ())), MACS.get(key), MACS_512.get(key)]
        assert all(f" {count:,} " in lines[name] for count in counts if count)


@pytest.mark.parametrize("name", [name for name, row in VARIANTS.items() if row.panoptic])
def test_the_instance_branch_costs_the_same_on_every_backbone(name):
    with_branch, semantic = VARIANTS[name], VARIANTS[name.removesuffix("-panoptic")]
    assert with_branch.config == semantic.config
    assert with_branch.params - semantic.params == 58_979
    assert with_branch.macs - semantic.macs == 910_426_112


@torch.no_grad()
@pytest.mark.slow
@pytest.mark.parametrize("name", ["rsp-r50-panoptic", "rsp-b3-panoptic"])
def test_a_larger_panoptic_model_does_with_its_pyramid_what_the_small_one_does(name):
    ours, small = (perturb(build(n, classes=5)) for n in (name, "rsp-lite0-panoptic"))
    images = seeded(1, 3, 70, 131)
    out, expected = ours(images), small(images)
    shapes = [(1, 5, 24, 40), (1, 1, 24, 40), (1, 2, 24, 40)]  # of 96 x 160
    for segmentation in (out, expected):
        maps = (segmentation.logits, segmentation.centers, segmentation.offsets)
        assert [tuple(x.shape) for x in maps] == shapes
    for part in ("head", "instance_branch"):
        getattr(ours, part).load_state_dict(getattr(small, part).state_dict())
    pyramid = small.encode(seeded(1, 3, 64, 96))
    assert_close(ours.decode(pyramid), small.decode(pyramid))
    assert_close(ours.instance_branch(pyramid), small.instance_branch(pyramid))


def test_an_instance_branch_adds_what_it_added_to_the_prototype():
    model = on_meta("efficientnet-lite0", 128)
    with torch.device("meta"):
        model.instance_branch = InstanceBranch(model.pyramid_channels).eval()
    assert count_parameters(model) == 3_693_784
    assert macs(model, 1024, 2048) == 46_407_644_928


def test_the_rows_are_these():
    rows = {
        name: (row.backbone.split("-")[-1], row.config.channels) for name, row in SEMANTIC.items()
    }
    assert rows == {
        "rsp-lite0": ("lite0", 64),
        "rsp-lite0-w128": ("lite0", 128),
        "rsp-lite2": ("lite2", 64),
        "rsp-b3": ("b3", 64),
        "rsp-b5": ("b5", 64),
        "rsp-r50": ("50", 64),
    }


def prior_at(block, way, pixel, head):
    """The prior for a pixel (its place in its cell) at a distance (dy, dx) from a cell."""
    k = block.window
    if isinstance(block.prior, LearnedPrior):
        (dy, dx), (y, x) = way, pixel
        row, column = dy + 0.5 * y - 0.25 + k // 2, dx + 0.5 * x - 0.25 + k // 2
        return block.prior.table[2 * y + x, round(row) * k + round(column), head]
    return block.prior(torch.tensor(way, dtype=torch.float64) / (k / 2))[head]


def by_loop(block, low, high):
    """RSE by pixel, cell and head; places are centres, in units of a coarse cell."""
    query, key, value = (
        torch.einsum("oc,chw->ohw", conv.weight[:, :, 0, 0], x[0])
        for conv, x in ((block.query, low), (block.key, high), (block.value, high))
    )
    k, n, (height, width) = block.window, block.heads, high.shape[2:]
    d, d_v = len(key) // n, len(value) // n
    context = torch.zeros(len(value), 2 * height, 2 * width, dtype=low.dtype)
    for y in range(2 * height):
        for x in range(2 * width):
            cells = [
                (y // 2 + i, x // 2 + j)
                for i in range(-(k // 2), k // 2 + 1)
                for j in range(-(k // 2), k // 2 + 1)
                if 0 <= y // 2 + i < height and 0 <= x // 2 + j < width
            ]
            for head in range(n):
                q, logits = query[head * d : (head + 1) * d, y, x], []
                for row, column in cells:
                    c = key[head * d : (head + 1) * d, row, column]
                    fit = q @ c if block.composability == "dot" else -((q - c) ** 2).sum()
                    logit = fit / d**0.5
                    if block.prior is not None:
                        way = [row + 0.5 - (y + 0.5) / 2, column + 0.5 - (x + 0.5) / 2]
                        logit = logit + prior_at(block, way, (y % 2, x % 2), head)
                    logits.append(logit)
                weights = torch.stack(logits).softmax(0)
                values = torch.stack([value[head * d_v : (head + 1) * d_v, r, c] for r, c in cells])
                context[head * d_v : (head + 1) * d_v, y, x] = weights @ values
    return torch.einsum("oc,chw->ohw", block.out.weight[:, :, 0, 0], context)[None]


@torch.no_grad()
@pytest.mark.parametrize("window", [3, 5])
@pytest.mark.parametrize("prior", [True, "learned", False])
@pytest.mark.parametrize("composability", ["dot", "difference"])
def test_the_relation_is_the_loop_over_pixels(window, prior, composability):
    block = perturb(
        PixelToRegion(8, window=window, heads=2, prior=prior, composability=composability)
    ).double()
    for height, width in (4, 6), (3, 5), (1, 2):  # whole blocks and others
        low = seeded(1, 8, 2 * height, 2 * width, dtype=torch.float64)
        high = seeded(1, 8, height, width, dtype=torch.float64).flip(1)
        expected = by_loop(block, low, high)
        assert_close(block(low, high), expected, atol=1e-9, rtol=0)
        block.gather = block.gather_unfolded
        assert_close(block(low, high), expected, atol=1e-9, rtol=0)
        del block.gather


@pytest.mark.slow
@pytest.mark.parametrize("few_dimensions", [False, True])
@pytest.mark.parametrize("sizes", [{0: Dim.DYNAMIC, 2: Dim.DYNAMIC, 3: Dim.DYNAMIC}, None])
def test_a_graph_has_blocks_and_one_of_few_dimensions_windows(sizes, few_dimensions):
    class Gathering(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.relation = PixelToRegion(8, window=3, heads=2)
            self.relation.few_dimensions = few_dimensions

        def forward(self, high):
            return self.relation(F.interpolate(high, scale_factor=2.0), high)

    program = export(
        Gathering().eval(), (torch.zeros(2, 8, 5, 7),), dynamic_shapes=sizes and {"high": sizes}
    )
    parts = [part for part in program.graph_module.modules() if isinstance(part, GraphModule)]
    operations = [str(node.target) for part in parts for node in part.graph.nodes]
    assert sum("im2col" in name for name in operations) == (3 if few_dimensions else 0)
    assert ("aten.matmul.default" in operations) != few_dimensions


@torch.no_grad()
def test_a_window_wider_than_the_map_sees_all_of_it():
    block = perturb(PixelToRegion(4, window=9, heads=1)).double()
    low, high = seeded(1, 4, 4, 6, dtype=torch.float64), seeded(1, 4, 2, 3, dtype=torch.float64)
    assert_close(block(low, high), by_loop(block, low, high), atol=1e-9, rtol=0)


def test_the_four_pixels_of_a_cell_have_four_priors():
    way = distances(3, torch.zeros(1))
    assert way.shape == (4, 9, 2)
    assert_close(
        way[:, 4] * 1.5, torch.tensor([[0.25, 0.25], [0.25, -0.25], [-0.25, 0.25], [-0.25, -0.25]])
    )
    assert_close(
        way[0, 0] * 1.5, torch.tensor([-0.75, -0.75])
    )  # from the upper left pixel to the upper left cell
    assert_close(
        way[3, 5] * 1.5, torch.tensor([-0.25, 0.75])
    )  # from the lower right pixel to the cell on the right
    assert len({tuple(child.flatten().tolist()) for child in way}) == 4


@torch.no_grad()
def test_alike_pixels_of_a_cell_gather_differently_by_their_place_alone():
    high = seeded(1, 4, 3, 3)
    low = seeded(1, 4, 1, 1).expand(1, 4, 6, 6)
    with_prior, without = (
        perturb(PixelToRegion(4, window=3, heads=1, prior=prior)) for prior in (True, False)
    )
    cell = with_prior(low, high)[0, :, 2:4, 2:4].flatten(1)
    assert all((cell[:, i] - cell[:, j]).abs().max() > 1e-4 for i in range(4) for j in range(i))
    cell = without(low, high)[0, :, 2:4, 2:4].flatten(1)
    assert_close(cell, cell[:, :1].expand(4, 4))


@torch.no_grad()
@pytest.mark.parametrize("window", [1, 3, 5])
def test_what_lies_outside_the_window_changes_nothing(window):
    block, reach = perturb(PixelToRegion(4, window=window, heads=2)), window // 2
    low, high = seeded(1, 4, 16, 20), seeded(1, 4, 8, 10)
    changed = high.clone()
    changed[:, :, 4, 3] += 10
    moved = (block(low, changed) - block(low, high)).abs().amax((0, 1)) > 0  # (16, 20)
    near = torch.zeros(8, 10, dtype=torch.bool)
    near[4 - reach : 5 + reach, 3 - reach : 4 + reach] = True
    assert torch.equal(moved, near.repeat_interleave(2, 0).repeat_interleave(2, 1))


@torch.no_grad()
@pytest.mark.parametrize("composability", ["dot", "difference"])
def test_a_constant_coarse_map_gives_a_constant_context_up_to_the_borders(composability):
    block = perturb(PixelToRegion(4, window=5, heads=2, composability=composability)).double()
    value = seeded(4, dtype=torch.float64)
    context = block(
        seeded(1, 4, 8, 12, dtype=torch.float64), value[:, None, None].expand(1, 4, 4, 6)
    )
    expected = block.out.weight[:, :, 0, 0] @ block.value.weight[:, :, 0, 0] @ value
    assert_close(context, expected[:, None, None].expand(1, 4, 8, 12), atol=1e-12, rtol=0)


@torch.no_grad()
def test_a_window_of_one_cell_is_a_convolution_of_the_enlarged_value():
    block = perturb(PixelToRegion(4, window=1, heads=2, prior=False)).double()
    high = seeded(1, 4, 4, 6, dtype=torch.float64)
    enlarged = block.value(high).repeat_interleave(2, 2).repeat_interleave(2, 3)
    assert_close(
        block(seeded(1, 4, 8, 12, dtype=torch.float64), high),
        block.out(enlarged),
        atol=1e-12,
        rtol=0,
    )


@torch.no_grad()
def test_each_way_to_bring_the_coarse_map_down():
    low, high = seeded(1, 4, 8, 12), seeded(1, 4, 4, 6)
    lifted = F.interpolate(high, scale_factor=2, mode="bilinear", align_corners=False)
    ours = perturb(Propagation(4, PixelToRegion(4, heads=2)))
    assert_close(ours(low, high), low + ours.fuse(torch.cat([low, ours.relation(low, high)], 1)))
    concat, total = perturb(Propagation(4, None)), perturb(Propagation(4, None, add=True))
    assert_close(concat(low, high), low + concat.fuse(torch.cat([low, lifted], 1)))
    assert_close(total(low, high), low + total.fuse(low + lifted))


@torch.no_grad()
def test_the_head_hands_down_from_coarse_to_fine():
    head = perturb(TopDownHead(4, 3, lambda: Propagation(4, PixelToRegion(4, heads=1))))
    p2, p3, p4, p5 = pyramid = [seeded(1, 4, 32 >> i, 48 >> i) for i in range(4)]
    to_2, to_3, to_4 = head.propagate
    h2 = to_2(p2, to_3(p3, to_4(p4, p5)))
    out = head(pyramid)
    assert_close(out.features, head.smooth(h2))
    assert_close(out.logits, head.classifier(head.smooth(h2)))


@torch.no_grad()
def test_the_pyramid_is_that_behind_the_neck(model):
    images = seeded(1, 3, 64, 96)
    pyramid = model.encode(images)
    assert [tuple(level.shape) for level in pyramid] == [
        (1, 16, 16 >> i, 24 >> i) for i in range(4)
    ]
    assert tuple(model.pyramid_channels) == (16,) * 4
    assert_close(model(images).logits, model.head(pyramid).logits)


@torch.no_grad()
@pytest.mark.parametrize("size", [(33, 65), (64, 64), (97, 131), (1, 1)])
def test_any_size_is_the_zero_padded_image_cropped(model, size):
    images = seeded(1, 3, *size)
    padded_size = tuple(-(-side // 32) * 32 for side in size)
    padded = torch.zeros(1, 3, *padded_size)
    padded[:, :, : size[0], : size[1]] = images
    out, whole = model(images), model(padded)
    assert (out.image_size, out.padded_size) == (size, padded_size)
    assert out.logits.shape == (1, 5, padded_size[0] // 4, padded_size[1] // 4)
    assert_close(out.logits, whole.logits, atol=1e-5, rtol=0)
    enlarged = F.interpolate(whole.logits, size=padded_size, mode="bilinear", align_corners=False)
    assert_close(to_image(out, size), enlarged[:, :, : size[0], : size[1]], atol=1e-5, rtol=0)


@pytest.mark.parametrize("options", [
    {}, {"aggregation": "sum"}, {"aggregation": "concat"}, {"neck": "fpn"}, {"repeats": 2},
    {"window": 1}, {"window": 9}, {"heads": 1}, {"prior": False}, {"prior": "learned"},
    {"composability": "difference"},
])  # fmt: skip
def test_every_switch_builds_a_network_of_which_every_part_learns(options):
    ours = perturb(network(classes=4, **{"channels": 16, "repeats": 1, **options})).train()
    out = ours(seeded(2, 3, 64, 96))
    assert out.logits.shape == (2, 4, 16, 24)
    out.logits.square().mean().backward()
    still = [n for n, p in ours.named_parameters() if p.grad is None or not p.grad.abs().sum() > 0]
    one_cell = options.get("window") == 1  # a softmax over one cell is 1 whatever is asked
    without_effect = (
        (".query.", ".key.", ".prior.") if one_cell else (".prior.2.bias",)
    )  # that shifts all logits alike
    assert [name for name in still if not any(part in name for part in without_effect)] == []


@pytest.mark.parametrize(("options", "said"), [
    ({"window": 4}, "window"), ({"prior": "learnt"}, "prior"),
    ({"aggregation": "add"}, "aggregation"),
    ({"head": 4}, "Did you mean 'heads'"), ({"neck": "pan"}, "neck"),
    ({"channels": 24}, "channels = 24, heads = 8: expected a multiple of 16 channels"),
])  # fmt: skip
def test_a_slip_in_the_switches_is_answered_with_a_sentence(options, said):
    with pytest.raises(ConfigError, match=said):
        network(**options)


def test_the_baselines_have_no_heads_to_share_their_channels_among():
    network(channels=24, repeats=1, aggregation="sum")


@pytest.mark.parametrize("shape", [(1, 32, 32), (1, 20, 7), (1, 32, 64), (2, 32, 32)])
def test_one_small_image_can_be_trained_on(shape):
    """At 32 x 32 the coarsest level is one position, of which a batch norm has no variance."""
    ours = network(classes=3, channels=16, repeats=1).train()
    out = ours(seeded(shape[0], 3, *shape[1:]))
    assert isinstance(out, SegOutput)
    assert out.padded_size == ((64, 64) if shape[0] == 1 and max(shape[1:]) <= 32 else shape[1:])
    to_image(out, shape[1:]).mean().backward()


@torch.no_grad()
def test_half_precision_moves_the_logits_little(model):
    images = seeded(1, 3, 64, 96)
    full = model(images).logits
    with torch.autocast("cpu", dtype=torch.bfloat16):
        half = model(images).logits
    assert float((half.float() - full).abs().max() / (full.max() - full.min())) < 0.1


@pytest.mark.parametrize("prior", [True, "learned", False])
@pytest.mark.parametrize("composability", ["dot", "difference"])
def test_training_on_a_cpu_gathers_the_same_and_learns_the_same(composability, prior):
    torch.manual_seed(0)
    block = perturb(PixelToRegion(16, window=3, heads=2, composability=composability, prior=prior))
    inputs = [
        torch.randn(2, c, h, w, requires_grad=True)
        for c, h, w in ((8, 10, 14), (8, 5, 7), (16, 5, 7))
    ]
    learnt = [*inputs, *(block.prior.parameters() if prior else [])]
    pull = torch.randn(2, 16, 10, 14)
    (ours, found), (theirs, expected) = (
        (context, torch.autograd.grad(context, learnt, pull))
        for context in (block.train(mode).gather(*inputs) for mode in (True, False))
    )
    assert_close(ours, theirs, atol=1e-5, rtol=1e-5)
    for a, b in zip(found, expected, strict=True):
        assert_close(a, b, atol=1e-5 * max(1.0, float(b.abs().max())), rtol=1e-4)
