"""The charts of a benchmark as SVG text: speedup with intervals, latency by stage, the roofline.

Colours are CSS classes, because the page has a light and a dark style. Names of users are escaped.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from html import escape
from typing import TYPE_CHECKING

import numpy as np

from featherseg.comparison.statistics import NO_DIFFERENCE
from featherseg.costs.latency import summarise
from featherseg.reports.charts import Plot, short, ticks
from featherseg.reports.labels import BOTTOM, HEIGHT, LEFT, RIGHT, TOP, WIDTH, place_labels

if TYPE_CHECKING:
    from featherseg.comparison.benchmark_results import Row, Table
    from featherseg.comparison.roofline import Limits

LABELS, FIGURES = 190, 150
"""Width of the names left of the bars and of the figures right of them, in SVG units."""

LINE = 30
"""Height of a row, in SVG units."""

SEEN = 0.003
"""Share of the longest stage from which a stage is visible, and so in the legend."""

LONGEST = 26
"""Number of letters of a name that are shown; the title of the mark has the full name."""

STAGE_CLASSES = {
    "decode": "decode",
    "to device": "device",
    "preprocess": "preprocess",
    "forward": "forward",
    "upsample + argmax": "masks",
    "encode": "encode",
}
"""Stage -> its CSS class."""

CHART_STYLE = """
:root { --decode: #7d97a8; --device: #c4a93c; --preprocess: #b06a2c; --masks: #7a5ea8;
  --encode: #a9aeab; }
@media (prefers-color-scheme: dark) {
  :root { --decode: #8fb0c4; --device: #d8c15e; --preprocess: #e0a063; --masks: #a990d6;
  --encode: #737b78; }
}
.chart .decode{fill:var(--decode)} .chart .device{fill:var(--device)}
.chart .preprocess{fill:var(--preprocess)}
.chart .forward{fill:var(--accent)} .chart .masks{fill:var(--masks)}
.chart .encode{fill:var(--encode)}
.chart .faster{fill:var(--accent)} .chart .slower{fill:var(--loss)} .chart .even{fill:var(--muted)}
.chart .bar-of{opacity:.82} .chart .row{fill:var(--ink)}
.chart .figure-of{fill:var(--ink);font-weight:600}
.chart .whisker{stroke:var(--ink);stroke-width:1.5;fill:none}
.chart .one{stroke:var(--ink);stroke-dasharray:3 3}
.chart .roof{fill:none;stroke-width:1.6} .chart .slope{stroke:var(--muted)}
.chart .leader{stroke:var(--muted);stroke-width:.75}
.chart .fp32{stroke:var(--accent)} .chart .bf16{stroke:var(--loss)}
.chart .int8{stroke:var(--masks)}
.chart circle.fp32{fill:var(--accent)} .chart circle.bf16{fill:var(--loss)}
.chart circle.int8{fill:var(--masks)}
.chart text.fp32{fill:var(--accent);stroke:none} .chart text.bf16{fill:var(--loss);stroke:none}
.chart text.int8{fill:var(--masks);stroke:none}
.keys i { background: var(--color); }
"""


def latency_svg(table: Table, baseline: str) -> str:
    """Draw the speedup of each row over a baseline, with its interval; undecided ones are grey."""
    speedups = [(row, row.by_wall[baseline]) for row in table.rows]
    most = max(max(min(s.high, 1.5 * s.value), s.value) for _, s in speedups)
    marks = ticks(0, max(most, 1.0))
    scale = _Scale(marks[-1])
    parts = [*_grid(marks, scale, len(speedups), "x"), _upright(scale.at(1), len(speedups), "one")]
    for i, (row, s) in enumerate(speedups):
        kind = "even" if s.verdict == NO_DIFFERENCE else s.verdict
        figure = NO_DIFFERENCE if kind == "even" else str(s)
        figure = "1 (baseline)" if s.itself else figure
        y, right = TOP + i * LINE, scale.at(s.value)
        low, high = scale.at(s.low), scale.at(s.high)
        parts.append(
            f"<g><title>{escape(f'{row.variant.name}: {s}')}</title>{_name(row, y)}"
            f'<rect class="bar-of {kind}" x="{LABELS}" y="{y + 6}" '
            f'width="{right - LABELS:.1f}" height="{LINE - 12}"/>'
            + ("" if s.itself else _whisker(low, high, y + LINE / 2))
            + _figure(figure, y)
            + "</g>"
        )
    title = f"Times as fast as {baseline}, {table.setting}"
    return _svg(title, f"Times as fast as {baseline}", parts, TOP + len(speedups) * LINE + 30)


def stages_svg(table: Table) -> str:
    """Draw the median of each stage from image file to mask file, in milliseconds."""
    medians = [
        (row, {s: summarise(ms).p50 for s, ms in row.samples.wall.items()}) for row in table.rows
    ]
    marks = ticks(0, max(sum(stages.values()) for _, stages in medians))
    scale = _Scale(marks[-1])
    parts = _grid(marks, scale, len(medians), "")
    for i, (row, stages) in enumerate(medians):
        y, left = TOP + i * LINE, float(LABELS)
        parts.append(_name(row, y))
        for stage, ms in stages.items():
            width, title = scale.at(ms) - LABELS, f"{row.variant.name}, {stage}: {ms:.2f} ms"
            parts.append(
                f'<rect class="{STAGE_CLASSES[stage]}" x="{left:.1f}" y="{y + 6}" '
                f'width="{width:.1f}" height="{LINE - 12}"><title>{escape(title)}</title></rect>'
            )
            left += width
        parts.append(_figure(f"{summarise(row.samples.end_to_end_ms).p50:.1f} ms", y))
    title = f"From an image file to a mask file, median ms of each stage, {table.setting}"
    return _svg(title, "Median of each stage, ms", parts, TOP + len(medians) * LINE + 30)


def stage_keys(table: Table) -> str:
    """Return the legend of `stages_svg` as HTML, without stages that are not visible."""
    longest = {
        s: max(np.median(row.samples.wall[s]) for row in table.rows)
        for s in table.rows[0].samples.wall
    }
    shown = [s for s, ms in longest.items() if ms >= SEEN * max(longest.values())]
    colors = {s: "accent" if s == "forward" else STAGE_CLASSES[s] for s in shown}
    items = "".join(
        f'<li><span class="swatch" style="--color:var(--{colors[s]})"></span>{s}</li>'
        for s in shown
    )
    return f'<ul class="legend">{items}</ul>'


def roofline_svg(rows: Sequence[Row], limits: Limits) -> str:
    """Draw the machine's roofs and each row: operations per second over operations per byte."""
    # The plot has room for all rows and for the ridge of every roof
    known = [(row, row.work) for row in rows if row.work and limits.peak(row.precision)]
    roofs = {p: peak for p in ("fp32", "bf16", "int8") if (peak := limits.peak(p))}
    if not known:
        return ""
    across = [work.intensity(row.precision) for row, work in known]
    reached = [
        2 * work.macs / summarise(row.samples.forward_ms).p50 / 1e6 for row, work in known
    ]  # GFLOP/s
    ridges = [peak / limits.bandwidth for peak in roofs.values()]
    xs = min([*across, *ridges]) / 2, max([*across, *ridges]) * 4
    ys = min(reached) / 2, max(roofs.values()) * 1.6
    plot = Plot(xs, ys, (LEFT, TOP, WIDTH - RIGHT, HEIGHT - BOTTOM), log=True)
    parts, lines = plot.axes(_powers(xs), _powers(ys)), []

    # The roofs: memory is the slope, each precision a level line
    start = max(plot.xs[0], plot.ys[0] / limits.bandwidth)
    slope = plot.at(start, start * limits.bandwidth), plot.at(max(ridges), max(roofs.values()))
    parts.append(_roof("slope", slope))
    for name, peak in roofs.items():
        points = plot.at(peak / limits.bandwidth, peak), plot.at(plot.xs[1], peak)
        parts.append(_roof(name, points))
        x, y = points[1]
        label = f"{name}: {peak:,.0f} {'Gop/s' if name == 'int8' else 'GFLOP/s'}"
        parts.append(
            f'<text class="{name}" x="{x - 4:.1f}" y="{y - 6:.1f}" text-anchor="end">{label}</text>'
        )
        lines.append(points)

    # The rows, with labels that cover neither each other nor a roof
    marks = [plot.at(x, y) for x, y in zip(across, reached, strict=True)]
    names = [f"{short(row.variant.name, LONGEST)} {share(row)}" for row, _ in known]
    for (row, _), (x, y), name, box in zip(
        known, marks, names, place_labels(names, marks, lines), strict=True
    ):
        near = min(max(x, box[0]), box[2])
        parts.append(
            f"<g><title>{escape(row.variant.name)}</title>"
            f'<path class="leader" d="M{x:.1f} {y:.1f}L{near:.1f} {(box[1] + box[3]) / 2:.1f}"/>'
            f'<circle class="{row.precision}" cx="{x:.1f}" cy="{y:.1f}" r="4.5"/>'
            f'<text class="row" x="{(box[0] + box[2]) / 2:.1f}" y="{box[3] - 4:.1f}" '
            f'text-anchor="middle">{escape(name)}</text></g>'
        )
    caption = f"operations per byte moved; the slope is memory, {limits.bandwidth:.0f} GB/s"
    parts.append(f'<text x="{WIDTH - RIGHT}" y="{HEIGHT - 8}" text-anchor="end">{caption}</text>')
    return _svg(
        "Roofline: what the machine allows, and what each variant reaches", "GFLOP/s", parts, HEIGHT
    )


def share(row: Row) -> str:
    """Return `68 %`, the share of the possible speed that a row reaches; empty if unknown."""
    if row.limit_ms is None:
        return ""
    return f"{100 * row.limit_ms / summarise(row.samples.forward_ms).p50:.0f} %"


class _Scale:
    """Maps values from 0 to `most` to x, between the names and the figures."""

    def __init__(self, most: float) -> None:
        self.most = most

    def at(self, value: float) -> float:
        return LABELS + (WIDTH - LABELS - FIGURES) * value / self.most


def _powers(between: tuple[float, float]) -> list[float]:
    """Return powers of ten within a range; also twice and five times these if there are few."""
    low, high = (math.floor(math.log10(v)) for v in between)
    factors = (1, 2, 5) if high - low < 3 else (1,)
    values = [factor * 10.0**power for power in range(low, high + 1) for factor in factors]
    return [value for value in values if between[0] <= value <= between[1]]


def _grid(marks: Sequence[float], scale: _Scale, rows: int, unit: str) -> list[str]:
    """Return grid lines with their values below the rows."""
    parts = []
    for value in marks:
        x = scale.at(value)
        parts.append(_upright(x, rows, "grid"))
        parts.append(
            f'<text x="{x:.1f}" y="{TOP + rows * LINE + 20}" text-anchor="middle">'
            f"{value:g}{unit}</text>"
        )
    return parts


def _upright(x: float, rows: int, style: str) -> str:
    return f'<path class="{style}" d="M{x:.1f} {TOP}v{rows * LINE}"/>'


def _whisker(low: float, high: float, y: float) -> str:
    """Return a line from low to high; an end beyond the plot is cut and has no cap."""
    edge = WIDTH - FIGURES
    cap = f"M{high:.1f} {y - 4}v8" if high <= edge else ""
    return (
        f'<path class="whisker" d="M{low:.1f} {y}H{min(high, edge):.1f}M{low:.1f} {y - 4}v8{cap}"/>'
    )


def _name(row: Row, y: float) -> str:
    name = escape(short(row.variant.name, LONGEST))
    return f'<text class="row" x="{LABELS - 10}" y="{y + 19}" text-anchor="end">{name}</text>'


def _figure(text: str, y: float) -> str:
    return f'<text class="figure-of" x="{WIDTH - FIGURES + 12}" y="{y + 19}">{text}</text>'


def _roof(style: str, points: Sequence[tuple[float, float]]) -> str:
    line = "L".join(f"{x:.1f} {y:.1f}" for x, y in points)
    return f'<path class="roof {style}" d="M{line}"/>'


def _svg(title: str, name: str, parts: Sequence[str], height: float) -> str:
    return (
        '<svg xmlns="http://www.w3.org/2000/svg" class="chart" role="img" '
        f'viewBox="0 0 {WIDTH} {height:.0f}" width="{WIDTH}" height="{height:.0f}">'
        f"<title>{escape(title)}</title>"
        f'<text class="name" x="0" y="20">{escape(name)}</text>{"".join(parts)}</svg>'
    )
