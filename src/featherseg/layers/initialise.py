"""Initial weights of convolutions for training from scratch."""

import math

from torch import nn


def initialise_by_fan_out(module: nn.Module) -> None:
    """Initialise all convolutions of `module`: normal with variance 2 / fan-out, biases 0.

    fan-out = k_h k_w C_out / groups, as the authors of VAN, SeaFormer and SegNeXt have it.
    """
    for layer in module.modules():
        if isinstance(layer, nn.Conv2d):
            fan_out = layer.weight[0, 0].numel() * layer.out_channels // layer.groups
            nn.init.normal_(layer.weight, std=math.sqrt(2 / fan_out))
            if layer.bias is not None:
                nn.init.zeros_(layer.bias)
