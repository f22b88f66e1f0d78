"""Maps of numbers as runs, connected pieces, COCO's run lengths, exact polygons along pixel edges.

A run is a stretch of one number down a column. Pixels are connected by their sides: two that share
only a corner are two rings. Letters: (H, W) the map's size, N its runs.
"""

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np

from featherseg.core.types import Size

Ring = list[list[int]]
"""Corners [x, y] in order, the first not repeated: clockwise as seen for exteriors, else reverse.
"""


@dataclass(frozen=True)
class Runs:
    """The runs of one number in a map: their first and last + 1 position, (N,), column-major."""

    starts: np.ndarray
    stops: np.ndarray
    size: Size

    @property
    def area(self) -> int:
        """The number of pixels."""
        return int((self.stops - self.starts).sum())

    @property
    def box(self) -> tuple[int, int, int, int]:
        """(x, y, width, height) in pixels."""
        height = self.size[0]
        left, right = int(self.starts[0] // height), int(self.starts[-1] // height)
        top, bottom = int((self.starts % height).min()), int(((self.stops - 1) % height).max())
        return left, top, right - left + 1, bottom - top + 1

    def counts(self) -> list[int]:
        """Return COCO's uncompressed counts, column by column: lengths of zeros and ones in turn.

        The first length is of zeros.
        """
        joined = self.starts[1:] == self.stops[:-1]  # a run that continues in the next column
        starts = self.starts[np.concatenate([[True], ~joined])]
        stops = self.stops[np.concatenate([~joined, [True]])]
        edges = np.stack([starts, stops], axis=1).ravel()
        total = self.size[0] * self.size[1]
        ends = edges if edges[-1] == total else np.append(edges, total)
        return np.diff(ends, prepend=0).tolist()


def runs_of(numbers: np.ndarray) -> dict[int, Runs]:
    """Return number -> its runs in a map (H, W)."""
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


def label(mask: np.ndarray) -> tuple[np.ndarray, int]:
    """Return a map (H, W) int32 of the connected pieces of a mask (H, W) bool, and their number.

    Pieces have the numbers 1, 2, ... in the order of their first pixel, row by row; the rest is 0.
    """
    height, width = mask.shape
    padded = np.zeros((height, width + 1), dtype=np.int8)  # a run ends with its row
    padded[:, :-1] = mask
    steps = np.diff(padded.ravel(), prepend=0, append=0)
    starts, stops = np.flatnonzero(steps == 1), np.flatnonzero(steps == -1)  # (N,)

    # Pairs of runs that touch: `below` is in the row under `above`
    first = np.searchsorted(stops, starts + width + 1, side="right")
    touching = np.maximum(np.searchsorted(starts, stops + width + 1) - first, 0)
    above = np.repeat(np.arange(len(starts)), touching)
    offsets = np.arange(touching.sum()) - np.repeat(np.cumsum(touching) - touching, touching)
    below = np.repeat(first, touching) + offsets

    # Every run points to an earlier one of its piece, in the end to the first
    parent = np.arange(len(starts))
    while (parent[above] != parent[below]).any():
        lower = np.minimum(parent[above], parent[below])
        np.minimum.at(parent, parent[above], lower)
        np.minimum.at(parent, parent[below], lower)
        while (parent[parent] != parent).any():
            parent = parent[parent]
    firsts, numbers = np.unique(parent, return_inverse=True)
    edges = np.zeros(height * (width + 1) + 1, dtype=np.int32)
    edges[starts] += numbers.astype(np.int32) + 1
    edges[stops] -= numbers.astype(np.int32) + 1
    return np.cumsum(edges[:-1], dtype=np.int32).reshape(height, -1)[:, :-1], len(firsts)


def boxes(numbers: np.ndarray) -> dict[int, tuple[slice, slice]]:
    """Return number -> the rows and columns of its pixels, for each number in a map (H, W)."""
    box_of = {}
    for number, runs in runs_of(numbers).items():
        x, y, width, height = runs.box
        box_of[number] = (slice(y, y + height), slice(x, x + width))
    return box_of


def filled(mask: np.ndarray) -> np.ndarray:
    """Return a mask (H, W) bool with its holes filled."""
    numbers, _ = label(~np.pad(mask, 1))
    return numbers[1:-1, 1:-1] != numbers[0, 0]


def corner_count(numbers: np.ndarray) -> int:
    """Return the number of points in a map (H, W) where rings have corners.

    Up to four corners meet in one point.
    """
    here = np.pad(numbers, 1, constant_values=-1)
    a, b, c, d = here[:-1, :-1], here[:-1, 1:], here[1:, :-1], here[1:, 1:]
    return int(np.count_nonzero(((a != b) | (c != d)) & ((a != c) | (b != d))))


def rings(mask: np.ndarray) -> tuple[list[Ring], list[Ring]]:
    """Return the exterior rings and the holes of a mask (H, W) bool, ordered by upper left corner.

    Along a ring rows and columns alternate, so every corner has one neighbour in its row and one in
    its column. From the left, the first and second corner of a row are neighbours, the third and
    fourth, and so on; columns likewise from the top.
    """
    # (N,) each, row by row: neighbours in a row are corners 0 and 1, 2 and 3, ...
    y, x, down = _corners(mask)
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
    """Split an exterior ring that passes a point twice: the ring without the loops, then the loops.

    The loops are holes.
    """
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
    """Return (y, x, down) of all corners by row, column, and leftwards before rightwards.

    `down` is whether the ring continues downwards. Of the four pixels around a point, one that
    differs from the other three makes a corner whose sides run along that pixel. Two pixels that
    meet only in the point make two corners.
    """
    padded = np.pad(mask, 1)
    rows, columns = mask.shape[0] + 1, mask.shape[1] + 1
    quarters = [padded[dy : dy + rows, dx : dx + columns] for dy in (0, 1) for dx in (0, 1)]
    count = np.sum(quarters, axis=0, dtype=np.uint8)  # (H + 1, W + 1)
    touching = (count == 2) & (quarters[0] == quarters[3])
    corners = []
    for (down, right), quarter in zip(((0, 0), (0, 1), (1, 0), (1, 1)), quarters, strict=True):
        y, x = np.nonzero(((count == 1) | touching) & quarter | (count == 3) & ~quarter)
        corners.append(np.stack([y, x, np.full_like(y, right), np.full_like(y, down)]))
    y, x, right, down = np.concatenate(corners, axis=1)
    order = np.lexsort((right, x, y))
    return y[order], x[order], down[order]


def _trace(in_column: list[int], inside: list[bool]) -> Iterator[list[int]]:
    """Yield the corners of each ring: exteriors start to the right, holes downwards."""
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
