"""What a fit works with and how far it has come: the values that its stages take and return."""

import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, Self

from featherseg.core.errors import RunError
from featherseg.core.types import Reporter
from featherseg.fitting.halving import Candidate
from featherseg.fitting.plan import FitPlan
from featherseg.fitting.results import FitResult, is_over
from featherseg.fitting.trials import (
    Segment,
    TrialRecord,
    Workers,
    final_folder,
    read_trial,
    trial_folder,
)


@dataclass(frozen=True)
class FitJob:
    """What one command of a fit works with.

    Args:
        out: The folder of the fit.
        began: When its hours began, by time.monotonic, as if earlier commands had just ended.
        workers: Those that train its candidates.
        reporter: Where it reports.
    """

    out: Path
    began: float
    workers: Workers
    reporter: Reporter

    @property
    def elapsed(self) -> float:
        """Seconds that the fit has taken, in all its commands."""
        return time.monotonic() - self.began


class Undelivered(RunError):
    """A model that was to be delivered could not be.

    Args:
        text: The whole message.
        reason: Why, in a few words.
        over_ms: Its latency if that is over the limit.
    """

    def __init__(self, text: str, reason: str, *, over_ms: float | None = None) -> None:
        super().__init__(text)
        self.reason, self.over_ms = reason, over_ms
        self.over_limit = over_ms is not None or is_over(reason)


@dataclass(frozen=True)
class FitState:
    """How far a fit has come. Folders are read once, when it begins; then stages return new states.

    Args:
        plan: What is decided.
        trials: What the folders of trials contain, by their names.
        delivered: What an earlier command delivered.
        ranking: Behind the rungs the best candidate, then the others, the last one dropped first.
        scores: The last mIoU (0..1) of each on the validation images, NaN if its training failed.
        failure: Why the last training of the winner failed.
    """

    plan: FitPlan
    trials: Mapping[str, TrialRecord] = field(default_factory=dict)
    delivered: FitResult | None = None
    ranking: tuple[Candidate, ...] = ()
    scores: Mapping[str, float] = field(default_factory=dict)
    failure: Undelivered | None = None

    def trial(self, folder: Path) -> TrialRecord:
        """Return what the folder of a trial contains."""
        return self.trials.get(folder.name, TrialRecord())

    def decide(self, out: Path, **changes: Any) -> Self:
        """Return the state with a changed plan, and write that into OUT/plan.json."""
        plan = replace(self.plan, **changes)
        if plan != self.plan:
            plan.write(out)
        return replace(self, plan=plan)

    def train(
        self, segments: Sequence[Segment], job: FitJob, reporter: Reporter | None = None
    ) -> Self:
        """Return the state behind the training of some segments."""
        records = job.workers.execute(segments, reporter or job.reporter)
        trained = {s.folder.name: one for s, one in zip(segments, records, strict=True)}
        return replace(self, trials={**self.trials, **trained})


def read_state(plan: FitPlan, out: Path, delivered: FitResult | None = None) -> FitState:
    """Return how far the fit in a folder has come."""
    candidates = {one.name: one for one in plan.schedule.candidates}
    folders = [trial_folder(out, one) for one in candidates.values()]
    folders += [final_folder(out, candidates[one.candidate], one.steps) for one in plan.finals]
    trials = {folder.name: read_trial(folder) for folder in folders}
    return FitState(plan, trials, delivered)
