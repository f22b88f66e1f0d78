"""`featherseg import`: make a run folder from published weights of a model."""

import sys
from pathlib import Path
from typing import Annotated

import typer

from featherseg.cli.options import DataRoot, Overrides, check_settings, out_option, parse_size
from featherseg.core.errors import ConfigError
from featherseg.core.wording import one_line


def import_(
    file: Annotated[
        Path, typer.Argument(help="The weights: .pth, .pt, .ckpt, .pth.tar or .safetensors.")
    ],
    model: Annotated[str, typer.Option(help="The model's name; `featherseg models` lists them.")],
    data: Annotated[
        str,
        typer.Option(
            help="The dataset with the classes it was trained on: a name or a dataset.toml. No "
            "images are needed."
        ),
    ],
    out: Annotated[Path, out_option("The run folder to write; must be new.")],
    licence: Annotated[
        str | None,
        typer.Option(help="Terms of use of the weights [default: asked on the terminal]."),
    ] = None,
    data_root: DataRoot = None,
    size: Annotated[
        str | None,
        typer.Option(
            "--image-size",
            metavar="HxW",
            help="Size of the images it was trained on [default: the dataset's].",
        ),
    ] = None,
    overrides: Overrides = None,
) -> None:
    """Make a run folder from a model's published weights, to evaluate, export and serve them.

    Every key and shape must fit. Nothing in the file is executed; its sha256 and the licence are
    kept in the run.
    """
    image_size = parse_size(size, "--image-size") if size else None
    settings = check_settings(
        overrides, {"data.name": ("--data", data), "data.root": ("--data-root", data_root)}
    )
    import featherseg

    run = featherseg.import_weights(
        file,
        model,
        data,
        out=out,
        licence=licence if licence is not None else ask_licence(),
        data_root=data_root,
        image_size=image_size,
        settings=settings,
        on_message=lambda text: print(one_line(text)),
    )
    print(one_line(f"licence: {run.licence}"))
    print(one_line(f"the run is in {out}; score it with: featherseg evaluate {out}"))


def ask_licence() -> str:
    """Ask the user for the terms of the weights. Raises ConfigError without a terminal."""
    if not sys.stdin.isatty():
        raise ConfigError(
            "under which terms may these weights be used? There is no terminal to ask on: pass "
            '--licence "Apache-2.0" or --licence "non-commercial use only".'
        )
    return typer.prompt(
        "Under which terms may these weights be used, as their authors state them?", err=True
    )
