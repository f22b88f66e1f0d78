"""`featherseg convert DATASET`: the labels of a release become files in the form that a dataset is read in."""

from pathlib import Path
from typing import Annotated

import typer

from featherseg.cli.options import out_option
from featherseg.cli.progress import progress_bar
from featherseg.core.errors import unknown
from featherseg.core.wording import counted, one_line

DATASETS = ("cityscapes-panoptic",)


def convert(
    dataset: Annotated[str, typer.Argument(help="What to write: cityscapes-panoptic.")],
    data_root: Annotated[Path, typer.Option(help="The folder of the release, above gtFine.")],
    out: Annotated[Path | None, out_option("Output folder [default: gtFine in --data-root].")] = None,
    train_ids: Annotated[bool, typer.Option("--train-ids", help="Use train ids as categories, not label ids.")] = False,
) -> None:
    """Write the panoptic masks of Cityscapes as PNG and JSON, from the instance ids of its release.

    After an interruption the same command continues where it stopped.
    """
    if dataset not in DATASETS:
        raise unknown("dataset", dataset, DATASETS)
    from featherseg.cli.terminal import Console
    from featherseg.data.datasets.cityscapes_convert import convert_cityscapes

    with progress_bar(Console(highlight=False)) as progress:
        converted = convert_cityscapes(data_root, out, train_ids=train_ids, progress=progress)
    for split in converted:
        kept = f", {split.kept} of them already there" if split.kept else ""
        print(one_line(f"{split.json}: {counted(split.images, 'image')}{kept}"))
    if out is None:
        print(one_line(f"Use it with --data cityscapes-panoptic --data-root {data_root}"))
