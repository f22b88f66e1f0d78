"""`featherseg weights`: list and fetch the backbones' ImageNet weights."""

from typing import Annotated

import typer

from featherseg.cli.options import AsJson
from featherseg.core.errors import ConfigError, did_you_mean
from featherseg.core.types import Progress
from featherseg.core.wording import json_text, one_line


def weights(
    action: Annotated[
        str | None,
        typer.Argument(
            metavar="[get]", help="get: fetch the weights of the backbones that follow."
        ),
    ] = None,
    backbones: Annotated[
        list[str] | None,
        typer.Argument(metavar="[BACKBONE]...", help="Such as van-b1 or timm:NAME."),
    ] = None,
    as_json: AsJson = False,
) -> None:
    """List the backbones' ImageNet weights (licence, size, source), or fetch some with `get`.

    After an interruption the same command continues a download; incomplete files are not used. The
    checksum is compared with the published one; if none was published, it is recorded next to the
    file.
    """
    if action not in (None, "get"):
        raise ConfigError(
            f"featherseg weights {action}: expected nothing or get.{did_you_mean(action, ['get'])}"
        )
    if action == "get" and not backbones:
        raise ConfigError("name the backbones to fetch, such as:\nfeatherseg weights get van-b1")
    if action == "get" and as_json:
        raise ConfigError("--json lists the weights; leave it out with get.")
    from featherseg.backbones.weights import published, weights_folder
    from featherseg.cli.progress import progress_bar
    from featherseg.cli.terminal import Console
    from featherseg.training.pretrained import fetch_pretrained, pretrained_rows

    if action is None:
        rows = pretrained_rows()
        if as_json:
            print(json_text(rows))
            return
        licence = ""
        for row in rows:
            if row["licence"] != licence:  # printed once above the rows that share it
                licence = row["licence"]
                print(one_line(licence))
            here, size = "here" if row["here"] else "-", f"{row['bytes'] / 1e6:.1f} MB"
            print(one_line(f"  {row['backbone']:<22}{here:<5}{size:>9}  {row['address']}"))
        print("Sizes of missing files are estimated from the backbone's parameters.", end=" ")
        print(one_line(f"Files are fetched to {weights_folder()}"))
        return
    console = Console(stderr=True)
    for name in dict.fromkeys(backbones or ()):
        with progress_bar(console) as bar:

            def show(file: str, done: int, total: int | None, bar: Progress = bar) -> None:
                """Show the megabytes of a file on the bar."""
                bar(f"{file} {done / 1e6:.0f} of {(total or 0) / 1e6:.0f} MB", done, total)

            path, digest = fetch_pretrained(name, show)
        source = published(name)
        check = "as published" if source.sha256 else "not published, recorded next to the file"
        print(one_line(f"{name}: {path}"))
        print(one_line(f"  sha256 {digest} ({check}); licence: {source.licence}"))
