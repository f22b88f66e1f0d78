"""Context by pooling: the pyramid pooling module and its deep aggregation form."""

import torch
from torch import Tensor, nn

from featherseg.core.types import Size
from featherseg.layers.precision import at_least_fp32, autocast_off
from featherseg.layers.resize import resize


class RegionMean(nn.Module):
    """Means over k x k regions that cover the map, as torch's adaptive average pool draws them.

    Region i of k of a side of length L spans floor(i L / k) to ceil((i + 1) L / k). Two matrix products: torch's own
    pool exports with the regions of the example's size. (B, C, h, w) -> (B, C, k, k).
    """

    def __init__(self, k: int) -> None:
        super().__init__()
        self.k = k

    def forward(self, x: Tensor) -> Tensor:
        return x.mean((2, 3), keepdim=True) if self.k == 1 else region_means(x, (self.k, self.k))


class StridedRegionMean(nn.Module):
    """Means over as many regions as a map of stride `stride` has positions, as torch's adaptive average pool draws
    them: at sides that `stride` divides they lie side by side, at others neighbours share a row or more.

    (B, C, h, w) -> (B, C, ceil(h / stride), ceil(w / stride)).
    """

    def __init__(self, stride: int) -> None:
        super().__init__()
        self.stride = stride

    def forward(self, x: Tensor) -> Tensor:
        height, width = ((side + self.stride - 1) // self.stride for side in x.shape[2:])
        return region_means(x, (height, width))


def region_means(x: Tensor, size: Size) -> Tensor:
    """torch's adaptive average pool, right at any size in an exported graph too: (B, C, h, w) -> (B, C, *size)."""
    with autocast_off(x.device):
        values = at_least_fp32(x)
        rows = _region_weights(x.shape[2], size[0], values)  # (size[0], h)
        columns = _region_weights(x.shape[3], size[1], values)  # (size[1], w)
        return (rows @ values @ columns.mT).to(x.dtype)  # (B, C, *size)


def _region_weights(length: int, k: int, like: Tensor) -> Tensor:
    """(k, length): 1 / n where a position belongs to a region of n positions, else 0."""
    position = torch.arange(length, device=like.device)[None, :]  # (1, length)
    region = torch.arange(k, device=like.device)[:, None]  # (k, 1)
    first = torch.div(region * length, k, rounding_mode="floor")
    last = torch.div((region + 1) * length + k - 1, k, rounding_mode="floor")
    inside = ((position >= first) & (position < last)).to(like.dtype)
    return inside / inside.sum(1, keepdim=True)


class PyramidPooling(nn.Module):
    """PPM (Zhao et al., PSPNet, CVPR 2017, Sec. 3.2) in the form of SFNet's code: the map beside its means over k x k
    regions, each reduced by a 1x1 convolution and norm. (B, C, h, w) -> (B, D, h, w).
    """

    def __init__(self, in_channels: int, out_channels: int, regions: tuple[int, ...] = (1, 2, 3, 6)) -> None:
        super().__init__()
        self.branches = nn.ModuleList(
            nn.Sequential(
                RegionMean(k),
                nn.Conv2d(in_channels, out_channels, kernel_size=1, bias=False),
                nn.BatchNorm2d(out_channels),
            )
            for k in regions
        )
        self.reduce = nn.Sequential(
            nn.Conv2d(in_channels + len(regions) * out_channels, out_channels, kernel_size=1, bias=False),
            nn.BatchNorm2d(out_channels),
            nn.ReLU(),
            nn.Dropout2d(0.1),
        )

    def forward(self, x: Tensor) -> Tensor:  # (B, C, h, w)
        size = (x.shape[2], x.shape[3])
        priors = [resize(branch(x), size, align_corners=True) for branch in self.branches]  # each (B, D, h, w)
        return self.reduce(torch.cat([*priors, x], dim=1))  # (B, D, h, w)


class DeepAggregationPooling(nn.Module):
    """DAPPM (Hong et al., DDRNet, arXiv:2101.06085, Fig. 5): pools of growing stride, each added to the one before it.

    (B, C, h, w) -> (B, D, h, w); branch_channels is the width of each scale.
    """

    def __init__(self, in_channels: int, branch_channels: int, out_channels: int) -> None:
        super().__init__()
        pools = [nn.AvgPool2d(kernel, stride, padding=stride) for kernel, stride in ((5, 2), (9, 4), (17, 8))]
        self.finest = NormActConv(in_channels, branch_channels, 1)
        self.scales = nn.ModuleList(
            nn.Sequential(pool, NormActConv(in_channels, branch_channels, 1)) for pool in (*pools, RegionMean(1))
        )
        self.process = nn.ModuleList(NormActConv(branch_channels, branch_channels, 3) for _ in self.scales)
        self.compress = NormActConv((len(self.scales) + 1) * branch_channels, out_channels, 1)
        self.shortcut = NormActConv(in_channels, out_channels, 1)

    def forward(self, x: Tensor) -> Tensor:  # (B, C, h, w)
        size: Size = (x.shape[2], x.shape[3])
        maps = [self.finest(x)]  # (B, C_b, h, w)
        for scale, process in zip(self.scales, self.process, strict=True):
            lifted = resize(scale(x), size, align_corners=False)  # (B, C_b, h, w)
            maps.append(process(lifted + maps[-1]))
        return self.compress(torch.cat(maps, dim=1)) + self.shortcut(x)  # (B, D, h, w)


class NormActConv(nn.Sequential):
    """Batch norm, ReLU, convolution: the order of DDRNet's DAPPM. (B, C_in, h, w) -> (B, C_out, h, w)."""

    def __init__(self, in_channels: int, out_channels: int, kernel_size: int) -> None:
        super().__init__(
            nn.BatchNorm2d(in_channels),
            nn.ReLU(),
            nn.Conv2d(in_channels, out_channels, kernel_size, padding=kernel_size // 2, bias=False),
        )
