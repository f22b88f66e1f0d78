"""Counts are held against the tools that define the conventions: the package ptflops 0.6.9, torch's FlopCounterMode."""

import pytest
import torch
from ptflops import get_model_complexity_info
from torch import Tensor, nn
from torch.utils.flop_counter import FlopCounterMode

from featherseg import backbones, models
from featherseg.backbones import BACKBONES
from featherseg.core.errors import ConfigError, UnknownName
from featherseg.evaluation.cost import (
    CONVENTIONS,
    RULES,
    by_convention,
    cost,
    cost_of,
    count_layers,
    count_parameters,
)
from featherseg.layers.attention import DisentangledNonLocal
from featherseg.layers.conv import ConvNormAct
from featherseg.models import MODELS
from featherseg.models.frm import AlignedPyramid, FeatureRefinement

SIZES = [(128, 192), (97, 131)]
CLASS_COUNTS = [2, 19]

KNOWN_DIFFERENCES: dict[tuple[str, str], str] = {}
"""(network, convention) -> why our figure is not the tool's. None today."""

VAN_S = [64, 128, 320, 512]  # stage widths of VAN-S, the FRM paper's backbone


def ptflops_count(module: nn.Module, input_size: tuple[int, ...]) -> int:
    """What ptflops 0.6.9 says for one input of that size, without the batch."""
    count, _ = get_model_complexity_info(module, input_size, as_strings=False, print_per_layer_stat=False)
    return int(count)


def torch_macs(module: nn.Module, images: Tensor) -> float:
    """Half of what torch's FlopCounterMode says: it counts a multiply-accumulate as two."""
    with FlopCounterMode(display=False) as counter, torch.no_grad():
        module(images)
    return counter.get_total_flops() / 2


def meta_counts(module: nn.Module, images: Tensor | list[Tensor]) -> dict[str, int]:
    return by_convention(count_layers(module, images)[0])


@pytest.mark.parametrize("name", MODELS)
@pytest.mark.parametrize("size", SIZES)
@pytest.mark.parametrize("classes", CLASS_COUNTS)
def test_networks_cost_what_ptflops_and_torch_count(name, size, classes):
    counted = cost(name, size, classes).macs
    model = models.build(name, classes=classes).to("meta").eval()
    if (name, "ptflops-0.6") not in KNOWN_DIFFERENCES:
        assert counted["ptflops-0.6"] == ptflops_count(model, (3, *size))
    if (name, "macs") not in KNOWN_DIFFERENCES:
        assert counted["macs"] == torch_macs(model, torch.empty(1, 3, *size, device="meta"))


@pytest.mark.parametrize("name", BACKBONES)
@pytest.mark.parametrize("size", SIZES)
def test_backbones_cost_what_ptflops_and_torch_count(name, size):
    backbone = backbones.build(name).to("meta").eval()
    images = torch.empty(1, 3, *size, device="meta")
    counted = meta_counts(backbone, images)
    assert counted["ptflops-0.6"] == ptflops_count(backbone, (3, *size))
    assert counted["macs"] == torch_macs(backbone, images)


@pytest.mark.parametrize("name", MODELS)
@pytest.mark.parametrize("size", [*SIZES, (20, 300)])
def test_parts_add_up_to_the_totals(name, size):
    result = cost(name, size, 19)
    assert sum(part.params for part in result.parts.values()) == result.params
    assert sum(part.macs for part in result.parts.values()) == result.macs["macs"]
    assert result.params == count_parameters(models.build(name, classes=19))


LAYERS = {
    nn.Conv2d: (nn.Conv2d(6, 4, (3, 5), stride=2, padding=1, groups=2), (6, 11, 13)),
    nn.Linear: (nn.Linear(6, 4), (5, 6)),
    nn.BatchNorm2d: (nn.BatchNorm2d(6), (6, 5, 7)),
    nn.ReLU: (nn.ReLU(), (6, 5, 7)),
    nn.ReLU6: (nn.ReLU6(), (6, 5, 7)),
    nn.GELU: (nn.GELU(), (6, 5, 7)),
    nn.MaxPool2d: (nn.MaxPool2d(2), (6, 5, 7)),
    nn.AvgPool2d: (nn.AvgPool2d(3, 2, 1), (6, 5, 7)),
    DisentangledNonLocal: (DisentangledNonLocal(8, key_channels=2), (8, 5, 7)),
    nn.Identity: (nn.Identity(), (6, 5, 7)),
    nn.Dropout2d: (nn.Dropout2d(), (6, 5, 7)),
}
"""An example of every layer type that has a rule, and the size of its input without the batch."""


@pytest.mark.parametrize("kind", RULES, ids=lambda kind: kind.__name__)
def test_every_rule_agrees_with_both_tools(kind):
    layer, size = LAYERS[kind]
    layer = nn.Sequential(layer).to("meta").eval()
    images = torch.empty(1, *size, device="meta")
    counted = meta_counts(layer, images)
    assert counted["ptflops-0.6"] == ptflops_count(layer, size)
    assert counted["macs"] == torch_macs(layer, images)


def test_conv_bn_is_convolutions_and_two_for_an_element_of_a_batch_norm():
    block = nn.Sequential(nn.Conv2d(3, 4, 3, padding=1), nn.BatchNorm2d(4), nn.ReLU(), nn.MaxPool2d(2))
    counted = meta_counts(block.to("meta"), torch.empty(1, 3, 5, 7, device="meta"))
    assert counted["conv-bn"] == (3 * 9 + 2) * 4 * 5 * 7


def test_frm_module_costs_what_its_paper_prints():
    """The FRM rows of the layer table that reproduces the paper's 16.48 M and 214.82 G, at 1024x2048, by hand."""
    module = FeatureRefinement(VAN_S, 128, ffn_hidden=128).to("meta").eval()
    counted = meta_counts(module, stages_of(1024, 2048))
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
    """SFNet's decoder at width 128 with the classifier, 19 classes: 107.3064 G of the paper's 214.82 G."""
    head = Head().to("meta").eval()
    counted = meta_counts(head, stages_of(1024, 2048))
    assert count_parameters(head) == 1_158_419
    assert round(counted["ptflops-0.6"] / 1e9, 4) == 107.3064
    assert round(counted["macs"] / 1e9, 4) == 107.0995


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
    """Stage maps of VAN-S for a picture of that size."""
    return [torch.empty(1, c, height >> i + 2, width >> i + 2, device="meta") for i, c in enumerate(VAN_S)]


def test_a_network_that_pads_is_counted_at_the_padded_size():
    small, padded = cost("frm-lite0", (20, 300), 8), cost("frm-lite0", (64, 300), 8)
    assert small.size == (20, 300)
    assert small.counted_size == padded.counted_size == (64, 300)
    assert small.macs == padded.macs


def test_the_json_form_is_the_stable_one():
    form = cost("frm-lite0", (128, 64), 5).as_json()
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


def test_pictures_of_other_channels_are_counted():
    rgb, grey = (cost_of(models.build("frm-lite0", classes=3, channels=c), "mine", (64, 64)) for c in (3, 1))
    assert rgb.macs["macs"] - grey.macs["macs"] == 2 * 9 * 32 * 32 * 32  # 2 channels, 3x3, 32 out, at 1/2


def test_counting_leaves_the_network_as_it_was():
    model = models.build("frm-lite0", classes=3).train()
    cost_of(model, "mine", (64, 64))
    assert model.training
    assert {parameter.device.type for parameter in model.parameters()} == {"cpu"}


@pytest.mark.parametrize("size", [(0, 5), (5, -1)])
def test_sizes_without_pixels_are_refused(size):
    with pytest.raises(ConfigError, match="at least 1 pixel"):
        cost("frm-lite0", size, 19)


def test_an_unknown_network_is_answered_with_the_nearest():
    with pytest.raises(UnknownName, match="Did you mean 'frm-lite0'"):
        cost("frm-lite", (64, 64), 19)
