"""`featherseg paper`: recount a paper's tables."""

from typing import Annotated

import typer

from featherseg.cli.options import AsJson
from featherseg.core.wording import json_text


def paper(
    name: Annotated[str, typer.Argument(help="frm, cgrseg or rsp.")],
    as_json: AsJson = False,
) -> None:
    """Recount every row of a paper's tables: its figures and ours, each with a verdict.

    No model is run.
    """
    from featherseg.cli.comparison_tables import print_paper
    from featherseg.cli.terminal import Console
    from featherseg.costs.papers import check_paper

    check = check_paper(name)
    if as_json:
        print(json_text(check))
    else:
        print_paper(Console(highlight=False, soft_wrap=True), check)
