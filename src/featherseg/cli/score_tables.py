"""Print an evaluation as tables on a terminal."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

from featherseg.core.wording import counted

if TYPE_CHECKING:
    from featherseg.cli.terminal import Console
    from featherseg.costs.published import Comparison
    from featherseg.evaluation.scoring import Scores


def print_scores(console: Console, scores: Scores) -> None:
    """Print IoU and boundary F by class, their means, and panoptic quality of scored objects."""
    from featherseg.core.wording import marks
    from featherseg.inference.drawing import printable

    pixels = scores.confusion.sum(axis=1) + scores.void
    figures = zip(scores.iou, scores.class_boundary_f, pixels / max(1, pixels.sum()), strict=True)
    names = [printable(name) for name in scores.classes]
    console.print_table(
        ("class", "IoU %", "boundary F %", "share of pixels %"),
        [(name, *map(_percent, row)) for name, row in zip(names, figures, strict=True)],
        [("mean", _percent(scores.miou), _percent(scores.boundary_f), "")],
    )
    remarks = marks(selected=scores.selected, trained_on=scores.trained_on)
    console.print(
        f"{counted(scores.images, 'image')}: mIoU {_percent(scores.miou)}, "
        f"pixel accuracy {_percent(scores.pixel_accuracy)}, "
        f"class accuracy {_percent(scores.class_accuracy)}, "
        f"boundary F {_percent(scores.boundary_f)} (all in %){f'; {remarks}' if remarks else ''}"
    )
    if scores.panoptic is not None:
        _print_objects(console, names, scores.panoptic)


def _print_objects(console: Console, classes: Sequence[str], panoptic: Mapping[str, Any]) -> None:
    """Print the panoptic quality of each class, and the means of things, stuff and all."""
    from featherseg.evaluation.panoptic_quality import quality

    counts = panoptic["per_category"].values()
    kinds = (("things", panoptic["things"]), ("stuff", panoptic["stuff"]), ("all", panoptic))
    console.print_table(
        ("class", "PQ %", "SQ %", "RQ %", "found", "false", "missed"),
        [
            (
                name,
                *map(_percent, quality(one).values()),
                *(str(one[key]) for key in ("tp", "fp", "fn")),
            )
            for name, one in zip(classes, counts, strict=True)
        ],
        [
            (f"{name} ({mean['n']})", *(_percent(mean[key]) for key in ("pq", "sq", "rq")))
            for name, mean in kinds
        ],
    )


def print_comparison(console: Console, comparison: Comparison) -> None:
    """Print a paper's row next to the run's own figures, and what the run did otherwise."""
    from featherseg.costs.published import DIFFERENCE_HEADS, HEADS

    title = f"Published in {comparison.row}, and this run"
    console.print_table(HEADS, [figure.texts() for figure in comparison.figures], title=title)
    console.print(comparison.differs, markup=False)
    if rows := comparison.difference_rows():
        console.print_table(DIFFERENCE_HEADS, rows)


def _percent(share: float) -> str:
    """Return 0.6153 as "61.53", NaN as a dash."""
    return "-" if math.isnan(share) else f"{100 * share:.2f}"
