"""Outlines with fewer corners: within the stated distance, with edges that do not cross."""

from itertools import combinations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra.numpy import array_shapes, arrays
from PIL import Image, ImageDraw

from featherseg.converters.outlines import simplified_outline, without_corners
from featherseg.converters.regions import rings

MASKS = arrays(bool, array_shapes(min_dims=2, max_dims=2, max_side=12))


def edges(ring):
    return list(zip(ring, ring[1:] + ring[:1], strict=True))


def distance(point, edge):
    """From a point to an edge, by trying many points of the edge."""
    (x, y), (to_x, to_y) = edge
    along = np.linspace(0, 1, 501)
    return np.hypot(x + along * (to_x - x) - point[0], y + along * (to_y - y) - point[1]).min()


def cross(one, other):
    """Whether two edges cross in a point that is a corner of neither."""
    (a, b), (c, d) = one, other

    def side(p, q, r):
        return (q[0] - p[0]) * (r[1] - p[1]) - (q[1] - p[1]) * (r[0] - p[0])

    return side(a, b, c) * side(a, b, d) < 0 and side(c, d, a) * side(c, d, b) < 0


def piece(mask):
    """The outline of the first connected piece of a mask."""
    exteriors, holes = rings(mask)
    return (exteriors[0], holes) if len(exteriors) == 1 else None


@pytest.mark.seconds
@given(MASKS, st.sampled_from([0.5, 1.0, 2.5]))
def test_corners_stay_within_the_tolerance_and_edges_do_not_cross(mask, tolerance):
    outline = piece(mask)
    if outline is None:
        return
    exterior, holes = simplified_outline(outline, tolerance)
    assert len(holes) == len(outline[1])
    for before, after in zip([outline[0], *outline[1]], [exterior, *holes], strict=True):
        assert len(after) >= 3
        assert all(point in before for point in after)
        for point in before:
            assert min(distance(point, edge) for edge in edges(after)) < tolerance + 0.05
    all_edges = [edge for ring in (exterior, *holes) for edge in edges(ring)]
    assert not any(cross(one, other) for one, other in combinations(all_edges, 2))


def test_a_disc_keeps_its_area_with_a_fraction_of_its_corners():
    image = Image.new("1", (202, 202))
    ImageDraw.Draw(image).ellipse((1, 1, 200, 200), fill=1)
    mask = np.array(image)
    exterior, _ = rings(mask)[0][0], []
    kept, holes = simplified_outline((exterior, []), 1.0)
    assert holes == []
    assert len(kept) < len(exterior) / 6
    x, y = np.array(kept).T
    area = abs(x @ np.roll(y, 1) - y @ np.roll(x, 1)) / 2
    assert area == pytest.approx(mask.sum(), rel=0.02)


def test_a_hole_close_to_the_border_stays_inside():
    """Both rings alone could lose the corner; then they would cross."""
    mask = np.ones((14, 24), bool)
    mask[2:12, 2:22] = False
    mask[2:4, 9:15] = True  # the hole bends around
    mask[:3, 10:14] = False  # a notch, one pixel deeper than the hole begins
    exterior, (hole,) = rings(mask)[0][0], rings(mask)[1]
    alone = without_corners(exterior, 2.0), without_corners(hole, 2.0)
    kept = simplified_outline((exterior, [hole]), 2.0)
    for outline, crossing in ((alone, True), ((kept[0], kept[1][0]), False)):
        pairs = [(a, b) for a in edges(outline[0]) for b in edges(outline[1])]
        assert any(cross(*pair) for pair in pairs) == crossing
