"""Flow alignment: a coarse map is brought to a finer one along a learned flow instead of straight bilinear lines."""

from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from featherseg.layers.conv import ConvNormAct
from featherseg.layers.precision import at_least_fp32, autocast_off
from featherseg.layers.resize import resize


class FlowAlignment(nn.Module):
    """Flow alignment module (SFNet, Li et al., ECCV 2020, Sec. 3.2).

    forward(fine, coarse): fine (B, C, H, W), coarse (B, C, h, w) -> the coarse map warped to (B, C, H, W).
    """

    def __init__(self, channels: int, *, flow_channels: int) -> None:
        super().__init__()
        self.down_fine = nn.Conv2d(channels, flow_channels, kernel_size=1, bias=False)
        self.down_coarse = nn.Conv2d(channels, flow_channels, kernel_size=1, bias=False)
        self.flow = nn.Conv2d(2 * flow_channels, 2, kernel_size=3, padding=1, bias=False)

    def forward(self, fine: Tensor, coarse: Tensor) -> Tensor:
        height, width = fine.shape[2:]
        lifted = resize(self.down_coarse(coarse), (height, width), align_corners=True)  # (B, C_f, H, W)
        flow = self.flow(torch.cat([lifted, self.down_fine(fine)], dim=1))  # (B, 2, H, W) in pixels of the fine map
        return warp(coarse, flow)


def warp(x: Tensor, flow: Tensor) -> Tensor:
    """Sample x (B, C, h, w) at the positions of a regular (H, W) grid moved by flow (B, 2, H, W) -> (B, C, H, W).

    flow[:, 0] points right and flow[:, 1] down, in units of half the fine map's size, as SFNet's code has it:
    normalised position + flow / size. In fp32: positions in half precision are off by whole pixels.
    """
    height, width = flow.shape[2:]
    with autocast_off(x.device):
        x_full, flow = at_least_fp32(x), at_least_fp32(flow)
        column = torch.arange(width, device=x.device, dtype=flow.dtype) * (2.0 / (width - 1)) - 1.0  # (W,) -1..1
        row = torch.arange(height, device=x.device, dtype=flow.dtype) * (2.0 / (height - 1)) - 1.0  # (H,) -1..1
        grid_x = column[None, None, :] + flow[:, 0] / width  # (B, H, W)
        grid_y = row[None, :, None] + flow[:, 1] / height
        grid = torch.stack([grid_x, grid_y], dim=-1)  # (B, H, W, 2)
        moved = F.grid_sample(x_full, grid, mode="bilinear", padding_mode="zeros", align_corners=True)
    return moved.to(x.dtype)  # (B, C, H, W)


class AlignedPyramid(nn.Module):
    """SFNet's decoder (Sec. 3.3): top-down, each step aligned along a learned flow, then all maps side by side.

    forward(stages, context) -> (B, 4 D, H/4, W/4): the refined stages and the context, all brought to the finest.
    """

    def __init__(self, stage_channels: Sequence[int], width: int) -> None:
        super().__init__()
        fine = stage_channels[:-1]
        self.lateral = nn.ModuleList(ConvNormAct(c, width, 1, bias=True) for c in fine)
        self.align = nn.ModuleList(FlowAlignment(width, flow_channels=width // 2) for _ in fine)
        self.smooth = nn.ModuleList(ConvNormAct(width, width, 3) for _ in fine)

    def forward(self, stages: Sequence[Tensor], context: Tensor) -> Tensor:  # context (B, D, H/32, W/32)
        return self.join(self.descend(stages, context), context)

    def descend(self, stages: Sequence[Tensor], context: Tensor) -> list[Tensor]:
        """Stages (B, C_i, H/2^(i+2), W/2^(i+2)) for i = 0..3 -> the sums of the top-down path, fine to coarse.

        Sum i = 0..2: (B, D, H/2^(i+2), W/2^(i+2)), the stage and all that is coarser.
        """
        sums = [context]
        for stage, lateral, align in reversed(list(zip(stages, self.lateral, self.align, strict=False))):
            own = lateral(stage)  # (B, D, H/2^(i+2), W/2^(i+2))
            sums.insert(0, own + align(own, sums[0]))
        return sums[:-1]

    def join(self, sums: Sequence[Tensor], context: Tensor) -> Tensor:
        """The sums of `descend`, smoothed, and the context, all at the size of the finest -> (B, 4 D, H/4, W/4)."""
        finest, *coarser = (smooth(x) for smooth, x in zip(self.smooth, sums, strict=True))
        size = (finest.shape[2], finest.shape[3])
        lifted = [resize(x, size, align_corners=True) for x in (*coarser, context)]
        return torch.cat([finest, *lifted], dim=1)  # (B, 4 D, H/4, W/4)
