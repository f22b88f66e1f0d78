"""`featherseg push`: write a run to the Hugging Face Hub."""

from pathlib import Path
from typing import Annotated

import typer

from featherseg.cli.options import RunFolder
from featherseg.core.wording import one_line


def push(
    run: RunFolder,
    address: Annotated[
        str, typer.Argument(metavar="hf://ORG/NAME", help="The repository; @BRANCH may follow.")
    ],
    public: Annotated[bool, typer.Option("--public", help="Make a new repository public.")] = False,
    image: Annotated[
        Path | None,
        typer.Option(help="An image to show in the card with its prediction; it is uploaded so."),
    ] = None,
) -> None:
    """Write a run to the Hugging Face Hub; every verb then accepts hf://ORG/NAME as a run.

    One commit contains the recipe, the record, the kept weights, metrics, scores and card. Other
    images, checkpoints and the fingerprint of the data's files are not uploaded. A new repository
    is private without --public. Log in with `hf auth login`, or set HF_TOKEN.
    """
    import featherseg

    print(one_line(featherseg.push(run, address, public=public, image=image)))
    print(one_line(f"every verb accepts it: featherseg predict {address} photos -o out"))
