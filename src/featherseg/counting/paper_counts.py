"""Our counts of a model that a paper prints figures of, and whether a count is the printed figure.

All models are counted by one convention, `macs`. A printed figure that this does not meet is tried by the other
conventions and, where a row's label is in doubt, at other image sizes and numbers of classes.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from decimal import ROUND_DOWN, ROUND_HALF_UP, Decimal
from functools import cache
from typing import Literal

import torch
from torch import nn

from featherseg import models
from featherseg.core.types import Size
from featherseg.counting.cost import Counts, cost, count_layers
from featherseg.counting.paper_rows import Counting

Verdict = Literal["equal", "other convention", "mislabelled", "not reproducible", "not testable here"]
VERDICTS: dict[Verdict, str] = {
    "equal": "the count by `macs` is the printed figure, rounded or cut off at its digits",
    "other convention": "another way to count, at the same image size, is the printed figure",
    "mislabelled": "a count at another image size is the printed figure",
    "not reproducible": "no count is the printed figure",
    "not testable here": "no dataset, no weights, or a model that is not built here",
}
"""What each says; from best to worst of those that a count leads to."""


@dataclass(frozen=True)
class Further:
    """A convention besides counting.cost's: what it counts; (a layer's name, the layer, its counts) -> its figure."""

    meaning: str
    rule: Callable[[str, nn.Module, Counts], int]


def _conv_bias(name: str, layer: nn.Module, counts: Counts) -> int:
    return counts.ptflops if isinstance(layer, nn.Conv2d) else 0


def _conv_bias_relu(name: str, layer: nn.Module, counts: Counts) -> int:
    """The projections of SegFormer's head, 1x1 convolutions here, are linear layers in its Eq. 4 and its keys."""
    biased = isinstance(layer, nn.Conv2d) and not name.startswith("decoder.project.")
    return counts.ptflops if biased or isinstance(layer, nn.ReLU) else counts.macs


def _syncbn(name: str, layer: nn.Module, counts: Counts) -> int:
    return 0 if name.startswith("context.") and isinstance(layer, nn.BatchNorm2d) else counts.ptflops


FURTHER = {
    "conv-bias": Further("convolutions with their bias", _conv_bias),
    "conv-bias-relu": Further(
        "macs, and 1 for every output element of a ReLU or a biased convolution", _conv_bias_relu
    ),
    "ptflops-0.6-syncbn": Further(
        "ptflops-0.6 without DAPPM's norms: DDRNet's code has SyncBatchNorm there, which the package does not know",
        _syncbn,
    ),
}
"""Conventions that one paper's authors used, by name."""


@dataclass(frozen=True)
class Count:
    """One of ours: `value`, exact, in the unit of the printed figure (G, M or %); by a convention, at (H, W).

    arithmetic: that behind a value which is not a plain count.
    """

    value: Decimal
    by: str
    size: Size
    classes: int
    arithmetic: str = ""

    def setting(self) -> tuple[str, Size, int]:
        """What the count goes by."""
        return self.by, self.size, self.classes


def verdict(printed: str, counts: Sequence[Count], rounded: bool = False) -> Verdict:
    """How a printed figure ("243.87") compares with our counts, the first of which goes by the yardstick.

    counts: in the unit of the printed figure; rounded: cutting off at its digits is not enough.
    """
    if not counts:
        return "not testable here"
    yardstick, met = counts[0], meeting(printed, counts, rounded)
    if any(one.setting() == yardstick.setting() for one in met):
        return "equal"
    if any(one.size == yardstick.size for one in met):
        return "other convention"
    return "mislabelled" if met else "not reproducible"


def meeting(printed: str, counts: Sequence[Count], rounded: bool = False) -> list[Count]:
    """Those of our counts that are the printed figure when they are rounded, or cut off, at its last digit."""
    figure = Decimal(printed)
    ways = (ROUND_HALF_UP,) if rounded else (ROUND_HALF_UP, ROUND_DOWN)
    return [one for one in counts if any(one.value.quantize(figure, way) == figure for way in ways)]


def parameters(counting: Counting) -> Count:
    """Millions of parameters."""
    found = cost(counting.model, counting.size, counting.classes).params
    return Count(Decimal(found).scaleb(-6), "parameters", counting.size, counting.classes)


def gmacs(counting: Counting) -> list[Count]:
    """G, first by `macs` as the row is labelled, then by the other conventions, then the same elsewhere."""
    counts = []
    for size, classes in ((counting.size, counting.classes), *counting.elsewhere):
        found = dict(cost(counting.model, size, classes).macs)
        found |= {by: _further(counting.model, size, classes, by) for by in counting.further}
        counts += [Count(Decimal(macs).scaleb(-9), by, size, classes) for by, macs in found.items()]
    return counts


@cache
def _further(model: str, size: Size, classes: int, by: str) -> int:
    """A model's figure by a convention of FURTHER."""
    with torch.device("meta"):
        built = models.build(model, classes).eval()
        layers, _ = count_layers(built, torch.empty(1, 3, *size))
    kinds = dict(built.named_modules())
    return sum(FURTHER[by].rule(name, kinds[name], counts) for name, counts in layers.items())
