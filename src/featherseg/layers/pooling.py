"""Context by pooling: the pyramid pooling module and deep aggregation pooling."""

import torch
from torch import Tensor, nn

from featherseg.core.types import Size
from featherseg.layers.pre_norm import NormActConv, norm_of_few
from featherseg.layers.precision import at_least_fp32, autocast_off
from featherseg.layers.resize import resize


class RegionMean(nn.Module):
    """Means over k x k regions, or k x columns, that cover the map: torch's adaptive average pool.

    Region i of k on a side of length L spans floor(i L / k) to ceil((i + 1) L / k). Computed as two
    matrix products, because torch's pool exports with the regions of the example's size.
    """

    def __init__(self, k: int, columns: int | None = None) -> None:
        super().__init__()
        self.size = (k, columns or k)

    def forward(self, x: Tensor) -> Tensor:
        """(B, C, h, w) -> (B, C, k, columns)."""
        whole = self.size == (1, 1)
        return x.mean((2, 3), keepdim=True) if whole else region_means(x, self.size)


class RegionMax(nn.Module):
    """Maxima over k x k regions that cover the map, like torch's adaptive max pool.

    Computed over rows, then columns, each masked, because torch's pool exports with the regions of
    the example's size.
    """

    def __init__(self, k: int) -> None:
        super().__init__()
        self.k = k

    def forward(self, x: Tensor) -> Tensor:
        """(B, C, h, w) -> (B, C, k, k)."""
        x = _largest(x, self.k)  # (B, C, k, w)
        return _largest(x.mT, self.k).mT  # (B, C, k, k)


def _largest(x: Tensor, k: int) -> Tensor:
    """Return the maxima over k regions of rows: (B, C, h, w) -> (B, C, k, w)."""
    inside = _regions(x.shape[2], k, x.device)[:, :, None]  # (k, h, 1)
    if torch.compiler.is_exporting():  # runtimes are slow at selecting
        return (x[:, :, None] + torch.where(inside, 0.0, -torch.inf)).amax(3)
    return x[:, :, None].masked_fill(~inside, -torch.inf).amax(3)


def region_places(x: Tensor, k: int) -> Tensor:
    """Return where each of k x k regions is largest: (B, 1, h, w) -> (B, k, k) numbers of cells.

    Cells are numbered row by row. Of equal cells the first is taken, as torch's adaptive max pool
    does. Columns, then rows, each masked, as in RegionMax.
    """
    height, width = x.shape[2:]
    of_columns = torch.where(_regions(width, k, x.device), 0.0, -torch.inf).to(x.dtype)  # (k, w)
    of_rows = torch.where(_regions(height, k, x.device), 0.0, -torch.inf).to(x.dtype)  # (k, h)
    by_column = x[:, 0, :, None] + of_columns  # (B, h, k, w)
    largest, column = by_column.amax(-1), by_column.argmax(-1)  # (B, h, k)
    row = (largest.mT[:, :, None] + of_rows).argmax(-1).mT  # (B, k rows, k columns)
    return row * width + column.gather(1, row)


class StridedRegionMean(nn.Module):
    """Means over as many regions as a map of stride `stride` has positions.

    Like torch's adaptive average pool: regions share rows if `stride` does not divide the side.
    """

    def __init__(self, stride: int) -> None:
        super().__init__()
        self.stride = stride

    def forward(self, x: Tensor) -> Tensor:
        """(B, C, h, w) -> (B, C, ceil(h / stride), ceil(w / stride))."""
        height, width = ((side + self.stride - 1) // self.stride for side in x.shape[2:])
        return region_means(x, (height, width))


def region_means(x: Tensor, size: Size) -> Tensor:
    """Pool adaptively, right at any size in exported graphs: (B, C, h, w) -> (B, C, *size)."""
    with autocast_off(x.device):
        values = at_least_fp32(x)
        rows = _region_weights(x.shape[2], size[0], values)  # (size[0], h)
        columns = _region_weights(x.shape[3], size[1], values)  # (size[1], w)
        return (rows @ values @ columns.mT).to(x.dtype)  # (B, C, *size)


def _region_weights(length: int, k: int, like: Tensor) -> Tensor:
    """Return (k, length): 1 / n if a position belongs to a region of n positions, else 0."""
    inside = _regions(length, k, like.device).to(like.dtype)
    return inside / inside.sum(1, keepdim=True)


def _regions(length: int, k: int, device: torch.device) -> Tensor:
    """Return (k, length): whether a position belongs to a region."""
    position = torch.arange(length, device=device)[None, :]  # (1, length)
    region = torch.arange(k, device=device)[:, None]  # (k, 1)
    first = torch.div(region * length, k, rounding_mode="floor")
    last = torch.div((region + 1) * length + k - 1, k, rounding_mode="floor")
    return (position >= first) & (position < last)


REGIONS = (1, 2, 3, 6)
"""Regions per side in the four branches of PyramidPooling (PSPNet, Fig. 3)."""


class PyramidPooling(nn.Module):
    """PPM (Zhao et al., PSPNet, CVPR 2017, Sec. 3.2) in the form of SFNet's code.

    The map and its means over k x k regions, each mean reduced by a 1x1 convolution and norm.
    """

    def __init__(self, in_channels: int, out_channels: int) -> None:
        super().__init__()
        self.branches = nn.ModuleList(
            nn.Sequential(
                RegionMean(k),
                nn.Conv2d(in_channels, out_channels, kernel_size=1, bias=False),
                nn.BatchNorm2d(out_channels),
            )
            for k in REGIONS
        )
        self.reduce = nn.Sequential(
            nn.Conv2d(
                in_channels + len(REGIONS) * out_channels, out_channels, kernel_size=1, bias=False
            ),
            nn.BatchNorm2d(out_channels),
            nn.ReLU(),
            nn.Dropout2d(0.1),
        )

    def forward(self, x: Tensor) -> Tensor:  # (B, C, h, w)
        """(B, C, h, w) -> (B, D, h, w)."""
        size = (x.shape[2], x.shape[3])
        priors = []
        for branch in self.branches:
            pool, conv, norm = branch.children()
            prior = norm_of_few(norm, conv(pool(x)))  # (B, D, k, k)
            priors.append(resize(prior, size, align_corners=True))  # (B, D, h, w)
        return self.reduce(torch.cat([*priors, x], dim=1))  # (B, D, h, w)


class DeepAggregationPooling(nn.Module):
    """DAPPM (Hong et al., DDRNet, arXiv:2101.06085, Fig. 5): pools of growing stride, added up.

    branch_channels is the width of each scale. DDRNet's convolutions have no bias.
    """

    def __init__(
        self, in_channels: int, branch_channels: int, out_channels: int, *, bias: bool = False
    ) -> None:
        super().__init__()
        self.finest = NormActConv(in_channels, branch_channels, 1, bias=bias)
        self.scales = pooled_scales(in_channels, branch_channels, bias=bias)
        self.process = nn.ModuleList(
            NormActConv(branch_channels, branch_channels, 3, bias=bias) for _ in self.scales
        )
        self.compress = NormActConv(
            (len(self.scales) + 1) * branch_channels, out_channels, 1, bias=bias
        )
        self.shortcut = NormActConv(in_channels, out_channels, 1, bias=bias)

    def forward(self, x: Tensor) -> Tensor:  # (B, C, h, w)
        """(B, C, h, w) -> (B, D, h, w)."""
        size: Size = (x.shape[2], x.shape[3])
        maps = [self.finest(x)]  # (B, C_b, h, w)
        for scale, process in zip(self.scales, self.process, strict=True):
            lifted = resize(scale(x), size, align_corners=False)  # (B, C_b, h, w)
            maps.append(process(lifted + maps[-1]))
        return self.compress(torch.cat(maps, dim=1)) + self.shortcut(x)  # (B, D, h, w)


def pooled_scales(in_channels: int, branch_channels: int, *, bias: bool = False) -> nn.ModuleList:
    """Return DAPPM's four pools, at strides 2, 4, 8 and over the map, each with a 1x1 convolution.

    Each (B, C, h, w) -> (B, C_b, h / stride, w / stride), sizes rounded up.
    """
    pools = [
        nn.AvgPool2d(kernel, stride, padding=stride) for kernel, stride in ((5, 2), (9, 4), (17, 8))
    ]
    return nn.ModuleList(
        nn.Sequential(pool, NormActConv(in_channels, branch_channels, 1, bias=bias))
        for pool in (*pools, RegionMean(1))
    )


OFFICIAL_DAPPM = {
    "scale0.": "finest.",
    **{f"scale{i}.{j}.": f"scales.{i - 1}.1.{j - 1}." for i in (1, 2, 3, 4) for j in (1, 3)},
    **{f"process{i}.": f"process.{i - 1}." for i in (1, 2, 3, 4)},
    "compression.": "compress.",
    "shortcut.": "shortcut.",
}
"""Start of a key of DDRNet's DAPPM, which other papers use too -> start of ours.

In a scale the pool is their layer 0, the norm 1, the convolution 3.
"""
