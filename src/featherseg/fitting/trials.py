"""The trainings of a fit: each candidate a run folder that goes on from rung to rung, to the bit.

`carry_out` is the seam for more machines: it takes segments, which are plain values, and gives what became of each.
"""

import math
import os
import shutil
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

from featherseg.core.errors import TrainingError
from featherseg.core.files import append_line, read_lines
from featherseg.core.types import Reporter
from featherseg.runs import METRICS, RESOLVED, open_run
from featherseg.training import Request, train

SECONDS = "seconds.jsonl"
"""In a trial's folder: what its segments took."""


@dataclass(frozen=True)
class Segment:
    """A trial, and up to which step it goes on, the last `decay` of them at a falling rate.

    recipe and overrides are those of its training; source: the trial whose state it begins with, None for its own.
    """

    folder: Path
    recipe: str
    overrides: tuple[str, ...]
    steps: int
    decay: int = 0
    source: Path | None = None


class _Steps:
    """Reports the steps of a trial, not its messages, which are for those who type `train`."""

    def __init__(self, reporter: Reporter) -> None:
        self.step, self.progress = reporter.step, reporter.progress

    def message(self, text: str) -> None:
        """Not told."""


Executor = Callable[[Sequence[Segment], Reporter], list[float]]
"""Carries segments out; -> the mIoU (0..1) of each on the validation split, NaN where its training failed."""


def carry_out(segments: Sequence[Segment], reporter: Reporter) -> list[float]:
    """One after the other in this process, with all its threads. What was done before a kill is not done again."""
    return [_carry_out(segment, reporter) for segment in segments]


def _carry_out(segment: Segment, reporter: Reporter) -> float:
    folder, known = segment.folder, score_at(segment.folder, segment.steps)
    if known is not None:
        return known
    if segment.source is not None and not (folder / RESOLVED).is_file():
        copy_run(segment.source, folder)
    lengths = (f"train.steps={segment.steps}", f"train.decay_steps={segment.decay}")
    began, done = time.monotonic(), _last_step(folder)
    try:
        request = Request(segment.recipe, overrides=(*segment.overrides, *lengths))
        train(request, folder, _Steps(reporter), resume=True)
    except TrainingError as error:
        reporter.message(f"{folder.name} is dropped: {error}")
        append_line(folder / METRICS, {"step": segment.steps, "val_miou": None})
    append_line(folder / SECONDS, {"steps": segment.steps - done, "seconds": round(time.monotonic() - began, 2)})
    found = score_at(folder, segment.steps)
    return math.nan if found is None else found


def score_at(folder: Path, steps: int) -> float | None:
    """The mIoU of a trial on the validation split at a step; None before it is there, NaN where it failed."""
    if not (folder / RESOLVED).is_file():
        return None
    record = open_run(folder).metrics().get(steps, {})
    if "val_miou" not in record:
        return None
    return math.nan if record["val_miou"] is None else float(record["val_miou"])


def seconds_of(folder: Path) -> float:
    """What the trainings in a trial's folder took so far; what a kill cut off is not known and not counted."""
    return sum(row["seconds"] for row in read_lines(folder / SECONDS))


def progress_of(folder: Path) -> tuple[int, float]:
    """(the step that a trial has reached, seconds that a step took with all that belongs to it, 0 where not known)."""
    rows = read_lines(folder / SECONDS)
    steps = sum(row["steps"] for row in rows)
    return _last_step(folder), sum(row["seconds"] for row in rows) / steps if steps > 0 else 0.0


def _last_step(folder: Path) -> int:
    return max(open_run(folder).metrics(), default=0) if (folder / RESOLVED).is_file() else 0


def copy_run(source: Path, to: Path) -> None:
    """A run folder, file by file; the one that makes it a run comes last, so that a kill leaves no half of one."""
    to.mkdir(parents=True, exist_ok=True)
    for path in sorted(source.rglob("*"), key=lambda path: path.name == RESOLVED):
        place = to / path.relative_to(source)
        if path.is_dir():
            place.mkdir(exist_ok=True)
        elif path.name not in (SECONDS, ".lock"):
            temporary = place.with_name(f"{place.name}.tmp")
            shutil.copyfile(path, temporary)
            os.replace(temporary, place)
