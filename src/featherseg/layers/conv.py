"""Convolutions with norm and activation, and TensorFlow's "same" padding."""

import math
from collections.abc import Sequence
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from featherseg.kernels import depthwise_conv2d, norm_act
from featherseg.kernels.library import trains_here
from featherseg.kernels.norm import takes
from featherseg.layers.pointwise import is_pointwise


class ConvNormAct(nn.Sequential):
    """Convolution, batch norm, ReLU; padded so that stride 1 keeps the size."""

    def __init__(
        self,
        in_channels: int,
        out_channels: int,
        kernel_size: int,
        *,
        stride: int = 1,
        dilation: int = 1,
        bias: bool = False,
    ) -> None:
        padding = kernel_size // 2 * dilation
        super().__init__(
            nn.Conv2d(in_channels, out_channels, kernel_size, stride, padding, dilation, bias=bias),
            nn.BatchNorm2d(out_channels),
            nn.ReLU(),
        )

    def forward(self, x: Tensor) -> Tensor:
        """(B, C_in, h, w) -> (B, C_out, h / stride, w / stride), sizes rounded up."""
        layers: Any = self
        conv, norm, act = layers
        return normalise_act(norm, act, convolve(conv, x))


class DepthwiseSeparable(nn.Module):
    """Depthwise k x k and 1x1, both without bias, batch norm and, with `act`, ReLU."""

    def __init__(
        self, in_channels: int, out_channels: int, kernel_size: int = 3, *, act: bool = True
    ) -> None:
        super().__init__()
        self.depthwise = nn.Conv2d(
            in_channels,
            in_channels,
            kernel_size,
            padding=kernel_size // 2,
            groups=in_channels,
            bias=False,
        )
        self.pointwise = nn.Conv2d(in_channels, out_channels, kernel_size=1, bias=False)
        self.norm = nn.BatchNorm2d(out_channels)
        self.act = nn.ReLU() if act else nn.Identity()

    def forward(self, x: Tensor) -> Tensor:  # (B, C_in, h, w)
        """(B, C_in, h, w) -> (B, C_out, h, w)."""
        x = convolve(self.pointwise, convolve(self.depthwise, x))  # (B, C_out, h, w)
        return normalise_act(self.norm, self.act, x)


def pad_same(x: Tensor, kernel_size: int, stride: int) -> Tensor:
    """Pad a map with zeros as TensorFlow's "same" does before a convolution.

    The convolution then returns ceil(H / stride) rows. An odd zero goes below and right. At stride
    2 the padding depends on the size: for an even height a 3x3 kernel gets 0 rows above and 1
    below. Weights that were trained in TensorFlow (EfficientNet) need it.
    """
    rows = _total_padding(x.shape[2], kernel_size, stride)
    columns = _total_padding(x.shape[3], kernel_size, stride)
    return F.pad(x, (columns // 2, columns - columns // 2, rows // 2, rows - rows // 2))


def _total_padding(length: int, kernel_size: int, stride: int) -> int:
    """Return the zeros with which `length` yields ceil(length / stride) positions.

    Never negative, because kernel_size >= stride.
    """
    return ((length + stride - 1) // stride - 1) * stride + kernel_size - length


def replace_strides(stages: Sequence[nn.Module], output_stride: int) -> None:
    """Keep a backbone's last stages at 1 / output_stride (8 or 16): strides become dilations.

    A convolution that loses its stride keeps the dilation of those before it; later ones have twice
    that, so that their taps stay in place (torchvision's replace_stride_with_dilation). Weights
    stay.
    """
    dilation = 1
    for stage in stages[-1:] if output_stride == 16 else stages:
        rate = dilation
        for conv in [layer for layer in stage.modules() if isinstance(layer, nn.Conv2d)]:
            # reach 0: a 1x1 convolution
            strided, reach = conv.stride != (1, 1), conv.kernel_size[0] // 2
            conv.stride = (1, 1)
            if reach:
                conv.dilation, conv.padding = (rate, rate), (reach * rate, reach * rate)
                rate = 2 * dilation if strided else rate
        dilation = rate


MANY = 16
"""Number of images from which torch uses oneDNN for 1x1 convolutions."""


def convolve(conv: nn.Conv2d, x: Tensor) -> Tensor:
    """Return conv(x), with our backward for a depthwise convolution that is trained on a CPU.

    A 1x1 convolution in float32 gets the rows of a batch as images: with one thread and fewer than
    16 images torch uses BLAS, which on AMD processors takes twice as long as oneDNN. Compiled and
    exported graphs, and everything without gradients, have the plain convolution.
    """
    if not (conv.training and trains_here(x)):
        return conv(x)
    if is_pointwise(conv) and x.dtype == torch.float32 and not torch.is_autocast_enabled("cpu"):
        batch, channels, height, width = x.shape
        if (
            torch.get_num_threads() > 1
            or batch >= MANY
            or not x.is_contiguous(memory_format=torch.channels_last)
        ):
            return conv(x)
        rows = x.permute(0, 2, 3, 1).reshape(batch * height, 1, width, channels).permute(0, 3, 1, 2)
        out = conv(rows).permute(0, 2, 3, 1)  # (B h, 1, w, C_out)
        return out.reshape(batch, height, width, -1).permute(0, 3, 1, 2)
    depthwise = (
        conv.groups == conv.in_channels == conv.out_channels > 1 and conv.padding_mode == "zeros"
    )
    if not depthwise or isinstance(conv.padding, str):
        return conv(x)
    x = x.to(torch.get_autocast_dtype("cpu")) if torch.is_autocast_enabled("cpu") else x
    geometry: list[Any] = [conv.stride, conv.padding, conv.dilation]
    return depthwise_conv2d(x, conv.weight, conv.bias, *geometry)


CUTS: dict[type, tuple[float, float]] = {
    type(None): (-math.inf, math.inf),
    nn.Identity: (-math.inf, math.inf),
    nn.ReLU: (0.0, math.inf),
    nn.ReLU6: (0.0, 6.0),
}
"""Activations that clamp values -> the lower and upper limit."""


def normalise_act(norm: nn.Module, act: nn.Module | None, x: Tensor) -> Tensor:
    """Return act(norm(x)), or norm(x); a batch norm that is trained on a CPU uses our kernels.

    These compute the activations in CUTS, too. Compiled and exported graphs, and everything without
    gradients, have the plain layers.
    """
    # A norm over several processes is of a derived class, and computes by itself
    if type(norm) is not nn.BatchNorm2d or not (norm.training and trains_here(x) and takes(x)):
        return norm(x) if act is None else act(norm(x))
    mean, variance, tracked, rate = (
        norm.running_mean,
        norm.running_var,
        norm.num_batches_tracked,
        norm.momentum,
    )
    if (
        mean is None
        or variance is None
        or tracked is None
        or rate is None
        or norm.weight.dtype != torch.float32
    ):
        return norm(x) if act is None else act(norm(x))
    cut = CUTS.get(type(act))
    limits = cut or CUTS[nn.Identity]
    out, batch_mean, batch_variance = norm_act(x, norm.weight, norm.bias, norm.eps, *limits)
    count = x.numel() // x.shape[1]
    with torch.no_grad():
        tracked += 1
        mean.mul_(1 - rate).add_(batch_mean, alpha=rate)
        variance.mul_(1 - rate).add_(batch_variance, alpha=rate * count / (count - 1))
    return out if cut or act is None else act(out)


def widen_input(conv: nn.Conv2d, channels: int) -> None:
    """Let a first convolution take `channels` inputs, each with the mean of the old kernels.

    The kernels are scaled to keep the sum, so that an image with equal channels gives the same
    answer as a grey RGB image did.
    """
    old = conv.weight.data  # (C_out, 3, k, k)
    mean = old.mean(dim=1, keepdim=True) * (old.shape[1] / channels)
    conv.weight = nn.Parameter(mean.repeat(1, channels, 1, 1))  # (C_out, channels, k, k)
    conv.in_channels = channels
