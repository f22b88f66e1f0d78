"""The Pareto front of models by cost and mIoU, the best model within a budget, and a chart."""

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

LONGEST = 32
"""Number of letters of a name that are shown; the title of the mark has the full name."""

ROOM = 5.0
"""Points of mIoU above and below, if all models have about the same mIoU."""

FRONT_STYLE = """
.chart .front{fill:none;stroke:var(--accent,#1f7a6d);stroke-width:1.5}
.chart .beaten{fill:var(--muted,#767676)}
.chart .pick{fill:none;stroke:var(--accent,#1f7a6d);stroke-width:2}
.chart .on{fill:var(--ink,#767676);font-weight:600}
.chart .budget{stroke:var(--loss,#b06a2c);stroke-width:1;stroke-dasharray:4 3}
"""


@dataclass(frozen=True)
class Quantity:
    """A kind of cost: its name and unit, such as "latency p50" and "ms"."""

    name: str
    unit: str


LATENCY = Quantity("latency p50", "ms")
MEMORY = Quantity("peak memory", "MiB")


@dataclass(frozen=True)
class Point:
    """One model: its cost (in the unit of a Quantity, above 0) and its mIoU, 0..1."""

    name: str
    cost: float
    miou: float


@dataclass(frozen=True)
class Pick:
    """The best model within a budget (None if none is), and the reason."""

    point: Point | None
    reason: str


def pareto_front(points: Sequence[Point]) -> list[Point]:
    """Return the points that no other point beats, cheapest first.

    A point beats another one if it is better in cost or mIoU and not worse in the other.
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
    """Return the model with the highest mIoU within `budget`; ties are broken by cost.

    undecided: pairs of names between which no difference is shown. The reason names the cheapest
    model that is not shown to differ from the pick, because a user may prefer it.
    """
    if not points:
        return Pick(None, f"{quantity.name} was not measured here.")
    fitting = [p for p in points if p.cost <= budget]
    limit = f"{budget:g} {quantity.unit} ({quantity.name})"
    if not fitting:
        least = min(points, key=lambda p: p.cost)
        none = f"none of {len(points)} models stays"
        if len(points) == 1:
            none = "the only model does not stay"
        cheapest = f"{least.name} with {_cost(least, quantity)}"
        return Pick(None, f"{none} within {limit}: the least is {cheapest}.")
    best = max(fitting, key=lambda p: (p.miou, -p.cost))
    rank = f"the only one of {len(points)} " if len(points) > 1 else ""
    if len(fitting) > 1:
        rank = f"the highest of the {len(fitting)} "
    figures = f"mIoU {100 * best.miou:.2f} % at {_cost(best, quantity)}"
    reason = f"{best.name}: {figures}, {rank}within {limit}"
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
    """Draw the models by cost and mIoU: the front as a stepped line, the pick with a ring.

    The SVG works alone and in a page: colours are CSS variables of page.css, with values for light
    and dark backgrounds if these are missing. It is empty without points.

    width: of the drawing, in units of which a letter is 12 high.
    """
    if not points:
        return ""

    # Axes with room for every model, and for the budget if it is near
    front = pareto_front(points)
    spots = [(p.cost, 100 * p.miou) for p in points]
    costs, low, high = [x for x, _ in spots], min(y for _, y in spots), max(y for _, y in spots)
    if high - low < 1:
        low, high = max(0.0, low - ROOM), min(100.0, high + ROOM)
    if budget is not None and budget <= 2 * max(costs):
        costs.append(budget)
    xs, ys = ticks(0, max(costs)), ticks(low, high)
    plot = Plot((0, xs[-1]), (ys[0], ys[-1]), (LEFT, TOP, width - RIGHT, HEIGHT - BOTTOM))

    # The front and the budget
    stairs = _stairs([plot.at(p.cost, 100 * p.miou) for p in front], width - RIGHT)
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

    # The models, with labels that cover neither each other nor a line
    marks = [plot.at(*spot) for spot in spots]
    labels = place_labels(
        [short(p.name, LONGEST) for p in points], marks, lines, (*AREA[:2], width - 2, AREA[3])
    )
    for point, (x, y), box in zip(points, marks, labels, strict=True):
        title = f"{point.name}: mIoU {100 * point.miou:.2f} %, {_cost(point, quantity)}"
        dot, text, ring = "beaten", "off", ""
        if point in front:
            title, dot, text = f"{title}, on the front", "dot", "on"
        if point.name == picked:
            ring = f'<circle class="pick" cx="{x:.1f}" cy="{y:.1f}" r="8"/>'
        parts.append(
            f"<g><title>{escape(title)}</title>{leader(x, y, box)}"
            f'<circle class="{dot}" cx="{x:.1f}" cy="{y:.1f}" r="4"/>{ring}'
            f'<text class="{text}" {anchor(x, box)} y="{box[3] - 4:.1f}">'
            f"{escape(short(point.name, LONGEST))}</text></g>"
        )
    title = f"mIoU by {quantity.name}: {counted(len(front), 'model')} of {len(points)} on the front"
    return (
        '<svg xmlns="http://www.w3.org/2000/svg" class="chart" role="img" '
        f'viewBox="0 0 {width} {HEIGHT}" width="{width}" height="{HEIGHT}">'
        f"<title>{escape(title)}</title><style>{STYLE}{FRONT_STYLE}</style>{''.join(parts)}</svg>\n"
    )


def _stairs(front: Sequence[Mark], right: float) -> list[Mark]:
    """Return the corners of the highest mIoU at each cost, up to the right end of the plot."""
    corners = list(front[:1])
    for x, y in front[1:]:
        corners += [(x, corners[-1][1]), (x, y)]
    return [*corners, (right, corners[-1][1])]


def _cost(point: Point, quantity: Quantity) -> str:
    return f"{point.cost:{'.4g' if point.cost < 1000 else '.0f'}} {quantity.unit}"
