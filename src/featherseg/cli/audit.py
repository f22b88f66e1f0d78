"""`featherseg audit DATA`: find masks that are probably wrong."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any

import typer

from featherseg.cli.options import DataRoot, Dataset, Device, out_option
from featherseg.cli.progress import progress_bar
from featherseg.core.errors import ConfigError
from featherseg.core.wording import one_line

SHOWN = 10
"""How many images are printed."""


def audit(
    data: Dataset,
    run: Annotated[
        str | None, typer.Option(help="A run (folder or name) that was trained on none of these.")
    ] = None,
    minutes: Annotated[
        float, typer.Option(help="Time limit of the whole command.", min=1, max=100_000)
    ] = 30,
    to: Annotated[
        str | None,
        typer.Option(
            "--to",
            metavar="FORMAT",
            help="Also the most suspicious images for labelme, cvat, coco or yolo.",
        ),
    ] = None,
    top: Annotated[
        int | None, typer.Option(help="How many images --to writes [default: 50].", min=1)
    ] = None,
    data_root: DataRoot = None,
    device: Device = "auto",
    json_file: Annotated[
        Path | None,
        typer.Option("--json", metavar="FILE", help="Also write the lists to this file."),
    ] = None,
    out: Annotated[Path, out_option("The page to write.")] = Path("audit.html"),
) -> None:
    """Find masks that are probably wrong before money is spent on training with them.

    Every image of train and val is predicted by a model that never saw its sequence (or, where whole sequences would
    not do, its part of it): quick trainings (--minutes bounds all of it), or --run. The scorer learns from faults
    planted into copies of the masks, and it prints how many of those it finds. If that is no better than chance, there
    is no ranking, and the minutes that longer trainings need are printed: images of 224x224 need eight to twenty
    minutes of one core, larger ones more in proportion to their pixels. Nothing of the dataset is changed. Exit code 0
    whatever is found. Stopped with Ctrl-C, the same command goes on where it was.

    On the page a key accepts the prediction in a region, keeps the mask, or skips it; `featherseg check DATA --fix OUT
    --decisions FILE` writes a corrected copy. With --to the most suspicious images are written with their masks as they
    are into a new folder beside the page (audit.labelme), to be corrected in the tool that they were drawn in.
    """
    from featherseg.auditing.audit import TRAINING
    from featherseg.auditing.audit import audit as audit_data
    from featherseg.cli.terminal import Console
    from featherseg.core.files import check_writable, write_json

    if json_file is not None:
        check_writable(json_file)
        if json_file.resolve() == out.resolve():
            raise ConfigError(
                f"--json {json_file} is the page, too, which would be lost. Name another file."
            )
    console = Console(highlight=False, markup=False, soft_wrap=True)
    trainings = "" if run else f"three quick trainings ({TRAINING:.0%} of the time), then "
    plan = f"{trainings}images are predicted, all that there is time for, and judged: {minutes:g} minutes in all"
    to_tell = iter((plan,))
    with progress_bar(console) as progress:

        def tell(*done: Any) -> None:
            for text in to_tell:  # with the first image, when nothing was refused
                console.print(text)
            progress(*done)

        found = audit_data(
            data,
            out,
            run=run,
            minutes=minutes,
            to_format=to,
            top=top,
            data_root=data_root,
            device=device,
            progress=tell,
        )
    if json_file is not None:
        write_json(json_file, found.as_dict())
    if found.no_ranking is not None:
        console.print(found.no_ranking)
    for key, score in found.images[:SHOWN]:
        console.print(f"{score:.2f}  {one_line(key)}")
    if found.self_test.images and found.no_ranking is None:
        console.print(f"self test: {found.self_test.message}")
    for note in found.notes:
        console.print(f"note: {one_line(note)}", style="yellow")
    if found.to is not None:
        console.print(f"for {to}: {one_line(str(found.to))}")
    console.print(f"the page is {one_line(str(found.page))}")
