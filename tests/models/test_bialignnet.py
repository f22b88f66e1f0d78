"""Held against the authors' network (tests/golden), its counts, and torch's own sampling."""

import pytest
import torch
import torch.nn.functional as F
from support.golden.peer import Peer
from support.golden.peer_golden import golden
from support.models.seeded import seeded64 as seeded
from torch.testing import assert_close

from featherseg.exporters.parity import perturb
from featherseg.layers.resize import resize
from featherseg.models import build
from featherseg.models.bialignnet import VARIANTS, BiAlignNet, BiAlignNetConfig, GatedAlignment


class AsTheirs(BiAlignNet):
    """Its auxiliary outputs as the authors' forward returns them."""

    def forward(self, images, aux=False):
        out = super().forward(images, aux)
        for name in ("aux8", "aux16"):
            height, width = out.aux[name].shape[2:]
            out.aux[name] = resize(out.aux[name], (16 * height, 16 * width), align_corners=True)
        return out._replace(aux=out.aux | {"edge_sigmoid": out.aux["edge"].sigmoid()})


class TestBiAlignNet(Peer):
    model, config, variants, name = BiAlignNet, BiAlignNetConfig, VARIANTS, "bialignnet-df2"
    reference = "bialignnet_df2"
    counts = {
        "bialignnet-df1": (None, None, 9.533, 72.960, None, None),
        "bialignnet-df2": (18.901, None, 18.987, 115.909, 116.372, None),
    }
    aux_keys = ("spatial_out.", "cxt8_aux.", "cxt16_aux.")
    maps = [(64, 25, 33), (128, 13, 17), (256, 7, 9), (512, 4, 5)]
    test_with_its_auxiliary_heads_it_costs_what_was_measured = None  # not measured

    @pytest.mark.seconds
    def test_the_reference_s_logits_come_out(self):
        theirs = AsTheirs(VARIANTS[self.name].config, 19)
        assert golden(self.reference).misses(theirs, upsampled=True) == []


def test_dfnet_1_gives_two_maps_at_the_coarsest_stride():
    with torch.device("meta"):
        maps = TestBiAlignNet.network("bialignnet-df1").backbone(torch.empty(1, 3, 97, 131))
    assert [tuple(x.shape[1:]) for x in maps] == [
        (64, 25, 33),
        (128, 7, 9),
        (256, 4, 5),
        (512, 4, 5),
    ]


@torch.no_grad()
@pytest.mark.parametrize("warps", ["fine", "coarse"])
@pytest.mark.parametrize("form", [lambda layer: layer, lambda layer: layer.for_graph(8, False)])
def test_the_flow_moves_a_grid_of_aligned_corners_and_samples_it_for_others(warps, form):
    layer = perturb(GatedAlignment(4, warps=warps).double())
    layer.flow.weight.mul_(20)  # flows of several positions
    fine, coarse = seeded(2, 4, 9, 13), seeded(2, 4, 3, 4)
    lifted = F.interpolate(
        layer.down_coarse(coarse), size=(9, 13), mode="bilinear", align_corners=True
    )
    flow = layer.flow(torch.cat([lifted, layer.down_fine(fine)], dim=1))
    moved = fine if warps == "fine" else coarse
    gate = F.interpolate(
        layer.gate(moved).sigmoid(), size=(9, 13), mode="bilinear", align_corners=True
    )
    y = torch.linspace(-1, 1, 9, dtype=torch.float64)[:, None].expand(9, 13)
    x = torch.linspace(-1, 1, 13, dtype=torch.float64)[None, :].expand(9, 13)
    move = (flow * gate).permute(0, 2, 3, 1) / torch.tensor([13, 9])
    grid = torch.stack([x, y], dim=-1) + move
    expected = F.grid_sample(moved, grid, padding_mode="zeros", align_corners=False)
    assert_close(form(layer)(fine, coarse), expected, atol=1e-10, rtol=1e-10)


def test_images_of_other_channels_go_into_both_paths():
    model = build("bialignnet-df1", classes=3, channels=2)
    assert model.backbone.stem[0].in_channels == model.spatial[0][0].in_channels == 2
