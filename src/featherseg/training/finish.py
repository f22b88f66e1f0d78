"""Finish a training: curve, card, hints, and what is added to the record of its environment."""

from pathlib import Path
from typing import Any

from featherseg.core.files import load_json, write_json, write_text
from featherseg.core.notebook import percent
from featherseg.core.types import OnMessage
from featherseg.core.wording import WarningText
from featherseg.reports.card import write_card
from featherseg.reports.charts import curve_svg
from featherseg.runs.run import CURVE, ENVIRONMENT, Run


def finish(run: Run, on_message: OnMessage) -> None:
    """Write the curve and the card of a run, and say what to do next."""
    write_text(run.path / CURVE, curve_svg(run.metrics()))
    write_card(run)
    if hint := overfitting(run.metrics(), run.recipe.train.keep):
        on_message(hint)
    on_message(f"the run is in {run.path}; score it with: featherseg evaluate {run.path}")


def overfitting(metrics: dict[int, dict[str, Any]], keep: str) -> str | None:
    """Return what to try if validation fell by more than a point after its best, else None.

    metrics: records by step, as in metrics.jsonl; keep: which weights were kept, "best" or "last".
    """
    scores = {
        step: validation_score(record)
        for step, record in metrics.items()
        if record.get("val_miou") is not None
    }
    if not scores:
        return None
    best, last = max(scores, key=lambda step: scores[step]), max(scores)
    if scores[best] - scores[last] <= 0.01:
        return None
    name = "PQ" if metrics[best].get("val_pq") is not None else "mIoU"
    kept = (
        "the weights of the best were kept"
        if keep == "best"
        else "the last weights were kept (train.keep=best)"
    )
    return (
        f"validation {name} was {percent(scores[best])} % at step {best} and "
        f"{percent(scores[last])} % at the end: the model may be overfitting, or the validation "
        f"images may be too few. More images or fewer steps may help; {kept}"
    )


def validation_score(record: dict[str, Any]) -> float:
    """Return the score of a validation: PQ if objects were scored, else mIoU; -1 without labels."""
    score = record.get("val_pq", record["val_miou"])
    return -1.0 if score is None else score


def note_prepared_data(out: Path, loss: str | None, on_message: OnMessage) -> None:
    """Record and say what the training images lost when they were prepared; nothing if None."""
    if loss:
        on_message(WarningText(f"prepared data: {loss}"))
        _note(out, prepared_data=loss)


def note_memory(
    out: Path,
    estimated_gb: float | None,
    bytes_before: float | None,
    peak_bytes: float | None,
    on_message: OnMessage,
) -> None:
    """Say and record the peak of the process's memory beside its estimate; nothing if unknown.

    A peak that is no higher than before the training says nothing of it and is not recorded.
    """
    if peak_bytes is None:
        return
    measured_gb = round(peak_bytes / 1e9, 2)
    estimate = "" if estimated_gb is None else f" (estimated: {estimated_gb} GB)"
    at_most = "at most " if peak_bytes == bytes_before else ""
    on_message(f"the training held {at_most}{measured_gb} GB of memory{estimate}")
    if peak_bytes != bytes_before:
        _note(out, memory_gb={"estimated": estimated_gb, "measured": measured_gb})


def _note(out: Path, **facts: Any) -> None:
    """Add facts to environment.json; a missing or damaged file is replaced."""
    try:
        record = load_json(out / ENVIRONMENT)
    except (OSError, ValueError):
        record = {}
    write_json(out / ENVIRONMENT, (record if isinstance(record, dict) else {}) | facts)
