"""The types that travel between the folders: a sample of a dataset, a class, the output of a model."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from numbers import Integral
from typing import TYPE_CHECKING, Any, NamedTuple, Protocol, runtime_checkable

from featherseg.core.errors import ConfigError, DataError

if TYPE_CHECKING:
    import numpy as np
    from torch import Tensor

IGNORE = 255
"""Label value of a pixel that is neither trained on nor scored."""

Size = tuple[int, int]
"""(height, width) in pixels, always in this order."""


def as_size(name: str, value: object) -> Size:
    """The (height, width) that was given for `name`. Raises ConfigError where it is no two whole numbers from 1 on."""
    sides: list[Any] = list(value) if isinstance(value, tuple | list) else []
    if len(sides) != 2 or not all(isinstance(side, Integral) and int(side) >= 1 for side in sides):
        raise ConfigError(f"{name} = {value!r}: expected (height, width) in whole pixels, such as (720, 1280).")
    return int(sides[0]), int(sides[1])


Resize = tuple[int, int]
"""(short side, long side) in pixels that an image is brought within, its ratio kept: as large as both allow."""

Color = tuple[int, int, int]
"""Red, green, blue, each 0..255."""


Progress = Callable[[str, int, "int | None"], object]
"""Called with what is being done, the steps done and the steps in all (None where that is not known)."""


@runtime_checkable
class Reporter(Protocol):
    """Where a training tells how it goes: the command line draws it, tests leave it out."""

    def message(self, text: str) -> None:
        """A sentence for the user."""

    def step(self, step: int, steps: int, record: dict[str, Any]) -> None:
        """A step was taken; `record` is what metrics.jsonl holds of it."""

    def progress(self, doing: str, done: int, total: int | None) -> None:
        """Of work between two steps, such as a validation: a `Progress`."""


@dataclass(frozen=True)
class ClassInfo:
    """One class of a dataset: its name, the colour it is drawn in, and whether it has instances ("thing")."""

    name: str
    color: Color
    thing: bool = False


@dataclass(frozen=True)
class Sample:
    """One image with its ground truth.

    image is (H, W, C) uint8 or uint16, RGB for three channels; label is (H, W) uint8 class ids, 255 = ignore;
    instances is (H, W) int32, 0 = none, or None where the dataset has no instances. Raises DataError for other arrays.
    """

    key: str
    image: np.ndarray
    label: np.ndarray
    instances: np.ndarray | None = None

    def __post_init__(self) -> None:
        size = self.image.shape[:2]
        if self.image.ndim != 3 or self.image.dtype not in ("uint8", "uint16"):
            raise DataError(f"image of {self.key}: {_array_text(self.image)}, expected (H, W, C) uint8 or uint16.")
        if self.label.shape != size or self.label.dtype != "uint8":
            raise DataError(f"label of {self.key}: {_array_text(self.label)}, expected {size} uint8, as its image is.")
        if self.instances is not None and (self.instances.shape != size or self.instances.dtype != "int32"):
            raise DataError(f"instances of {self.key}: {_array_text(self.instances)}, expected {size} int32.")


def _array_text(array: np.ndarray) -> str:
    return f"{array.shape} {array.dtype}"


@dataclass(frozen=True)
class DataFacts:
    """What is known of a dataset without its images and masks.

    `licence` says under which terms weights that were trained on it may be used; `image_size` is the (height, width) of
    its images (of a usual one where they differ), None where that is not known; `category_ids` are what a panoptic
    benchmark calls the classes, in their order.
    """

    name: str
    classes: tuple[ClassInfo, ...]
    licence: str
    channels: int = 3
    image_size: Size | None = None
    category_ids: tuple[int, ...] | None = None


class SegmentationData(Protocol):
    """What every dataset offers: a sequence of samples, each read from disk (or drawn) when it is asked for.

    `label(i)` reads the label alone, `keys[i]` names the sample without reading it: "seq1/frame_0007". `licence` says
    under which terms weights that were trained on it may be used.
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
    """What a segmentation model returns.

    logits (B, K, h, w) cover `padded_size`, of which the images fill the upper left `image_size`; both are (H, W) in
    pixels and equal for a model that runs at any size. `layers.resize.to_image` brings the logits to the image.
    features (B, C, h', w') feed losses that look at embeddings, aux holds auxiliary logits by name; both only in
    training mode. A panoptic model adds centers (B, 1, h, w) and offsets (B, 2, h, w), (dy, dx) in pixels of the
    image at full resolution, whatever h and w; both cover what the logits cover.
    """

    logits: Tensor
    image_size: Size
    padded_size: Size
    align_corners: bool
    features: Tensor | None = None
    aux: Mapping[str, Tensor] | None = None
    centers: Tensor | None = None
    offsets: Tensor | None = None
