"""The sections of a run's report: the data they show, and the macros of sections.html."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import numpy as np
from markupsafe import Markup

from featherseg.core.errors import RunError
from featherseg.core.wording import flattened, marks, size_text
from featherseg.costs.cost import CONVENTIONS, Cost
from featherseg.costs.published import DIFFERENCE_HEADS, HEADS, Comparison
from featherseg.evaluation.iou import Confusion, mean_of_known
from featherseg.evaluation.panoptic_quality import quality
from featherseg.reports.charts import loss_chart, miou_chart
from featherseg.reports.examples import Example, data_uri, panel_file, panels_there
from featherseg.reports.page import macro, percent
from featherseg.runs.run import Run

SHOWN_MIXES = 12  # number of the most frequent confusions that are listed
MATRIX_LIMIT = 40  # with more classes, the confusions are listed without the matrix

SECTIONS = (
    "head",
    "curves",
    "classes",
    "objects",
    "confusion",
    "examples",
    "labels",
    "paper",
    "cost",
    "parity",
    "settings",
    "environment",
)
"""Macros of sections.html, in the order of the page."""


@dataclass(frozen=True)
class Evidence:
    """The content of a run folder.

    scores is scores.json, parity is parity.json; None if it is missing. cost is a text if it cannot
    be counted. test_evaluations is how often the test split was scored. comparison is None if the
    recipe names no row of a paper. labels is labels.json: the classes in the training's masks.
    strips are the predictions over time, as `read_strips` returns them.
    """

    run: Run
    metrics: Mapping[int, Mapping[str, Any]]
    scores: Mapping[str, Any] | None
    test_evaluations: int
    parity: Mapping[str, Any] | None
    cost: Cost | str
    comparison: Comparison | None
    environment: Mapping[str, Any]
    examples: Sequence[Example]
    labels: Mapping[str, Any] | None = None
    strips: Sequence[tuple[str, Path]] = ()


def section_html(name: str, e: Evidence) -> str:
    """Return one of SECTIONS as HTML; "" if there is nothing to show."""
    return macro(
        "reports/sections.html",
        name,
        e,
        today=datetime.now(UTC).date().isoformat(),
        matrix_limit=MATRIX_LIMIT,
        shown_mixes=SHOWN_MIXES,
        panels_of=lambda example: panels_there(e.run.path, example),
        class_rows=_class_rows,
        label_rows=_label_rows,
        paper_heads=HEADS,
        difference_heads=DIFFERENCE_HEADS,
        counts=CONVENTIONS["macs"],
        size_text=size_text,
        quality=quality,
        row_shares=row_shares,
        most_mixed=most_mixed,
        figures=_figures,
        origin=_origin,
        number=_number,
        shares=_shares,
        objects_of=_objects,
        flat=flattened,
        settings_of=_settings,
        file_name=lambda path: Path(path).name,
        data_uri=lambda run, example, panel: data_uri(panel_file(run, example, panel).read_bytes()),
        file_uri=lambda file: data_uri(file.read_bytes()),
        charts_of=lambda metrics: Markup(loss_chart(metrics) + miou_chart(metrics)),
    )


def _figures(e: Evidence) -> dict[str, str]:
    """Return the main figures of the run, for the head of the page."""
    figures: dict[str, str] = {}
    if e.scores is None:  # the best validation during training, if there was one
        validated = [
            r["val_miou"] for r in e.metrics.values() if isinstance(r.get("val_miou"), float)
        ]
        if validated:
            figures["mIoU in training's best validation, %"] = percent(max(validated))
    else:
        scored = _scored_on(e.scores)
        if objects := _objects(e):
            figures[f"PQ{scored}, %"] = percent(_number(objects, "pq"))
        figures |= {
            f"mIoU{scored}, %": percent(_number(e.scores, "miou")),
            "pixel accuracy, %": percent(_number(e.scores, "pixel_accuracy")),
            "boundary F, %": percent(_number(e.scores, "boundary_f")),
        }
    if not isinstance(e.cost, str):
        gmacs = f"GMACs (“macs”), {size_text(e.run.info.image_size)}"
        figures["parameters"] = f"{e.cost.params / 1e6:.2f} M"
        figures[gmacs] = f"{e.cost.macs['macs'] / 1e9:.2f}"
    figures["classes"] = str(len(e.run.classes))
    return figures


def _origin(run: Run) -> str:
    """Return where the weights come from."""
    data = run.recipe.data
    if run.imported:
        return (
            f"imported from {run.imported}, not trained here; its classes are those of {data.shown}"
        )
    return f"trained on {data.shown} ({data.train_split}), seed {run.recipe.train.seed}"


def _class_rows(e: Evidence) -> list[tuple[Any, ...]]:
    """Return (class or None for the mean, IoU, precision, recall, F1, share of pixels) of each."""
    scores: Mapping[str, Any] = e.scores or {}
    confusion = Confusion(len(e.run.classes), *map(np.array, (scores["confusion"], scores["void"])))
    with np.errstate(all="ignore"):  # a damaged file may have any numbers
        figures = [confusion.precision(), confusion.recall(), confusion.f1()]
    iou = np.array(scores["iou"], dtype=float)  # null is NaN
    rows = zip(e.run.classes, iou, *figures, _shares(scores), strict=True)
    means = [_number(scores, "miou"), *map(mean_of_known, figures)]
    return [*rows, (None, *means, None)]


def _label_rows(e: Evidence) -> list[tuple[Any, ...]]:
    """Return (class, share of labelled pixels, images with it, share among the scored) of each."""
    labels: Mapping[str, Any] = e.labels or {}
    total = sum(labels["pixels"]) or 1
    scored = _shares(e.scores) if e.scores else [None] * len(e.run.classes)
    shares = [pixels / total for pixels in labels["pixels"]]
    return list(zip(e.run.classes, shares, labels["images_with"], scored, strict=True))


def row_shares(counts: Sequence[Sequence[float]], void: Sequence[float]) -> list[list[float]]:
    """Return the rows of a confusion matrix (label x prediction) as shares of pixels, 0..1."""
    totals = [sum(row) + missed for row, missed in zip(counts, void, strict=True)]
    return [
        [n / total if total else 0.0 for n in row]
        for row, total in zip(counts, totals, strict=True)
    ]


def most_mixed(rows: Sequence[Sequence[float]]) -> list[tuple[float, int, int]]:
    """Return (share of the labelled pixels, label, prediction) of each mistake, largest first."""
    mistakes = [
        (share, t, p)
        for t, row in enumerate(rows)
        for p, share in enumerate(row)
        if t != p and share > 0
    ]
    return sorted(mistakes, key=lambda mistake: (-mistake[0], mistake[1:]))


def _settings(run: Run) -> list[tuple[str, Any]]:
    """Return every setting of the recipe, such as ("train.lr", 0.01)."""
    return [
        (f"{table}.{key}", value)
        for table, values in run.recipe.model_dump(mode="json", exclude={"paper"}).items()
        for key, value in values.items()
        if value is not None
    ]


def _shares(scores: Mapping[str, Any]) -> list[float]:
    """Return the share of each class in the labelled pixels."""
    totals = [
        sum(row) + missed for row, missed in zip(scores["confusion"], scores["void"], strict=True)
    ]
    return [total / (sum(totals) or 1) for total in totals]


def _number(scores: Mapping[str, Any] | None, key: str) -> float | None:
    value = (scores or {}).get(key)
    return float(value) if isinstance(value, int | float) else None


def _objects(e: Evidence) -> Mapping[str, Any] | None:
    """Return the scores of objects, None without. Raises RunError for those of other classes."""
    panoptic = e.scores.get("panoptic") if e.scores else None
    if panoptic is not None and len(panoptic.get("per_category", ())) != len(e.run.classes):
        raise RunError(
            f"{e.run.path}: its scores of objects are for other classes. Score it again:\n"
            f"featherseg evaluate {e.run.path}"
        )
    return panoptic


def _scored_on(scores: Mapping[str, Any]) -> str:
    """Return such as ` on yard test (selected on these images)`; "" if data is not known."""
    data = " ".join(str(scores[key]) for key in ("data", "split") if key in scores)
    if not data:
        return ""
    remarks = [marks(selected=scores.get("selected"), trained_on=scores.get("trained_on"))]
    if (inference := scores.get("inference", "whole")) != "whole":
        remarks.append(str(inference))
    text = ", ".join(filter(None, remarks))
    return f" on {data} ({text})" if text else f" on {data}"
