"""What every backbone and every network states about itself."""

from collections.abc import Mapping

from torch import Tensor, nn

from featherseg.core.config import Config
from featherseg.core.types import SegOutput
from featherseg.layers.conv import widen_input


class NetworkConfig(Config):
    """What every row of a paper's VARIANTS has; the keys a paper adds may be set in a recipe's [model]."""

    backbone: str


class Backbone(nn.Module):
    """Normalised images (B, channels, H, W) -> four stage maps, fine to coarse: 1/4, 1/8, 1/16, 1/32.

    mean and std, 0..255, are what its published weights expect; first_convolution is the name of the layer that takes
    the picture.
    """

    stage_channels: tuple[int, ...]
    mean: tuple[float, ...]
    std: tuple[float, ...]
    first_convolution: str

    def widen(self, channels: int) -> None:
        """Take pictures of another number of channels than three; call after three-channel weights were loaded."""
        if channels != 3:
            first = self.get_submodule(self.first_convolution)
            assert isinstance(first, nn.Conv2d)
            widen_input(first, channels)

    def rename_official(self, state: Mapping[str, Tensor]) -> tuple[dict[str, Tensor], list[str]]:
        """The authors' key names -> ours; -> (renamed state, keys that are accepted and not used)."""
        raise NotImplementedError

    def forward(self, images: Tensor) -> list[Tensor]:
        """(B, channels, H, W) -> (B, C_i, H/2^(i+2), W/2^(i+2)) for i = 0..3, sizes rounded up."""
        raise NotImplementedError


class SegmentationNetwork(nn.Module):
    """Normalised images (B, channels, H, W) -> SegOutput with logits (B, classes, h, w).

    mean and std have one value a channel, 0..255; size_divisor and minimum_size, in pixels, are what its own forward
    pads to; align_corners is that of its logits. feature_channels is the width of SegOutput.features in training, None
    where it gives none.
    """

    backbone: Backbone
    classes: int
    mean: tuple[float, ...]
    std: tuple[float, ...]
    align_corners: bool = False
    size_divisor: int = 1
    minimum_size: int = 1
    feature_channels: int | None = None

    def forward(self, images: Tensor) -> SegOutput:
        """(B, channels, H, W) of any size -> logits (B, classes, h, w) and what they cover."""
        raise NotImplementedError
