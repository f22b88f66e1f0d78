"""Fold batch norms and layer scales into neighbouring convolutions, for models in eval mode."""

from typing import Any

import torch
from torch import Tensor, nn

from featherseg.layers.scale import LayerScale


def factors(layer: nn.BatchNorm2d | LayerScale) -> tuple[Tensor, Tensor]:
    """Return factor and shift (C,) in float64: in eval mode the layer is x * factor + shift."""
    if isinstance(layer, LayerScale):
        factor = layer.weight.detach().double()
        return factor, torch.zeros_like(factor)
    assert layer.running_mean is not None
    assert layer.running_var is not None
    factor = layer.weight.detach().double() / (layer.running_var.double() + layer.eps).sqrt()
    return factor, layer.bias.detach().double() - layer.running_mean.double() * factor


def scale_outputs(conv: nn.Conv2d, factor: Tensor, shift: Tensor) -> None:
    """Let a convolution return factor * conv(x) + shift, (C_out,) each, in place."""
    bias = torch.zeros_like(shift) if conv.bias is None else conv.bias.detach().double()
    _set(conv, conv.weight.detach().double() * factor[:, None, None, None], bias * factor + shift)


def scale_inputs(conv: nn.Conv2d, factor: Tensor, shift: Tensor) -> None:
    """Let a convolution return conv(factor * x + shift), (C_in,) each, in place.

    The convolution must have no groups and no padding.
    """
    weight = conv.weight.detach().double()  # (C_out, C_in, k, k)
    moved = weight.sum((2, 3)) @ shift  # (C_out,)
    bias = moved if conv.bias is None else conv.bias.detach().double() + moved
    _set(conv, weight * factor[:, None, None], bias)


def _set(conv: nn.Conv2d, weight: Tensor, bias: Tensor) -> None:
    like = conv.weight
    conv.weight = nn.Parameter(weight.to(like.dtype), requires_grad=False)
    conv.bias = nn.Parameter(bias.to(like.dtype), requires_grad=False)


class ScaledShortcut(nn.Module):
    """x * factor + branch(x), factor (C,)."""

    def __init__(self, branch: nn.Module, factor: Tensor) -> None:
        super().__init__()
        self.branch = branch
        self.factor = nn.Parameter(factor[:, None, None], requires_grad=False)

    def forward(self, x: Tensor) -> Tensor:
        """(B, C, h, w) -> (B, C, h, w)."""
        return torch.addcmul(self.branch(x), x, self.factor)  # (B, C, h, w)


def fold_shortcut(block: Any) -> None:
    """Fold a block's scale * attention(norm(x)), in place, if attention(y) = y + branch(y).

    The branch must begin and end in 1x1. The block has `attention_norm`, `attention` and
    `attention_scale`; a folded block stays as it is. The norm goes into the first 1x1, the scale
    into the last; the shortcut keeps one factor per channel of both.
    """
    if isinstance(block.attention, ScaledShortcut):
        return
    (factor, shift), (scale, _) = factors(block.attention_norm), factors(block.attention_scale)
    scale_inputs(block.attention.project_in, factor, shift)
    scale_outputs(block.attention.project_out, scale, scale * shift)
    branch = nn.Sequential(*block.attention.children())
    kept = (scale * factor).to(block.attention_scale.weight.dtype)
    block.set_submodule("attention", ScaledShortcut(branch, kept))
    block.set_submodule("attention_norm", nn.Identity())
    block.set_submodule("attention_scale", nn.Identity())
