"""The effect of int8 in each single layer on the logits, so that the worst stay in fp32."""

from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from featherseg.layers.model import SegmentationModel

WEIGHTED = (nn.Conv2d, nn.Linear)
"""The kinds of layers that are quantised; other operations are no separate layer, or stay in fp32.
"""


@torch.no_grad()
def layer_noise(model: SegmentationModel, images: Sequence[Tensor]) -> dict[str, float]:
    """Return module path -> signal-to-noise power ratio of the logits with that layer in int8.

    The lowest comes first. The layer's input is rounded to 256 steps between its extremes (over the
    whole map), its weight to 255 steps about zero (per output channel). An exporter has its own
    ranges: this shows which layers are worst, not how much a file will lose. images are (1, C, H,
    W), normalised. The model runs once per layer.
    """
    layers = {path: layer for path, layer in model.named_modules() if isinstance(layer, WEIGHTED)}
    powers = {path: [0.0, 0.0] for path in layers}
    for image in images:
        exact = model(image).logits.double()
        for path, layer in layers.items():
            handle = layer.register_forward_hook(
                lambda layer, inputs, output: _in_int8(layer, inputs[0])
            )
            try:
                noise = model(image).logits.double() - exact
            finally:
                handle.remove()
            powers[path][0] += exact.square().sum().item()
            powers[path][1] += noise.square().sum().item()
    ratios = {
        path: signal / noise if noise else float("inf") for path, (signal, noise) in powers.items()
    }
    return dict(sorted(ratios.items(), key=lambda item: item[1]))


def _in_int8(layer: nn.Module, x: Tensor) -> Tensor:
    """Return the layer's output with input and weight rounded to int8, shaped as `layer(x)`."""
    assert isinstance(layer, WEIGHTED)
    lowest, highest = x.min().clamp(max=0), x.max().clamp(min=0)
    step = ((highest - lowest) / 255).clamp(min=1e-12)
    rounded = (
        (x / step).round().clamp((lowest / step).round(), (lowest / step).round() + 255)
    ) * step
    steps = (layer.weight.flatten(1).abs().amax(1) / 127).clamp(min=1e-12)  # (out channels,)
    steps = steps.view(-1, *[1] * (layer.weight.dim() - 1))
    weight = (layer.weight / steps).round() * steps
    if isinstance(layer, nn.Linear):
        return F.linear(rounded, weight, layer.bias)
    return layer._conv_forward(rounded, weight, layer.bias)
