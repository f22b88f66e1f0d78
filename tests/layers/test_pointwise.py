"""1x1 convolutions by oneDNN are 1x1 convolutions."""

import pytest
import torch
from support.processes.instructions import needs_bf16
from torch import nn
from torch.testing import assert_close

from featherseg.layers.pointwise import PointwiseConv2d, is_pointwise


@pytest.fixture
def one_thread():
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


@pytest.mark.parametrize("dtype", [torch.float32, pytest.param(torch.bfloat16, marks=needs_bf16)])
@pytest.mark.parametrize(("groups", "bias"), [(1, True), (2, False)])
@pytest.mark.parametrize("layout", [torch.contiguous_format, torch.channels_last])
def test_it_gives_what_torch_gives_on_one_thread(one_thread, dtype, groups, bias, layout):
    torch.manual_seed(0)
    plain = nn.Conv2d(8, 6, 1, groups=groups, bias=bias)
    fast = PointwiseConv2d(8, 6, 1, groups=groups, bias=bias)
    fast.load_state_dict(plain.state_dict())
    x = torch.randn(2, 8, 5, 7).contiguous(memory_format=layout)
    tolerance = 1e-5 if dtype == torch.float32 else 0.05
    with torch.no_grad():
        found = fast.to(dtype)(x.to(dtype))
        assert found.dtype == dtype
        assert_close(found.float(), plain(x), atol=tolerance, rtol=tolerance)


def test_it_goes_by_onednn_on_one_thread_and_by_torchs_own_choice_where_a_graph_is_made(one_thread):
    conv, x = PointwiseConv2d(4, 4, 1), torch.randn(1, 4, 3, 3)
    with torch.no_grad(), torch.profiler.profile() as trace:
        conv(x)
    assert "aten::mkldnn_convolution" in {event.name for event in trace.events()}
    targets = {str(node.target) for node in torch.export.export(conv, (x,)).graph.nodes}
    assert "aten.conv2d.default" in targets


@pytest.mark.parametrize(
    ("options", "expected"),
    [({}, True), ({"groups": 2}, True), ({"stride": 2}, False), ({"padding": 1}, False)],
)
def test_only_a_1x1_of_stride_1_without_padding_is_one(options, expected):
    assert is_pointwise(nn.Conv2d(4, 4, 1, **options)) is expected
    assert not is_pointwise(nn.Conv2d(4, 4, 3, **options))
