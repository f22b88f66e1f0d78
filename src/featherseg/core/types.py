"""The types shared by all folders: a dataset's sample, a class, a model's output."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from numbers import Integral
from typing import TYPE_CHECKING, Any, NamedTuple, Protocol, runtime_checkable

from featherseg.core.errors import ConfigError, DataError
from featherseg.core.wording import brief, size_text

if TYPE_CHECKING:
    import numpy as np
    from torch import Tensor

IGNORE = 255
"""Label value of a pixel that is neither trained on nor scored."""

Size = tuple[int, int]
"""(height, width) in pixels, always in this order."""


def as_size(name: str, value: object) -> Size:
    """Return `value` as (height, width). Raises ConfigError unless it is two integers from 1 on."""
    sides: list[Any] = list(value) if isinstance(value, tuple | list) else []
    if len(sides) != 2 or not all(isinstance(side, Integral) and int(side) >= 1 for side in sides):
        raise ConfigError(
            f"{name} = {value!r}: expected (height, width) in whole pixels, such as (720, 1280)."
        )
    return int(sides[0]), int(sides[1])


Resize = tuple[int, int]
"""(short side, long side) in pixels: an image is scaled as large as fits in both."""

Color = tuple[int, int, int]
"""Red, green, blue, each 0..255."""


Progress = Callable[[str, int, "int | None"], object]
"""Called with (current activity, steps done, total steps or None)."""

OnMessage = Callable[[str], None]
"""Called with a message for the user: the `message` of a Reporter."""


@runtime_checkable
class Reporter(Protocol):
    """Receives the progress of a training; the command line draws it."""

    def message(self, text: str) -> None:
        """Show a message to the user."""

    def step(self, step: int, steps: int, record: dict[str, Any]) -> None:
        """Report a step; `record` is its record of metrics.jsonl."""

    def progress(self, doing: str, done: int, total: int | None) -> None:
        """Report work between two steps, such as a validation: a `Progress`."""


@dataclass(frozen=True)
class ClassInfo:
    """One class of a dataset: its name, its colour, and whether it has instances ("thing")."""

    name: str
    color: Color
    thing: bool = False


@dataclass(frozen=True)
class Sample:
    """One image with its ground truth.

    image is (H, W, C) uint8 or uint16, RGB for three channels; label is (H, W) uint8 class ids, 255
    = ignore; instances is (H, W) int32, 0 = none, or None where the dataset has no instances.
    Raises DataError for other arrays.
    """

    key: str
    image: np.ndarray
    label: np.ndarray
    instances: np.ndarray | None = None

    def __post_init__(self) -> None:
        size = self.image.shape[:2]
        if self.image.ndim != 3 or self.image.dtype not in ("uint8", "uint16"):
            raise DataError(
                f"image of {self.key}: {_array_text(self.image)}, expected (H, W, C) uint8 or "
                "uint16."
            )
        if self.label.shape != size or self.label.dtype != "uint8":
            raise DataError(
                f"label of {self.key}: {_array_text(self.label)}, expected {size} uint8, as its "
                "image is."
            )
        if self.instances is not None and (
            self.instances.shape != size or self.instances.dtype != "int32"
        ):
            raise DataError(
                f"instances of {self.key}: {_array_text(self.instances)}, expected {size} int32."
            )

    def __repr__(self) -> str:
        return brief(self, self.key, size_text(self.image.shape), self.image.dtype)


def _array_text(array: np.ndarray) -> str:
    return f"{array.shape} {array.dtype}"


@dataclass(frozen=True)
class DataFacts:
    """The facts of a dataset without its images and masks.

    `licence` is the terms of use for weights trained on it; `image_size` is the (height, width) of
    its images (of a typical one if they differ), None if unknown; `category_ids` are a panoptic
    benchmark's ids of the classes, in order.
    """

    name: str
    classes: tuple[ClassInfo, ...]
    licence: str
    channels: int = 3
    image_size: Size | None = None
    category_ids: tuple[int, ...] | None = None


class SegmentationData(Protocol):
    """The interface of every dataset: a sequence of samples, each read or generated on access.

    `label(i)` reads only the label, `keys[i]` is the sample's name, "seq1/frame_0007", without
    reading it. `licence` is the terms of use for weights trained on it.
    """

    @property
    def name(self) -> str: ...
    @property
    def classes(self) -> tuple[ClassInfo, ...]: ...
    @property
    def channels(self) -> int: ...
    @property
    def licence(self) -> str: ...
    @property
    def keys(self) -> list[str]: ...

    def __len__(self) -> int: ...
    def __getitem__(self, index: int) -> Sample: ...
    def label(self, index: int) -> np.ndarray: ...


class SegOutput(NamedTuple):
    """The output of a segmentation model.

    logits (B, K, h, w) cover `padded_size`; the images fill its upper left `image_size`. Both are
    (H, W) in pixels and equal for a model that runs at any size. `layers.resize.to_image` brings
    the logits to the image. features (B, C, h', w') are for losses on embeddings, aux contains
    auxiliary logits by name; both only in training mode. A panoptic model adds centers (B, 1, h, w)
    and offsets (B, 2, h, w), (dy, dx) in pixels of the full-resolution image, whatever h and w;
    both cover the same area as the logits.
    """

    logits: Tensor
    image_size: Size
    padded_size: Size
    align_corners: bool
    features: Tensor | None = None
    aux: Mapping[str, Tensor] | None = None
    centers: Tensor | None = None
    offsets: Tensor | None = None
