"""Against the authors' network (tests/golden), its measured counts, and loops over the figures."""

import pytest
import torch
from support.golden.peer import Peer
from support.models.seeded import seeded
from torch.testing import assert_close

from featherseg.exporters.parity import perturb
from featherseg.models.pidnet import (
    VARIANTS,
    AttentionPick,
    BoundaryFusion,
    LightBoundaryFusion,
    ParallelAggregationPooling,
    PIDNet,
    PIDNetConfig,
)

COUNTS = {  # as `figures` says
    "pidnet-s": (
        7.626,
        7.643,
        7.721,
        47.194,
        47.582,
        5.968,
    ),  # measured: 47.581, cut off; ours is 47.581526
    "pidnet-m": (28.539, 28.555, 28.763, 177.329, 178.089, 22.235),
    "pidnet-l": (36.940, 36.973, 37.314, 274.933, 275.844, 34.504),
}
WITH_AUX = {"pidnet-s": 50.30, "pidnet-m": 184.66, "pidnet-l": 287.18}
"""GMACs at 1024x2048 of 19 classes, rounded twice: 50.295 before, of 50.2949."""


class TestPIDNet(Peer):
    model, config, variants, name = PIDNet, PIDNetConfig, VARIANTS, "pidnet-s"
    reference = "pidnet_s"
    counts = COUNTS
    costs_with_aux = WITH_AUX
    aux_keys = ("seghead_p.", "seghead_d.")
    maps = [(32, 25, 33), (64, 13, 17), (64, 13, 17), (128, 13, 17), (512, 2, 3)]


network = TestPIDNet.network


@pytest.mark.parametrize(("theirs", "ours"), [
    ("layer4.3.conv2.weight", "backbone.context.3.3.branch.3.weight"),
    ("layer3_d.conv1.weight", "backbone.boundary.0.branch.0.weight"),
    ("layer4_d.bn2.weight", "backbone.boundary.1.branch.4.weight"),
    ("diff4.1.bias", "backbone.difference.1.1.bias"),
    ("spp.process3.2.weight", "pooling.process.2.2.weight"),
    ("spp.compression.0.weight", "pooling.compress.0.weight"),
    ("dfm.conv.2.weight", "fuse.fuse.2.weight"),
    ("layer5_d.0.downsample.1.bias", "boundary.0.shortcut.1.bias"),
])  # fmt: skip
def test_the_large_network_s_own_keys_find_their_place(theirs, ours):
    with torch.device("meta"):
        model = network("pidnet-l")
    assert ours in model.state_dict()
    assert ours in model.rename_official({theirs: torch.zeros(1)})[0]


@torch.no_grad()
def test_details_are_replaced_by_context_where_both_agree():
    pick, details, context = (
        perturb(AttentionPick(4, 3).eval()),
        seeded(2, 4, 6, 8),
        seeded(2, 4, 6, 8).flip(1),
    )
    ours, theirs, found = (
        pick.details_key(details),
        pick.context_key(context),
        pick(details, context),
    )
    for b in range(2):
        for r in range(6):
            for c in range(8):
                share = 1 / (1 + (-(ours[b, :, r, c] @ theirs[b, :, r, c])).exp())
                expected = share * context[b, :, r, c] + (1 - share) * details[b, :, r, c]
                assert_close(found[b, :, r, c], expected)


@torch.no_grad()
@pytest.mark.parametrize("kind", [BoundaryFusion, LightBoundaryFusion])
def test_at_a_sure_boundary_details_count_and_far_from_one_context(kind):
    fuse = perturb(kind(4).eval())
    details, context, sure = (
        seeded(1, 4, 5, 6),
        seeded(1, 4, 5, 6).flip(2),
        torch.full((1, 4, 5, 6), 50.0),
    )
    if kind is BoundaryFusion:
        assert_close(fuse(details, context, sure), fuse.fuse(details))
        assert_close(fuse(details, context, -sure), fuse.fuse(context))
    else:
        assert_close(
            fuse(details, context, sure), fuse.details(details) + fuse.context(context + details)
        )
        assert_close(
            fuse(details, context, -sure), fuse.details(context + details) + fuse.context(context)
        )


@torch.no_grad()
def test_the_parallel_pooling_adds_the_finest_scale_to_each_and_keeps_them_apart():
    model, x = perturb(ParallelAggregationPooling(6, 2, 4).eval()), seeded(1, 6, 9, 7)
    before = model.process(torch.zeros(1, 8, 9, 7))
    changed = model.process(torch.cat([torch.zeros(1, 6, 9, 7), torch.ones(1, 2, 9, 7)], dim=1))
    assert torch.equal(before[:, :6], changed[:, :6])  # a group each
    assert not torch.equal(before[:, 6:], changed[:, 6:])
    for scale in model.scales:
        torch.nn.init.zeros_(scale[1][2].weight)
    finest = model.finest(x)
    expected = model.compress(
        torch.cat([finest, model.process(finest.repeat(1, 4, 1, 1))], dim=1)
    ) + model.shortcut(x)
    assert_close(model(x), expected)
