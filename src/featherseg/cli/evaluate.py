"""`featherseg evaluate`: score a run, an exported file, or a folder of predictions on a dataset."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from featherseg.cli.options import (
    AsJson,
    Data,
    DataRoot,
    Device,
    ResizeTo,
    Scales,
    ScoreSplit,
    Trust,
    Tta,
    Window,
    parse_inference,
)
from featherseg.cli.progress import progress_bar
from featherseg.cli.score_tables import print_comparison, print_scores
from featherseg.core.wording import json_text, one_line


def evaluate(
    run: Annotated[
        str | None,
        typer.Argument(help="A run (folder or name) or an exported file.", metavar="RUN"),
    ] = None,
    predictions: Annotated[
        Path | None,
        typer.Option(
            help="Instead of a model, evaluate this folder of index PNGs, as predict writes them "
            "or KEY.png."
        ),
    ] = None,
    data: Data = None,
    data_root: DataRoot = None,
    split: ScoreSplit = None,
    full: Annotated[
        bool,
        typer.Option(
            "--full",
            help="Evaluate all images, also those that the run's data.val_size excludes.",
        ),
    ] = False,
    device: Device = "auto",
    tta: Tta = None,
    scales: Scales = "1",
    window: Window = None,
    resize: ResizeTo = None,
    trust: Trust = False,
    as_json: AsJson = False,
) -> None:
    """Evaluate at full label resolution: mIoU, IoU by class, pixel and class accuracy, boundary F.

    A run keeps its scores (scores.json, a line in evaluations.jsonl, the best and worst images in
    examples/) and counts its looks at test. "selected on these images" marks the split by which the
    run's best weights were chosen: expect lower scores on unseen images. Nothing is written for an
    exported file, --predictions or a run included in featherseg. If the run's recipe names the row
    of a paper, its figures are printed next to the run's own, followed by every setting in which
    the run differs from the row's recipe.
    """
    inference = parse_inference(window, scales, tta, resize)
    import featherseg
    from featherseg.cli.terminal import Console
    from featherseg.core.allocator import keep_freed_memory

    keep_freed_memory()
    console = Console(stderr=as_json, highlight=False, soft_wrap=True)
    with progress_bar(console) as progress:
        scores = featherseg.evaluate(
            run,
            data,
            split,
            data_root=data_root,
            predictions=predictions,
            full=full,
            device=device,
            inference=inference,
            trust=trust,
            progress=progress,
        )
    for note in scores.notes:
        console.print(one_line(note), markup=False)
    if as_json:
        print(json_text(scores.as_dict()))
        return
    print_scores(console, scores)
    if scores.published is not None:
        print_comparison(console, scores.published)
