"""`featherseg evaluate`: score a run, an exported file, or a folder of predictions on a dataset."""

from __future__ import annotations

import os
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from featherseg.cli.options import (
    AsJson,
    Data,
    DataRoot,
    Device,
    ResizeTo,
    Scales,
    Split,
    Tta,
    Window,
    parse_inference,
    with_own_resize,
)
from featherseg.cli.progress import progress_bar
from featherseg.cli.score_tables import print_comparison, print_scores
from featherseg.core.errors import ConfigError
from featherseg.core.wording import counted, json_text

if TYPE_CHECKING:
    from featherseg.cli.terminal import Console
    from featherseg.core.types import SegmentationData
    from featherseg.counting.published import Comparison
    from featherseg.evaluation.scoring import Scores
    from featherseg.inference.runtimes import Runtime
    from featherseg.inference.settings import InferenceSettings
    from featherseg.runs import Run


def evaluate(
    run: Annotated[
        str | None, typer.Argument(help="A run folder, the name of one, or an exported file.", metavar="RUN")
    ] = None,
    predictions: Annotated[
        Path | None, typer.Option(help="Score this folder of index PNGs (KEY.png) instead of a model.")
    ] = None,
    data: Data = None,
    data_root: DataRoot = None,
    split: Split = None,
    full: Annotated[
        bool, typer.Option("--full", help="Score all images, also those that the run's data.val_size left out.")
    ] = False,
    device: Device = "auto",
    tta: Tta = None,
    scales: Scales = "1",
    window: Window = None,
    resize: ResizeTo = None,
    as_json: AsJson = False,
) -> None:
    """Score at the labels' full resolution: mIoU, IoU by class, pixel and class accuracy, boundary F.

    A run keeps its scores (scores.json, a line in evaluations.jsonl, the best and worst images in examples/). With an
    exported file, --predictions or a run that comes with featherseg nothing is written. Where the run's recipe names
    the row of a paper, its figures are printed beside the run's own.
    """
    if (run is None) == (predictions is None):
        raise ConfigError("name what to score: a RUN (or an exported file), or --predictions DIR, and not both.")
    inference = parse_inference(window, scales, tta, resize)
    from featherseg.cli.terminal import Console
    from featherseg.evaluation.scoring import to_json
    from featherseg.inference.runtimes import is_exported_file

    console = Console(stderr=as_json, highlight=False, soft_wrap=True)
    comparison = None
    if predictions is not None:
        scores = _score_predictions(predictions, _named_data(data, data_root, split), console)
    elif is_exported_file(str(run)):
        scores = _score_file(
            Path(str(run)), _named_data(data, data_root, split), device, Views(inference, resize), console
        )
    else:
        chosen = DataChoice(data, data_root, split, full)
        scores, comparison = _score_run(str(run), chosen, device, Views(inference, resize), console)
    if as_json:
        print(json_text(to_json(scores)))
        return
    print_scores(console, scores)
    if comparison is not None:
        print_comparison(console, comparison)


@dataclass(frozen=True)
class DataChoice:
    """The data as asked for on the command line; None = the run's own."""

    data: str | None
    root: Path | None
    split: str | None
    full: bool


@dataclass(frozen=True)
class Views:
    """How images are seen, as asked for on the command line; `resize` is the text of --resize, None = the run's own."""

    inference: InferenceSettings
    resize: str | None

    def of(self, runtime: Runtime, console: Console) -> InferenceSettings:
        """The inference for a model; said where it is not the plain one."""
        inference = with_own_resize(self.inference, self.resize, runtime)
        if str(inference) != "whole":
            console.print(f"images are looked at: {inference}")
        return inference


def _named_data(name: str | None, root: Path | None, split: str | None) -> SegmentationData:
    from featherseg.data import open_dataset

    if name is None:
        raise ConfigError("name the dataset: --data NAME or --data path/to/dataset.toml. Only a run knows its own.")
    return open_dataset(name, split or "val", root)


def _run_data(run: Run, chosen: DataChoice, console: Console) -> tuple[SegmentationData, str]:
    """The data to score a run on, and its split: the run's own, as training validated on it unless chosen."""
    from featherseg.data import open_dataset

    own = run.recipe.data
    if chosen.data not in (None, own.name):
        split = chosen.split or "val"
        return open_dataset(str(chosen.data), split, chosen.root), split
    split = chosen.split or own.val_split
    root = chosen.root or (Path(own.root) if own.root else None)
    size = own.val_size if split == own.val_split and not chosen.full else None
    if size is not None:
        console.print(f"{counted(size, 'image')} of {split}, as in training (data.val_size); all of them with --full")
    return open_dataset(own.name, split, root, size), split


def _score_predictions(folder: Path, data: SegmentationData, console: Console) -> Scores:
    from featherseg.evaluation.scoring import evaluate_predictions

    with progress_bar(console) as progress:
        return evaluate_predictions(folder, data, progress=progress)


def _score_file(path: Path, data: SegmentationData, device: str, views: Views, console: Console) -> Scores:
    from featherseg.evaluation.scoring import evaluate as score
    from featherseg.inference.runtimes import open_runtime

    runtime = open_runtime(path, device)
    inference = views.of(runtime, console)
    with progress_bar(console) as progress:
        return score(runtime, data, inference, progress=progress)


def _score_run(
    name: str, chosen: DataChoice, device: str, views: Views, console: Console
) -> tuple[Scores, Comparison | None]:
    """Score a run and record it there; -> what was found, and the paper's row beside it."""
    import torch

    from featherseg.core.allocator import keep_freed_memory
    from featherseg.counting.published import compare
    from featherseg.evaluation.scoring import evaluate as score
    from featherseg.inference.runtimes import open_runtime
    from featherseg.reports.record import check_recordable, record
    from featherseg.runs import load_run

    keep_freed_memory()
    run = load_run(name)
    if not run.shipped:
        check_recordable(run)
    data, split = _run_data(run, chosen, console)
    runtime = open_runtime(run, device)
    inference = views.of(runtime, console)
    if run.info.threads <= (os.cpu_count() or 1):
        torch.set_num_threads(run.info.threads)  # as in training: other numbers may give other last bits
    with progress_bar(console) as progress:
        scores = score(runtime, data, inference, progress=progress)
    if run.shipped:
        console.print(f"{run.name} comes with featherseg: its scores are shown, and nothing is kept of them")
        return scores, compare(run)
    times = record(run, runtime, data, split, inference, scores)
    if split == "test":
        console.print(f"test has been looked at {times} time{'s' * (times != 1)} by this run")
    return scores, compare(run)
