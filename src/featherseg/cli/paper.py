"""`featherseg paper`: a paper's tables counted again."""

from typing import Annotated

import typer

from featherseg.cli.options import AsJson


def paper(
    name: Annotated[str, typer.Argument(help="frm, cgrseg or rsp.")],
    as_json: AsJson = False,
) -> None:
    """Recount every row of a paper's tables: its figures and ours, each with a verdict. Nothing is run."""
    from featherseg.cli.comparison_tables import print_paper
    from featherseg.cli.terminal import Console

    print_paper(name, Console(stderr=as_json, highlight=False, soft_wrap=True), as_json=as_json)
