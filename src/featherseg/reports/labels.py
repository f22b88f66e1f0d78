"""Place the labels of a chart so that none covers another."""

from collections.abc import Sequence

WIDTH, HEIGHT = 720, 420  # of the drawing, in SVG units
LEFT, RIGHT, TOP, BOTTOM = 56, 24, 40, 48  # margins around the plot
LETTER, LINE = 7.6, 15.0  # width of a letter and height of a label, generous for 12 px
DISTANCES = tuple(range(9, 400, 6))  # distances of a label from its mark, tried in this order
CANDIDATES = 16  # number of free places among which one clear of the lines is preferred
DIRECTIONS = ((1, 0), (-1, 0), (1, 0.7), (-1, -0.7), (1, -0.7), (-1, 0.7), (0, 1.2), (0, -1.2))

Mark = tuple[float, float]
"""x, y in SVG units."""

Box = tuple[float, float, float, float]
"""left, top, right, bottom in SVG units."""

AREA: Box = (LEFT, TOP - LINE, WIDTH - 2, HEIGHT - BOTTOM)
"""The area for labels."""


def place_labels(
    names: Sequence[str],
    marks: Sequence[Mark],
    lines: Sequence[tuple[Mark, Mark]] = (),
    room: Box = AREA,
) -> list[Box]:
    """Return a box for each label, inside `room`, near its mark, that covers no mark or label.

    A label gets the first free place of DISTANCES x DIRECTIONS; one that also covers none of the
    vertical or horizontal `lines` is preferred. If no place is free, it gets the last one tried.

    marks: those of the names first, then marks without a label.
    """
    occupied = [(x - 6, y - 6, x + 6, y + 6) for x, y in marks]
    line_boxes = [
        (min(a, c) - 1, min(b, d) - 1, max(a, c) + 1, max(b, d) + 1) for (a, b), (c, d) in lines
    ]
    boxes = []
    for name, (x, y) in zip(names, marks, strict=False):
        places = [
            _box(name, x + dx * d, y + dy * d, dx) for d in DISTANCES for dx, dy in DIRECTIONS
        ]
        free = [place for place in places if _inside(place, room) and not _hits(place, occupied)]
        near = free[:CANDIDATES] or places[-1:]
        box = next((place for place in near if not _hits(place, line_boxes)), near[0])
        occupied.append(box)
        boxes.append(box)
    return boxes


def _box(name: str, x: float, y: float, side: float) -> Box:
    """Return the box of a label at (x, y): its left end, right end (side < 0) or middle (0)."""
    width = LETTER * len(name)
    left = x - width if side < 0 else x if side > 0 else x - width / 2
    return left, y - LINE / 2, left + width, y + LINE / 2


def _inside(box: Box, room: Box) -> bool:
    return box[0] >= room[0] and box[1] >= room[1] and box[2] <= room[2] and box[3] <= room[3]


def _hits(box: Box, others: Sequence[Box]) -> bool:
    return any(box[0] < o[2] and o[0] < box[2] and box[1] < o[3] and o[1] < box[3] for o in others)


def leader(x: float, y: float, box: Box) -> str:
    """Return a thin line from the mark to its label, or "" if the label is next to it."""
    near_x, near_y = min(max(x, box[0]), box[2]), min(max(y, box[1]), box[3])
    if (near_x - x) ** 2 + (near_y - y) ** 2 < 14**2:
        return ""
    return f'<path class="leader" d="M{x:.1f} {y:.1f}L{near_x:.1f} {near_y:.1f}"/>'


def anchor(x: float, box: Box) -> str:
    """Return the attributes that anchor the text at the side of its box next to its mark."""
    if box[2] <= x:
        return f'x="{box[2]:.1f}" text-anchor="end"'
    if box[0] >= x:
        return f'x="{box[0]:.1f}"'
    return f'x="{(box[0] + box[2]) / 2:.1f}" text-anchor="middle"'
