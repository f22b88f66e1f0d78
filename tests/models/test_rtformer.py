"""Held against the authors' network in Paddle (tests/golden), counts measured on it, and loops."""

import math

import pytest
import torch
import torch.nn.functional as F
from support.golden.peer import Peer
from support.golden.peer_golden import gmacs, golden
from support.models.seeded import seeded64 as seeded
from torch.testing import assert_close

from featherseg.backbones.weights import load_official
from featherseg.core.errors import WeightsError
from featherseg.costs.cost import count_parameters
from featherseg.exporters.parity import perturb
from featherseg.models.rtformer import (
    VARIANTS,
    CrossResolutionAttention,
    GPUFriendlyAttention,
    RTFormer,
    RTFormerBlock,
    RTFormerConfig,
)

# M parameters of 19 classes without and with the auxiliary head; GMACs at 256x512, 16 times
COUNTS = {
    "rtformer-slim": (5.365, 5.403, 37.9),
    "rtformer-base": (17.766, 17.916, 139.5),
}
PADDLE = {".running_mean": "._mean", ".running_var": "._variance"}


class TestRTFormer(Peer):
    model, config, variants, name = RTFormer, RTFormerConfig, VARIANTS, "rtformer-slim"
    reference = "rtformer_slim"
    misses = {"rtol": 1e-5, "upsampled": True}
    counts = COUNTS
    aux_keys = ("seghead_extra.",)
    maps = [(32, 25, 33), (64, 13, 17), (64, 13, 17), (256, 4, 5)]
    test_with_its_auxiliary_heads_it_costs_what_was_measured = None  # not measured

    def measured(self, name):
        with torch.device("meta"):
            ours = network(name, 19).eval()
        everything, head = count_parameters(ours), count_parameters(ours.aux_heads)
        millions = [round((everything - head) / 1e6, 3), round(everything / 1e6, 3)]
        return (*millions, round(16 * gmacs(ours, (256, 512))["macs"], 1))


network = TestRTFormer.network


def normed(norm, x):
    """A batch norm in evaluation, from its definition."""
    scale = norm.weight / (norm.running_var + norm.eps).sqrt()
    return (x - norm.running_mean[:, None, None]) * scale[:, None, None] + norm.bias[:, None, None]


def test_the_fine_branch_looks_at_144_positions_whatever_the_size():
    with torch.device("meta"):
        ours = network(classes=19).eval()
    small, large = gmacs(ours, (256, 512))["macs"], gmacs(ours, (1024, 2048))["macs"]
    once = (
        144 * (2 * 256 * 128) / 1e9
    )  # the keys and values of two blocks, and the pooled branch of the context:
    once += 256 * 128 / 1e9
    assert large == pytest.approx(16 * small - 15 * once, abs=1e-9)


def test_paddle_s_own_names_of_statistics_are_read():
    state = golden("rtformer_slim").state()
    for ours, theirs in PADDLE.items():
        state = {
            k.removesuffix(ours) + theirs if k.endswith(ours) else k: v for k, v in state.items()
        }
    assert load_official(network(classes=19), state) == []


@pytest.mark.seconds
def test_weights_of_its_own_parts_are_asked_for_by_name():
    ours, state = network(classes=19), golden("rtformer_slim").state()
    with pytest.raises(
        WeightsError, match=r"missing: backbone\.blocks\.1\.coarse_attention\.key\.weight"
    ):
        load_official(ours, {k: v for k, v in state.items() if k != "layer5.attn_l.k"})
    with pytest.raises(WeightsError, match=r"shape of backbone\.stem\.0\.weight"):
        load_official(network("rtformer-base", 19), state)


@torch.no_grad()
@pytest.mark.parametrize(("stride", "size"), [(1, (3, 4)), (2, (3, 4)), (2, (4, 5))])
def test_the_coarse_branch_attends_to_learned_keys(stride, size):
    """Scores of every key, a softmax over positions, then shares within 8 heads of 2 keys."""
    block, x = perturb(GPUFriendlyAttention(6, 16, stride=stride).double()), seeded(6, *size)
    seen = normed(block.norm, x)[:, ::stride, ::stride]
    scores = torch.einsum("mc,chw->mhw", block.key.weight[:, :, 0, 0], seen)
    weights = torch.stack([s.exp() / s.exp().sum() for s in scores])
    for head in range(8):
        weights[2 * head : 2 * head + 2] /= weights[2 * head : 2 * head + 2].sum(0) + 1e-6
    expected = torch.einsum("om,mhw->ohw", block.value.weight[:, :, 0, 0], weights)
    assert_close(block(x[None])[0], expected, atol=1e-12, rtol=1e-12)


@torch.no_grad()
@pytest.mark.parametrize("coarse_size", [(2, 3), (12, 24), (17, 13)])
def test_the_fine_branch_attends_to_the_largest_values_of_regions(coarse_size):
    block = perturb(CrossResolutionAttention(4, 6).double())
    fine, coarse = seeded(4, 3, 2), seeded(6, *coarse_size)
    normed_coarse, (height, width) = normed(block.key_value[0], coarse), coarse_size
    keys, values = [], []
    for i in range(12):
        rows = slice(i * height // 12, math.ceil((i + 1) * height / 12))
        for j in range(12):
            columns = slice(j * width // 12, math.ceil((j + 1) * width / 12))
            both = block.key_value[2].weight[:, :, 0, 0] @ normed_coarse[:, rows, columns].amax(
                (1, 2)
            )
            keys.append(both[:4])
            values.append(both[4:])
    query, expected = normed(block.norm, fine), torch.zeros_like(fine)
    for r in range(3):
        for c in range(2):
            scores = [math.exp(float(query[:, r, c] @ key) / 12) for key in keys]
            expected[:, r, c] = sum(
                s / sum(scores) * v for s, v in zip(scores, values, strict=True)
            )
    assert_close(block(fine[None], coarse[None])[0], expected, atol=1e-12, rtol=1e-12)


@torch.no_grad()
@pytest.mark.parametrize(
    ("channels", "inject"), [((6, 16), True), ((16, 16), True), ((16, 16), False)]
)
def test_a_block_hands_the_coarse_branch_to_the_fine_one_and_back(channels, inject):
    block = perturb(RTFormerBlock(channels, 4, inject=inject).double())
    stride = 2 if channels[0] != channels[1] else 1
    coarse, fine = seeded(1, channels[0], 5 * stride, 3 * stride), seeded(1, 4, 20, 12)
    low = block.shortcut(coarse) + block.coarse_attention(coarse)
    low = low + block.coarse_feed_forward(low)
    lifted = F.interpolate(block.to_fine(low), size=(20, 12), mode="bilinear", align_corners=False)
    high = fine + lifted + block.fine_attention(fine + lifted, low)
    high = high + block.fine_feed_forward(high)
    if inject:
        norm, _, conv, norm_again, _, conv_again = block.to_coarse
        low = low + conv_again(
            normed(norm_again, conv(normed(norm, high).clamp(min=0))).clamp(min=0)
        )
    got_low, got_high = block(coarse, fine)
    assert_close(got_low, low)
    assert_close(got_high, high)


def test_attention_starts_small():
    ours = network().backbone
    for block in ours.blocks:
        assert float(block.coarse_attention.key.weight.detach().std()) == pytest.approx(
            0.001, rel=0.05
        )
        assert float(block.fine_attention.key_value[2].weight.detach().std()) == pytest.approx(
            0.02, rel=0.05
        )
