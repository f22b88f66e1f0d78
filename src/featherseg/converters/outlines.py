"""Outlines with fewer corners, within a stated distance."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np

from featherseg.converters.regions import Ring
from featherseg.core.wording import brief, counted

MOST_PAIRS = 2**22
"""Pairs of edges that are compared at a time."""

Outline = tuple[Ring, list[Ring]]
"""The exterior ring of a connected piece, and its holes."""


@dataclass(frozen=True)
class Polygon:
    """A connected region of one class, or a piece of an object.

    Attributes:
        class_id: Index into the classes.
        name: The name of the class.
        id: The number of its object; None for a region without objects.
        exterior: Its corners [x, y] in pixels from the upper left corner of the image, clockwise.
        holes: Rings that are cut out, counterclockwise.
    """

    class_id: int
    name: str
    id: int | None
    exterior: Ring
    holes: list[Ring]

    def __repr__(self) -> str:
        holes = counted(len(self.holes), "hole") if self.holes else ""
        return brief(self, self.name, self.id, counted(len(self.exterior), "corner"), holes)


def simplified_outline(outline: Outline, tolerance: float) -> Outline:
    """Return an outline with fewer corners, each dropped one within `tolerance` pixels of it.

    No two edges cross. If they would, the tolerance is halved twice, then nothing is dropped.
    """
    if len(outline[0]) == 4 and not outline[1]:  # a rectangle
        return outline
    for step in (tolerance, tolerance / 2, tolerance / 4):
        exterior, *holes = rings = [
            without_corners(ring, step) for ring in (outline[0], *outline[1])
        ]
        if all(len(ring) > 2 for ring in rings) and not _cross(rings):
            return exterior, holes
    return outline


def without_corners(ring: Ring, tolerance: float) -> Ring:
    """Return a ring without the corners that are within `tolerance` of it, by Douglas and Peucker.

    The first corner and the one farthest from it stay.
    """
    points = np.array(ring, float)  # (N, 2)
    far = int(np.hypot(*(points - points[0]).T).argmax())
    kept = {0, far, *_corners_off(points, 0, far, tolerance)}
    kept.update(_corners_off(points, far, len(points), tolerance))
    return [ring[place] for place in sorted(kept)]


def _corners_off(points: np.ndarray, first: int, last: int, tolerance: float) -> Iterator[int]:
    """Yield the corners to keep between two kept ones.

    The farthest corner is kept first, then those on both sides of it.
    """
    waiting = [(first, last)]
    while waiting:
        start, stop = waiting.pop()
        end = points[stop % len(points)]
        along, between = end - points[start], points[start + 1 : stop] - points[start]  # (N, 2)
        if not len(between):
            continue
        # To the nearest point of the edge, which may be one of its ends
        square = along @ along
        place = np.clip(between @ along / square, 0, 1) if square else np.zeros(len(between))
        off = np.hypot(*(between - place[:, None] * along).T)
        if off.max() > tolerance:
            farthest = start + 1 + int(off.argmax())
            yield farthest
            waiting += [(start, farthest), (farthest, stop)]


def _cross(rings: Sequence[Ring]) -> bool:
    """Whether two edges meet anywhere but in a corner that they share."""
    from_to = [(ring[i - 1], ring[i]) for ring in rings for i in range(len(ring))]
    edges = np.array(from_to, dtype=np.int64)  # (N, 2, 2)
    edges = edges[np.argsort(edges[:, :, 0].min(axis=1), kind="stable")]
    left, right = edges[:, :, 0].min(axis=1), edges[:, :, 0].max(axis=1)

    # Edges are compared with those that begin before they end, from left to right
    counts = np.searchsorted(left, right, side="right") - np.arange(1, len(edges) + 1)
    groups = np.cumsum(counts) // MOST_PAIRS
    for group in np.unique(groups):
        rows = np.flatnonzero(groups == group)
        one = np.repeat(rows, counts[rows])
        offsets = np.arange(len(one)) - np.repeat(
            np.cumsum(counts[rows]) - counts[rows], counts[rows]
        )
        if _pairs_cross(edges[one], edges[one + 1 + offsets]).any():
            return True
    return False


def _pairs_cross(one: np.ndarray, other: np.ndarray) -> np.ndarray:
    """Return whether the edges (N, 2, 2) of each pair meet, except in a shared corner: (N,)."""
    (a, b), (c, d) = (one[:, 0], one[:, 1]), (other[:, 0], other[:, 1])

    def side(p: np.ndarray, q: np.ndarray, r: np.ndarray) -> np.ndarray:
        (x, y), (to_x, to_y) = (r - p).T, (q - p).T
        return np.sign(to_x * y - to_y * x)

    def within(p: np.ndarray, q: np.ndarray, r: np.ndarray) -> np.ndarray:
        return ((np.minimum(p, q) <= r) & (r <= np.maximum(p, q))).all(axis=1)

    def same(p: np.ndarray, q: np.ndarray) -> np.ndarray:
        return (p == q).all(axis=1)

    of_c, of_d, of_a, of_b = side(a, b, c), side(a, b, d), side(c, d, a), side(c, d, b)
    crossing = (of_c * of_d < 0) & (of_a * of_b < 0)
    # A corner of one lies on the other, and is no corner of it
    for on, first, last, corner in (
        *((of_c == 0, a, b, c), (of_d == 0, a, b, d)),
        *((of_a == 0, c, d, a), (of_b == 0, c, d, b)),
    ):
        shared = same(corner, first) | same(corner, last)
        crossing |= on & within(first, last, corner) & ~shared
    return crossing
