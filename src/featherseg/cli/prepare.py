"""`featherseg prepare DATA`: store decoded images and labels, so that training is faster."""

from __future__ import annotations

from enum import StrEnum
from pathlib import Path
from typing import Annotated

import typer

from featherseg.cli.options import DataRoot, Dataset, out_option
from featherseg.cli.progress import progress_bar
from featherseg.core.errors import ConfigError
from featherseg.core.wording import counted, one_line


class ImageStorage(StrEnum):
    """How images are stored."""

    RAW = "raw"
    JPEG = "jpeg"


def prepare(
    data: Dataset,
    data_root: DataRoot = None,
    split: Annotated[
        list[str] | None, typer.Option(help="A split to prepare; may be repeated [default: all].")
    ] = None,
    storage: Annotated[
        ImageStorage,
        typer.Option(help="raw is lossless; jpeg is smaller, and for training only."),
    ] = ImageStorage.RAW,
    quality: Annotated[
        int | None,
        typer.Option(min=1, max=100, help="JPEG quality, for --storage jpeg [default: 95]."),
    ] = None,
    out: Annotated[
        Path | None, out_option("Write to this folder [default: .featherseg next to the data].")
    ] = None,
) -> None:
    """Store decoded images and labels of a dataset; training and evaluation then use them.

    After an interruption the same command continues where it stopped; after a change to the data it
    stores what has changed.
    """
    import featherseg
    from featherseg.cli.terminal import Console

    if quality is not None and storage is not ImageStorage.JPEG:
        raise ConfigError("--quality is for --storage jpeg alone. Leave it out.")
    with progress_bar(Console(stderr=True, highlight=False)) as progress:
        by_split = featherseg.prepare(
            data,
            data_root,
            splits=split or (),
            jpeg_quality=quality or 95 if storage is ImageStorage.JPEG else None,
            out=out,
            progress=progress,
        )
    for name, prepared in by_split.items():
        kept = f", {prepared.kept} of them already there" if prepared.kept else ""
        gigabytes = f"{prepared.folder_bytes / 1e9:.2f} GB"
        images = f"{counted(prepared.images, 'image')}{kept}"
        print(one_line(f"{name}: {images}; {prepared.folder} has {gigabytes}"))
    if out is not None:
        print(one_line(f"Used if FEATHERSEG_CACHE={out} is set."))
