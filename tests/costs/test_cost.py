"""Counts against the tools that define the conventions: ptflops 0.6.9, torch's FlopCounterMode."""

from pathlib import Path

import pytest
import torch
from ptflops import get_model_complexity_info
from support.models.own_objects import TwoStrides, WithPlaces
from support.models.quick_exports import EVERY_MODEL, ONE_OF_EACH
from support.models.shallow import once_each, shallow
from torch import Tensor, nn
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.utils.flop_counter import FlopCounterMode

from featherseg import backbones, models
from featherseg.backbones import BACKBONES
from featherseg.backbones.efficientformer_v2 import Attention, AttentionDownsample
from featherseg.backbones.mit import EfficientAttention
from featherseg.core.errors import UnknownName
from featherseg.costs.cost import (
    CONVENTIONS,
    RULES,
    by_convention,
    cost,
    cost_of,
    count_layers,
    count_parameters,
)
from featherseg.layers.align import AlignedPyramid
from featherseg.layers.attention import DisentangledNonLocal
from featherseg.layers.conv import ConvNormAct
from featherseg.layers.model import merge_paths
from featherseg.layers.own_model import OwnModel
from featherseg.layers.pooling import RegionMax, RegionMean, StridedRegionMean
from featherseg.layers.position_bias import PositionBias
from featherseg.layers.pyramid import WeightedFusion
from featherseg.layers.scale import LayerScale
from featherseg.layers.stochastic_depth import StochasticDepth
from featherseg.models import MODELS
from featherseg.models.cgrseg import ClassEmbedding, ClassPooling
from featherseg.models.efficientvit import LinearAttention
from featherseg.models.frm import VARIANTS, build_context
from featherseg.models.rsp import PixelToRegion
from featherseg.models.rtformer import CrossResolutionAttention
from featherseg.models.sctnet import ConvolutionalAttention
from featherseg.models.seaformer import AxisAttention, AxisPosition
from featherseg.models.segnext import MatrixFactorisation

CASES = [pytest.param((128, 192), 2, marks=pytest.mark.slow), ((97, 131), 19)]
"""(size, classes)"""

KNOWN_DIFFERENCES: dict[tuple[str, str], str] = {}
"""(model, convention) -> why our figure is not the tool's. None today."""

PAGE = (Path(__file__).parents[2] / "docs" / "papers" / "frm.md").read_text()

VAN_S = [64, 128, 320, 512]  # stage widths of VAN-S, the FRM paper's backbone

PAPER_COUNTS = {
    ("frm-van-s", (1024, 2048)): (16_477_525, 214_818_357_760, 214_728_704_000),
    ("frm-van-s", (720, 1280)): (16_477_525, 94_556_983_260, 94_186_265_600),
    ("frm-van-s-ppm", (1024, 2048)): (15_229_395, 213_214_179_840, 211_779_059_712),
    ("frm-van-s-ppm", (720, 1280)): (15_229_395, 93_853_093_120, 93_221_826_560),
    ("frm-van-s-dappm", (1024, 2048)): (15_979_987, 214_826_716_160, 213_370_667_008),
    ("frm-van-s-dappm", (720, 1280)): (15_979_987, 94_575_692_544, 93_934_989_312),
}
"""The FRM paper's models with 19 classes: (model, size) -> parameters, ptflops-0.6, macs.

Measured by ptflops 0.6.9 on models assembled from published code before these were written. The
paper prints 16.48 / 214.82 and 94.55, 15.23 / 213.21, 15.98 / 214.81.
"""


def ptflops_count(module: nn.Module, input_size: tuple[int, ...]) -> int:
    """What ptflops 0.6.9 says for one input of that size, without the batch."""
    count, _ = get_model_complexity_info(
        module, input_size, as_strings=False, print_per_layer_stat=False
    )
    return int(count)


def torch_macs(module: nn.Module, images: Tensor) -> float:
    """Return half of torch's FlopCounterMode, which counts a multiply-accumulate as two.

    It does not know the fused attention of CPUs (torch 2.13); attention is two products here.
    """
    with FlopCounterMode(display=False) as counter, torch.no_grad(), sdpa_kernel(SDPBackend.MATH):
        module(images)
    return counter.get_total_flops() / 2


def as_tools_see_it(module: nn.Module) -> nn.Module:
    """Replace our pools, whose matrix products no tool counts as pools, by torch's own.

    ceil_mode gives the strided pool the same number of regions; their bounds do not matter to the
    tools. RSP's relation follows its definition: blocks also multiply what is outside of windows.
    """
    if isinstance(module, PixelToRegion):
        module.gather = module.gather_unfolded
    for name, child in module.named_children():
        if isinstance(child, RegionMean):
            setattr(module, name, nn.AdaptiveAvgPool2d(child.size))
        elif isinstance(child, RegionMax):
            setattr(module, name, nn.AdaptiveMaxPool2d(child.k))
        elif isinstance(child, StridedRegionMean):
            setattr(module, name, nn.AvgPool2d(child.stride, ceil_mode=True))
        else:
            as_tools_see_it(child)
    return module


class TwoMaps(nn.Module):
    """A layer that takes a map twice, or the sizes of two, as one that takes a map."""

    def __init__(self, layer: nn.Module) -> None:
        super().__init__()
        self.layer = layer

    def forward(self, x: Tensor) -> Tensor:
        if isinstance(self.layer, PositionBias):
            return self.layer((2, 3), (4, 6))
        return self.layer(x, x[:, :, ::2, ::2] if isinstance(self.layer, PixelToRegion) else x)


class ThreeMaps(nn.Module):
    """A layer that takes queries, keys and values of twice the width, as one that takes a map."""

    def __init__(self, layer: nn.Module) -> None:
        super().__init__()
        self.layer = layer

    def forward(self, x: Tensor) -> Tensor:
        return self.layer(x, x, torch.cat([x, x], dim=1))


def meta_counts(module: nn.Module, images: Tensor | list[Tensor]) -> dict[str, int]:
    return by_convention(count_layers(module, images)[0])


def test_no_architecture_is_left_out_of_quick_tests():
    assert {MODELS[name].model for name in ONE_OF_EACH} == {
        entry.model for entry in MODELS.values()
    }


@pytest.mark.slow
@pytest.mark.parametrize("name", EVERY_MODEL)
@pytest.mark.parametrize(("size", "classes"), CASES)
def test_models_cost_what_ptflops_and_torch_count(name, size, classes):
    model = shallow(name, classes).eval()
    counted = cost_of(model, name, size).macs
    merge_paths(model)
    model = as_tools_see_it(model)
    if (name, "ptflops-0.6") not in KNOWN_DIFFERENCES:
        assert counted["ptflops-0.6"] == ptflops_count(model, (3, *size))
    if (name, "macs") not in KNOWN_DIFFERENCES:
        assert counted["macs"] == torch_macs(model, torch.zeros(1, 3, *size))


@pytest.mark.parametrize(("name", "size"), PAPER_COUNTS)
def test_the_paper_s_models_cost_exactly_what_was_found_for_them(name, size):
    params, ptflops, macs = PAPER_COUNTS[name, size]
    result = cost(name, size, 19)
    assert (result.params, result.macs["ptflops-0.6"], result.macs["macs"]) == (
        params,
        ptflops,
        macs,
    )
    assert ptflops_count(as_tools_see_it(on_meta(name, 19)), (3, *size)) == ptflops


def test_the_page_about_the_paper_prints_these_counts():
    for (name, _), counts in PAPER_COUNTS.items():
        assert all(
            any(f"`{name}`" in line and f" {n:,} " in line for line in PAGE.splitlines())
            for n in counts
        )


@pytest.mark.seconds
def test_dappm_costs_what_its_paper_prints_where_its_norms_are_not_counted():
    """ptflops 0.6 skips SyncBatchNorm, which DDRNet's code uses: 214.81 in the paper's Table 2."""
    layers, _ = count_layers(
        on_meta("frm-van-s-dappm", 19), torch.empty(1, 3, 1024, 2048, device="meta")
    )
    norms = [
        f"context.{name}"
        for name, layer in on_meta("frm-van-s-dappm", 19).context.named_modules()
        if isinstance(layer, nn.BatchNorm2d)
    ]
    assert (
        by_convention(layers)["ptflops-0.6"] - sum(layers[name].ptflops for name in norms)
        == 214_812_230_656
    )


def on_meta(name: str, classes: int) -> nn.Module:
    with torch.device("meta"):
        return models.build(name, classes=classes).eval()


QUICK = (
    "efficientformerv2-s0",
    "efficientnet-b0",
    "efficientnet-lite0",
    "mit-b0",
    "resnet-18",
    "resnet-50",
    "van-b0",
)
"""One backbone of every kind of block."""


@pytest.mark.seconds
@pytest.mark.parametrize(
    "name", [pytest.param(n, marks=[] if n in QUICK else pytest.mark.slow) for n in BACKBONES]
)
def test_backbones_cost_what_ptflops_and_torch_count(name):
    size = (97, 131)
    with torch.device("meta"):
        backbone = once_each(backbones.build(name)).eval()
    images = torch.empty(1, 3, *size, device="meta")
    counted = meta_counts(backbone, images)
    assert counted["ptflops-0.6"] == ptflops_count(backbone, (3, *size))
    assert counted["macs"] == torch_macs(backbone, images)


@pytest.mark.parametrize("name", EVERY_MODEL)
def test_parts_add_up_to_the_totals(name):
    with torch.device("meta"):
        model = models.build(name, 19)
        merge_paths(model)
    result = cost(name, (512, 1024), 19)  # counted for test_catalogue.py as well
    assert sum(part.params for part in result.parts.values()) == result.params
    assert sum(part.macs for part in result.parts.values()) == result.macs["macs"]
    assert result.params == count_parameters(model) - count_parameters(model.aux_heads)


LAYERS = {
    nn.Conv2d: (nn.Conv2d(6, 4, (3, 5), stride=2, padding=1, groups=2), (6, 11, 13)),
    nn.Linear: (nn.Linear(6, 4), (5, 6)),
    nn.BatchNorm2d: (nn.BatchNorm2d(6), (6, 5, 7)),
    nn.GroupNorm: (nn.GroupNorm(2, 6), (6, 5, 7)),
    nn.LayerNorm: (nn.LayerNorm(6), (5, 6)),
    LayerScale: (LayerScale(6, 0.1), (6, 5, 7)),
    nn.ReLU: (nn.ReLU(), (6, 5, 7)),
    nn.ReLU6: (nn.ReLU6(), (6, 5, 7)),
    nn.GELU: (nn.GELU(), (6, 5, 7)),
    nn.SiLU: (nn.SiLU(), (6, 5, 7)),
    nn.Hardswish: (nn.Hardswish(), (6, 5, 7)),
    nn.MaxPool2d: (nn.MaxPool2d(2), (6, 5, 7)),
    nn.AvgPool2d: (nn.AvgPool2d(3, 2, 1), (6, 5, 7)),
    RegionMean: (RegionMean(3), (6, 5, 7)),
    RegionMax: (RegionMax(3), (6, 5, 7)),
    StridedRegionMean: (StridedRegionMean(4), (6, 5, 7)),
    DisentangledNonLocal: (DisentangledNonLocal(8, key_channels=2), (8, 5, 7)),
    Attention: (Attention(6, stride=2), (6, 5, 7)),
    AttentionDownsample: (AttentionDownsample(6, 8), (6, 5, 7)),
    EfficientAttention: (EfficientAttention(8, heads=2, reduction=2), (5, 7, 8)),
    CrossResolutionAttention: (TwoMaps(CrossResolutionAttention(6, 6)), (6, 16, 24)),
    ConvolutionalAttention: (ConvolutionalAttention(6), (6, 8, 9)),
    PositionBias: (TwoMaps(PositionBias(8, 4, stride=2)), (6, 4, 6)),
    ClassEmbedding: (TwoMaps(ClassEmbedding()), (6, 5, 7)),
    ClassPooling: (ClassPooling(6), (6, 5, 1)),
    PixelToRegion: (TwoMaps(PixelToRegion(16, window=3, heads=2)), (16, 6, 10)),
    LinearAttention: (LinearAttention(8, 4), (8, 5, 7)),
    AxisAttention: (ThreeMaps(AxisAttention(2, 4)), (8, 7)),
    AxisPosition: (AxisPosition(6), (6, 7)),
    MatrixFactorisation: (MatrixFactorisation(6, 2), (6, 5, 7)),
    WeightedFusion: (TwoMaps(WeightedFusion(6, 2)), (6, 5, 7)),
    StochasticDepth: (StochasticDepth(0.1), (6, 5, 7)),
    nn.Identity: (nn.Identity(), (6, 5, 7)),
    nn.Dropout: (nn.Dropout(), (6, 5, 7)),
    nn.Dropout2d: (nn.Dropout2d(), (6, 5, 7)),
}
"""An example of every layer type that has a rule, and the size of its input without the batch."""


@pytest.mark.parametrize("kind", LAYERS, ids=lambda kind: kind.__name__)
def test_every_rule_agrees_with_both_tools(kind):
    assert kind in RULES or hasattr(kind, "macs")
    layer, size = LAYERS[kind]
    layer = nn.Sequential(layer).to("meta").eval()
    images = torch.empty(1, *size, device="meta")
    counted = meta_counts(layer, images)
    tools_see = as_tools_see_it(layer)
    assert counted["ptflops-0.6"] == ptflops_count(tools_see, size)
    assert counted["macs"] == torch_macs(tools_see, images)


@pytest.mark.parametrize("pool", [1, 2])
def test_the_attention_s_pool_decides_how_many_positions_are_compared(pool):
    block = DisentangledNonLocal(8, key_channels=2, kv_pool=pool).to("meta").eval()
    images = torch.empty(1, 8, 6, 10, device="meta")
    assert meta_counts(block, images)["macs"] == torch_macs(block, images)


@pytest.mark.parametrize("window", [1, 3, 5, 9])
@pytest.mark.parametrize("composability", ["dot", "difference"])
def test_a_relation_counts_its_window_however_it_is_computed(window, composability):
    relation = PixelToRegion(32, window=window, composability=composability)
    counted = meta_counts(TwoMaps(relation).to("meta"), torch.empty(1, 32, 8, 12, device="meta"))[
        "macs"
    ]
    pixels, cells = 8 * 12, 4 * 6
    convolutions = pixels * (32 * 16 + 32 * 32) + cells * (
        32 * 16 + 32 * 32
    )  # query, out; key, value
    prior = 4 * window**2 * (2 * 32 + 32 * 8)  # once a child and a cell of the window
    assert counted == convolutions + prior + pixels * window**2 * (16 + 32)


def test_the_prior_costs_32000_whatever_the_size():
    relations = [PixelToRegion(16, prior=prior) for prior in (True, False)]
    for size in [(6, 10), (20, 4)]:
        images = torch.empty(1, 16, *size, device="meta")
        with_prior, without = (
            meta_counts(TwoMaps(r).to("meta"), images)["macs"] for r in relations
        )
        assert with_prior - without == 32_000


def test_conv_bn_is_convolutions_and_two_for_an_element_of_a_batch_norm():
    block = nn.Sequential(
        nn.Conv2d(3, 4, 3, padding=1), nn.BatchNorm2d(4), nn.ReLU(), nn.MaxPool2d(2)
    )
    counted = meta_counts(block.to("meta"), torch.empty(1, 3, 5, 7, device="meta"))
    assert counted["conv-bn"] == (3 * 9 + 2) * 4 * 5 * 7


def test_frm_module_costs_what_its_paper_prints():
    """The FRM rows, by hand, of the layer table that gives 16.48 M and 214.82 G at 1024x2048."""
    module = build_context(VARIANTS["frm-van-s"].config, sum(VAN_S)).to("meta").eval()
    counted = meta_counts(module, torch.empty(1, sum(VAN_S), 32, 64, device="meta"))
    n, m = 32 * 64, 16 * 32  # positions at 1/32; after the 2x2 pool
    query, key, value, unary = 1024 * 256 * n, 1024 * 256 * m, 1024 * 1024 * m, 1024 * m
    feed_forward, reduce = (2 * 1024 * 128 + 9 * 128) * n, 1024 * 128 * n
    convolutions = query + key + value + unary + feed_forward + reduce
    biases = 256 * n + 256 * m + m + (128 + 128 + 1024) * n
    activations, norms, pool = (128 + 128) * n, 2 * 128 * n, 1024 * n

    assert count_parameters(module) == 1_970_306
    assert counted["macs"] == convolutions + n * m * 256 + n * m * 1024 + m * 1024
    assert counted["ptflops-0.6"] == convolutions + biases + activations + norms + pool
    assert counted["conv-bn"] == convolutions + norms
    assert round(convolutions / 1e9, 4) == 2.0161
    assert round(counted["ptflops-0.6"] / 1e9, 4) == 2.0226


def test_frm_head_costs_what_its_paper_prints():
    """SFNet's decoder of width 128, classifier of 19 classes: 107.3064 of the paper's 214.82 G."""
    head = Head().to("meta").eval()
    counted = meta_counts(head, stages_of(1024, 2048))
    assert count_parameters(head) == 1_158_419
    assert round(counted["ptflops-0.6"] / 1e9, 4) == 107.3064
    assert round(counted["macs"] / 1e9, 4) == 107.0995


def test_another_model_that_fits_frm_s_row_is_refuted_by_those_of_ppm_and_dappm():
    """The readings that docs/papers/frm.md excludes, by what they change in PAPER_COUNTS."""
    head, stages = Head().to("meta"), stages_of(1024, 2048)
    layers, _ = count_layers(head, stages)
    flow = {name: layer for name, layer in layers.items() if name.startswith("decoder.align")}
    flow_params = count_parameters(head.decoder.align)
    flow_macs = by_convention(flow)["ptflops-0.6"]
    pool_macs = sum(stage.numel() for stage in stages[:3])  # of modules: one per input element

    def context(**settings: int) -> tuple[int, int]:
        config = VARIANTS["frm-van-s"].config.model_copy(update=settings)
        module = build_context(config, sum(VAN_S)).to("meta").eval()
        counted = meta_counts(module, torch.empty(1, sum(VAN_S), 32, 64, device="meta"))
        return count_parameters(module), counted["ptflops-0.6"]

    ours = {name: PAPER_COUNTS[name, (1024, 2048)][:2] for name, size in PAPER_COUNTS}
    plain = {name: (n - flow_params, macs - flow_macs) for name, (n, macs) in ours.items()}
    params, macs = plain["frm-van-s"]
    (params_then, macs_then), (params_now, macs_now) = context(), context(kv_pool=1, ffn_hidden=158)
    readings = {
        "pooling by modules": (ours["frm-van-s"][0], ours["frm-van-s"][1] + pool_macs),
        "the other model": (
            params - params_then + params_now,
            macs - macs_then + macs_now + pool_macs,
        ),
        "PPM without alignment": plain["frm-van-s-ppm"],
        "DAPPM without alignment": plain["frm-van-s-dappm"],
    }
    millions = {
        name: (f"{n / 1e6:.3f}", f"{macs / 1e9:.3f}") for name, (n, macs) in readings.items()
    }
    assert millions == {
        "pooling by modules": ("16.478", "214.834"),  # 214.82 is printed
        "the other model": ("16.483", "214.815"),  # 16.48 and 214.82
        "PPM without alignment": ("15.173", "211.056"),  # 15.23 and 213.21
        "DAPPM without alignment": ("15.924", "212.669"),  # 15.98 and 214.81
    }
    assert all(f" {figure} " in PAGE for pair in millions.values() for figure in pair)


class Head(nn.Module):
    """FRM behind its context module, at the widths of VAN-S."""

    def __init__(self) -> None:
        super().__init__()
        self.decoder = AlignedPyramid(VAN_S, 128)
        self.fuse = ConvNormAct(4 * 128, 128, 3)
        self.classifier = nn.Conv2d(128, 19, kernel_size=1)

    def forward(self, stages: list[Tensor]) -> Tensor:
        context = stages[-1][:, :128]  # (B, 128, H/32, W/32)
        return self.classifier(self.fuse(self.decoder(stages, context)))


def stages_of(height: int, width: int) -> list[Tensor]:
    """Stage maps of VAN-S for an image of that size."""
    return [
        torch.empty(1, c, height >> i + 2, width >> i + 2, device="meta")
        for i, c in enumerate(VAN_S)
    ]


@pytest.mark.seconds
def test_a_model_that_pads_is_counted_at_the_padded_size():
    small, padded = cost("frm-lite0", (20, 300), 8), cost("frm-lite0", (64, 300), 8)
    assert small.size == (20, 300)
    assert small.counted_size == padded.counted_size == (64, 300)
    assert small.macs == padded.macs


def test_the_json_form_is_the_stable_one():
    form = cost("frm-lite0", (128, 64), 5).as_dict()
    assert list(form) == ["model", "size", "classes", "params", "macs", "parts"]
    assert (form["model"], form["size"], form["classes"]) == ("frm-lite0", [128, 64], 5)
    assert list(form["macs"]) == ["macs", "ptflops-0.6", "conv-bn"] == list(CONVENTIONS)
    assert all(set(part) == {"params", "macs"} for part in form["parts"].values())
    assert all(type(value) is int for value in form["macs"].values())


def test_a_layer_without_a_rule_is_named_not_skipped():
    with pytest.raises(UnknownName, match=r"Softplus \(at 1\)"):
        count_layers(nn.Sequential(nn.ReLU(), nn.Softplus()), torch.zeros(1, 2, 4, 4))


def test_a_block_with_parameters_of_its_own_needs_a_rule():
    class Scaled(nn.Sequential):
        def __init__(self) -> None:
            super().__init__(nn.ReLU())
            self.scale = nn.Parameter(torch.ones(1))

    with pytest.raises(UnknownName, match="Scaled"):
        count_layers(nn.Sequential(Scaled()), torch.zeros(1, 2, 4, 4))


def test_a_model_of_one_s_own_is_counted_by_its_layers_or_not_at_all():
    """Also if it does not run on shapes alone; products between its layers cannot be counted."""
    plain, places = (
        cost_of(OwnModel(own()), "own", (64, 96)).macs for own in (TwoStrides, WithPlaces)
    )
    assert places == plain
    assert plain["macs"] == 32 * 48 * 8 * 27 + 16 * 24 * (8 * 72 + 2 * 8)

    class Attending(TwoStrides):
        def forward(self, images):
            x = super().forward(images)  # (B, 2, N) positions
            flat = x.flatten(2)
            return (flat @ (flat.mT @ flat)).reshape(x.shape)

    with pytest.raises(
        UnknownName, match=r"Attending: 589,824 multiply-accumulates of [\d,]+ are products"
    ):
        cost_of(OwnModel(Attending()), "own", (64, 96))
    Attending.macs = lambda self, x, y: 2 * 2 * (16 * 24) ** 2
    found = cost_of(OwnModel(Attending()), "own", (64, 96))
    assert found.macs["macs"] == plain["macs"] + 589_824


@pytest.mark.seconds
def test_images_of_other_channels_are_counted():
    rgb, grey = (
        cost_of(models.build("frm-lite0", classes=3, channels=c), "mine", (64, 64)) for c in (3, 1)
    )
    assert (
        rgb.macs["macs"] - grey.macs["macs"] == 2 * 9 * 32 * 32 * 32
    )  # 2 channels, 3x3, 32 out, at 1/2


def test_counting_leaves_the_model_as_it_was():
    model = models.build("frm-lite0", classes=3).train()
    cost_of(model, "mine", (64, 64))
    assert model.training
    assert {parameter.device.type for parameter in model.parameters()} == {"cpu"}


def test_an_unknown_model_is_answered_with_the_nearest():
    with pytest.raises(UnknownName, match="Did you mean 'frm-lite0'"):
        cost("frm-lite", (64, 64), 19)
