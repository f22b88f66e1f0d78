"""Write the report of a run: one HTML file made of the files in the run folder.

The page has no script and loads nothing; it suits light and dark, phone and paper. Missing parts
(no export, never scored) are listed with the command that makes them. Class names, keys and
settings come from others and are escaped.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from html import escape
from pathlib import Path
from typing import Any

from jinja2 import TemplateError

from featherseg.core.errors import FeathersegError, RunError
from featherseg.core.files import load_json, write_text
from featherseg.core.old_names import with_new_names
from featherseg.core.wording import brief
from featherseg.costs.cost import Cost, cost_of
from featherseg.costs.published import compare
from featherseg.evaluation.scored_split import times_scored
from featherseg.reports.examples import read_examples
from featherseg.reports.page import page_html
from featherseg.reports.progress import read_strips
from featherseg.reports.record import SCORES
from featherseg.reports.sections import SECTIONS, Evidence, section_html
from featherseg.runs.run import LABELS, Run

REPORT, PARITY, ENVIRONMENT = "report.html", "parity.json", "environment.json"


@dataclass(frozen=True)
class Report:
    """The page of a run, and what the run lacks, each with the command that makes it."""

    path: Path
    run: str
    missing: tuple[str, ...]

    def as_dict(self) -> dict[str, Any]:
        """Return plain JSON values."""
        return {"path": str(self.path), "run": self.run, "missing": list(self.missing)}

    def __repr__(self) -> str:
        return brief(self, self.path, *self.missing)

    def _repr_html_(self) -> str:
        page = escape(self.path.read_text(encoding="utf-8"))
        return f'<iframe srcdoc="{page}" style="width: 100%; height: 40em; border: 0"></iframe>'


def write_report(run: Run, output: Path | None = None) -> Report:
    """Write the report of a run to `output`.

    Default: RUN/report.html; report.html in the working folder for a run that cannot be written to.
    Raises RunError if a file of the run is damaged.
    """
    path, evidence = output or (Path() if run.read_only else run.path) / REPORT, gather(run)
    write_text(path, report_html(evidence))
    missing = [f"not scored: featherseg evaluate {run.spelling}"] if evidence.scores is None else []
    missing += [] if evidence.parity else [f"not exported: featherseg export {run.spelling}"]
    return Report(path, run.name, tuple(missing))


def gather(run: Run) -> Evidence:
    """Read the files of the run folder; missing files give None or an empty table."""
    scores = read_scores(run)
    # Scores of older weights are not read, and the examples are of the same weights
    outdated = scores is None and (run.path / SCORES).is_file()
    return Evidence(
        run=run,
        metrics=run.metrics(),
        scores=scores,
        test_evaluations=times_scored(run, "test"),
        parity=with_new_names(read_json(run.path / PARITY)),
        cost=_cost(run),
        comparison=compare(run),
        environment=read_json(run.path / ENVIRONMENT) or {},
        examples=[] if outdated else read_examples(run.path),
        labels=read_json(run.path / LABELS),
        strips=read_strips(run.path),
    )


def _cost(run: Run) -> Cost | str:
    """Return the cost of the model, or the reason why it cannot be counted."""
    try:
        return cost_of(run.untrained_model(), run.recipe.model.name, run.info.image_size)
    except FeathersegError as error:  # a user's model: not here, or its layers state no `macs`
        return str(error)


def read_scores(run: Run) -> Mapping[str, Any] | None:
    """Read scores.json; None if the current weights were never scored.

    Raises RunError if it is damaged or has other classes.
    """
    values, classes = with_new_names(read_json(run.path / SCORES)), len(run.classes)
    if values is None or values.get("weights_sha256", run.weights_sha256) != run.weights_sha256:
        return None
    by_class = [values.get(key) for key in ("iou", "confusion", "void")]
    if not all(isinstance(rows, list) and len(rows) == classes for rows in by_class):
        raise RunError(
            f"{run.path / SCORES} has no scores of the run's {classes} classes. Delete it and "
            f"score again:\nfeatherseg evaluate {run.path}"
        )
    return values


def read_json(path: Path) -> dict[str, Any] | None:
    """Return the object in a JSON file, None without a file. Raises RunError if it is damaged."""
    try:
        values = load_json(path)
    except FileNotFoundError:
        return None
    except (OSError, ValueError) as error:
        raise RunError(f"{path} cannot be read: {error}. Delete it, or write it again.") from None
    if not isinstance(values, dict):
        raise RunError(
            f"{path} contains a {type(values).__name__}, expected an object. Delete it, or write "
            "it again."
        )
    return values


def report_html(evidence: Evidence) -> str:
    """Return the page. Raises RunError if files have values that featherseg does not write."""
    body = []
    for name in SECTIONS:
        try:
            body.append(section_html(name, evidence))
        except (
            ArithmeticError,
            AttributeError,
            LookupError,
            TypeError,
            ValueError,
            TemplateError,
        ) as error:
            raise RunError(
                f"the section {name!r} of the report cannot be written: {SCORES}, {PARITY}, "
                f"{LABELS} or another file in {evidence.run.path} has values that featherseg does "
                f"not write ({error}). Write that file again."
            ) from error
    return page_html(f"{evidence.run.name} · featherseg report", "\n".join(body))
