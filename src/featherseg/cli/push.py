"""`featherseg push`: a run goes to the Hugging Face Hub."""

from typing import Annotated

import typer

from featherseg.cli.options import RunFolder
from featherseg.core.wording import one_line


def push(
    run: RunFolder,
    address: Annotated[
        str, typer.Argument(metavar="hf://ORG/NAME", help="Where it goes; @BRANCH may follow.")
    ],
    public: Annotated[
        bool, typer.Option("--public", help="Make a new repository for all to see.")
    ] = False,
) -> None:
    """Write a run to the Hugging Face Hub, where hf://ORG/NAME is a run for every verb.

    Recipe, record, kept weights, metrics, scores and card go, in one commit; images, checkpoints and what is known of
    the data's files stay here. A new repository is private without --public. Log in with `hf auth login`, or set
    HF_TOKEN.
    """
    import featherseg

    print(one_line(featherseg.push(run, address, public=public)))
    print(one_line(f"every verb takes it: featherseg predict {address} photos -o out"))
