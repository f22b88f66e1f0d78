"""Objects of one's own in a training: a model, a dataset, a loss, an augmentation, in place of what a recipe names."""

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
"""(image (H, W, C), label (H, W) uint8, generator) -> (image, label), of the same types: before the recipe's crop."""

PROTOCOL = ("name", "classes", "channels", "licence", "keys", "label", "__len__", "__getitem__")
"""What a dataset has, see core.types.SegmentationData."""


@dataclass(frozen=True)
class Objects:
    """What was given as an object; None = what the recipe names. data: the training and the validation part.

    Raises ConfigError for a dataset that lacks something.
    """

    model: SegmentationModel | None = None
    data: tuple[SegmentationData, SegmentationData] | None = None
    loss: OwnLoss | None = None
    augment: OwnAugmentation | None = None

    def __post_init__(self) -> None:
        for part in self.data or ():
            if lacking := [name for name in PROTOCOL if not hasattr(part, name)]:
                raise ConfigError(
                    f"{type(part).__name__} is no dataset: it has no {', '.join(lacking)}. featherseg.core.types."
                    f"SegmentationData says what a dataset offers; one of two parts is given as data=(train, val)."
                )

    @property
    def names(self) -> tuple[str, ...]:
        """Which of them were given."""
        return tuple(field.name for field in fields(self) if getattr(self, field.name) is not None)


NAMES_ALONE = Objects()
"""Nothing is an object: the recipe names all."""


class LossOfLogits(nn.Module):
    """A loss of one's own, called with logits at the labels' size."""

    def __init__(self, loss: OwnLoss) -> None:
        super().__init__()
        self.loss = loss

    def forward(self, out: SegOutput, labels: Tensor, *targets: Any) -> Tensor:
        """A model's output, labels (B, H, W) int64 -> scalar. Raises ConfigError for a loss that is none."""
        loss = self.loss(to_image(out, (labels.shape[1], labels.shape[2])), labels)
        if not (isinstance(loss, Tensor) and loss.numel() == 1):
            found = tuple(loss.shape) if isinstance(loss, Tensor) else type(loss).__name__
            raise ConfigError(f"loss= gave {found}: expected a tensor of one number.")
        return loss


def augment_sample(augment: OwnAugmentation, sample: Sample, rng: np.random.Generator) -> Sample:
    """The sample with the image and the label that `augment` makes of its own.

    Raises ConfigError where it makes none, DataError for those that are no sample.
    """
    made = augment(sample.image, sample.label, rng)
    if not (
        isinstance(made, tuple | list)
        and len(made) == 2
        and all(isinstance(part, np.ndarray) for part in made)
    ):
        raise ConfigError(
            f"augment= gave {type(made).__name__}: expected (image, label), two arrays of numpy."
        )
    image, label = made
    return replace(sample, image=np.ascontiguousarray(image), label=np.ascontiguousarray(label))
