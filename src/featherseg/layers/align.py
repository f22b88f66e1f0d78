"""Flow alignment: a coarse map is brought to a finer one along a learned flow instead of straight bilinear lines."""

import torch
import torch.nn.functional as F
from torch import Tensor, nn

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
