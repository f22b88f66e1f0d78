"""Attention to learned keys and values (external attention, Guo et al., arXiv:2105.02358).

RTFormer shaped it for GPUs and SCTNet took it over, with the feed-forward network next to it.
"""

from torch import Tensor, nn

from featherseg.layers.precision import at_least_fp32, autocast_off


def double_normalise(scores: Tensor, heads: int) -> Tensor:
    """Normalise scores over positions, then over the keys of each head (RTFormer).

    Grouped double normalisation: a softmax over positions for every key, then at every position the
    weights of the keys of one head are divided by their sum. (B, M, h, w) -> (B, M, h, w), M a
    multiple of heads; always in fp32.
    """
    with autocast_off(scores.device):
        weights = at_least_fp32(scores).flatten(2).softmax(-1)  # (B, M, h * w)
        grouped = weights.unflatten(1, (heads, -1))  # (B, n, M / n, h * w)
        grouped = grouped / (grouped.sum(2, keepdim=True) + 1e-6)
    return grouped.reshape(scores.shape).to(scores.dtype)


class ConvFeedForward(nn.Module):
    """Batch norm with eps 1e-6, 3x3 convolution, GELU, 3x3 convolution."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.norm = nn.BatchNorm2d(channels, eps=1e-6)
        self.expand = nn.Conv2d(channels, channels, 3, padding=1)
        self.act = nn.GELU()
        self.project = nn.Conv2d(channels, channels, 3, padding=1)

    def forward(self, x: Tensor) -> Tensor:
        """(B, C, h, w) -> (B, C, h, w)."""
        return self.project(self.act(self.expand(self.norm(x))))
