"""Against figures of the published network (tests/golden), its measured counts, and Eq. 4."""

import pytest
import torch
from support.golden.peer import Peer
from support.golden.peer_golden import gmacs, golden
from support.models.seeded import seeded
from torch.testing import assert_close

from featherseg import models
from featherseg.backbones.weights import load_official
from featherseg.core.errors import WeightsError
from featherseg.costs.cost import count_parameters
from featherseg.exporters.parity import perturb
from featherseg.layers.folding import factors, scale_outputs
from featherseg.layers.resize import to_image
from featherseg.models.segformer import VARIANTS, AllLinearDecoder, SegFormer, SegFormerConfig

COUNTS = {  # M parameters with 19 and 150 classes; GMACs of 19 at 1024x2048 and of 150 at 512x512
    "segformer-b0": (3.721, 3.772, 120.957, 8.388),
    "segformer-b1": (13.685, 13.735, 239.130, 15.878),
}
UNUSED = ["decode_head.conv_seg.weight", "decode_head.conv_seg.bias"]


class TestSegFormer(Peer):
    model, config, variants, name = SegFormer, SegFormerConfig, VARIANTS, "segformer-b0"
    reference = "segformer_b0"
    counts = COUNTS
    maps = [(32, 25, 33), (64, 13, 17), (160, 7, 9), (256, 4, 5)]
    slips = [({"backbone": "mit-b9"}, "mit-b9")]
    test_with_its_auxiliary_heads_it_costs_what_was_measured = None
    test_weights_without_auxiliary_heads_leave_them_as_they_are = None

    def measured(self, name):
        """The published network also holds a classifier of 128 channels that it does not use."""
        with torch.device("meta"):
            small, large = network(name, 19).eval(), network(name, 150).eval()
        found = [(count_parameters(model) + 129 * model.classes) / 1e6 for model in (small, large)]
        found += [gmacs(small, (1024, 2048))["macs"], gmacs(large, (512, 512))["macs"]]
        return tuple(round(figure, 3) for figure in found)


network = TestSegFormer.network


def test_at_1024x1024_b1_costs_a_third_of_what_the_frm_paper_prints_for_that_size():
    with torch.device("meta"):
        ours = network("segformer-b1", 19).eval()
    assert round(gmacs(ours, (1024, 1024))["macs"], 3) == 86.279


def test_the_unused_classifier_is_accepted_or_left_out():
    ours, state = network(classes=19), golden("segformer_b0").state()
    assert load_official(ours, state) == UNUSED
    assert (
        load_official(ours, {key: value for key, value in state.items() if key not in UNUSED}) == []
    )


def test_weights_of_its_own_parts_are_asked_for_by_name():
    ours, state = network(classes=19), golden("segformer_b0").state()
    with pytest.raises(WeightsError, match=r"missing: decoder\.project\.2\.weight"):
        load_official(
            ours, {k: v for k, v in state.items() if k != "decode_head.linear_c3.proj.weight"}
        )


@torch.no_grad()
def test_the_decoder_projects_lifts_and_fuses_coarse_to_fine():
    block = perturb(AllLinearDecoder((2, 3), 4).double())
    fine, coarse = seeded(1, 2, 4, 6).double(), seeded(1, 3, 2, 3).double()
    maps = [torch.einsum("oc,bchw->bohw", p.weight[:, :, 0, 0], x) + p.bias[:, None, None]
            for p, x in zip(block.project, (fine, coarse), strict=True)]  # fmt: skip
    rows = torch.tensor([[1, 0], [0.75, 0.25], [0.25, 0.75], [0, 1]], dtype=torch.float64)
    columns = torch.tensor(
        [[1, 0, 0], [0.75, 0.25, 0], [0.25, 0.75, 0], [0, 0.75, 0.25], [0, 0.25, 0.75], [0, 0, 1]],
        dtype=torch.float64,
    )
    conv, norm, _ = block.fuse
    joined = torch.cat([rows @ maps[1] @ columns.mT, maps[0]], dim=1)
    fused = torch.einsum("oc,bchw->bohw", conv.weight[:, :, 0, 0], joined)
    scale = norm.weight / (norm.running_var + norm.eps).sqrt()
    fused = (fused - norm.running_mean[:, None, None]) * scale[:, None, None] + norm.bias[
        :, None, None
    ]
    assert_close(block([fine, coarse]), fused.clamp(min=0))


@torch.no_grad()
@pytest.mark.parametrize("size", [(33, 65), (97, 131), (1, 1), (7, 201)])
def test_any_size_is_taken_and_only_short_sides_are_padded(size):
    model, images = perturb(network()), seeded(1, 3, *size)
    out, padded_size = model(images), tuple(max(side, 32) for side in size)
    assert (out.image_size, out.padded_size) == (size, padded_size)
    assert out.logits.shape == (1, 5, *(-(-side // 4) for side in padded_size))
    assert to_image(out, size).shape == (1, 5, *size)


@pytest.mark.parametrize("backbone", ["mit-b0", "resnet-18", "mobilenet-v2"])
def test_a_single_small_image_trains_with_every_backbone(backbone):
    model = models.build("segformer-b0", 3, options={"backbone": backbone}).train()
    out = model(seeded(1, 3, 32, 32))
    assert out.padded_size == (
        (32, 32) if backbone == "mit-b0" else (33, 33)
    )  # MiT as its authors train it
    assert to_image(out, (32, 32)).shape == (1, 3, 32, 32)


@pytest.mark.parametrize("size", [(8, 12), (11, 7), (1, 1)])
@pytest.mark.parametrize("folded", [False, True])
def test_maps_fused_at_their_own_sizes_are_the_same(size, folded):
    decoder = perturb(AllLinearDecoder((4, 5, 6, 7), 8))
    stages = [torch.randn(2, 4 + i, *(-(-side // 2**i) for side in size)) for i in range(4)]
    expected = decoder(stages)
    if folded:  # as `optimize` does before it asks for the form
        conv, norm, _ = decoder.fuse.children()
        scale_outputs(conv, *factors(norm))
        decoder.fuse[1] = torch.nn.Identity()
    before = {key: value.clone() for key, value in decoder.state_dict().items()}
    form = decoder.for_cpu() if folded else decoder.for_graph(1, channels_last=False)
    assert_close(form(stages), expected, atol=1e-5, rtol=1e-5)
    assert_close(decoder.state_dict(), before)  # its weights are its own
