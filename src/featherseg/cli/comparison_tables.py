"""How a comparison is printed: tables for a terminal."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from featherseg.core.wording import json_text, one_line, size_text

if TYPE_CHECKING:
    from featherseg.cli.terminal import Console
    from featherseg.comparison.compare_results import CandidateResult, Comparison, Ranking
    from featherseg.evaluation.bootstrap import Difference


WIDEST = 16
"""Letters of a model's name that stand in one line, where there is not room for all."""
HEADINGS = ("mIoU %", "of its\nruns", "params\nM", "GMACs", "p50\nms", "p95\nms", "MiB")
"""Of what _figures gives: narrow, so that all fit a terminal of 80 columns."""
ROOMY = 120
"""Columns of a terminal from which on the scores of a model's runs stand in one line."""


def print_comparison(console: Console, comparison: Comparison) -> None:
    """Cautions, rankings, differences of pairs, picks for the budgets, files, latency."""
    from rich.markup import escape

    from featherseg.core.wording import counted

    where = escape(one_line(f"{comparison.data} {comparison.split}"))
    console.print(
        f"{where}: {counted(comparison.images, 'image')}, inference: {comparison.inference}; intervals from "
        f"{comparison.clusters}"
    )
    for caution in comparison.cautions:
        console.print(f"NOTE: {escape(one_line(caution))}.")
    for ranking in comparison.rankings:
        _print_ranking(console, ranking, comparison)
        for _, chosen in comparison.budgets.picks(ranking):
            console.print(escape(one_line(f"for a budget: {chosen.reason}")))
    if comparison.files:
        console.print("\nthese files, whatever the models:")
        _print_differences(
            console, comparison.files.differences, comparison.files.names, comparison.classes
        )
        _print_differences(
            console,
            comparison.files.pq_differences,
            comparison.files.names,
            comparison.classes,
            "PQ",
        )
    if comparison.timing and len(comparison.timing.names) > 1:
        console.print(f"\nlatency at {size_text(comparison.size)}, {comparison.timing.machine}:")
        for ratio in comparison.timing.ratios():
            console.print(escape(one_line(f"  {ratio.message(comparison.timing.names)}")))


def _print_ranking(console: Console, ranking: Ranking, comparison: Comparison) -> None:
    from rich.markup import escape
    from rich.table import Table

    from featherseg.core.wording import SELECTED

    title = f"{ranking.title}{f', {SELECTED}' if comparison.selected else ''}"
    table = Table(title=escape(one_line(title)), title_justify="left")
    longest = max(len(s.name) for s in ranking.results)
    table.add_column("model", overflow="fold", min_width=min(longest, WIDEST))
    rows = [_figures(s, "\n" if console.width < ROOMY else " ") for s in ranking.results]
    measured = [number for number in range(len(HEADINGS)) if any(row[number] for row in rows)]
    for number in measured:
        table.add_column(HEADINGS[number], justify="right", no_wrap=True)
    for s, row in zip(ranking.results, rows, strict=True):
        table.add_row(escape(one_line(s.name)), *(row[number] for number in measured))
    console.print(table, width=max(80, console.width))
    if ranking.unlike:
        console.print(f"not trained alike, they differ in: {', '.join(ranking.unlike)}")
    console.print(escape(one_line(ranking.verdict())))
    names = [s.name for s in ranking.results]
    for name in ranking.left_out:
        console.print(escape(one_line(f"  {name} is not compared: it has fewer than three seeds")))
    _print_differences(console, ranking.differences, names, comparison.classes)
    if ranking.by_pq:
        console.print(escape(one_line(ranking.pq_verdict())))
        _print_differences(console, ranking.pq_differences, names, comparison.classes, "PQ")


def _print_differences(
    console: Console,
    differences: Sequence[Difference],
    names: Sequence[str],
    classes: Sequence[str],
    of: str = "mIoU",
) -> None:
    """A line a pair in points of mIoU or PQ, and below it the classes that differ."""
    from rich.markup import escape

    for d in differences:
        points = (-d.miou if d.better == d.second else d.miou).points(f" points of {of}")
        less = f"{names[d.first]} less {names[d.second]}"
        console.print(
            escape(
                one_line(
                    f"  {d.message(names)} ({f'{less}: ' if d.better is None else ''}{points})"
                )
            )
        )
        apart = [
            f"{name} {i.points()}" for name, i in zip(classes, d.classes, strict=True) if i.sign
        ]
        if apart:
            console.print(escape(one_line(f"    {less}: {'; '.join(apart)}")))


def _figures(s: CandidateResult, between: str) -> tuple[str, ...]:
    """What stands in a model's row, `between` the scores of its runs; empty where nothing was measured."""
    from featherseg.reports.page import fixed

    return (
        f"{100 * s.miou.mean():.2f}",
        between.join(f"{100 * miou:.2f}" for miou in s.miou),
        fixed(None if s.params is None else s.params / 1e6, 2),
        fixed(s.gmacs, 2),
        fixed(s.latency.p50_ms, 1),
        fixed(s.latency.p95_ms, 1),
        fixed(s.latency.memory_mib, 0),
    )


def print_paper(name: str, console: Console, *, as_json: bool) -> None:
    """Every row and sentence of a paper that holds a number, beside our counts, each figure with a verdict."""
    from featherseg.costs.papers import check_paper

    check = check_paper(name)
    if as_json:
        print(json_text(check))
        return
    console.print(f"{check['paper']}\n", markup=False)
    for table in check["tables"]:
        _print_published(console, table)
    for sentence in check["sentences"]:
        quote = f"\u201c{sentence['text']}\u201d ({sentence['where']})"
        console.print(f"{sentence['verdict']}: {quote}", markup=False)
        console.print(f"  {sentence['words']}", markup=False)
    console.print("\nverdicts:")
    for verdict, meaning in check["verdicts"].items():
        console.print(f"  {verdict}: {meaning}", markup=False)


def _print_published(console: Console, checked: dict[str, Any]) -> None:
    """A table of a paper, a line a figure: printed, ours, verdict; below it, what meets a figure otherwise."""
    from rich.markup import escape
    from rich.table import Table

    from featherseg.costs.papers import NOT_RECOUNTED

    table = Table("model", "figure", "printed", "ours", "verdict", title=escape(checked["title"]))
    table.title_justify = "left"
    for column in table.columns:
        column.no_wrap = column is not table.columns[1]
    table.columns[1].overflow = "fold"
    for column in table.columns[2:4]:
        column.justify = "right"
    notes = []
    for row in checked["rows"]:
        parts = list(dict.fromkeys(filter(None, (row["method"], row["backbone"]))))
        name = " ".join(parts)
        at = f"G, {row['size_printed']}" if row["size_printed"] != "-" else "G"
        figures = {**row["measured"], at: row["gflops"], "M": row["params_m"]}
        shown = {
            what: figure
            for what, figure in figures.items()
            if figure["printed"] != "-" or figure["ours"]
        }
        for number, (what, figure) in enumerate(shown.items()):
            ours = f"{figure['ours']['value']:.3f}" if figure["ours"] else "-"
            first = "" if number else "\n".join(parts)
            verdict = (
                NOT_RECOUNTED if figure["words"] == NOT_RECOUNTED else figure["verdict"] or "-"
            )
            table.add_row(*map(escape, (first, what, figure["printed"], ours, verdict)))
            if figure["verdict"] not in (None, "equal", "not testable here"):
                notes.append(f"{name}, {figure['printed']}: {figure['words']}")
        table.add_section()
        notes += [f"{name}: {row['remark']}"] if row["remark"] else []
    console.print(table, width=max(80, console.width))
    for note in notes:
        console.print(f"  {note}", markup=False)
    console.print("  G: GFLOPs as printed, ours by macs; M: million parameters\n", markup=False)
