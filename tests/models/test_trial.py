"""The attention of the trial model is its loops; its table costs what torch counts, and does not decay."""

import torch
from seeded import seeded64 as seeded
from torch.testing import assert_close
from torch.utils.flop_counter import FlopCounterMode

from featherseg.counting.cost import by_convention, count_layers
from featherseg.losses import CrossEntropy
from featherseg.models import build
from featherseg.models.trial import TableAttention
from featherseg.recipe import parse_recipe, read_recipe
from featherseg.training.optimisers import build_optimizer


@torch.no_grad()
def test_every_position_attends_to_the_table():
    block, x = TableAttention(4, 3).double(), seeded(1, 4, 2, 3)
    expected = x.clone()
    for r in range(2):
        for c in range(3):
            scores = (block.keys @ x[0, :, r, c]).exp()
            expected[0, :, r, c] += sum(s / scores.sum() * v for s, v in zip(scores, block.values, strict=True))
    assert_close(block(x), expected)


def test_the_table_costs_what_torch_counts():
    block, x = TableAttention(4, 3), torch.zeros(2, 4, 5, 7)
    with FlopCounterMode(display=False) as counter:
        block(x)
    assert by_convention(count_layers(block, x)[0])["macs"] == counter.get_total_flops() // 2


def test_the_table_does_not_decay():
    model = build("trial-r18", 5)
    train = parse_recipe(read_recipe("trial-r18_camvid")).train
    undecayed = [
        g["params"] for g in build_optimizer(model, CrossEntropy(), train).param_groups if not g["weight_decay"]
    ]
    assert {id(model.attention.keys), id(model.attention.values)} <= {id(p) for group in undecayed for p in group}
