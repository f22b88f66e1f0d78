import math

import pytest
import torch
import torch.nn.functional as F
from torch.testing import assert_close

from featherseg.layers.pooling import (
    DeepAggregationPooling,
    PyramidPooling,
    RegionMax,
    RegionMean,
    StridedRegionMean,
)


def randomised(layer):
    torch.manual_seed(0)
    for parameter in layer.parameters():
        torch.nn.init.normal_(parameter, std=0.3)
    for name, buffer in layer.named_buffers():
        if name.endswith("running_mean"):
            buffer.normal_(std=0.3)
        elif name.endswith("running_var"):
            buffer.uniform_(0.5, 1.5)
    return layer.double().eval()


def regions(x, k):
    """Means over k x k adaptive windows, window by window: (C, h, w) -> (C, k, k)."""
    height, width = x.shape[1:]
    out = x.new_zeros(len(x), k, k)
    for i in range(k):
        top, bottom = math.floor(i * height / k), math.ceil((i + 1) * height / k)
        for j in range(k):
            left, right = math.floor(j * width / k), math.ceil((j + 1) * width / k)
            out[:, i, j] = x[:, top:bottom, left:right].mean((1, 2))
    return out


def bilinear(x, size, *, align_corners):
    """(C, h, w) -> (C, *size), one output pixel at a time."""

    def place(i, length, wanted):
        if align_corners:
            return i * (length - 1) / (wanted - 1) if wanted > 1 else 0.0
        return min(max((i + 0.5) * length / wanted - 0.5, 0.0), length - 1)

    out = x.new_zeros(len(x), *size)
    for r in range(size[0]):
        for c in range(size[1]):
            y, z = place(r, x.shape[1], size[0]), place(c, x.shape[2], size[1])
            for row, weight_row in ((int(y), 1 - y % 1), (min(int(y) + 1, x.shape[1] - 1), y % 1)):
                for column, weight in (
                    (int(z), 1 - z % 1),
                    (min(int(z) + 1, x.shape[2] - 1), z % 1),
                ):
                    out[:, r, c] += weight_row * weight * x[:, row, column]
    return out


def pointwise(conv, x):
    """A 1x1 convolution without bias, position by position."""
    return torch.einsum("oc,chw->ohw", conv.weight[:, :, 0, 0], x)


def normed(norm, x):
    """A batch norm in evaluation, from its definition: (C, h, w)."""
    parts = (norm.running_mean, norm.running_var, norm.weight, norm.bias)
    mean, var, weight, bias = (part[:, None, None] for part in parts)
    return (x - mean) / (var + norm.eps).sqrt() * weight + bias


@pytest.mark.parametrize("k", [1, 2, 3, 6])
@pytest.mark.parametrize("size", [(1, 1), (2, 2), (5, 7), (6, 6), (23, 40)])
def test_region_means_are_means_over_adaptive_windows(k, size):
    torch.manual_seed(0)
    x = torch.randn(2, 3, *size, dtype=torch.float64)
    expected = torch.stack([regions(image, k) for image in x])
    assert_close(RegionMean(k)(x), expected, atol=1e-12, rtol=0)
    assert_close(F.adaptive_avg_pool2d(x, k), expected, atol=1e-12, rtol=0)


@torch.no_grad()
def test_pyramid_pooling_is_its_loops_over_adaptive_windows():
    layer = randomised(PyramidPooling(5, 4))
    x = torch.randn(2, 5, 7, 9, dtype=torch.float64)
    for image, got in zip(x, layer(x), strict=True):
        priors = []
        for k, branch in zip((1, 2, 3, 6), layer.branches, strict=True):
            mean = normed(branch[2], pointwise(branch[1], regions(image, k)))
            priors.append(bilinear(mean, (7, 9), align_corners=True))
        expected = normed(
            layer.reduce[1], pointwise(layer.reduce[0], torch.cat([*priors, image]))
        ).relu()
        assert_close(got, expected, atol=1e-9, rtol=0)


def windows(x, kernel, stride):
    """An average pool with `stride` zeros around the map, which count: (C, h, w) -> (C, h', w')."""
    channels, height, width = x.shape
    padded = x.new_zeros(channels, height + 2 * stride, width + 2 * stride)
    padded[:, stride : stride + height, stride : stride + width] = x
    rows = range(0, padded.shape[1] - kernel + 1, stride)
    columns = range(0, padded.shape[2] - kernel + 1, stride)
    means = [
        padded[:, r : r + kernel, c : c + kernel].sum((1, 2)) / kernel**2
        for r in rows
        for c in columns
    ]
    return torch.stack(means, 1).view(channels, len(rows), len(columns))


@torch.no_grad()
@pytest.mark.parametrize("size", [(7, 9), (2, 2), (23, 12)])
def test_deep_aggregation_pooling_is_its_loops_over_windows(size):
    layer = randomised(DeepAggregationPooling(5, 3, 4))
    x = torch.randn(1, 5, *size, dtype=torch.float64)

    def block(parts, x):
        norm, _, conv = parts
        x = normed(norm, x).relu()
        return (
            pointwise(conv, x)
            if conv.kernel_size == (1, 1)
            else F.conv2d(x[None], conv.weight, padding=1)[0]
        )

    pools = [
        windows(x[0], 5, 2),
        windows(x[0], 9, 4),
        windows(x[0], 17, 8),
        x[0].mean((1, 2), keepdim=True),
    ]
    maps = [block(layer.finest, x[0])]
    for pooled, scale, process in zip(pools, layer.scales, layer.process, strict=True):
        lifted = bilinear(block(scale[1], pooled), size, align_corners=False)
        maps.append(block(process, lifted + maps[-1]))
    expected = block(layer.compress, torch.cat(maps)) + block(layer.shortcut, x[0])
    assert_close(layer(x)[0], expected, atol=1e-9, rtol=0)


@pytest.mark.parametrize(
    ("layer", "parameters"),
    [(PyramidPooling(1024, 128), 722_176), (DeepAggregationPooling(1024, 128, 128), 1_472_768)],
)
def test_they_weigh_what_the_papers_table_2_forces(
    layer, parameters
):  # 15.23 M and 15.98 M: docs/papers/frm.md
    assert sum(p.numel() for p in layer.parameters()) == parameters


def test_region_means_keep_full_precision_under_autocast():
    x = torch.full((1, 1, 30, 30), 1.0 + 2**-9)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        assert_close(RegionMean(3)(x), torch.full((1, 1, 3, 3), 1.0 + 2**-9), atol=1e-6, rtol=0)


@pytest.mark.parametrize("stride", [2, 4, 8])
@pytest.mark.parametrize("size", [(8, 16), (24, 40), (1, 2), (12, 20), (7, 13)])
def test_strided_region_means_are_adaptive_windows_of_the_strided_size(stride, size):
    x = torch.randn(2, 3, *size, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    wanted = tuple(math.ceil(side / stride) for side in size)
    assert_close(StridedRegionMean(stride)(x), F.adaptive_avg_pool2d(x, wanted), atol=1e-12, rtol=0)


@pytest.mark.parametrize("size", [(1, 1), (2, 3), (7, 24), (25, 12)])
def test_the_largest_values_are_those_of_torch_s_regions(size):
    x = (
        -torch.rand(2, 3, *size, generator=torch.Generator().manual_seed(0)) - 1
    )  # below the zeros of any padding
    assert torch.equal(RegionMax(12)(x), F.adaptive_max_pool2d(x, 12))


@pytest.mark.parametrize("size", [(5, 9), (1, 1), (13, 4)])
def test_in_a_graph_they_are_the_same(size):
    pool, x = RegionMax(4), torch.randn(2, 3, *size)
    graph = torch.export.export(pool, (x,)).module()
    assert not [node for node in graph.graph.nodes if "masked_fill" in str(node.target)]
    assert_close(graph(x), F.adaptive_max_pool2d(x, 4), atol=0, rtol=0)
