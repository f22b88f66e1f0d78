"""`featherseg convert SRC --out OUT`: what annotation tools write becomes a dataset folder, and back."""

from __future__ import annotations

import shlex
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from featherseg.cli.options import out_option
from featherseg.cli.progress import progress_bar
from featherseg.core.errors import ConfigError, unknown
from featherseg.core.wording import counted, one_line

if TYPE_CHECKING:
    from featherseg.cli.terminal import Console
    from featherseg.converters import Conversion

RELEASES = ("cityscapes-panoptic",)
"""Releases of datasets that `--from` takes beside the formats of annotation tools."""


def convert(
    src: Annotated[
        Path, typer.Argument(help="A folder, a file of annotations, or the zip of an export.")
    ],
    out: Annotated[Path, out_option("Output folder, a new one.")],
    from_: Annotated[
        str | None,
        typer.Option("--from", metavar="FORMAT", help="What SRC holds [default: it is detected]."),
    ] = None,
    to: Annotated[
        str | None,
        typer.Option("--to", metavar="FORMAT", help="Back to a tool: coco, yolo, labelme or cvat."),
    ] = None,
    images: Annotated[
        Path | None,
        typer.Option("--images", help="The folder of the images, where they are not in SRC."),
    ] = None,
    copy: Annotated[
        bool, typer.Option("--copy", help="Copy the images [default: hard links].")
    ] = False,
    train_ids: Annotated[
        bool,
        typer.Option(
            "--train-ids", help="Of cityscapes-panoptic: train ids as categories, not label ids."
        ),
    ] = False,
) -> None:
    """Write what an annotation tool exported as images/, masks/ and dataset.toml; objects are kept in instances/.

    FORMAT: coco, coco-panoptic, labelme, cvat, yolo, label-studio, supervisely, voc, roboflow or rgb-masks. Of shapes
    that overlap the later one lies on top; pixels without a shape become the class background. What could not be used
    is named, and left out.

    With --to, SRC is a dataset, or a folder of masks that `featherseg predict` wrote, and OUT what the tool imports.

    --from cityscapes-panoptic writes the panoptic masks of Cityscapes as PNG and JSON, from the instance ids of its
    release; after an interruption the same command continues where it stopped.
    """
    from featherseg.cli.terminal import Console

    console = Console(highlight=False, soft_wrap=True)
    from featherseg.converters import FORMATS

    if from_ is not None and from_ not in (*FORMATS, *RELEASES):
        raise unknown("format", from_, [*FORMATS, *RELEASES])
    if train_ids and from_ not in RELEASES:
        raise ConfigError("--train-ids is for --from cityscapes-panoptic alone. Leave it out.")
    if from_ in RELEASES:
        if unfit := [
            name
            for name, given in {"--to": to, "--images": images, "--copy": copy}.items()
            if given
        ]:
            raise ConfigError(f"{', '.join(unfit)} cannot go with --from {from_}. Leave it out.")
        _convert_release(console, src, out, train_ids)
        return
    import featherseg

    with progress_bar(console) as progress:
        done = featherseg.convert(
            src, out, from_format=from_, to_format=to, images=images, copy=copy, progress=progress
        )
    _print_done(console, done)
    if to is None:
        console.print(
            f"Use it with --data {shlex.quote(one_line(str(done.out / 'dataset.toml')))}",
            markup=False,
        )


def _print_done(console: Console, done: Conversion) -> None:
    images = counted(sum(done.images.values()), "image")
    if list(done.images) != ["all"]:
        images += f" ({', '.join(f'{split} {number}' for split, number in done.images.items())})"
    classes = ", ".join(map(one_line, done.classes))
    console.print(f"{done.format}: {images}; {len(done.classes)} classes: {classes}", markup=False)
    for line in done.left_lines():
        console.print(one_line(line), style="yellow", markup=False)
    for note in done.notes:
        console.print(f"note: {one_line(note)}", style="yellow", markup=False)


def _convert_release(console: Console, root: Path, out: Path, train_ids: bool) -> None:
    from featherseg.data.datasets.cityscapes_convert import convert_cityscapes

    with progress_bar(console) as progress:
        converted = convert_cityscapes(root, out, train_ids=train_ids, progress=progress)
    for split in converted:
        kept = f", {split.kept} of them already there" if split.kept else ""
        print(one_line(f"{split.json}: {counted(split.images, 'image')}{kept}"))
    if out.resolve() == (root / "gtFine").resolve():
        print(
            one_line(f"Use it with --data cityscapes-panoptic --data-root {shlex.quote(str(root))}")
        )
