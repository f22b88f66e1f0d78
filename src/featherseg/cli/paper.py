"""`featherseg paper`: recount a paper's tables, or train them."""

from pathlib import Path
from typing import Annotated

import typer

from featherseg.cli.options import AsJson, Overrides
from featherseg.core.wording import json_text


def paper(
    name: Annotated[str, typer.Argument(help="frm, cgrseg or rsp.")],
    table: Annotated[
        int | None, typer.Option(help="Only this table of the paper, counted from 1.")
    ] = None,
    train: Annotated[
        bool,
        typer.Option(
            "--train",
            help="Train every row of the tables by the paper's recipe and put its scores beside "
            "the printed ones.",
        ),
    ] = False,
    data_root: Annotated[
        Path | None,
        typer.Option(
            help="The folder that contains the datasets, ROOT/cityscapes and so on, or the only "
            "one."
        ),
    ] = None,
    out: Annotated[
        Path | None,
        typer.Option(
            "-o", "--out", help="The folder for the runs, OUT/RECIPE; a stopped command continues."
        ),
    ] = None,
    overrides: Overrides = None,
    dry_run: Annotated[
        bool,
        typer.Option("--dry-run", help="Print the commands of every training; write nothing."),
    ] = False,
    as_json: AsJson = False,
) -> None:
    """Recount every row of a paper's tables: its figures and ours, each with a verdict.

    No model is run, except with --train. Then you can stop it at any time: the same command keeps
    finished runs and continues a stopped one. Rows that cannot be trained are listed with the
    reason, and the exit status is 1.
    """
    from featherseg.core.config import refuse_unused

    if not train:
        given = {"--data-root": data_root, "--out": out, "--set": overrides, "--dry-run": dry_run}
        refuse_unused({key: bool(value) for key, value in given.items()}, "--train is missing")
    elif out is None:
        raise typer.BadParameter("name the folder for the runs", param_hint="--out")
    refuse_unused({"--json": dry_run and as_json}, "--dry-run prints commands")
    from featherseg.cli.comparison_tables import print_paper
    from featherseg.cli.terminal import Console
    from featherseg.costs.papers import check_paper

    if out is None:
        check = check_paper(name, table)
    else:
        from featherseg.cli.train import TrainingProgress
        from featherseg.comparison.paper import plan_paper, train_paper
        from featherseg.core.allocator import keep_freed_memory

        plan = plan_paper(name, table, out=out, data_root=data_root, settings=overrides or ())
        if dry_run:
            print("\n".join(line for training in plan for line in training.commands()))
            raise typer.Exit(int(any(training.reason for training in plan)))
        keep_freed_memory()
        with TrainingProgress(stderr=as_json) as progress:
            check = train_paper(name, table, plan, progress)
    if as_json:
        print(json_text(check))
    else:
        print_paper(Console(highlight=False, soft_wrap=True), check)
    trainings = check.get("trainings", ())
    raise typer.Exit(int(any(training["reason"] for training in trainings)))
