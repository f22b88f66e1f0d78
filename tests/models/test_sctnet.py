"""Against the authors' inference network (tests/golden), its measured counts, and loops."""

import pytest
import torch
import torch.nn.functional as F
from support.golden.peer import Peer
from support.golden.peer_golden import gmacs, golden
from support.models.seeded import seeded64 as seeded
from torch.testing import assert_close

from featherseg.backbones.weights import load_official
from featherseg.core.errors import WeightsError
from featherseg.costs.cost import by_convention, count_layers, count_parameters
from featherseg.exporters.parity import perturb
from featherseg.models.sctnet import VARIANTS, CFBlock, ConvolutionalAttention, SCTNet, SCTNetConfig

# M parameters of 19 classes; GMACs of 19 at 1024x2048, of 150 at 512x512, of 19 at 768x1536
COUNTS = {
    "sctnet-s": (4.655, 32.026, 4.072, 18.0),
    "sctnet-b": (17.438, 119.523, 15.078, 67.2),
}


class TestSCTNet(Peer):
    model, config, variants, name = SCTNet, SCTNetConfig, VARIANTS, "sctnet-s"
    reference = "sctnet_s"
    misses = {"upsampled": True}
    counts = COUNTS
    maps = [(32, 25, 33), (64, 13, 17), (128, 7, 9), (256, 4, 5)]
    test_with_its_auxiliary_heads_it_costs_what_was_measured = None  # not measured

    def measured(self, name):
        with torch.device("meta"):
            small, large = network(name, 19).eval(), network(name, 150).eval()
        millions = (count_parameters(small) - count_parameters(small.aux_heads)) / 1e6
        products = [
            gmacs(model, size)["macs"]
            for model, size in ((small, (1024, 2048)), (large, (512, 512)))
        ]
        return (
            *(round(figure, 3) for figure in (millions, *products)),
            round(gmacs(small, (768, 1536))["macs"], 1),
        )


network = TestSCTNet.network


@pytest.mark.seconds
def test_weights_of_its_own_parts_are_asked_for_by_name():
    ours, state = network(classes=19), golden("sctnet_s").state()
    with pytest.raises(WeightsError, match=r"missing: backbone\.last\.0\.attention\.horizontal"):
        load_official(ours, {k: v for k, v in state.items() if k != "backbone.layer4.attn_l.kv3"})
    with pytest.raises(WeightsError, match=r"shape of backbone\.stem\.0\.weight"):
        load_official(network("sctnet-b", 19), state)
    both = state | {"decode_head.conv_seg.bias": state["decoder.conv_seg.bias"]}
    with pytest.raises(WeightsError, match=r"unexpected: decoder\.conv_seg\.bias"):
        load_official(ours, both)


def as_trained(state):
    """Return the reference's keys as in the authors' training, with both auxiliary heads."""
    state = {key.replace("decoder.", "decode_head.", 1): value for key, value in state.items()}
    norm = {"weight": 64, "bias": 64, "running_mean": 64, "running_var": 64}
    shapes = {f"{name}.{key}": (size,) for name in ("bn1", "bn2") for key, size in norm.items()}
    shapes |= {
        "conv1.weight": (64, 64, 3, 3),
        "conv1.bias": (64,),
        "conv_seg.weight": (19, 64, 1, 1),
        "conv_seg.bias": (19,),
    }
    state |= {f"auxiliary_head.0.{key}": seeded(*shape).abs() for key, shape in shapes.items()}
    return state | {"auxiliary_head.1.teacher_head.linear_pred.weight": torch.zeros(19, 256, 1, 1)}


@pytest.mark.seconds
def test_what_training_saves_loads_with_its_auxiliary_head_and_without_the_teacher():
    ours, plain = network(classes=19).double().eval(), golden("sctnet_s").state()
    state = as_trained(plain)
    assert load_official(ours, state) == ["auxiliary_head.1.teacher_head.linear_pred.weight"]
    with torch.no_grad():
        out = ours(seeded(1, 3, 40, 72), aux=True)
        alone = network(classes=19).double().eval()
        load_official(alone, plain)
        assert torch.equal(out.logits, alone(seeded(1, 3, 40, 72)).logits)
        x = ours.encode(seeded(1, 3, 40, 72))[1]  # (1, 64, 5, 9)
        head = {key.removeprefix("auxiliary_head.0."): value for key, value in state.items()}
        for norm, conv, padding in (("bn1", "conv1", 1), ("bn2", "conv_seg", 0)):
            mean, var, weight, bias = (
                head[f"{norm}.{k}"] for k in ("running_mean", "running_var", "weight", "bias")
            )
            x = F.batch_norm(x, mean, var, weight, bias).relu()
            x = F.conv2d(x, head[f"{conv}.weight"], head[f"{conv}.bias"], padding=padding)
    assert_close(out.aux["aux"], x)
    with pytest.raises(WeightsError, match=r"missing: aux_heads\.aux\.0\.2\.bias"):
        load_official(ours, {k: v for k, v in state.items() if k != "auxiliary_head.0.conv1.bias"})
    with pytest.raises(WeightsError, match=r"unexpected: auxiliary_head\.2\.bn1\.bias"):
        load_official(ours, state | {"auxiliary_head.2.bn1.bias": torch.zeros(64)})


def attend(strips, x):
    """Attend from x (C, h, w) to strips (64, C, 7): scores along columns, and back, in loops."""
    height, width = x.shape[1:]
    scores = torch.zeros(64, height, width, dtype=x.dtype)
    for r in range(height):
        for i in range(max(r - 3, 0), min(r + 4, height)):
            scores[:, r] += torch.einsum("mc,cw->mw", strips[:, :, i - r + 3], x[:, i])
    weights = torch.stack([s.exp() / s.exp().sum() for s in scores])
    for head in range(8):
        weights[8 * head : 8 * head + 8] /= weights[8 * head : 8 * head + 8].sum(0) + 1e-6
    out = torch.zeros_like(x)
    for r in range(height):
        for i in range(max(r - 3, 0), min(r + 4, height)):
            out[:, r] += torch.einsum("mc,mw->cw", strips[:, :, i - r + 3], weights[:, i])
    return out


@torch.no_grad()
@pytest.mark.parametrize("size", [(9, 4), (2, 11)])
def test_attention_is_its_loops_along_columns_and_rows(size):
    block, x = perturb(ConvolutionalAttention(3).double()), seeded(3, *size)
    norm = block.norm
    scale = norm.weight / (norm.running_var + 1e-5).sqrt()
    normed = (x - norm.running_mean[:, None, None]) * scale[:, None, None] + norm.bias[
        :, None, None
    ]
    expected = (
        attend(block.vertical[..., 0], normed) + attend(block.horizontal[:, :, 0], normed.mT).mT
    )
    assert_close(block(x[None])[0], expected, atol=1e-12, rtol=1e-12)


def test_attention_costs_two_convolutions_along_each_side():
    layers, _ = count_layers(ConvolutionalAttention(3), torch.zeros(2, 3, 5, 4))
    assert by_convention(layers)["macs"] == 2 * 2 * (2 * 5 * 4) * 64 * 3 * 7


@torch.no_grad()
def test_a_block_adds_both_branches():
    block, x = perturb(CFBlock(3).double()), seeded(1, 3, 5, 4)
    middle = x + block.attention(x)
    assert_close(block(x), middle + block.feed_forward(middle))
