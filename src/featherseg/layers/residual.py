"""Residual blocks (He et al., CVPR 2016, arXiv:1512.03385) as torchvision has them.

The stride of a bottleneck is in its 3x3 convolution, not in the first 1x1 as in the paper.

Letters: B images, C channels, h x w the map.
"""

from torch import Tensor, nn


class ResidualBlock(nn.Module):
    """ReLU(shortcut(x) + branch(x)), or the sum without `act`.

    The shortcut is a 1x1 convolution and norm if the shape changes.
    """

    def __init__(
        self,
        branch: nn.Sequential,
        in_channels: int,
        out_channels: int,
        *,
        stride: int,
        act: bool = True,
        bias: bool = False,
    ) -> None:
        super().__init__()
        self.branch = branch
        self.shortcut: nn.Module = nn.Identity()
        if stride != 1 or in_channels != out_channels:
            self.shortcut = nn.Sequential(
                *conv_norm(in_channels, out_channels, 1, stride=stride, bias=bias)
            )
        self.act: nn.Module = nn.ReLU() if act else nn.Identity()

    def forward(self, x: Tensor) -> Tensor:
        """(B, C_in, h, w) -> (B, C_out, ceil(h / stride), ceil(w / stride))."""
        return self.act(self.shortcut(x) + self.branch(x))


def conv_norm(
    in_channels: int, out_channels: int, kernel: int, *, stride: int = 1, bias: bool = False
) -> tuple[nn.Module, nn.Module]:
    """Return a convolution, padded so that stride 1 keeps the size, and its batch norm."""
    conv = nn.Conv2d(in_channels, out_channels, kernel, stride, padding=kernel // 2, bias=bias)
    return conv, nn.BatchNorm2d(out_channels)


def basic_block(
    in_channels: int, width: int, stride: int, *, act: bool = True, bias: bool = False
) -> ResidualBlock:
    """Return two 3x3 convolutions (Fig. 5, left): C_in -> width channels."""
    branch = nn.Sequential(
        *conv_norm(in_channels, width, 3, stride=stride, bias=bias),
        nn.ReLU(),
        *conv_norm(width, width, 3, bias=bias),
    )
    return ResidualBlock(branch, in_channels, width, stride=stride, act=act, bias=bias)


def bottleneck(
    in_channels: int, width: int, stride: int, *, expansion: int = 4, act: bool = True
) -> ResidualBlock:
    """Return 1x1, 3x3, 1x1 (Fig. 5, right): C_in -> expansion * width channels."""
    branch = nn.Sequential(
        *conv_norm(in_channels, width, 1),
        nn.ReLU(),
        *conv_norm(width, width, 3, stride=stride),
        nn.ReLU(),
        *conv_norm(width, expansion * width, 1),
    )
    return ResidualBlock(branch, in_channels, expansion * width, stride=stride, act=act)


def open_basic_stage(
    in_channels: int, width: int, blocks: int, *, stride: int = 1, bias: bool = False
) -> nn.Sequential:
    """Return basic blocks without the last ReLU, so that other maps can be added before it.

    Stages of DDRNet, PIDNet, RTFormer and SCTNet. (B, C_in, h, w) -> (B, width, ceil(h / stride),
    ceil(w / stride)).
    """
    layers = [basic_block(in_channels, width, stride, act=blocks > 1, bias=bias)]
    layers += [
        basic_block(width, width, 1, act=number < blocks, bias=bias)
        for number in range(2, blocks + 1)
    ]
    return nn.Sequential(*layers)


def open_bottleneck_stage(
    in_channels: int, width: int, blocks: int = 1, *, stride: int = 1
) -> nn.Sequential:
    """Return bottlenecks that double the width, without the last ReLU (DDRNet, PIDNet).

    (B, C_in, h, w) -> (B, 2 * width, ceil(h / stride), ceil(w / stride)).
    """
    layers = [bottleneck(in_channels, width, stride, expansion=2, act=False)]
    layers += [bottleneck(2 * width, width, 1, expansion=2, act=False) for _ in range(1, blocks)]
    return nn.Sequential(*layers)


def start_kaiming(module: nn.Module) -> None:
    """Initialise all convolutions like He et al. (arXiv:1502.01852): normal, by fan-out."""
    for layer in module.modules():
        if isinstance(layer, nn.Conv2d):
            nn.init.kaiming_normal_(layer.weight, mode="fan_out", nonlinearity="relu")
