import math

import pytest
import torch
from support.models.seeded import seeded64 as seeded
from torch.testing import assert_close

from featherseg.exporters.parity import perturb
from featherseg.layers.external_attention import ConvFeedForward, double_normalise


@pytest.mark.parametrize("heads", [1, 2, 6])
def test_scores_are_normalised_over_positions_then_within_each_head(heads):
    scores, keys = seeded(6, 3, 4), 6 // heads
    expected = scores.exp()
    for key in range(6):
        expected[key] /= sum(math.exp(float(s)) for s in scores[key].flatten())
    for head in range(heads):
        group = expected[head * keys : (head + 1) * keys]
        group /= sum(group) + 1e-6
    assert_close(double_normalise(scores[None], heads)[0], expected, atol=1e-14, rtol=1e-12)


def test_half_precision_is_rounded_once_at_the_end():
    scores = seeded(1, 6, 16, 16).bfloat16()
    weights = double_normalise(scores, heads=2)
    assert weights.dtype == torch.bfloat16
    assert_close(weights.double(), double_normalise(scores.double(), heads=2), atol=0, rtol=2**-8)


@torch.no_grad()
def test_the_feed_forward_network_normalises_with_its_small_eps():
    block, x = perturb(ConvFeedForward(3).double()), seeded(2, 3, 5, 4)
    norm = block.norm
    scale = norm.weight / (norm.running_var + 1e-6).sqrt()
    normed = (x - norm.running_mean[:, None, None]) * scale[:, None, None] + norm.bias[
        :, None, None
    ]
    hidden = block.expand(normed)
    assert_close(
        block(x),
        block.project(hidden * 0.5 * (1 + torch.erf(hidden / math.sqrt(2)))),
        atol=1e-12,
        rtol=0,
    )
