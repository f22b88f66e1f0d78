"""`featherseg benchmark`: the latency of models in every variant, and how far their masks are from the model's."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from featherseg.cli.benchmark_tables import print_benchmark
from featherseg.cli.options import AsJson, Data, DataRoot, Device, Split, out_option, parse_size
from featherseg.cli.progress import progress_bar
from featherseg.core.wording import json_text


def benchmark(
    models: Annotated[
        list[str],
        typer.Argument(help="Runs, exported files, model names.", metavar="RUN_OR_FILE_OR_MODEL..."),
    ],
    size: Annotated[
        list[str] | None,
        typer.Option(metavar="HxW", help="Image size; may be repeated [default: the run's]."),
    ] = None,
    threads: Annotated[
        list[int] | None, typer.Option(help="Threads of each process; may be repeated [default: all cores].")
    ] = None,
    batch: Annotated[
        list[int] | None, typer.Option(help="Batch size; may be repeated [default: 1; on a GPU 1 and 8].")
    ] = None,
    device: Device = "auto",
    baseline: Annotated[str, typer.Option(help="The variant to compare the others with.")] = "eager",
    pairs: Annotated[int, typer.Option(help="How often the process of every variant is started.")] = 5,
    rounds: Annotated[
        int | None, typer.Option(help="Number of rounds, over all starts [default: 20; on a GPU 100].")
    ] = None,
    data: Data = None,
    data_root: DataRoot = None,
    split: Split = None,
    calibrate: Annotated[
        bool,
        typer.Option("--calibrate", help="Also measure the limits of the machine, and how close each variant gets."),
    ] = False,
    out: Annotated[Path | None, out_option("Write the benchmark as one HTML page.")] = None,
    as_json: AsJson = False,
) -> None:
    """Time every variant of a model against plain PyTorch, and compare their masks with PyTorch's.

    A run is timed as plain eager PyTorch, eager with our allocator setting and channels-last, featherseg.optimize in
    float32 and bfloat16, and every file of its export/. Each variant is a process of its own; they take turns. A
    model's name is timed with seeded random weights. mIoU is measured with --data, --data-root or --split.
    """
    sizes = [parse_size(text, "--size") for text in size or ()]
    from featherseg.benchmarking import session
    from featherseg.benchmarking.page import benchmark_html
    from featherseg.benchmarking.results import Plan
    from featherseg.cli.terminal import Console
    from featherseg.core.files import check_writable, write_text

    if out:
        check_writable(out)  # not after minutes
    console = Console(stderr=as_json, highlight=False, soft_wrap=True)
    plan = Plan(
        sizes=sizes,
        batches=batch or (),
        threads=threads or (),
        device=device,
        baseline=baseline,
        starts=pairs,
        rounds=rounds or 0,
        calibrate=calibrate,
    )
    with progress_bar(console) as progress:
        found = session.benchmark(models, plan, data=data, data_root=data_root, split=split, progress=progress)
    if as_json:
        print(json_text(found.as_dict()))
    else:
        print_benchmark(console, found)
    if out:
        write_text(out, benchmark_html(found))
        console.print(f"the page is {out}")
