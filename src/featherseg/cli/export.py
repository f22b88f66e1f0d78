"""`featherseg export RUN`: a file for another runtime, written only if it gives the network's logits."""

from __future__ import annotations

import json
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

if TYPE_CHECKING:
    from featherseg.export import ExportReport


def export(
    run: Annotated[str, typer.Argument(help="A run folder, or the name of one.")],
    target: Annotated[str, typer.Option("--to", help="The form of the file: onnx.")] = "onnx",
    output: Annotated[
        Path | None, typer.Option("-o", "--output", help="The file [default: RUN/export/model.TARGET].")
    ] = None,
    as_json: Annotated[bool, typer.Option("--json", help="Print the report as JSON, and nothing else.")] = False,
) -> None:
    """Export a run's network, and check the file against it at sizes that it was not exported at.

    The file takes normalised pictures of any height and width; `predict` and `evaluate` take the file.
    """
    from featherseg.export import export as write
    from featherseg.runs import load_run

    report = write(load_run(run), target, output)
    if as_json:
        print(json.dumps(report.as_json(), indent=2))
    else:
        _print_report(report)


def _print_report(report: ExportReport) -> None:
    from rich.console import Console
    from rich.table import Table

    from featherseg.export.parity import TOLERANCE

    table = Table(
        title=f"The file beside its network: error as a share of the logits' range (at most {TOLERANCE:.0e})",
        title_justify="left",
    )
    for heading in ("height x width", "batch", "largest error", "of the range", "same class"):
        table.add_column(heading, justify="right")
    for row in report.parity.rows:
        size, same = f"{row.height}x{row.width}", f"{row.same_class:.2%}"
        table.add_row(size, str(row.batch), f"{row.max_error:.1e}", f"{row.relative_error:.1e}", same)
    Console(highlight=False).print(table)
    print(f"{report.target}: {report.path} ({report.bytes / 1e6:.1f} MB)")
