"""A benchmark as one page: how fast, where the time goes, how near the machine's limit, and what all of it ran on."""

from collections.abc import Mapping
from html import escape
from typing import Any

from featherseg.benchmarking.builds import TORCH_BUILDS
from featherseg.benchmarking.charts import (
    CHART_STYLE,
    latency_svg,
    roofline_svg,
    share,
    stage_keys,
    stages_svg,
)
from featherseg.benchmarking.fidelity import Fidelity
from featherseg.benchmarking.results import USUAL_STARTS, Outcome, Row, Table
from featherseg.benchmarking.roofline import Limits
from featherseg.benchmarking.statistics import MOST_WAIT, NO_DIFFERENCE, Speedup, summarise
from featherseg.core.machine import machine_in_words
from featherseg.core.wording import counted
from featherseg.reports.page import page_html, section

PAGE_STYLE = (
    CHART_STYLE
    + """
td small { display: block; color: var(--muted); }
.wide { margin-top: 2rem; }
.wide .chart { max-width: 56rem; }
.warning { margin: 1rem 0; border-left: 3px solid var(--loss); padding: .1rem 0 .1rem .9rem; }
.pairs pre { margin: 0; white-space: pre-wrap; }
"""
)


def benchmark_html(outcome: Outcome) -> str:
    """The whole page."""
    body = [_head(outcome), *(f'<p class="warning">{escape(text)}</p>' for text in cautions(outcome))]
    for table in (t for t in outcome.tables if t.rows):
        limits = next((one for one in outcome.limits if one.threads == table.setting.threads), None)
        body.append(section(escape(str(table.setting)), _table_html(table, outcome.plan.baselines, limits)))
    body += [_variants(outcome), _limits(outcome), _machine(outcome), _reading(outcome)]
    names = ", ".join(model.name for model in outcome.plan.models)
    return page_html(f"{names} · featherseg benchmark", "\n".join(body), PAGE_STYLE)


def cautions(outcome: Outcome) -> list[str]:
    """What whoever reads the figures has to know first, a sentence each; also for the terminal."""
    found = [
        f"{model.name} is untrained: speed only. What a lower precision does to its masks says nothing here."
        for model in outcome.plan.models
        if model.run is None
    ]
    worst = max((table.run_queue_wait for table in outcome.tables), default=1.0)
    if worst > MOST_WAIT:
        found.append(
            f"The machine was not ours alone: passes took up to {worst:.1f} times as long as their CPU time. "
            f"Ratios suffer less than times; repeat on a quiet machine before you quote any."
        )
    if outcome.plan.starts < USUAL_STARTS:
        found.append(f"{outcome.plan.starts} starts of each process: {USUAL_STARTS} or more are usual.")
    return found


def _speedup(s: Speedup) -> str:
    """The ratio over its interval as HTML; no ratio where no difference is shown."""
    if s.itself:
        return "1"
    value = "no difference" if s.verdict == NO_DIFFERENCE else f"{s.value:.2f}x"
    return f"{value}<small>{s.low:.2f}\N{EN DASH}{s.high:.2f}</small>"


def _miou(f: Fidelity) -> str:
    """mIoU in % over its difference to the reference's and that one's interval in points, as HTML."""
    if f.miou is None or f.miou_difference is None:
        return ""
    d = f.miou_difference
    return f"{100 * f.miou:.2f}<small>{100 * d.value:+.2f} ({100 * d.low:+.2f} to {100 * d.high:+.2f})</small>"


def _head(outcome: Outcome) -> str:
    plan, found = outcome.plan, outcome.machine
    kinds = counted(max((len(t.rows) for t in outcome.tables), default=0), "variant")
    names = ", ".join(escape(model.name) for model in plan.models)
    return f"""<header>
<p class="kicker">featherseg benchmark · {escape(found["date"][:10])}</p>
<h1>{names}</h1>
<p class="lead">{kinds}, a process each, started {plan.starts} times; {plan.starts * plan.rounds_each} rounds in which
they take turns. {escape(machine_in_words(dict(found)))}.</p>
</header>"""


def _table_html(table: Table, baselines: tuple[str, ...], limits: Limits | None) -> str:
    roof = ""
    if limits:
        roof = f"<h3>What the machine allows</h3>{roofline_svg(table.rows, limits)}"
    return f"""{_latencies(table, baselines)}
<div class="wide">{"".join(latency_svg(table, baseline) for baseline in baselines)}
<h3>From an image file to a mask file</h3>{stages_svg(table)}{stage_keys(table)}
{roof}</div>
{_rest(table, baselines[0])}"""


def _latencies(table: Table, baselines: tuple[str, ...]) -> str:
    """Time, speed and, beside it, how near the masks are."""
    heads: tuple[str, ...] = ("p50, ms", "p95", "min", "IQR", "images/s", *(f"vs {b}" for b in baselines))
    proof = ("logits off by", "same class") + (("mIoU, %",) if _scored(table) else ())
    rows = []
    for row in table.rows:
        s, f = summarise(row.samples.forward_ms), row.fidelity
        cells = [f"{s.p50:.1f}", f"{s.p95:.1f}", f"{s.least:.1f}", f"{s.iqr:.1f}"]
        cells += [f"{1000 * table.setting.batch / s.p50:.1f}", *(_speedup(row.by_wall[b]) for b in baselines)]
        cells += [f"{f.max_difference:.1e}<small>{f.of_range:.1e} of range</small>", f"{100 * f.same_class:.2f} %"]
        cells += [_miou(f)] if _scored(table) else []
        rows.append(_row(row, cells))
    images = "; ".join(dict.fromkeys(row.fidelity.images for row in table.rows))
    return f"""<div class="scroll"><table><caption>The model alone, up to its logits; 95 % intervals below the ratios.
Beside it, how far logits and masks are from those of plain float32 PyTorch, on {escape(images)}.</caption>
<thead><tr><th scope="col">variant</th>{_heads(heads + proof)}</tr></thead>
<tbody>{"".join(rows)}</tbody></table></div>"""


def _rest(table: Table, baseline: str) -> str:
    """First call, memory, CPU time, the whole way, the share of the limit."""
    gpu = table.rows[0].samples.gpu_mib is not None
    heads: tuple[str, ...] = (
        "first call, ms",
        "opening, ms",
        "CPU ms",
        f"vs {baseline} by CPU",
        "whole way, ms",
        f"vs {baseline}",
    )
    heads += ("memory, MiB",) + (("GPU, MiB",) if gpu else ()) + (("of the limit",) if _limited(table) else ())
    rows = []
    for row in table.rows:
        s = row.samples
        cells = [f"{s.first_ms.mean():.0f}", f"{s.open_ms.mean():.0f}", f"{summarise(s.cpu['forward']).p50:.1f}"]
        cells += [_speedup(row.by_cpu[baseline]), f"{summarise(s.whole_ms).p50:.1f}"]
        cells += [_speedup(row.whole[baseline]), s.process_peak]
        cells += [f"{s.gpu_mib.max():.0f}"] if s.gpu_mib is not None else []
        cells += [share(row)] if _limited(table) else []
        rows.append(_row(row, cells))
    return f"""<div class="scroll"><table><caption>First call and opening: mean of the starts. CPU: of all threads
together. Whole way: from an image file to a mask file. Memory: peak of the process, Python and libraries
included, median of the starts.</caption><thead><tr><th scope="col">variant</th>{_heads(heads)}</tr></thead>
<tbody>{"".join(rows)}</tbody></table></div>"""


def _variants(outcome: Outcome) -> str:
    """What the names mean, and what was left out."""
    shown = dict.fromkeys(row.variant.build for table in outcome.tables for row in table.rows if row.variant.build)
    rows = "".join(f"<div><dt>{build}</dt><dd>{escape(TORCH_BUILDS[build].words)}</dd></div>" for build in shown)
    out = "".join(f"<li><b>{escape(name)}</b>: {escape(why)}</li>" for name, why in outcome.left_out)
    left = f"<h3>Left out</h3><ul>{out}</ul>" if out else ""
    return section("The variants", f'<dl class="pairs">{rows}</dl>{left}')


def _limits(outcome: Outcome) -> str:
    if not outcome.limits:
        return section("The limits of this machine", "<p>Not measured: add <code>--calibrate</code>.</p>")
    rows = []
    for limits in outcome.limits:
        for precision, kernels in limits.kernels.items():
            rows += [(limits.threads, f"{precision} {name}", f"{rate:,.0f} Gop/s") for name, rate in kernels.items()]
        rows += [(limits.threads, f"memory, {name}", f"{rate:.1f} GB/s") for name, rate in limits.memory.items()]
    body = "".join(
        f'<tr><th scope="row">{escape(name)}</th><td class="number">{threads}</td><td class="number">{rate}</td></tr>'
        for threads, name, rate in rows
    )
    return section(
        "The limits of this machine",
        f"""<div class="scroll"><table><caption>The best of repeated runs of each kernel. A row's limit is the longer
of its arithmetic at the best rate of its precision, and of its traffic at the best memory rate, when only convolutions
and linear layers read and write memory.</caption><thead><tr><th scope="col">kernel</th>
{_heads(("threads", "rate"))}</tr></thead><tbody>{body}</tbody></table></div>""",
    )


def _machine(outcome: Outcome) -> str:
    found: Mapping[str, Any] = {**outcome.machine, "load_average_at_end": outcome.load_at_end}
    rows = "".join(
        f"<div><dt>{escape(key.replace('_', ' '))}</dt><dd>{escape(_text(value))}</dd></div>"
        for key, value in found.items()
    )
    return section("The machine", f'<dl class="pairs">{rows}</dl>')


def _text(value: Any) -> str:
    if isinstance(value, dict):
        return ", ".join(f"{k} {v}" for k, v in value.items()) or "none"
    if isinstance(value, list):
        return "; ".join(map(_text, value)) or "none"
    return f"{value:.2f}" if isinstance(value, float) else str(value)


def _reading(outcome: Outcome) -> str:
    return section(
        "How to read this",
        f"""<p>Every variant is a process of its own. All are started together and warmed up; then a round runs each of
them once, after an untimed pass, in an order that moves on. A ratio is taken within a round, and its interval over the
{outcome.plan.starts} starts, as a process keeps its luck. Where the interval includes 1, no difference is shown. A
speed without a fidelity beside it is not told. The first call holds whatever a library prepares then, and is in no
other figure. Sizes are height x width.</p>""",
    )


def _scored(table: Table) -> bool:
    return any(row.fidelity.miou is not None for row in table.rows)


def _limited(table: Table) -> bool:
    return any(row.limit_ms is not None for row in table.rows)


def _heads(names: tuple[str, ...]) -> str:
    return "".join(f'<th scope="col" class="number">{escape(name)}</th>' for name in names)


def _row(row: Row, cells: list[str]) -> str:
    figures = "".join(f'<td class="number">{cell}</td>' for cell in cells)
    return f'<tr><th scope="row">{escape(row.variant.name)}</th>{figures}</tr>'
