"""Which models are worth their cost: the Pareto front, the pick for a budget, and both as a drawing."""

from collections.abc import Collection, Sequence
from dataclasses import dataclass
from html import escape
from itertools import pairwise

from featherseg.core.wording import counted
from featherseg.reports.charts import STYLE, Plot, short, ticks
from featherseg.reports.labels import (
    AREA,
    BOTTOM,
    HEIGHT,
    LEFT,
    RIGHT,
    TOP,
    WIDTH,
    Mark,
    anchor,
    leader,
    place_labels,
)

LONGEST = 32  # letters of a name that are shown; the whole name stands in the mark's title
ROOM = 5.0  # points of mIoU to either side where all models have about the same

FRONT_STYLE = """
.chart .front{fill:none;stroke:var(--accent,#1f7a6d);stroke-width:1.5}
.chart .beaten{fill:var(--muted,#767676)} .chart .pick{fill:none;stroke:var(--accent,#1f7a6d);stroke-width:2}
.chart .on{fill:var(--ink,#767676);font-weight:600}
.chart .budget{stroke:var(--loss,#b06a2c);stroke-width:1;stroke-dasharray:4 3}
"""


@dataclass(frozen=True)
class Quantity:
    """What is paid: its name and unit, as in "latency p50" and "ms"."""

    name: str
    unit: str


LATENCY = Quantity("latency p50", "ms")
MEMORY = Quantity("peak memory", "MiB")


@dataclass(frozen=True)
class Point:
    """One model: what it costs (in the unit of a Quantity, above 0) and its mIoU, 0..1."""

    name: str
    cost: float
    miou: float


@dataclass(frozen=True)
class Pick:
    """The model for a budget, None where none fits, and why."""

    point: Point | None
    reason: str


def pareto_front(points: Sequence[Point]) -> list[Point]:
    """The points that none beats, cheapest first: no other costs as little at most and scores as much at least.

    One of the two has to be truly better; points that are equal in both stay together.
    """

    def beats(a: Point, b: Point) -> bool:
        return a.cost <= b.cost and a.miou >= b.miou and (a.cost, a.miou) != (b.cost, b.miou)

    return sorted(
        (p for p in points if not any(beats(other, p) for other in points)),
        key=lambda p: (p.cost, p.miou),
    )


def pick(
    points: Sequence[Point],
    budget: float,
    quantity: Quantity,
    *,
    undecided: Collection[frozenset[str]] = (),
) -> Pick:
    """The highest mIoU that costs `budget` at most, the cheapest of equals.

    undecided holds the pairs of names between which no difference is shown: the reason names the cheapest model that
    is not shown to differ from the pick, as a user may prefer it.
    """
    if not points:
        return Pick(None, f"{quantity.name} was not measured here.")
    fitting = [p for p in points if p.cost <= budget]
    limit = f"{budget:g} {quantity.unit} ({quantity.name})"
    if not fitting:
        least = min(points, key=lambda p: p.cost)
        whole = (
            "the only model does not stay"
            if len(points) == 1
            else f"none of {len(points)} models stays"
        )
        return Pick(
            None,
            f"{whole} within {limit}: the least is {least.name} with {_cost(least, quantity)}.",
        )
    best = max(fitting, key=lambda p: (p.miou, -p.cost))
    alone = f"the only one of {len(points)} " if len(points) > 1 else ""
    within = alone if len(fitting) == 1 else f"the highest of the {len(fitting)} "
    reason = f"{best.name}: mIoU {100 * best.miou:.2f} % at {_cost(best, quantity)}, {within}within {limit}"
    rivals = [
        p for p in fitting if p.cost < best.cost and frozenset((p.name, best.name)) in undecided
    ]
    if rivals:
        rival = min(rivals, key=lambda p: p.cost)
        reason += f"; no difference to {rival.name} is shown, which costs {_cost(rival, quantity)}"
    return Pick(best, f"{reason}.")


def front_svg(
    points: Sequence[Point],
    quantity: Quantity,
    *,
    picked: str = "",
    budget: float | None = None,
    width: int = WIDTH,
) -> str:
    """The models by cost and mIoU, the front as a stepped line, the pick ringed: an SVG, alone or in a page.

    width: of the drawing, in units of which a letter is 12 high.

    Colours are CSS variables of page.css, with values that can be read on light and dark where there are none. Empty
    without points.
    """
    if not points:
        return ""
    kept = pareto_front(points)
    spots = [(p.cost, 100 * p.miou) for p in points]
    costs, low, high = [x for x, _ in spots], min(y for _, y in spots), max(y for _, y in spots)
    if high - low < 1:  # room above and below it, within 0 to 100 %
        low, high = max(0.0, low - ROOM), min(100.0, high + ROOM)
    if budget is not None and budget <= 2 * max(costs):
        costs.append(budget)
    xs, ys = ticks(0, max(costs)), ticks(low, high)
    plot = Plot((0, xs[-1]), (ys[0], ys[-1]), (LEFT, TOP, width - RIGHT, HEIGHT - BOTTOM))
    marks = [plot.at(*spot) for spot in spots]
    stairs = _stairs([plot.at(p.cost, 100 * p.miou) for p in kept], width - RIGHT)
    parts = [
        f'<text class="name" x="{LEFT}" y="20">mIoU, %</text>',
        *plot.axes(xs, ys),
        f'<text class="name" x="{width - RIGHT}" y="{HEIGHT - 10}" text-anchor="end">'
        f"{escape(f'{quantity.name}, {quantity.unit}')}</text>",
        f'<path class="front" d="M{"L".join(f"{x:.1f} {y:.1f}" for x, y in stairs)}"/>',
    ]
    lines = list(pairwise(stairs))
    if budget is not None and budget <= xs[-1]:
        x = plot.at(budget, ys[0])[0]
        parts.append(f'<path class="budget" d="M{x:.1f} {TOP}V{HEIGHT - BOTTOM}"/>')
        lines.append(((x, TOP), (x, HEIGHT - BOTTOM)))
    labels = place_labels(
        [short(p.name, LONGEST) for p in points], marks, lines, (*AREA[:2], width - 2, AREA[3])
    )
    for point, (x, y), box in zip(points, marks, labels, strict=True):
        on = point in kept
        title = f"{point.name}: mIoU {100 * point.miou:.2f} %, {_cost(point, quantity)}{', on the front' if on else ''}"
        ring = (
            f'<circle class="pick" cx="{x:.1f}" cy="{y:.1f}" r="8"/>'
            if point.name == picked
            else ""
        )
        parts.append(
            f'<g><title>{escape(title)}</title>{leader(x, y, box)}<circle class="{"dot" if on else "beaten"}" '
            f'cx="{x:.1f}" cy="{y:.1f}" r="4"/>{ring}<text class="{"on" if on else "off"}" {anchor(x, box)} '
            f'y="{box[3] - 4:.1f}">{escape(short(point.name, LONGEST))}</text></g>'
        )
    title = f"mIoU by {quantity.name}: {counted(len(kept), 'model')} of {len(points)} on the front"
    return (
        f'<svg xmlns="http://www.w3.org/2000/svg" class="chart" role="img" viewBox="0 0 {width} {HEIGHT}" '
        f'width="{width}" height="{HEIGHT}"><title>{escape(title)}</title><style>{STYLE}{FRONT_STYLE}</style>'
        f"{''.join(parts)}</svg>\n"
    )


def _stairs(front: Sequence[Mark], right: float) -> list[Mark]:
    """The corners of the highest mIoU that can be had for each cost, to the right end of the plot."""
    corners = list(front[:1])
    for x, y in front[1:]:
        corners += [(x, corners[-1][1]), (x, y)]
    return [*corners, (right, corners[-1][1])]


def _cost(point: Point, quantity: Quantity) -> str:
    return f"{point.cost:{'.4g' if point.cost < 1000 else '.0f'}} {quantity.unit}"
