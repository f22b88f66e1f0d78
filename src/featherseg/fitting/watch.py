"""The latency of the last candidate again and again while it trains: no machine is as fast in every minute.

What slows one down, a neighbour on its host or its own heat, lasts for minutes, so that timings within half a minute
may all miss it. Between two steps this process does nothing, and the file is timed as it was before the training.
"""

import time
from collections.abc import Sequence
from contextlib import suppress
from pathlib import Path
from statistics import median
from typing import Any

from featherseg.core.errors import FeathersegError
from featherseg.core.types import Reporter
from featherseg.data import open_dataset
from featherseg.exporters.formats import EXPORTERS
from featherseg.fitting.candidates import resize_of
from featherseg.fitting.feasible import calibration_of, image_of
from featherseg.fitting.halving import Candidate
from featherseg.fitting.latency import Timing, time_file, write_untrained
from featherseg.fitting.plan import FitPlan

SHARE, MOST = 0.02, 8
"""Of all the time, what it may take; how often it is timed at most, evenly over the last training."""

A_TIMING, LEAST = 6.0, 60.0
"""Seconds that a timing takes, about, and that lie between two of them at least."""


def watching_seconds(hours: float) -> float:
    """What timing again may take in so many hours: for the file and each of its timings about A_TIMING."""
    return min(1 + MOST, int(SHARE * 3600 * hours / A_TIMING)) * A_TIMING


class Watch:
    """Passes on what the trainings of a candidate report; between their steps its untrained file is timed.

    timings: of that file as they come, and those of its trained one that are added. Where no steps are reported, as
    from a cluster, and where the latencies are another device's, it is not timed.
    """

    def __init__(
        self, plan: FitPlan, candidate: Candidate, ends: float, folder: Path, reporter: Reporter
    ) -> None:
        """ends: when its last training will, by time.monotonic, about; folder: where its file is written."""
        self.plan, self.candidate, self.folder, self.reporter = plan, candidate, folder, reporter
        self.message, self.progress = reporter.message, reporter.progress
        self.timings = list[Timing]()
        self.seconds = watching_seconds(plan.config.hours)
        self.left = 0 if plan.elsewhere else max(0, round(self.seconds / A_TIMING) - 1)
        self.due = time.monotonic()
        self.every = max(LEAST, (ends - self.due) / max(1, self.left))
        self._file: Path | None = None

    def step(self, *record: Any) -> None:
        """Passed on; then the file is timed where that is due."""
        self.reporter.step(*record)
        if self.left and (now := time.monotonic()) >= self.due:
            self.left, self.due = self.left - 1, now + self.every
            with suppress(
                FeathersegError
            ):  # stopped meanwhile, or too little memory: the training goes on
                self.timings.append(self.time())
            self.seconds -= time.monotonic() - now
            if self.seconds <= 0:  # a busy machine takes longer for each
                self.left = 0

    def time(self) -> Timing:
        """What the untrained file takes now. Raises what writing and timing it does."""
        plan, one = self.plan, self.candidate
        name = (one.model, one.scale, plan.config.format)
        root = None if plan.parts.root is None else Path(plan.parts.root)
        image = image_of(open_dataset(plan.parts.name, plan.parts.val, root), plan.image_size)
        if self._file is None:
            train = open_dataset(plan.parts.name, plan.parts.train, root)
            seen = (
                calibration_of(train, plan.image_size)
                if EXPORTERS[plan.config.format].quantised
                else []
            )
            resize = resize_of(one.scale, plan.image_size, whole=plan.config.image_size is None)
            self.folder.mkdir(parents=True, exist_ok=True)
            self._file = write_untrained(name, train.classes, resize, image, seen, self.folder)
        return time_file(self._file, image, name)

    def slowdown(self, pairs: Sequence[tuple[Timing, Timing]]) -> float:
        """How many times longer a smaller file would take when this machine is as slow as it was at times, 1 or more.

        pairs: timings of that file, each with one of the file as it was timed in training, taken right behind it.
        """
        percentile = self.plan.config.percentile
        slowest = max(t.latency(percentile) for t in self.timings)
        expected = slowest * median(
            small.latency(percentile) / own.latency(percentile) for small, own in pairs
        )
        return max(1.0, expected / max(small.latency(percentile) for small, _ in pairs))
