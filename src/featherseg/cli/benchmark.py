"""`featherseg benchmark`: how fast models are in every build, with proof beside it that the masks are the same."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from featherseg.cli.benchmark_tables import print_outcome
from featherseg.cli.options import AsJson, Data, DataRoot, Device, Split, out_option, parse_size
from featherseg.cli.progress import progress_bar
from featherseg.core.errors import ConfigError
from featherseg.core.wording import json_text

if TYPE_CHECKING:
    from featherseg.benchmarking.variants import BenchmarkModel
    from featherseg.data.labelled_images import LabelledImages

ROUNDS, ROUNDS_ON_GPU = 20, 100
BATCHES, BATCHES_ON_GPU = (1,), (1, 8)


def benchmark(
    models: Annotated[
        list[str],
        typer.Argument(help="Runs, exported files, names of the catalogue.", metavar="RUN_OR_FILE_OR_MODEL..."),
    ],
    size: Annotated[
        list[str] | None,
        typer.Option(metavar="HxW", help="Size of the images; may be repeated [default: the run's]."),
    ] = None,
    threads: Annotated[
        list[int] | None, typer.Option(help="Threads of each process; may be repeated [default: all cores].")
    ] = None,
    batch: Annotated[
        list[int] | None, typer.Option(help="Images at a time; may be repeated [default: 1; on a GPU 1 and 8].")
    ] = None,
    device: Device = "auto",
    baseline: Annotated[str, typer.Option(help="The variant that the others are compared with.")] = "eager",
    pairs: Annotated[int, typer.Option(help="How often every variant's process is started anew.")] = 5,
    rounds: Annotated[
        int | None, typer.Option(help="Rounds of all starts together [default: 20; on a GPU 100].")
    ] = None,
    data: Data = None,
    data_root: DataRoot = None,
    split: Split = None,
    calibrate: Annotated[
        bool, typer.Option("--calibrate", help="Measure the machine's limits too, and how near each variant is.")
    ] = False,
    output: Annotated[Path | None, out_option("Write the benchmark as one HTML page.")] = None,
    as_json: AsJson = False,
) -> None:
    """Time models in every build beside plain PyTorch, and say how near their masks are to its masks.

    A run is timed as plain eager PyTorch, eager with our allocator setting and channels-last, featherseg.optimize in
    float32 and bfloat16, and every file of its export/. Each variant is a process of its own; they take turns. A name
    of the catalogue is timed with seeded weights. mIoU is measured with --data, --data-root or --split.
    """
    sizes = [parse_size(text, "--size") for text in size or ()]
    from featherseg.benchmarking.page import benchmark_html
    from featherseg.benchmarking.results import Plan
    from featherseg.benchmarking.session import benchmark as measure
    from featherseg.benchmarking.variants import find_models
    from featherseg.cli.terminal import Console
    from featherseg.core.files import check_writable, write_text
    from featherseg.core.machine import pick_device, usable_cores

    if output:
        check_writable(output)  # not after minutes
    console = Console(stderr=as_json, highlight=False, soft_wrap=True)
    on_gpu = pick_device(device).type == "cuda"
    found = find_models(models)
    plan = Plan(
        models=found,
        sizes=sizes or list(dict.fromkeys(model.size for model in found)),
        batches=batch or (BATCHES_ON_GPU if on_gpu else BATCHES),
        threads=threads or (usable_cores(),),
        device=str(pick_device(device)),
        baseline=baseline,
        starts=pairs,
        rounds=rounds or (ROUNDS_ON_GPU if on_gpu else ROUNDS),
        labelled=_labelled(found, data, data_root, split),
        calibrate=calibrate,
    )
    with progress_bar(console) as progress:
        outcome = measure(plan, progress)
    if as_json:
        print(json_text(outcome.as_json()))
    else:
        print_outcome(console, outcome)
    if output:
        write_text(output, benchmark_html(outcome))
        console.print(f"the page is {output}")


def _labelled(
    models: Sequence[BenchmarkModel], data: str | None, root: Path | None, split: str | None
) -> LabelledImages | None:
    """What mIoU is measured on; None where nothing of it was asked for."""
    from featherseg.data.labelled_images import LabelledImages

    if data is None and root is None and split is None:
        return None
    own = [model.run.recipe.data for model in models if model.run]
    names = {d.name for d in own}
    if data is None and len(names) != 1:
        raise ConfigError("name the dataset to measure mIoU on: --data NAME or --data path/to/dataset.toml.")
    name = data or own[0].name
    same = [d for d in own if d.name == name]
    roots = [Path(d.root) for d in same if d.root]
    return LabelledImages(name, split or (same[0].val_split if same else "val"), root or (roots[0] if roots else None))
