"""A model's cost beside DeepLabV3's.

RSP's abstract claims 75 % fewer multiply-adds than DeepLabV3; which one is not known to us. So every one that is in use
is counted, at the same image and classes.
"""

from dataclasses import dataclass

import torch

from featherseg.counting.cost import Cost, by_convention, count_layers, count_parameters
from featherseg.models.deeplabv3 import VARIANTS, DeepLabV3, DeepLabV3Config

DEEPLABS = {
    **VARIANTS,
    "deeplabv3-r50-mmseg": DeepLabV3Config(backbone="resnet-50-v1c", channels=512, project_kernel=3),
    "deeplabv3-r101-mmseg": DeepLabV3Config(backbone="resnet-101-v1c", channels=512, project_kernel=3),
}
"""The catalogue's, and mmsegmentation's layout, which is counted alone."""


@dataclass(frozen=True)
class DeepLabRatios:
    """A DeepLabV3 and, as `ratio`, another model's MACs divided by its own, both by the convention `macs`."""

    name: str
    params: int
    macs: int
    ratio: float


def beside_deeplabv3(cost: Cost) -> list[DeepLabRatios]:
    """Every row of DEEPLABS at the image size and number of classes of `cost`, RGB."""
    return [_count(name, config, cost) for name, config in DEEPLABS.items()]


def _count(name: str, config: DeepLabV3Config, cost: Cost) -> DeepLabRatios:
    with torch.device("meta"):
        model = DeepLabV3(config, cost.classes).eval()
        layers, _ = count_layers(model, torch.empty(1, 3, *cost.size))
    macs = by_convention(layers)["macs"]
    return DeepLabRatios(name, count_parameters(model), macs, cost.macs["macs"] / macs)
