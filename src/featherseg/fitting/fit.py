"""`featherseg fit`: data and a budget in, the best verified model for the device out. Reads from top to bottom.

Refuse, time every candidate before any trains, plan, halve, train the last one to its end, deliver. plan.json holds
what was decided before the first training; what follows, follows from it and from scores.
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

from featherseg.core.config import setting_texts, with_given
from featherseg.core.errors import ConfigError, FeathersegError, RunError, TrainingError
from featherseg.core.files import (
    FIT,
    FIT_LOCK,
    PLAN,
    check_folder,
    load_json,
    locked,
    refuse_links,
    write_json,
)
from featherseg.core.machine import command_began
from featherseg.core.notebook import percent, reporter_of
from featherseg.core.types import Progress, Reporter, Size, as_size
from featherseg.core.wording import WarningText, counted
from featherseg.data import is_own
from featherseg.fitting.beginning import KEPT_BACK, begin, check_loggers
from featherseg.fitting.bundle import read_latency
from featherseg.fitting.candidates import resize_of, settings_of
from featherseg.fitting.clock import FED, falling_steps, last_deadline, planned_last, rung_deadlines
from featherseg.fitting.delivery import Undelivered, deliver, shrink
from featherseg.fitting.elsewhere import timings_of
from featherseg.fitting.parts import DATASET, whole_path
from featherseg.fitting.plan import DECAY, MOST_CONSTANT, MOST_STEPS, Candidate, name_of, survivors
from featherseg.fitting.record import Final, FitConfig, Made, check_limits, read_plan
from featherseg.fitting.results import FitResult, is_over, read_fit
from featherseg.fitting.trials import (
    FAILED,
    TRIALS,
    Once,
    Segment,
    Workers,
    failure_at,
    final_folder,
    last_step,
    progress_of,
    score_at,
    seconds_of,
    trial_folder,
    trial_workers,
)
from featherseg.fitting.watch import Watch
from featherseg.runs.run import RESOLVED
from featherseg.training.job import torch_as_it_was
from featherseg.training.length import duration
from featherseg.training.trackers import begin_group

USUAL: Mapping[str, Any] = {
    "percentile": 50,
    "max_mib": None,
    "hours": 1.0,
    "format": "onnx",
    "image_size": None,
}
"""The defaults of a new fit; None in a call stands for them, as a resumed fit keeps what it was begun with."""

SPENT, BEAT = "spent.json", 10.0
"""What a fit took so far in all its commands, in seconds, and every how many of them it is written down."""

MOST_SPENT = 1e9
"""Seconds that no fit takes."""

ALONE = 0.05
"""Of the last training's time, in which its steps are timed where it shared its machine before."""

FEW = 200
"""Steps with which no model is near what it can be."""


@dataclass(frozen=True)
class FitSettings:
    """What a fit may be told beside data, limit and time.

    Args:
        percentile: 50 or 95: so many of 100 masks are there within the limit; None: 50.
        max_mib: What the process that predicts may hold of the memory, in MiB; None: any.
        data_root: The folder in which a dataset with a name lies.
        device: What it trains on: auto, cpu, cuda, cuda:N or mps.
        cluster: "local", "auto" or HOST:PORT of a Ray cluster, on which candidates train at the same time. Its machines
            are like this one and see the data and `out` under the same path.
        workers: Candidates that train at once there; None: one a machine.
        loggers: Where its trainings are followed, as `train.loggers` of a recipe; they stand under one run there.

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

    Candidates, models at input scales, are timed before any trains; those that keep the limit train by successive
    halving, the last one for at least half of the time. Kill it at any time: with `resume` it goes on.

    Args:
        data: A dataset's name, a dataset.toml, or a folder of images and masks. Where it has no validation or test
            images, a tenth of the training images becomes each.
        max_ms: What `Predictor` may take from a decoded image to its mask, in milliseconds.
        out: The folder to write, in the end a run folder; must be new, except with `resume`.
        hours: From start to end, kept within 10 % unless the machine gets busy at the very end; with `resume` more than
            before train the chosen model for longer.
        format: Of the exported file, a key of `exporters.EXPORTERS` that is run here; default: onnx.
        image_size: (height, width) of the images that will be predicted; default: that of a typical training image.
        latency: The latency.json of another device, as the script of `featherseg fit --measure -o bundle.zip` writes it
            there: the choice is by what that device takes.
        resume: Go on with what is in `out`, as it was begun; nothing else need be given, and what is given must be as
            it was. Where there is nothing yet, it is begun.
        settings: Percentile, memory, data root, training device: FitSettings, or a mapping of what differs from its
            defaults, {"percentile": 95}.
        progress: As of `featherseg.train`.

    Returns:
        FitResult: what was chosen, every candidate, where the exported file is. limit_kept is False where the hours
            ended with a model over the limit, which is delivered.

    Raises:
        ConfigError: A value is out of range, or no candidate keeps the limit: the fastest is told.
        UnknownName, DataNotFound, DataError, MissingExtra, DeviceError: Before anything is trained.
        RunError: `out` exists (without `resume`), another process works in it, no candidate could be delivered, as its
            training or its file failed, or a model within the limit that was delivered before stays.
        TrainingError: Every training failed, or the hours were over before the first step.
        KeyboardInterrupt: It was stopped; `resume` goes on.
    """
    began, out, reporter = command_began(), Path(out), Once(reporter_of(progress))
    for name, value in (("max_ms", max_ms), ("hours", hours)):
        if not isinstance(value, float | int | None):
            raise ConfigError(f"{name} = {value!r}: expected a number, such as 20 or 0.5.")
    image_size = None if image_size is None else as_size("image_size", image_size)
    settings = with_given(DEFAULTS, settings, "settings")

    # Whether there is a fit to go on with, or room for a new one
    there = (out / PLAN).is_file()
    names = {path.name for path in out.iterdir()} if out.is_dir() else set()
    begun = {
        name for name in names if name not in (FIT_LOCK, DATASET) and not name.endswith(".tmp")
    }
    new = not out.exists() or (out.is_dir() and (not names or (FIT_LOCK in names and not begun)))
    if not resume and not new:
        raise RunError(
            f"{out} already exists. Add --resume to continue it, or choose another folder with --out."
        )
    if resume and not there and not new:
        raise RunError(
            f"{out} holds files, but no {PLAN} of a fit to resume: choose another folder with --out."
        )
    if not there and (data is None or max_ms is None):
        begin_with = "there is nothing to continue" if resume else "too little was said"
        raise ConfigError(
            f"{out}: {begin_with}. Begin with data, limit and time: --data DATA --max-ms 20 --hours 2"
        )
    check_folder(out)
    made_here = [folder for folder in (out, *out.parents) if not folder.exists()]
    out.mkdir(parents=True, exist_ok=True)
    with (
        locked(
            out / FIT_LOCK,
            RunError(f"another process fits in {out}. Wait for it or stop it first."),
        ),
        _unless_begun(out, new, made_here),
        torch_as_it_was(),
        trial_workers(settings.cluster, settings.workers, settings.device) as workers,
    ):
        refuse_links(out, TRIALS, below=1)  # in a trial a tracker may have its own
        # The plan: that of the fit that goes on, or a new one
        if there:
            made = read_plan(out / PLAN)
            asked: dict[str, Any] = {
                "data": data,
                "max_ms": max_ms,
                "image_size": image_size,
                "format": format,
            }
            asked |= {key: getattr(settings, key) for key in ("max_mib", "data_root", "percentile")}
            asked |= {"loggers": settings.loggers or None}
            made.refuse_other(
                asked | {"device": None if settings.device == "auto" else settings.device}
            )
            _refuse_other_timings(made, latency)
            check_loggers(made.config)
            began -= (spent := _spent(out, made))
            reporter.message(
                f"going on with {out}: {duration(spent)} of {made.config.hours:g} h are used"
            )
        else:
            if resume:
                reporter.message(f"nothing to continue in {out}: a new fit begins")
            said: dict[str, Any] = {"percentile": settings.percentile, "max_mib": settings.max_mib}
            said |= {"hours": hours, "format": format, "image_size": image_size}
            config = FitConfig(
                data=whole_path(str(data)) if is_own(str(data)) else str(data),
                data_root=None if settings.data_root is None else whole_path(settings.data_root),
                max_ms=float(max_ms or 0),
                device=settings.device,
                loggers=settings.loggers,
                **{key: value if said[key] is None else said[key] for key, value in USUAL.items()},
            )
            measured = None if latency is None else read_latency(Path(latency))
            made = begin(config, out, began, measured, workers, reporter)
        made = _with_hours(made, hours, out)
        again = (
            made.over_limit is not None and (out / FIT).is_file()
        )  # it is timed again, whatever its hours
        if finished := _finished(made, out):
            reporter.message(
                f"{out} is finished: {finished.facts['steps']} steps, nothing left to do"
            )
            return finished

        # Rung by rung, then the last one to its end; where that cannot be delivered, the next
        begin_group(out.absolute(), made.config.loggers, reporter.message)
        try:
            with _counted(out, began), TemporaryDirectory(prefix="featherseg-watch-") as aside:
                watches = dict[str, Watch]()
                ranking, scores, made = halve(made, out, began, workers, reporter)
                while True:
                    left = [one for one in ranking if made.over_limit in (None, one.name)]
                    if not (left := [one for one in left if one.name not in made.failed]):
                        raise TrainingError(
                            f"{', '.join(made.failed)} could not be delivered, and the trainings of the others failed. "
                            "Begin another fit with another --out."
                        )
                    winner = left[0]
                    ends, folder = (
                        began + 3600 * made.config.hours - made.ending,
                        Path(aside) / winner.name,
                    )
                    watch = watches.setdefault(
                        winner.name, Watch(made, winner, ends, folder, reporter)
                    )
                    try:
                        final, made = train_to_the_end(made, winner, out, began, workers, watch)
                        accept = _accepts_any(made, ranking, winner, began, out)
                        ends = math.inf if again else began + 3600 * made.config.hours
                        return deliver(
                            made, winner, final, scores, watch, out, began, ends, accept=accept
                        )
                    except Undelivered as error:
                        made = make_do(
                            read_plan(out / PLAN),
                            ranking,
                            winner,
                            error,
                            scores,
                            began,
                            out,
                            reporter,
                        )
        except KeyboardInterrupt:
            reporter.message(f"stopped. Go on with: featherseg fit --resume --out {out}")
            raise


@contextmanager
def _unless_begun(out: Path, new: bool, made_here: Sequence[Path]) -> Iterator[None]:
    """Of a fit that was refused nothing stays, nor of the folders made for it: it would be in the mended one's way."""
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
    """Write the seconds since `began` into OUT/spent.json all the time, so that those before a kill count as well."""

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


def _spent(out: Path, made: Made) -> float:
    """Seconds that the commands before took, as far as it is known."""
    try:
        if not 0 <= (seconds := float(load_json(out / SPENT)["seconds"])) < MOST_SPENT:
            raise ValueError(f"{seconds} seconds")
        return seconds
    except (
        OSError,
        ValueError,
        TypeError,
        KeyError,
    ):  # killed at its first steps, or of an older version
        return made.spent + sum(seconds_of(path) for path in (out / TRIALS).glob("*"))


def _finished(made: Made, out: Path) -> FitResult | None:
    """What was delivered, where that is the last training of these hours; its trials may be gone.

    None for a model over the limit that can be timed again: other programs may have slowed the machine down.
    """
    if not (out / FIT).is_file() or not made.finals:
        return None
    facts, last = read_fit(out), made.finals[-1]
    chosen, reached = facts["chosen"], (made.config.hours, facts.get("steps"))
    name = name_of(chosen["model"], chosen.get("trained_scale", chosen["scale"]))
    if made.over_limit is not None:
        last = next(one for one in reversed(made.finals) if one.candidate == made.over_limit)
    if (last.candidate, last.hours, last.reached) != (name, *reached):
        return None
    found, one = (
        FitResult(out, facts),
        next(one for one in made.plan.candidates if one.name == name),
    )
    trained = (final_folder(out, one, last.steps) / RESOLVED).is_file()
    return found if found.limit_kept or not trained else None


def halve(
    made: Made, out: Path, began: float, workers: Workers, reporter: Reporter
) -> tuple[list[Candidate], dict[str, float], Made]:
    """Rung by rung, until one is left; -> it, then the others, who was dropped last first; their last scores (0..1).

    A rung that would leave the last one too little time, as steps take longer than planned, is not begun: the plan,
    which comes back, then ends with the rung before. A rung that has begun ends by the clock, each candidate after its
    share of the time; the plan has the steps that they reached. Where all of a rung fail, who was dropped before takes
    their place. Raises TrainingError where there is nobody; --resume then tries those of the last rung again.
    """
    left, dropped, scores = list(made.plan.candidates), list[Candidate](), dict[str, float]()
    for number, (steps, keep) in enumerate(made.plan.rungs, start=1):
        if number > 1 and _starves(made, out, left, number, began, workers):
            reporter.message(
                WarningText(
                    f"steps take longer than planned: {left[0].name} is the last one already, without rung {number}"
                )
            )
            (before, _) = made.plan.rungs[number - 2]
            rungs = (*made.plan.rungs[: number - 2], (before, 1))
            made = replace(made, plan=replace(made.plan, rungs=rungs))
            made.write(out)
            break
        reporter.message(
            f"rung {number} of {len(made.plan.rungs)}: {counted(len(left), 'candidate')}, {keep} will stay"
        )
        ends = began + 3600 * made.config.hours
        deadlines = rung_deadlines(made, left, ends, time.monotonic(), workers.at_once)
        segments = [
            replace(_segment(made, out, one, steps[one.name]), deadline=deadline)
            for one, deadline in zip(left, deadlines, strict=True)
        ]
        found = workers.execute(segments, reporter)
        made = _with_reached(made, out, number, segments)
        scores |= {one.name: score for one, score in zip(left, found, strict=True)}
        sound = [
            (one, score) for one, score in zip(left, found, strict=True) if not math.isnan(score)
        ]
        if not sound and not dropped:
            _refuse_untrained(made, segments, out, began)
            reasons = [_forget_failure(trial_folder(out, one), steps[one.name]) for one in left]
            raise TrainingError(
                f"no candidate of rung {number} could be trained: {'; '.join(dict.fromkeys(reasons))}. "
                f"What is done stays in {out / TRIALS}, and --resume tries again."
            )
        ranked = survivors(sound, len(sound))
        left, dropped = ranked[:keep], ranked[keep:] + dropped
        if not left:
            break
        reporter.message(
            f"rung {number}: {', '.join(f'{one.name} {percent(s)} %' for one, s in sound)}"
        )
    return left + dropped, scores, made


def _with_reached(made: Made, out: Path, number: int, segments: Sequence[Segment]) -> Made:
    """Return the plan in which a rung has the steps that its trials reached, where the clock stopped them."""
    (steps, keep), folders = made.plan.rungs[number - 1], {s.folder: s for s in segments}
    reached = dict(steps)
    for one in made.plan.candidates:
        segment = folders.get(trial_folder(out, one))
        if segment is not None and failure_at(segment.folder, segment.steps) is None:
            last = last_step(segment.folder)
            reached[one.name] = last if 0 < last < segment.steps else segment.steps
    if reached == steps:
        return made
    rungs = [*made.plan.rungs]
    rungs[number - 1] = (reached, keep)
    made = replace(made, plan=replace(made.plan, rungs=tuple(rungs)))
    made.write(out)
    return made


def _refuse_untrained(made: Made, segments: Sequence[Segment], out: Path, began: float) -> None:
    """Raises TrainingError where none of these trainings took a step, as the hours are over."""
    now = time.monotonic()
    for segment in segments:
        if (
            segment.deadline is None
            or segment.folder.exists()
            or segment.deadline.seconds_left(now, 0.0) > 0
        ):
            return
    taken = now - began
    least = (taken + made.delivering + 2 * made.validating + made.opening) / 3600 * (1 + KEPT_BACK)
    raise TrainingError(
        f"--hours {made.config.hours:g}: nothing could be trained. What comes before the training took "
        f"{taken / 60:.1f} minutes here, and what follows takes about {made.delivering / 60:.1f}. Go on with more: "
        f"featherseg fit --resume --hours {math.ceil(100 * least) / 100:g} --out {out}"
    )


def _starves(
    made: Made, out: Path, left: Sequence[Candidate], number: int, began: float, workers: Workers
) -> bool:
    """Whether a rung would leave the last one less than FED of its planned time; not of one that has begun."""
    (before, _), (steps, _) = made.plan.rungs[number - 2 : number]
    seconds = (
        began + 3600 * made.config.hours - time.monotonic() - made.ending - 2 * made.validating
    )
    rung = []
    for one in left:
        trained, pace = progress_of(trial_folder(out, one))
        if (
            trained > before[one.name]
            or failure_at(trial_folder(out, one), steps[one.name]) is not None
        ):
            return False
        more = steps[one.name] - trained
        rung.append(more * (pace or one.step_seconds) + made.validating)
    return seconds - sum(rung) / min(len(left), workers.at_once) < FED * planned_last(made, left[0])


def make_do(
    made: Made,
    ranking: Sequence[Candidate],
    winner: Candidate,
    error: Undelivered,
    scores: Mapping[str, float],
    began: float,
    out: Path,
    reporter: Reporter,
) -> Made:
    """Return the plan of what is delivered in place of a model that could not be, or was over the limit.

    One that was too slow sees smaller images, or the next candidate takes its place: a faster one where the limit was
    the reason. Where the hours leave no time for that, or nobody is left, the best of those that were trained is
    delivered over the limit. It is written down, so that a resumed fit decides alike. Raises the error where there
    is none, or a model that keeps the limit was delivered before, which stays.
    """
    if (out / FIT).is_file() and FitResult(out, read_fit(out)).limit_kept:
        reporter.message(f"{out} stays as it was delivered before")
        raise error
    failed = dict(made.failed) | {winner.name: error.reason}
    if error.over_ms is not None:
        slower = (one.name for one in ranking if one.latency_ms > winner.latency_ms)
        failed = dict.fromkeys(slower, f"slower than {winner.name}") | failed
    left = [one for one in ranking if one.name not in failed]
    time_to_shrink, time_to_train = _time_for_another(made, winner, left, began, out)

    # Smaller images
    if error.over_ms is not None and time_to_shrink and (last := made.final(winner)):
        final, rival = (
            final_folder(out, winner, last.steps),
            scores.get(left[0].name) if left else None,
        )
        if smaller := shrink(made, winner, final, error.over_ms, rival, reporter):
            smaller.write(out)
            return smaller

    # The next one. What failed for another reason than the limit needs one, however little it was trained
    if left and (time_to_train or not error.over_limit):
        reporter.message(
            f"{winner.name} is not delivered: {error.reason}; in its place {left[0].name}"
        )
        made = replace(made, failed=failed, over_limit=None)
        made.write(out)
        return made

    # The best one that is trained, over the limit
    over = [one for one in ranking if made.final(one) and is_over(failed.get(one.name, ""))]
    if not over:
        raise error
    best = max(over, key=lambda one: _last_score(made, one, out))
    del failed[best.name]
    made = replace(made, failed=failed, over_limit=best.name)
    made.write(out)
    return made


def _last_score(made: Made, one: Candidate, out: Path) -> float:
    """The mIoU (0..1) at the end of its last training, below 0 where there is none."""
    last = made.final(one)
    score = None if last is None else score_at(final_folder(out, one, last.steps), last.reached)
    return -1.0 if score is None or math.isnan(score) else score


def _time_for_another(
    made: Made,
    winner: Candidate,
    left: Sequence[Candidate],
    began: float,
    out: Path,
    before: float = 0.0,
) -> tuple[bool, bool]:
    """Whether the hours have time to deliver the winner for smaller images, and to train the first of `left`.

    Its rate must have time to fall, and the winner to be delivered after all. before: seconds that are needed first,
    at the planned pace.
    """
    pace = progress_of(trial_folder(out, winner))[1] or winner.step_seconds
    seconds = began + 3600 * made.config.hours - time.monotonic()
    seconds = seconds / max(1.0, pace / winner.step_seconds) - before
    training = 0.0
    if left:
        falling = falling_steps(last_step(trial_folder(out, left[0])))
        training = falling * left[0].step_seconds + 2 * made.validating
    delivering = made.delivering + made.validating
    return seconds > delivering, bool(left) and seconds > training + 2 * delivering


def _accepts_any(
    made: Made, ranking: Sequence[Candidate], winner: Candidate, began: float, out: Path
) -> bool:
    """Whether a winner is delivered even if its file is over the limit: nothing else could be done then."""
    if made.over_limit == winner.name:
        return True
    if (out / FIT).is_file() and FitResult(out, read_fit(out)).limit_kept:
        return False
    if any(is_over(reason) for reason in made.failed.values()):  # the best of them is
        return False
    left = [one for one in ranking if one.name not in {winner.name, *made.failed}]
    return not any(_time_for_another(made, winner, left, began, out, made.delivering))


def train_to_the_end(
    made: Made, winner: Candidate, out: Path, began: float, workers: Workers, reporter: Reporter
) -> tuple[Path, Made]:
    """The winner at its constant rate, then a copy of it at a falling one, which may not go on; -> the copy.

    How many steps that is follows from the time that is left when it begins, and is written into the plan then. Where
    others shared its machine before, some steps without them are timed first. Where steps take longer than planned the
    clock ends both; the plan then has the steps that were reached. Raises Undelivered where its training failed,
    TrainingError where no step was taken in the hours.
    """
    ends = began + 3600 * made.config.hours
    if made.final(winner) is None:
        trial = trial_folder(out, winner)
        planned_end = ends - made.ending - 2 * made.validating
        trained, pace = progress_of(trial, shared := workers.threads if workers.shares else 0)
        few = int(ALONE * (planned_end - time.monotonic()) / winner.step_seconds)
        if shared and not pace and few > 1:
            timed = _segment(made, out, winner, min(trained + few, MOST_CONSTANT))
            timed = replace(timed, deadline=last_deadline(made, winner, ends))
            if math.isnan(workers.execute([timed], reporter)[0]):
                raise _unfinished(winner, timed)
            trained, pace = progress_of(trial, shared)
        left = planned_end - time.monotonic() - (0 if trained else made.opening)
        pace = pace or winner.step_seconds
        more = max(0 if trained else 1, int(left / pace))  # none: it is delivered as it is
        steps = min(trained + more, MOST_STEPS)
        decay = min(int(DECAY * steps), steps - trained)
        if (out / FIT).is_file() and steps <= (delivered := read_fit(out)["steps"]):
            if delivered >= MOST_STEPS:
                raise ConfigError(
                    f"--hours {made.config.hours:g}: {winner.name} was delivered with {delivered} steps, the most "
                    "that a training takes. Leave it out."
                )
            least = made.config.hours + ((delivered * 1.01 + 1 - trained) * pace - left) / 3600
            raise ConfigError(
                f"--hours {made.config.hours:g}: {winner.name} would get {steps} steps, and it was delivered with "
                f"{delivered}, as the last ones are taken anew. Give at least {math.ceil(100 * least) / 100:g}."
            )
        # Of fewer hours those count that were reached: the trial cannot go back
        reached = (
            one for one in made.finals if one.candidate != winner.name or one.constant <= trained
        )
        made = replace(made, finals=tuple(reached))
        made = replace(
            made, finals=(*made.finals, Final(winner.name, made.config.hours, steps, decay))
        )
        made.write(out)
    *before, last = made.finals_of(winner)
    reporter.message(
        f"{winner.name} goes on to step {last.steps}, the last {last.decay} of them at a falling rate"
    )
    if last.reached < FEW:
        reporter.message(
            f"it has {counted(last.reached, 'step')}, which is very few: give it more --hours, or go on with --resume "
            "and more of them"
        )

    # At its constant rate; by fewer hours it stopped there before
    for one in (*before, last):
        constant = _segment(made, out, winner, one.constant)
        if one is last:
            constant = replace(constant, deadline=last_deadline(made, winner, ends))
        if constant.steps and math.isnan(workers.execute([constant], reporter)[0]):
            _refuse_untrained(made, [constant], out, began)
            raise _unfinished(winner, constant)
    trained = last_step(constant.folder)
    if 0 < trained < last.constant:
        decay = min(last.decay, falling_steps(trained))
        made, last = _with_final(made, last, replace(last, steps=trained + decay, decay=decay), out)
        reporter.message(
            WarningText(
                f"steps take longer than planned: its rate falls from step {trained} on, up to {last.steps}"
            )
        )

    # A copy at a falling rate, which may not go on
    folder = final_folder(out, winner, last.steps)
    source = constant.folder if last.constant else None
    final = replace(
        constant,
        folder=folder,
        steps=last.steps,
        decay=last.decay,
        source=source,
        until=last.stopped,
    )
    final = replace(final, deadline=last_deadline(made, winner, ends, decay=False))
    if math.isnan(workers.execute([final], reporter)[0]):
        _refuse_untrained(made, [final], out, began)
        raise _unfinished(winner, final)
    trained = last_step(folder)
    if last.stopped is None and 0 < trained < last.steps:
        reporter.message(
            WarningText(f"steps take longer than planned: the training ended at step {trained}")
        )
        made, last = _with_final(made, last, replace(last, stopped=trained), out)
    return folder, made


def _with_final(made: Made, old: Final, new: Final, out: Path) -> tuple[Made, Final]:
    """Write the plan in which the hours ended a last training earlier; -> (it, that training)."""
    made = replace(made, finals=tuple(new if one is old else one for one in made.finals))
    made.write(out)
    return made, new


def _unfinished(winner: Candidate, segment: Segment) -> Undelivered:
    """The error of a last training that failed, which the next --resume tries again: there may be more memory then."""
    reason = f"its training failed: {_forget_failure(segment.folder, segment.steps)}"
    return Undelivered(
        f"{winner.name} could not be trained to its end: {reason}. What is done stays in {segment.folder}, and "
        "--resume tries again.",
        reason,
    )


def _forget_failure(folder: Path, steps: int) -> str:
    """Why a trial failed, so that it is tried again."""
    reason = failure_at(folder, steps) or f"see {folder}"
    (folder / FAILED).unlink(missing_ok=True)
    return reason


def _segment(made: Made, out: Path, one: Candidate, steps: int) -> Segment:
    """The training of a candidate up to a step, at the constant rate."""
    resize = resize_of(one.scale, made.image_size, whole=made.config.image_size is None)
    settings = settings_of(resize, made.train_size, made.parts.settings, pretrained=made.pretrained)
    settings |= {"train.device": made.config.device, "train.loggers": made.config.loggers}
    settings |= {} if one.batch_size is None else {"train.batch_size": one.batch_size}
    return Segment(
        trial_folder(out, one), one.model, setting_texts(settings), steps, group=out.absolute()
    )


def _refuse_other_timings(made: Made, latency: str | Path | None) -> None:
    """Raises ConfigError where a resumed fit is given another latency.json than it was begun with."""
    if latency is not None:
        there = timings_of(read_latency(Path(latency)), made.config.format)
        if not made.elsewhere or not set(made.timings) <= set(there):
            raise ConfigError(
                f"it was begun with other latencies than --latency {latency}. Leave it out, or begin another."
            )


def _with_hours(made: Made, hours: float | None, out: Path) -> Made:
    """The plan with more hours; whoever was the last one then goes on. Raises ConfigError for fewer."""
    if hours is None or hours == made.config.hours:
        return made
    if hours < made.config.hours:
        raise ConfigError(
            f"--hours {hours:g}: it was begun with {made.config.hours:g}. More can be given, not less."
        )
    made = replace(made, config=replace(made.config, hours=hours), over_limit=None)
    if not (out / FIT).is_file():  # else they may be too few
        made.write(out)
    return made
