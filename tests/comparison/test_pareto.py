"""The front against its definition, the pick within a budget, and a readable drawing."""

import re
from dataclasses import replace
from itertools import combinations
from xml.etree import ElementTree

import pytest
from hypothesis import given
from hypothesis import strategies as st

from featherseg.comparison.pareto import (
    HEIGHT,
    LATENCY,
    LEFT,
    MEMORY,
    WIDTH,
    Pick,
    Point,
    front_svg,
    pareto_front,
    pick,
    place_labels,
)

SVG = "{http://www.w3.org/2000/svg}"
NETWORKS = [Point("a", 10, 0.60), Point("b", 20, 0.70), Point("c", 25, 0.65), Point("d", 40, 0.72)]

points = st.lists(
    st.builds(
        Point,
        st.text("abc-<&", min_size=1, max_size=60),
        st.integers(1, 9),
        st.integers(0, 9).map(lambda i: i / 9),
    ),
    min_size=1,
    max_size=25,
)


@pytest.mark.seconds
@given(points)
def test_a_point_is_on_the_front_where_none_is_as_cheap_and_as_good_and_better_in_one(models):
    kept = pareto_front(models)
    for p in models:
        beaten = any(
            o.cost <= p.cost and o.miou >= p.miou and (o.cost < p.cost or o.miou > p.miou)
            for o in models
        )
        assert (p in kept) != beaten
    assert [p.cost for p in kept] == sorted(p.cost for p in kept)
    assert [p.miou for p in kept] == sorted(p.miou for p in kept)


def test_the_pick_is_the_best_that_fits_and_says_why():
    found = pick(NETWORKS, 25, LATENCY)
    assert found.point == NETWORKS[1]
    assert (
        found.reason == "b: mIoU 70.00 % at 20 ms, the highest of the 3 within 25 ms (latency p50)."
    )
    assert (
        pick(NETWORKS, 10, LATENCY).reason
        == "a: mIoU 60.00 % at 10 ms, the only one of 4 within 10 ms (latency p50)."
    )


def test_a_budget_that_none_keeps_names_the_least():
    found = pick(NETWORKS, 9, MEMORY)
    assert found.point is None
    assert (
        found.reason
        == "none of 4 models stays within 9 MiB (peak memory): the least is a with 10 MiB."
    )
    assert pick(NETWORKS[:1], 9, MEMORY).reason.startswith(
        "the only model does not stay within 9 MiB"
    )
    large = [replace(one, cost=12345.6) for one in NETWORKS[:1]]
    assert "12346 MiB" in pick(large, 16000, MEMORY).reason
    assert pick([], 9, MEMORY) == Pick(None, "peak memory was not measured here.")


def test_the_pick_names_a_cheaper_model_that_is_not_told_apart():
    found = pick(
        NETWORKS, 50, LATENCY, undecided=[frozenset("bd"), frozenset("cd"), frozenset("ab")]
    )
    assert found.point == NETWORKS[3]
    assert found.reason.endswith("; no difference to b is shown, which costs 20 ms.")


def test_of_equal_models_the_cheaper_is_picked():
    assert pick([Point("a", 3, 0.5), Point("b", 2, 0.5)], 9, LATENCY).point.name == "b"


def test_the_drawing_names_every_model_and_marks_the_front_and_the_pick():
    root = ElementTree.fromstring(front_svg(NETWORKS, LATENCY, picked="b", budget=25))
    titles = [node.text for node in root.iter(f"{SVG}title")]
    assert titles == [
        "mIoU by latency p50: 3 models of 4 on the front",
        "a: mIoU 60.00 %, 10 ms, on the front",
        "b: mIoU 70.00 %, 20 ms, on the front",
        "c: mIoU 65.00 %, 25 ms",
        "d: mIoU 72.00 %, 40 ms, on the front",
    ]
    assert {"mIoU, %", "60", "70"} <= {node.text for node in root.iter(f"{SVG}text")}
    rings = [node for node in root.iter(f"{SVG}circle") if node.get("class") == "pick"]
    marks = {g.find(f"{SVG}title").text[0]: g.find(f"{SVG}circle") for g in root.iter(f"{SVG}g")}
    assert [(ring.get("cx"), ring.get("cy")) for ring in rings] == [
        (marks["b"].get("cx"), marks["b"].get("cy"))
    ]
    assert float(marks["d"].get("cx")) > float(marks["a"].get("cx"))  # dearer is further right
    assert float(marks["d"].get("cy")) < float(marks["a"].get("cy"))  # better is higher


@pytest.mark.parametrize("miou", [0.0, 0.8128, 1.0])
def test_one_model_is_drawn_between_0_and_100_with_a_budget_that_is_near(miou):
    drawing = front_svg([Point("a", 13.6, miou)], LATENCY, picked="a", budget=15.76)
    texts = [node.text for node in ElementTree.fromstring(drawing).iter(f"{SVG}text")]
    numbers = [float(text) for text in texts if re.fullmatch(r"[\d.]+", text)]
    assert 0 <= min(numbers) <= max(numbers) <= 100
    assert {"10", "15", "20"} <= set(texts)
    assert 'class="budget"' in drawing
    assert 'class="budget"' not in front_svg([Point("a", 13.6, miou)], LATENCY, budget=100)


def test_every_colour_is_a_variable_of_the_page_with_a_value_of_its_own():
    drawing = front_svg(NETWORKS, LATENCY, picked="b", budget=25)
    colours = re.findall(r"(?:fill|stroke):([^;}]+)", drawing)
    assert len(colours) > 8
    assert all(c == "none" or re.fullmatch(r"var\(--\w+,#\w+\)", c) for c in colours)
    assert not re.search(r"(fill|stroke)=", drawing)


@pytest.mark.parametrize("width", [360, 720])
def test_the_drawing_is_as_wide_as_it_is_asked_to_be(width):
    root = ElementTree.fromstring(front_svg(NETWORKS, LATENCY, budget=25, width=width))
    across = [
        float(node.get("cx") or node.get("x"))
        for node in root.iter()
        if node.get("cx") or node.get("x")
    ]
    assert root.get("viewBox").split()[2] == str(width)
    assert width / 2 < max(across) < width


@pytest.mark.seconds
@given(points)
def test_any_models_can_be_drawn(models):
    ElementTree.fromstring(front_svg(models, MEMORY, picked=models[0].name, budget=models[-1].cost))


@pytest.mark.parametrize("apart", [0, 3, 40])
def test_labels_of_twenty_models_cover_neither_each_other_nor_a_mark(apart):
    marks = [(300 + apart * (i % 5), 200 + apart * (i // 5) / 2) for i in range(20)]
    boxes = place_labels(["efficientvit-seg-b0"] * 20, marks)
    for a, b in combinations(boxes, 2):
        assert a[2] <= b[0] or b[2] <= a[0] or a[3] <= b[1] or b[3] <= a[1]
    for left, top, right, bottom in boxes:
        assert left >= LEFT
        assert right <= WIDTH
        assert 0 <= top < bottom <= HEIGHT
        assert not any(left < x < right and top < y < bottom for x, y in marks)


def test_no_model_gives_no_drawing():
    assert front_svg([], LATENCY) == ""
