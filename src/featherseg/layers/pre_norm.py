"""Norm and activation before the convolution: DDRNet's DAPPM and heads, also used by others."""

import torch.nn.functional as F
from torch import Tensor, nn


class NormActConv(nn.Sequential):
    """Batch norm, ReLU, convolution, padded so that the size stays."""

    def __init__(
        self,
        in_channels: int,
        out_channels: int,
        kernel_size: int,
        *,
        groups: int = 1,
        bias: bool = False,
    ) -> None:
        super().__init__(
            nn.BatchNorm2d(in_channels),
            nn.ReLU(),
            nn.Conv2d(
                in_channels,
                out_channels,
                kernel_size,
                padding=kernel_size // 2,
                groups=groups,
                bias=bias,
            ),
        )

    def forward(self, x: Tensor) -> Tensor:
        """(B, C_in, h, w) -> (B, C_out, h, w)."""
        norm, act, conv = self
        return conv(act(norm_of_few(norm, x)))


def norm_of_few(norm: nn.Module, x: Tensor) -> Tensor:
    """Return norm(x), by the running statistics if x has only one value per channel in training.

    A mean over the whole map of a single image has no variance. (B, C, h, w) -> (B, C, h, w).
    """
    if norm.training and x.numel() == x.shape[1]:
        assert isinstance(norm, nn.BatchNorm2d | nn.SyncBatchNorm)
        return F.batch_norm(
            x, norm.running_mean, norm.running_var, norm.weight, norm.bias, eps=norm.eps
        )
    return norm(x)


class PreNormHead(nn.Sequential):
    """DDRNet's head: norm, ReLU, 3x3, norm, ReLU, 1x1: (B, C, h, w) -> (B, K, h, w).

    bias is that of the first convolution; the second has one.
    """

    def __init__(self, in_channels: int, width: int, classes: int, *, bias: bool = False) -> None:
        super().__init__(
            NormActConv(in_channels, width, 3, bias=bias), NormActConv(width, classes, 1, bias=True)
        )


OFFICIAL_HEAD = {"bn1.": "0.0.", "conv1.": "0.2.", "bn2.": "1.0.", "conv2.": "1.2."}
"""Start of the authors' key of that head -> start of ours."""
