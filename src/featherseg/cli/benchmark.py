"""`featherseg benchmark`: latency of models in every variant, and how far their masks differ."""

from __future__ import annotations

from collections.abc import Sequence
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
            "--image-size", metavar="HxW", help="Image size; may be repeated [default: the run's]."
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
            help="Rounds, over 2 to 5 starts of each process [20; on a GPU 100]; passes of "
            "--operators [10]."
        ),
    ] = None,
    data: Data = None,
    data_root: DataRoot = None,
    split: Split = None,
    calibrate: Annotated[
        bool,
        typer.Option(
            "--calibrate",
            help="Also measure the machine's limits, and how close each variant gets.",
        ),
    ] = False,
    operators: Annotated[
        bool,
        typer.Option(
            "--operators", help="Time each operator of the exported graph instead (.onnx or .xml)."
        ),
    ] = False,
    trust: Trust = False,
    out: Annotated[Path | None, out_option("Write the benchmark as one HTML page.")] = None,
    as_json: AsJson = False,
) -> None:
    """Time every variant of a model against plain PyTorch, and compare their masks with PyTorch's.

    The variants of a run are plain eager PyTorch, eager with our allocator setting and
    channels-last, featherseg.optimize in float32 and bfloat16, and every file of its export/. Each
    variant is a separate process; the processes take turns. A model given by name gets seeded
    random weights. --data, --data-root or --split also measure mIoU; a run counts that as a look at
    the split, as `evaluate` does. Files that lie in no run's export/ are compared with the first of
    them, if no run is named; this needs no PyTorch. --operators shows where ONNX Runtime or
    OpenVINO spends its time; for a run it uses export/model.onnx, which is exported first if it is
    missing.
    """
    sizes = [parse_size(text, "--image-size") for text in size or ()]
    if rounds is not None and rounds < 1:
        raise ConfigError(f"--rounds {rounds}: expected at least 1.")
    if operators:
        options = {
            "--device": device not in ("auto", "cpu"), "--baseline": baseline != "eager",
            "--data": data, "--data-root": data_root, "--split": split, "--calibrate": calibrate,
            "--out": out,
        }  # fmt: skip
        if unused := [option for option, value in options.items() if value]:
            raise ConfigError(
                f"{', '.join(unused)} has no effect with --operators, which runs on the CPU. "
                "Leave it out."
            )
        _print_operators(models, sizes, batch or (), threads or (), rounds or 10, as_json)
        return
    import featherseg
    from featherseg.cli.terminal import Console
    from featherseg.comparison.benchmark_results import USUAL_STARTS, Plan

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
        result = featherseg.benchmark(
            models,
            plan,
            data=data,
            data_root=data_root,
            split=split,
            trust=trust,
            out=out,
            progress=progress,
        )
    if as_json:
        print(json_text(result.as_dict()))
    else:
        print_benchmark(console, result)
    if out:
        console.print(one_line(f"the page is {out}"), markup=False)


def _print_operators(
    models: Sequence[str],
    sizes: Sequence[Size],
    batches: Sequence[int],
    threads: Sequence[int],
    passes: int,
    as_json: bool,
) -> None:
    from featherseg.cli.benchmark_tables import print_operators
    from featherseg.cli.terminal import Console
    from featherseg.comparison.operators import time_operators

    profiles = [
        profile
        for model in models
        for profile in time_operators(model, sizes, batches, threads, passes)
    ]
    if as_json:
        print(json_text({"operators": [profile.as_dict() for profile in profiles]}))
    else:
        print_operators(Console(highlight=False, soft_wrap=True), profiles)
