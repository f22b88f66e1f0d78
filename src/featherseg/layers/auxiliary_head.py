"""The head on a stage of the backbone that training adds (PSPNet, CVPR 2017, Sec. 3.3)."""

from torch import nn

from featherseg.layers.conv import ConvNormAct


class AuxiliaryHead(nn.Sequential):
    """3x3 convolution, norm, ReLU, dropout, 1x1 convolution: (B, C, h, w) -> (B, K, h, w)."""

    def __init__(
        self, in_channels: int, width: int, classes: int, *, bias: bool = True, drop: float = 0.1
    ) -> None:
        super().__init__(
            *ConvNormAct(in_channels, width, 3, bias=bias),
            nn.Dropout2d(drop),
            nn.Conv2d(width, classes, kernel_size=1),
        )
