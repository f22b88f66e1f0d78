"""Against the authors' network (tests/golden), its measured counts, and the paper's figures."""

import pytest
import torch
import torch.nn.functional as F
from support.golden.peer import Peer
from support.golden.peer_golden import golden
from support.models.seeded import seeded
from torch.testing import assert_close

from featherseg.backbones.weights import load_official
from featherseg.exporters.parity import perturb
from featherseg.models.ddrnet import VARIANTS, BilateralStage, DDRNet, DDRNetConfig

SWAPPED = {"aux": "main", "main": "aux"}
"""The reference calls the network's logits "aux" and the auxiliary ones "main": its figures of
`final_layer`, the classifier kept in inference, are "aux", those of `seghead_extra` "main"."""

COUNTS = {  # as `figures` says
    "ddrnet-23-slim": (5.696, 5.705, 5.734, 36.281, 36.589, 4.570),
    "ddrnet-23": (20.149, 20.166, 20.299, 143.061, 143.674, 17.951),
    "ddrnet-39": (32.360, 32.394, 32.661, 281.116, 282.038, 35.277),
}
WITH_AUX = {"ddrnet-23-slim": 37.53, "ddrnet-23": 147.97, "ddrnet-39": 290.94}
"""GMACs at 1024x2048 of 19 classes."""


class TestDDRNet(Peer):
    model, config, variants, name = DDRNet, DDRNetConfig, VARIANTS, "ddrnet-23-slim"
    reference = "ddrnet_23_slim"
    misses = {"names": SWAPPED}
    counts = COUNTS
    costs_with_aux = WITH_AUX
    aux_keys = ("seghead_extra.",)
    maps = [(32, 25, 33), (64, 13, 17), (128, 13, 17), (512, 2, 3)]

    def test_the_reference_swaps_the_names_of_its_outputs(self):
        for case in golden(self.reference).reference["cases"]:
            for output, head in (("aux", "final_layer"), ("main", "seghead_extra")):
                assert case["outputs"][output]["mean"] == case["stages"][head]["mean"]

    def test_the_last_bias_is_the_authors(self):
        ours, state = self.network(classes=19), golden(self.reference).state()
        load_official(ours, state)
        assert_close(ours.head[1][2].bias.double(), state["final_layer.conv2.bias"])


network = TestDDRNet.network


@pytest.mark.parametrize(("theirs", "ours"), [
    ("conv1.3.weight", "stem.3.weight"),
    ("layer2.3.conv2.weight", "single.1.3.branch.3.weight"),
    ("layer3_1.0.downsample.0.weight", "dual.0.coarse.0.shortcut.0.weight"),
    ("layer3_2_.2.bn1.weight", "dual.1.fine.2.branch.1.weight"),
    ("compression3_2.1.bias", "dual.1.to_fine.1.bias"),
    ("down4.3.weight", "dual.2.to_coarse.3.weight"),
    ("layer5_.0.conv3.weight", "fine.0.branch.6.weight"),
])  # fmt: skip
def test_the_longer_network_s_third_stage_is_two_of_the_authors(theirs, ours):
    with torch.device("meta"):
        model = network("ddrnet-39")
    assert f"backbone.{ours}" in model.rename_official({theirs: torch.zeros(1)})[0]
    assert list(model.backbone.rename_official({theirs: torch.zeros(1)})[0]) == [ours]
    assert f"backbone.{ours}" in model.state_dict()


@torch.no_grad()
@pytest.mark.parametrize(
    ("stride", "down", "size"), [(2, (8,), (9, 13)), (2, (6, 8), (5, 7)), (1, (8,), (9, 13))]
)
def test_each_branch_is_added_to_the_other_at_that_one_s_size(stride, down, size):
    stage = perturb(BilateralStage((6, 8), 4, 2, stride=stride, down=down).eval())
    coarse_size = (17, 25) if len(down) == 1 else (9, 13)
    fine_size = (17, 25)
    if stride == 1:
        coarse_size = size
    coarse, fine = seeded(2, 6, *coarse_size), seeded(2, 4, *fine_size)
    own_coarse, own_fine = stage.coarse(coarse.clamp(min=0)), stage.fine(fine.clamp(min=0))
    got_coarse, got_fine = stage(coarse, fine)
    assert got_coarse.shape == (2, 8, *size)
    x = own_fine.clamp(min=0)
    for conv, norm in zip(stage.to_coarse[::3], stage.to_coarse[1::3], strict=True):
        x = norm(conv(x if conv is stage.to_coarse[0] else x.clamp(min=0)))
    assert_close(got_coarse, own_coarse + x)
    lifted = F.interpolate(
        stage.to_fine(own_coarse.clamp(min=0)), size=fine_size, mode="bilinear", align_corners=False
    )
    assert_close(got_fine, own_fine + lifted)
