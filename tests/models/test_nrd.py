"""Held against the authors' network (tests/golden), its counts, and a loop over cells."""

import pytest
import torch
from support.golden.peer import Peer
from support.golden.peer_golden import golden
from support.models.seeded import seeded64 as seeded
from torch.testing import assert_close

from featherseg.backbones.weights import load_official
from featherseg.exporters.parity import perturb
from featherseg.models.nrd import NRD, VARIANTS, NRDConfig, PatchNetworks


@pytest.mark.seconds
class TestNRD(Peer):
    model, config, variants, name = NRD, NRDConfig, VARIANTS, "nrd-r50"
    reference = "nrd_r50"
    counts = {"nrd-r50": (43.573, None, 45.938, 234.187, 235.629, None)}
    aux_keys = ("auxiliary_head.",)
    maps = [(256, 25, 33), (512, 13, 17), (1024, 7, 9), (2048, 4, 5)]
    test_with_its_auxiliary_heads_it_costs_what_was_measured = None  # not measured


@pytest.mark.seconds
def test_the_classifier_that_the_authors_do_not_use_is_listed():
    """Its 9,747 parameters are in the 45.948 M that were measured on their network."""
    ours = TestNRD.network(classes=19)
    unused = load_official(ours, golden("nrd_r50").state())
    assert unused == ["decode_head.conv_seg.weight", "decode_head.conv_seg.bias"]


@pytest.mark.parametrize("few_dimensions", [False, True])
@torch.no_grad()
def test_every_cell_runs_its_own_network_on_its_patch(few_dimensions):
    layer = perturb(PatchNetworks(3).double().eval())
    layer.few_dimensions = few_dimensions
    guidance, weights, bias = seeded(1, 16, 16, 24), seeded(1, 624, 2, 3), seeded(1, 3, 2, 3)
    out = layer(guidance, weights, bias)
    for y, x in ((0, 0), (5, 8), (7, 23), (15, 16)):
        seen = torch.cat([torch.tensor([x % 8 / 8, y % 8 / 8]).double(), guidance[0, :, y, x]])
        scale = layer.norm.weight / (layer.norm.running_var + layer.norm.eps).sqrt()
        hidden = (seen - layer.norm.running_mean) * scale + layer.norm.bias
        own = weights[0, :, y // 8, x // 8].tolist()
        for inputs in (18, 16):
            matrix = [[own.pop(0) for _ in range(inputs)] for _ in range(16)]
            biases = [own.pop(0) for _ in range(16)]
            hidden = torch.tensor(
                [
                    max(0.0, sum(w * float(h) for w, h in zip(row, hidden, strict=True)) + b)
                    for row, b in zip(matrix, biases, strict=True)
                ]
            ).double()
        logits = [sum(own.pop(0) * float(h) for h in hidden) for _ in range(3)]
        expected = torch.tensor(logits).double() + bias[0, :, y // 8, x // 8]
        assert_close(out[0, :, y, x], expected, atol=1e-5, rtol=1e-5)  # sums in float32
        assert own == []
