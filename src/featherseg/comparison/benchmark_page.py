"""A benchmark as one page: latency, stages, the roofline, the machine."""

from __future__ import annotations

from importlib import resources
from typing import TYPE_CHECKING, Any

from markupsafe import Markup

from featherseg.comparison.benchmark_charts import (
    CHART_STYLE,
    latency_svg,
    roofline_svg,
    share,
    stage_keys,
    stages_svg,
)
from featherseg.comparison.statistics import NO_DIFFERENCE
from featherseg.core.machine import machine_text
from featherseg.costs.latency import summarise
from featherseg.reports.page import page_html, render

if TYPE_CHECKING:
    from featherseg.comparison.benchmark_results import Benchmark


def benchmark_html(benchmark: Benchmark) -> str:
    """Return the page."""
    names = ", ".join(model.name for model in benchmark.plan.models)
    style = (resources.files("featherseg.comparison") / "benchmark_page.css").read_text(
        encoding="utf-8"
    )
    body = sections_html(benchmark, head=True)
    return page_html(f"{names} · featherseg benchmark", body, CHART_STYLE + style)


def sections_html(benchmark: Benchmark, *, head: bool = False) -> str:
    """Return the sections of the page, with or without its head."""
    tables = []
    for table in (t for t in benchmark.tables if t.rows):
        charts = "".join(latency_svg(table, baseline) for baseline in benchmark.plan.baselines)
        charts += (
            f"<h3>From an image file to a mask file</h3>{stages_svg(table)}{stage_keys(table)}"
        )
        for limits in benchmark.limits:
            if limits.threads == table.setting.threads:
                charts += f"<h3>What the machine allows</h3>{roofline_svg(table.rows, limits)}"
                break
        tables.append((table, Markup(charts)))
    builds = dict.fromkeys(
        row.variant.build for t in benchmark.tables for row in t.rows if row.variant.build
    )
    descriptions: dict[str, str] = {}
    if builds:
        from featherseg.comparison.builds import TORCH_BUILDS

        descriptions = {build: TORCH_BUILDS[build].description for build in builds}
    facts = {**benchmark.machine, "load_average_at_end": benchmark.load_at_end}
    return render(
        "comparison/benchmark_page.html",
        b=benchmark,
        head=head,
        tables=tables,
        cautions=benchmark.cautions,
        machine=machine_text(dict(benchmark.machine)),
        facts=[(key.replace("_", " "), _text(value)) for key, value in facts.items()],
        builds=list(descriptions.items()),
        versus=[f"vs {baseline}" for baseline in benchmark.plan.baselines],
        no_difference=NO_DIFFERENCE,
        summarise=summarise,
        share=share,
    )


def _text(value: Any) -> str:
    """Return a fact of the machine as text."""
    if isinstance(value, dict):
        return ", ".join(f"{k} {v}" for k, v in value.items()) or "none"
    if isinstance(value, list):
        return "; ".join(map(_text, value)) or "none"
    return f"{value:.2f}" if isinstance(value, float) else str(value)
