"""Skip residual branches at random in training."""

import torch
from torch import Tensor, nn


class StochasticDepth(nn.Module):
    """Stochastic depth (Huang et al., ECCV 2016) per image.

    In training a branch is zero with probability `rate`, else divided by 1 - rate; in evaluation it
    is unchanged.
    """

    macs = 0

    def __init__(self, rate: float) -> None:
        super().__init__()
        self.rate = rate

    def forward(self, x: Tensor) -> Tensor:
        """(B, C, h, w) -> (B, C, h, w)."""
        if not self.training or self.rate == 0:
            return x
        kept = torch.rand(len(x), 1, 1, 1, device=x.device) >= self.rate
        return x * kept.to(x.dtype) / (1 - self.rate)
