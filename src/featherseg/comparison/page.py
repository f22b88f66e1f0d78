"""A comparison as one page: rankings, fronts, differences, classes, times. Every name from outside is escaped."""

from collections.abc import Sequence
from datetime import UTC, datetime
from html import escape

import numpy as np

from featherseg.benchmarking.latency import STARTS
from featherseg.comparison.comparison import Budgets, CandidateResult, Outcome, Ranking
from featherseg.comparison.pareto import front_svg
from featherseg.core.wording import counted
from featherseg.reports.page import page_html, percent, section
from featherseg.uncertainty.bootstrap import Difference, Interval

PAGE_STYLE = """
td small { display: block; color: var(--muted); }
.wide .chart { max-width: 52rem; }
.cautions { max-width: 44rem; padding-left: 1.1rem; color: var(--loss); }
h3 + p { margin-bottom: .4rem; }
summary { cursor: pointer; color: var(--muted); font-size: .92rem; max-width: 44rem; }
"""


def comparison_html(outcome: Outcome, budgets: Budgets) -> str:
    """The whole page; for `budgets` a model is picked."""
    body = [_head(outcome)]
    for ranking in outcome.rankings:
        body += [_ranking(ranking, budgets), _differences(ranking, outcome.classes)]
    body += [_files(outcome), _classes(outcome), _times(outcome), _reading(outcome)]
    names = ", ".join(s.name for r in outcome.rankings for s in r.results)
    return page_html(f"{names} · featherseg comparison", "\n".join(body), PAGE_STYLE)


def _head(outcome: Outcome) -> str:
    models = sum(len(r.results) for r in outcome.rankings)
    machine = f" Timed on {escape(outcome.timing.machine)}." if outcome.timing else ""
    notes = "".join(f"<li>{escape(caution)}.</li>" for caution in outcome.cautions)
    height, width = outcome.size
    return f"""<header>
<p class="kicker">featherseg comparison · {datetime.now(UTC).date().isoformat()}</p>
<h1>{counted(models, "model")} on {escape(outcome.data)} {escape(outcome.split)}</h1>
<p class="lead">{counted(outcome.images, "image")}, looked at {escape(outcome.inference)}, {len(outcome.classes)}
classes. Cost at {height}x{width} pixels (height x width).{machine}</p>
{f'<ul class="cautions">{notes}</ul>' if notes else ""}</header>"""


def _ranking(ranking: Ranking, budgets: Budgets) -> str:
    """The table of models that started alike, who is best, the fronts and the picks."""
    rows = "".join(map(_row, ranking.results))
    heads = ("mIoU, %", "of its runs", "parameters, M", "GMACs", "p50, ms", "p95, ms", "memory, MiB")
    head = "".join(f'<th scope="col" class="number">{text}</th>' for text in heads)
    table = f"""<div class="scroll"><table><caption>Highest mean mIoU first.</caption>
<thead><tr><th scope="col">model</th>{head}</tr></thead><tbody>{rows}</tbody></table></div>"""
    found = dict(budgets.picks(ranking))
    drawn = []
    for quantity, measured, budget in budgets.fronts(ranking):
        if len(measured) > 1:
            chosen = found[quantity].point if quantity in found else None
            drawn.append(front_svg(measured, quantity, picked=chosen.name if chosen else "", budget=budget))
    reasons = "".join(f"<p>For a budget: {escape(chosen.reason)}</p>" for chosen in found.values())
    verdict = ranking.verdict() if ranking.best else _message(ranking.verdict())
    return section(
        escape(f"Models: {ranking.title}"),
        f'<p>{escape(verdict)}.{_apart(ranking)}</p>{table}{reasons}<div class="wide">{"".join(drawn)}</div>',
    )


def _apart(ranking: Ranking) -> str:
    """What keeps the list from being a comparison of models alone."""
    words = "".join(f" Nothing is said of {name}: it has fewer than three seeds." for name in ranking.left_out)
    if ranking.unlike:
        words += f" They were not trained alike, but with other values of {', '.join(ranking.unlike)}."
    return escape(words)


def _row(s: CandidateResult) -> str:
    runs = ", ".join(percent(v) for v in s.miou)
    figures = (
        percent(float(s.miou.mean())),
        runs if len(s.miou) > 1 else "one run",
        "" if s.params is None else f"{s.params / 1e6:.2f}",
        _number(s.gmacs, 2),
        _number(s.latencies.p50_ms, 1),
        _number(s.latencies.p95_ms, 1),
        _number(s.latencies.memory_mib, 0),
    )
    return f'<tr><th scope="row">{escape(s.name)}</th>{"".join(f"<td class=number>{f}</td>" for f in figures)}</tr>'


def _differences(ranking: Ranking, classes: Sequence[str]) -> str:
    if not ranking.differences:
        return ""
    names = [s.name for s in ranking.results]
    return section("Differences between these models", _pairs(ranking.differences, names, classes))


def _pairs(differences: Sequence[Difference], names: Sequence[str], classes: Sequence[str]) -> str:
    """A block for each pair: what may be said, and a table of its classes to open."""
    return "".join(_pair(d, names[d.first], names[d.second], d.words(names), classes) for d in differences)


def _pair(d: Difference, first: str, second: str, words: str, classes: Sequence[str]) -> str:
    told = [name for name, i in zip(classes, d.classes, strict=True) if i.sign]
    summary = f"Classes told apart: {', '.join(told) if told else 'none'}"
    rows = "".join(
        f'<tr><th scope="row">{escape(name)}</th><td class="number">{_interval(i)}</td>'
        f"<td>{'' if not i.sign else escape(f'higher in {first if i.sign > 0 else second}')}</td></tr>"
        for name, i in zip(classes, d.classes, strict=True)
    )
    return f"""<h3>{escape(first)} less {escape(second)}</h3>
<p>{escape(words if d.better is not None else _message(words))}: {d.miou.points()} points of mIoU.</p>
<details><summary>{escape(summary)}</summary><div class="scroll"><table>
<caption>Points of IoU with their 95 % interval, corrected for the number of pairs and classes.</caption>
<tbody>{rows}</tbody></table></div></details>"""


def _classes(outcome: Outcome) -> str:
    """IoU of each class and model."""
    results = [s for ranking in outcome.rankings for s in ranking.results]
    heads = "".join(f'<th scope="col" class="number">{escape(s.name)}</th>' for s in results)
    rows = [
        f'<tr><th scope="row">{escape(name)}</th>'
        + "".join(f'<td class="number">{percent(float(s.class_iou[k]))}</td>' for s in results)
        + "</tr>"
        for k, name in enumerate(outcome.classes)
    ]
    return section(
        "Classes",
        f"""<div class="scroll"><table><caption>IoU in %, mean of a model's runs.</caption>
<thead><tr><th scope="col">class</th>{heads}</tr></thead><tbody>{"".join(rows)}</tbody></table></div>""",
    )


def _files(outcome: Outcome) -> str:
    if outcome.files is None:
        return ""
    note = "<p>These are statements about these files, not about the models: another seed may turn them round.</p>"
    return section("These files", note + _pairs(outcome.files.differences, outcome.files.names, outcome.classes))


def _times(outcome: Outcome) -> str:
    if outcome.timing is None or len(outcome.timing.names) < 2:
        return ""
    rows = "".join(f"<li>{escape(r.words(outcome.timing.names))}</li>" for r in outcome.timing.ratios())
    return section(
        "Time",
        f"""<p>Passes took turns, batch of one, up to the logits, each model in a process of its own; all of them were
started {STARTS} times.</p><ul>{rows}</ul>""",
    )


def _reading(outcome: Outcome) -> str:
    return section(
        "How to read this",
        f"""<p>Intervals come from drawing {escape(outcome.clusters)} again and again, for models together with their
runs: neighbouring images are alike, so that they count for less than unrelated ones. “Better” and “faster” are only
said where the interval leaves out no difference. Models with different starts are in separate lists, as the start
alone can decide. Parameters and GMACs (“macs”) are those of inference; memory is the peak of a process of its
own, from an image file to a mask file, and on a GPU what it latencies there.</p>""",
    )


def _message(words: str) -> str:
    """With a capital, where they do not begin with a name."""
    return words[0].upper() + words[1:]


def _interval(i: Interval) -> str:
    if np.isnan(i.low):
        return f"{100 * i.value:+.2f}"
    return f"{100 * i.value:+.2f} <small>{100 * i.low:+.2f} to {100 * i.high:+.2f}</small>"


def _number(value: float | None, digits: int) -> str:
    return "" if value is None else f"{value:.{digits}f}"
