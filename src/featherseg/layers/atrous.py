"""The branch of atrous spatial pyramid pooling (ASPP, arXiv:1706.05587) that sees the whole map."""

import torch.nn.functional as F
from torch import Tensor, nn

from featherseg.layers.pooling import RegionMean


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
        pooled = conv(pool(x))  # (B, D, 1, 1)
        if self.training and len(x) == 1:
            # One value per channel has no variance: the running statistics are used instead
            assert isinstance(norm, nn.BatchNorm2d | nn.SyncBatchNorm)
            pooled = F.batch_norm(
                pooled, norm.running_mean, norm.running_var, norm.weight, norm.bias, eps=norm.eps
            )
        else:
            pooled = norm(pooled)
        return act(pooled).expand(-1, -1, x.shape[2], x.shape[3])
