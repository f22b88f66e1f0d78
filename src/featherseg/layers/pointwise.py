"""1x1 convolutions on one thread of a CPU, by oneDNN."""

import torch
from torch import Tensor, nn


def is_pointwise(conv: nn.Conv2d) -> bool:
    """A 1x1 convolution of stride 1 without padding."""
    return conv.kernel_size == (1, 1) and conv.stride == (1, 1) and conv.padding == (0, 0)


class PointwiseConv2d(nn.Conv2d):
    """A convolution that `is_pointwise`, always by oneDNN on a CPU. (B, C_in, h, w) -> (B, C_out, h, w).

    With one thread and fewer than 16 images torch hands these to BLAS instead, which on AMD processors (MKL, torch
    2.13) takes 2.5 times as long. In a graph that is compiled or exported it is a plain convolution.
    """

    def forward(self, x: Tensor) -> Tensor:
        if torch.compiler.is_compiling() or x.device.type != "cpu" or torch.get_num_threads() > 1:
            return super().forward(x)
        return torch.mkldnn_convolution(
            x, self.weight, self.bias, (0, 0), (1, 1), (1, 1), self.groups
        )
