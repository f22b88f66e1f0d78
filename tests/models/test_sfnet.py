"""Against the authors' network (tests/golden) and its measured counts, also in the FRM paper."""

import pytest
import torch
from support.golden.peer import Peer
from support.golden.peer_golden import golden
from support.models.seeded import seeded
from torch import nn
from torch.testing import assert_close

from featherseg.backbones.weights import load_official
from featherseg.core.errors import WeightsError
from featherseg.costs.cost import by_convention, count_layers, count_parameters
from featherseg.exporters.parity import perturb
from featherseg.models.sfnet import VARIANTS, SFNet, SFNetConfig


class TestSFNet(Peer):
    model, config, variants, name = SFNet, SFNetConfig, VARIANTS, "sfnet-r18"
    reference = "sfnet_r18"
    misses = {"upsampled": True}
    counts = {"sfnet-r18": (12.870, 12.887, 13.321, 242.965, 243.867, 30.648)}
    costs_with_aux = {"sfnet-r18": 268.75}
    maps = [(64, 25, 33), (128, 13, 17), (256, 7, 9), (512, 4, 5)]
    slips = [({"backbone": "efficientnet-lite0"}, "expected a ResNet")]

    def test_every_resnet_can_have_the_authors_dilation(self):
        assert self.network(backbone="resnet-18").backbone.stages[3][0].branch[3].dilation == (4, 4)


network = TestSFNet.network


@pytest.mark.parametrize(
    ("size", "macs"), [((1024, 2048), 243_866_546_688), ((720, 1280), 107_340_509_440)]
)
def test_its_figures_in_the_frm_paper_s_tables_are_counted_to_the_last_unit(size, macs):
    with torch.device("meta"):
        ours = network(classes=19).eval()
        assert count_parameters(ours) - count_parameters(ours.aux_heads) == 12_869_715  # 12.87 M
        assert by_convention(count_layers(ours, torch.empty(1, 3, *size))[0])["ptflops-0.6"] == macs


@pytest.mark.seconds
def test_weights_of_auxiliary_heads_are_taken_by_the_step_they_belong_to():
    ours, state = network(classes=19), golden("sfnet_r18").state()
    heads = {}
    for i in range(3):  # 0 is the finest
        for key, value in ours.aux_heads["dsn_4"].state_dict().items():
            heads[f"head.dsn.{i}.{key}"] = torch.full_like(value, i)
    load_official(ours, state | heads)
    assert [ours.aux_heads[name][4].bias[0].item() for name in ("dsn_4", "dsn_8", "dsn_16")] == [
        0,
        1,
        2,
    ]
    with pytest.raises(WeightsError, match=r"missing: aux_heads\.dsn_16\.4\.bias"):
        load_official(ours, {k: v for k, v in (state | heads).items() if k != "head.dsn.2.4.bias"})


@pytest.mark.seconds
def test_the_second_convolutions_of_the_last_stages_are_dilated_and_nothing_loses_its_stride():
    stages = network().backbone.stages
    for stage, rate in zip(stages, (1, 1, 2, 4), strict=True):
        for block in stage:
            first, second = (layer for layer in block.branch if isinstance(layer, nn.Conv2d))
            assert first.dilation == (1, 1)
            assert second.dilation == second.padding == (rate, rate)
    with torch.device("meta"):
        assert [x.shape[2] for x in network().backbone(torch.empty(1, 3, 256, 64))] == [
            64,
            32,
            16,
            8,
        ]


@pytest.mark.seconds
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
