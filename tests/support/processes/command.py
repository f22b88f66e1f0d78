"""A verb of the command line, run in this process."""

from collections.abc import Callable
from typing import Any

import typer
from click.testing import Result
from typer.testing import CliRunner


def command(verb: Callable[..., Any]) -> Callable[..., Result]:
    """A function that runs a verb with its arguments, each as text."""
    app = typer.Typer()
    app.command()(verb)
    return lambda *arguments: CliRunner().invoke(app, [str(argument) for argument in arguments])
