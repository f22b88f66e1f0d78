import math

import pytest
import torch
from torch.testing import assert_close

from featherseg.layers.align import FlowAlignment, warp, warp_rows
from featherseg.layers.resize import resize


def test_without_flow_it_is_a_bilinear_resize_between_corners():
    coarse = torch.randn(2, 3, 5, 7)
    assert_close(
        warp(coarse, torch.zeros(2, 2, 10, 13)), resize(coarse, (10, 13), align_corners=True)
    )


def test_flow_moves_right_and_down_in_units_of_half_a_map():
    x = torch.arange(5.0).view(1, 1, 1, 5).expand(1, 1, 5, 5)  # every row 0 1 2 3 4
    flow = torch.zeros(1, 2, 5, 5)
    flow[:, 0] = 5 / 2  # normalised 0.5 of -1..1, a quarter of the 4 pixels between the corners
    assert_close(warp(x, flow)[0, 0, 2, :4], torch.tensor([1.0, 2.0, 3.0, 4.0]))
    assert_close(warp(x.mT, flow.flip(1))[0, 0, :4, 2], torch.tensor([1.0, 2.0, 3.0, 4.0]))
    wide = torch.zeros(1, 2, 5, 9)
    wide[:, 1] = 5 / 2  # of the height, whatever the width
    assert_close(warp(x.mT, wide)[0, 0, :4, 2], torch.tensor([1.0, 2.0, 3.0, 4.0]))


def test_outside_the_coarse_map_there_is_nothing():
    flow = torch.full((1, 2, 4, 4), 100.0)
    assert warp(torch.ones(1, 1, 3, 3), flow).abs().max() == 0


def test_positions_are_in_full_precision_under_autocast():
    layer = FlowAlignment(4, flow_channels=2)
    fine, coarse = torch.randn(1, 4, 30, 40), torch.randn(1, 4, 15, 20)
    with torch.no_grad():
        layer.flow.weight.zero_()
        exact = layer(fine, coarse)
        with torch.autocast("cpu", dtype=torch.bfloat16):
            mixed = layer(fine, coarse)
    assert_close(mixed.float(), exact)


@pytest.mark.parametrize("coarse", [(5, 7), (1, 1), (1, 6), (4, 3)])
@pytest.mark.parametrize("far", [0.0, 3.0, 100.0, 1e9, 1e30])
def test_gathered_rows_are_what_sampling_gives(coarse, far):
    x, flow = torch.randn(3, 4, *coarse), torch.randn(3, 2, 9, 14) * far
    assert_close(warp_rows(x, flow), warp(x, flow), atol=2e-5, rtol=0)


@pytest.mark.parametrize("value", [math.inf, -math.inf, math.nan])
def test_gathered_rows_are_nan_where_sampling_is(value):
    x, flow = torch.randn(2, 4, 3, 5), torch.zeros(2, 2, 6, 8)
    flow[1, 0, 2, 3] = flow[0, 1, 5, 0] = value
    assert warp(x, flow).isnan().sum() == 2 * 4
    assert_close(warp_rows(x, flow), warp(x, flow), equal_nan=True)


def test_the_form_for_graphs_aligns_alike():
    layer = FlowAlignment(4, flow_channels=2).eval()
    fine, coarse = torch.randn(2, 4, 11, 6), torch.randn(2, 4, 6, 3)
    form = layer.for_graph(1, channels_last=False)
    assert layer.for_graph(1, channels_last=True) is layer
    assert form.state_dict().keys() == layer.state_dict().keys()
    assert_close(form(fine, coarse), layer(fine, coarse))
