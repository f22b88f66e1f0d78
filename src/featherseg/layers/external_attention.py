"""Attention to keys and values that are learned weights, not positions of the map (external attention, Guo et al.,
arXiv:2105.02358), as RTFormer shaped it for GPUs and SCTNet took it over; and the feed-forward network beside it."""

from torch import Tensor, nn

from featherseg.layers.precision import at_least_fp32, autocast_off


def double_normalise(scores: Tensor, heads: int) -> Tensor:
    """Grouped double normalisation (RTFormer): a softmax over positions for every key, then every position's weights
    of the keys of one head are divided by their sum.

    (B, M, h, w) -> (B, M, h, w), M a multiple of heads; in fp32 whatever autocast says.
    """
    with autocast_off(scores.device):
        weights = at_least_fp32(scores).flatten(2).softmax(-1)  # (B, M, h * w)
        grouped = weights.unflatten(1, (heads, -1))  # (B, n, M / n, h * w)
        grouped = grouped / (grouped.sum(2, keepdim=True) + 1e-6)
    return grouped.reshape(scores.shape).to(scores.dtype)


class ConvFeedForward(nn.Module):
    """Batch norm with eps 1e-6, 3x3 convolution, GELU, 3x3 convolution. (B, C, h, w) -> (B, C, h, w)."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.norm = nn.BatchNorm2d(channels, eps=1e-6)
        self.expand = nn.Conv2d(channels, channels, 3, padding=1)
        self.act = nn.GELU()
        self.project = nn.Conv2d(channels, channels, 3, padding=1)

    def forward(self, x: Tensor) -> Tensor:
        return self.project(self.act(self.expand(self.norm(x))))
