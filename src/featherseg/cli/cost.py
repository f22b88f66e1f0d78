"""`featherseg cost MODEL`: parameters and MACs by named conventions, and the published figures."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated

import typer

from featherseg.cli.options import AsJson, parse_size
from featherseg.core.wording import json_text, size_text

if TYPE_CHECKING:
    from featherseg.costs.cost import Cost
    from featherseg.costs.deeplab import DeepLabRatios
    from featherseg.recipe.tables import PaperTable


def cost(
    model: Annotated[str, typer.Argument(help="A model's name; `featherseg models` lists them.")],
    size: Annotated[
        str,
        typer.Option(
            "--image-size", metavar="HxW", help="Height and width of the image, in pixels."
        ),
    ] = "1024x2048",
    classes: Annotated[int, typer.Option(help="Number of classes.")] = 19,
    as_json: AsJson = False,
) -> None:
    """Count a model's parameters, and its multiply-accumulates (MACs) for one image."""
    image_size = parse_size(size, "--image-size")
    import featherseg
    from featherseg.costs.deeplab import beside_deeplabv3
    from featherseg.costs.published import published

    result, rows = featherseg.cost(model, image_size, classes), published(model)
    deeplabs = beside_deeplabv3(result)
    if as_json:
        content = {
            **result.as_dict(),
            "published": [row.model_dump(mode="json") for row in rows],
            "deeplabv3": {
                d.name: {"params": d.params, "macs": d.macs, "ratio": d.ratio} for d in deeplabs
            },
        }
        print(json_text(content))
    else:
        _print_tables(result, rows)
        _print_deeplabs(result, deeplabs)


def _print_tables(result: Cost, rows: list[PaperTable]) -> None:
    """Print the MACs by convention and by part of the model, and the papers' figures."""
    from rich.table import Table

    from featherseg.cli.terminal import Console
    from featherseg.costs.cost import CONVENTIONS

    console = Console(highlight=False)
    height, width = result.size
    classes = "1 class" if result.classes == 1 else f"{result.classes} classes"
    console.print(
        f"{result.model}, {height}x{width} pixels, {classes}: {result.params:,} parameters"
    )
    if result.counted_size != result.size:
        padded = size_text(result.counted_size)
        console.print(f"The model pads {height}x{width} to {padded}: the padded size is counted.")

    # MACs by convention; published figures only if they are of this size and number of classes
    here = [row for row in rows if (row.size, row.classes) == (result.size, result.classes)]
    printed: dict[str, str] = {row.convention: str(row.gmacs) for row in here}
    totals = Table(
        "convention", "GMACs", *(["published"] if printed else []), "exactly", "what is counted"
    )
    for name, meaning in CONVENTIONS.items():
        theirs = [printed.get(name, "")] if printed else []
        totals.add_row(
            name, f"{result.macs[name] / 1e9:.3f}", *theirs, f"{result.macs[name]:,}", meaning
        )

    # Parameters and MACs of each part of the model
    parts = Table("part", "parameters", "GMACs (macs)", "share")
    for name, part in result.parts.items():
        share = part.macs / result.macs["macs"]
        parts.add_row(name, f"{part.params:,}", f"{part.macs / 1e9:.3f}", f"{share:.1%}")
    parts.add_section()
    parts.add_row("all", f"{result.params:,}", f"{result.macs['macs'] / 1e9:.3f}", "100.0%")
    for table in (totals, parts):
        for column in table.columns[1:-1]:
            column.justify = "right"
        console.print(table)

    # The papers' own figures; rows that differ only in accuracy are printed once
    messages = dict[str, None]()
    for row in rows:
        own = row.convention == "other"
        convention = "counted by a convention of its own" if own else f"by {row.convention}"
        messages[
            f"Published, {row.row}: {row.params_m} M parameters; {row.gmacs} GMACs {convention} "
            f"at {size_text(row.size)}, {row.classes} classes."
        ] = None
    for message in messages:
        console.print(message, soft_wrap=True)


def _print_deeplabs(result: Cost, deeplabs: list[DeepLabRatios]) -> None:
    from featherseg.cli.terminal import Console

    console = Console(highlight=False)
    console.print_table(
        (
            "DeepLabV3, same image and classes",
            "parameters",
            "GMACs (macs)",
            f"{result.model} costs",
        ),
        [
            (row.name, f"{row.params:,}", f"{row.macs / 1e9:.3f}", f"{row.ratio:.1%} of it")
            for row in deeplabs
        ],
    )
    console.print(
        "-os16 and -lite0: output stride 16, the others 8. -mmseg: mmsegmentation's layout, with "
        "512 channels.",
        soft_wrap=True,
    )
