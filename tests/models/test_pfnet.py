"""Held against the authors' network (tests/golden), its counts, and a loop over points."""

import pytest
import torch
import torch.nn.functional as F
from support.golden.peer import Peer
from support.golden.peer_golden import gmacs, golden
from support.models.seeded import seeded64 as seeded
from torch.testing import assert_close

from featherseg.exporters.parity import perturb
from featherseg.layers.pooling import region_places
from featherseg.losses.boundary import boundary_loss
from featherseg.models.pfnet import VARIANTS, PFNet, PFNetConfig, PointFlow


class AsTheirs(PFNet):
    """Its edges as the authors' modules return them: each at its own size."""

    def forward(self, images, aux=False):
        edges = {}
        hooks = [
            flow.register_forward_hook(lambda _, x, y, i=i: edges.update({f"edge_{8 << i}": y[1]}))
            for i, flow in enumerate(self.decoder.align)
        ]
        out = super().forward(images, aux)
        for hook in hooks:
            hook.remove()
        self.edges = edges
        return out._replace(aux=out.aux | edges)


@pytest.mark.seconds
class TestPFNet(Peer):
    model, config, variants, name = PFNet, PFNetConfig, VARIANTS, "pfnet-r50"
    reference = "pfnet_r50"
    counts = {"pfnet-r50": (32.995, None, 32.995, 684.602, 686.694, None)}
    maps = [(256, 25, 33), (512, 13, 17), (1024, 7, 9), (2048, 4, 5)]
    test_with_its_auxiliary_heads_it_costs_what_was_measured = None  # they have no parameters
    test_weights_without_auxiliary_heads_leave_them_as_they_are = None

    @pytest.mark.seconds
    def test_the_reference_s_logits_come_out(self):
        reference, theirs = golden(self.reference), AsTheirs(VARIANTS[self.name].config, 19)
        misses = reference.misses(theirs, upsampled=True)
        assert [miss for miss in misses if miss[1] == "main"] == []
        outputs = reference.run(theirs, {}, upsampled=False)
        for case in reference.reference["cases"]:
            for name in ("edge_8", "edge_16", "edge_32"):
                known, edge = case["outputs"][name], outputs[case["name"]][name]
                assert list(edge.shape) == known["shape"]
                assert edge.mean() == pytest.approx(known["mean"], rel=1e-6)
                assert abs(edge).sum() == pytest.approx(known["abs_sum"], rel=1e-6)


@pytest.mark.seconds
def test_its_row_of_the_frm_paper_is_counted_to_the_last_digit():
    with torch.device("meta"):
        ours = TestPFNet.network(classes=19).eval()
    assert f"{gmacs(ours, (720, 1280))['ptflops-0.6']:.3f}" == "302.102"


@torch.no_grad()
@pytest.mark.parametrize(("size", "points"), [((4, 6), 5), ((3, 3), 99)])
def test_points_of_the_fine_map_get_what_they_match_in_the_coarse_one(size, points):
    layer = PointFlow(8, max_pool=2, mean_pool=3, edge_points=points)
    layer = perturb(layer.double().eval())
    (height, width), (fine, coarse) = size, (seeded(8, 2 * size[0], 2 * size[1]), seeded(8, *size))
    out, edge = (x[0] for x in layer(fine[None], coarse[None]))
    lowered = F.interpolate(
        layer.down_fine(fine[None]), size=size, mode="bilinear", align_corners=True
    )
    certainty = layer.match(torch.cat([layer.down_coarse(coarse[None]), lowered], 1)).sigmoid()
    smooth = F.interpolate(
        F.adaptive_avg_pool2d(certainty, 3), size=size, mode="bilinear", align_corners=True
    )
    assert_close(edge, layer.edge(coarse[None] * (1 - smooth))[0])

    def mixed(values, queries):
        weights = [torch.stack([q @ v for v in values]).softmax(0) for q in queries]
        return [
            q + sum(w * v for w, v in zip(row, values, strict=True))
            for q, row in zip(queries, weights, strict=True)
        ]

    expected = fine.clone()
    cells = edge.flatten().argsort(descending=True)[:points].tolist()
    at = [divmod(cell, width) for cell in cells]
    four = [fine[:, 2 * i : 2 * i + 2, 2 * j : 2 * j + 2].mean((1, 2)) for i, j in at]  # centres
    for (i, j), value in zip(at, mixed([coarse[:, i, j] for i, j in at], four), strict=True):
        expected[:, 2 * i, 2 * j] = value
    best, places = F.adaptive_max_pool2d(certainty, 2, return_indices=True)
    raised = coarse * (1 + F.interpolate(best, size=size, mode="bilinear", align_corners=True)[0])
    at = [divmod(place, width) for place in places.flatten().tolist()]
    values = mixed([raised[:, i, j] for i, j in at], [fine[:, 2 * i, 2 * j] for i, j in at])
    for (i, j), value in zip(at, values, strict=True):
        expected[:, 2 * i, 2 * j] = value
    assert height * width > len(set(at))
    assert_close(out, expected, atol=1e-10, rtol=1e-10)


@pytest.mark.parametrize("size", [(4, 8), (7, 5), (31, 40)])
@pytest.mark.parametrize("k", [3, 14])
def test_regions_are_largest_where_torch_s_pool_finds_them(size, k):
    x = (seeded(2, 1, *size) * 2).round()  # many are equal
    assert torch.equal(
        region_places(x, k), F.adaptive_max_pool2d(x, k, return_indices=True)[1][:, 0]
    )


def test_every_map_of_edges_is_judged():
    logits, targets = seeded(2, 3, 5, 6).float(), (seeded(2, 5, 6) > 0).float()
    each = [boundary_loss(logits[:, i : i + 1], targets) for i in range(3)]
    assert_close(boundary_loss(logits, targets), sum(each))
