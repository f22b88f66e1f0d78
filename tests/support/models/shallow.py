"""A model of the catalogue without the repetitions of its blocks: every kind of layer once, in a part of the time."""

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
    """Leave one block of each run of blocks alike (how they print, and the shapes that they hold), in place."""
    for parent in [module for module in model.modules() if type(module) is nn.Sequential]:
        kept = [list(run)[-1] for _, run in groupby(parent, key=_likeness)]
        for _ in range(len(parent) - len(kept)):
            del parent[-1]
        for index, block in enumerate(kept):
            parent[index] = block
    return model


def _likeness(block: nn.Module) -> tuple[str, list[tuple[str, tuple[int, ...]]]]:
    """What two blocks have in common that compute alike: how they print, and the shapes that they hold."""
    return repr(block), [(key, tuple(value.shape)) for key, value in block.state_dict().items()]
