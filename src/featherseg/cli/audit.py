"""`featherseg audit DATA`: find masks that are probably wrong."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any

import typer

from featherseg.cli.options import AnyDataset, DataRoot, Device, out_option
from featherseg.cli.progress import progress_bar
from featherseg.core.errors import ConfigError
from featherseg.core.wording import one_line

SHOWN = 10
"""Number of images that are printed."""


def audit(
    data: AnyDataset,
    run: Annotated[
        str | None,
        typer.Option(help="A run (folder or name) that was trained on none of these images."),
    ] = None,
    minutes: Annotated[
        float, typer.Option(help="Time limit of the whole command.", min=1, max=100_000)
    ] = 30,
    to: Annotated[
        str | None,
        typer.Option(
            "--to",
            metavar="FORMAT",
            help="Also write the most suspicious images for labelme, cvat, coco or yolo.",
        ),
    ] = None,
    top: Annotated[
        int | None, typer.Option(help="Number of images that --to writes [default: 50].", min=1)
    ] = None,
    data_root: DataRoot = None,
    device: Device = "auto",
    json_file: Annotated[
        Path | None,
        typer.Option("--json", metavar="FILE", help="Also write the lists to this file."),
    ] = None,
    out: Annotated[Path, out_option("The page to write.")] = Path("audit.html"),
) -> None:
    """Find masks that are probably wrong before you train on them.

    A model that never saw the sequence of an image (or its part of a long one) predicts it: models
    from quick trainings within --minutes, or --run. A scorer learns from faults planted into copies
    of the masks, and its hit rate on them is printed. If the ranking would be no better than
    chance, none is shown, and the minutes that longer trainings need are printed: 8 to 20 minutes
    of one core for images of 224x224, more in proportion to the pixels. The dataset is not changed.
    The exit code is 0 whatever is audited. After Ctrl-C the same command continues.

    On the page, a key accepts the prediction in a region, keeps the mask, or skips the region;
    `featherseg check DATA --fix OUT --decisions FILE` writes a corrected copy. --to writes the most
    suspicious images and their masks to a new folder next to the page (audit.labelme), to be
    corrected in the annotation tool.
    """
    import featherseg
    from featherseg.auditing.audit import TRAINING
    from featherseg.cli.terminal import Console
    from featherseg.core.files import check_writable, write_json

    if json_file is not None:
        check_writable(json_file)
        if json_file.resolve() == out.resolve():
            raise ConfigError(f"--json {json_file} would overwrite the page. Name another file.")
    console = Console(highlight=False, markup=False, soft_wrap=True)
    trainings = "" if run else f"three quick trainings ({TRAINING:.0%} of the time), then "
    plan = (
        f"{trainings}images are predicted and scored as far as the time allows: {minutes:g} "
        "minutes in total"
    )
    with progress_bar(console) as progress:
        plans = [plan]

        def report_progress(*step: Any) -> None:
            """Print the plan at the first step, when all options were accepted."""
            if plans:
                console.print(plans.pop())
            progress(*step)

        audited = featherseg.audit(
            data,
            out,
            run=run,
            minutes=minutes,
            to_format=to,
            top=top,
            data_root=data_root,
            device=device,
            progress=report_progress,
        )
    if json_file is not None:
        write_json(json_file, audited.as_dict())
    if audited.no_ranking is not None:
        console.print(audited.no_ranking)
    for key, score in audited.images[:SHOWN]:
        console.print(f"{score:.2f}  {one_line(key)}")
    if audited.self_test.images and audited.no_ranking is None:
        console.print(f"self test: {audited.self_test.message}")
    for note in audited.notes:
        console.print(f"note: {one_line(note)}", style="yellow")
    if audited.to is not None:
        console.print(f"for {to}: {one_line(str(audited.to))}")
    console.print(f"the page is {one_line(str(audited.page))}")
