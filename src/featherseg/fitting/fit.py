"""`featherseg fit`: data and a budget in, the best verified model for the device out.

A fit measures the latency of every candidate before any trains, plans, trains by successive
halving, trains the last candidate to its end and delivers it. Each stage takes a value and returns
one. What is on disk is read when a fit begins, so that it goes on where it was killed.
"""

import math
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass, replace
from pathlib import Path
from tempfile import TemporaryDirectory
from threading import Event, Thread
from typing import Any

from featherseg.converters.converted import as_dataset
from featherseg.core.config import with_given
from featherseg.core.errors import ConfigError, FeathersegError, RunError, TrainingError
from featherseg.core.files import (
    FIT,
    FIT_LOCK,
    PLAN,
    check_folder,
    load_json,
    locked,
    read_lines,
    refuse_links,
    write_json,
)
from featherseg.core.machine import command_began
from featherseg.core.notebook import reporter_of
from featherseg.core.types import Progress, Reporter, Size, as_size
from featherseg.core.wording import duration
from featherseg.data import is_own
from featherseg.fitting.beginning import begin, check_loggers
from featherseg.fitting.bundle import read_latency
from featherseg.fitting.delivery import deliver
from featherseg.fitting.elsewhere import timings_of
from featherseg.fitting.halving import Candidate, name_of
from featherseg.fitting.last_training import train
from featherseg.fitting.plan import FitConfig, FitPlan, check_limits, read_plan
from featherseg.fitting.results import FitResult, read_fit
from featherseg.fitting.screening import screen
from featherseg.fitting.splits import DATASET, whole_path
from featherseg.fitting.state import FitJob, FitState, Undelivered, read_state
from featherseg.fitting.substitution import accepts_any, substitute
from featherseg.fitting.trials import SECONDS, TRIALS, DistinctWarnings, final_folder, trial_workers
from featherseg.fitting.watch import Watch
from featherseg.runs.run import RESOLVED
from featherseg.training.job import torch_as_it_was
from featherseg.training.trackers import begin_group

USUAL: dict[str, Any] = {
    "percentile": 50,
    "max_mib": None,
    "hours": 1.0,
    "format": "onnx",
    "image_size": None,
    "data_root": None,
    "device": "auto",
    "loggers": (),
    "unlabelled": None,
}
"""The defaults of a new fit. In a call None stands for them, because a resumed fit keeps its
own."""

SPENT = "spent.json"
"""The seconds that a fit has taken in all its commands."""

BEAT = 10.0
"""Seconds between two writes of SPENT."""

MOST_SPENT = 1e9
"""Seconds that no fit takes."""


@dataclass(frozen=True)
class FitSettings:
    """The settings of a fit beside data, limit and time.

    Args:
        percentile: 50 or 95: so many of 100 masks are there within the limit; None: 50.
        max_mib: The memory that the process that predicts may take, in MiB; None: any.
        data_root: The folder in which a dataset with a name lies.
        device: What it trains on: auto, cpu, cuda, cuda:N or mps.
        cluster: "local", "auto" or HOST:PORT of a Ray cluster, on which candidates train at the
            same time. Its machines are like this one and see the data and `out` under the same
            path.
        workers: Candidates that train at once there; None: one a machine.
        loggers: Where its trainings are followed, as `train.loggers` of a recipe; they stand under
            one run there.
        unlabelled: A folder of images without masks: the chosen model labels them, and learns from
            all in a second training.

    Raises:
        ConfigError: A value is out of range.
    """

    percentile: int | None = None
    max_mib: float | None = None
    data_root: str | Path | None = None
    device: str = "auto"
    cluster: str | None = None
    workers: int | None = None
    loggers: tuple[str, ...] = ()
    unlabelled: str | Path | None = None

    def __post_init__(self) -> None:
        check_limits(self.percentile, self.max_mib)


DEFAULTS = FitSettings()


def fit(
    data: str | Path | None = None,
    max_ms: float | None = None,
    *,
    out: str | Path,
    hours: float | None = None,
    format: str | None = None,
    image_size: Size | None = None,
    latency: str | Path | None = None,
    resume: bool = False,
    settings: FitSettings | Mapping[str, Any] = DEFAULTS,
    progress: Progress | Reporter | None = None,
) -> FitResult:
    """Find, train, export and verify the most accurate model that is fast enough on this device.

    Candidates, models at input scales, are timed before any trains; those that keep the limit train
    by successive halving, the last one for at least half of the time. Kill it at any time: with
    `resume` it goes on.

        fitted = featherseg.fit("photos", max_ms=20, hours=2, out="runs/photos")
        featherseg.Predictor(fitted.file)

    Args:
        data: A dataset's name, a dataset.toml, or a folder of images and masks. If it has no
            validation or test images, a tenth of the training images becomes each.
        max_ms: The latency limit of `Predictor`, from a decoded image to its mask, in milliseconds.
        out: The folder to write, in the end a run folder; must be new, except with `resume`.
        hours: From start to end, kept within 10 % unless the machine gets busy at the very end;
            with `resume` more than before train the chosen model for longer.
        format: The format of the exported file, a key of `exporters.EXPORTERS` that runs here;
            default: onnx.
        image_size: (height, width) of the images that will be predicted; default: that of a typical
            training image.
        latency: The latency.json of another device, as the script of
            `featherseg fit --measure -o bundle.zip` writes it there; the choice is for that device.
        resume: Go on with the fit in `out`; what is given must be as when it was begun. If `out`
            has no fit yet, it is begun.
        settings: Percentile, memory, data root, training device: FitSettings, or a mapping of what
            differs from its defaults, {"percentile": 95}.
        progress: As of `featherseg.train`.

    Returns:
        FitResult: what was chosen, every candidate, where the exported file is. limit_kept is False
        if the hours ended with a model over the limit, which is delivered.

    Raises:
        ConfigError: A value is out of range, or no candidate keeps the limit: the fastest is named.
        UnknownName, DataNotFound, DataError, MissingExtra, DeviceError: Before anything is trained.
        RunError: `out` exists (without `resume`), another process works in it, no candidate could
            be delivered because its training or its file failed, or a model within the limit that
            was delivered before stays.
        TrainingError: Every training failed, or the hours were over before the first step.
        KeyboardInterrupt: It was stopped; `resume` goes on.
    """
    began, out, reporter = command_began(), Path(out), DistinctWarnings(reporter_of(progress))
    for name, value in (("max_ms", max_ms), ("hours", hours)):
        if not isinstance(value, float | int | None):
            raise ConfigError(f"{name} = {value!r}: expected a number, such as 20 or 0.5.")
    image_size = None if image_size is None else as_size("image_size", image_size)
    settings = with_given(DEFAULTS, settings, "settings")
    given: dict[str, Any] = {  # None: not given
        "data": data,
        "max_ms": max_ms,
        "format": format,
        "image_size": image_size,
        "percentile": settings.percentile,
        "max_mib": settings.max_mib,
        "data_root": settings.data_root,
        "device": None if settings.device == "auto" else settings.device,
        "loggers": settings.loggers or None,
        "unlabelled": settings.unlabelled and whole_path(settings.unlabelled),
    }

    # Whether there is a fit to go on with, or room for a new one
    begun, new = (out / PLAN).is_file(), _is_new(out)
    _refuse_folder(out, begun, new, resume=resume)
    if not begun and (data is None or max_ms is None):
        problem = "there is nothing to continue" if resume else "data or limit is missing"
        raise ConfigError(
            f"{out}: {problem}. Begin with data, limit and time: --data DATA --max-ms 20 --hours 2"
        )
    if data is not None:
        given["data"] = as_dataset(data, reporter.progress)
    check_folder(out)
    made_here = [folder for folder in (out, *out.parents) if not folder.exists()]
    out.mkdir(parents=True, exist_ok=True)
    running = RunError(f"another process fits in {out}. Wait for it or stop it first.")
    with (
        locked(out / FIT_LOCK, running),
        _unless_begun(out, new, made_here),
        torch_as_it_was(),
        trial_workers(settings.cluster, settings.workers, settings.device) as workers,
    ):
        refuse_links(out, TRIALS, below=1)  # in a trial a tracker may have its own
        job = FitJob(out, began, workers, reporter)

        # The plan: that of the fit that goes on, or a new one for the candidates that are measured
        if begun:
            plan = read_plan(out / PLAN)
            plan.refuse_other(given)
            _refuse_other_timings(plan, latency)
            check_loggers(plan.config)
            spent = _spent(out, plan)
            job = replace(job, began=began - spent)
            reporter.message(
                f"going on with {out}: {duration(spent)} of {plan.config.hours:g} h are used"
            )
        else:
            if resume:
                reporter.message(f"nothing to continue in {out}: a new fit begins")
            measured = None if latency is None else read_latency(Path(latency))
            plan = begin(_new_config(given | {"hours": hours}), measured, job)
        plan = _with_hours(plan, hours, out)

        # A fit that is finished stays; one over the limit is timed again, whatever its hours
        delivered = FitResult(out, read_fit(out)) if (out / FIT).is_file() else None
        if delivered and _is_finished(plan, delivered):
            reporter.message(
                f"{out} is finished: {delivered.facts['steps']} steps, nothing left to do"
            )
            return delivered
        hours_end = job.began + 3600 * plan.config.hours
        delivery_ends = math.inf if plan.over_limit is not None and delivered else hours_end

        # Rung by rung, then the last one to its end; if that cannot be delivered, the next
        begin_group(out.absolute(), plan.config.loggers, reporter.message)
        try:
            with (
                _counted(out, job.began),
                TemporaryDirectory(prefix="featherseg-watch-") as aside,
            ):
                watches = dict[str, Watch]()
                state = screen(read_state(plan, out, delivered), job)
                while True:
                    winner = _winner(state)
                    if winner.name not in watches:
                        training_ends, folder = hours_end - plan.ending, Path(aside) / winner.name
                        watches[winner.name] = Watch(plan, winner, training_ends, folder, reporter)
                    watch = watches[winner.name]
                    state = train(state, winner, job, watch)
                    accept = accepts_any(state, winner, job)
                    try:
                        return deliver(state, winner, watch, job, delivery_ends, accept=accept)
                    except Undelivered as error:
                        state = substitute(state, winner, error, job, reporter)
        except KeyboardInterrupt:
            reporter.message(f"stopped. Go on with: featherseg fit --resume --out {out}")
            raise


def _is_new(out: Path) -> bool:
    """Return whether a fit may begin in a folder: missing, empty, or left by a killed fit."""
    if not out.is_dir():
        return not out.exists()
    names = {path.name for path in out.iterdir()}
    others = [
        name for name in names if name not in (FIT_LOCK, DATASET) and not name.endswith(".tmp")
    ]
    return not names or (FIT_LOCK in names and not others)


def _refuse_folder(out: Path, begun: bool, new: bool, *, resume: bool) -> None:
    """Raise RunError if a folder is neither new nor that of a fit to go on with."""
    if not resume and not new:
        raise RunError(
            f"{out} already exists. Add --resume to continue it, or choose another folder with "
            "--out."
        )
    if resume and not begun and not new:
        raise RunError(
            f"{out} contains files, but no {PLAN} of a fit to resume: choose another folder with "
            "--out."
        )


def _new_config(given: Mapping[str, Any]) -> FitConfig:
    """Return the configuration of a new fit, with absolute paths and defaults for None."""
    values = USUAL | {key: value for key, value in given.items() if value is not None}
    data, root = str(values["data"]), values["data_root"]
    values |= {
        "data": whole_path(data) if is_own(data) else data,
        "data_root": None if root is None else whole_path(root),
        "max_ms": float(values["max_ms"]),
    }
    return FitConfig(**values)


@contextmanager
def _unless_begun(out: Path, new: bool, made_here: Sequence[Path]) -> Iterator[None]:
    """Remove what was written for a new fit, and the folders made for it, if it was refused."""
    try:
        yield
    finally:
        if new and not (out / PLAN).is_file():
            with suppress(OSError):
                for name in (FIT_LOCK, DATASET):
                    (out / name).unlink(missing_ok=True)
                for folder in made_here:
                    folder.rmdir()


@contextmanager
def _counted(out: Path, began: float) -> Iterator[None]:
    """Write the seconds since `began` to OUT/spent.json every BEAT seconds and at the end."""

    def write() -> None:
        with suppress(OSError, FeathersegError):  # a full disk ends the training, not this
            write_json(out / SPENT, {"seconds": round(time.monotonic() - began, 1)})

    def beat() -> None:
        while not ended.wait(BEAT):
            write()

    ended = Event()
    (beating := Thread(target=beat, daemon=True)).start()
    try:
        yield
    finally:
        ended.set()
        beating.join()
        write()


def _spent(out: Path, plan: FitPlan) -> float:
    """Return the seconds that earlier commands took, as far as they are known."""
    try:
        seconds = float(load_json(out / SPENT)["seconds"])
        if not 0 <= seconds < MOST_SPENT:
            raise ValueError(f"{seconds} seconds")
        return seconds
    # Killed at its first steps, or of an older version
    except (OSError, ValueError, TypeError, KeyError):
        rows = [row for path in (out / TRIALS).glob("*") for row in read_lines(path / SECONDS)]
        return plan.spent + sum(row["seconds"] for row in rows)


def _refuse_other_timings(plan: FitPlan, latency: str | Path | None) -> None:
    """Raise ConfigError if a resumed fit is given another latency.json than it was begun with."""
    if latency is not None:
        timings = timings_of(read_latency(Path(latency)), plan.config.format)
        if not plan.elsewhere or not set(plan.timings) <= set(timings):
            raise ConfigError(
                f"it was begun with other latencies than --latency {latency}. Leave it out, or "
                "begin another."
            )


def _with_hours(plan: FitPlan, hours: float | None, out: Path) -> FitPlan:
    """Return the plan with more hours, in which the last candidate goes on.

    Raises ConfigError for fewer hours.
    """
    if hours is None or hours == plan.config.hours:
        return plan
    if hours < plan.config.hours:
        raise ConfigError(
            f"--hours {hours:g}: it was begun with {plan.config.hours:g}. More can be given, not "
            "less."
        )
    plan = replace(plan, config=replace(plan.config, hours=hours), over_limit=None)
    if not (out / FIT).is_file():  # else they may be too few
        plan.write(out)
    return plan


def _is_finished(plan: FitPlan, delivered: FitResult) -> bool:
    """Return whether the last training of these hours is delivered; its trials may be gone.

    A model over the limit that can be timed again is not finished: other programs may have slowed
    the machine down.
    """
    if not plan.finals:
        return False
    facts, last = delivered.facts, plan.finals[-1]
    if plan.over_limit is not None:
        last = next(one for one in reversed(plan.finals) if one.candidate == plan.over_limit)
    chosen = facts["chosen"]
    name = name_of(chosen["model"], chosen.get("trained_scale", chosen["scale"]))
    reached = (name, plan.config.hours, facts.get("steps"))
    if (last.candidate, last.hours, last.reached) != reached:
        return False
    one = next(one for one in plan.schedule.candidates if one.name == name)
    trained = (final_folder(delivered.path, one, last.steps) / RESOLVED).is_file()
    return delivered.limit_kept or not trained


def _winner(state: FitState) -> Candidate:
    """Return the best candidate that may be delivered. Raises TrainingError if there is none."""
    plan = state.plan
    for one in state.ranking:
        if plan.over_limit in (None, one.name) and one.name not in plan.failed:
            return one
    raise TrainingError(
        f"{', '.join(plan.failed)} could not be delivered, and the trainings of the others failed. "
        "Begin another fit with another --out."
    )
