"""Line charts: what they show is what was logged."""

import re
from xml.etree import ElementTree

import pytest
from hypothesis import given
from hypothesis import strategies as st

from featherseg.reports.charts import (
    Line,
    chart,
    curve_svg,
    finite_points,
    loss_chart,
    miou_chart,
    smoothed,
    thinned,
    ticks,
)

METRICS = {
    2: {"step": 2, "loss": 1.0, "val_miou": 0.5},
    1: {"step": 1, "loss": 2.0},
    3: {"step": 3, "loss": float("nan")},
    4: {"step": 4, "loss": 0.5, "val_miou": 0.4},
}


def test_points_come_in_the_order_of_steps_and_without_what_is_not_finite():
    assert finite_points(METRICS, "loss") == [(1, 2.0), (2, 1.0), (4, 0.5)]


def test_the_curve_file_is_xml_with_a_title_for_each_chart():
    root = ElementTree.fromstring(curve_svg(METRICS))
    titles = [node.text for node in root.iter("{http://www.w3.org/2000/svg}title")]
    assert titles == [
        "Loss and validation mIoU by step",
        "Training loss: 2 at step 1, 0.5 at step 4",
        "Validation mIoU: best 50.00 % at step 2, last 40.00 %",
    ]


def test_a_higher_value_is_drawn_higher_and_a_later_step_further_right():
    path = re.search(
        r'class="line miou" d="M([\d.]+) ([\d.]+)L([\d.]+) ([\d.]+)"', miou_chart(METRICS)
    )
    x0, y0, x1, y1 = map(float, path.groups())
    assert x1 > x0
    assert y1 > y0  # 0.4 after 0.5; SVG's y points down


def test_a_line_with_a_name_has_it_at_its_end_and_a_dot_at_each_point():
    lines = [
        Line([(1, 2.0), (2, 4.0)], "line a", "long <one>"),
        Line([(1, 3.0)], "line b", "other"),
        Line([(1, 2)], "c"),
    ]
    root = ElementTree.fromstring(chart("mIoU", "told", lines, size=(600, 300)))
    assert root.get("viewBox") == "0 0 600 300"
    dots = {
        node.get("class"): node.get("d").count("M")
        for node in root.iter("path")
        if "knots" in node.get("class")
    }
    assert dots == {"line a knots": 2, "line b knots": 1}
    assert [node.text for node in root.iter("text") if node.get("class") == "tag"] == [
        "long <one>",
        "other",
    ]
    assert [node.text for node in root.iter("title")] == [
        "told",
        "long <one>: 2.0, 4.0",
        "other: 3.0",
    ]


@pytest.mark.parametrize("metrics", [{}, {1: {"step": 1, "lr": 0.1}}, {1: {"loss": float("inf")}}])
def test_nothing_logged_gives_no_chart_and_still_a_file(metrics):
    assert loss_chart(metrics) == miou_chart(metrics) == ""
    ElementTree.fromstring(curve_svg(metrics))


@pytest.mark.parametrize("value", [0.0, -3.0, 1e-9, 5e7])
def test_one_step_or_a_flat_line_can_be_drawn(value):
    ElementTree.fromstring(loss_chart({1: {"loss": value}}))
    ElementTree.fromstring(loss_chart({0: {"loss": value}, 7: {"loss": value}}))


@given(st.floats(-1e6, 1e6), st.floats(-1e6, 1e6))
def test_ticks_span_their_range_evenly_with_round_steps(low, high):
    low, high = min(low, high), max(low, high)
    found = ticks(low, high)
    assert 2 <= len(found) <= 9
    if high > low + 1e-3:
        step = found[1] - found[0]
        assert found[0] <= low + 1e-6 * step
        assert found[-1] >= high - 1e-6 * step


@given(st.lists(st.floats(0, 10), min_size=1, max_size=2000))
def test_thinning_keeps_few_points_and_smoothing_stays_within_the_range(values):
    points = thinned([(float(i), v) for i, v in enumerate(values)])
    assert 1 <= len(points) <= 400
    assert all(min(values) - 1e-9 <= y <= max(values) + 1e-9 for _, y in smoothed(points))


def test_smoothing_keeps_a_straight_line_straight():
    line = [(float(x), 3.0 * x) for x in range(50)]
    assert all(y == pytest.approx(3 * x) for x, y in smoothed(line))
