"""The trainings of a fit: each candidate a run folder that goes on from rung to rung, to the bit.

An Executor takes segments, which are plain values, and gives what became of each: `train_in_turn`
in this process, `_over_ray` in a Ray cluster.
"""

import math
import platform
import shutil
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from functools import partial
from pathlib import Path
from typing import Any

import torch

from featherseg.core.cluster import Cluster, ray_cluster
from featherseg.core.errors import ConfigError, DataNotFound, FeathersegError, TrainingError
from featherseg.core.files import (
    PLAN,
    append_line,
    load_json,
    read_lines,
    remove_tree,
    write_atomic,
    write_json,
)
from featherseg.core.machine import usable_cores
from featherseg.core.types import Reporter
from featherseg.core.wording import WarningText, counted, one_line
from featherseg.fitting.clock import Deadline, StepClock
from featherseg.fitting.halving import Candidate
from featherseg.runs.run import RESOLVED, open_run
from featherseg.training import Request, train

TRIALS = "trials"
"""The folder of a fit's trials."""

SECONDS = "seconds.jsonl"
"""The file of a trial with a row for each part of its training."""

FAILED = "failed.json"
"""The file of a trial with the segment in which its training failed, and why."""

MOST_LOST = 10
"""The most workers that may be killed under a segment."""


@dataclass(frozen=True)
class Segment:
    """A trial, and up to which step it trains; a plain value.

    Args:
        folder: That of the trial.
        recipe, overrides: Those of its training.
        steps: The step up to which it trains, from its start.
        decay: The last steps at a falling rate.
        source: The trial whose state it begins with, None for its own.
        labeller: The run that labels images without masks, see `Request.labeller`.
        group: The folder of the fit.
        until: The step after which its clock stopped it before, if that is known.
        deadline: When it must stop whatever the step, None for never.
    """

    folder: Path
    recipe: str
    overrides: tuple[str, ...]
    steps: int
    decay: int = 0
    source: Path | None = None
    labeller: Path | None = None
    group: Path | None = None
    until: int | None = None
    deadline: Deadline | None = None


@dataclass(frozen=True)
class TrialRecord:
    """What the folder of a trial contains.

    Args:
        step: The step that it has reached, 0 before its first.
        scores: mIoU (0..1) on the validation images by step, NaN if it could not be computed.
        parts: A row of seconds.jsonl for each part of its training, without those cut off by a
            kill.
        failed_step: The last step of the segment in which its training failed.
        reason: Why it failed.
    """

    step: int = 0
    scores: Mapping[int, float] = field(default_factory=dict)
    parts: tuple[Mapping[str, Any], ...] = ()
    failed_step: int | None = None
    reason: str = ""

    def failure_at(self, steps: int) -> str | None:
        """Return why its training up to a step failed, None if it did not."""
        return self.reason if self.failed_step == steps else None

    def score_at(self, steps: int) -> float | None:
        """Return the mIoU at a step, NaN if the training to it failed, None before that."""
        return math.nan if self.failed_step == steps else self.scores.get(steps)

    @property
    def last_score(self) -> float:
        """The mIoU of its last validation, NaN before the first."""
        return self.scores[max(self.scores)] if self.scores else math.nan

    def score_of(self, segment: Segment) -> float:
        """Return the mIoU at the end of a segment, NaN if its training failed."""
        if self.failed_step == segment.steps:
            return math.nan
        return self.scores.get(segment.until or segment.steps, self.last_score)

    @property
    def seconds(self) -> float:
        """How long it trained; parts that a kill cut off are not counted."""
        return sum(row["seconds"] for row in self.parts)

    def pace(self, above: int = 0) -> float:
        """Return the mean seconds of a step, trained with more than `above` threads; 0 if unknown.

        Counted from the first step of each part to its last, so that starts, which read all images,
        and validations are left out.
        """
        rows = [row for row in self.parts if row["steps"] > 1 and row.get("threads", 1) > above]
        steps = sum(row["steps"] - 1 for row in rows)
        return sum(row.get("stepping", row["seconds"]) for row in rows) / steps if rows else 0.0


def read_trial(folder: Path) -> TrialRecord:
    """Return what the folder of a trial contains, nothing if it does not exist."""
    failure = load_json(folder / FAILED) if (folder / FAILED).is_file() else {}
    metrics = open_run(folder).metrics() if (folder / RESOLVED).is_file() else {}
    scores = {
        step: math.nan if row["val_miou"] is None else float(row["val_miou"])
        for step, row in metrics.items()
        if "val_miou" in row
    }
    return TrialRecord(
        max(metrics, default=0),
        scores,
        tuple(read_lines(folder / SECONDS)),
        failure.get("steps"),
        str(failure.get("reason", "")),
    )


class _StepCounter:
    """A reporter that counts the steps of a trial and passes on its warnings.

    Other messages are for those who type `train`.
    """

    def __init__(self, reporter: Reporter, until: int | None, deadline: Deadline | None) -> None:
        self.reporter, self.progress = reporter, reporter.progress
        self.until, self.clock = until, None if deadline is None else StepClock(deadline)
        self.taken, self.first, self.last, self.beside = 0, 0.0, 0.0, 0.0

    def is_last(self, step: int) -> bool:
        """Return whether the training stops after this step."""
        late = self.clock is not None and self.clock.is_last(step, time.monotonic(), self.beside)
        return late or step == self.until

    def message(self, text: str) -> None:
        """Pass a warning on."""
        if isinstance(text, WarningText):
            self.reporter.message(text)

    def step(self, *given: Any) -> None:
        """Count a step. The time of reporting it, in which a file may be timed, does not count."""
        now = time.monotonic()
        self.last = now - self.beside
        self.first = self.first if self.taken else self.last
        self.taken += 1
        self.reporter.step(*given)
        self.beside += time.monotonic() - now


class DistinctWarnings:
    """A reporter that passes on a warning of several trials once, by its text before the colon."""

    def __init__(self, reporter: Reporter) -> None:
        self.reporter, self.step, self.progress = reporter, reporter.step, reporter.progress
        self.passed = set[str]()

    def message(self, text: str) -> None:
        """Pass a message on, unless it is a warning that was passed on before."""
        if isinstance(text, WarningText):
            if (about := text.partition(":")[0]) in self.passed:
                return
            self.passed.add(about)
        self.reporter.message(text)


def found_by(error: Exception) -> str:
    """Return what is wrong, without remedies, which are options of `train`."""
    return error.found if isinstance(error, FeathersegError) else str(error)


Executor = Callable[[Sequence[Segment], Reporter], list[TrialRecord]]
"""Trains segments and returns the record of each trial."""


def train_in_turn(segments: Sequence[Segment], reporter: Reporter) -> list[TrialRecord]:
    """Train segments one after the other in this process."""
    return [train_segment(segment, reporter) for segment in segments]


@dataclass(frozen=True)
class Workers:
    """Those that train segments.

    Args:
        execute: Trains segments.
        at_once: The number that train at the same time.
        threads: Those of each.
        shares: Whether a segment that trains alone gets more threads.
    """

    execute: Executor
    at_once: int
    threads: int
    shares: bool = False


@contextmanager
def trial_workers(
    cluster: str | None, workers: int | None, device: str = "auto"
) -> Iterator[Workers]:
    """Yield this process, or a Ray cluster, as workers.

    Every machine must see the data and OUT under the same path. If there are GPUs, each trial takes
    one, unless the device is cpu.

    Args:
        cluster: "local", "auto" or HOST:PORT; None for this process.
        workers: The trials at once, None for one a machine.

    Raises:
        ConfigError, MissingExtra.
    """
    if cluster is None:
        if workers is not None:
            raise ConfigError(
                f"--workers {workers} needs a cluster: add --cluster local or an address, or leave "
                "it out."
            )
        yield Workers(train_in_turn, 1, torch.get_num_threads())
        return
    if workers is not None and workers < 1:
        raise ConfigError(f"--workers {workers}: expected 1 or more.")
    least = max(workers or 1, usable_cores()) if cluster == "local" else workers or 1
    with ray_cluster(cluster, least, "trials over a cluster") as there:
        there = replace(there, gpus=0) if device == "cpu" else there
        if there.gpus and (workers or 1) > there.gpus:
            raise ConfigError(
                f"--workers {workers}, but the cluster has {counted(there.gpus, 'GPU')}, and each "
                "candidate trains on one. Give fewer, or --device cpu."
            )
        at_once = workers or min(there.machines, there.gpus or there.machines)
        threads = _threads(there, at_once)
        yield Workers(
            partial(_over_ray, there, at_once), at_once, threads, _threads(there, 1) > threads
        )


def _threads(there: Cluster, at_once: int) -> int:
    """Return the threads of each of so many trials: all of a machine if there is one for each."""
    return max(1, there.processors // -(-at_once // there.machines))


def _over_ray(
    there: Cluster, at_once: int, segments: Sequence[Segment], reporter: Reporter
) -> list[TrialRecord]:
    """Train each segment as a task; if its worker is killed, another goes on from a checkpoint."""
    import ray

    threads = _threads(there, min(at_once, len(segments)))
    task = ray.remote(_remotely).options(
        num_cpus=threads, num_gpus=min(1, there.gpus), max_retries=MOST_LOST
    )
    waiting = {}
    for number, segment in enumerate(segments):
        there_too = replace(
            segment,
            folder=segment.folder.resolve(),
            source=segment.source and segment.source.resolve(),
            labeller=segment.labeller and segment.labeller.resolve(),
        )
        if segment.deadline is not None:  # machines have no other clock in common
            there_too = replace(
                there_too, deadline=segment.deadline.moved(time.time() - time.monotonic())
            )
        waiting[task.remote(there_too, threads)] = number
    records = [TrialRecord()] * len(segments)
    while waiting:
        reporter.progress("training on the cluster", len(segments) - len(waiting), len(segments))
        (done, *_), _ = ray.wait(list(waiting))
        number = waiting.pop(done)
        try:
            records[number], messages = ray.get(done)
        except ray.exceptions.RayError as error:
            if isinstance(cause := getattr(error, "cause", None), FeathersegError):
                raise cause from None
            raise FeathersegError(
                f"the cluster gave up {segments[number].folder.name}: "
                f"{one_line(str(error).strip().splitlines()[-1])}. What is done stays; --resume "
                "goes on."
            ) from error
        for text in messages:
            reporter.message(text)
    return records


class _Messages:
    """A reporter that keeps messages, which another process passes on."""

    def __init__(self) -> None:
        self.texts: list[str] = []

    def message(self, text: str) -> None:
        """Keep a message."""
        self.texts.append(text)

    def step(self, *record: object) -> None:
        """Ignore a step."""

    def progress(self, *state: object) -> None:
        """Ignore work between two steps."""


def _remotely(segment: Segment, threads: int) -> tuple[TrialRecord, list[str]]:
    """Train a segment in a process of the cluster; return (record, messages)."""
    plan = segment.folder.parent.parent / PLAN
    if not plan.is_file():
        raise DataNotFound(
            f"{platform.node()} does not see {plan}: --out must lie on a disk that all machines "
            "share."
        )
    torch.set_num_threads(threads)
    if segment.deadline is not None:
        segment = replace(segment, deadline=segment.deadline.moved(time.monotonic() - time.time()))
    messages = _Messages()
    return train_segment(segment, messages), messages.texts


def train_segment(segment: Segment, reporter: Reporter) -> TrialRecord:
    """Train a trial up to the end of a segment, unless it is there; return its record."""
    folder, record = segment.folder, read_trial(segment.folder)
    end = segment.until or segment.steps
    known = record.score_at(end)
    if known is not None and (
        math.isnan(known) or record.step > end or not open_run(folder).unfinished
    ):
        return record
    if not (folder / RESOLVED).is_file():
        remove_tree(folder)  # what failed before its first step, or a copy that was cut off
        if segment.source is not None:
            copy_run(segment.source, folder)
    if segment.deadline is not None and segment.deadline.seconds_left(time.monotonic(), 0.0) <= 0:
        return read_trial(folder)  # the hours are over
    reporter.progress(f"starting {folder.name}", 0, None)
    lengths = (f"train.steps={segment.steps}", f"train.decay_steps={segment.decay}")
    began, counting = time.monotonic(), _StepCounter(reporter, segment.until, segment.deadline)
    try:
        overrides = (*segment.overrides, *lengths)
        request = Request(
            segment.recipe,
            overrides=overrides,
            labeller=segment.labeller,
            group=segment.group,
            ends=counting.is_last,
        )
        train(request, folder, counting, resume=True)
    # ConfigError: too little memory for it
    except (TrainingError, ConfigError, torch.OutOfMemoryError) as error:
        begun = (folder / RESOLVED).is_file()
        if begun and isinstance(error, ConfigError):
            raise
        reporter.message(f"{folder.name} is dropped: {found_by(error)}")
        folder.mkdir(parents=True, exist_ok=True)
        reason = one_line(found_by(error)).rstrip(".")
        write_json(folder / FAILED, {"steps": segment.steps, "reason": reason})
        if not begun:
            return read_trial(folder)
    row = {"steps": counting.taken, "stepping": round(counting.last - counting.first, 3)}
    row |= {"threads": torch.get_num_threads(), "seconds": round(time.monotonic() - began, 2)}
    append_line(folder / SECONDS, row)
    return read_trial(folder)


def trial_folder(out: Path, one: Candidate) -> Path:
    """Return the folder in which a candidate trains."""
    return out / TRIALS / f"{one.model}-{one.scale:g}"


def final_folder(out: Path, one: Candidate, steps: int) -> Path:
    """Return the folder of its last training, of so many steps, a copy of its trial."""
    trial = trial_folder(out, one)
    return trial.with_name(f"{trial.name}-to-{steps}")


def masks_folder(out: Path, one: Candidate, steps: int) -> Path:
    """Return the folder of the training on the masks alone that comes before its last one."""
    final = final_folder(out, one, steps)
    return final.with_name(f"{final.name}-masks")


def copy_run(source: Path, to: Path, but: tuple[str, ...] = ()) -> None:
    """Copy a run folder. The file that makes it a run comes last: a kill leaves no half run.

    A link in the place of a file or a folder is replaced, not followed: it may lead anywhere.
    """
    to.mkdir(parents=True, exist_ok=True)
    for path in sorted(source.rglob("*"), key=lambda path: path.name == RESOLVED):
        place = to / path.relative_to(source)
        if not {SECONDS, FAILED, ".lock", *but}.isdisjoint(path.relative_to(source).parts):
            continue
        if path.is_dir():
            if place.is_symlink():
                place.unlink()
            place.mkdir(exist_ok=True)
        elif path.is_file():
            with path.open("rb") as file:
                write_atomic(place, partial(shutil.copyfileobj, file))
