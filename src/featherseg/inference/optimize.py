"""The same model, faster: folded weights, and the machine's fast paths.

Batch norms and layer scales become part of the convolutions beside them; maps and kernels are
channels-last. On a CPU dilated depthwise convolutions run phase by phase, 1x1 convolutions by
oneDNN, and RSP's relation in one kernel.
"""

import copy
from typing import Any, Literal

import torch
from torch import nn

from featherseg.core.errors import ConfigError
from featherseg.inference.bf16 import in_bf16
from featherseg.inference.fold import fold
from featherseg.layers.dilated_depthwise import PhaseSplitConv2d, splits
from featherseg.layers.model import SegmentationModel
from featherseg.layers.pointwise import PointwiseConv2d, is_pointwise

Precision = Literal["fp32", "bf16"]
PRECISIONS = ("fp32", "bf16")


def optimize(
    model: SegmentationModel, precision: Precision = "fp32", device: torch.device | None = None
) -> SegmentationModel:
    """Return a copy for inference: in eval mode, without gradients, with folded weights.

    Its weights are not those of a run: save those of `model`.

        model = featherseg.optimize(featherseg.load_run("runs/photos").model)

    Args:
        model: The model, which stays unchanged.
        precision: "fp32": logits differ by rounding alone, at most 1e-5 of their range from exact
            arithmetic, for every model of the catalogue. "bf16": weights and maps have 8 bits.
        device: The device. Default: that of the model.

    Returns:
        A model that is called in the same way: normalised float32 images (B, C, H, W) of any size
        -> SegOutput in float32.

    Raises:
        ConfigError: There is no such precision.
        DeviceError: The device does not compute in bf16.
    """
    if precision not in PRECISIONS:
        raise ConfigError(f"precision {precision!r}: expected one of {', '.join(PRECISIONS)}.")
    device = device or next(model.parameters()).device
    # Any: torch types no `to` with a memory format
    faster: Any = copy.deepcopy(model).to(device, torch.float32)
    faster.eval().requires_grad_(False)
    fold(faster)
    if device.type == "cpu":
        _take_fast_paths(faster)
    if precision == "bf16":
        faster = in_bf16(faster)
    return faster.to(memory_format=torch.channels_last)


def _take_fast_paths(model: nn.Module) -> None:
    """Replace layers that are slow on a CPU by faster ones with the same result."""
    for name, layer in list(model.named_modules()):
        if type(layer) is nn.Conv2d and (splits(layer) or is_pointwise(layer)):
            model.set_submodule(
                name, _as(PhaseSplitConv2d if splits(layer) else PointwiseConv2d, layer)
            )
    for name, layer in list(model.named_modules()):
        if for_cpu := getattr(layer, "for_cpu", None):  # the layer makes a faster form of itself
            model.set_submodule(name, for_cpu())


def _as(kind: type[nn.Conv2d], conv: nn.Conv2d) -> nn.Conv2d:
    """Return a convolution of that kind with the weights of `conv`."""
    settings: Any = {key: getattr(conv, key) for key in ("stride", "padding", "dilation", "groups")}
    size: Any = conv.kernel_size  # Any: torch types them as longer than two
    new = kind(
        conv.in_channels,
        conv.out_channels,
        size,
        bias=conv.bias is not None,
        device="meta",
        **settings,
    )
    new.weight, new.bias = conv.weight, conv.bias
    return new.train(conv.training)
