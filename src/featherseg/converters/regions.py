"""Maps of numbers as runs, COCO's run-length counts and polygons along the edges of the pixels; all exact.

A run is a stretch of one number down a column. Pixels touch along their sides: two that meet at a corner alone are two
rings. Letters: (H, W) the map's size, N its runs.
"""

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np

from featherseg.core.types import Size

Ring = list[list[int]]
"""[x, y] of the corners in order, the first not repeated: clockwise as seen for what is inside, else the other way."""


@dataclass(frozen=True)
class Runs:
    """One number's runs in a map of `size`: first and last + 1 place (N,) in column-major order, ascending."""

    starts: np.ndarray
    stops: np.ndarray
    size: Size

    @property
    def area(self) -> int:
        """Pixels."""
        return int((self.stops - self.starts).sum())

    @property
    def box(self) -> tuple[int, int, int, int]:
        """(x, y, width, height) in pixels."""
        height = self.size[0]
        left, right = int(self.starts[0] // height), int(self.starts[-1] // height)
        top, bottom = int((self.starts % height).min()), int(((self.stops - 1) % height).max())
        return left, top, right - left + 1, bottom - top + 1

    def counts(self) -> list[int]:
        """COCO's uncompressed counts: lengths of zeros and ones in turn down the columns, the first of zeros."""
        joined = self.starts[1:] == self.stops[:-1]  # the foot of a column and the head of the next
        starts = self.starts[np.concatenate([[True], ~joined])]
        stops = self.stops[np.concatenate([~joined, [True]])]
        edges = np.stack([starts, stops], axis=1).ravel()
        total = self.size[0] * self.size[1]
        ends = edges if edges[-1] == total else np.append(edges, total)
        return np.diff(ends, prepend=0).tolist()


def runs_of(numbers: np.ndarray) -> dict[int, Runs]:
    """The runs of every number of a map (H, W), by number."""
    height, width = numbers.shape
    flat = np.ascontiguousarray(numbers.T).ravel()  # (W * H,)
    changes = np.empty(flat.shape, dtype=bool)
    np.not_equal(flat[1:], flat[:-1], out=changes[1:])
    changes[::height] = True
    starts = np.flatnonzero(changes)  # (N,)
    stops = np.append(starts[1:], flat.size)
    values = flat[starts]
    order = np.argsort(values, kind="stable")
    present, firsts = np.unique(values[order], return_index=True)
    parts = np.split(order, firsts[1:])
    return {
        int(number): Runs(starts[part], stops[part], (height, width))
        for number, part in zip(present, parts, strict=True)
    }


def corner_count(numbers: np.ndarray) -> int:
    """Places of a map (H, W) where rings have corners; up to four of them meet in one."""
    here = np.pad(numbers, 1, constant_values=-1)
    a, b, c, d = here[:-1, :-1], here[:-1, 1:], here[1:, :-1], here[1:, 1:]
    return int(np.count_nonzero(((a != b) | (c != d)) & ((a != c) | (b != d))))


def rings(mask: np.ndarray) -> tuple[list[Ring], list[Ring]]:
    """Exterior rings and holes of a mask (H, W) bool, each in the order of the upper left corners.

    Along a ring rows and columns take turns, so that every corner has one neighbour on its row and one in its column.
    Of the corners of a row, from the left, the first and second are neighbours, the third and fourth, and so on; of
    those of a column likewise.
    """
    y, x, down = _corners(mask)  # (N,) each, row by row: neighbours on a row are 0 and 1, 2 and 3, ...
    by_column = np.lexsort((down, y, x)).reshape(-1, 2)
    in_column = np.empty(len(y), dtype=np.int64)
    in_column[by_column] = by_column[:, ::-1]
    inside = mask[np.minimum(y, mask.shape[0] - 1), np.minimum(x, mask.shape[1] - 1)].tolist()
    points = np.stack([x, y], axis=1).tolist()
    outside: list[Ring] = []
    holes: list[Ring] = []
    touching = bool(((np.diff(x) == 0) & (np.diff(y) == 0)).any())
    for corners in _trace(in_column.tolist(), inside):
        ring = [points[corner] for corner in corners]
        if not inside[corners[0]]:
            holes.append(ring)
        elif touching:
            exterior, *pockets = _parted(ring)
            outside.append(exterior)
            holes += pockets
        else:
            outside.append(ring)
    if touching:
        holes.sort(key=lambda ring: ring[0][::-1])
    return outside, holes


def _parted(ring: Ring) -> list[Ring]:
    """An exterior ring without what it goes round between two passes of one point, then each of those: holes."""
    path: Ring = []
    places: dict[tuple[int, int], int] = {}
    pockets = []
    for x, y in ring:
        if (first := places.get((x, y))) is not None:
            pocket = path[first:]
            del path[first:]
            for x_y in pocket:
                del places[x_y[0], x_y[1]]
            upper_left = pocket.index(min(pocket, key=lambda point: point[::-1]))
            pockets.append(pocket[upper_left:] + pocket[:upper_left])
        places[x, y] = len(path)
        path.append([x, y])
    return [path, *pockets]


def _corners(mask: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """(y, x, whether the ring goes on downwards), from top to bottom, left to right, leftwards before rightwards.

    Of the four pixels around a point, one that differs from the other three makes a corner, its two sides going on
    along that pixel; two that meet at the point alone make two.
    """
    padded = np.pad(mask, 1)
    quarters = [padded[dy : dy + mask.shape[0] + 1, dx : dx + mask.shape[1] + 1] for dy in (0, 1) for dx in (0, 1)]
    count = np.sum(quarters, axis=0, dtype=np.uint8)  # (H + 1, W + 1)
    touching = (count == 2) & (quarters[0] == quarters[3])
    found = []
    for (down, right), quarter in zip(((0, 0), (0, 1), (1, 0), (1, 1)), quarters, strict=True):
        y, x = np.nonzero(((count == 1) | touching) & quarter | (count == 3) & ~quarter)
        found.append(np.stack([y, x, np.full_like(y, right), np.full_like(y, down)]))
    y, x, right, down = np.concatenate(found, axis=1)
    order = np.lexsort((right, x, y))
    return y[order], x[order], down[order]


def _trace(in_column: list[int], inside: list[bool]) -> Iterator[list[int]]:
    """The corners of one ring after the other: to the right first along what is inside, downwards around a hole."""
    unseen = bytearray(b"\1") * len(in_column)
    for start in range(len(in_column)):
        ring, corner, on_row = [], start, inside[start]
        while unseen[corner]:
            unseen[corner] = 0
            ring.append(corner)
            corner = corner ^ 1 if on_row else in_column[corner]
            on_row = not on_row
        if ring:
            yield ring
