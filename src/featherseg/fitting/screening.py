"""Successive halving: candidates train in rungs, and the worse half of each drops out."""

import math
import time
from collections.abc import Sequence
from dataclasses import replace

from featherseg.core.config import setting_texts
from featherseg.core.errors import TrainingError
from featherseg.core.notebook import percent
from featherseg.core.wording import WarningText, counted
from featherseg.fitting.beginning import KEPT_BACK
from featherseg.fitting.candidates import settings_of
from featherseg.fitting.clock import FED, planned_last, rung_deadlines
from featherseg.fitting.halving import Candidate, Rung, survivors
from featherseg.fitting.state import FitJob, FitState
from featherseg.fitting.trials import FAILED, TRIALS, Segment, TrialRecord, trial_folder


def screen(state: FitState, job: FitJob) -> FitState:
    """Train the candidates rung by rung until one is left; return the state with their ranking.

    A rung is not begun if it would leave the last candidate too little time, because steps take
    longer than planned. A rung that has begun ends by the clock, each candidate after its share of
    the time. Both change the plan. If all candidates of a rung fail, those dropped before take
    their place.

    Raises:
        TrainingError: All candidates failed. --resume tries those of the last rung again.
    """
    left, dropped = list(state.plan.schedule.candidates), list[Candidate]()
    for number, (steps, keep) in enumerate(state.plan.schedule.rungs, start=1):
        # Whether there is time for it
        schedule = state.plan.schedule
        if number > 1 and _starves(state, job, left, number):
            job.reporter.message(
                WarningText(
                    f"steps take longer than planned: {left[0].name} is the last one already, "
                    f"without rung {number}"
                )
            )
            ended = Rung(schedule.rungs[number - 2].steps, 1)
            rungs = (*schedule.rungs[: number - 2], ended)
            state = state.decide(job.out, schedule=replace(schedule, rungs=rungs))
            break

        # Its trainings
        rungs_text = f"rung {number} of {len(schedule.rungs)}"
        candidates = counted(len(left), "candidate")
        job.reporter.message(f"{rungs_text}: {candidates}, {keep} will stay")
        ends = job.began + 3600 * state.plan.config.hours
        deadlines = rung_deadlines(state.plan, left, ends, time.monotonic(), job.workers.at_once)
        segments = [
            replace(segment_of(state, job, one, steps[one.name]), deadline=deadline)
            for one, deadline in zip(left, deadlines, strict=True)
        ]
        state = _with_reached(state.train(segments, job), job, number, segments)
        results = [
            (one, state.trial(segment.folder).score_of(segment))
            for one, segment in zip(left, segments, strict=True)
        ]
        state = replace(state, scores={**state.scores, **{one.name: s for one, s in results}})

        # Who stays
        sound = [(one, score) for one, score in results if not math.isnan(score)]
        if not sound and not dropped:
            refuse_untrained(state, job, segments)
            reasons = [forget_failure(state, segment) for segment in segments]
            raise TrainingError(
                f"no candidate of rung {number} could be trained: "
                f"{'; '.join(dict.fromkeys(reasons))}. What is done stays in {job.out / TRIALS}, "
                "and --resume tries again."
            )
        ranked = survivors(sound, len(sound))
        left, dropped = ranked[:keep], ranked[keep:] + dropped
        if not left:
            break
        scores = ", ".join(f"{one.name} {percent(score)} %" for one, score in sound)
        job.reporter.message(f"rung {number}: {scores}")
    return replace(state, ranking=(*left, *dropped))


def _starves(state: FitState, job: FitJob, left: Sequence[Candidate], number: int) -> bool:
    """Return whether a rung that has not begun leaves the last one less than FED of its time."""
    plan = state.plan
    before, after = plan.schedule.rungs[number - 2].steps, plan.schedule.rungs[number - 1].steps
    rung_seconds = 0.0
    for one in left:
        trial = state.trial(trial_folder(job.out, one))
        if trial.step > before[one.name] or trial.failure_at(after[one.name]) is not None:
            return False
        more = after[one.name] - trial.step
        rung_seconds += more * (trial.pace() or one.step_seconds) + plan.validating
    seconds = 3600 * plan.config.hours - job.elapsed - plan.ending - 2 * plan.validating
    seconds -= rung_seconds / min(len(left), job.workers.at_once)
    return seconds < FED * planned_last(plan, left[0])


def _with_reached(
    state: FitState, job: FitJob, number: int, segments: Sequence[Segment]
) -> FitState:
    """Return the state with the steps that a rung's trials reached before the clock ended it."""
    schedule, by_folder = state.plan.schedule, {s.folder: s for s in segments}
    steps, keep = schedule.rungs[number - 1]
    reached = dict(steps)
    for one in schedule.candidates:
        segment = by_folder.get(trial_folder(job.out, one))
        if segment is None:
            continue
        trial = state.trial(segment.folder)
        if trial.failure_at(segment.steps) is None:
            reached[one.name] = trial.step if 0 < trial.step < segment.steps else segment.steps
    rungs = [*schedule.rungs]
    rungs[number - 1] = Rung(reached, keep)
    return state.decide(job.out, schedule=replace(schedule, rungs=tuple(rungs)))


def segment_of(state: FitState, job: FitJob, one: Candidate, steps: int) -> Segment:
    """Return the training of a candidate up to a step, at the constant rate."""
    plan = state.plan
    resize = plan.resize_at(one.scale)
    settings = settings_of(
        resize, plan.train_size, plan.splits.settings, pretrained=plan.pretrained
    )
    settings |= {"train.device": plan.config.device, "train.loggers": plan.config.loggers}
    settings |= {} if one.batch_size is None else {"train.batch_size": one.batch_size}
    folder, group = trial_folder(job.out, one), job.out.absolute()
    return Segment(folder, one.model, setting_texts(settings), steps, group=group)


def refuse_untrained(state: FitState, job: FitJob, segments: Sequence[Segment]) -> None:
    """Raise TrainingError if none of these trainings took a step because the hours are over."""
    plan, now = state.plan, time.monotonic()
    for segment in segments:
        begun = state.trial(segment.folder) != TrialRecord()
        if begun or segment.deadline is None or segment.deadline.seconds_left(now, 0.0) > 0:
            return
    seconds = job.elapsed + plan.delivering + 2 * plan.validating + plan.opening
    hours = math.ceil(100 * seconds / 3600 * (1 + KEPT_BACK)) / 100
    raise TrainingError(
        f"--hours {plan.config.hours:g}: nothing could be trained. What comes before the training "
        f"took {job.elapsed / 60:.1f} minutes here, and what follows takes about "
        f"{plan.delivering / 60:.1f}. Go on with more: "
        f"featherseg fit --resume --hours {hours:g} --out {job.out}"
    )


def forget_failure(state: FitState, segment: Segment) -> str:
    """Return why a segment failed, and let the next --resume try it again."""
    (segment.folder / FAILED).unlink(missing_ok=True)
    return state.trial(segment.folder).failure_at(segment.steps) or f"see {segment.folder}"
