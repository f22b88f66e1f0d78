"""A model's cost beside DeepLabV3's.

RSP's abstract claims 75 % fewer multiply-adds than DeepLabV3; which one is not known to us. So
every one that is in use is counted, at the same image and classes.
"""

from dataclasses import dataclass
from functools import cache
from typing import Any

import torch

from featherseg import models
from featherseg.core.types import Size
from featherseg.counting.cost import Cost, cost_of


@dataclass(frozen=True)
class DeepLabRatios:
    """A DeepLabV3 and, as `ratio`, another model's MACs divided by its own, both by the convention `macs`."""

    name: str
    params: int
    macs: int
    ratio: float


def deeplabs() -> dict[str, tuple[str, dict[str, Any]]]:
    """Name -> (model, options): the catalogue's, and mmsegmentation's layout, which is counted alone."""
    mmseg = {"channels": 512, "project_kernel": 3}
    return {
        **{name: (name, {}) for name in models.MODELS if name.startswith("deeplabv3-")},
        "deeplabv3-r50-mmseg": ("deeplabv3-r50", {"backbone": "resnet-50-v1c", **mmseg}),
        "deeplabv3-r101-mmseg": ("deeplabv3-r101", {"backbone": "resnet-101-v1c", **mmseg}),
    }


@cache
def _counted(size: Size, classes: int) -> list[Cost]:
    costs = []
    for name, (model, options) in deeplabs().items():
        with torch.device("meta"):
            built = models.build(model, classes, options=options)
        costs.append(cost_of(built, name, size))
    return costs


def beside_deeplabv3(cost: Cost) -> list[DeepLabRatios]:
    """Every row of `deeplabs` at the image size and number of classes of `cost`, RGB."""
    counted = [(other, other.macs["macs"]) for other in _counted(cost.size, cost.classes)]
    return [DeepLabRatios(other.model, other.params, macs, cost.macs["macs"] / macs) for other, macs in counted]
