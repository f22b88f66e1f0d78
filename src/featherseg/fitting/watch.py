"""The latency of the last candidate again and again while it trains.

What slows a machine down, such as a neighbour on its host or its own heat, lasts for minutes, so
that timings within half a minute may all miss it. Between two steps this process does nothing, and
the file is timed as it was before the training.
"""

import time
from collections.abc import Sequence
from contextlib import suppress
from pathlib import Path
from statistics import median
from typing import Any

from featherseg.core.errors import FeathersegError
from featherseg.core.types import Reporter
from featherseg.exporters.formats import EXPORTERS
from featherseg.fitting.feasible import calibration_of, image_of
from featherseg.fitting.halving import Candidate
from featherseg.fitting.latency import Timing, time_file, write_untrained
from featherseg.fitting.plan import FitPlan

SHARE = 0.02
"""The share of the hours that the timings may take."""

MOST = 8
"""The most timings, evenly over the last training."""

A_TIMING = 6.0
"""The seconds that a timing takes, about."""

LEAST = 60.0
"""The least seconds between two timings."""


def watching_seconds(hours: float) -> float:
    """Return the seconds for writing the file and for its timings in so many hours."""
    return min(1 + MOST, int(SHARE * 3600 * hours / A_TIMING)) * A_TIMING


class Watch:
    """A reporter that times the untrained file of a candidate between the steps of its training.

    It passes everything on. Nothing is timed if no steps are reported, as from a cluster, or if the
    latencies are of another device.

    Args:
        ends: When the last training ends, about, by time.monotonic.
        folder: Where the file is written.

    Attributes:
        timings: Of that file as they come, and those of its trained one that are added.
    """

    def __init__(
        self, plan: FitPlan, candidate: Candidate, ends: float, folder: Path, reporter: Reporter
    ) -> None:
        self.plan, self.candidate, self.folder, self.reporter = plan, candidate, folder, reporter
        self.message, self.progress = reporter.message, reporter.progress
        self.timings = list[Timing]()
        self.seconds = watching_seconds(plan.config.hours)
        self.left = 0 if plan.elsewhere else max(0, round(self.seconds / A_TIMING) - 1)
        self.due = time.monotonic()
        self.every = max(LEAST, (ends - self.due) / max(1, self.left))
        self._file: Path | None = None

    def step(self, *record: Any) -> None:
        """Pass a step on, then time the file if that is due."""
        self.reporter.step(*record)
        if self.left and (now := time.monotonic()) >= self.due:
            self.left, self.due = self.left - 1, now + self.every
            # It was stopped meanwhile, or there is too little memory: the training goes on
            with suppress(FeathersegError):
                self.timings.append(self.time())
            self.seconds -= time.monotonic() - now
            if self.seconds <= 0:  # a busy machine takes longer for each
                self.left = 0

    def time(self) -> Timing:
        """Return the latency of the untrained file now; the first call writes the file."""
        plan, one = self.plan, self.candidate
        name = (one.model, one.scale, plan.config.format)
        image = image_of(plan.splits.open(plan.splits.val), plan.image_size)
        if self._file is None:
            train = plan.splits.open(plan.splits.train)
            seen = (
                calibration_of(train, plan.image_size)
                if EXPORTERS[plan.config.format].quantised
                else []
            )
            resize = plan.resize_at(one.scale)
            self.folder.mkdir(parents=True, exist_ok=True)
            self._file = write_untrained(name, train.classes, resize, image, seen, self.folder)
        return time_file(self._file, image, name)

    def slowdown(self, pairs: Sequence[tuple[Timing, Timing]]) -> float:
        """Return how many times longer a smaller file takes when this machine is slow, 1 or more.

        Args:
            pairs: Timings of that file, each with one of the file as it was timed in training,
                taken right behind it.
        """
        percentile = self.plan.config.percentile
        slowest = max(t.latency(percentile) for t in self.timings)
        expected = slowest * median(
            small.latency(percentile) / own.latency(percentile) for small, own in pairs
        )
        return max(1.0, expected / max(small.latency(percentile) for small, _ in pairs))
