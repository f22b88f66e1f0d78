"""A dilated depthwise convolution by phases is the convolution itself."""

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn
from torch.testing import assert_close

from featherseg.layers.dilated_depthwise import PhaseSplitConv2d, splits

axis = st.tuples(st.integers(1, 4), st.integers(1, 3), st.integers(0, 2), st.integers(1, 17))
"""Kernel, dilation, padding in dilations, what the side is longer than the kernel's reach needs."""


@settings(max_examples=60)
@given(rows=axis, columns=axis, batch=st.integers(1, 2), bias=st.booleans())
def test_it_gives_what_torch_gives_at_every_size(rows, columns, batch, bias):
    kernel, dilation, padding, size = (
        tuple(values)
        for values in zip(
            *(
                (k, d, p * d, max(1, d * (k - 1) - 2 * p * d) + extra)
                for k, d, p, extra in (rows, columns)
            ),
            strict=True,
        )
    )
    options = {
        "padding": padding,
        "dilation": dilation,
        "groups": 3,
        "bias": bias,
        "dtype": torch.float64,
    }
    plain, split = nn.Conv2d(3, 3, kernel, **options), PhaseSplitConv2d(3, 3, kernel, **options)
    split.load_state_dict(plain.state_dict())
    x = torch.randn(batch, 3, *size, dtype=torch.float64)
    assert_close(split(x), plain(x))


@pytest.mark.parametrize(
    ("options", "expected"),
    [
        ({}, True),
        ({"dilation": 1, "padding": 3}, False),
        ({"stride": 2}, False),
        ({"groups": 2}, False),
        ({"padding": 8}, False),
        ({"padding": "same"}, False),
        ({"padding_mode": "reflect"}, False),
    ],
)
def test_what_it_cannot_compute_is_told(options, expected):
    usual = {"kernel_size": 7, "padding": 9, "dilation": 3, "groups": 4}
    assert splits(nn.Conv2d(4, 4, **{**usual, **options})) is expected


def test_a_channels_last_map_stays_one():
    conv = PhaseSplitConv2d(4, 4, 7, padding=9, dilation=3, groups=4)
    x = torch.randn(1, 4, 9, 12).contiguous(memory_format=torch.channels_last)
    assert conv(x).is_contiguous(memory_format=torch.channels_last)


def test_an_exported_graph_holds_the_convolution_itself_for_every_size():
    conv = PhaseSplitConv2d(4, 4, 7, padding=9, dilation=3, groups=4)
    any_size = {2: torch.export.Dim.DYNAMIC, 3: torch.export.Dim.DYNAMIC}
    exported = torch.export.export(
        conv, (torch.randn(1, 4, 9, 12),), dynamic_shapes=(any_size,)
    ).module()
    x = torch.randn(1, 4, 10, 17)
    assert_close(exported(x), conv(x))
