"""Objects given to a training from Python: a model, a dataset, a loss, an augmentation."""

from collections.abc import Callable
from dataclasses import dataclass, fields, replace
from typing import Any

import numpy as np
from torch import Tensor, nn

from featherseg.core.errors import ConfigError
from featherseg.core.types import Sample, SegmentationData, SegOutput
from featherseg.layers.model import SegmentationModel
from featherseg.layers.resize import to_image

OwnLoss = Callable[[Tensor, Tensor], Tensor]
"""(logits (B, K, H, W) at the labels' size, labels (B, H, W) int64, 255 = ignore) -> scalar."""

OwnAugmentation = Callable[
    [np.ndarray, np.ndarray, np.random.Generator], tuple[np.ndarray, np.ndarray]
]
"""(image (H, W, C), label (H, W) uint8, generator) -> (image, label) of the same types."""

PROTOCOL = ("name", "classes", "channels", "licence", "keys", "label", "__len__", "__getitem__")
"""The attributes of a dataset: core.types.SegmentationData."""


@dataclass(frozen=True)
class Objects:
    """The objects of a training; None where the recipe's name is used. data: (train, val).

    Raises ConfigError for a dataset that lacks an attribute.
    """

    model: SegmentationModel | None = None
    data: tuple[SegmentationData, SegmentationData] | None = None
    loss: OwnLoss | None = None
    augment: OwnAugmentation | None = None

    def __post_init__(self) -> None:
        for part in self.data or ():
            if missing := [name for name in PROTOCOL if not hasattr(part, name)]:
                raise ConfigError(
                    f"{type(part).__name__} is no dataset: it has no {', '.join(missing)}. Give "
                    "data=(train, val), two objects like featherseg.core.types.SegmentationData."
                )

    @property
    def names(self) -> tuple[str, ...]:
        """The names of the objects that were given."""
        return tuple(field.name for field in fields(self) if getattr(self, field.name) is not None)


NAMES_ALONE = Objects()
"""No objects: the recipe names everything."""


class LossOfLogits(nn.Module):
    """A loss given as an object, called with logits at the labels' size."""

    def __init__(self, loss: OwnLoss) -> None:
        super().__init__()
        self.loss = loss

    def forward(self, out: SegOutput, labels: Tensor, *targets: Any) -> Tensor:
        """Return the scalar loss for labels (B, H, W) int64. Raises ConfigError if it is none."""
        loss = self.loss(to_image(out, (labels.shape[1], labels.shape[2])), labels)
        if not (isinstance(loss, Tensor) and loss.numel() == 1):
            actual = tuple(loss.shape) if isinstance(loss, Tensor) else type(loss).__name__
            raise ConfigError(f"loss= gave {actual}: expected a tensor of one number.")
        return loss


def augment_sample(augment: OwnAugmentation, sample: Sample, rng: np.random.Generator) -> Sample:
    """Return the sample with the image and the label that `augment` returns.

    Raises ConfigError if it returns something else, DataError for arrays that are no sample.
    """
    result = augment(sample.image, sample.label, rng)
    if not (
        isinstance(result, tuple | list)
        and len(result) == 2
        and all(isinstance(part, np.ndarray) for part in result)
    ):
        raise ConfigError(
            f"augment= gave {type(result).__name__}: expected (image, label), two numpy arrays."
        )
    image, label = result
    return replace(sample, image=np.ascontiguousarray(image), label=np.ascontiguousarray(label))
