"""The base of EfficientNet and MobileNetV2: a stem and seven groups of inverted bottlenecks."""

import torch.nn.functional as F
from torch import Tensor, nn

from featherseg.layers.conv import replace_strides
from featherseg.layers.model import Backbone

STAGE_ENDS = (1, 2, 4, 6)
"""Groups that end a stage; the stages at 1/16 and at 1/32 have two groups each."""


class GroupedBackbone(Backbone):
    """Four of the groups end a stage (STAGE_ENDS).

    halved is the group from which on maps are means of 2x2 pixels (`halve_from`).
    """

    stem: nn.Module
    groups: nn.ModuleList
    halved: int | None = None

    def forward(self, images: Tensor) -> list[Tensor]:
        """(B, C, H, W) -> (B, C_i, H/2^(i+2), W/2^(i+2)) for i = 0..3, sizes rounded up.

        Stages from `halved` on have half that size.
        """
        x = self.stem(images)  # (B, C_stem, H/2, W/2)
        stages = []
        for number, group in enumerate(self.groups):
            if number == self.halved:
                x = F.avg_pool2d(x, 2, ceil_mode=True, count_include_pad=False)
            x = group(x)
            if number in STAGE_ENDS:
                stages.append(x)
        return stages

    def dilate(self, output_stride: int) -> None:
        """Keep the last stages at 1 / output_stride, 8 or 16."""
        replace_strides([self.groups[3:5], self.groups[5:]], output_stride)

    def halve_from(self, stride: int) -> None:
        """Let the stages from 1/stride on, 8 or 16, see maps of half the size."""
        self.halved = {8: 2, 16: 3}[stride]

    @property
    def block_paths(self) -> list[str]:
        """Names of the blocks, first to last, such as `groups.3.0`."""
        return [
            f"groups.{n}.{i}"
            for n, group in enumerate(self.groups)
            for i, _ in enumerate(group.children())
        ]
