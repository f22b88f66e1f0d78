"""Which pixels a shape covers. Tools differ, and each shape is drawn by the rule of the tool that it comes from.

COCO's rule (`maskApi.c` of pycocotools; CVAT exports masks by it): the pixel in column i covers [i, i + 1), and is
inside by its middle. Pillow's rule (labelme draws by it): whole numbers are middles of pixels; the outline is inside.
"""

from collections.abc import Callable, Sequence

import numpy as np
from PIL import Image, ImageDraw

from featherseg.converters.annotations import EmptyShape, Region, UnusableShape, joined
from featherseg.core.types import Size

MOST_POINTS = 1_000_000
"""Corners of one polygon."""

MOST_CROSSINGS = 10_000_000
"""Columns that the edges of one polygon cross, all together: each took 133 bytes while it was drawn (tracemalloc)."""

FARTHEST = 1_000_000.0
"""Pixels that a corner may lie beyond the image: farther out it is no slip of the hand."""

STEPS = 5
"""Steps a pixel that pycocotools rounds corners to."""

PillowDraw = Callable[[ImageDraw.ImageDraw, tuple[int, int]], None]


def check_points(values: object) -> np.ndarray:
    """[[x, y], ...] or [x, y, x, y, ...] -> (N, 2) float64. Raises UnusableShape for what are no places of pixels."""
    try:
        points = np.asarray(values, dtype=np.float64).reshape(-1, 2)
    except (TypeError, ValueError, OverflowError):
        raise UnusableShape("corners that are no pairs of numbers") from None
    if not np.isfinite(points).all():
        raise UnusableShape("corners that are not finite (NaN or infinity)")
    if np.abs(points).max(initial=0) > FARTHEST:
        raise UnusableShape(f"corners more than {FARTHEST:,.0f} pixels away")
    if not 0 < len(points) <= MOST_POINTS:
        raise UnusableShape(f"shapes without corners, or with more than {MOST_POINTS:,}")
    return points


def points_of(values: object) -> np.ndarray:
    """The corners of a polygon, (N, 2). Raises UnusableShape as `check_points`, EmptyShape for fewer than three."""
    if isinstance(values, list) and not values:
        raise EmptyShape("polygons of fewer than three corners")
    points = check_points(values)
    if len(points) < 3:
        raise EmptyShape("polygons of fewer than three corners")
    return points


def coco_polygons(polygons: Sequence[np.ndarray], size: Size) -> Region:
    """What any of the polygons, (N, 2) each, covers by COCO's rule. Raises EmptyShape where none covers a pixel."""
    regions = [region for polygon in polygons if (region := coco_polygon(polygon, size)) is not None]
    if not regions:
        raise EmptyShape("shapes that cover no pixel of their image")
    return joined(regions)


def coco_polygon(points: np.ndarray, size: Size) -> Region | None:
    """What a polygon (N, 2) covers by COCO's rule, as `rleFrPoly` of pycocotools: None where that is nothing.

    Raises UnusableShape for one that crosses more columns than anybody draws.

    The outline, rounded to fifths of a pixel, crosses the middle of columns at heights y; from each crossing on the
    column changes between outside and inside. pycocotools walks along the outline in steps of a fifth; here the
    crossings of each edge are computed, so that a corner far away takes no memory.
    """
    height, width = size
    corners = np.trunc(STEPS * points + 0.5)  # (N, 2), as C casts
    starts, ends = corners, np.roll(corners, -1, axis=0)
    spans = np.abs(ends - starts)  # (N, 2)
    flat = spans[:, 0] >= spans[:, 1]
    flip = np.where(flat, starts[:, 0] > ends[:, 0], starts[:, 1] > ends[:, 1])[:, None]
    (xs, ys), (xe, ye) = np.where(flip, ends, starts).T, np.where(flip, starts, ends).T

    # The columns whose middle lies on each edge: the outline steps there from fifth 5 c + 2 to 5 c + 3
    low, high = np.minimum(xs, xe), np.maximum(xs, xe)
    first = np.clip(np.ceil((low - 2) / STEPS), 0, width)
    last = np.clip(np.floor((high - 3) / STEPS), -1, width - 1)
    counts = np.maximum(last - first + 1, 0).astype(np.int64)
    if counts.sum() > MOST_CROSSINGS:
        raise UnusableShape(f"polygons whose edges cross more than {MOST_CROSSINGS:,} columns")
    edge = np.repeat(np.arange(len(points)), counts)
    column = np.arange(counts.sum()) - np.repeat(np.cumsum(counts) - counts, counts) + first[edge]  # (M,)

    # How high each crossing is: along a flat edge rows are rounded, along a steep one columns
    xs, ys, xe, ye, flat = (values[edge] for values in (xs, ys, xe, ye, flat))
    with np.errstate(divide="ignore", invalid="ignore"):
        slope = np.where(flat, (ye - ys) / (xe - xs), (xe - xs) / (ye - ys))
        step = STEPS * column + 2 - xs
        on_flat = np.minimum(np.trunc(ys + slope * step + 0.5), np.trunc(ys + slope * (step + 1) + 0.5))
        # The first step t at which the rounded column is beyond the middle: guessed, and put right by one
        rising = slope > 0
        beyond = STEPS * column + np.where(rising, 3, 2)
        guess = np.ceil((beyond - np.where(rising, 0.5, -0.5) - xs) / slope)
    guess = np.where(flat, 0, guess)
    for _ in range(2):
        passed = _is_past(guess - 1, xs, slope, beyond, rising) & ~flat
        guess = np.where(passed, guess - 1, guess)
        short = ~_is_past(guess, xs, slope, beyond, rising) & ~flat
        guess = np.where(short, guess + 1, guess)
    crossing = np.where(flat, on_flat, ys + guess - 1)
    rows = np.ceil(np.clip((crossing + 0.5) / STEPS - 0.5, 0, height)).astype(np.int64)  # (M,)
    if not len(rows) or rows.min() == rows.max():
        return None

    # Each crossing changes all below it: a pixel is inside where an odd number lies above
    columns = column.astype(np.int64)
    top, left, bottom, right = rows.min(), columns.min(), rows.max(), columns.max() + 1
    changes = np.zeros((bottom - top + 1, right - left), np.uint8)
    np.bitwise_xor.at(changes, (rows - top, columns - left), 1)
    inside = np.bitwise_xor.accumulate(changes, axis=0)[:-1].astype(bool)
    return Region(int(top), int(left), inside) if inside.any() else None


def _is_past(t: np.ndarray, xs: np.ndarray, slope: np.ndarray, beyond: np.ndarray, rising: np.ndarray) -> np.ndarray:
    with np.errstate(invalid="ignore"):
        column = np.trunc(xs + slope * t + 0.5)
    return np.where(rising, column >= beyond, column <= beyond)


def pillow_region(low: tuple[float, float], high: tuple[float, float], size: Size, draw: PillowDraw) -> Region:
    """What `draw(pen, (dx, dy))` fills of an image, within the box from `low` to `high` (x, y), both inside it.

    `draw` is given what to add to its corners. Raises EmptyShape where that is nothing.
    """
    height, width = size
    left, top = (int(np.clip(np.floor(value) - 1, 0, side)) for value, side in zip(low, (width, height), strict=True))
    right, bottom = (int(np.clip(np.ceil(v) + 2, 0, side)) for v, side in zip(high, (width, height), strict=True))
    if right <= left or bottom <= top:
        raise EmptyShape("shapes outside of their image")
    image = Image.new("L", (right - left, bottom - top))
    draw(ImageDraw.Draw(image), (-left, -top))
    inside = np.asarray(image) > 0
    if not inside.any():
        raise EmptyShape("shapes that cover no pixel of their image")
    return Region(top, left, inside)


def pillow_polygon(points: np.ndarray, size: Size, *, with_lines: bool = False) -> Region:
    """What a polygon (N, 2) covers by Pillow's rule. Raises EmptyShape where that is nothing.

    `with_lines` also covers all pixels on the lines between the corners, as OpenCV's fillPoly does; Pillow leaves out
    some of those on flat lines.
    """

    def draw(pen: ImageDraw.ImageDraw, shift: tuple[int, int]) -> None:
        corners = [tuple(point) for point in (points + shift).tolist()]
        pen.polygon(corners, fill=1, outline=1)
        if with_lines:
            pen.line([*corners, corners[0]], fill=1)

    return pillow_region(tuple(points.min(axis=0)), tuple(points.max(axis=0)), size, draw)


def rotated(points: np.ndarray, center: np.ndarray, degrees: float) -> np.ndarray:
    """Points (N, 2) turned around a center (x, y), clockwise as seen."""
    cos, sin = np.cos(np.radians(degrees)), np.sin(np.radians(degrees))
    return (points - center) @ np.array([[cos, sin], [-sin, cos]]) + center


def ellipse_points(x: float, y: float, across: float, down: float, degrees: float = 0.0) -> np.ndarray:
    """The outline of an ellipse as a polygon (360, 2): its center, its radii, and how far it is turned."""
    angles = np.radians(np.arange(360))
    outline = np.stack([x + across * np.cos(angles), y + down * np.sin(angles)], axis=1)
    return rotated(outline, np.array([x, y]), degrees)
