"""`featherseg compare`: models side by side on your own images."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from featherseg.cli.comparison_tables import print_comparison
from featherseg.cli.options import (
    AsJson,
    Costs,
    Data,
    DataRoot,
    Device,
    MaxMib,
    MaxMs,
    ResizeTo,
    RunsAndFiles,
    Scales,
    Split,
    Trust,
    Tta,
    out_option,
    parse_inference,
    parse_size,
)
from featherseg.cli.progress import progress_bar
from featherseg.core.wording import json_text, one_line

if TYPE_CHECKING:
    from featherseg.cli.terminal import Console
    from featherseg.comparison.compare_results import Comparison
    from featherseg.comparison.sweep import Sweep


def compare(
    runs: RunsAndFiles,
    data: Data = None,
    data_root: DataRoot = None,
    split: Split = None,
    scales: Scales = "1",
    tta: Tta = None,
    resize: ResizeTo = None,
    size: Annotated[
        str | None,
        typer.Option(
            "--image-size",
            metavar="HxW",
            help="For latency and MACs [default: that of a typical image].",
        ),
    ] = None,
    max_ms: MaxMs = None,
    max_mib: MaxMib = None,
    costs: Costs = True,
    device: Device = "auto",
    trust: Trust = False,
    out: Annotated[Path | None, out_option("Write the comparison as one HTML page.")] = None,
    as_json: AsJson = False,
) -> None:
    """Compare models on your own images: mIoU with intervals, size, latency, memory, and the best model for a budget.

    Runs that differ only in their seed count as runs of one model: three of each show which models differ, fewer only
    which files. `featherseg sweep` trains such runs.
    """
    inference = parse_inference(None, scales, tta, resize)
    at = parse_size(size, "--image-size") if size else None
    from featherseg.cli.terminal import Console
    from featherseg.comparison import compare as comparison
    from featherseg.comparison.compare_results import Budgets
    from featherseg.core.allocator import keep_freed_memory
    from featherseg.core.files import check_writable
    from featherseg.core.machine import pick_device

    budgets = Budgets(max_ms, max_mib)
    budgets.check(costs)
    pick_device(device)
    if out:
        check_writable(out)
    keep_freed_memory()
    console = Console(stderr=as_json, highlight=False, soft_wrap=True)
    with progress_bar(console) as progress:
        found = comparison.compare(
            runs,
            data,
            data_root=data_root,
            split=split,
            inference=inference,
            size=at,
            costs=costs,
            budgets=budgets,
            device=device,
            trust=trust,
            progress=progress,
        )
    show(found, found, console, out, as_json=as_json)


def show(
    result: Comparison | Sweep,
    comparison: Comparison,
    console: Console,
    page: Path | None,
    *,
    as_json: bool,
) -> None:
    """Print the comparison of a result, or the result as JSON; write the page if one is wanted."""
    from featherseg.comparison.compare_page import comparison_html
    from featherseg.core.files import write_text

    if as_json:
        print(json_text(result.as_dict()))
    else:
        print_comparison(console, comparison)
    if page:
        write_text(page, comparison_html(comparison))
        console.print(one_line(f"the page is {page}"), markup=False)
