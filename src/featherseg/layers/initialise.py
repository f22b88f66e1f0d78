"""How convolutions start where a model is trained from scratch."""

import math

from torch import nn


def initialise_by_fan_out(module: nn.Module) -> None:
    """Every convolution of `module` normal with variance 2 / fan-out, where fan-out = k_h k_w C_out / groups; biases 0.

    As the authors of VAN, SeaFormer and SegNeXt do.
    """
    for layer in module.modules():
        if isinstance(layer, nn.Conv2d):
            fan_out = layer.weight[0, 0].numel() * layer.out_channels // layer.groups
            nn.init.normal_(layer.weight, std=math.sqrt(2 / fan_out))
            if layer.bias is not None:
                nn.init.zeros_(layer.bias)
