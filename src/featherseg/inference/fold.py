"""Batch norms and layer scales as part of the convolutions beside them."""

import torch
from torch import Tensor, nn

from featherseg.backbones import van
from featherseg.inference.dataflow import links
from featherseg.layers.model import SegmentationModel
from featherseg.layers.scale import LayerScale
from featherseg.models import segnext


def fold(model: SegmentationModel) -> None:
    """Make batch norms and layer scales part of convolutions, in place, wherever that leaves the result as it is.

    That is where a convolution's whole result goes into one of them, or all of theirs into a convolution without
    padding: one forward shows where. The model must be in eval mode.
    """
    for block in list(model.modules()):
        if isinstance(block, van.Block | segnext.Block) and not isinstance(block.attention, ScaledShortcut):
            fold_shortcut(block)
    home: dict[str, str] = {}  # a folded layer -> the convolution that it is part of
    for name, behind in links(model, (nn.Conv2d, nn.BatchNorm2d, LayerScale)):
        before = home.get(name, name)
        first, second = model.get_submodule(before), model.get_submodule(behind)
        if isinstance(first, nn.Conv2d) and isinstance(second, nn.BatchNorm2d | LayerScale):
            scale_outputs(first, *factors(second))
            home[behind] = before
        elif isinstance(first, nn.BatchNorm2d | LayerScale) and isinstance(second, nn.Conv2d) and _sees_all(second):
            scale_inputs(second, *factors(first))
            home[before] = behind
    for name in home:
        model.set_submodule(name, nn.Identity())
    model.eval()  # the new layers as well


def factors(layer: nn.BatchNorm2d | LayerScale) -> tuple[Tensor, Tensor]:
    """factor and shift (C,) in float64: in eval mode the layer is x * factor + shift, by channel."""
    if isinstance(layer, LayerScale):
        factor = layer.weight.detach().double()
        return factor, torch.zeros_like(factor)
    assert layer.running_mean is not None
    assert layer.running_var is not None
    factor = layer.weight.detach().double() / (layer.running_var.double() + layer.eps).sqrt()
    return factor, layer.bias.detach().double() - layer.running_mean.double() * factor


def scale_outputs(conv: nn.Conv2d, factor: Tensor, shift: Tensor) -> None:
    """Let a convolution give factor * conv(x) + shift, (C_out,) each, in place."""
    bias = torch.zeros_like(shift) if conv.bias is None else conv.bias.detach().double()
    _set(conv, conv.weight.detach().double() * factor[:, None, None, None], bias * factor + shift)


def scale_inputs(conv: nn.Conv2d, factor: Tensor, shift: Tensor) -> None:
    """Let a convolution without groups and padding give conv(factor * x + shift), (C_in,) each, in place."""
    weight = conv.weight.detach().double()  # (C_out, C_in, k, k)
    moved = weight.sum((2, 3)) @ shift  # (C_out,)
    bias = moved if conv.bias is None else conv.bias.detach().double() + moved
    _set(conv, weight * factor[:, None, None], bias)


def _set(conv: nn.Conv2d, weight: Tensor, bias: Tensor) -> None:
    like = conv.weight
    conv.weight = nn.Parameter(weight.to(like.dtype), requires_grad=False)
    conv.bias = nn.Parameter(bias.to(like.dtype), requires_grad=False)


def _sees_all(conv: nn.Conv2d) -> bool:
    """No groups, and no zeros around the map, which a shift would have to become."""
    return conv.groups == 1 and conv.padding == (0, 0)


class ScaledShortcut(nn.Module):
    """x * factor + branch(x), factor (C,). (B, C, h, w) -> (B, C, h, w)."""

    def __init__(self, branch: nn.Module, factor: Tensor) -> None:
        super().__init__()
        self.branch = branch
        self.factor = nn.Parameter(factor[:, None, None], requires_grad=False)

    def forward(self, x: Tensor) -> Tensor:
        return torch.addcmul(self.branch(x), x, self.factor)  # (B, C, h, w)


def fold_shortcut(block: van.Block | segnext.Block) -> None:
    """scale * attention(norm(x)) of a block, in place, where attention(y) = y + branch(y) begins and ends in 1x1.

    The norm goes into the first 1x1, the scale into the last; what the shortcut keeps of both is a factor a channel.
    """
    (factor, shift), (scale, _) = factors(block.attention_norm), factors(block.attention_scale)
    scale_inputs(block.attention.project_in, factor, shift)
    scale_outputs(block.attention.project_out, scale, scale * shift)
    branch = nn.Sequential(*block.attention.children())
    kept = (scale * factor).to(block.attention_scale.weight.dtype)
    block.set_submodule("attention", ScaledShortcut(branch, kept))
    block.set_submodule("attention_norm", nn.Identity())
    block.set_submodule("attention_scale", nn.Identity())
