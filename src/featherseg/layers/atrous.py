"""The branch of atrous spatial pyramid pooling (ASPP, arXiv:1706.05587) that sees the whole map."""

from torch import Tensor, nn

from featherseg.layers.pooling import RegionMean
from featherseg.layers.pre_norm import norm_of_few


class ImagePooling(nn.Sequential):
    """Image-level features, the same at every position: mean over the map, 1x1, norm, ReLU."""

    def __init__(self, in_channels: int, out_channels: int) -> None:
        super().__init__(
            RegionMean(1),
            nn.Conv2d(in_channels, out_channels, kernel_size=1, bias=False),
            nn.BatchNorm2d(out_channels),
            nn.ReLU(),
        )

    def forward(self, x: Tensor) -> Tensor:
        """(B, C, h, w) -> (B, D, h, w)."""
        pool, conv, norm, act = self
        pooled = act(norm_of_few(norm, conv(pool(x))))  # (B, D, 1, 1)
        return pooled.expand(-1, -1, x.shape[2], x.shape[3])
