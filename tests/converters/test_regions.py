"""Runs and polygons: filled again, by loops written here, they are the map they came from."""

from itertools import pairwise

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra.numpy import array_shapes, arrays
from scipy import ndimage

from featherseg.converters.regions import boxes, corner_count, filled, label, rings, runs_of

MASKS = arrays(bool, array_shapes(min_dims=2, max_dims=2, max_side=9))
MAPS = arrays(
    np.uint8, array_shapes(min_dims=2, max_dims=2, max_side=9), elements=st.integers(0, 3)
)


def decode(counts, size):
    """Counts of zeros and ones in turn, column after column, as the COCO format has it."""
    flat = [i % 2 for i, count in enumerate(counts) for _ in range(count)]
    return np.array(
        [[flat[x * size[0] + y] for x in range(size[1])] for y in range(size[0])], dtype=bool
    )


def is_inside(ring, x, y):
    """Return whether a pixel's middle is in a ring, by counting its row's crossings to the left."""
    closed = [*ring, ring[0]]
    crossed = [
        x0 <= x and min(y0, y1) <= y < max(y0, y1)
        for (x0, y0), (x1, y1) in pairwise(closed)
        if x0 == x1
    ]
    return sum(crossed) % 2 == 1


def fill(all_rings, size):
    """How many of the rings lie around each pixel: (H, W)."""
    height, width = size
    return np.array(
        [
            [sum(is_inside(ring, x, y) for ring in all_rings) for x in range(width)]
            for y in range(height)
        ]
    )


def turns_clockwise(ring):
    """By the signed area, y growing downwards."""
    closed = [*ring, ring[0]]
    return sum(x0 * y1 - x1 * y0 for (x0, y0), (x1, y1) in pairwise(closed)) > 0


@given(MAPS)
def test_counts_decode_to_the_map_they_came_from(numbers):
    runs = runs_of(numbers)
    assert sorted(runs) == sorted(set(numbers.ravel().tolist()))
    for number, own in runs.items():
        counts = own.counts()
        assert sum(counts) == numbers.size
        assert all(count > 0 for count in counts[1:])
        np.testing.assert_array_equal(decode(counts, numbers.shape), numbers == number)


@given(MAPS)
def test_area_and_box_are_those_of_the_pixels(numbers):
    for number, own in runs_of(numbers).items():
        y, x = np.nonzero(numbers == number)
        assert own.area == len(y)
        assert own.box == (x.min(), y.min(), np.ptp(x) + 1, np.ptp(y) + 1)


def test_counts_of_an_l_are_those_worked_out_by_hand():
    runs = runs_of(np.array([[1, 0, 0], [1, 1, 1]], dtype=np.uint8))
    assert runs[1].counts() == [0, 2, 1, 1, 1, 1]  # columns: 11, 01, 01
    assert runs[0].counts() == [2, 1, 1, 1, 1]


@pytest.mark.seconds
@given(MASKS)
def test_rings_fill_to_the_mask_they_came_from(mask):
    outside, holes = rings(mask)
    inside = fill(outside, mask.shape) - fill(
        holes, mask.shape
    )  # how many more pieces than holes lie around a pixel
    np.testing.assert_array_equal(inside, mask)


@pytest.mark.seconds
@given(MASKS)
def test_rings_have_no_idle_point_and_holes_turn_the_other_way(mask):
    outside, holes = rings(mask)
    for ring in (*outside, *holes):
        closed = [*ring, ring[0], ring[1]]
        assert len(ring) >= 4
        for before, here, after in zip(closed, closed[1:], closed[2:], strict=False):
            assert (before[0] == here[0]) != (before[1] == here[1])
            assert (before[0] == here[0]) != (here[0] == after[0])
    assert all(turns_clockwise(ring) for ring in outside)
    assert not any(turns_clockwise(ring) for ring in holes)


@pytest.mark.seconds
@given(MASKS)
def test_no_point_is_passed_twice_by_an_exterior_ring(mask):
    for ring in rings(mask)[0]:
        assert len({tuple(point) for point in ring}) == len(ring)


def test_a_hole_that_meets_the_outside_at_a_corner_is_a_hole():
    outside, holes = rings(np.array([[0, 1, 1], [1, 0, 1], [1, 1, 1]], dtype=bool))
    assert outside == [[[1, 0], [3, 0], [3, 3], [0, 3], [0, 1], [1, 1]]]
    assert holes == [[[1, 1], [1, 2], [2, 2], [2, 1]]]


def test_pixels_that_meet_at_a_corner_are_two_rings():
    outside, holes = rings(np.eye(2, dtype=bool))
    assert outside == [[[0, 0], [1, 0], [1, 1], [0, 1]], [[1, 1], [2, 1], [2, 2], [1, 2]]]
    assert holes == []


def test_a_frame_has_a_hole():
    frame = np.ones((3, 4), dtype=bool)
    frame[1, 1:3] = False
    assert rings(frame) == ([[[0, 0], [4, 0], [4, 3], [0, 3]]], [[[1, 1], [1, 2], [3, 2], [3, 1]]])


@pytest.mark.seconds
@given(MAPS)
def test_corners_are_counted_before_they_are_traced(numbers):
    traced = sum(
        len(ring) for number in range(4) for part in rings(numbers == number) for ring in part
    )
    assert corner_count(numbers) <= traced <= 4 * corner_count(numbers)


@pytest.mark.parametrize("size", [(1, 1), (1, 7), (7, 1)])
def test_an_empty_mask_has_no_ring(size):
    assert rings(np.zeros(size, dtype=bool)) == ([], [])


@given(MASKS)
def test_pieces_are_those_of_scipy(mask):
    numbers, count = label(mask)
    expected, expected_count = ndimage.label(mask)
    assert (numbers == expected).all()
    assert count == expected_count
    assert (filled(mask) == ndimage.binary_fill_holes(mask)).all()


@given(MAPS)
def test_boxes_are_those_of_scipy(numbers):
    expected = ndimage.find_objects(numbers.astype(int) + 1)
    assert list(boxes(numbers).items()) == [(i, box) for i, box in enumerate(expected) if box]
