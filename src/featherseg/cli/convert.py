"""`featherseg convert SRC --out OUT`: files of annotation tools to a dataset folder, and back."""

from __future__ import annotations

import shlex
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from featherseg.cli.options import out_option
from featherseg.cli.progress import progress_bar
from featherseg.core.wording import counted, one_line

if TYPE_CHECKING:
    from featherseg.cli.terminal import Console
    from featherseg.converters import Conversion


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
            "--to", metavar="FORMAT", help="Write as coco, yolo, labelme, cvat, geojson or csv."
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
    from featherseg.converters import RELEASE

    console = Console(highlight=False, soft_wrap=True)
    with progress_bar(console) as progress:
        conversion = featherseg.convert(
            src,
            out,
            from_format=from_,
            to_format=to,
            images=images,
            copy=copy,
            train_ids=train_ids,
            progress=progress,
        )
    _print_conversion(console, conversion)
    if from_ == RELEASE and out.resolve() == (src / "gtFine").resolve():
        options = f"--data {RELEASE} --data-root {shlex.quote(one_line(str(src)))}"
        console.print(f"Use it with {options}", markup=False)
    elif from_ != RELEASE and to is None:
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
