"""`featherseg convert SRC --out OUT`: files of annotation tools to a dataset folder, and back."""

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
"""Releases of datasets that `--from` accepts besides the formats of annotation tools."""


def convert(
    src: Annotated[
        Path, typer.Argument(help="A folder, a file of annotations, or the zip of an export.")
    ],
    out: Annotated[Path, out_option("Output folder, a new one.")],
    from_: Annotated[
        str | None,
        typer.Option("--from", metavar="FORMAT", help="The format of SRC [default: detected]."),
    ] = None,
    to: Annotated[
        str | None,
        typer.Option(
            "--to", metavar="FORMAT", help="Write for a tool: coco, yolo, labelme or cvat."
        ),
    ] = None,
    images: Annotated[
        Path | None,
        typer.Option("--images", help="The folder of the images, if they are not in SRC."),
    ] = None,
    copy: Annotated[
        bool, typer.Option("--copy", help="Copy the images [default: hard links].")
    ] = False,
    train_ids: Annotated[
        bool,
        typer.Option(
            "--train-ids", help="For cityscapes-panoptic: write train ids instead of label ids."
        ),
    ] = False,
) -> None:
    """Convert an annotation tool's export to a folder with images/, masks/ and dataset.toml.

    Objects are kept in instances/. FORMAT is coco, coco-panoptic, labelme, cvat, yolo,
    label-studio, supervisely, voc, roboflow or rgb-masks. If shapes overlap, the later one is on
    top; pixels without a shape become the class background. Annotations that cannot be used are
    skipped and listed.

    With --to, SRC is a dataset or a folder of masks from `featherseg predict`, and OUT is for the
    tool to import.

    --from cityscapes-panoptic writes the panoptic masks of Cityscapes as PNG and JSON, from the
    instance ids of its release; after an interruption the same command continues where it stopped.
    """
    import featherseg
    from featherseg.cli.terminal import Console
    from featherseg.converters import FORMATS

    console = Console(highlight=False, soft_wrap=True)

    if from_ is not None and from_ not in (*FORMATS, *RELEASES):
        raise unknown("format", from_, [*FORMATS, *RELEASES])
    if train_ids and from_ not in RELEASES:
        raise ConfigError("--train-ids is for --from cityscapes-panoptic alone. Leave it out.")
    if from_ in RELEASES:
        options = {"--to": to, "--images": images, "--copy": copy}
        if unfit := [option for option, value in options.items() if value]:
            raise ConfigError(f"{', '.join(unfit)} cannot go with --from {from_}. Leave it out.")
        _convert_release(console, src, out, train_ids)
        return
    with progress_bar(console) as progress:
        conversion = featherseg.convert(
            src, out, from_format=from_, to_format=to, images=images, copy=copy, progress=progress
        )
    _print_conversion(console, conversion)
    if to is None:
        toml = shlex.quote(one_line(str(conversion.out / "dataset.toml")))
        console.print(f"Use it with --data {toml}", markup=False)


def _print_conversion(console: Console, conversion: Conversion) -> None:
    images = counted(sum(conversion.images.values()), "image")
    if list(conversion.images) != ["all"]:
        splits = (f"{split} {number}" for split, number in conversion.images.items())
        images += f" ({', '.join(splits)})"
    classes = f"{len(conversion.classes)} classes: {', '.join(map(one_line, conversion.classes))}"
    console.print(f"{conversion.format}: {images}; {classes}", markup=False)
    for line in conversion.left_lines():
        console.print(one_line(line), style="yellow", markup=False)
    for note in conversion.notes:
        console.print(f"note: {one_line(note)}", style="yellow", markup=False)


def _convert_release(console: Console, root: Path, out: Path, train_ids: bool) -> None:
    from featherseg.data.datasets.cityscapes_convert import convert_cityscapes

    with progress_bar(console) as progress:
        splits = convert_cityscapes(root, out, train_ids=train_ids, progress=progress)
    for split in splits:
        kept = f", {split.kept} of them already there" if split.kept else ""
        print(one_line(f"{split.json}: {counted(split.images, 'image')}{kept}"))
    if out.resolve() == (root / "gtFine").resolve():
        options = f"--data cityscapes-panoptic --data-root {shlex.quote(str(root))}"
        print(one_line(f"Use it with {options}"))
