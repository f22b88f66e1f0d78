"""Images of panoptic segmentations: neighbouring instances told apart by colour, outline and name.

An instance is drawn in the colour of its class, or near it where a neighbour has that already. Class names come from
strangers: shown, never trusted.
"""

from collections.abc import Sequence
from typing import Any

import numpy as np
from PIL import Image, ImageDraw, ImageFont

from featherseg.core.types import ClassInfo
from featherseg.inference.draw import VOID_COLOR, printable, rgb_view

TINT = 0.35
"""Share of another colour in that of a class, for instances that need one of their own."""

CLEAR = 40.0
"""Distance in RGB from which two colours are told apart."""

NEAR = 4
"""Pixels between two segments up to which they are neighbours, in the same row or column."""

_TINTS = np.array([
    (255, 255, 255), (0, 0, 0), (255, 255, 0), (0, 255, 255), (255, 0, 255), (0, 255, 0), (255, 0, 0), (0, 0, 255),
], dtype=float)  # fmt: skip
_PAPER, _INK = (250, 250, 248), (28, 28, 30)

Segments = Sequence[dict[str, Any]]
Box = tuple[float, float, float, float]
"""Left, top, right, bottom, in pixels."""


def overlay_panoptic(
    image: np.ndarray, ids: np.ndarray, segments: Segments, classes: Sequence[ClassInfo], opacity: float = 0.5
) -> Image.Image:
    """The image (H, W, C) under the colours of its segments, instances with an outline and the name of their class.

    ids (H, W) integer and segments as `inference.panoptic.merge` gives them, category_id being a place in `classes`; an
    id that is no segment's is drawn as void. opacity 0 shows the image, 1 the colours. An instance that is too small
    for its name, or whose name would cover a larger one's, goes without.
    """
    numbers = _numbered(ids, segments)  # (H, W): place in `segments` + 1, 0 = void
    colors = np.array([VOID_COLOR, *segment_colors(ids, segments, classes)], dtype=np.uint8)
    canvas = Image.blend(rgb_view(image), Image.fromarray(colors[numbers]), opacity)
    is_thing = np.array([False, *(classes[segment["category_id"]].thing for segment in segments)])
    edges = outlines(numbers, width=max(1, round(max(ids.shape) / 1000))) & is_thing[numbers]
    canvas.paste(_PAPER, mask=Image.fromarray(edges))
    _write_names(canvas, numbers, [classes[s["category_id"]] for s in segments])
    return canvas


def segment_colors(ids: np.ndarray, segments: Segments, classes: Sequence[ClassInfo]) -> list[tuple[int, int, int]]:
    """One colour a segment, in their order: of stuff that of its class, of an instance that or a tint of it.

    The first tint that is CLEAR of all neighbours is taken, else the one that is farthest from them.
    """
    touching = _neighbours(_numbered(ids, segments), len(segments) + 1)[1:, 1:]
    infos = [classes[segment["category_id"]] for segment in segments]
    colors = np.array([info.color for info in infos], dtype=float).reshape(-1, 3)
    settled = np.array([not info.thing for info in infos], dtype=bool)
    for i, info in enumerate(infos):
        if info.thing:
            around = colors[touching[i] & settled]  # (n, 3)
            colors[i], settled[i] = _choose(colors[i], around), True
    return [(red, green, blue) for red, green, blue in colors.round().astype(int).tolist()]


def _choose(own: np.ndarray, around: np.ndarray) -> np.ndarray:
    """A colour (3,) at or near `own`, told apart from those `around` (n, 3)."""
    if not len(around):
        return own
    options = np.vstack([own, own + TINT * (_TINTS - own)])  # (9, 3)
    gaps = np.linalg.norm(options[:, None] - around, axis=2).min(axis=1)  # (9,)
    return options[np.flatnonzero(gaps >= min(CLEAR, gaps.max()))[0]]


def _numbered(ids: np.ndarray, segments: Segments) -> np.ndarray:
    """Ids (H, W) -> the place of their segment, counted from 1, 0 for those of none: (H, W)."""
    known = np.array([0, *(segment["id"] for segment in segments)])
    order = known.argsort()
    found = order[np.searchsorted(known, ids, sorter=order).clip(max=len(known) - 1)]
    return np.where(known[found] == ids, found, 0)


def _neighbours(numbers: np.ndarray, count: int) -> np.ndarray:
    """Which parts touch or lie up to NEAR pixels apart: (count, count) bool, symmetric."""
    pairs = np.zeros((count, count), dtype=bool)
    for step in range(1, NEAR + 1):
        pairs[numbers[step:], numbers[:-step]] = True
        pairs[numbers[:, step:], numbers[:, :-step]] = True
    np.fill_diagonal(pairs, False)
    return pairs | pairs.T


def outlines(numbers: np.ndarray, width: int) -> np.ndarray:
    """Pixels of (H, W) parts that lie within `width` of another part, in their row or column: (H, W) bool."""
    edges = np.zeros(numbers.shape, dtype=bool)
    for step in range(1, width + 1):
        below, right = numbers[step:] != numbers[:-step], numbers[:, step:] != numbers[:, :-step]
        edges[step:] |= below
        edges[:-step] |= below
        edges[:, step:] |= right
        edges[:, :-step] |= right
    return edges


def _write_names(image: Image.Image, numbers: np.ndarray, infos: Sequence[ClassInfo]) -> None:
    """The name of its class on every instance, the largest first, moved inwards where it would leave the image."""
    text = min(max(round(max(image.size) / 60), 10), 80)  # pixels
    font, pen, stroke = ImageFont.load_default(text), ImageDraw.Draw(image), max(1, text // 8)
    areas = np.bincount(numbers.ravel(), minlength=len(infos) + 1)[1:]
    written: list[Box] = []
    for i in np.argsort(-areas, kind="stable").tolist():
        if not infos[i].thing or areas[i] < (1.5 * text) ** 2:
            continue
        name, middle = printable(infos[i].name), _middle(numbers == i + 1)
        left, top, right, bottom = pen.textbbox((0, 0), name, font=font, anchor="mm", stroke_width=stroke)
        y = max(min(middle[0], image.height - bottom), -top)
        x = max(min(middle[1], image.width - right), -left)
        box = (left + x, top + y, right + x, bottom + y)
        if not any(_overlap(box, other) for other in written):
            pen.text((x, y), name, _PAPER, font=font, anchor="mm", stroke_width=stroke, stroke_fill=_INK)
            written.append(box)


def _middle(part: np.ndarray) -> tuple[int, int]:
    """(row, column) of the pixel of a part (H, W) that is nearest to its centre of mass."""
    rows, columns = np.nonzero(part)
    nearest = np.argmin((rows - rows.mean()) ** 2 + (columns - columns.mean()) ** 2)
    return int(rows[nearest]), int(columns[nearest])


def _overlap(a: Box, b: Box) -> bool:
    """Whether two boxes share a point."""
    return a[0] <= b[2] and b[0] <= a[2] and a[1] <= b[3] and b[1] <= a[3]
