"""`featherseg export RUN`: files for other runtimes, each checked against the model's logits."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from featherseg.cli.options import AsJson, DataRoot, RunFolder, out_option, parse_size
from featherseg.core.errors import ExportError
from featherseg.core.wording import counted, json_text, one_line, size_text

if TYPE_CHECKING:
    from featherseg.cli.terminal import Console
    from featherseg.exporters import ExportReport


def export(
    run: RunFolder,
    formats: Annotated[
        str,
        typer.Option(
            "--format",
            metavar="FORMAT,...",
            help="Such as onnx,openvino,onnx-int8: docs/formats.md.",
        ),
    ] = "onnx",
    output: Annotated[
        Path | None, out_option("A folder; for one format, a file [default: RUN/export/].")
    ] = None,
    masks: Annotated[
        bool,
        typer.Option(
            "--masks",
            help="Images in, masks out: normalisation and upsampling become part of the file.",
        ),
    ] = False,
    score: Annotated[
        bool,
        typer.Option(
            "--score",
            help="Evaluate every file on the run's labelled images; int8 files always are.",
        ),
    ] = False,
    max_drop: Annotated[
        float,
        typer.Option(help="Points of mIoU that int8 may lose; layers stay in fp32 to meet this."),
    ] = 1.0,
    calibration: Annotated[
        int, typer.Option(help="Number of training images for int8 calibration.")
    ] = 64,
    seed: Annotated[int, typer.Option(help="Seed that selects these images.")] = 0,
    image_size: Annotated[
        str | None,
        typer.Option(
            "--image-size",
            metavar="HxW",
            help="Image size of ncnn, litert and coreml files; others are timed at it "
            "[default: a typical training image's].",
        ),
    ] = None,
    data_root: DataRoot = None,
    as_json: AsJson = False,
) -> None:
    """Export a run's model, and compare each file with the model at several image sizes.

    The files take normalised images of any height and width (ncnn, litert, coreml: --image-size).
    `predict`, `evaluate` and `compare` accept them, except for web, tensorrt, coreml and those of
    --masks, which take RGB images and are written as onnx and openvino. An unknown format or a
    missing package is refused before anything is written. If a format fails later, the others are
    still written. The exit code is 2 in both cases.
    """
    from featherseg.cli.progress import progress_bar
    from featherseg.cli.terminal import Console
    from featherseg.core.allocator import keep_freed_memory
    from featherseg.exporters import ExportSettings, export_formats
    from featherseg.runs.run import load_run

    names = [name.strip() for name in formats.split(",") if name.strip()]
    if not names:
        raise ExportError(
            "--format names no format. Expected one or several, separated by commas, such as "
            "onnx,openvino."
        )
    size = None if image_size is None else parse_size(image_size, "--image-size")
    settings = ExportSettings(masks, score, max_drop, calibration, seed, data_root, size)
    keep_freed_memory()
    stderr = Console(stderr=True, highlight=False, soft_wrap=True)
    loaded = load_run(run)
    if loaded.unfinished:
        stderr.print(f"NOTE: {loaded.how_far}.", markup=False)
    printed = ""
    with progress_bar(stderr) as bar:

        def progress(doing: str, done: int, total: int | None) -> None:
            """Print each new activity once; the bar shows its progress."""
            nonlocal printed
            if doing != printed:
                stderr.print(printed := doing, markup=False)
                if not stderr.is_terminal:
                    return
            bar(doing, done, total)

        reports, errors = export_formats(
            loaded, names, output, settings=settings, progress=progress
        )
    if as_json:
        print(json_text([report.as_dict() for report in reports]))
    elif reports:
        console = Console(highlight=False, soft_wrap=True)
        _print_reports(console, reports)
        _print_usage(console, reports)
    if errors:
        raise ExportError("\n".join(map(str, errors)))


def _print_reports(console: Console, reports: Sequence[ExportReport]) -> None:
    """Print a table with a row per file, and remarks that its figures do not show."""
    from rich.table import Table

    from featherseg.exporters.parity import TOLERANCE
    from featherseg.exporters.report import HEADS

    table = Table(
        title="Files compared with their model: largest error as a share of the logits' range (at "
        f"most {TOLERANCE:.0e}, except int8), positions with the same class",
        title_justify="left",
    )
    for heading in HEADS:
        table.add_column(heading, justify="left" if heading == HEADS[0] else "right")
    for report in reports:
        table.add_row(*report.texts())
    console.print(table)
    for report in reports:
        line = f"{report.format}: {one_line(str(report.path))}{_remarks(report)}"
        console.print(line, markup=False)


def _print_usage(console: Console, reports: Sequence[ExportReport]) -> None:
    """Print how a program without featherseg uses the first .onnx file."""
    from featherseg.exporters.onnx import usage_lines
    from featherseg.inference.runtimes import open_file

    file = next((report.path for report in reports if report.path.suffix == ".onnx"), None)
    if file and (lines := usage_lines(file, open_file(file, "cpu").facts)):
        heading = "Without featherseg (for other files see docs/formats.md):"
        console.print(f"\n{heading}\n\n{lines}", markup=False)


def _remarks(report: ExportReport) -> str:
    """Return remarks on a file that its row of the table does not show, in brackets."""
    remarks = []
    if report.parity is None:
        remarks.append("written, but not tested: nothing here can run it")
    if report.calibration:
        remarks.append(f"calibrated with {counted(len(report.calibration), 'training image')}")
    if report.quantised:
        kept = report.quantised.kept
        remarks.append(f"not in int8: {', '.join(kept)}" if kept else "every layer in int8")
        if report.quantised.miou is None:
            remarks.append("no labelled images: mIoU not measured")
    if report.parity and report.latency_size:
        remarks.append(f"timed at {size_text(report.latency_size)}")
    return f" ({'; '.join(remarks)})" if remarks else ""
