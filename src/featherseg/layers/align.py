"""Flow alignment: bring a coarse map to a finer one along a learned flow instead of bilinearly."""

import copy
from collections.abc import Sequence
from typing import Self

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from featherseg.layers.conv import ConvNormAct
from featherseg.layers.precision import at_least_fp32, autocast_off
from featherseg.layers.resize import resize


class FlowAlignment(nn.Module):
    """Flow alignment module (SFNet, Li et al., ECCV 2020, Sec. 3.2)."""

    def __init__(self, channels: int, *, flow_channels: int) -> None:
        super().__init__()
        self.gathers = False
        self.down_fine = nn.Conv2d(channels, flow_channels, kernel_size=1, bias=False)
        self.down_coarse = nn.Conv2d(channels, flow_channels, kernel_size=1, bias=False)
        self.flow = nn.Conv2d(2 * flow_channels, 2, kernel_size=3, padding=1, bias=False)

    def forward(self, fine: Tensor, coarse: Tensor) -> Tensor:
        """fine (B, C, H, W), coarse (B, C, h, w) -> the coarse map warped to (B, C, H, W)."""
        height, width = fine.shape[2:]
        # (B, C_f, H, W)
        lifted = resize(self.down_coarse(coarse), (height, width), align_corners=True)
        # (B, 2, H, W) in pixels of the fine map
        flow = self.flow(torch.cat([lifted, self.down_fine(fine)], dim=1))
        return self.warp(coarse, flow)

    def warp(self, coarse: Tensor, flow: Tensor) -> Tensor:
        """Warp x (B, C, h, w) along flow (B, 2, H, W) -> (B, C, H, W)."""
        return warp_rows(coarse, flow) if self.gathers else warp(coarse, flow)

    def for_graph(self, size_divisor: int, channels_last: bool) -> Self:
        """Return an equal layer (within rounding) for runtimes that sample slowly: ONNX Runtime."""
        if channels_last or self.gathers:
            return self
        form = copy.copy(self)
        form.gathers = True
        return form


def warp(x: Tensor, flow: Tensor) -> Tensor:
    """Sample x (B, C, h, w) on a regular grid moved by flow (B, 2, H, W) -> (B, C, H, W).

    flow[:, 0] points right and flow[:, 1] down, in units of half the fine map's size, as in SFNet's
    code: normalised position + flow / size. Always in fp32, because positions in half precision are
    off by whole pixels.
    """
    with autocast_off(x.device):
        x_full, flow = at_least_fp32(x), at_least_fp32(flow)
        grid = torch.stack(positions(flow), dim=-1)  # (B, H, W, 2)
        moved = F.grid_sample(
            x_full, grid, mode="bilinear", padding_mode="zeros", align_corners=True
        )
    return moved.to(x.dtype)  # (B, C, H, W)


def positions(flow: Tensor) -> tuple[Tensor, Tensor]:
    """Return grid_x, grid_y (B, H, W): a regular grid from -1 to 1, moved by flow / its size.

    flow: (B, 2, H, W).
    """
    height, width = flow.shape[2:]
    # (W,) -1..1
    column = torch.arange(width, device=flow.device, dtype=flow.dtype) * (2.0 / (width - 1)) - 1.0
    # (H,) -1..1
    row = torch.arange(height, device=flow.device, dtype=flow.dtype) * (2.0 / (height - 1)) - 1.0
    return column[None, None, :] + flow[:, 0] / width, row[None, :, None] + flow[:, 1] / height


def warp_rows(x: Tensor, flow: Tensor) -> Tensor:
    """Compute `warp` in a form for graphs: gather the corners of positions as rows, weight them.

    ONNX Runtime samples one channel and one position at a time, at least five times as slow.
    """
    (batch, channels, height, width), stride = x.shape, x.shape[3] + 2
    grid_x, grid_y = positions(flow)
    (row, down), (column, right) = _corner(grid_y, height), _corner(grid_x, width)  # (B, H, W) each
    # (B (h + 2) (w + 2), C)
    rows = F.pad(x.permute(0, 2, 3, 1), (0, 0, 1, 1, 1, 1)).reshape(-1, channels)
    image = torch.arange(batch, device=x.device)[:, None, None] * ((height + 2) * stride)
    first, (down, right) = image + row * stride + column, (down[..., None], right[..., None])
    above = F.embedding(first, rows) * ((1 - down) * (1 - right)) + F.embedding(first + 1, rows) * (
        (1 - down) * right
    )
    first = first + stride
    below = F.embedding(first, rows) * (down * (1 - right)) + F.embedding(first + 1, rows) * (
        down * right
    )
    return (above + below).permute(0, 3, 1, 2)  # (B, C, H, W)


def _corner(grid: Tensor, length: int) -> tuple[Tensor, Tensor]:
    """Return the cell before a position -1..1 on a side of `length`, and the distance behind it.

    The side has a zero at both ends, on which positions outside lie. Infinity and NaN give NaN,
    like F.grid_sample; their cell is arbitrary.
    """
    place = (grid + 1) * ((length - 1) / 2)
    inside = place.clamp(-1, length)
    before = inside.floor().clamp(max=length - 1)
    return (before.long() + 1).clamp(min=0), inside - before + (place - place)


class AlignedPyramid(nn.Module):
    """SFNet's decoder (Sec. 3.3): top-down steps, aligned along a learned flow; concatenation."""

    def __init__(self, stage_channels: Sequence[int], width: int) -> None:
        super().__init__()
        fine = stage_channels[:-1]
        self.lateral = nn.ModuleList(ConvNormAct(c, width, 1, bias=True) for c in fine)
        self.align = nn.ModuleList(FlowAlignment(width, flow_channels=width // 2) for _ in fine)
        self.smooth = nn.ModuleList(ConvNormAct(width, width, 3) for _ in fine)

    def forward(
        self, stages: Sequence[Tensor], context: Tensor
    ) -> Tensor:  # context (B, D, H/32, W/32)
        """stages 4 x (B, C_i, H/2^(i+2), W/2^(i+2)), context (B, D, h, w) -> (B, 4 D, H/4, W/4).

        The output contains the refined stages and the context, all resized to the finest.
        """
        return self.join(self.descend(stages, context), context)

    def descend(self, stages: Sequence[Tensor], context: Tensor) -> list[Tensor]:
        """Return the sums of the top-down path, fine to coarse: 3 x (B, D, H/2^(i+2), W/2^(i+2)).

        Sum i contains stage i and all that is coarser; stages are (B, C_i, H/2^(i+2), W/2^(i+2)), i
        = 0..3.
        """
        sums = [context]
        for stage, lateral, align in reversed(
            list(zip(stages, self.lateral, self.align, strict=False))
        ):
            own = lateral(stage)  # (B, D, H/2^(i+2), W/2^(i+2))
            sums.insert(0, own + align(own, sums[0]))
        return sums[:-1]

    def join(self, sums: Sequence[Tensor], context: Tensor) -> Tensor:
        """Smooth the sums of `descend` and concatenate them and the context: (B, 4 D, H/4, W/4)."""
        finest, *coarser = (smooth(x) for smooth, x in zip(self.smooth, sums, strict=True))
        size = (finest.shape[2], finest.shape[3])
        lifted = [resize(x, size, align_corners=True) for x in (*coarser, context)]
        return torch.cat([finest, *lifted], dim=1)  # (B, 4 D, H/4, W/4)
