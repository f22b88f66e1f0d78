"""The annotations of any tool: shapes with a class in drawing order, whatever the file format.

A reader (`coco.py`, `cvat.py`, ...) turns a tool's files into `Annotations`; `dataset.py` draws
them as masks.
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
from featherseg.data.discovery.color_lists import is_ignored
from featherseg.data.images.palettes import is_background, parse_color

BACKGROUND = "background"
"""The class of pixels without an annotation; value 0 of every mask."""

BOXES = "boxes without a segmentation"
"""The reason for skipping shapes that YOLO and COCO store only as boxes."""

MOST_CLASSES = IGNORE - 1
"""Number of mask values 1..254; 0 is background, 255 is ignored."""

MOST_SHAPES = 100_000
"""Most shapes of one image; images with more are skipped.

People draw hundreds of shapes, a detector of cell nuclei about ten thousand.
"""


class UnusableShape(Exception):
    """A shape with unknown pixels; its image is skipped because the mask would be wrong."""


def unusable(reason: str, *size: Size) -> NoReturn:
    """Raise UnusableShape: the `draw` of shapes and images whose pixels are unknown."""
    raise UnusableShape(reason)


class EmptyShape(Exception):
    """A shape that covers no pixel: only the shape is skipped."""


def draw_box(_: Size) -> NoReturn:
    """Raise EmptyShape: the `draw` of a shape that is only a box and covers no pixel."""
    raise EmptyShape(BOXES)


class Region(NamedTuple):
    """Pixels of an image: the upper left corner (top, left) of a box and the box's mask, bool."""

    top: int
    left: int
    inside: np.ndarray


class Raster(NamedTuple):
    """A mask drawn by the tool: values (H, W) as in `class_values`, objects (H, W) or None."""

    values: np.ndarray
    objects: np.ndarray | None = None


@dataclass(frozen=True)
class Shape:
    """One shape of an image.

    Shapes with the same `object_id` are one object; a shape without one is its own object.
    `draw(size)` returns the pixels in an image of `size` (H, W); it raises UnusableShape or
    EmptyShape with the reason. A crowd is a region of several objects that were not separated.
    """

    name: str
    draw: Callable[[Size], Region]
    object_id: Hashable = None
    crowd: bool = False


class ImageInside(NamedTuple):
    """An image stored inside its annotation: the file, a digest of the image, and its reader."""

    file: Path
    digest: bytes
    read: Callable[[], bytes]


@dataclass(frozen=True)
class AnnotatedImage:
    """An image by the tool's name for it, its shapes from bottom to top, and their image size.

    `near` is the folder of the annotation. `size` is None if coordinates are relative to the image.
    `split` is empty if the annotation names none; then the folder of the image decides. `content`
    is set if the image is stored inside the annotation. Tools that draw masks set `raster` instead
    of shapes; it raises UnusableShape.
    """

    name: str
    near: Path
    shapes: list[Shape] = field(default_factory=list)
    size: Size | None = None
    split: str = ""
    content: ImageInside | None = None
    raster: Callable[[], Raster] | None = None


class SkippedItems:
    """Skipped images and shapes by reason: how often, and the first of them."""

    def __init__(self) -> None:
        self.reasons: dict[str, tuple[int, str]] = {}
        self.shapes = 0  # skipped shapes of images that were not skipped themselves

    def add(self, reason: str, where: str, times: int = 1) -> None:
        """Count `times` more items with this reason; `where` names the first."""
        number, first = self.reasons.get(reason, (0, where))
        self.reasons[reason] = number + times, first

    def add_shape(self, reason: str, where: str) -> None:
        """Count one more skipped shape, as opposed to an image."""
        self.add(reason, where)
        self.shapes += 1


@dataclass
class Annotations:
    """The result of a reader: the source's classes in order with their colours, and its images.

    `with_objects` is whether shapes separate objects. `notes` are messages for the user. `masks`
    are files of the source that look like images but are masks. `things` are the classes with
    objects; None means all.
    """

    classes: dict[str, Color | None]
    images: list[AnnotatedImage]
    with_objects: bool = True
    licence: str = "not stated"
    notes: list[str] = field(default_factory=list)
    skipped: SkippedItems = field(default_factory=SkippedItems)
    masks: set[Path] = field(default_factory=set)
    things: set[str] | None = None

    def __post_init__(self) -> None:
        if len(self.classes) > MOST_CLASSES:
            raise DataError(
                f"the annotations name {len(self.classes)} classes, the limit is {MOST_CLASSES}. "
                "Join some of them."
            )
        annotated = [image for image in self.images if image.shapes]
        if annotated and all(
            shape.draw is draw_box for image in annotated for shape in image.shapes
        ):
            times = sum(len(image.shapes) for image in annotated)
            raise DataError(
                f"the annotations are boxes alone ({times}, first {annotated[0].name}), and every "
                f"mask would be {BACKGROUND}. Expected polygons or run lengths: export "
                "segmentations."
            )


def class_values(names: Iterable[str]) -> dict[str, int]:
    """Return class name -> mask value: 0 for background, 255 for ignored classes, else 1, 2, ..."""
    numbers = count(1)
    return {
        name: 0 if is_background(name) else IGNORE if is_ignored(name) else next(numbers)
        for name in names
    }


def color_of(value: object) -> Color | None:
    """Return a tool's colour of a class, "#rrggbb" or [red, green, blue]; None for other values."""
    if isinstance(value, list) and len(value) == 3:
        known = all(type(band) is int and 0 <= band < 256 for band in value)
        return (value[0], value[1], value[2]) if known else None
    try:
        return parse_color(str(value).strip())
    except ValueError:
        return None


class Canvas:
    """Masks being drawn: values (H, W) uint8, object numbers (H, W) int32 (0: none, or a crowd)."""

    def __init__(self, size: Size, with_objects: bool) -> None:
        self.size = size
        self.values = np.zeros(size, np.uint8)
        self.objects = np.zeros(size, np.int32) if with_objects else None
        self.drawn = 0  # number of shapes
        self._numbers: dict[Hashable, int] = {}

    def draw(self, shape: Shape, value: int) -> None:
        """Draw a shape over the earlier ones. Raises UnusableShape, EmptyShape."""
        top, left, inside = shape.draw(self.size)
        height, width = inside.shape
        window = slice(top, top + height), slice(left, left + width)
        self.values[window][inside] = value
        self.drawn += 1
        if self.objects is not None:
            has_id = shape.object_id is not None
            key = (shape.name, shape.object_id) if has_id else len(self._numbers)
            number = self._numbers.setdefault(key, len(self._numbers) + 1)
            self.objects[window][inside] = number if 0 < value < IGNORE and not shape.crowd else 0


def whole_region(inside: np.ndarray, size: Size) -> Region:
    """Return a mask of the whole image as a region.

    Raises UnusableShape if its size differs from the image's, EmptyShape if it has no pixel.
    """
    if inside.shape != size:
        raise UnusableShape(
            f"a mask of {size_text(inside.shape)} in an image of {size_text(size)} (height x width)"
        )
    if not inside.any():
        raise EmptyShape("empty masks")
    return Region(0, 0, inside)


def placed_region(inside: np.ndarray, top: int, left: int, size: Size) -> Region:
    """Return the part of a mask placed at (top, left) that lies inside the image.

    Raises EmptyShape if there is none.
    """
    rows = slice(max(0, -top), max(0, min(inside.shape[0], size[0] - top)))
    columns = slice(max(0, -left), max(0, min(inside.shape[1], size[1] - left)))
    part = inside[rows, columns]
    if not part.any():
        raise EmptyShape("shapes outside of their image" if inside.any() else "empty masks")
    return Region(max(top, 0), max(left, 0), part)


def joined(regions: Iterator[Region] | list[Region]) -> Region:
    """Return the union of the regions."""
    parts = list(regions)
    if len(parts) == 1:
        return parts[0]
    top, left = min(part.top for part in parts), min(part.left for part in parts)
    bottom = max(part.top + part.inside.shape[0] for part in parts)
    right = max(part.left + part.inside.shape[1] for part in parts)
    inside = np.zeros((bottom - top, right - left), bool)
    for part in parts:
        height, width = part.inside.shape
        inside[
            part.top - top : part.top - top + height, part.left - left : part.left - left + width
        ] |= part.inside
    return Region(top, left, inside)
