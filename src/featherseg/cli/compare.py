"""`featherseg compare`: models side by side on your own images."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

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
    """Compare models on your own images, and find the best one for a budget.

    The comparison shows mIoU with intervals, size, latency and memory. Runs that differ only in
    their seed count as runs of one model: three of each show which models differ, fewer show only
    which files differ. `featherseg sweep` trains such runs.
    """
    inference = parse_inference(None, scales, tta, resize)
    image_size = parse_size(size, "--image-size") if size else None
    import featherseg
    from featherseg.cli.terminal import Console
    from featherseg.core.allocator import keep_freed_memory

    keep_freed_memory()
    console = Console(stderr=as_json, highlight=False, soft_wrap=True)
    with progress_bar(console) as progress:
        comparison = featherseg.compare(
            runs,
            data,
            data_root=data_root,
            split=split,
            inference=inference,
            size=image_size,
            costs=costs,
            budgets={"max_ms": max_ms, "max_mib": max_mib},
            device=device,
            trust=trust,
            out=out,
            progress=progress,
        )
    if as_json:
        print(json_text(comparison.as_dict()))
    else:
        print_comparison(console, comparison)
    if out:
        console.print(one_line(f"the page is {out}"), markup=False)
