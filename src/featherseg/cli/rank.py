"""`featherseg rank RUN FOLDER`: which unlabelled images to annotate next."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from featherseg.cli.options import DataRoot, Device, RunOrFile, out_option
from featherseg.cli.progress import progress_bar
from featherseg.core.wording import counted, one_line

SHOWN = 10
"""How many images are printed, and how many that were left out."""


def rank(
    run: RunOrFile,
    folder: Annotated[Path, typer.Argument(metavar="FOLDER", help="Unlabelled images, also in folders below it.")],
    top: Annotated[int, typer.Option(help="How many images to list.")] = 50,
    out: Annotated[Path, out_option("The list, a .csv file; the page lies beside it.")] = Path("to_label.csv"),
    by: Annotated[
        str | None,
        typer.Option(
            help="both, uncertainty or diversity [default: both; of an exported file, which gives no features, "
            "uncertainty].",
        ),
    ] = None,
    to: Annotated[
        str | None,
        typer.Option("--to", metavar="FORMAT", help="Also predicted masks to correct in labelme, cvat, coco or yolo."),
    ] = None,
    data_root: DataRoot = None,
    device: Device = "auto",
) -> None:
    """List the images that are worth annotating next: those uncertain to the model, and unlike labelled ones.

    The score is the uncertainty of an image's regions times the distance of its features to the nearest image that is
    labelled or higher on the list. Frames of a sequence are listed apart from each other, images that the run knows
    with masks are left out. Stopped with Ctrl-C, the same command goes on where it was.

    In a simulation on CamVid and NEU-Seg training on such lists was not shown to give better models than on images
    drawn at random, frames apart, nor was the distance alone (--by diversity): docs/data/rank.md.

    With --to the listed images are written with their predicted masks into a new folder beside the list
    (to_label.labelme), to be corrected in that tool.
    """
    import featherseg
    from featherseg.cli.terminal import Console

    console = Console(highlight=False, markup=False, soft_wrap=True)
    with progress_bar(console) as progress:
        found = featherseg.rank(
            run,
            folder,
            out,
            top=top,
            by=by,
            to_format=to,
            data_root=data_root,
            device=device,
            progress=progress,
        )
    for row in found.images[:SHOWN]:
        console.print(f"{row.score:.3f}  {one_line(row.image)}")
    for message in found.left_out[:SHOWN]:
        console.print(f"left out: {one_line(message)}", style="red")
    if len(found.left_out) > SHOWN:
        console.print(f"left out: {len(found.left_out) - SHOWN} more", style="red")
    for note in found.notes:
        console.print(f"note: {one_line(note)}", style="yellow")
    console.print(f"{counted(len(found.images), 'image')} in {one_line(str(found.out))}")
    console.print(f"the page is {one_line(str(found.page))}")
    if found.to is not None:
        console.print(f"masks to correct are in {one_line(str(found.to))}")
