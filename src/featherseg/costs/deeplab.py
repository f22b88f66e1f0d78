"""A model's cost compared with that of DeepLabV3.

RSP's abstract claims 75 % fewer multiply-adds than DeepLabV3, but not than which one. So every
DeepLabV3 in use is counted, at the same image size and number of classes, and RSP's head on the
backbone of each.
"""

from dataclasses import dataclass
from functools import cache
from typing import Any

import torch

from featherseg import models
from featherseg.core.types import Size
from featherseg.costs.cost import Cost, cost_of


@dataclass(frozen=True)
class DeepLabRatios:
    """A DeepLabV3; `ratio` is another model's MACs divided by its own, both by `macs`."""

    name: str
    params: int
    macs: int
    ratio: float


def deeplabs() -> dict[str, tuple[str, dict[str, Any]]]:
    """Return name -> (model, options): the catalogue's, and those laid out as in mmsegmentation."""
    mmseg = {"channels": 512, "project_kernel": 3}
    return {
        **{
            name: (name, {})
            for name, row in models.MODELS.items()
            if name.startswith("deeplabv3-") and not row.panoptic
        },
        "deeplabv3-r50-mmseg": ("deeplabv3-r50", {"backbone": "resnet-50-v1c", **mmseg}),
        "deeplabv3-r101-mmseg": ("deeplabv3-r101", {"backbone": "resnet-101-v1c", **mmseg}),
    }


@cache
def _counted(size: Size, classes: int) -> list[Cost]:
    return [
        _cost(model, options, name, size, classes) for name, (model, options) in deeplabs().items()
    ]


def _cost(model: str, options: dict[str, Any], name: str, size: Size, classes: int) -> Cost:
    with torch.device("meta"):
        built = models.build(model, classes, options=options)
    return cost_of(built, name, size)


def on_same_backbone(model: str, size: Size, classes: int) -> list[tuple[Cost, Cost]]:
    """Return (cost of `model` on the backbone of a DeepLabV3, cost of that) for all of `deeplabs`.

    The backbone of `model` is not dilated.
    """
    backbones = [models.configure(*deeplab).backbone for deeplab in deeplabs().values()]
    costs = {
        backbone: _cost(model, {"backbone": backbone}, f"{model} on {backbone}", size, classes)
        for backbone in set(backbones)
    }
    deeplab_costs = _counted(size, classes)
    return [(costs[name], cost) for name, cost in zip(backbones, deeplab_costs, strict=True)]


def beside_deeplabv3(cost: Cost) -> list[DeepLabRatios]:
    """Return every model of `deeplabs` at the image size and number of classes of `cost`, RGB."""
    ratios = []
    for deeplab in _counted(cost.size, cost.classes):
        macs = deeplab.macs["macs"]
        ratio = cost.macs["macs"] / macs
        ratios.append(DeepLabRatios(deeplab.model, deeplab.params, macs, ratio))
    return ratios
