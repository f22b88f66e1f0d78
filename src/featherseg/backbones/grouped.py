"""What EfficientNet and MobileNetV2 share: stem and seven groups of inverted bottlenecks, four of which end a stage."""

import torch.nn.functional as F
from torch import Tensor, nn

from featherseg.layers.conv import replace_strides
from featherseg.layers.model import Backbone

STAGE_ENDS = (1, 2, 4, 6)
"""Groups whose maps are the stages; those at 1/16 and at 1/32 are two each."""


class GroupedBackbone(Backbone):
    """images (B, C, H, W), normalised -> four stage maps, fine to coarse: 1/4, 1/8, 1/16, 1/32, sizes rounded up.

    halved is the group from which on it sees means of 2x2 pixels (`halve_from`).
    """

    stem: nn.Module
    groups: nn.ModuleList
    halved: int | None = None

    def forward(self, images: Tensor) -> list[Tensor]:
        x = self.stem(images)  # (B, C_stem, H/2, W/2)
        stages = []
        for number, group in enumerate(self.groups):
            if number == self.halved:
                x = F.avg_pool2d(x, 2, ceil_mode=True, count_include_pad=False)
            x = group(x)
            if number in STAGE_ENDS:
                stages.append(x)
        return stages  # (B, C_i, H/2^(i+2), W/2^(i+2)) for i = 0..3, those that are halved at half of it, rounded up

    def dilate(self, output_stride: int) -> None:
        replace_strides([self.groups[3:5], self.groups[5:]], output_stride)

    def halve_from(self, stride: int) -> None:
        self.halved = {8: 2, 16: 3}[stride]

    @property
    def block_paths(self) -> list[str]:
        """Names of its blocks, first to last: `groups.3.0`."""
        return [
            f"groups.{n}.{i}"
            for n, group in enumerate(self.groups)
            for i, _ in enumerate(group.children())
        ]
