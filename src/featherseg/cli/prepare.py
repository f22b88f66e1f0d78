"""`featherseg prepare DATA`: store images and labels as they are needed, so that training need not decode them."""

from __future__ import annotations

from enum import StrEnum
from pathlib import Path
from typing import Annotated

import typer

from featherseg.cli.options import DataRoot, Dataset, out_option
from featherseg.cli.progress import progress_bar
from featherseg.core.errors import ConfigError
from featherseg.core.wording import counted, one_line


class Stored(StrEnum):
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
        Stored, typer.Option(help="raw is lossless; jpeg is smaller, and for training only.")
    ] = Stored.RAW,
    quality: Annotated[
        int | None,
        typer.Option(min=1, max=100, help="JPEG quality, for --storage jpeg [default: 95]."),
    ] = None,
    out: Annotated[
        Path | None, out_option("Write to this folder [default: .featherseg next to the data].")
    ] = None,
) -> None:
    """Store the decoded images and labels of a dataset; training and evaluation then use them automatically.

    After an interruption the same command continues where it stopped; after a change to the data it stores what has
    changed.
    """
    from featherseg.cli.terminal import Console
    from featherseg.data.cache.prepared import Storage
    from featherseg.data.cache.prepared_writer import prepare_data, splits_on_disk

    if quality is not None and storage is not Stored.JPEG:
        raise ConfigError("--quality is for --storage jpeg alone. Leave it out.")
    stored_as = Storage((quality or 95) if storage is Stored.JPEG else None)
    console = Console(stderr=True, highlight=False)
    for name in split or splits_on_disk(data, data_root):
        with progress_bar(console) as progress:
            done = prepare_data(data, name, data_root, stored_as, out, progress)
        kept = f", {done.kept} of them already there" if done.kept else ""
        gigabytes = f"{done.folder_bytes / 1e9:.2f} GB"
        print(
            one_line(
                f"{name}: {counted(done.images, 'image')}{kept}; {done.folder} has {gigabytes}"
            )
        )
    if out is not None:
        print(one_line(f"Used where FEATHERSEG_CACHE={out} is set."))
