"""Held against the authors' network (tests/golden), its counts, and a loop over places."""

import math
from fractions import Fraction

import pytest
import torch
from support.golden.peer import Peer
from support.models.seeded import seeded64 as seeded
from torch.testing import assert_close

from featherseg.costs.papers import Counting, parameters, with_auxiliary
from featherseg.models.ifa import IFA, VARIANTS, IFAConfig, NearestCell


class TestIFA(Peer):
    model, config, variants, name = IFA, IFAConfig, VARIANTS, "ifa-r50"
    reference, misses = "ifa_r50", {"upsampled": True}
    counts = {"ifa-r50": (25.400, None, 27.765, None, None, None)}
    costs_with_aux = {"ifa-r50": 369.865}
    aux_keys = ("auxor.",)
    maps = [(256, 25, 34), (512, 13, 17), (1024, 7, 9), (2048, 4, 5)]


@pytest.mark.seconds
def test_its_row_of_the_frm_paper_counts_the_auxiliary_head():
    counting = Counting(model="ifa-r50", size=(1024, 1024))
    plain = parameters(counting)
    params, figures = with_auxiliary(counting)
    assert (f"{plain.value:.3f}", f"{params.value:.3f}") == ("25.400", "27.765")
    giga = {figure.by: f"{figure.value:.3f}" for figure in figures}
    assert giga["macs, with auxiliary heads"] == "185.743"
    assert giga["ptflops-0.6, with auxiliary heads"] == "186.964"


@torch.no_grad()
@pytest.mark.parametrize(("size", "cells"), [((5, 4), (2, 1)), ((9, 41), (5, 6)), ((3, 7), (3, 7))])
def test_a_place_reads_the_nearest_cell_and_its_offset_in_half_cells(size, cells):
    layer, x = NearestCell().double(), seeded(1, 2, *cells)
    layer.frequencies += seeded(12, 2) / 9
    out = layer(x, size)
    for i in range(size[0]):
        for j in range(size[1]):
            place = [
                Fraction((2 * k + 1) * n, 2 * length) - Fraction(1, 2)
                for k, n, length in ((i, cells[0], size[0]), (j, cells[1], size[1]))
            ]
            row, column = (round(p) for p in place)  # of two equally near, the even one
            offset = torch.tensor([2 * float(p - round(p)) for p in place], dtype=torch.float64)
            phase = layer.frequencies @ offset
            known = torch.cat([offset, phase.sin(), phase.cos(), x[0, :, row, column]])
            assert_close(out[0, :, i, j], known, atol=1e-12, rtol=1e-12)


def test_frequencies_start_at_powers_of_two_for_each_axis():
    frequencies = NearestCell().frequencies.tolist()
    assert frequencies[3] == pytest.approx([12.125732421875, 0.0])  # as in the golden
    assert frequencies[9] == pytest.approx([0.0, 2**3.6])
    assert [math.log2(dy) for dy, _ in frequencies[:6]] == pytest.approx([0, 1.2, 2.4, 3.6, 4.8, 6])
