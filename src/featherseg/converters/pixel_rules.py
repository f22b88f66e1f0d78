"""Which pixels a shape covers, by the rule of the tool that drew it.

COCO's rule (`maskApi.c` of pycocotools, also CVAT's for its exports): the pixel in column i covers
[i, i + 1) and is inside if its centre is. Pillow's rule (labelme's): integers are pixel centres,
and the outline is inside.
"""

from collections.abc import Callable, Sequence

import numpy as np
from PIL import Image, ImageDraw

from featherseg.converters.annotations import EmptyShape, Region, UnusableShape, joined
from featherseg.core.types import Size

MOST_POINTS = 1_000_000
"""Most corners of one polygon."""

MOST_CROSSINGS = 10_000_000
"""Most columns crossed by the edges of one polygon: each needs 133 bytes (tracemalloc)."""

FARTHEST = 1_000_000.0
"""Most pixels between a corner and the image; a corner farther out is no slip of the hand."""

STEPS = 5
"""Steps per pixel to which pycocotools rounds corners."""

PillowDraw = Callable[[ImageDraw.ImageDraw, tuple[int, int]], None]


def check_points(values: object) -> np.ndarray:
    """Return [[x, y], ...] or [x, y, x, y, ...] as (N, 2) float64.

    Raises UnusableShape if the values are not coordinates of pixels.
    """
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
    """Return the corners of a polygon, (N, 2).

    Raises UnusableShape as `check_points`, EmptyShape for fewer than three corners.
    """
    if isinstance(values, list) and not values:
        raise EmptyShape("polygons of fewer than three corners")
    points = check_points(values)
    if len(points) < 3:
        raise EmptyShape("polygons of fewer than three corners")
    return points


def coco_polygons(polygons: Sequence[np.ndarray], size: Size) -> Region:
    """Return the union of polygons, (N, 2) each, by COCO's rule.

    Raises EmptyShape if they cover no pixel.
    """
    regions = [
        region for polygon in polygons if (region := coco_polygon(polygon, size)) is not None
    ]
    if not regions:
        raise EmptyShape("shapes that cover no pixel of their image")
    return joined(regions)


def coco_polygon(points: np.ndarray, size: Size) -> Region | None:
    """Return the pixels of a polygon (N, 2) by COCO's rule; None if there are none.

    This is `rleFrPoly` of pycocotools. The outline, rounded to fifths of a pixel, crosses the
    centres of columns at heights y. At each crossing the column changes between outside and inside.
    pycocotools walks along the outline in steps of a fifth; here the crossings of each edge are
    computed, so that a corner far away needs no memory.

    Raises UnusableShape if the polygon crosses more than MOST_CROSSINGS columns.
    """
    height, width = size
    corners = np.trunc(STEPS * points + 0.5)  # (N, 2); C casts by truncation
    starts, ends = corners, np.roll(corners, -1, axis=0)
    spans = np.abs(ends - starts)  # (N, 2)
    flat = spans[:, 0] >= spans[:, 1]
    flip = np.where(flat, starts[:, 0] > ends[:, 0], starts[:, 1] > ends[:, 1])[:, None]
    (xs, ys), (xe, ye) = np.where(flip, ends, starts).T, np.where(flip, starts, ends).T

    # The columns c whose centre each edge crosses: there the outline steps from 5 c + 2 to 5 c + 3
    low, high = np.minimum(xs, xe), np.maximum(xs, xe)
    first = np.clip(np.ceil((low - 2) / STEPS), 0, width)
    last = np.clip(np.floor((high - 3) / STEPS), -1, width - 1)
    counts = np.maximum(last - first + 1, 0).astype(np.int64)
    if counts.sum() > MOST_CROSSINGS:
        raise UnusableShape(f"polygons whose edges cross more than {MOST_CROSSINGS:,} columns")
    edge = np.repeat(np.arange(len(points)), counts)
    column = (
        np.arange(counts.sum()) - np.repeat(np.cumsum(counts) - counts, counts) + first[edge]
    )  # (M,)

    # The height of each crossing: on flat edges rows are rounded, on steep edges columns
    xs, ys, xe, ye, flat = (values[edge] for values in (xs, ys, xe, ye, flat))
    with np.errstate(divide="ignore", invalid="ignore"):
        slope = np.where(flat, (ye - ys) / (xe - xs), (xe - xs) / (ye - ys))
        step = STEPS * column + 2 - xs
        on_flat = np.minimum(
            np.trunc(ys + slope * step + 0.5), np.trunc(ys + slope * (step + 1) + 0.5)
        )
        # The first step t whose rounded column is beyond the centre: guessed, corrected below
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

    # Each crossing flips all pixels below it: a pixel under an odd number of crossings is inside
    columns = column.astype(np.int64)
    top, left, bottom, right = rows.min(), columns.min(), rows.max(), columns.max() + 1
    changes = np.zeros((bottom - top + 1, right - left), np.uint8)
    np.bitwise_xor.at(changes, (rows - top, columns - left), 1)
    inside = np.bitwise_xor.accumulate(changes, axis=0)[:-1].astype(bool)
    return Region(int(top), int(left), inside) if inside.any() else None


def _is_past(
    t: np.ndarray, xs: np.ndarray, slope: np.ndarray, beyond: np.ndarray, rising: np.ndarray
) -> np.ndarray:
    with np.errstate(invalid="ignore"):
        column = np.trunc(xs + slope * t + 0.5)
    return np.where(rising, column >= beyond, column <= beyond)


def pillow_region(
    low: tuple[float, float], high: tuple[float, float], size: Size, draw: PillowDraw
) -> Region:
    """Return the pixels that `draw(pen, (dx, dy))` fills in the box from `low` to `high`.

    Both corners are (x, y); `draw` must add (dx, dy) to its coordinates. Raises EmptyShape if
    nothing is filled.
    """
    height, width = size
    left, top = (
        int(np.clip(np.floor(value) - 1, 0, side))
        for value, side in zip(low, (width, height), strict=True)
    )
    right, bottom = (
        int(np.clip(np.ceil(v) + 2, 0, side)) for v, side in zip(high, (width, height), strict=True)
    )
    if right <= left or bottom <= top:
        raise EmptyShape("shapes outside of their image")
    image = Image.new("L", (right - left, bottom - top))
    draw(ImageDraw.Draw(image), (-left, -top))
    inside = np.asarray(image) > 0
    if not inside.any():
        raise EmptyShape("shapes that cover no pixel of their image")
    return Region(top, left, inside)


def pillow_polygon(points: np.ndarray, size: Size, *, with_lines: bool = False) -> Region:
    """Return the pixels of a polygon (N, 2) by Pillow's rule. Raises EmptyShape if there are none.

    `with_lines` also covers all pixels on the lines between corners, as OpenCV's fillPoly does;
    Pillow omits some pixels on flat lines.
    """

    def draw(pen: ImageDraw.ImageDraw, shift: tuple[int, int]) -> None:
        corners = [tuple(point) for point in (points + shift).tolist()]
        pen.polygon(corners, fill=1, outline=1)
        if with_lines:
            pen.line([*corners, corners[0]], fill=1)

    return pillow_region(tuple(points.min(axis=0)), tuple(points.max(axis=0)), size, draw)


def rotated(points: np.ndarray, center: np.ndarray, degrees: float) -> np.ndarray:
    """Return points (N, 2) rotated around a center (x, y), clockwise as seen."""
    cos, sin = np.cos(np.radians(degrees)), np.sin(np.radians(degrees))
    return (points - center) @ np.array([[cos, sin], [-sin, cos]]) + center


def ellipse_points(
    x: float, y: float, across: float, down: float, degrees: float = 0.0
) -> np.ndarray:
    """Return an ellipse with radii `across`, `down` as a polygon (360, 2), rotated by `degrees`."""
    angles = np.radians(np.arange(360))
    outline = np.stack([x + across * np.cos(angles), y + down * np.sin(angles)], axis=1)
    return rotated(outline, np.array([x, y]), degrees)
