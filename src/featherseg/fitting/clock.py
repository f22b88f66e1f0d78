"""The clock of a fit: after which step a training must stop, so that the fit ends in time."""

import math
from collections import deque
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Self

from featherseg.fitting.halving import DECAY, Candidate
from featherseg.fitting.plan import FitPlan

FED = 0.75
"""The least share of its planned time that the last training gets if another rung is begun."""

STEPS = 4
"""The least steps over which the pace of a training is averaged."""

SECONDS = 10.0
"""The least seconds over which the pace of a training is averaged."""


@dataclass(frozen=True)
class Deadline:
    """When a training and what follows it must be over, as plain values.

    Args:
        ends: By time.monotonic, when all of it must be over.
        step_seconds: What a step was planned to take.
        following: Seconds that what follows takes on a machine on which a step takes
            `step_seconds`. A slower machine takes as many times longer for both.
        decay: Whether steps with a falling rate follow, DECAY of all.
    """

    ends: float
    step_seconds: float
    following: float
    decay: bool = False

    def seconds_left(self, now: float, pace: float) -> float:
        """Return the seconds left for training if a step takes `pace` seconds; below 0: late."""
        return self.ends - now - max(1.0, pace / self.step_seconds) * self.following

    def moved(self, seconds: float) -> Self:
        """Return the deadline by a clock that is so many seconds ahead, as on another machine."""
        return replace(self, ends=self.ends + seconds)


class StepClock:
    """Follows the pace of a training and says after which step it must stop."""

    def __init__(self, deadline: Deadline) -> None:
        self.deadline = deadline
        self.times = deque[float]()  # when steps ended, without the pauses between

    def is_last(self, step: int, now: float, paused: float = 0.0) -> bool:
        """Return whether the training must stop after this step.

        Args:
            step: Its number, from 1.
            now: When it ended, by time.monotonic.
            paused: Seconds without training so far, which do not count as the time of steps.
        """
        self.times.append(now - paused)
        while len(self.times) > STEPS + 1 and self.times[-1] - self.times[1] > SECONDS:
            self.times.popleft()
        steps, seconds = len(self.times) - 1, self.times[-1] - self.times[0]
        known = steps >= STEPS or (steps and seconds > SECONDS)  # before, it is the planned one
        pace = seconds / steps if known else self.deadline.step_seconds
        falling = falling_steps(step) if self.deadline.decay else 0
        return self.deadline.seconds_left(now, pace) < (falling + 1) * pace


def falling_steps(constant: int) -> int:
    """Return the steps with a falling rate that belong to so many at the constant rate."""
    return int(constant * DECAY / (1 - DECAY))


def planned_last(plan: FitPlan, one: Candidate) -> float:
    """Return the seconds that were planned for the last training of a candidate."""
    before = plan.schedule.rungs[-1].steps[one.name]
    return (plan.schedule.final[one.name] - before) * one.step_seconds


def rung_deadlines(
    plan: FitPlan, left: Sequence[Candidate], ends: float, now: float, at_once: int
) -> list[Deadline]:
    """Return when each trial of a rung must stop.

    They share the time that the last training does not need.

    Args:
        left: The candidates of the rung, in the order in which they train.
        ends: When the hours are over, by the clock of `now`.
        at_once: Candidates that train at the same time.
    """
    turns, ending = math.ceil(len(left) / at_once), plan.delivering + 2 * plan.validating
    seconds = ends - FED * planned_last(plan, left[0]) - now
    shares = [(place // at_once + 1) / turns for place in range(len(left))]
    return [
        Deadline(now + share * seconds, one.step_seconds, plan.validating + share * ending)
        for one, share in zip(left, shares, strict=True)
    ]


def last_deadline(plan: FitPlan, one: Candidate, ends: float, *, decay: bool = True) -> Deadline:
    """Return when the last training of a candidate must stop, so that its delivery ends in time.

    Args:
        ends: When the hours are over, by time.monotonic.
        decay: Whether its steps with a falling rate are still to come.
    """
    return Deadline(
        ends, one.step_seconds, plan.delivering + (2 if decay else 1) * plan.validating, decay
    )


def half_deadline(deadline: Deadline, now: float) -> Deadline:
    """Return when the first half of what a deadline leaves for training is over."""
    return replace(deadline, ends=(now + deadline.ends + deadline.following) / 2)
