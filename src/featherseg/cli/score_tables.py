"""How an evaluation is printed: tables for a terminal."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

from featherseg.core.wording import counted

if TYPE_CHECKING:
    from featherseg.cli.terminal import Console
    from featherseg.counting.published import Comparison
    from featherseg.evaluation.scoring import Scores


def print_scores(console: Console, scores: Scores) -> None:
    """IoU and boundary F of each class, their means, and where objects were scored their panoptic quality."""
    from rich.markup import escape
    from rich.table import Table

    from featherseg.inference.drawing import printable

    table = Table("class", "IoU %", "boundary F %", "share of pixels %")
    for column in table.columns[1:]:
        column.justify = "right"
    pixels = scores.confusion.sum(axis=1) + scores.void
    shares = pixels / max(1, pixels.sum())
    for name, iou, contour, share in zip(scores.classes, scores.iou, scores.class_boundary_f, shares, strict=True):
        table.add_row(escape(printable(name)), _percent(iou), _percent(contour), _percent(share))
    table.add_section()
    table.add_row("mean", _percent(scores.miou), _percent(scores.boundary_f), "")
    console.print(table)
    console.print(
        f"{counted(scores.images, 'image')}: mIoU {_percent(scores.miou)}, "
        f"pixel accuracy {_percent(scores.pixel_accuracy)}, class accuracy {_percent(scores.class_accuracy)}, "
        f"boundary F {_percent(scores.boundary_f)} (all in %)"
    )
    if scores.panoptic is not None:
        _print_objects(console, scores.classes, scores.panoptic)


def _print_objects(console: Console, classes: Sequence[str], found: Mapping[str, Any]) -> None:
    """Panoptic quality of each class, and the means over things, stuff and all."""
    from rich.markup import escape
    from rich.table import Table

    from featherseg.evaluation.panoptic_quality import quality
    from featherseg.inference.drawing import printable

    table = Table("class", "PQ %", "SQ %", "RQ %", "found", "false", "missed")
    for column in table.columns[1:]:
        column.justify = "right"
    for name, counts in zip(classes, found["per_category"].values(), strict=True):
        figures = [_percent(value) for value in quality(counts).values()]
        table.add_row(escape(printable(name)), *figures, *(str(counts[key]) for key in ("tp", "fp", "fn")))
    table.add_section()
    for name, mean in (("things", found["things"]), ("stuff", found["stuff"]), ("all", found)):
        table.add_row(f"{name} ({mean['n']})", *(_percent(mean[key]) for key in ("pq", "sq", "rq")))
    console.print(table)


def print_comparison(console: Console, comparison: Comparison) -> None:
    """A paper's row and the run's own figures."""
    from rich.markup import escape
    from rich.table import Table

    from featherseg.counting.published import HEADS

    table = Table(*HEADS, title=f"Published in {escape(comparison.row)}, and this run", title_justify="left")
    for column in table.columns[1:]:
        column.justify = "right"
    for figure in comparison.figures:
        table.add_row(*figure.texts())
    console.print(table)


def _percent(share: float) -> str:
    """0.6153 -> "61.53"; a dash where there was nothing to measure."""
    return "-" if math.isnan(share) else f"{100 * share:.2f}"
