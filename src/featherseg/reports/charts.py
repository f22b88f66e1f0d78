"""Line charts as SVG text: loss and mIoU by step. Colours are CSS variables, so that a page may set light and dark."""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from html import escape
from itertools import pairwise
from typing import Any

from featherseg.reports.labels import anchor, leader, place_labels

Point = tuple[float, float]
"""(step, value)"""

WIDTH, HEIGHT = 440, 250  # of one chart, in SVG units
LEFT, RIGHT, TOP, BOTTOM = 48, 16, 36, 34  # margins around the plot
MAX_POINTS = 400  # a longer line is averaged down to this many points

STYLE = """
.chart{font:12px system-ui,-apple-system,"Segoe UI",sans-serif;fill:var(--muted,#767676)}
.chart .name{font-size:13px;font-weight:600;fill:var(--ink,#767676)}
.chart .grid{stroke:var(--rule,#9995);stroke-width:1}
.chart .line{fill:none;stroke-width:2;stroke-linejoin:round;stroke-linecap:round}
.chart .knots{stroke-width:7} .chart .leader{stroke:var(--muted,#767676);stroke-width:.75}
.chart .tag{paint-order:stroke;stroke:var(--paper,#fff);stroke-width:3}
.chart .faint{fill:none;stroke-width:1;opacity:.35}
.chart .loss{stroke:var(--loss,#b06a2c)} .chart .miou{stroke:var(--accent,#1f7a6d)}
.chart .dot{fill:var(--accent,#1f7a6d)} .chart .value{fill:var(--ink,#767676);font-weight:600}
"""


@dataclass(frozen=True)
class Line:
    """One line of a chart; `style` names its CSS classes. One with a name bears it, and a dot at each point."""

    points: Sequence[Point]
    style: str
    name: str = ""


def curve_svg(metrics: Mapping[int, Mapping[str, Any]]) -> str:
    """A stand-alone SVG file of loss and validation mIoU; `metrics` maps a step to its record (`Run.metrics`)."""
    charts = [loss_chart(metrics), miou_chart(metrics)]
    placed = [
        f'<g transform="translate({i * WIDTH} 0)">{chart}</g>'
        for i, chart in enumerate(charts)
        if chart
    ]
    return (
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {2 * WIDTH} {HEIGHT}" width="{2 * WIDTH}" '
        f'height="{HEIGHT}"><title>Loss and validation mIoU by step</title><style>{STYLE}</style>'
        f"{''.join(placed)}</svg>\n"
    )


def loss_chart(metrics: Mapping[int, Mapping[str, Any]]) -> str:
    """The training loss by step, as drawn and smoothed; empty where no step was logged."""
    points = finite_points(metrics, "loss")
    if not points:
        return ""
    thin = thinned(points)
    title = f"Training loss: {points[0][1]:.3g} at step {points[0][0]:g}, {points[-1][1]:.3g} at step {points[-1][0]:g}"
    return chart(
        "Training loss", title, [Line(thin, "faint loss"), Line(smoothed(thin), "line loss")]
    )


def miou_chart(metrics: Mapping[int, Mapping[str, Any]]) -> str:
    """The validation mIoU by step, its best value marked; empty where nothing was validated."""
    points = [(step, 100 * miou) for step, miou in finite_points(metrics, "val_miou")]
    if not points:
        return ""
    best = max(points, key=lambda point: point[1])
    title = f"Validation mIoU: best {best[1]:.2f} % at step {best[0]:g}, last {points[-1][1]:.2f} %"
    return chart("Validation mIoU, %", title, [Line(points, "line miou")], mark=best)


def finite_points(metrics: Mapping[int, Mapping[str, Any]], key: str) -> list[Point]:
    """(step, value) of every record that has a finite number under `key`, in the order of the steps."""
    found = ((step, metrics[step].get(key)) for step in sorted(metrics))
    return [
        (float(step), float(v))
        for step, v in found
        if isinstance(v, int | float) and math.isfinite(v)
    ]


def thinned(points: Sequence[Point]) -> list[Point]:
    """At most MAX_POINTS points: neighbours are averaged in groups of one size."""
    group = math.ceil(len(points) / MAX_POINTS)
    chunks = [points[i : i + group] for i in range(0, len(points), group)]
    return [
        (sum(x for x, _ in chunk) / len(chunk), sum(y for _, y in chunk) / len(chunk))
        for chunk in chunks
    ]


def smoothed(points: Sequence[Point]) -> list[Point]:
    """The mean of each point and up to 8 neighbours on either side, fewer towards the ends."""
    result = []
    for i, (x, _) in enumerate(points):
        side = min(8, i, len(points) - 1 - i)
        near = points[i - side : i + side + 1]
        result.append((x, sum(y for _, y in near) / len(near)))
    return result


def short(name: str, longest: int) -> str:
    """A name as a label, cut after so many letters."""
    return name if len(name) <= longest else f"{name[: longest - 1]}…"


def ticks(low: float, high: float) -> list[float]:
    """Round numbers (1, 2, 5 times a power of ten apart) that span `low` .. `high`, at most 7 of them."""
    largest = max(abs(low), abs(high))
    if high - low <= max(1e-9 * largest, 1e-300):  # one value: room above and below it
        room = largest / 2 if largest > 1e-300 else 0.5
        low, high = low - room, high + room
    rough = (high - low) / 5
    power = 10.0 ** math.floor(math.log10(rough))
    step = next(power * factor for factor in (1, 2, 5, 10) if power * factor >= rough * 0.999)
    first, last = math.floor(low / step + 1e-9), math.ceil(high / step - 1e-9)
    return [step * i for i in range(first, last + 1)]


@dataclass(frozen=True)
class Plot:
    """From values to SVG units: xs and ys are (least, most), box is left, top, right, bottom; log: of both axes."""

    xs: tuple[float, float]
    ys: tuple[float, float]
    box: tuple[float, float, float, float]
    log: bool = False

    def at(self, x: float, y: float) -> Point:
        """Where a value lies; on logarithmic axes those below the least lie on the edge."""
        left, top, right, bottom = self.box
        return left + (right - left) * self._share(x, self.xs), bottom - (
            bottom - top
        ) * self._share(y, self.ys)

    def axes(self, xs: Sequence[float], ys: Sequence[float]) -> list[str]:
        """Grid lines at ys, and the values of both axes."""
        left, _, right, bottom = self.box
        parts = []
        for y in ys:
            level = self.at(self.xs[0], y)[1]
            parts.append(f'<path class="grid" d="M{left} {level:.1f}H{right}"/>')
            parts.append(f'<text x="{left - 8}" y="{level + 4:.1f}" text-anchor="end">{y:g}</text>')
        for x in xs:
            across = self.at(x, self.ys[0])[0]
            parts.append(
                f'<text x="{across:.1f}" y="{bottom + 18}" text-anchor="middle">{x:g}</text>'
            )
        return parts

    def _share(self, value: float, between: tuple[float, float]) -> float:
        least, most = between
        if self.log:
            return math.log(max(value, least) / least) / math.log(most / least)
        return (value - least) / (most - least)


def chart(
    name: str,
    title: str,
    lines: Sequence[Line],
    mark: Point | None = None,
    size: tuple[int, int] = (WIDTH, HEIGHT),
) -> str:
    """Lines over a common axis from 0 on, as an SVG for a page; title is told to those who do not see it.

    size: (width, height) in units of which a letter is 12 high.
    """
    width, height = size
    every = [point for line in lines for point in line.points]
    xs, ys = (
        ticks(0, max(x for x, _ in every)),
        ticks(min(y for _, y in every), max(y for _, y in every)),
    )
    right = max(x for x, _ in every) or 1.0
    plot = Plot((0, right), (ys[0], ys[-1]), room := (LEFT, TOP, width - RIGHT, height - BOTTOM))
    at = plot.at
    parts = [f'<text class="name" x="{LEFT}" y="18">{escape(name)}</text>']
    parts += plot.axes([x for x in xs if x <= right], ys)
    for line in lines:
        spots = [f"{px:.1f} {py:.1f}" for px, py in (at(x, y) for x, y in line.points)]
        drawn = (
            f'<path class="{line.style}" d="M{"L".join(spots)}{"h.1" if len(spots) == 1 else ""}"/>'
        )
        if line.name:
            told = f"{line.name}: {', '.join(f'{y:.1f}' for _, y in line.points)}"
            dots = (
                f'<path class="{line.style} knots" d="{"".join(f"M{spot}h.1" for spot in spots)}"/>'
            )
            drawn = f"<g><title>{escape(told)}</title>{drawn}{dots}</g>"
        parts.append(drawn)
    named = [(line.name, [at(*point) for point in line.points]) for line in lines if line.name]
    ends, others = (
        [spots[-1] for _, spots in named],
        [spot for _, spots in named for spot in spots[:-1]],
    )
    pieces = [piece for _, spots in named for piece in pairwise(spots)]
    boxes = place_labels([own for own, _ in named], ends + others, pieces, room)
    for (own, _), (x, y), box in zip(named, ends, boxes, strict=True):
        parts.append(
            f'{leader(x, y, box)}<text class="tag" {anchor(x, box)} y="{box[3] - 4:.1f}">{escape(own)}</text>'
        )
    if mark is not None:
        px, py = at(*mark)
        parts.append(f'<circle class="dot" cx="{px:.1f}" cy="{py:.1f}" r="4"/>')
        held = "end" if px > width / 2 else "start"
        parts.append(
            f'<text class="value" x="{px:.1f}" y="{py - 9:.1f}" text-anchor="{held}">{mark[1]:.2f}</text>'
        )
    return (
        f'<svg class="chart" role="img" viewBox="0 0 {width} {height}" width="{width}" height="{height}">'
        f"<title>{escape(title)}</title>{''.join(parts)}</svg>"
    )
