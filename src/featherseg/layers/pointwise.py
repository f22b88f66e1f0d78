"""1x1 convolutions by oneDNN on one thread of a CPU."""

import torch
from torch import Tensor, nn


def is_pointwise(conv: nn.Conv2d) -> bool:
    """Whether a convolution is 1x1 with stride 1 and without padding."""
    return conv.kernel_size == (1, 1) and conv.stride == (1, 1) and conv.padding == (0, 0)


class PointwiseConv2d(nn.Conv2d):
    """A convolution that `is_pointwise`, always by oneDNN on a CPU.

    With one thread and fewer than 16 images torch uses BLAS instead, which on AMD processors (MKL,
    torch 2.13) takes 2.5 times as long. In a compiled or exported graph it is a plain convolution.
    """

    def forward(self, x: Tensor) -> Tensor:
        """(B, C_in, h, w) -> (B, C_out, h, w)."""
        if torch.compiler.is_compiling() or x.device.type != "cpu" or torch.get_num_threads() > 1:
            return super().forward(x)
        return torch.mkldnn_convolution(
            x, self.weight, self.bias, (0, 0), (1, 1), (1, 1), self.groups
        )
