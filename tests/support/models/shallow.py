"""A catalogue model without repeated blocks: every kind of layer once, in less time."""

from itertools import groupby
from typing import TypeVar

from torch import nn

from featherseg import models
from featherseg.layers.model import SegmentationModel

Module = TypeVar("Module", bound=nn.Module)


def shallow(name: str, classes: int) -> SegmentationModel:
    """`models.build(name, classes)` without its repetitions."""
    return once_each(models.build(name, classes=classes))


def once_each(model: Module) -> Module:
    """Keep one block of each run of similar blocks (same text and shapes), in place."""
    for parent in [module for module in model.modules() if type(module) is nn.Sequential]:
        kept = [list(run)[-1] for _, run in groupby(parent, key=_likeness)]
        for _ in range(len(parent) - len(kept)):
            del parent[-1]
        for index, block in enumerate(kept):
            parent[index] = block
    return model


def _likeness(block: nn.Module) -> tuple[str, list[tuple[str, tuple[int, ...]]]]:
    """Return what blocks with equal computations share: their printed text and tensor shapes."""
    return repr(block), [(key, tuple(value.shape)) for key, value in block.state_dict().items()]
