"""`featherseg sweep`: several models trained under one recipe, a run a seed, then compared."""

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
    MaxMib,
    MaxMs,
    Overrides,
    TrainingDevice,
    check_settings,
    out_option,
)
from featherseg.core.errors import ConfigError
from featherseg.core.wording import json_text, one_line


def sweep(
    recipe: Annotated[
        str, typer.Argument(help="A model (its default recipe), a shipped recipe, or a .toml file.")
    ],
    models: Annotated[
        str, typer.Option(help="The models to train, such as frm-lite0-light,rsp-lite0.")
    ],
    out: Annotated[
        Path, out_option("The folder for the runs, OUT/MODEL-SEED; a stopped sweep continues.")
    ],
    seeds: Annotated[str, typer.Option(help="Seeds; one run of each model per seed.")] = "0,1,2",
    data: Data = None,
    data_root: DataRoot = None,
    overrides: Overrides = None,
    max_ms: MaxMs = None,
    max_mib: MaxMib = None,
    costs: Costs = True,
    device: TrainingDevice = None,
    page: Annotated[
        Path | None, typer.Option(help="Write the comparison as one HTML page.")
    ] = None,
    as_json: AsJson = False,
) -> None:
    """Train several models under one recipe, then compare them on the validation split.

    You can stop it at any time: the same command keeps finished runs and continues a stopped one.
    To compare the runs on another split or with other settings: `featherseg compare OUT/*`.
    """
    if not all(seed.strip().isdecimal() for seed in seeds.split(",")):
        raise ConfigError(
            f"--seeds {seeds!r}: expected whole numbers separated by commas, such as 0,1,2."
        )
    import featherseg
    from featherseg.cli.terminal import Console
    from featherseg.cli.train import TrainingProgress
    from featherseg.core.allocator import keep_freed_memory

    options: dict[str, tuple[str, object]] = {
        "data.name": ("--data", data),
        "data.root": ("--data-root", data_root),
        "train.device": ("--device", device),
    }
    settings = check_settings(overrides, options)
    keep_freed_memory()
    with TrainingProgress(stderr=as_json) as progress:
        result = featherseg.sweep(
            recipe,
            [model.strip() for model in models.split(",")],
            out=out,
            seeds=[int(seed) for seed in seeds.split(",")],
            data=data,
            data_root=data_root,
            settings=settings,
            costs=costs,
            budgets={"max_ms": max_ms, "max_mib": max_mib},
            device=device,
            page=page,
            progress=progress,
        )
    console = Console(stderr=as_json, highlight=False, soft_wrap=True)
    if as_json:
        print(json_text(result.as_dict()))
    else:
        print_comparison(console, result.comparison)
    if page:
        console.print(one_line(f"the page is {page}"), markup=False)
