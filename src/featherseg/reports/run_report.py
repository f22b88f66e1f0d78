"""The report of a run: one HTML file with everything in it, made of what the run folder holds.

No script, nothing loaded; light and dark, phone and paper. A part that is not there yet (no export, never scored) is
named with the command that makes it. Class names, keys and settings come from others and are escaped where shown.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from html import escape
from pathlib import Path
from typing import Any

from jinja2 import TemplateError

from featherseg.core.errors import FeathersegError, RunError
from featherseg.core.files import check_writable, load_json, write_text
from featherseg.core.old_names import with_new_names
from featherseg.costs.cost import Cost, cost_of
from featherseg.costs.published import compare
from featherseg.reports.examples import read_examples
from featherseg.reports.page import page_html
from featherseg.reports.record import SCORES, times_scored
from featherseg.reports.sections import SECTIONS, Evidence, section_html
from featherseg.runs.run import Run

REPORT, PARITY, ENVIRONMENT = "report.html", "parity.json", "environment.json"


@dataclass(frozen=True)
class Report:
    """The page of a run: where it is, and what the run does not hold yet, each with the command that makes it."""

    path: Path
    run: str
    missing: tuple[str, ...]

    def as_dict(self) -> dict[str, Any]:
        """Plain JSON values."""
        return {"path": str(self.path), "run": self.run, "missing": list(self.missing)}

    def _repr_html_(self) -> str:
        page = escape(self.path.read_text(encoding="utf-8"))
        return f'<iframe srcdoc="{page}" style="width: 100%; height: 40em; border: 0"></iframe>'


def write_report(run: Run, output: Path | None = None) -> Report:
    """Write the report of a run folder to `output`, by default RUN/report.html; -> where it is, and what it lacks.

    That of a run which comes with the package goes to the working folder. Raises RunError where a file in it is
    damaged.
    """
    path = output or (Path() if run.read_only else run.path) / REPORT
    check_writable(path)
    evidence = gather(run)
    write_text(path, report_html(evidence))
    missing = [f"not scored: featherseg evaluate {run.spelling}"] if evidence.scores is None else []
    missing += [] if evidence.parity else [f"not exported: featherseg export {run.spelling}"]
    return Report(path, run.name, tuple(missing))


def gather(run: Run) -> Evidence:
    """What the run folder holds, read; missing files give None or an empty table."""
    scores = read_scores(run)
    of_older = scores is None and (run.path / SCORES).is_file()  # weights, as the examples are then
    return Evidence(
        run=run,
        metrics=run.metrics(),
        scores=scores,
        test_evaluations=times_scored(run, "test"),
        parity=with_new_names(read_json(run.path / PARITY)),
        cost=_cost(run),
        comparison=compare(run),
        environment=read_json(run.path / ENVIRONMENT) or {},
        examples=[] if of_older else read_examples(run.path),
    )


def _cost(run: Run) -> Cost | str:
    """What the model costs, or why that cannot be counted."""
    try:
        return cost_of(run.untrained_model(), run.recipe.model.name, run.info.image_size)
    except (
        FeathersegError
    ) as error:  # a model of one's own: not here, or with layers that state no `macs`
        return str(error)


def read_scores(run: Run) -> Mapping[str, Any] | None:
    """scores.json, None where these weights were never scored. Raises RunError for a damaged one or other classes."""
    values, classes = with_new_names(read_json(run.path / SCORES)), len(run.classes)
    if values is None or values.get("weights_sha256", run.weights_sha256) != run.weights_sha256:
        return None
    by_class = [values.get(key) for key in ("iou", "confusion", "void")]
    if not all(isinstance(rows, list) and len(rows) == classes for rows in by_class):
        raise RunError(
            f"{run.path / SCORES} does not hold scores of {classes} classes, as this run has. "
            f"Remove it, and score again: featherseg evaluate {run.path}"
        )
    return values


def read_json(path: Path) -> dict[str, Any] | None:
    """The object in a JSON file, None where there is no file. Raises RunError for a damaged one."""
    try:
        values = load_json(path)
    except FileNotFoundError:
        return None
    except (OSError, ValueError) as error:
        raise RunError(f"{path} cannot be read: {error}. Remove it, or write it again.") from None
    if not isinstance(values, dict):
        raise RunError(
            f"{path} holds a {type(values).__name__}, expected an object. Remove it, or write it again."
        )
    return values


def report_html(evidence: Evidence) -> str:
    """The whole page. Raises RunError where the files hold other values than featherseg writes."""
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
                f"the section {name!r} of the report cannot be written: {SCORES}, {PARITY} or another file in "
                f"{evidence.run.path} holds values that featherseg does not write ({error}). Write it again."
            ) from error
    return page_html(f"{evidence.run.name} · featherseg report", "\n".join(body))
