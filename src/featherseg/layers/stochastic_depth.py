"""Residual branches that are left out at random while training."""

import torch
from torch import Tensor, nn


class StochasticDepth(nn.Module):
    """Stochastic depth (Huang et al., ECCV 2016), an image at a time: in training a branch is zero with probability
    `rate`, else divided by 1 - rate; in evaluation it passes. (B, C, h, w) -> (B, C, h, w).
    """

    macs = 0

    def __init__(self, rate: float) -> None:
        super().__init__()
        self.rate = rate

    def forward(self, x: Tensor) -> Tensor:
        if not self.training or self.rate == 0:
            return x
        kept = torch.rand(len(x), 1, 1, 1, device=x.device) >= self.rate
        return x * kept.to(x.dtype) / (1 - self.rate)
