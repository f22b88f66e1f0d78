"""Dilated depthwise convolutions by dense ones, for which oneDNN has fast kernels."""

import torch
import torch.nn.functional as F
from torch import Tensor, nn


def splits(conv: nn.Conv2d) -> bool:
    """Whether PhaseSplitConv2d can compute a convolution.

    It must be dilated, depthwise, of stride 1 and padded with a multiple of its dilation.
    """
    depthwise = conv.groups == conv.in_channels == conv.out_channels
    if (
        conv.dilation == (1, 1)
        or not depthwise
        or conv.stride != (1, 1)
        or conv.padding_mode != "zeros"
    ):
        return False
    return not isinstance(conv.padding, str) and all(
        p % d == 0 for p, d in zip(conv.padding, conv.dilation, strict=True)
    )


class PhaseSplitConv2d(nn.Conv2d):
    """A convolution that `splits`, computed by phases: the same sums as nn.Conv2d, at any size.

    With dilation d the output at row r uses only the rows r + d t, which are neighbours in the
    phase r mod d. So the map is split into its phases, a batch of small maps, which are convolved
    without dilation and interleaved again. An exported graph has nn.Conv2d.
    """

    def forward(self, x: Tensor) -> Tensor:
        """(B, C, h, w) -> (B, C, h', w'), both in channels-last (another layout costs a copy)."""
        if torch.compiler.is_exporting():
            return super().forward(x)
        assert not isinstance(self.padding, str)
        (rows, columns), (top, left) = self.dilation, self.padding
        out_height = x.shape[2] + 2 * top - rows * (self.kernel_size[0] - 1)
        out_width = x.shape[3] + 2 * left - columns * (self.kernel_size[1] - 1)
        below, right = -x.shape[2] % rows, -x.shape[3] % columns
        if below or right:
            x = F.pad(x, (0, right, 0, below))
        # (B, h / d, d, w / d, d, C)
        x = x.permute(0, 2, 3, 1).unflatten(2, (-1, columns)).unflatten(1, (-1, rows))
        # (d d B, C, h / d, w / d)
        phases = x.permute(2, 4, 0, 1, 3, 5).flatten(0, 2).permute(0, 3, 1, 2)
        padding = (top // rows, left // columns)
        # (d d B, C, ., .)
        out = F.conv2d(phases, self.weight, self.bias, padding=padding, groups=self.groups)
        # (d, d, B, h' / d, w' / d, C)
        out = out.permute(0, 2, 3, 1).unflatten(0, (rows, columns, -1))
        # (B, h', w', C), up to d - 1 more of each
        out = out.permute(2, 3, 0, 4, 1, 5).flatten(3, 4).flatten(1, 2)
        return out.permute(0, 3, 1, 2)[:, :, :out_height, :out_width]
