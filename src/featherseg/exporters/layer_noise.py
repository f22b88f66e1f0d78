"""How much a model's logits suffer from each layer in int8, so that the worst can stay out of it."""

from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from featherseg.layers.model import SegmentationModel

WEIGHTED = (nn.Conv2d, nn.Linear)
"""The layers that are quantised; a model's other work is not a layer of its own, or stays as it is."""


@torch.no_grad()
def layer_noise(model: SegmentationModel, images: Sequence[Tensor]) -> dict[str, float]:
    """Signal over noise, as powers, in the logits when one layer of WEIGHTED alone is in int8; the lowest first.

    By the path of the module. That layer's input is in 256 steps from its lowest to its highest value (of the whole
    map), its weight in 255 about zero (of each output channel). An exporter has its own ranges: this tells which layers
    are worst, not what a file will lose. images (1, C, H, W), normalised. The model runs once for every layer.
    """
    layers = {path: layer for path, layer in model.named_modules() if isinstance(layer, WEIGHTED)}
    powers = {path: [0.0, 0.0] for path in layers}
    for image in images:
        exact = model(image).logits.double()
        for path, layer in layers.items():
            handle = layer.register_forward_hook(lambda layer, inputs, output: _in_int8(layer, inputs[0]))
            try:
                noise = model(image).logits.double() - exact
            finally:
                handle.remove()
            powers[path][0] += exact.square().sum().item()
            powers[path][1] += noise.square().sum().item()
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
