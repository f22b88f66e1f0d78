"""The last training of a fit: at the constant rate, then a copy at a falling one."""

import math
import time
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

from featherseg.core.config import setting_texts
from featherseg.core.errors import ConfigError
from featherseg.core.types import Reporter
from featherseg.core.wording import WarningText, counted
from featherseg.fitting.clock import falling_steps, half_deadline, last_deadline
from featherseg.fitting.halving import DECAY, MOST_CONSTANT, MOST_STEPS, Candidate
from featherseg.fitting.plan import FinalTraining
from featherseg.fitting.screening import forget_failure, refuse_untrained, segment_of
from featherseg.fitting.state import FitJob, FitState, Undelivered
from featherseg.fitting.trials import Segment, final_folder, masks_folder, trial_folder
from featherseg.training.self_training import LABELLING_SHARE

ALONE = 0.05
"""The share of the last training's time in which its steps are timed, if it shared its machine
before."""

FEW = 200
"""Steps with which no model is near what it can be."""


def train(state: FitState, winner: Candidate, job: FitJob, reporter: Reporter) -> FitState:
    """Train a candidate to its end; return the state, with `failure` set if its training failed.

    It trains at its constant rate; then a copy trains at a falling one and cannot go on. The number
    of steps follows from the time that is left when it begins, and stands in the plan from then on.
    If steps take longer than planned, the clock ends both, and the plan gets the reached steps.
    With images without masks the copy labels them, and a second training of as many steps follows.

    Args:
        reporter: Gets what is reported while it trains.

    Raises:
        TrainingError: The hours were over before the first step.
        ConfigError: It would be trained for fewer steps than what was delivered before.
    """
    ends, out = job.began + 3600 * state.plan.config.hours, job.out
    state = replace(state, failure=None)
    if state.plan.final(winner) is None:
        state = _plan_steps(state, winner, job, reporter, ends)
        if state.failure is not None:
            return state
    *before, last = state.plan.finals_of(winner)
    reporter.message(
        f"{winner.name} goes on to step {last.steps}, the last {last.decay} of them at a falling "
        "rate"
    )
    if last.reached < FEW:
        reporter.message(
            f"it has {counted(last.reached, 'step')}, which is very few: give it more --hours, or "
            "go on with --resume and more of them"
        )

    # At its constant rate, through the steps at which fewer hours ended it before
    for one in (*before, last):
        constant = segment_of(state, job, winner, one.constant)
        if one is last:
            constant = replace(constant, deadline=last_deadline(state.plan, winner, ends))
        if constant.steps:
            state = state.train([constant], job, reporter)
            if math.isnan(state.trial(constant.folder).score_of(constant)):
                refuse_untrained(state, job, [constant])
                return _failed(state, winner, constant)
    reached = state.trial(constant.folder).step
    if 0 < reached < last.constant:
        decay = min(last.decay, falling_steps(reached))
        shorter = replace(last, steps=reached + decay, decay=decay)
        state, last = _with_final(state, out, last, shorter), shorter
        reporter.message(
            WarningText(
                f"steps take longer than planned: its rate falls from step {reached} on, up to "
                f"{last.steps}"
            )
        )

    # A copy at a falling rate
    ending = last_deadline(state.plan, winner, ends, decay=False)
    final = replace(
        constant,
        folder=final_folder(out, winner, last.steps),
        steps=last.steps,
        decay=last.decay,
        source=constant.folder if last.constant else None,
        until=last.stopped,
        deadline=ending,
    )
    if unlabelled := state.plan.config.unlabelled:
        masks = replace(
            final,
            folder=masks_folder(out, winner, last.steps),
            until=last.first,
            deadline=half_deadline(ending, time.monotonic()),
        )
        state = state.train([masks], job, reporter)
        trial = state.trial(masks.folder)
        if math.isnan(trial.score_of(masks)):
            refuse_untrained(state, job, [masks])
            return _failed(state, winner, masks)
        if last.first is None:
            begun = replace(last, first=trial.step)
            state, last = _with_final(state, out, last, begun), begun
        reporter.message(f"{winner.name} labels images without masks, and learns from all")
        more = setting_texts({"data.unlabelled": unlabelled})
        overrides = (*final.overrides, *more)
        final = replace(final, source=None, labeller=masks.folder, overrides=overrides)
    state = state.train([final], job, reporter)
    if math.isnan(state.trial(final.folder).score_of(final)):
        refuse_untrained(state, job, [final])
        return _failed(state, winner, final)
    reached = state.trial(final.folder).step
    if last.stopped is None and 0 < reached < last.steps:
        reporter.message(
            WarningText(f"steps take longer than planned: the training ended at step {reached}")
        )
        state = _with_final(state, out, last, replace(last, stopped=reached))
    return state


def _plan_steps(
    state: FitState, winner: Candidate, job: FitJob, reporter: Reporter, ends: float
) -> FitState:
    """Return the state with the steps of the last training, as many as there is time for.

    If other trainings shared its machine before, some steps without them are timed first.
    """
    plan, folder = state.plan, trial_folder(job.out, winner)
    planned_end = ends - plan.ending - 2 * plan.validating
    trial, shared = state.trial(folder), job.workers.threads if job.workers.shares else 0
    few = int(ALONE * (planned_end - time.monotonic()) / winner.step_seconds)
    if shared and not trial.pace(shared) and few > 1:
        timed = segment_of(state, job, winner, min(trial.step + few, MOST_CONSTANT))
        timed = replace(timed, deadline=last_deadline(plan, winner, ends))
        state = state.train([timed], job, reporter)
        trial = state.trial(folder)
        if math.isnan(trial.score_of(timed)):
            return _failed(state, winner, timed)
    left = planned_end - time.monotonic() - (0 if trial.step else plan.opening)
    pace = trial.pace(shared) or winner.step_seconds
    more = int(left / pace)
    if plan.config.unlabelled:  # the second training has all steps, and labelling takes its time
        more = int(((1 - LABELLING_SHARE) * left / pace - trial.step) / 2)
    more = max(0 if trial.step else 1, more)  # with 0 it is delivered as it is
    steps = min(trial.step + more, MOST_STEPS)
    decay = min(int(DECAY * steps), steps - trial.step)

    # More hours must give more steps than those that were delivered, the last of which are repeated
    hours = plan.config.hours
    if state.delivered and steps <= (delivered := state.delivered.facts["steps"]):
        if delivered >= MOST_STEPS:
            raise ConfigError(
                f"--hours {hours:g}: {winner.name} was delivered with {delivered} steps, the most "
                "that a training takes. Leave it out."
            )
        least = hours + ((delivered * 1.01 + 1 - trial.step) * pace - left) / 3600
        raise ConfigError(
            f"--hours {hours:g}: {winner.name} would get {steps} steps, and it was delivered with "
            f"{delivered}, as the last ones are taken anew. Give at least "
            f"{math.ceil(100 * least) / 100:g}."
        )

    # A last training of fewer hours that was not reached is dropped: the trial cannot go back
    reached = [
        one for one in plan.finals if one.candidate != winner.name or one.constant <= trial.step
    ]
    return state.decide(job.out, finals=(*reached, FinalTraining(winner.name, hours, steps, decay)))


def _with_final(state: FitState, out: Path, old: FinalTraining, new: FinalTraining) -> FitState:
    """Return the state in which the hours ended a last training earlier."""
    finals: Sequence[FinalTraining] = state.plan.finals
    return state.decide(out, finals=tuple(new if one is old else one for one in finals))


def _failed(state: FitState, winner: Candidate, segment: Segment) -> FitState:
    """Return the state with a failed last training, which the next --resume tries again."""
    reason = f"its training failed: {forget_failure(state, segment)}"
    failure = Undelivered(
        f"{winner.name} could not be trained to its end: {reason}. What is done stays in "
        f"{segment.folder}, and --resume tries again.",
        reason,
    )
    return replace(state, failure=failure)
