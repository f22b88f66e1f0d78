"""`featherseg models`: list the catalogue of models."""

from pathlib import Path
from typing import Annotated, Any

import typer

from featherseg.cli.options import AsJson
from featherseg.core.errors import ConfigError
from featherseg.core.wording import json_text, size_text, visible


def models(
    run: Annotated[
        str | None,
        typer.Argument(help="A trained model, by name or folder: what it was made from."),
    ] = None,
    as_json: AsJson = False,
) -> None:
    """List the models, fastest first: latency, parameters, MACs, ImageNet weights, paper.

    Models on the Pareto front are marked: no model trained in the same way is as fast and as
    accurate. With the name of a trained one: its data, licences, initial weights and command.
    """
    import featherseg

    if run is not None:
        from featherseg.models import MODELS
        from featherseg.runs.provenance import provenance

        if run in MODELS and not Path(run).exists():
            raise ConfigError(
                f"{run} is not trained. Count it with `featherseg cost {run}`, or train it with "
                f"`featherseg train {run} --data DATA`."
            )
        facts = provenance(featherseg.load_run(run))
        width = max(map(len, facts)) + 2
        lines = [f"{name.replace('_', ' '):{width}}{fact}" for name, fact in facts.items()]
        print(json_text(facts) if as_json else visible("\n".join(lines)))
        return
    rows = featherseg.list_models()
    if as_json:
        print(json_text(rows))
    else:
        print_table(rows)


def print_table(rows: list[dict[str, Any]]) -> None:
    """Print three models to begin with, all as a table of 80 columns, and how to read it."""
    from rich.table import Table

    from featherseg.cli.terminal import Console
    from featherseg.costs.catalogue import CLASSES, SIZE, latencies, scores

    table = Table()
    table.add_column("model", no_wrap=True)
    table.add_column("ms", justify="right", max_width=5)
    table.add_column("params M", justify="right", max_width=6)
    table.add_column("GMACs", justify="right", max_width=5)
    table.add_column("ImageNet", overflow="fold", max_width=9)
    table.add_column("paper", overflow="fold")
    for row in rows:
        ms = "" if row["latency_ms"] is None else f"{row['latency_ms']:.0f}"
        ms = f"> {ms}" if row["on_front"] else ms
        millions, gmacs = f"{row['params'] / 1e6:.2f}", f"{row['macs'] / 1e9:.1f}"
        # "FRM, arXiv:..., ... (ours)" is shown as "FRM *"
        paper = row["paper"].split(",")[0] + " *" * row["paper"].endswith(")")
        table.add_row(row["model"], ms, millions, gmacs, row["pretrained"], paper)
    console = Console(highlight=False)
    for line in first_choices(rows):
        console.print(line, markup=False)
    console.print(table, markup=False)

    timed, trained = latencies(), scores()
    accuracies = [
        f"{row['model']} {', '.join(f'{100 * miou:.1f}' for miou in row['miou'].values())}"
        for row in rows
        if row["miou"]
    ]
    for line in (
        f"ms: from a decoded image of {size_text(timed['size'])} to its mask, {timed['format']}, "
        f"{timed['classes']} classes, threads: {timed['threads']}, on {timed['device']} "
        f"({timed['date']}). The order may differ on your machine: featherseg fit and featherseg "
        "benchmark time the models there.",
        ">: Pareto front by the mean of the datasets, among the models trained from ImageNet "
        f"weights for {trained['minutes']:g} minutes of one core: no other model is as fast and "
        f"scores as high. Test mIoU in % on {' and '.join(trained['miou'])}, means of "
        f"{trained['seeds']} or more seeds, small differences may be chance: "
        f"{'; '.join(accuracies)}.",
        f"params, GMACs (convention macs): {CLASSES} classes, {size_text(SIZE)}.",
        "ImageNet: initial weights of the backbone. *: not the paper's own model, but its head on "
        "another backbone, or a reconstruction (RSP). The papers' arXiv numbers: --json.",
    ):
        console.print(line, markup=False)


def first_choices(rows: list[dict[str, Any]]) -> list[str]:
    """Return a line each for the fastest, the most accurate and the lightest panoptic model.

    The first two are of the models that were trained alike, by the mean of their datasets.
    """
    lines = []
    if scored := [row for row in rows if row["miou"] and row["latency_ms"] is not None]:
        fastest = min(scored, key=lambda row: row["latency_ms"])
        best = max(scored, key=lambda row: sum(row["miou"].values()))
        for purpose, row in (("latency", fastest), ("accuracy", best)):
            scores = ", ".join(f"{100 * miou:.1f} {data}" for data, miou in row["miou"].items())
            lines.append(
                f"for {purpose + ':':10}{row['model']}, {row['latency_ms']:.0f} ms, mIoU {scores}"
            )
    if panoptic := [row for row in rows if row["model"].endswith("-panoptic")]:
        lightest = min(panoptic, key=lambda row: row["macs"])
        timed = "" if lightest["latency_ms"] is not None else ", not timed"
        lines.append(f"for objects:  {lightest['model']}, fewest GMACs of the panoptic ones{timed}")
    return lines
