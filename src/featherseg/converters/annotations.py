"""What every annotation tool says of an image, whatever its file format: shapes with a class, drawn in an order.

A reader (`coco.py`, `cvat.py`, ...) turns the files of a tool into `Annotations`; `dataset.py` draws them as masks.
"""

from collections.abc import Callable, Hashable, Iterable, Iterator
from dataclasses import dataclass, field
from itertools import count
from pathlib import Path
from typing import NamedTuple, NoReturn

import numpy as np

from featherseg.core.errors import DataError
from featherseg.core.types import IGNORE, Color, Size
from featherseg.core.wording import size_text
from featherseg.data.discovery.color_lists import is_background, is_ignored

BACKGROUND = "background"
"""The class of pixels that carry no annotation; value 0 of every mask."""

BOXES = "boxes without a segmentation"
"""The reason why what YOLO and COCO state as boxes alone is left out."""

MOST_CLASSES = IGNORE - 1
"""Values 1..254 of a mask; 0 is background, 255 is ignored."""

MOST_SHAPES = 100_000
"""Shapes of one image, above which it is left out: a person draws hundreds, a nucleus detector some ten thousand."""


class UnusableShape(Exception):
    """A shape whose pixels are not known, so that the mask of its image would be wrong: the image is left out."""


def unusable(reason: str, *size: Size) -> NoReturn:
    """What draws a shape, or an image, whose pixels are not known."""
    raise UnusableShape(reason)


class EmptyShape(Exception):
    """A shape that covers no pixel: it alone is left out."""


def draw_box(_: Size) -> NoReturn:
    """What draws a shape that is a box alone, of which no pixel is taken."""
    raise EmptyShape(BOXES)


class Region(NamedTuple):
    """Pixels of an image: the upper left corner of a box inside the image, and which pixels of the box, (h, w) bool."""

    top: int
    left: int
    inside: np.ndarray


class Raster(NamedTuple):
    """A mask that the tool itself drew: values (H, W) uint8 as `class_values` has them, objects (H, W) or None."""

    values: np.ndarray
    objects: np.ndarray | None = None


@dataclass(frozen=True)
class Shape:
    """One shape of an image. Shapes with one `object_id` are one object; without, a shape is an object of its own.

    `draw` gives its pixels in an image of a size (H, W); it raises UnusableShape or EmptyShape with the reason. A crowd
    is a region of several objects that nobody told apart.
    """

    name: str
    draw: Callable[[Size], Region]
    object_id: Hashable = None
    crowd: bool = False


class ImageInside(NamedTuple):
    """An image that lies in its annotation: the file of both, a digest of the image, and what reads it.

    `read` raises UnusableShape.
    """

    file: Path
    digest: bytes
    read: Callable[[], bytes]


@dataclass(frozen=True)
class AnnotatedImage:
    """An image as a tool names it, its shapes from below to the top, and the size that they are measured in.

    `near` is the folder of the annotation. `size` is None where coordinates are relative to the image. `split` is empty
    where the annotation says none: then the image's folder may. `content` is the image where it lies in the annotation.
    A tool that draws masks gives `raster` in place of shapes; it raises UnusableShape.
    """

    name: str
    near: Path
    shapes: list[Shape] = field(default_factory=list)
    size: Size | None = None
    split: str = ""
    content: ImageInside | None = None
    raster: Callable[[], Raster] | None = None


class Left:
    """What was left out, by reason: how often, and where first."""

    def __init__(self) -> None:
        self.reasons: dict[str, tuple[int, str]] = {}
        self.shapes = 0  # of these, what a reader left out of an image that it took

    def add(self, reason: str, where: str, times: int = 1) -> None:
        """`times` more of them."""
        number, first = self.reasons.get(reason, (0, where))
        self.reasons[reason] = number + times, first

    def add_shape(self, reason: str, where: str) -> None:
        """One more of them that is a shape, and not an image."""
        self.add(reason, where)
        self.shapes += 1


@dataclass
class Annotations:
    """All that was found: the classes of the source in its order with their colours, and its images.

    `with_objects` says whether shapes tell objects apart; `notes` are worth knowing, `left` is what was not taken;
    `masks` are files of the source that are no images, though they end so; `things` are the classes with objects, None
    for all.
    """

    classes: dict[str, Color | None]
    images: list[AnnotatedImage]
    with_objects: bool = True
    licence: str = "not stated"
    notes: list[str] = field(default_factory=list)
    left: Left = field(default_factory=Left)
    masks: set[Path] = field(default_factory=set)
    things: set[str] | None = None

    def __post_init__(self) -> None:
        if len(self.classes) > MOST_CLASSES:
            raise DataError(
                f"the annotations name {len(self.classes)} classes, the limit is {MOST_CLASSES}. Join some of them."
            )
        annotated = [image for image in self.images if image.shapes]
        if annotated and all(shape.draw is draw_box for image in annotated for shape in image.shapes):
            times = sum(len(image.shapes) for image in annotated)
            raise DataError(
                f"the annotations are boxes alone ({times}, first {annotated[0].name}), and every mask would be "
                f"{BACKGROUND}. Expected polygons or run lengths: export segmentations."
            )


def class_values(names: Iterable[str]) -> dict[str, int]:
    """Name of a class -> value in the masks: background 0, what is to be ignored 255, the others from 1 on."""
    numbers = count(1)
    return {name: 0 if is_background(name) else IGNORE if is_ignored(name) else next(numbers) for name in names}


class Canvas:
    """Masks while they are drawn: values (H, W) uint8, and numbers of objects (H, W) int32, 0 for none and crowds."""

    def __init__(self, size: Size, with_objects: bool) -> None:
        self.size = size
        self.values = np.zeros(size, np.uint8)
        self.objects = np.zeros(size, np.int32) if with_objects else None
        self.drawn = 0  # shapes
        self._numbers: dict[Hashable, int] = {}

    def draw(self, shape: Shape, value: int) -> None:
        """Lay a shape over what is there. Raises UnusableShape, EmptyShape."""
        top, left, inside = shape.draw(self.size)
        height, width = inside.shape
        window = slice(top, top + height), slice(left, left + width)
        self.values[window][inside] = value
        self.drawn += 1
        if self.objects is not None:
            alone = shape.object_id is None
            key = len(self._numbers) if alone else (shape.name, shape.object_id)
            number = self._numbers.setdefault(key, len(self._numbers) + 1)
            self.objects[window][inside] = number if 0 < value < IGNORE and not shape.crowd else 0


def whole_region(inside: np.ndarray, size: Size) -> Region:
    """A mask of the whole image. Raises UnusableShape where it has another size, EmptyShape where it is empty."""
    if inside.shape != size:
        raise UnusableShape(f"a mask of {size_text(inside.shape)} in an image of {size_text(size)} (height x width)")
    if not inside.any():
        raise EmptyShape("empty masks")
    return Region(0, 0, inside)


def placed_region(inside: np.ndarray, top: int, left: int, size: Size) -> Region:
    """A mask whose upper left pixel lies at (top, left), as far as it lies in the image. Raises EmptyShape."""
    rows = slice(max(0, -top), max(0, min(inside.shape[0], size[0] - top)))
    columns = slice(max(0, -left), max(0, min(inside.shape[1], size[1] - left)))
    part = inside[rows, columns]
    if not part.any():
        raise EmptyShape("shapes outside of their image" if inside.any() else "empty masks")
    return Region(max(top, 0), max(left, 0), part)


def joined(regions: Iterator[Region] | list[Region]) -> Region:
    """What any of the regions covers."""
    parts = list(regions)
    if len(parts) == 1:
        return parts[0]
    top, left = min(part.top for part in parts), min(part.left for part in parts)
    bottom = max(part.top + part.inside.shape[0] for part in parts)
    right = max(part.left + part.inside.shape[1] for part in parts)
    inside = np.zeros((bottom - top, right - left), bool)
    for part in parts:
        height, width = part.inside.shape
        inside[part.top - top : part.top - top + height, part.left - left : part.left - left + width] |= part.inside
    return Region(top, left, inside)
