"""Against the authors' network (tests/golden), its measured counts, and loops over the equation."""

import pytest
import torch
import torch.nn.functional as F
from support.golden.peer import Peer
from support.golden.peer_golden import gmacs, golden
from support.models.seeded import seeded
from torch.testing import assert_close

from featherseg.backbones.weights import load_official
from featherseg.core.errors import WeightsError
from featherseg.costs.cost import count_parameters
from featherseg.exporters.parity import perturb
from featherseg.models.efficientvit import (
    VARIANTS,
    EfficientViT,
    EfficientViTConfig,
    LinearAttention,
    resize_bicubic,
)

# M parameters and GMACs at 1024x2048 with 19 classes, GMACs at 512x512 with 150 classes
COUNTS = {
    "efficientvit-seg-b0": (0.707, 4.391, None),
    "efficientvit-seg-b1": (4.803, 25.105, 3.090),
    "efficientvit-seg-b2": (15.324, 73.641, 9.083),
    "efficientvit-seg-b3": (39.603, 179.228, 22.174),
}


class TestEfficientViT(Peer):
    model, config, variants, name = (
        EfficientViT,
        EfficientViTConfig,
        VARIANTS,
        "efficientvit-seg-b0",
    )
    reference = "efficientvit_seg_b0"
    counts = COUNTS
    maps = [(16, 25, 33), (32, 13, 17), (64, 7, 9), (128, 4, 5)]
    slips = [*Peer.slips, ({"channels": 0}, "channels")]
    test_with_its_auxiliary_heads_it_costs_what_was_measured = None
    test_weights_without_auxiliary_heads_leave_them_as_they_are = None

    def measured(self, name):
        with torch.device("meta"):
            ours, of_ade20k = (
                network(name, 19).eval(),
                network(name, 150, classifier_expansion=0).eval(),
            )
        found = (
            count_parameters(ours) / 1e6,
            gmacs(ours, (1024, 2048))["macs"],
            gmacs(of_ade20k, (512, 512))["macs"],
        )
        return tuple(round(figure, 3) for figure in found)


network = TestEfficientViT.network


@pytest.fixture(scope="module")
def model():
    return perturb(network())


def test_without_the_widened_layer_the_authors_classifier_has_its_place():
    state = golden("efficientvit_seg_b0").state()
    last = "head.output_ops.0.op_list"
    narrow = {key: value for key, value in state.items() if not key.startswith(f"{last}.")}
    narrow |= {
        f"{last}.0.conv.weight": torch.ones(19, 32, 1, 1),
        f"{last}.0.conv.bias": torch.arange(19.0),
    }
    ours = network(classes=19, classifier_expansion=0)
    load_official(ours, narrow)
    assert torch.equal(ours.classifier.bias, torch.arange(19.0))
    with pytest.raises(WeightsError, match=r"shape of classifier\.weight"):
        load_official(ours, state)


def test_an_imagenet_network_s_weights_fit_the_backbone_but_for_its_head():
    inner = {
        k: v for k, v in golden("efficientvit_seg_b0").state().items() if k.startswith("backbone.")
    }
    for state in (inner, {key.removeprefix("backbone."): value for key, value in inner.items()}):
        backbone = network().backbone
        assert load_official(backbone, {**state, "head.op_list.2.linear.bias": torch.zeros(7)}) == [
            "head.op_list.2.linear.bias"
        ]
        assert_close(
            backbone.stem[0].conv.weight.double(),
            inner["backbone.input_stem.op_list.0.conv.weight"],
        )


@torch.no_grad()
@pytest.mark.parametrize(
    "size", [(5, 4), (1, 3)]
)  # the second has fewer positions than a head has channels
def test_the_attention_is_the_paper_s_sum_over_all_positions(size):
    d, positions = 4, size[0] * size[1]
    block = perturb(LinearAttention(8, head_channels=d).double())
    x = seeded(2, 8, *size).double()
    qkv = block.qkv(x)
    scales = torch.cat([qkv, block.aggregate(qkv)], dim=1).flatten(2)  # (2, 48, N)
    gathered = torch.zeros(2, 16, positions, dtype=torch.float64)
    for b in range(2):
        for head in range(4):
            q, k, v = scales[b, 12 * head : 12 * (head + 1)].split(d)
            for i in range(positions):
                weights = torch.stack(
                    [q[:, i].clamp(min=0) @ k[:, j].clamp(min=0) for j in range(positions)]
                )
                total = sum(weights[j] * v[:, j] for j in range(positions)) / (
                    weights.sum() + 1e-15
                )
                gathered[b, d * head : d * (head + 1), i] = total
    expected = block.project(gathered.view(2, 16, *size))
    assert_close(block(x), expected, atol=1e-12, rtol=1e-9)


@torch.no_grad()
def test_the_attention_s_sums_do_not_run_out_of_half_precision():
    block = LinearAttention(16, head_channels=16).eval()
    block.qkv.weight.fill_(1 / 16)
    x = torch.full(
        (1, 16, 64, 64), 30.0
    )  # 4096 products of 900: sums of 3.7 million, fp16 ends at 65504
    with torch.autocast("cpu", torch.float16):
        found = block(x)
    assert_close(found.float(), block(x), atol=1e-2, rtol=1e-2)


@pytest.mark.parametrize("factor", [2, 4])
def test_coarse_maps_come_up_as_torch_scales_them_bicubically(factor):
    x = seeded(2, 3, 4, 5)
    expected = F.interpolate(x, scale_factor=factor, mode="bicubic", align_corners=False)
    assert_close(resize_bicubic(x, (4 * factor, 5 * factor)), expected)
