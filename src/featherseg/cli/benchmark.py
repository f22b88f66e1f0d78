"""`featherseg benchmark`: the latency of models in every variant, and how far their masks are from the model's."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Annotated

import typer

from featherseg.cli.benchmark_tables import print_benchmark
from featherseg.cli.options import (
    AsJson,
    Data,
    DataRoot,
    Device,
    Split,
    Trust,
    out_option,
    parse_size,
)
from featherseg.cli.progress import progress_bar
from featherseg.core.errors import ConfigError
from featherseg.core.types import Size
from featherseg.core.wording import json_text, one_line


def benchmark(
    models: Annotated[
        list[str],
        typer.Argument(
            help="Runs, exported files, model names.", metavar="RUN_OR_FILE_OR_MODEL..."
        ),
    ],
    size: Annotated[
        list[str] | None,
        typer.Option(
            "--image-size", metavar="HxW", help="Of an image; may be repeated [default: the run's]."
        ),
    ] = None,
    threads: Annotated[
        list[int] | None,
        typer.Option(help="Threads of each process; may be repeated [default: all cores]."),
    ] = None,
    batch: Annotated[
        list[int] | None,
        typer.Option(help="Batch size; may be repeated [default: 1; on a GPU 1 and 8]."),
    ] = None,
    device: Device = "auto",
    baseline: Annotated[
        str, typer.Option(help="The variant to compare the others with.")
    ] = "eager",
    rounds: Annotated[
        int | None,
        typer.Option(
            help="Rounds, over 2 to 5 starts of each process [20; on a GPU 100]; passes of --operators [10]."
        ),
    ] = None,
    data: Data = None,
    data_root: DataRoot = None,
    split: Split = None,
    calibrate: Annotated[
        bool,
        typer.Option(
            "--calibrate",
            help="Also measure the limits of the machine, and how close each variant gets.",
        ),
    ] = False,
    operators: Annotated[
        bool,
        typer.Option(
            "--operators", help="Time every operator of the exported graph instead (.onnx or .xml)."
        ),
    ] = False,
    trust: Trust = False,
    out: Annotated[Path | None, out_option("Write the benchmark as one HTML page.")] = None,
    as_json: AsJson = False,
) -> None:
    """Time every variant of a model against plain PyTorch, and compare their masks with PyTorch's.

    A run is timed as plain eager PyTorch, eager with our allocator setting and channels-last, featherseg.optimize in
    float32 and bfloat16, and every file of its export/. Each variant is a process of its own; they take turns. A
    model's name is timed with seeded random weights. mIoU is measured with --data, --data-root or --split, which a run
    counts as a look, as by `evaluate`. --operators tells where ONNX Runtime or OpenVINO spends a pass: of a run in its
    export/model.onnx, exported first if need be.
    """
    sizes = [parse_size(text, "--image-size") for text in size or ()]
    if rounds is not None and rounds < 1:
        raise ConfigError(f"--rounds {rounds}: expected at least 1.")
    if operators:
        given = {
            "--device": device not in ("auto", "cpu"), "--baseline": baseline != "eager", "--data": data,
            "--data-root": data_root, "--split": split, "--calibrate": calibrate, "--out": out,
        }  # fmt: skip
        _print_operators(
            models, (sizes, batch or (), threads or (), rounds or 10), given, as_json=as_json
        )
        return
    from featherseg.cli.terminal import Console
    from featherseg.comparison import benchmark as session
    from featherseg.comparison.benchmark_page import benchmark_html
    from featherseg.comparison.benchmark_results import USUAL_STARTS, Plan
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
        starts=min(USUAL_STARTS, max(2, rounds // 2)) if rounds else USUAL_STARTS,
        rounds=rounds or 0,
        calibrate=calibrate,
    )
    with progress_bar(console) as progress:
        found = session.benchmark(
            models,
            plan,
            data=data,
            data_root=data_root,
            split=split,
            trust=trust,
            progress=progress,
        )
    if as_json:
        print(json_text(found.as_dict()))
    else:
        print_benchmark(console, found)
    if out:
        write_text(out, benchmark_html(found))
        console.print(one_line(f"the page is {out}"), markup=False)


Repeats = tuple[Sequence[Size], Sequence[int], Sequence[int], int]
"""Sizes, batches, threads, and passes."""


def _print_operators(
    models: list[str], repeats: Repeats, given: Mapping[str, object], *, as_json: bool
) -> None:
    """Refuse what has no effect on a profile, then profile each of `models`."""
    from featherseg.cli.benchmark_tables import print_operators
    from featherseg.cli.terminal import Console
    from featherseg.comparison.operators import time_operators

    if unused := [option for option, value in given.items() if value]:
        raise ConfigError(
            f"{', '.join(unused)} has no effect with --operators, which runs on the CPU: leave it out."
        )
    found = [times for model in models for times in time_operators(model, *repeats)]
    if as_json:
        print(json_text({"operators": [times.as_dict() for times in found]}))
    else:
        print_operators(Console(highlight=False, soft_wrap=True), found)
