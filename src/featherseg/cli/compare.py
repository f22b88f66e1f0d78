"""`featherseg compare`: models side by side on your own images, or a paper's tables counted again."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from featherseg.cli.comparison_tables import print_outcome, print_paper
from featherseg.cli.options import (
    AsJson,
    Data,
    DataRoot,
    Device,
    ResizeTo,
    Scales,
    Split,
    Tta,
    parse_inference,
    parse_size,
    with_own_resize,
)
from featherseg.cli.progress import progress_bar
from featherseg.core.errors import ConfigError
from featherseg.core.wording import json_text

if TYPE_CHECKING:
    from featherseg.comparison.candidates import Candidate
    from featherseg.data.labelled_images import LabelledImages

SEEDS = "0,1,2"


def compare(
    runs: Annotated[
        list[str] | None, typer.Argument(help="Run folders, names of runs, exported files.", metavar="[RUN]...")
    ] = None,
    data: Data = None,
    data_root: DataRoot = None,
    split: Split = None,
    scales: Scales = "1",
    tta: Tta = None,
    resize: ResizeTo = None,
    size: Annotated[
        str | None, typer.Option(metavar="HxW", help="Size to time and count at [default: a typical image's].")
    ] = None,
    max_ms: Annotated[float | None, typer.Option(help="Name the best model within so many ms (p50).")] = None,
    max_mib: Annotated[float | None, typer.Option(help="Name the best model within so much peak memory.")] = None,
    costs: Annotated[bool, typer.Option("--costs/--no-costs", help="Measure time and memory too.")] = True,
    device: Device = "auto",
    output: Annotated[Path | None, typer.Option("-o", "--out", help="Write the comparison as one HTML page.")] = None,
    as_json: AsJson = False,
    recipe: Annotated[
        str | None, typer.Option("--train", metavar="RECIPE", help="Train --models under this recipe first.")
    ] = None,
    models: Annotated[str | None, typer.Option(help="With --train: models, as in frm-lite0,rsp-lite0.")] = None,
    seeds: Annotated[
        str | None, typer.Option(help="With --train: one run of each model a seed [default: 0,1,2].")
    ] = None,
    out: Annotated[
        Path | None, typer.Option(help="With --train: the folder of the runs; goes on where it was.")
    ] = None,
    overrides: Annotated[
        list[str] | None, typer.Option("--set", metavar="KEY=VALUE", help="With --train: override a recipe's key.")
    ] = None,
    paper: Annotated[str | None, typer.Option(help="Count a paper's tables again: frm, cgrseg or rsp.")] = None,
) -> None:
    """Compare models on your own images: accuracy with intervals, size, time, memory, the pick for a budget.

    Runs that differ in their seed alone are runs of one model: with three of each it is said which models differ,
    with fewer only which files. With --train every model is trained under one recipe first. With --paper nothing is
    run: published figures stand beside our counts, each with a verdict.
    """
    ways = {"runs": bool(runs), "--train": recipe is not None, "--paper": paper is not None}
    if sum(ways.values()) != 1:
        raise ConfigError("name what to compare, one of the three: two runs or more, --train RECIPE, or --paper NAME.")
    of_training = {"--models": models, "--seeds": seeds, "--out": out, "--set": overrides}
    of_scoring: dict[str, object] = {"--data": data, "--data-root": data_root, "--split": split, "--tta": tta}
    of_scoring |= {"--resize": resize, "--size": size, "--max-ms": max_ms, "--max-mib": max_mib, "--out": output}
    _refuse_given(of_training if recipe is None else {}, "goes with --train RECIPE")
    _refuse_given(of_scoring if paper is not None else {}, "does not go with --paper, which runs nothing")
    inference = parse_inference(None, scales, tta, resize)
    at = parse_size(size, "--size") if size else None
    from featherseg.cli.terminal import Console

    console = Console(stderr=as_json, highlight=False, soft_wrap=True)
    if paper is not None:
        print_paper(paper, console, as_json=as_json)
        return
    from featherseg.comparison.as_json import to_json
    from featherseg.comparison.candidates import open_candidates
    from featherseg.comparison.comparison import Budgets
    from featherseg.comparison.comparison import compare as contest
    from featherseg.comparison.page import comparison_html
    from featherseg.core.allocator import keep_freed_memory
    from featherseg.core.files import check_writable, write_text
    from featherseg.core.machine import pick_device

    budgets = Budgets(max_ms, max_mib)
    budgets.check(costs)
    pick_device(device)  # raises here for a wrong one, not after a training
    if output:
        check_writable(output)
    keep_freed_memory()
    chosen = DataChoice(data, data_root, split, tuple(overrides or ()))
    names = runs or _train(recipe, models, seeds or SEEDS, out, chosen, stderr=as_json)
    candidates = open_candidates(names, device)
    labelled = _labelled(candidates, chosen)
    with progress_bar(console) as progress:
        outcome = contest(
            candidates,
            labelled,
            lambda runtime: with_own_resize(inference, resize, runtime),
            size=at,
            costs=costs,
            progress=progress,
        )
    if as_json:
        print(json_text(to_json(outcome, budgets)))
    else:
        print_outcome(console, outcome, budgets)
    if output:
        write_text(output, comparison_html(outcome, budgets))
        console.print(f"the page is {output}")


def _refuse_given(options: Mapping[str, object], why: str) -> None:
    """Raises ConfigError for the first of these options that was given."""
    for flag, value in options.items():
        if value:
            raise ConfigError(f"{flag} {why}. Leave it out.")


@dataclass(frozen=True)
class DataChoice:
    """What was chosen for on the command line: the data (None = the runs' own), and overrides of the recipe."""

    data: str | None
    root: Path | None
    split: str | None
    overrides: tuple[str, ...]


def _train(
    recipe: str | None, models: str | None, seeds: str, out: Path | None, chosen: DataChoice, *, stderr: bool
) -> list[str]:
    """Train --models under the recipe, telling of it on stdout or stderr; -> the runs."""
    if not recipe or not models or out is None:
        raise ConfigError("--train needs --models A,B,... and --out, the folder of the runs.")
    if not all(seed.strip().isdecimal() for seed in seeds.split(",")):
        raise ConfigError(f"--seeds {seeds!r}: expected whole numbers with commas between, such as 0,1,2.")
    from featherseg.cli.train import TrainingProgress
    from featherseg.core.errors import require
    from featherseg.core.files import check_folder

    check_folder(out)
    require("lightning", "train", "training")
    from featherseg.data.labelled_images import LabelledImages
    from featherseg.training import Request
    from featherseg.training.field import train_sweep

    names, numbers = [m.strip() for m in models.split(",")], [int(seed) for seed in seeds.split(",")]
    if len(names) * len(numbers) < 2:
        raise ConfigError(f"--models {models} --seeds {seeds} make one run: name two models or seeds, or more.")
    request = Request(recipe, chosen.data, chosen.root, None, chosen.overrides)
    if chosen.split:
        data = request.read()[1].data
        LabelledImages(
            data.name, chosen.split, Path(data.root) if data.root else None
        ).open()  # raises before the training
    with TrainingProgress(stderr=stderr) as progress:
        return [str(run) for run in train_sweep(request, names, numbers, out, progress)]


def _labelled(candidates: Sequence[Candidate], chosen: DataChoice) -> LabelledImages:
    """What everyone is scored on: the runs' own data and split where they agree and nothing else is chosen."""
    from featherseg.data.labelled_images import LabelledImages

    own = [one.run.recipe.data for one in candidates if one.run]
    names, splits = {d.name for d in own}, {d.val_split for d in own}
    if chosen.data is None and len(names) != 1:
        found = f"the runs were trained on {', '.join(sorted(names))}" if names else "exported files do not know theirs"
        raise ConfigError(f"{found}: name the dataset to compare on with --data NAME or --data path/to/dataset.toml.")
    name = chosen.data or own[0].name
    split = chosen.split or (splits.pop() if len(splits) == 1 and names == {name} else "val")
    roots = [Path(d.root) for d in own if d.name == name and d.root]
    size = own[0].val_size if own and (name, split) == (own[0].name, own[0].val_split) else None
    return LabelledImages(name, split, chosen.root or (roots[0] if roots else None), size)
