"""What is delivered if a model could not be: itself at a smaller scale, or another candidate."""

import math
from collections.abc import Sequence

from featherseg.core.notebook import percent
from featherseg.core.types import Reporter
from featherseg.fitting.candidates import LEAST_SIDE
from featherseg.fitting.clock import falling_steps
from featherseg.fitting.delivery import score_val
from featherseg.fitting.halving import SPARE, Candidate
from featherseg.fitting.plan import FitPlan
from featherseg.fitting.results import is_over
from featherseg.fitting.state import FitJob, FitState, Undelivered
from featherseg.fitting.trials import final_folder, trial_folder

CELL = 32
"""Pixels a side of what a place of a model's coarsest map sees; a part of it takes about as long as
all of it (256x512 at 0.97 to 0.88: no quicker than at 1, at 0.87 a tenth, docs/log.md)."""

LEAST_SHARE = 0.7
"""The least scale of a delivery, as a share of that of the training: half of the pixels."""


def substitute(
    state: FitState, winner: Candidate, error: Undelivered, job: FitJob, reporter: Reporter
) -> FitState:
    """Return the state whose plan delivers something else than the winner.

    A model that was too slow sees smaller images, or the next candidate takes its place; a faster
    one if the limit was the reason. If the hours leave no time for that, or no candidate is left,
    the best of those that were trained is delivered over the limit. The plan says so, and a
    resumed fit decides alike.

    Raises:
        Undelivered: `error`, if there is nothing else, or if a model that keeps the limit was
            delivered before, which stays.
    """
    plan, out = state.plan, job.out
    if state.delivered and state.delivered.limit_kept:
        reporter.message(f"{out} stays as it was delivered before")
        raise error
    failed = dict(plan.failed) | {winner.name: error.reason}
    if error.over_ms is not None:
        slower = (one.name for one in state.ranking if one.latency_ms > winner.latency_ms)
        failed = dict.fromkeys(slower, f"slower than {winner.name}") | failed
    left = [one for one in state.ranking if one.name not in failed]
    time_to_shrink, time_to_train = _time_for_another(state, winner, left, job)

    # Smaller images
    if error.over_ms is not None and time_to_shrink and plan.final(winner):
        rival = state.scores.get(left[0].name) if left else None
        scale = smaller_scale(plan, winner, error.over_ms, rival, job, reporter)
        if scale is not None:
            return state.decide(out, shrunk={**plan.shrunk, winner.name: scale})

    # The next candidate. A failure for another reason than the limit needs one, however little time
    # is left
    if left and (time_to_train or not error.over_limit):
        reporter.message(
            f"{winner.name} is not delivered: {error.reason}; in its place {left[0].name}"
        )
        return state.decide(out, failed=failed, over_limit=None)

    # The best one that is trained, over the limit
    trained = [
        one for one in state.ranking if plan.final(one) and is_over(failed.get(one.name, ""))
    ]
    if not trained:
        raise error
    best = max(trained, key=lambda one: _final_score(state, one, job))
    del failed[best.name]
    return state.decide(out, failed=failed, over_limit=best.name)


def accepts_any(state: FitState, winner: Candidate, job: FitJob) -> bool:
    """Return whether a winner over the limit is delivered because nothing else could be done."""
    plan = state.plan
    if plan.over_limit == winner.name:
        return True
    if state.delivered and state.delivered.limit_kept:
        return False
    if any(is_over(reason) for reason in plan.failed.values()):  # the best of them is delivered
        return False
    left = [one for one in state.ranking if one.name not in {winner.name, *plan.failed}]
    return not any(_time_for_another(state, winner, left, job, plan.delivering))


def smaller_scale(
    plan: FitPlan,
    winner: Candidate,
    over_ms: float,
    rival: float | None,
    job: FitJob,
    reporter: Reporter,
) -> float | None:
    """Return the scale at which a trained candidate is expected to keep the limit.

    Latency is taken to go with the number of CELLs of the image, so that a scale with as many is
    not tried.

    Args:
        over_ms: The latency of its file, over the limit.
        rival: The mIoU (0..1) of the candidate that would take its place, None without one.

    Returns:
        None if that scale is too small, or if its mIoU on the validation images is below `rival`.
    """

    def cells(scale: float) -> int:
        return math.prod(math.ceil(round(side * scale) / CELL) for side in plan.image_size)

    # The largest scale at which it is expected to keep the limit
    limit, before = plan.config.max_ms * (1 - SPARE / 2), plan.shrunk.get(winner.name, winner.scale)
    least = max(LEAST_SHARE * winner.scale, LEAST_SIDE / min(plan.image_size))
    smaller = (n / 100 for n in range(math.ceil(100 * before) - 1, 0, -1) if n / 100 >= least)
    scale = next((one for one in smaller if cells(one) * over_ms <= cells(before) * limit), None)
    last = plan.final(winner)
    if scale is None or last is None:
        return None
    run = final_folder(job.out, winner, last.steps)
    score = score_val(plan, run, plan.resize_at(scale), reporter)
    reporter.message(
        f"{winner.name} took {over_ms:.1f} ms when it was timed again; at {scale:g} it has "
        f"{percent(score)} % on val"
    )
    return None if rival is not None and score < rival else scale


def _final_score(state: FitState, one: Candidate, job: FitJob) -> float:
    """Return the mIoU (0..1) at the end of a last training, below 0 if there is none."""
    last = state.plan.final(one)
    if last is None:
        return -1.0
    score = state.trial(final_folder(job.out, one, last.steps)).score_at(last.reached)
    return -1.0 if score is None or math.isnan(score) else score


def _time_for_another(
    state: FitState,
    winner: Candidate,
    left: Sequence[Candidate],
    job: FitJob,
    first_seconds: float = 0.0,
) -> tuple[bool, bool]:
    """Return (time to deliver the winner for smaller images, time to train the first of `left`).

    The rate of the other one must have time to fall, and the winner to be delivered after all.

    Args:
        first_seconds: What is needed before that, at the planned pace.
    """
    plan = state.plan
    pace = state.trial(trial_folder(job.out, winner)).pace() or winner.step_seconds
    seconds = 3600 * plan.config.hours - job.elapsed
    seconds = seconds / max(1.0, pace / winner.step_seconds) - first_seconds
    training = 0.0
    if left:
        falling = falling_steps(state.trial(trial_folder(job.out, left[0])).step)
        training = falling * left[0].step_seconds + 2 * plan.validating
    delivering = plan.delivering + plan.validating
    return seconds > delivering, bool(left) and seconds > training + 2 * delivering
