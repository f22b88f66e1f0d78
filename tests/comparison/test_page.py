"""The page and its drawings, of a benchmark whose workers made up their times."""

import re
from dataclasses import replace
from itertools import pairwise
from xml.etree import ElementTree

import pytest
from support.processes.fake_benchmark_worker import STAGES

from featherseg.comparison.benchmark_charts import (
    STAGE_CLASSES,
    latency_svg,
    roofline_svg,
    stages_svg,
)
from featherseg.comparison.benchmark_page import benchmark_html
from featherseg.evaluation.bootstrap import Interval

NaN = float("nan")


def texts(svg: str) -> list[str]:
    return [e.text or "" for e in ElementTree.fromstring(svg).iter() if e.tag.endswith("text")]


def test_the_page_is_one_file_that_loads_nothing(outcome):
    page = benchmark_html(outcome)
    assert page.startswith("<!doctype html>")
    assert "default-src 'none'" in page
    assert not re.search(r"(src|href)=\"(?!data:)", page)
    assert "<script" not in page


def test_every_speed_has_its_fidelity_in_its_row(outcome):
    page = benchmark_html(outcome)
    (row,) = re.findall(r'<tr><th scope="row">ours-bf16</th>(?:(?!</tr>).)*of range.*?</tr>', page)
    assert "5.00x<small>5.00" in row
    assert "5.0e-01<small>5.6e-02 of range</small>" in row
    assert "99.00 %" in row


def test_what_was_left_out_and_an_untrained_model_are_said_and_escaped(outcome):
    page = benchmark_html(replace(outcome, left_out=(("a<b>.onnx", "lacks <it>"),)))
    assert "a&lt;b&gt;.onnx" in page
    assert "lacks &lt;it&gt;" in page
    assert "frm-lite0 is untrained: latency only" in page
    assert "2 starts of each process: 5 or more are usual" in page


def test_a_crowded_machine_is_flagged_and_a_quiet_one_is_not(outcome):
    assert not any("Other programs were running" in text for text in outcome.cautions)
    row = outcome.tables[0].rows[0]
    slow = {stage: 2 * ms for stage, ms in row.samples.wall.items()}
    table = replace(
        outcome.tables[0], rows=(replace(row, samples=replace(row.samples, wall=slow)),)
    )
    assert any(
        "up to 2.0 times as long" in text for text in replace(outcome, tables=(table,)).cautions
    )


def test_miou_stands_beside_the_speed_where_there_is_one(outcome):
    rows = tuple(
        replace(
            r,
            fidelity=replace(
                r.fidelity, miou=0.7132, miou_difference=Interval(-0.0041, -0.008, -0.0002)
            ),
        )
        for r in outcome.tables[0].rows
    )
    page = benchmark_html(replace(outcome, tables=(replace(outcome.tables[0], rows=rows),)))
    assert "71.32<small>-0.41, -0.80 to -0.02</small>" in page
    few = [
        replace(r, fidelity=replace(r.fidelity, miou_difference=Interval(-0.0041, NaN, NaN)))
        for r in rows
    ]
    page = benchmark_html(replace(outcome, tables=(replace(outcome.tables[0], rows=tuple(few)),)))
    assert "71.32<small>-0.41, no interval</small>" in page
    assert "mIoU" not in benchmark_html(outcome)


def test_bars_are_as_long_as_speeds_and_grey_where_no_difference_is_shown(outcome):
    svg = latency_svg(outcome.tables[0], "eager")
    bars = [e for e in ElementTree.fromstring(svg).iter() if "bar-of" in e.get("class", "")]
    lengths = [float(e.get("width", 0)) / float(bars[0].get("width", 1)) for e in bars]
    assert lengths == pytest.approx([1, 1.25, 2, 4, 5], rel=0.01)
    assert [e.get("class", "").split()[1] for e in bars] == ["even", *["faster"] * 4]
    assert "1 (baseline)" in texts(svg)


def test_stages_add_up_to_the_whole_way(outcome):
    svg = stages_svg(outcome.tables[0])
    bars = [e for e in ElementTree.fromstring(svg).iter() if e.tag.endswith("rect")]
    assert len(bars) == len(STAGES) * len(outcome.tables[0].rows)
    assert set(STAGE_CLASSES) == set(STAGES)
    first = bars[: len(STAGES)]
    for left, right in pairwise(first):
        assert float(left.get("x", 0)) + float(left.get("width", 0)) == pytest.approx(
            float(right.get("x", 0)), abs=0.2
        )


def test_the_roofline_holds_every_variant_below_its_roof(outcome):
    svg = roofline_svg(outcome.tables[0].rows, outcome.limits[0])
    root = ElementTree.fromstring(svg)
    dots = [e for e in root.iter() if e.tag.endswith("circle")]
    assert [e.get("class") for e in dots] == ["fp32"] * 4 + ["bf16"]
    roofs = {e.get("class"): e.get("d", "") for e in root.iter() if "roof" in e.get("class", "")}
    assert set(roofs) == {"roof slope", "roof fp32", "roof bf16"}
    level = {
        name.split()[1]: float(d.split()[-1]) for name, d in roofs.items() if "slope" not in name
    }
    assert all(float(dot.get("cy", 0)) > level[dot.get("class", "")] for dot in dots)
    assert any("fp32: 100 GFLOP/s" in text for text in texts(svg))


def test_without_known_limits_there_is_no_roofline(outcome):
    limits = replace(outcome.limits[0], kernels={})
    assert roofline_svg(outcome.tables[0].rows, limits) == ""
    assert "add <code>--calibrate</code>" in benchmark_html(replace(outcome, limits=()))
