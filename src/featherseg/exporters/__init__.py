"""Export: a trained model becomes files for other runtimes, each kept only if it gives the model's masks.

To add a target: its module with `write(job)`, its row in EXPORTERS (exporters/targets.py), a test.
"""

from collections.abc import Sequence
from pathlib import Path

from featherseg.core.errors import ConfigError, FeathersegError, require, unknown
from featherseg.core.files import check_writable, refuse_links
from featherseg.core.types import ClassInfo
from featherseg.exporters.places import destinations
from featherseg.exporters.report import PARITY, ExportReport, keep_reports
from featherseg.exporters.targets import EXPORTERS, Target
from featherseg.exporters.work import Options, Say, Work
from featherseg.layers.model import SegmentationModel
from featherseg.runs import Run

__all__ = ["EXPORTERS", "ExportReport", "Options", "Target", "export", "export_all"]

DEFAULTS = Options()


def export(
    source: SegmentationModel | Run,
    target: str = "onnx",
    path: str | Path | None = None,
    classes: Sequence[ClassInfo] | None = None,
    options: Options = DEFAULTS,
) -> ExportReport:
    """Write a run's model, or a bare one, as a file of `target`, after it was found to give the model's logits.

    path is a folder or the file's name; RUN/export unless given, export/ for a run that comes with the package.
    A bare model's classes are class_0, class_1, ... unless given; a run has its own. A file that was there is
    replaced only when parity holds; of a file in its run, RUN/parity.json gets a row. Raises UnknownName for the
    target, MissingExtra, ConfigError, DataNotFound, ExportError where the model or a file cannot be written, parity
    fails, or int8 loses more than it may.
    """
    reports, errors = export_all(source, [target], path, classes, options)
    if errors:
        raise errors[0]
    return reports[0]


def export_all(
    source: SegmentationModel | Run,
    targets: Sequence[str],
    path: str | Path | None = None,
    classes: Sequence[ClassInfo] | None = None,
    options: Options = DEFAULTS,
    say: Say = lambda message: None,
) -> tuple[list[ExportReport], list[FeathersegError]]:
    """`export` for several targets; one that fails does not stop the others: -> (reports, errors).

    What can be known before the work (names, places, packages, data) is raised at once.
    """
    targets = list(dict.fromkeys(targets))
    check_targets(targets, options)
    run = source if isinstance(source, Run) else None
    places = destinations((Path() if run.shipped else run.path) if run else None, targets, path)
    kept = run is not None and not run.shipped and _is_inside(next(iter(places.values())), run.path)
    work = Work(source, classes, options, any(EXPORTERS[t].quantised for t in targets), say)
    reports: list[ExportReport] = []
    errors: list[FeathersegError] = []
    for target, place in places.items():
        say(f"{target}: writing")
        try:
            reports.append(work.write(target, place))
        except FeathersegError as error:
            errors.append(error)
            continue
        if run and kept:
            keep_reports(run.path, reports)
    return reports, errors


def _is_inside(place: Path, run: Path) -> bool:
    """Whether a file lies in a run, whose report tells of it then. Raises FeathersegError where a link leads it out."""
    if run.absolute() in place.absolute().parents:
        refuse_links(run, place.absolute().relative_to(run.absolute()).parts[0])
    if run.resolve() not in place.resolve().parents:
        return False
    check_writable(run / PARITY)
    return True


def check_targets(targets: Sequence[str], options: Options) -> None:
    """Raises UnknownName, MissingExtra, and ConfigError for masks of a target that has none."""
    for target in targets:
        if target not in EXPORTERS:
            raise unknown("export target", target, EXPORTERS)
    for target in targets:
        entry = EXPORTERS[target]
        if options.masks and not entry.masks:
            able = ", ".join(name for name, row in EXPORTERS.items() if row.masks)
            raise ConfigError(f"--masks: {target} is not written with masks for outputs. Targets that are: {able}.")
        for package in entry.packages:
            require(package, entry.extra, f"Export to {target}")
        if entry.need:
            entry.need()
