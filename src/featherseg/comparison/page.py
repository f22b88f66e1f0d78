"""A comparison as one page: rankings, fronts, differences, classes, latency."""

from datetime import UTC, datetime
from importlib import resources

from markupsafe import Markup

from featherseg.benchmarking.latency import STARTS
from featherseg.comparison.pareto import front_svg
from featherseg.comparison.results import Comparison
from featherseg.reports.page import page_html, render
from featherseg.uncertainty.clusters import MIN_CLUSTERS


def comparison_html(comparison: Comparison) -> str:
    """The whole page."""
    names = ", ".join(s.name for r in comparison.rankings for s in r.results)
    style = (resources.files("featherseg.comparison") / "page.css").read_text(encoding="utf-8")
    return page_html(f"{names} · featherseg comparison", sections_html(comparison, head=True), style)


def sections_html(comparison: Comparison, *, head: bool = False) -> str:
    """Its sections, with the page's head or without."""
    rankings = []
    for ranking in comparison.rankings:
        picks = dict(comparison.budgets.picks(ranking))
        charts = ""
        for quantity, points, budget in comparison.budgets.fronts(ranking):
            if len(points) > 1:
                chosen = picks[quantity].point if quantity in picks else None
                charts += front_svg(points, quantity, picked=chosen.name if chosen else "", budget=budget)
        rankings.append((ranking, Markup(charts), list(picks.values())))
    return render(
        "comparison/page.html",
        c=comparison,
        rankings=rankings,
        models=[s for ranking in comparison.rankings for s in ranking.results],
        head=head,
        starts=STARTS,
        min_clusters=MIN_CLUSTERS,
        today=datetime.now(UTC).date().isoformat(),
    )
