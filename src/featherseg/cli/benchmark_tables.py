"""Print a benchmark on a terminal."""

from __future__ import annotations

from typing import TYPE_CHECKING

from featherseg.core.wording import counted, one_line, size_text

if TYPE_CHECKING:
    from collections.abc import Sequence

    from featherseg.cli.terminal import Console
    from featherseg.comparison.benchmark_results import Benchmark, Row, Table
    from featherseg.comparison.operators import OperatorTimes
    from featherseg.comparison.statistics import Speedup


def print_benchmark(console: Console, benchmark: Benchmark) -> None:
    """Print two tables per setting, then the variants left out and the cautions."""
    from featherseg.core.machine import machine_text

    for table in benchmark.tables:
        _print_latencies(console, table, benchmark.plan.baselines)
        _print_other_costs(console, table)
    console.print(machine_text(dict(benchmark.machine)), markup=False)
    for name, reason in benchmark.left_out:
        console.print(one_line(f"left out: {name}: {reason}"), markup=False)
    for text in benchmark.cautions:
        console.print(one_line(f"note: {text}"), markup=False)


def print_operators(console: Console, profiles: Sequence[OperatorTimes]) -> None:
    """Print a table per file and setting: the operators with at least 1 % of the time of a pass."""
    from rich.box import SIMPLE_HEAD
    from rich.markup import escape
    from rich.table import Table as Grid

    for profile in profiles:
        title = (
            f"{profile.name}, batch {profile.batch}, {size_text(profile.size)}, "
            f"{counted(profile.threads, 'thread')}, {profile.runtime}: {profile.ms:.1f} ms in its "
            "operators"
        )
        grid = Grid(
            "operator", title=escape(one_line(title)), title_justify="left", box=SIMPLE_HEAD
        )
        for head in ("nodes", "ms", "share", "slowest ms"):
            grid.add_column(head, justify="right")
        grid.add_column("slowest", overflow="fold")
        for row in profile.operators:
            if row.share >= 0.01:
                cells = (
                    str(row.nodes),
                    f"{row.ms:.2f}",
                    f"{100 * row.share:.1f} %",
                    f"{row.slowest_ms:.2f}",
                )
                grid.add_row(escape(one_line(row.kind)), *cells, escape(one_line(row.slowest)))
        console.print(grid)


def _print_latencies(console: Console, table: Table, baselines: tuple[str, ...]) -> None:
    """Print latency and speedup, and how close the masks are to those of float32 PyTorch."""
    from featherseg.costs.latency import summarise

    scored = table.rows[0].fidelity.miou is not None
    heads = ["p50 ms", "images/s", *(f"vs {b}" for b in baselines), "logits off", "same class"]
    rows = []
    for row in table.rows:
        p50, f = summarise(row.samples.forward_ms).p50, row.fidelity
        cells = [
            f"{p50:.1f}",
            f"{1000 * table.setting.batch / p50:.1f}",
            *(_speedup(row.by_wall[b]) for b in baselines),
            f"{f.of_range:.0e}",
            f"{100 * f.same_class:.2f} %",
        ]
        rows.append((row, [*cells, *([_miou(row)] if scored else [])]))
    title = (
        f"{table.setting}: the model alone; 95 % intervals; logits off by this share of their range"
    )
    _print(console, title, [*heads, *(["mIoU %"] if scored else [])], rows)
    for images in dict.fromkeys(row.fidelity.images for row in table.rows):
        console.print(f"logits and masks compared on {images}", markup=False)


def _print_other_costs(console: Console, table: Table) -> None:
    """Print CPU time, latency from file to file, time of the first call, and memory."""
    from featherseg.comparison.benchmark_charts import share
    from featherseg.costs.latency import summarise

    gpu = table.rows[0].samples.gpu_mib is not None
    limited = any(row.limit_ms is not None for row in table.rows)
    heads = ["p95 ms", "min ms", "CPU ms", "end to end ms", "first call ms", "MiB"]
    rows = []
    for row in table.rows:
        s, samples = summarise(row.samples.forward_ms), row.samples
        cells = [f"{s.p95:.1f}", f"{s.least:.1f}", f"{summarise(samples.cpu['forward']).p50:.1f}"]
        cells += [f"{summarise(samples.end_to_end_ms).p50:.1f}", f"{samples.first_ms.mean():.0f}"]
        cells += [samples.process_peak]
        cells += [f"{samples.gpu_mib.max():.0f}"] if samples.gpu_mib is not None else []
        rows.append((row, [*cells, *([share(row)] if limited else [])]))
    title = "end to end: from an image file to a mask file; MiB: the process at its peak"
    _print(
        console,
        title,
        [*heads, *(["GPU MiB"] if gpu else []), *(["of the limit"] if limited else [])],
        rows,
    )


def _print(
    console: Console, title: str, heads: list[str], rows: list[tuple[Row, list[str]]]
) -> None:
    from rich.box import SIMPLE_HEAD
    from rich.markup import escape
    from rich.table import Table as Grid

    grid = Grid("variant", title=title, title_justify="left", box=SIMPLE_HEAD, padding=(0, 1, 0, 0))
    grid.columns[0].overflow = "fold"
    for head in heads:
        grid.add_column(head, justify="right", min_width=max(map(len, head.split())))
    for row, cells in rows:
        grid.add_row(escape(one_line(row.variant.name)), *cells)
    console.print(grid)


def _speedup(s: Speedup) -> str:
    """Return the ratio and below it its interval; no ratio if no difference is shown."""
    from featherseg.comparison.statistics import NO_DIFFERENCE

    if s.itself:
        return "1"
    value = "none shown" if s.verdict == NO_DIFFERENCE else f"{s.value:.2f}x"
    return f"{value}\n{s.low:.2f}-{s.high:.2f}"


def _miou(row: Row) -> str:
    """Return mIoU, and below it the difference to the reference in points with its interval."""
    f = row.fidelity
    if f.miou is None or f.miou_difference is None:
        return ""
    d = f.miou_difference
    few = f"\n{d.clusters} clusters: no claim" if d.few else ""
    marks = f"\n{f.marks}" if f.marks else ""
    return f"{100 * f.miou:.2f}\n{d.points()}{few}{marks}"
