"""How much each layer of a network suffers from int8, so that the worst can be kept in fp32."""

from collections.abc import Sequence
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

WEIGHTED = (nn.Conv2d, nn.Linear)
"""The layers that are quantised; a network's other work is not a layer of its own, or stays as it is."""


@torch.no_grad()
def layer_noise(network: nn.Module, pictures: Sequence[Tensor]) -> dict[str, float]:
    """Signal over noise, as powers, at the output of each layer of WEIGHTED that alone is in int8; the lowest first.

    By the path of the module. Every layer is given what the fp32 network gives it, in 256 steps from the lowest to the
    highest value (activations, of the whole map) and in 255 about zero (weights, of each output channel). An exporter
    has its own ranges: this tells which layers are worst, not what a file will lose. pictures (1, C, H, W), normalised.
    """
    powers: dict[str, list[float]] = {}

    def measure(path: str) -> Any:
        def hook(layer: nn.Module, inputs: tuple[Tensor, ...], output: Tensor) -> None:
            noise = _in_int8(layer, inputs[0]) - output
            total = powers.setdefault(path, [0.0, 0.0])
            total[0] += output.double().square().sum().item()
            total[1] += noise.double().square().sum().item()

        return hook

    layers = {path: layer for path, layer in network.named_modules() if isinstance(layer, WEIGHTED)}
    handles = [layer.register_forward_hook(measure(path)) for path, layer in layers.items()]
    try:
        for picture in pictures:
            network(picture)
    finally:
        for handle in handles:
            handle.remove()
    ratios = {path: signal / noise if noise else float("inf") for path, (signal, noise) in powers.items()}
    return dict(sorted(ratios.items(), key=lambda item: item[1]))


def _in_int8(layer: nn.Module, x: Tensor) -> Tensor:
    """What the layer gives with its input and its weight rounded to int8; as `layer(x)` in shape."""
    assert isinstance(layer, WEIGHTED)
    lowest, highest = x.min().clamp(max=0), x.max().clamp(min=0)
    step = ((highest - lowest) / 255).clamp(min=1e-12)
    rounded = ((x / step).round().clamp((lowest / step).round(), (lowest / step).round() + 255)) * step
    steps = (layer.weight.flatten(1).abs().amax(1) / 127).clamp(min=1e-12)  # (out channels,)
    steps = steps.view(-1, *[1] * (layer.weight.dim() - 1))
    weight = (layer.weight / steps).round() * steps
    if isinstance(layer, nn.Linear):
        return F.linear(rounded, weight, layer.bias)
    return layer._conv_forward(rounded, weight, layer.bias)
