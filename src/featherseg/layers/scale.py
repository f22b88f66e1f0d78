"""Learned scaling of a residual branch."""

import torch
from torch import Tensor, nn


class LayerScale(nn.Module):
    """One learned factor per channel (CaiT, Touvron et al., ICCV 2021), small at first."""

    macs = 0

    def __init__(self, channels: int, initial: float) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.full((channels,), initial))

    def forward(self, x: Tensor) -> Tensor:
        """(B, C, h, w) -> (B, C, h, w)."""
        return x * self.weight[:, None, None]  # (B, C, h, w)
