"""A machine with its own clock, on which trainings take no real time."""

from dataclasses import replace
from types import SimpleNamespace

from support.models.fit_plans import FAST, SLOW, fit_plan

from featherseg.fitting import last_training, screening, state
from featherseg.fitting.clock import StepClock
from featherseg.fitting.halving import make_schedule
from featherseg.fitting.trials import TrialRecord, Workers


class Machine:
    """Runs segments; all take `slowdown` times as long from `since` on, in seconds."""

    def __init__(self, monkeypatch, slowdown, since, scores=None):
        self.now, self.slowdown, self.since = 0.0, slowdown, since
        self.scores = scores or {SLOW.model: 0.6, FAST.model: 0.5}
        self.reached, self.took, self.segments = {}, {}, []
        self.plan, self.dies_at = None, None
        self.workers = Workers(self.execute, 1, 1)
        for module in (screening, last_training, state):
            monkeypatch.setattr(module, "time", SimpleNamespace(monotonic=lambda: self.now))

    def spend(self, seconds):
        """Let so many seconds of an idle machine pass."""
        self.now += seconds * (self.slowdown if self.now >= self.since else 1.0)

    def record(self, folder, model=None):
        """What the folder of a trial contains."""
        seconds, step = self.took.get(folder, []), self.reached.get(folder, 0)
        part = {"steps": len(seconds) + 1, "stepping": sum(seconds), "seconds": sum(seconds)}
        return TrialRecord(
            step, {step: self.scores[model]} if step and model else {}, (part,) if seconds else ()
        )

    def records(self):
        """What the folders of all trials contain, by their names."""
        return {folder.name: self.record(folder) for folder in self.reached}

    def execute(self, segments, reporter):
        for segment in segments:
            self.segments.append(segment)
            if segment.source in self.reached:
                self.reached.setdefault(segment.folder, self.reached[segment.source])
            last = segment.until or segment.steps
            if self.reached.get(segment.folder, 0) >= last:
                continue
            if segment.deadline is not None and segment.deadline.seconds_left(self.now, 0.0) <= 0:
                continue
            self.train(segment, last)
        return [self.record(one.folder, one.recipe) for one in segments]

    def train(self, segment, last):
        self.spend(self.plan.validating / 2)  # it starts
        clock = None if segment.deadline is None else StepClock(segment.deadline)
        pace = next(
            one.step_seconds for one in self.plan.schedule.candidates if one.model == segment.recipe
        )
        for step in range(self.reached.get(segment.folder, 0) + 1, last + 1):
            began = self.now
            self.spend(pace)
            self.took.setdefault(segment.folder, []).append(self.now - began)
            self.reached[segment.folder] = step
            if self.dies_at is not None and self.now > self.dies_at:
                raise KeyboardInterrupt
            if clock is not None and clock.is_last(step, self.now):
                break
        self.spend(self.plan.validating / 2)


def planned(hours, *, spent=30.0, delivering=30.0, validating=6.0, step_seconds=0.2):
    """The plan of a fit of FAST and SLOW in so many hours, as `begin` makes it."""
    ordered = [
        replace(SLOW, step_seconds=step_seconds),
        replace(FAST, step_seconds=step_seconds / 2),
    ]
    ending = 1.5 * delivering + 0.05 * 3600 * hours
    schedule = make_schedule(ordered, 3600 * hours - spent - ending - 4 * validating)
    figures = {"spent": spent, "ending": ending, "delivering": delivering, "validating": validating}
    return replace(fit_plan(hours=hours), schedule=schedule, **figures)
