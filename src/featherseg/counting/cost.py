"""Parameters and multiply-accumulates (MACs) of a model, by three conventions.

torch's layers and pools have their rule in RULES. Any other layer that computes by itself says
what it costs as `macs`: a method (first input, output) -> the multiply-accumulates that are not
those of layers inside it, or 0 for none. Published "GFLOPs" are mostly MACs, counted by one of
several tools that leave out different layers; a figure means something only with its convention.
The rules see a layer's type and the shapes it met, not the operations that compute it, so that a
faster way to compute a layer does not change what it costs.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from copy import deepcopy
from dataclasses import dataclass
from functools import cache
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn
from torch.utils.flop_counter import FlopCounterMode

from featherseg import models
from featherseg.core.errors import FeathersegError, UnknownName
from featherseg.core.notebook import html_table
from featherseg.core.types import Size
from featherseg.layers.model import SegmentationModel
from featherseg.layers.own_model import OwnModel
from featherseg.layers.pooling import RegionMax, RegionMean, StridedRegionMean

CONVENTIONS = {
    "macs": "every multiply-accumulate of convolutions, linear layers and attention products",
    "ptflops-0.6": "what the package ptflops 0.6 counts: convolutions and linear layers with their bias, norms, "
    "activations, pools; no attention products",
    "conv-bn": "convolutions, and 2 for every output element of a batch norm",
}


class Counts(NamedTuple):
    """One layer's figure by each convention, in the order of CONVENTIONS."""

    macs: int = 0
    ptflops: int = 0
    conv_bn: int = 0

    def plus(self, other: Counts) -> Counts:
        """Both together, field by field."""
        return Counts(*(a + b for a, b in zip(self, other, strict=True)))


def _convolution(conv: Any, x: Tensor, y: Tensor) -> Counts:
    """k_h k_w C_in / groups products for every output element; ptflops adds the bias."""
    macs = y.numel() * conv.weight[0].numel()
    return Counts(macs, macs + (y.numel() if conv.bias is not None else 0), macs)


def _linear(linear: Any, x: Tensor, y: Tensor) -> Counts:
    """C_in products for every output element; ptflops adds the bias once, whatever the number of positions."""
    macs = y.numel() * linear.in_features
    return Counts(macs, macs + (linear.out_features if linear.bias is not None else 0))


def _batch_norm(norm: Any, x: Tensor, y: Tensor) -> Counts:
    """Two operations an element: scale and shift."""
    return Counts(ptflops=(2 if norm.affine else 1) * x.numel(), conv_bn=2 * y.numel())


def _group_norm(norm: Any, x: Tensor, y: Tensor) -> Counts:
    return Counts(ptflops=2 * x.numel())


def _activation(layer: Any, x: Tensor, y: Tensor) -> Counts:
    return Counts(ptflops=y.numel())


def _pool(layer: Any, x: Tensor, y: Tensor) -> Counts:
    return Counts(ptflops=x.numel())


def _nothing(layer: Any, x: Tensor, y: Tensor) -> Counts:
    return Counts()


Rule = Callable[[Any, Tensor, Tensor], Counts]
"""(layer, its first input, its output) -> counts."""

RULES: dict[type[nn.Module], Rule] = {
    nn.Conv2d: _convolution,
    nn.Linear: _linear,
    nn.BatchNorm2d: _batch_norm,
    nn.GroupNorm: _group_norm,
    nn.LayerNorm: _nothing,
    nn.ReLU: _activation,
    nn.ReLU6: _activation,
    nn.GELU: _activation,
    nn.SiLU: _nothing,  # ptflops 0.6 does not know it
    nn.Hardswish: _nothing,  # nor this one
    nn.MaxPool2d: _pool,
    nn.AvgPool2d: _pool,
    RegionMean: _pool,
    RegionMax: _pool,
    StridedRegionMean: _pool,
    nn.Identity: _nothing,
    nn.Dropout: _nothing,
    nn.Dropout2d: _nothing,
}


@dataclass(frozen=True)
class Part:
    """A direct child of the model: its parameters, and its MACs by the convention `macs`."""

    params: int
    macs: int


@dataclass(frozen=True)
class Cost:
    """What a model weighs and what one image costs it.

    size is the image's (H, W), counted_size what the model pads it to; macs holds a figure for
    each of CONVENTIONS. params and macs["macs"] are the sums over parts.
    """

    model: str
    size: Size
    counted_size: Size
    classes: int
    params: int
    macs: dict[str, int]
    parts: dict[str, Part]

    def as_dict(self) -> dict[str, Any]:
        """The stable form: {"model", "size": [H, W], "classes", "params", "macs": {...}, "parts": {...}}."""
        return {
            "model": self.model,
            "size": list(self.size),
            "classes": self.classes,
            "params": self.params,
            "macs": dict(self.macs),
            "parts": {name: {"params": part.params, "macs": part.macs} for name, part in self.parts.items()},
        }

    def _repr_html_(self) -> str:
        rows = [(name, f"{part.params:,}", f"{part.macs / 1e9:.3f}") for name, part in self.parts.items()]
        rows.append(("all", f"{self.params:,}", f"{self.macs['macs'] / 1e9:.3f}"))
        height, width = self.size
        return html_table(f"{self.model}, {height}x{width}", ("part", "parameters", "GMACs (macs)"), rows)


@cache
def cost(name: str, size: Size, classes: int) -> Cost:
    """The cost of a model of the catalogue for one RGB image of (H, W) pixels, counted once.

    Raises UnknownName for a name that is in no catalogue, ConfigError for a class count that
    cannot be.
    """
    with torch.device("meta"):
        model = models.build(name, classes=classes)
    return cost_of(model, name, size)


def cost_of(model: SegmentationModel, name: str, size: Size) -> Cost:
    """The cost of a model for one image.

    Nothing is computed: a copy on the meta device sees shapes alone, so that any size is instant;
    but for a model of one's own that does not run there. The padding to a model's size divisor is
    counted; auxiliary heads, which only training has, are not.

    Args:
        model: as `models.build` gives it.
        name: what to call it.
        size: (height, width) of the image in pixels.

    Raises:
        UnknownName: for a layer that has no rule, and for products of one's own model that belong to no layer.
    """
    height, width = size
    twin = deepcopy(model).eval()
    try:
        layers, out = _count(twin.to("meta"), torch.empty(1, len(model.mean), height, width, device="meta"))
    except FeathersegError:
        raise
    except Exception:  # a model of one's own that makes tensors itself or looks into them: it is computed
        layers, out = _count(deepcopy(model).cpu().eval(), torch.zeros(1, len(model.mean), height, width))
    return Cost(
        model=name,
        size=(height, width),
        counted_size=out.padded_size,
        classes=model.classes,
        params=count_parameters(model) - count_parameters(model.aux_heads),
        macs=by_convention(layers),
        parts={
            child: Part(count_parameters(module), by_convention(_below(layers, child))["macs"])
            for child, module in model.named_children()
            if child != "aux_heads"
        },
    )


def _count(model: SegmentationModel, images: Tensor) -> tuple[dict[str, Counts], Any]:
    """`count_layers` of a whole model; of one's own, torch's count of all products beside that of its layers."""
    if not isinstance(model, OwnModel):
        return count_layers(model, images)
    with FlopCounterMode(display=False) as counter:
        layers, out = count_layers(model, images)
    of_all, of_layers = counter.get_total_flops() // 2, by_convention(layers)["macs"]
    if of_all > MOST_UNSEEN * of_layers:
        raise UnknownName(
            f"{type(model.module).__name__}: {of_all - of_layers:,} multiply-accumulates of {of_all:,} are products "
            "that no layer computes, such as q @ k or functional convolutions. Give the module that has them a method "
            "macs(x, y) that returns theirs (counting/cost.py)."
        )
    return layers, out


MOST_UNSEEN = 1.01
"""Times what the layers of one's own model count that torch may count of it."""

SHAPE_KEEPING = {nn.BatchNorm2d, nn.ReLU, nn.ReLU6, nn.GELU, nn.SiLU, nn.Hardswish, nn.Sigmoid, nn.Hardsigmoid}


def count_parameters(model: nn.Module) -> int:
    """Number of parameters, each tensor once; buffers (batch-norm statistics) are none."""
    return sum(parameter.numel() for parameter in model.parameters())


def count_layers(module: nn.Module, images: Tensor | list[Tensor]) -> tuple[dict[str, Counts], Any]:
    """One forward pass of a model or of a part of it; -> (counts by the layer's full name, the pass's output).

    images is what the module takes (a decoder takes a list of stages), on the module's device. A
    layer that runs twice counts twice. Raises UnknownName, before the pass, naming every layer
    type that has no rule.
    """
    counts: dict[str, Counts] = {}

    def count(name: str, rule: Rule) -> Callable[[nn.Module, tuple[Tensor, ...], Tensor], None]:
        def hook(layer: nn.Module, inputs: tuple[Tensor, ...], output: Tensor) -> None:
            counts[name] = counts.get(name, Counts()).plus(rule(layer, inputs[0], output))

        return hook

    counted = list(_counted_layers(module))  # refuses an unknown layer before the first hook is set
    handles = [layer.register_forward_hook(count(name, rule)) for name, layer, rule in counted]
    # these give the shape they are given, and torch works that out in Python: 1.6 of the 2 ms of a norm
    without = images[0] if isinstance(images, list) else images
    keeping = [layer for layer in module.modules() if without.is_meta and type(layer) in SHAPE_KEEPING]
    for layer in keeping:
        vars(layer)["forward"] = lambda x: x
    try:
        with torch.no_grad():
            output = module(images)
    finally:
        for handle in handles:
            handle.remove()
        for layer in keeping:
            del vars(layer)["forward"]
    return counts, output


def by_convention(layers: dict[str, Counts]) -> dict[str, int]:
    """The sum over layers, under the names of CONVENTIONS."""
    total = Counts()
    for counts in layers.values():
        total = total.plus(counts)
    return dict(zip(CONVENTIONS, total, strict=True))


def _rule(layer: nn.Module) -> Rule | None:
    """The rule of a layer: of its type in RULES, or its own `macs`."""
    if type(layer) in RULES:
        return RULES[type(layer)]
    own = getattr(type(layer), "macs", None)
    if own is None:
        return None
    return lambda layer, x, y: Counts(own(layer, x, y) if callable(own) else own)


def _counted_layers(module: nn.Module) -> Iterator[tuple[str, nn.Module, Rule]]:
    """Every module that computes by itself: it has no children, or parameters of its own, or a rule.

    Raises UnknownName naming every layer type of these that has no rule.
    """
    unknown: dict[str, str] = {}
    for name, layer in module.named_modules():
        if isinstance(layer, nn.ModuleDict | nn.ModuleList):  # may be empty, computes nothing
            continue
        if rule := _rule(layer):
            yield name, layer, rule
        elif next(layer.children(), None) is None or next(layer.parameters(recurse=False), None) is not None:
            unknown[type(layer).__name__] = name
    if unknown:
        listed = ", ".join(f"{kind} (at {name})" for kind, name in unknown.items())
        raise UnknownName(
            f"there is no counting rule for these layers: {listed}. Give each a method macs(x, y) that returns its "
            "multiply-accumulates, or macs = 0 if it costs nothing (counting/cost.py)."
        )


def _below(layers: dict[str, Counts], child: str) -> dict[str, Counts]:
    return {name: counts for name, counts in layers.items() if name.split(".")[0] == child}
