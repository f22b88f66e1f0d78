"""A comparison as one page: rankings, fronts, differences, classes, times. Every name from outside is escaped."""

from collections.abc import Sequence
from datetime import UTC, datetime
from html import escape

import numpy as np

from featherseg.core.wording import counted
from featherseg.evaluation.bootstrap import Difference, Interval
from featherseg.evaluation.comparison import Outcome, Ranking, Standing, picks, points
from featherseg.evaluation.front import LATENCY, MEMORY, front_svg
from featherseg.evaluation.page import page_html, percent, section
from featherseg.evaluation.side_by_side import STARTS

PAGE_STYLE = """
td small { display: block; color: var(--muted); }
.wide .chart { max-width: 52rem; }
"""


def comparison_html(outcome: Outcome, max_ms: float | None = None, max_mib: float | None = None) -> str:
    """The whole page; max_ms and max_mib are the budgets that a network is picked for."""
    body = [_head(outcome)]
    for ranking in outcome.rankings:
        body += [_ranking(ranking, max_ms, max_mib), _differences(ranking), _classes(ranking, outcome.classes)]
    body += [_files(outcome), _times(outcome), _reading(outcome)]
    names = ", ".join(s.name for r in outcome.rankings for s in r.standings)
    return page_html(f"{names} · featherseg comparison", "\n".join(body), PAGE_STYLE)


def _head(outcome: Outcome) -> str:
    networks = sum(len(r.standings) for r in outcome.rankings)
    machine = f" Timed on {escape(outcome.timing.machine)}." if outcome.timing else ""
    return f"""<header>
<p class="kicker">featherseg comparison · {datetime.now(UTC).date().isoformat()}</p>
<h1>{counted(networks, "network")} on {escape(outcome.data)} {escape(outcome.split)}</h1>
<p class="lead">{counted(outcome.pictures, "picture")}, looked at {escape(outcome.mode)}, {len(outcome.classes)}
classes. Cost at {_size(outcome)} pixels (height x width).{machine}</p>
</header>"""


def _ranking(ranking: Ranking, max_ms: float | None, max_mib: float | None) -> str:
    """The table of networks that started alike, who is best, the fronts and the picks."""
    rows = "".join(map(_row, ranking.standings))
    heads = ("mIoU, %", "of its runs", "parameters, M", "GMACs", "p50, ms", "p95, ms", "memory, MiB")
    head = "".join(f'<th scope="col" class="number">{text}</th>' for text in heads)
    table = f"""<div class="scroll"><table><caption>Highest mean mIoU first.</caption>
<thead><tr><th scope="col">network</th>{head}</tr></thead><tbody>{rows}</tbody></table></div>"""
    found = dict(picks(ranking, max_ms, max_mib))
    drawn = []
    for quantity, budget in ((LATENCY, max_ms), (MEMORY, max_mib)):
        if len(measured := points(ranking, quantity)) > 1:
            chosen = found[quantity].point if quantity in found else None
            drawn.append(front_svg(measured, quantity, picked=chosen.name if chosen else "", budget=budget))
    reasons = "".join(f"<p>For a budget: {escape(chosen.reason)}</p>" for chosen in found.values())
    return section(
        escape(f"Networks trained {_from(ranking.start)}"),
        f'<p>{escape(_verdict(ranking))}</p>{table}{reasons}<div class="wide">{"".join(drawn)}</div>',
    )


def _verdict(ranking: Ranking) -> str:
    """What the figures allow to say of the ranking as a whole."""
    if ranking.silence:
        return f"{ranking.silence[0].upper()}{ranking.silence[1:]}."
    if ranking.best is None:
        return "No network is shown to be better than all others."
    return f"{ranking.best.name} is better than every other network of this list."


def _row(s: Standing) -> str:
    runs = ", ".join(percent(v) for v in s.miou)
    figures = (
        percent(float(s.miou.mean())),
        runs if len(s.miou) > 1 else "one run",
        "" if s.params is None else f"{s.params / 1e6:.2f}",
        _number(s.gmacs, 2),
        _number(s.took.p50_ms, 1),
        _number(s.took.p95_ms, 1),
        _number(s.took.process_mib, 0),
    )
    return f'<tr><th scope="row">{escape(s.name)}</th>{"".join(f"<td class=number>{f}</td>" for f in figures)}</tr>'


def _differences(ranking: Ranking) -> str:
    if not ranking.differences:
        return ""
    names = [s.name for s in ranking.standings]
    return section("Differences between these networks", _pairs(ranking.differences, names))


def _pairs(differences: Sequence[Difference], names: Sequence[str]) -> str:
    rows = "".join(
        f'<tr><th scope="row">{escape(names[d.first])} less {escape(names[d.second])}</th>'
        f'<td class="number">{_interval(d.miou)}</td><td>{escape(d.words(names))}</td></tr>'
        for d in differences
    )
    return f"""<div class="scroll"><table><caption>Points of mIoU with their 95 % interval, corrected for the number of
pairs.</caption><tbody>{rows}</tbody></table></div>"""


def _classes(ranking: Ranking, classes: Sequence[str]) -> str:
    """IoU of each class, and where it differs from the first network of the list beyond doubt."""
    told = {d.second: d.classes for d in ranking.differences if d.first == 0}
    heads = "".join(f'<th scope="col" class="number">{escape(s.name)}</th>' for s in ranking.standings)
    rows = []
    for k, name in enumerate(classes):
        cells = []
        for place, s in enumerate(ranking.standings):
            signs = {1: "below the first", -1: "above the first", 0: ""}
            note = signs[told[place][k].sign] if place in told else ""
            iou = s.iou[:, k]
            mean = float(iou[~np.isnan(iou)].mean()) if (~np.isnan(iou)).any() else None
            cells.append(f'<td class="number">{percent(mean)}{f"<small>{note}</small>" if note else ""}</td>')
        rows.append(f'<tr><th scope="row">{escape(name)}</th>{"".join(cells)}</tr>')
    told_by = "Where the interval of the difference says so, it is named." if told else ""
    return section(
        escape(f"Classes, networks trained {_from(ranking.start)}"),
        f"""<div class="scroll"><table><caption>IoU in %, mean of a network's runs. {told_by}</caption>
<thead><tr><th scope="col">class</th>{heads}</tr></thead><tbody>{"".join(rows)}</tbody></table></div>""",
    )


def _files(outcome: Outcome) -> str:
    if outcome.files is None:
        return ""
    note = "<p>These are statements about these files, not about the networks: another seed may turn them round.</p>"
    return section("These files", note + _pairs(outcome.files.differences, outcome.files.names))


def _times(outcome: Outcome) -> str:
    if outcome.timing is None or len(outcome.timing.names) < 2:
        return ""
    rows = "".join(f"<li>{escape(r.words(outcome.timing.names))}</li>" for r in outcome.timing.ratios())
    return section(
        "Time",
        f"""<p>Passes took turns, batch of one, up to the logits, each network in a process of its own; all of them were
started {STARTS} times.</p><ul>{rows}</ul>""",
    )


def _reading(outcome: Outcome) -> str:
    return section(
        "How to read this",
        f"""<p>Intervals come from drawing {escape(outcome.units)} again and again, for networks together with their
runs: neighbouring pictures are alike, so that they count for less than unrelated ones. “Better” and “faster” are only
said where the interval leaves out no difference. Networks with different starts are in separate lists, as the start
alone can decide. Parameters and GMACs (“macs”) are those of inference; memory is the peak of a process of its
own, from a picture file to a mask file.</p>""",
    )


def _from(start: str) -> str:
    """`from ImageNet weights`, `from scratch`, or that it is not recorded."""
    return start if start.startswith("from ") else f"from {start}" if start != "start not recorded" else f"({start})"


def _interval(i: Interval) -> str:
    if np.isnan(i.low):
        return f"{100 * i.value:+.2f}"
    return f"{100 * i.value:+.2f} <small>{100 * i.low:+.2f} to {100 * i.high:+.2f}</small>"


def _number(value: float | None, digits: int) -> str:
    return "" if value is None else f"{value:.{digits}f}"


def _size(outcome: Outcome) -> str:
    return f"{outcome.size[0]}x{outcome.size[1]}"
