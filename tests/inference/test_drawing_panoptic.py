"""Panoptic overlays: distinct instances, harmless names from strangers, any size."""

from itertools import pairwise

import numpy as np
import pytest

from featherseg.core.types import ClassInfo
from featherseg.inference.drawing import (
    CLEAR,
    TINT,
    outlines,
    overlay_panoptic,
    printable,
    segment_colors,
)

CLASSES = (
    ClassInfo("road", (128, 64, 128)),
    ClassInfo("car", (0, 0, 142), thing=True),
    ClassInfo("a\x1b[31m\n\u202eb {0.__class__} %s" + "x" * 400, (220, 20, 60), thing=True),
    ClassInfo("hole", (0, 0, 0), thing=True),
)
PAPER = (250, 250, 248)


def segment(number, category):
    return {"id": number, "category_id": category, "area": 1, "iscrowd": 0}


def grid(rows, columns, side, category):
    """rows x columns squares, each an instance, on road: ids and segments."""
    ids = (
        (np.arange(rows)[:, None] * columns + np.arange(columns) + 2)
        .repeat(side, 0)
        .repeat(side, 1)
    )
    ids = np.pad(ids, side, constant_values=1)
    return ids.astype(np.int32), [
        segment(1, 0),
        *(segment(i, category) for i in range(2, rows * columns + 2)),
    ]


def distance(a, b):
    return np.linalg.norm(np.subtract(a, b, dtype=float))


@pytest.mark.parametrize("category", [1, 2, 3])
@pytest.mark.parametrize(("side", "order"), [(1, 1), (5, -1), (12, 1)])
def test_neighbours_have_colours_of_their_own_near_that_of_their_class(category, side, order):
    ids, segments = grid(6, 7, side, category)
    segments = segments[::order]
    colors = dict(
        zip((s["id"] for s in segments), segment_colors(ids, segments, CLASSES), strict=True)
    )
    assert colors[1] == CLASSES[0].color
    for number in range(2, len(colors) + 1):
        assert (
            max(abs(a - b) for a, b in zip(colors[number], CLASSES[category].color, strict=True))
            <= 255 * TINT + 1
        )
    touching = {*zip(ids[:, 1:].ravel().tolist(), ids[:, :-1].ravel().tolist(), strict=True)}
    touching |= {*zip(ids[1:].ravel().tolist(), ids[:-1].ravel().tolist(), strict=True)}
    assert all(
        distance(colors[a], colors[b]) > CLEAR - 2 for a, b in touching if a != b
    )  # 2: rounding


def test_an_instance_on_its_own_has_the_colour_of_its_class():
    ids = np.zeros((20, 40), np.int32)
    ids[5:10, 5:10], ids[5:10, 30:35] = 70_000, 3
    assert segment_colors(ids, [segment(3, 1), segment(70_000, 1)], CLASSES) == [(0, 0, 142)] * 2


def test_hundreds_of_neighbours_of_one_instance_can_be_coloured():
    ids = np.full((3, 300), 1, np.int32)
    ids[0] = np.arange(2, 302)
    colors = segment_colors(ids, [segment(i, 1) for i in range(1, 302)], CLASSES)
    assert all(distance(a, b) > CLEAR - 2 for a, b in pairwise(colors[1:]))


def test_an_outline_runs_on_both_sides_of_a_border():
    numbers = np.zeros((6, 8), int)
    numbers[:, 4:] = 1
    assert outlines(numbers, 1).tolist() == [[False] * 3 + [True] * 2 + [False] * 3] * 6
    assert outlines(numbers, 2).tolist() == [[False] * 2 + [True] * 4 + [False] * 2] * 6
    assert not outlines(np.ones((3, 3), int), 2).any()


def test_only_instances_are_outlined_and_what_is_no_segment_is_void():
    ids = np.full((9, 12), 5, np.int32)
    ids[2:7, 2:7] = 9
    ids[:, 11] = 1234
    found = np.array(
        overlay_panoptic(
            np.zeros((9, 12, 3), np.uint8), ids, [segment(9, 1), segment(5, 0)], CLASSES, 1.0
        )
    )
    assert (found[ids == 5] == CLASSES[0].color).all()
    assert (found[ids == 1234] == 0).all()
    assert (found[3:6, 3:6] == CLASSES[1].color).all()
    edge = np.ones((5, 5), bool)
    edge[1:-1, 1:-1] = False
    assert (found[2:7, 2:7][edge] == PAPER).all()


def test_the_overlay_goes_from_the_image_to_the_colours():
    ids, segments = np.full((4, 4), 1, np.int32), [segment(1, 0)]
    image = np.full((4, 4, 3), 200, np.uint8)
    shown = [
        np.array(overlay_panoptic(image, ids, segments, CLASSES, o))[0, 0].tolist()
        for o in (0.0, 0.5, 1.0)
    ]
    assert shown == [[200, 200, 200], [164, 132, 164], [128, 64, 128]]


def test_a_black_class_leaves_the_image_as_it_is():
    ids, image = (
        np.repeat([[1, 1, 2, 2]], 4, axis=0).astype(np.int32),
        np.full((4, 4, 3), 200, np.uint8),
    )
    classes = (CLASSES[0], ClassInfo("background", (0, 0, 0)))
    found = np.array(overlay_panoptic(image, ids, [segment(1, 0), segment(2, 1)], classes))
    assert found[0].tolist() == [[164, 132, 164]] * 2 + [[200, 200, 200]] * 2


def written(ids, name="car"):
    """Pixels that the name of instance 1 changes: (H, W) bool."""
    image = np.zeros((*ids.shape, 3), np.uint8)
    with_name, without = (
        np.array(
            overlay_panoptic(
                image, ids, [segment(1, 0)], [ClassInfo(text, (0, 0, 142), thing=True)]
            )
        )
        for text in (name, "")
    )
    return (with_name != without).any(axis=2)


@pytest.mark.parametrize(("side", "named"), [(100, True), (9, False)])
def test_a_large_instance_bears_its_name_and_a_small_one_does_not(side, named):
    ids = np.zeros((200, 300), np.int32)
    ids[20 : 20 + side, 20 : 20 + side] = 1
    changed = written(ids)
    assert changed.any() == named
    assert not changed[ids == 0].any()


@pytest.mark.parametrize("axis", [0, 1])
def test_a_name_at_the_border_stays_in_the_image(axis):
    ids = np.zeros((200, 200), np.int32)
    np.moveaxis(ids, axis, 0)[:4] = 1
    middle, first, last = (
        written(np.roll(ids, shift, axis), "pedestrian").sum() for shift in (100, 0, -4)
    )
    assert middle > 400
    assert first == pytest.approx(middle, rel=0.1)
    assert last == pytest.approx(middle, rel=0.1)


def test_a_name_is_written_in_one_line_without_control_characters():
    ids = np.ones((200, 300), np.int32)
    hostile, plain = CLASSES[2].name, printable(CLASSES[2].name)
    assert hostile != plain
    assert written(ids, hostile).any()
    assert (written(ids, hostile) == written(ids, plain)).all()


@pytest.mark.parametrize(("column", "named"), [(121, False), (240, True)])
def test_a_name_that_would_cover_that_of_a_larger_instance_is_left_out(column, named):
    ids = np.zeros((200, 300), np.int32)
    ids[50:150, 100:160] = 1
    ids[90:110, column : column + 18] = 2  # in the middle of the first, or beside it
    image, classes = (
        np.zeros((200, 300, 3), np.uint8),
        (CLASSES[1], ClassInfo("", (0, 0, 142), thing=True)),
    )
    one, both = (
        overlay_panoptic(image, ids, [segment(1, 0), segment(2, c)], classes) for c in (1, 0)
    )
    assert (one != both) == named


@pytest.mark.parametrize(("channels", "dtype"), [(1, np.uint8), (3, np.uint16), (5, np.uint16)])
@pytest.mark.parametrize("size", [(1, 1), (1, 50), (60, 2), (90, 120)])
def test_any_image_with_hostile_names_can_be_drawn(size, channels, dtype):
    ids = np.full(size, 2, np.int32)
    ids[:, size[1] // 2 :] = 7
    segments = [segment(2, 2), segment(7, 2)]
    image = overlay_panoptic(np.full((*size, channels), 77, dtype), ids, segments, CLASSES)
    assert (image.mode, image.size) == ("RGB", size[::-1])


def test_a_segmentation_without_segments_is_the_image_under_void():
    found = overlay_panoptic(
        np.full((5, 6, 3), 100, np.uint8), np.zeros((5, 6), np.int32), [], CLASSES
    )
    assert (np.array(found) == 50).all()
