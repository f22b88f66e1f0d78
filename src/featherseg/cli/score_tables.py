"""How an evaluation is printed: tables for a terminal."""

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
    """IoU and boundary F of each class, their means, and where objects were scored their panoptic quality."""
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
    told = marks(selected=scores.selected, trained_on=scores.trained_on)
    console.print(
        f"{counted(scores.images, 'image')}: mIoU {_percent(scores.miou)}, "
        f"pixel accuracy {_percent(scores.pixel_accuracy)}, class accuracy {_percent(scores.class_accuracy)}, "
        f"boundary F {_percent(scores.boundary_f)} (all in %){f'; {told}' if told else ''}"
    )
    if scores.panoptic is not None:
        _print_objects(console, names, scores.panoptic)


def _print_objects(console: Console, classes: Sequence[str], found: Mapping[str, Any]) -> None:
    """Panoptic quality of each class, and the means over things, stuff and all."""
    from featherseg.evaluation.panoptic_quality import quality

    counts = found["per_category"].values()
    kinds = (("things", found["things"]), ("stuff", found["stuff"]), ("all", found))
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
    """A paper's row and the run's own figures."""
    from featherseg.costs.published import HEADS

    title = f"Published in {comparison.row}, and this run"
    console.print_table(HEADS, [figure.texts() for figure in comparison.figures], title=title)


def _percent(share: float) -> str:
    """0.6153 -> "61.53"; a dash where there was nothing to measure."""
    return "-" if math.isnan(share) else f"{100 * share:.2f}"
