"""Print a comparison, and a paper's tables, on a terminal."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from featherseg.core.wording import SELECTED, counted, one_line, size_text

if TYPE_CHECKING:
    from featherseg.cli.terminal import Console
    from featherseg.comparison.compare_results import CandidateResult, Comparison, Ranking
    from featherseg.evaluation.bootstrap import Difference


NAME_WIDTH = 16
"""Characters of a model's name that are kept on one line if not all columns fit."""

HEADINGS = ("mIoU %", "of its\nruns", "params\nM", "GMACs", "p50\nms", "p95\nms", "MiB")
"""Headings of the values of `_cells`, narrow enough for a terminal of 80 columns."""

WIDE_TERMINAL = 120
"""Columns of a terminal from which on the scores of a model's runs are on one line."""


def print_comparison(console: Console, comparison: Comparison) -> None:
    """Print cautions, rankings, differences of pairs, picks for the budgets, files, latency."""
    from rich.markup import escape

    dataset = escape(one_line(f"{comparison.data} {comparison.split}"))
    console.print(
        f"{dataset}: {counted(comparison.images, 'image')}, inference: {comparison.inference}; "
        f"intervals from {comparison.clusters}"
    )
    for caution in comparison.cautions:
        console.print(f"NOTE: {escape(one_line(caution))}.")
    for ranking in comparison.rankings:
        _print_ranking(console, ranking, comparison)
        for _, chosen in comparison.budgets.picks(ranking):
            console.print(escape(one_line(f"for a budget: {chosen.reason}")))
    if files := comparison.files:
        console.print("\nthese files, whatever the models:")
        _print_differences(console, files.differences, files.names, comparison.classes)
        _print_differences(console, files.pq_differences, files.names, comparison.classes, "PQ")
    if comparison.timing and len(comparison.timing.names) > 1:
        console.print(f"\nlatency at {size_text(comparison.size)}, {comparison.timing.machine}:")
        for ratio in comparison.timing.ratios():
            console.print(escape(one_line(f"  {ratio.message(comparison.timing.names)}")))


def _print_ranking(console: Console, ranking: Ranking, comparison: Comparison) -> None:
    from rich.markup import escape
    from rich.table import Table

    # One row per model, with only the columns that were measured
    title = f"{ranking.title}{f', {SELECTED}' if comparison.selected else ''}"
    table = Table(title=escape(one_line(title)), title_justify="left")
    names = [result.name for result in ranking.results]
    table.add_column("model", overflow="fold", min_width=min(max(map(len, names)), NAME_WIDTH))
    separator = "\n" if console.width < WIDE_TERMINAL else " "
    rows = [_cells(result, separator) for result in ranking.results]
    measured = [number for number in range(len(HEADINGS)) if any(row[number] for row in rows)]
    for number in measured:
        table.add_column(HEADINGS[number], justify="right", no_wrap=True)
    for name, row in zip(names, rows, strict=True):
        table.add_row(escape(one_line(name)), *(row[number] for number in measured))
    console.print(table, width=max(80, console.width))

    # Which of the differences are shown by the runs
    if ranking.unlike:
        console.print(f"trained differently, in: {', '.join(ranking.unlike)}")
    console.print(escape(one_line(ranking.verdict())))
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
    metric: str = "mIoU",
) -> None:
    """Print each pair on a line, in points of mIoU or PQ, and below it the classes that differ."""
    from rich.markup import escape

    for d in differences:
        points = (-d.miou if d.better == d.second else d.miou).points(f" points of {metric}")
        pair = f"{names[d.first]} less {names[d.second]}"
        detail = points if d.better is not None else f"{pair}: {points}"
        console.print(escape(one_line(f"  {d.message(names)} ({detail})")))
        shown_classes = [
            f"{name} {interval.points()}"
            for name, interval in zip(classes, d.classes, strict=True)
            if interval.sign
        ]
        if shown_classes:
            console.print(escape(one_line(f"    {pair}: {'; '.join(shown_classes)}")))


def _cells(result: CandidateResult, separator: str) -> tuple[str, ...]:
    """Return the cells of a model's row, empty for what was not measured.

    separator: the text between the scores of its runs.
    """
    from featherseg.reports.page import fixed

    return (
        f"{100 * result.miou.mean():.2f}",
        separator.join(f"{100 * miou:.2f}" for miou in result.miou),
        fixed(None if result.params is None else result.params / 1e6, 2),
        fixed(result.gmacs, 2),
        fixed(result.latency.p50_ms, 1),
        fixed(result.latency.p95_ms, 1),
        fixed(result.latency.memory_mib, 0),
    )


def print_paper(console: Console, check: dict[str, Any]) -> None:
    """Print what `check_paper` returned: a paper's figures, our counts and a verdict for each.

    After a training its scores, and what the runs do not share with their recipes, are printed too.
    """
    from featherseg.costs.published import Difference

    console.print(f"{check['paper']}\n", markup=False)
    for table in check["tables"]:
        _print_published(console, table)
    for training in check.get("trainings", ()):
        result = training["run"] or f"not trained: {training['reason']}"
        console.print(f"{training['name']}: {result}", markup=False)
        for difference in training["differences"]:
            key, theirs, ours = Difference(**difference).texts()
            console.print(f"  {key} is {theirs} in the recipe and {ours} here", markup=False)
    for sentence in check["sentences"]:
        quote = f"\u201c{sentence['text']}\u201d ({sentence['where']})"
        console.print(f"{sentence['verdict']}: {quote}", markup=False)
        console.print(f"  {sentence['words']}", markup=False)
        if sentence["readings"]:
            _print_readings(console, sentence["readings"])
    console.print("\nverdicts:")
    for verdict, meaning in check["verdicts"].items():
        console.print(f"  {verdict}: {meaning}", markup=False)


def _print_readings(console: Console, readings: Sequence[dict[str, Any]]) -> None:
    """Print RSP beside every DeepLabV3 on the same backbone, with what the counts say of each."""
    from featherseg.costs.papers import READINGS

    rows = [
        (
            reading["beside"].removeprefix("deeplabv3-"),
            f"{reading['beside_params'] / 1e6:.1f}",
            f"{reading['beside_macs'] / 1e9:.1f}",
            f"{reading['params'] / 1e6:.1f}",
            f"{reading['macs'] / 1e9:.1f}",
            f"{reading['macs_share']:.1%}",
            f"{reading['backbone_share']:.1%}",
            reading["verdict"],
        )
        for reading in readings
    ]
    heads = ("DeepLabV3", "M", "GMACs", "RSP, M", "GMACs", "share", "backbone", "75 % fewer")
    console.print_table(heads, rows)
    for verdict, meaning in READINGS.items():
        console.print(f"  {verdict}: {meaning}", markup=False)


def _print_published(console: Console, checked: dict[str, Any]) -> None:
    """Print one table of a paper, a line per figure, and below it the figures that differ."""
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
        name, model_cell = " ".join(parts), "\n".join(parts)
        gflops = f"G, {row['size_printed']}" if row["size_printed"] != "-" else "G"
        figures = {**row["measured"], gflops: row["gflops"], "M": row["params_m"]}
        for quantity, figure in figures.items():
            if figure["printed"] == "-" and not figure["ours"]:
                continue
            ours = f"{figure['ours']['value']:.3f}" if figure["ours"] else "-"
            verdict = figure["verdict"] or "-"
            if figure["words"] == NOT_RECOUNTED:
                verdict = NOT_RECOUNTED
            if figure.get("difference") is not None:
                verdict = f"{figure['difference']:+.2f}"
            table.add_row(*map(escape, (model_cell, quantity, figure["printed"], ours, verdict)))
            model_cell = ""  # named in its first line only
            if figure["verdict"] not in (None, "equal", "not testable here"):
                notes.append(f"{name}, {figure['printed']}: {figure['words']}")
        table.add_section()
        notes += [f"{name}: {row['remark']}"] if row["remark"] else []
    console.print(table, width=max(80, console.width))
    for note in notes:
        console.print(f"  {note}", markup=False)
    console.print("  G: GFLOPs as printed, ours by macs; M: million parameters\n", markup=False)
