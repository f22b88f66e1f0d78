"""Draw line charts as SVG text: loss and mIoU by step.

Colours are CSS variables, so that a page can set light and dark.
"""

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
    """One line of a chart; `style` names its CSS classes.

    A line with a name is labelled with it, and has a dot at each point.
    """

    points: Sequence[Point]
    style: str
    name: str = ""


def curve_svg(metrics: Mapping[int, Mapping[str, Any]]) -> str:
    """Return an SVG file of loss and validation mIoU.

    metrics: step -> its record, as `Run.metrics` returns them.
    """
    charts = [
        f'<g transform="translate({i * WIDTH} 0)">{chart}</g>'
        for i, chart in enumerate((loss_chart(metrics), miou_chart(metrics)))
        if chart
    ]
    return (
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {2 * WIDTH} {HEIGHT}" '
        f'width="{2 * WIDTH}" height="{HEIGHT}"><title>Loss and validation mIoU by step</title>'
        f"<style>{STYLE}</style>{''.join(charts)}</svg>\n"
    )


def loss_chart(metrics: Mapping[int, Mapping[str, Any]]) -> str:
    """Return the training loss by step, raw and smoothed; "" if no step was logged."""
    points = finite_points(metrics, "loss")
    if not points:
        return ""
    thin = thinned(points)
    first, last = (f"{loss:.3g} at step {step:g}" for step, loss in (points[0], points[-1]))
    lines = [Line(thin, "faint loss"), Line(smoothed(thin), "line loss")]
    return chart("Training loss", f"Training loss: {first}, {last}", lines)


def miou_chart(metrics: Mapping[int, Mapping[str, Any]]) -> str:
    """Return the validation mIoU by step with its best value marked; "" without validation."""
    points = [(step, 100 * miou) for step, miou in finite_points(metrics, "val_miou")]
    if not points:
        return ""
    best = max(points, key=lambda point: point[1])
    title = f"Validation mIoU: best {best[1]:.2f} % at step {best[0]:g}, last {points[-1][1]:.2f} %"
    return chart("Validation mIoU, %", title, [Line(points, "line miou")], mark=best)


def finite_points(metrics: Mapping[int, Mapping[str, Any]], key: str) -> list[Point]:
    """Return (step, value) of every record with a finite number under `key`, sorted by step."""
    values = ((step, metrics[step].get(key)) for step in sorted(metrics))
    return [
        (float(step), float(v))
        for step, v in values
        if isinstance(v, int | float) and math.isfinite(v)
    ]


def thinned(points: Sequence[Point]) -> list[Point]:
    """Return at most MAX_POINTS points, each the mean of a group of neighbours."""
    group = math.ceil(len(points) / MAX_POINTS)
    chunks = [points[i : i + group] for i in range(0, len(points), group)]
    return [
        (sum(x for x, _ in chunk) / len(chunk), sum(y for _, y in chunk) / len(chunk))
        for chunk in chunks
    ]


def smoothed(points: Sequence[Point]) -> list[Point]:
    """Return the mean of each point and up to 8 neighbours on either side, fewer at the ends."""
    result = []
    for i, (x, _) in enumerate(points):
        side = min(8, i, len(points) - 1 - i)
        near = points[i - side : i + side + 1]
        result.append((x, sum(y for _, y in near) / len(near)))
    return result


def short(name: str, longest: int) -> str:
    """Return a name cut to at most `longest` characters."""
    return name if len(name) <= longest else f"{name[: longest - 1]}…"


def ticks(low: float, high: float) -> list[float]:
    """Return at most 7 round numbers that span `low` .. `high`.

    Their distance is 1, 2 or 5 times a power of ten.
    """
    largest = max(abs(low), abs(high))
    if high - low <= max(1e-9 * largest, 1e-300):  # a single value gets room above and below
        room = largest / 2 if largest > 1e-300 else 0.5
        low, high = low - room, high + room
    rough = (high - low) / 5
    power = 10.0 ** math.floor(math.log10(rough))
    step = next(power * factor for factor in (1, 2, 5, 10) if power * factor >= rough * 0.999)
    first, last = math.floor(low / step + 1e-9), math.ceil(high / step - 1e-9)
    return [step * i for i in range(first, last + 1)]


@dataclass(frozen=True)
class Plot:
    """Maps values to SVG units.

    xs, ys: (least, most) value of each axis. box: left, top, right, bottom in SVG units. log: both
    axes are logarithmic.
    """

    xs: tuple[float, float]
    ys: tuple[float, float]
    box: tuple[float, float, float, float]
    log: bool = False

    def at(self, x: float, y: float) -> Point:
        """Return the place of a value; on logarithmic axes smaller values are at the edge."""
        left, top, right, bottom = self.box
        across, up = self._share(x, self.xs), self._share(y, self.ys)
        return left + (right - left) * across, bottom - (bottom - top) * up

    def axes(self, xs: Sequence[float], ys: Sequence[float]) -> list[str]:
        """Return grid lines at ys, and the numbers of both axes."""
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
    """Return lines over a common axis from 0 on, as an SVG for a page.

    title: read by screen readers. mark: a point to mark with its value. size: (width, height) in
    SVG units; letters are 12 high.
    """
    # Axes
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

    # Lines; one of a single point is drawn as a short stroke
    for line in lines:
        spots = [f"{px:.1f} {py:.1f}" for px, py in (at(x, y) for x, y in line.points)]
        stroke = "h.1" if len(spots) == 1 else ""
        path = f'<path class="{line.style}" d="M{"L".join(spots)}{stroke}"/>'
        if line.name:
            values = f"{line.name}: {', '.join(f'{y:.1f}' for _, y in line.points)}"
            dots = "".join(f"M{spot}h.1" for spot in spots)
            path += f'<path class="{line.style} knots" d="{dots}"/>'
            path = f"<g><title>{escape(values)}</title>{path}</g>"
        parts.append(path)

    # Names at the ends of the lines, where they cover nothing
    named = [(line.name, [at(*point) for point in line.points]) for line in lines if line.name]
    ends, others = (
        [spots[-1] for _, spots in named],
        [spot for _, spots in named for spot in spots[:-1]],
    )
    pieces = [piece for _, spots in named for piece in pairwise(spots)]
    boxes = place_labels([label for label, _ in named], ends + others, pieces, room)
    for (label, _), (x, y), box in zip(named, ends, boxes, strict=True):
        position = f'{anchor(x, box)} y="{box[3] - 4:.1f}"'
        parts.append(f'{leader(x, y, box)}<text class="tag" {position}>{escape(label)}</text>')

    # The marked point
    if mark is not None:
        px, py = at(*mark)
        parts.append(f'<circle class="dot" cx="{px:.1f}" cy="{py:.1f}" r="4"/>')
        side = "end" if px > width / 2 else "start"
        position = f'x="{px:.1f}" y="{py - 9:.1f}" text-anchor="{side}"'
        parts.append(f'<text class="value" {position}>{mark[1]:.2f}</text>')
    shape = f'viewBox="0 0 {width} {height}" width="{width}" height="{height}"'
    return (
        f'<svg class="chart" role="img" {shape}>'
        f"<title>{escape(title)}</title>{''.join(parts)}</svg>"
    )
