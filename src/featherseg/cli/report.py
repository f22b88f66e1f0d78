"""`featherseg report`: write a run's report as one self-contained page."""

from pathlib import Path
from typing import Annotated

import typer

from featherseg.cli.options import RunFolder, out_option
from featherseg.core.wording import one_line


def report(
    run: RunFolder,
    output: Annotated[
        Path | None, out_option("The file to write [default: RUN/report.html].")
    ] = None,
    show: Annotated[bool, typer.Option("--open", help="Open the page in the browser.")] = False,
) -> None:
    """Write report.html: curves, IoU by class, confusion, examples, cost, export parity.

    The page is one file without scripts or network access. It lists what the run lacks.
    """
    import featherseg

    written = featherseg.report(run, output)
    page = written.path.resolve()
    print(f"report: {one_line(str(page))}")
    for missing in written.missing:
        print(one_line(missing))
    if show:
        typer.launch(page.as_uri())
