"""Held against the authors' network (tests/golden) and counts measured on it, which the FRM paper prints too."""

import pytest
import torch
from peer_golden import WithAux, figures, gmacs, golden, unfit
from seeded import seeded
from torch import nn
from torch.testing import assert_close

from featherseg.backbones.weights import load_official
from featherseg.core.config import parse
from featherseg.core.errors import ConfigError, WeightsError
from featherseg.counting.cost import by_convention, count_layers, count_parameters
from featherseg.exporters.parity import perturb
from featherseg.models.sfnet import VARIANTS, SFNet, SFNetConfig


def network(classes=5):
    return SFNet(VARIANTS["sfnet-r18"].config, classes)


def test_the_reference_s_logits_come_out():
    assert golden("sfnet_r18").misses(network(19), upsampled=True) == []


def test_it_weighs_and_costs_what_was_measured():
    assert figures(network) == (12.870, 12.887, 13.321, 242.965, 243.867, 30.648)


def test_with_its_auxiliary_heads_it_costs_what_was_measured():
    with torch.device("meta"):
        assert round(gmacs(WithAux(network(19)).eval(), (1024, 2048))["macs"], 2) == 268.75


@pytest.mark.parametrize(("size", "macs"), [((1024, 2048), 243_866_546_688), ((720, 1280), 107_340_509_440)])
def test_its_figures_in_the_frm_paper_s_tables_are_counted_to_the_last_unit(size, macs):
    with torch.device("meta"):
        ours = network(19).eval()
        assert count_parameters(ours) - count_parameters(ours.aux_heads) == 12_869_715  # 12.87 M
        assert by_convention(count_layers(ours, torch.empty(1, 3, *size))[0])["ptflops-0.6"] == macs


def test_other_weights_are_refused():
    ours = network(19)
    for message, state in unfit(golden("sfnet_r18").state()).items():
        with pytest.raises(WeightsError, match=message):
            load_official(ours, state)


def test_weights_of_auxiliary_heads_are_taken_by_the_step_they_belong_to():
    ours, state = network(19), golden("sfnet_r18").state()
    heads = {}
    for i in range(3):  # 0 is the finest
        for key, value in ours.aux_heads["dsn_4"].state_dict().items():
            heads[f"head.dsn.{i}.{key}"] = torch.full_like(value, i)
    load_official(ours, state | heads)
    assert [ours.aux_heads[name][4].bias[0].item() for name in ("dsn_4", "dsn_8", "dsn_16")] == [0, 1, 2]
    with pytest.raises(WeightsError, match=r"missing: aux_heads\.dsn_16\.4\.bias"):
        load_official(ours, {k: v for k, v in (state | heads).items() if k != "head.dsn.2.4.bias"})


def test_the_second_convolutions_of_the_last_stages_are_dilated_and_nothing_loses_its_stride():
    stages = network().backbone.stages
    for stage, rate in zip(stages, (1, 1, 2, 4), strict=True):
        for block in stage:
            first, second = (layer for layer in block.branch if isinstance(layer, nn.Conv2d))
            assert first.dilation == (1, 1)
            assert second.dilation == second.padding == (rate, rate)
    with torch.device("meta"):
        assert [x.shape[2] for x in network().backbone(torch.empty(1, 3, 256, 64))] == [64, 32, 16, 8]


@torch.no_grad()
def test_an_auxiliary_head_sees_its_step_of_the_pyramid():
    ours = perturb(network().eval())
    out = ours(seeded(1, 3, 64, 96), aux=True)
    assert {name: tuple(x.shape[2:]) for name, x in out.aux.items()} == {
        "dsn_4": (16, 24), "dsn_8": (8, 12), "dsn_16": (4, 6),
    }  # fmt: skip
    pyramid = ours.encode(seeded(1, 3, 64, 96))
    lateral, coarse = ours.decoder.lateral[2](pyramid[2]), ours.context(pyramid[3])
    step = lateral + ours.decoder.align[2](lateral, coarse)
    assert_close(out.aux["dsn_16"], ours.aux_heads["dsn_16"](step))


def test_every_auxiliary_head_learns_from_a_single_image():
    ours = network().train()
    out = ours(seeded(1, 3, 64, 64), aux=True)
    sum(x.square().mean() for x in (out.logits, *out.aux.values())).backward()
    assert [key for key, p in ours.named_parameters() if p.grad is None] == []


def test_only_a_resnet_can_have_the_authors_dilation():
    SFNet(parse(SFNetConfig, {"backbone": "resnet-18"}, "model sfnet-r18"), 3)
    with pytest.raises(ConfigError, match="expected a ResNet"):
        SFNet(parse(SFNetConfig, {"backbone": "efficientnet-lite0"}, "model sfnet-r18"), 3)
