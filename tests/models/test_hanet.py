"""Held against the authors' network (tests/golden), its counts, and its table of positions."""

import math

import pytest
import torch
import torch.nn.functional as F
from support.golden.peer import Peer
from support.golden.peer_golden import Golden, golden
from support.models.seeded import seeded64 as seeded
from torch.testing import assert_close

from featherseg.costs.papers import Counting, with_auxiliary
from featherseg.exporters.parity import perturb
from featherseg.models.hanet import VARIANTS, HANet, HANetConfig, HeightAttention, position_table

CONSTRUCTED = "constructor_values_not_from_the_recipe"


class AtRows(HANet):
    """The network for a crop of rows `first` to `last` of an image of 1024 rows."""

    first, last = 0, 1024

    def positions(self, device):
        rows = (torch.arange(self.first, self.last) // 8 // 8).double()
        return F.interpolate(rows[None, None], size=16, mode="nearest")[0, 0].long()


@pytest.mark.seconds
class TestHANet(Peer):
    model, config, variants, name = HANet, HANetConfig, VARIANTS, "hanet-r101"
    reference = "hanet_r101"
    counts = {  # measured, without the tables of positions, which are parameters in theirs
        "hanet-r101": (60.693, None, 65.423, 765.531, None, None),
        "hanet-r101-os8": (60.072, None, 64.802, 2137.763, None, None),
        "hanet-r50": (41.577, None, 46.307, 553.735, None, None),
    }
    aux_keys = ("dsn.",)
    maps = [(256, 25, 33), (512, 13, 17), (1024, 7, 9), (2048, 7, 9)]
    test_with_its_auxiliary_heads_it_costs_what_was_measured = None  # not measured

    @pytest.mark.seconds
    @pytest.mark.parametrize("number", [0, 1])
    def test_the_reference_s_logits_come_out(self, number):
        whole = golden(self.reference)
        case = whole.reference["cases"][number]
        theirs = AtRows(VARIANTS[self.name].config, 19)
        theirs.first, theirs.last = case.get("pos_rows", (0, 1024))
        logits, head = ({k: case["outputs"][k]} for k in ("main", "aux"))
        for outputs, upsampled in ((logits, True), (head, False)):
            one = Golden({"cases": [case | {"outputs": outputs}]}, whole.shapes)
            assert one.misses(theirs, upsampled=upsampled) == []


@pytest.mark.seconds
def test_its_row_of_the_frm_paper_counts_the_auxiliary_head():
    params, _ = with_auxiliary(Counting(model="hanet-r101", size=(720, 1280)))
    tables = 17 * (32 + 64 + 40 + 10)  # parameters in theirs, which never change
    assert params.value.scaleb(6) == 65_425_472 - tables


@pytest.mark.parametrize("number", range(4))
def test_positions_are_those_of_the_authors_constructor(number):
    known = golden("hanet_r101").reference[CONSTRUCTED][
        f"hanet{number}.pos_emb1d_2nd.pos_layer.weight"
    ]
    table = position_table(known["shape"][1])
    assert list(table.shape) == known["shape"]
    assert_close(
        table.flatten()[known["slice32_index"]], torch.tensor(known["slice32"]), atol=1e-6, rtol=0
    )


@torch.no_grad()
def test_rows_of_the_target_are_weighted_by_bands_of_the_source():
    layer = perturb(HeightAttention(8, 3, reduction=2).double().eval())
    source, target = seeded(1, 8, 37, 5), seeded(1, 3, 24, 7)
    bands = torch.stack(
        [source[0, :, i * 37 // 16 : math.ceil((i + 1) * 37 / 16)].mean((1, 2)) for i in range(16)],
        dim=1,
    )  # (8, 16)
    conv, norm, _ = layer.reduce
    rows = F.conv1d(bands[None], conv.weight[..., 0])
    rows = norm(rows[..., None])[..., 0].relu() + layer.positions[:16].mT
    conv, norm, _ = layer.expand
    rows = norm(F.conv1d(rows, conv.weight[..., 0], conv.bias, padding=1)[..., None])[..., 0].relu()
    weights = F.conv1d(rows, layer.weigh.weight[..., 0], layer.weigh.bias, padding=1).sigmoid()
    expected = target * F.interpolate(weights, size=24, mode="linear")[..., None]
    assert_close(layer(source, target, torch.arange(16)), expected, atol=1e-12, rtol=1e-12)


@pytest.mark.seconds
def test_positions_shake_in_training_and_stay_within_the_table():
    torch.manual_seed(0)
    ours = HANet(VARIANTS["hanet-r50"].config, 2)
    drawn = torch.stack([ours.positions(torch.device("cpu")) for _ in range(400)])
    moves = drawn - torch.arange(16)
    assert (drawn.min(), drawn.max()) == (0, 16)
    assert set(moves.unique().tolist()) == {-2, -1, 0, 1, 2}
    assert float((moves[:, 8] == -1).float().mean()) == pytest.approx(0.48, abs=0.1)
    assert torch.equal(ours.eval().positions(torch.device("cpu")), torch.arange(16))
