import itertools
import math

import pytest
import torch
import torch.nn.functional as F
from torch.testing import assert_close

from featherseg.layers.position_bias import (
    PositionBias,
    _centred,
    offsets,
    resample_rows,
    resize_table,
)

CPU = torch.device("cpu")


def by_first_appearance(side, stride):
    """Number offsets like the authors: in the order that a scan of queries and keys meets them."""
    queries = list(itertools.product(range(math.ceil(side / stride)), repeat=2))
    numbers, rows = {}, []
    for q in queries:
        row = []
        for key in itertools.product(range(side), repeat=2):
            offset = (abs(q[0] * stride - key[0]), abs(q[1] * stride - key[1]))
            row.append(numbers.setdefault(offset, len(numbers)))
        rows.append(row)
    return torch.tensor(rows)


def keys_kernel(distance, a=-0.75):
    """Cubic convolution (Keys, 1981)."""
    d = abs(distance)
    if d <= 1:
        return (a + 2) * d**3 - (a + 3) * d**2 + 1
    return a * d**3 - 5 * a * d**2 + 8 * a * d - 4 * a if d < 2 else 0.0


def bias_of(side, stride=1, heads=3):
    bias = PositionBias(heads, side, stride=stride).double()
    with torch.no_grad():
        bias.table.uniform_(-1, 1, generator=torch.Generator().manual_seed(0))
    return bias


@pytest.mark.parametrize(("side", "stride"), [(16, 1), (7, 1), (8, 2), (7, 2)])
def test_offsets_are_numbered_as_the_authors_number_them(side, stride):
    own = math.ceil(side / stride)
    assert torch.equal(
        offsets((own, own), (side, side), stride, CPU), by_first_appearance(side, stride)
    )


@pytest.mark.parametrize("stride", [1, 2])
@pytest.mark.parametrize("how", ["flattened", "two-dimensional"])
def test_at_its_own_size_every_pair_gets_the_entry_of_its_offset(how, stride):
    bias = bias_of(8, stride)
    bias.how = how
    own = 8 // stride
    assert torch.equal(bias((own, own), (8, 8)), bias.table[:, by_first_appearance(8, stride)])


@pytest.mark.parametrize(
    ("length", "wanted"), [(1, 1), (1, 5), (6, 6), (6, 1), (6, 3), (6, 25), (9, 7), (16, 165)]
)
def test_rows_are_read_between_by_the_cubic_kernel(length, wanted):
    rows = torch.randn(length, 2, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    expected = torch.zeros(wanted, 2, dtype=torch.float64)
    for i in range(wanted):
        position = (i + 0.5) * length / wanted - 0.5
        for near in range(math.floor(position) - 1, math.floor(position) + 3):
            expected[i] += keys_kernel(position - near) * rows[min(max(near, 0), length - 1)]
    assert_close(resample_rows(rows, *_centred(length, wanted, CPU)), expected, atol=1e-12, rtol=0)


@pytest.mark.parametrize("size", [(16, 16), (4, 6), (1, 2), (33, 12), (165, 660)])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_what_an_export_holds_equals_torchs_bicubic_resize(size, dtype):
    x = torch.randn(2, 16, 64, dtype=dtype, generator=torch.Generator().manual_seed(0))
    columns = resample_rows(x.mT, *_centred(64, size[1], CPU)).mT
    ours = resample_rows(columns, *_centred(16, size[0], CPU))
    theirs = F.interpolate(x.double()[None], size=size, mode="bicubic", align_corners=False)[0]
    assert_close(ours.double(), theirs, atol=1e-6 if dtype == torch.float32 else 1e-12, rtol=0)


@pytest.mark.parametrize(
    ("queries", "keys"), [((2, 3), (4, 6)), ((5, 9), (10, 18)), ((1, 1), (1, 1))]
)
def test_the_flattened_bias_is_the_tables_matrix_resized_as_an_image(queries, keys):
    bias = bias_of(8, stride=2)
    matrix = bias.table[:, by_first_appearance(8, 2)]
    expected = F.interpolate(
        matrix[None], size=(math.prod(queries), math.prod(keys)), mode="bicubic"
    )[0]
    assert_close(bias(queries, keys), expected, atol=1e-12, rtol=0)


@pytest.mark.parametrize(
    ("queries", "keys"), [((4, 6), (8, 12)), ((3, 2), (5, 3)), ((1, 4), (1, 8))]
)
def test_two_dimensional_keeps_one_value_an_offset_and_that_of_offset_zero(queries, keys):
    bias = bias_of(8, stride=2)
    bias.how = "two-dimensional"
    found, index = bias(queries, keys), offsets(queries, keys, 2, CPU)
    for number in index.unique():
        values = found[:, index == number]
        assert_close(values, values[:, :1].expand_as(values))
    assert_close(found[:, 0, 0], bias.table[:, 0])


def test_a_table_that_grows_linearly_with_the_offset_still_does_when_resized():
    """Offset d of 16 becomes offset 2 d of 32."""
    row, column = torch.meshgrid(torch.arange(16.0), torch.arange(16.0), indexing="ij")
    table = (row + 10 * column).reshape(1, 256).double()
    resized = resize_table(table, (32, 16)).view(32, 16)
    assert_close(resized[4:24, 5], torch.arange(4.0, 24.0).double() / 2 + 50)
    assert_close(resized[8, 3:12], 4 + 10 * torch.arange(3.0, 12.0).double())


@pytest.mark.parametrize("how", ["flattened", "two-dimensional"])
def test_it_keeps_nothing_but_its_table(how):
    bias = bias_of(4)
    bias.how = how
    before = bias((3, 5), (3, 5))
    with torch.no_grad():
        bias.table.mul_(-2)
    assert list(bias.state_dict()) == ["table"]
    assert_close(bias((3, 5), (3, 5)), -2 * before)
    bias((3, 5), (3, 5)).sum().backward()
    assert bias.table.grad.count_nonzero() > 0
