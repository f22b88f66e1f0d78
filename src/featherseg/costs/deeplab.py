"""A model's cost compared with that of DeepLabV3.

RSP's abstract claims 75 % fewer multiply-adds than DeepLabV3, but not than which one. So every
DeepLabV3 in use is counted, at the same image size and number of classes.
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
    """Return every model of `deeplabs` at the image size and number of classes of `cost`, RGB."""
    ratios = []
    for deeplab in _counted(cost.size, cost.classes):
        macs = deeplab.macs["macs"]
        ratio = cost.macs["macs"] / macs
        ratios.append(DeepLabRatios(deeplab.model, deeplab.params, macs, ratio))
    return ratios
