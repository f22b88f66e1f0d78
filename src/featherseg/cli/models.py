"""`featherseg models`: the catalogue of models."""

from typing import Any, Literal

from featherseg.cli.options import AsJson
from featherseg.core.wording import json_text, size_text


def models(
    as_json: AsJson = False,
) -> None:
    """List the models, the fastest first: latency, parameters, multiply-accumulates, ImageNet weights, paper.

    Those that were trained alike and that no faster one equals in accuracy are marked.
    """
    import featherseg

    rows = featherseg.list_models()
    if as_json:
        print(json_text(rows))
    else:
        print_table(rows)


def print_table(rows: list[dict[str, Any]]) -> None:
    """Print the rows of `list_models` as a table of 80 columns, with what its columns mean below."""
    from rich.table import Table

    from featherseg.cli.terminal import Console
    from featherseg.costs.catalogue import CLASSES, SIZE, latencies, scores

    table = Table()
    for heading, width in (
        ("model", None),
        ("ms", 5),
        ("params M", 6),
        ("GMACs", 5),
        ("ImageNet", 9),
        ("paper", None),
    ):
        side: Literal["right", "left"] = (
            "right" if heading in ("ms", "params M", "GMACs") else "left"
        )
        table.add_column(
            heading, justify=side, overflow="fold", no_wrap=heading == "model", max_width=width
        )
    for row in rows:
        ms = (
            ""
            if row["latency_ms"] is None
            else f"{'> ' if row['on_front'] else ''}{row['latency_ms']:.0f}"
        )
        millions, gmacs = f"{row['params'] / 1e6:.2f}", f"{row['macs'] / 1e9:.1f}"
        paper = row["paper"].split(",")[0] + " *" * row["paper"].endswith(
            ")"
        )  # of "FRM, arXiv:..., ... (ours)" FRM *
        table.add_row(row["model"], ms, millions, gmacs, row["pretrained"], paper)
    console = Console(highlight=False)
    console.print(table, markup=False)

    timed, trained = latencies(), scores()
    known = [row for row in rows if row["miou"]]
    told = [
        f"{row['model']} {', '.join(f'{100 * miou:.1f}' for miou in row['miou'].values())}"
        for row in known
    ]
    lines = (
        f"ms: from a decoded image of {size_text(timed['size'])} to its mask, {timed['format']}, {timed['classes']} "
        f"classes, threads: {timed['threads']}, on {timed['device']} ({timed['date']}). Elsewhere the order may be "
        "another: featherseg fit and featherseg benchmark time the models on your machine.",
        f">: Pareto front, by the mean of the datasets, of those trained from ImageNet weights for "
        f"{trained['minutes']:g} minutes of one core: none as fast scores as much. Test mIoU in % on "
        f"{' and '.join(trained['miou'])}, means of {trained['seeds']} seeds or more, small differences may be by "
        f"chance: {'; '.join(told)}.",
        f"params, GMACs (convention macs): {CLASSES} classes, {size_text(SIZE)}.",
        "ImageNet: initial weights of the backbone. *: not the paper's own model, but its head on another backbone, or "
        "a reconstruction (RSP). The papers' arXiv numbers: --json.",
    )
    for line in lines:
        console.print(line, markup=False)
