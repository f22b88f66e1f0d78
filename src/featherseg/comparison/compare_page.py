"""A comparison as one page: rankings, fronts, differences, classes, latency."""

from __future__ import annotations

from collections.abc import Callable
from datetime import UTC, datetime
from importlib import resources
from typing import TYPE_CHECKING

from markupsafe import Markup

from featherseg.comparison.pareto import front_svg
from featherseg.comparison.side_by_side import STARTS
from featherseg.evaluation.clusters import MIN_CLUSTERS
from featherseg.reports.page import fixed, page_html, percent, render

if TYPE_CHECKING:
    from featherseg.comparison.compare_results import CandidateResult, Comparison

FIGURES: dict[str, Callable[[CandidateResult], str]] = {
    "mIoU, %": lambda s: percent(s.miou.mean()),
    "of its runs": lambda s: ", ".join(map(percent, s.miou)) if len(s.miou) > 1 else "one run",
    "parameters, M": lambda s: fixed(None if s.params is None else s.params / 1e6, 2),
    "GMACs": lambda s: fixed(s.gmacs, 2),
    "p50, ms": lambda s: fixed(s.latency.p50_ms, 1),
    "p95, ms": lambda s: fixed(s.latency.p95_ms, 1),
    "memory, MiB": lambda s: fixed(s.latency.memory_mib, 0),
}
"""Column of a ranking -> its text, empty if not measured. Empty columns are omitted."""


def comparison_html(comparison: Comparison) -> str:
    """Return the page."""
    names = ", ".join(s.name for r in comparison.rankings for s in r.results)
    style = (resources.files("featherseg.comparison") / "compare_page.css").read_text(
        encoding="utf-8"
    )
    return page_html(
        f"{names} · featherseg comparison", sections_html(comparison, head=True), style
    )


def sections_html(comparison: Comparison, *, head: bool = False) -> str:
    """Return the sections of the page, with or without its head."""
    rankings = []
    for ranking in comparison.rankings:
        picks = dict(comparison.budgets.picks(ranking))
        charts = ""
        for quantity, points, budget in comparison.budgets.fronts(ranking):
            if len(points) > 1:
                chosen = picks[quantity].point if quantity in picks else None
                charts += front_svg(
                    points, quantity, picked=chosen.name if chosen else "", budget=budget
                )
        columns = {
            heading: [figure(s) for s in ranking.results] for heading, figure in FIGURES.items()
        }
        measured = {heading: cells for heading, cells in columns.items() if any(cells)}
        rankings.append((ranking, measured, Markup(charts), list(picks.values())))
    return render(
        "comparison/compare_page.html",
        c=comparison,
        rankings=rankings,
        models=[s for ranking in comparison.rankings for s in ranking.results],
        head=head,
        starts=STARTS,
        min_clusters=MIN_CLUSTERS,
        today=datetime.now(UTC).date().isoformat(),
    )
