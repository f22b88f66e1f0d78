"""Parameters and multiply-accumulates (MACs) of a model, by three conventions.

RULES has a rule for torch's layers and for pools. Any other layer that computes by itself states
its cost as `macs`: a method (first input, output) -> multiply-accumulates without those of layers
inside it, or 0 for none. Published "GFLOPs" are mostly MACs, counted by one of several tools that
skip different layers, so a figure means something only with its convention. The rules depend on a
layer's type and shapes, not on the operations that compute it: a faster implementation of a layer
does not change its cost.
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
from featherseg.core.wording import brief, size_text
from featherseg.layers.model import SegmentationModel, merge_paths
from featherseg.layers.own_model import OwnModel
from featherseg.layers.pooling import RegionMax, RegionMean, StridedRegionMean

CONVENTIONS = {
    "macs": "every multiply-accumulate of convolutions, linear layers and attention products",
    "ptflops-0.6": "what the package ptflops 0.6 counts: convolutions and linear layers with their "
    "bias, norms, activations, pools; no attention products",
    "conv-bn": "convolutions, and 2 for every output element of a batch norm",
}


class Counts(NamedTuple):
    """The figures of a layer by each convention, in the order of CONVENTIONS."""

    macs: int = 0
    ptflops: int = 0
    conv_bn: int = 0

    def plus(self, other: Counts) -> Counts:
        """Return the sums, field by field."""
        return Counts(*(a + b for a, b in zip(self, other, strict=True)))


def _convolution(conv: Any, x: Tensor, y: Tensor) -> Counts:
    """Count k_h k_w C_in / groups products for every output element; ptflops adds the bias."""
    macs = y.numel() * conv.weight[0].numel()
    return Counts(macs, macs + (y.numel() if conv.bias is not None else 0), macs)


def _linear(linear: Any, x: Tensor, y: Tensor) -> Counts:
    """Count C_in products for every output element; ptflops adds the bias once."""
    macs = y.numel() * linear.in_features
    return Counts(macs, macs + (linear.out_features if linear.bias is not None else 0))


def _batch_norm(norm: Any, x: Tensor, y: Tensor) -> Counts:
    """Count two operations for every element: scale and shift."""
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
    nn.SiLU: _nothing,  # ptflops 0.6 knows neither this
    nn.Hardswish: _nothing,  # nor this
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
    """A model's parameters, and its multiply-accumulates (MACs) for one image.

    size is the image's (H, W), counted_size the size that the model pads it to. macs has a figure
    for each of CONVENTIONS. params and macs["macs"] are the sums over parts.
    """

    model: str
    size: Size
    counted_size: Size
    classes: int
    params: int
    macs: dict[str, int]
    parts: dict[str, Part]

    def as_dict(self) -> dict[str, Any]:
        """Return the fields as JSON values, without counted_size; "size" is [H, W]."""
        parts = self.parts.items()
        return {
            "model": self.model,
            "size": list(self.size),
            "classes": self.classes,
            "params": self.params,
            "macs": dict(self.macs),
            "parts": {name: {"params": part.params, "macs": part.macs} for name, part in parts},
        }

    def __repr__(self) -> str:
        macs = f"{self.macs['macs'] / 1e9:.2f} GMACs"
        return brief(self, self.model, size_text(self.size), f"{self.params / 1e6:.2f} M", macs)

    def _repr_html_(self) -> str:
        rows = [(name, part.params, part.macs) for name, part in self.parts.items()]
        rows.append(("all", self.params, self.macs["macs"]))
        texts = [(name, f"{params:,}", f"{macs / 1e9:.3f}") for name, params, macs in rows]
        title = f"{self.model}, {size_text(self.size)}"
        return html_table(title, ("part", "parameters", "GMACs (macs)"), texts)


@cache
def cost(name: str, size: Size, classes: int) -> Cost:
    """Return the cost of a model of the catalogue for one RGB image of (H, W) pixels.

    Raises:
        UnknownName: for a model that is not in the catalogue.
        ConfigError: for an impossible number of classes.
    """
    with torch.device("meta"):
        model = models.build(name, classes=classes)
    return cost_of(model, name, size)


def cost_of(model: SegmentationModel, name: str, size: Size) -> Cost:
    """Return the cost of a model for one image.

    A copy of the model runs on the meta device, where only shapes are computed, so any size is
    instant. A user's model that cannot run there is run on the CPU. The padding to a model's size
    divisor is counted; auxiliary heads, which only training uses, are not. Blocks whose paths
    merge for inference are counted merged.

    Args:
        model: as `models.build` returns it.
        name: the name in the result.
        size: (height, width) of the image in pixels.

    Raises:
        UnknownName: for a layer without a rule, or products of a user's model outside of layers.
    """
    shape = (1, len(model.mean), *size)
    twin = deepcopy(model).eval().to("meta")
    merge_paths(twin)
    try:
        layers, out = _count(twin, torch.empty(shape, device="meta"))
    except FeathersegError:
        raise
    except Exception:  # a user's model may create tensors or read their values in its forward
        layers, out = _count(deepcopy(model).cpu().eval(), torch.zeros(shape))
    return Cost(
        model=name,
        size=(size[0], size[1]),
        counted_size=out.padded_size,
        classes=model.classes,
        params=count_parameters(twin) - count_parameters(twin.aux_heads),
        macs=by_convention(layers),
        parts={
            child: Part(count_parameters(module), by_convention(_below(layers, child))["macs"])
            for child, module in twin.named_children()
            if child != "aux_heads"
        },
    )


def _count(model: SegmentationModel, images: Tensor) -> tuple[dict[str, Counts], Any]:
    """Return `count_layers` of a model; of a user's model, check that no products are missed."""
    if not isinstance(model, OwnModel):
        return count_layers(model, images)
    with FlopCounterMode(display=False) as counter:
        layers, out = count_layers(model, images)
    all_macs, layer_macs = counter.get_total_flops() // 2, by_convention(layers)["macs"]
    if all_macs > MOST_UNSEEN * layer_macs:
        raise UnknownName(
            f"{type(model.module).__name__}: {all_macs - layer_macs:,} multiply-accumulates of "
            f"{all_macs:,} are products that no layer computes, such as q @ k or functional "
            "convolutions. Give the module that has them a method macs(x, y) that returns theirs "
            "(costs/cost.py)."
        )
    return layers, out


MOST_UNSEEN = 1.01
"""Largest ratio of torch's count of a user's model to the count of its layers."""

SHAPE_KEEPING = {
    nn.BatchNorm2d,
    nn.ReLU,
    nn.ReLU6,
    nn.GELU,
    nn.SiLU,
    nn.Hardswish,
    nn.Sigmoid,
    nn.Hardsigmoid,
}
"""Layers whose output has the shape of their input."""


def count_parameters(model: nn.Module) -> int:
    """Return the number of parameters, each tensor once; buffers (statistics of norms) are none."""
    return sum(parameter.numel() for parameter in model.parameters())


def count_layers(module: nn.Module, images: Tensor | list[Tensor]) -> tuple[dict[str, Counts], Any]:
    """Run a model or a part of it once; return the counts by the layer's full name, and the output.

    A layer that runs twice counts twice.

    Args:
        images: the module's input, on its device; a decoder takes a list of stages.

    Raises:
        UnknownName: before the pass, with every type of layer that has no rule.
    """
    counts: dict[str, Counts] = {}

    def count(name: str, rule: Rule) -> Callable[[nn.Module, tuple[Tensor, ...], Tensor], None]:
        def hook(layer: nn.Module, inputs: tuple[Tensor, ...], output: Tensor) -> None:
            counts[name] = counts.get(name, Counts()).plus(rule(layer, inputs[0], output))

        return hook

    counted = list(_counted_layers(module))  # refuses an unknown layer before the first hook is set
    handles = [layer.register_forward_hook(count(name, rule)) for name, layer, rule in counted]

    # On meta, layers that keep the shape are skipped: inferring the shape in Python takes 1.6 of
    # the 2 ms of a norm.
    first = images[0] if isinstance(images, list) else images
    skipped = [m for m in module.modules() if first.is_meta and type(m) in SHAPE_KEEPING]
    for layer in skipped:
        vars(layer)["forward"] = lambda x: x
    try:
        with torch.no_grad():
            output = module(images)
    finally:
        for handle in handles:
            handle.remove()
        for layer in skipped:
            del vars(layer)["forward"]
    return counts, output


def by_convention(layers: dict[str, Counts]) -> dict[str, int]:
    """Return the sum over layers by the name of each of CONVENTIONS."""
    total = Counts()
    for counts in layers.values():
        total = total.plus(counts)
    return dict(zip(CONVENTIONS, total, strict=True))


def _rule(layer: nn.Module) -> Rule | None:
    """Return the rule of a layer: by its type in RULES, or its `macs`; None if it has neither."""
    if type(layer) in RULES:
        return RULES[type(layer)]
    macs = getattr(type(layer), "macs", None)
    if macs is None:
        return None
    return lambda layer, x, y: Counts(macs(layer, x, y) if callable(macs) else macs)


def _counted_layers(module: nn.Module) -> Iterator[tuple[str, nn.Module, Rule]]:
    """Yield every module that computes by itself, as (full name, module, rule).

    It has a rule, or no children, or parameters besides those of its children. Raises UnknownName
    with every type of these that has no rule.
    """
    unknown: dict[str, str] = {}
    for name, layer in module.named_modules():
        if isinstance(layer, nn.ModuleDict | nn.ModuleList):  # may be empty, computes nothing
            continue
        if rule := _rule(layer):
            yield name, layer, rule
        elif not list(layer.children()) or list(layer.parameters(recurse=False)):
            unknown[type(layer).__name__] = name
    if unknown:
        listed = ", ".join(f"{kind} (at {name})" for kind, name in unknown.items())
        raise UnknownName(
            f"there is no counting rule for these layers: {listed}. Give each a method macs(x, y) "
            "that returns its multiply-accumulates, or macs = 0 if it costs nothing "
            "(costs/cost.py)."
        )


def _below(layers: dict[str, Counts], child: str) -> dict[str, Counts]:
    return {name: counts for name, counts in layers.items() if name.split(".")[0] == child}
