"""The timing engine: untimed and timed passes, p50 and p95, run-queue wait, peak memory.

This file stands alone: it needs Python 3.9 and numpy, and imports nothing of featherseg. `export`,
`fit`, `compare` and `benchmark` import it. The bundle of `fit --measure` contains a copy of it
beside measure.py, so a device without torch measures in the same way. A pass is one call of what
is timed; times are in milliseconds.
"""

from __future__ import annotations

import json
import math
import os
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any, TextIO

import numpy as np


@dataclass(frozen=True)
class Schedule:
    """How often a pass is repeated in a row.

    Args:
        warm_up: number of untimed passes.
        least, most: number of timed passes; between the two, `seconds` decide.
        seconds: duration of the timed passes.
        warm_up_seconds: duration after which the untimed passes end early, but not before two.
    """

    warm_up: int
    least: int
    most: float
    seconds: float = 0.0
    warm_up_seconds: float = math.inf


EXPORT = Schedule(warm_up=2, least=5, most=5)
"""Of a file that was just exported, for its order of magnitude. Chosen, not measured."""

FIT = Schedule(warm_up=8, least=30, most=300, seconds=2.0)
"""Of a candidate on this machine. A file that is timed so, alone in its process, takes as long as
in turns of 30 passes with others (benchmarks/tables/speed.md, 2026-11-28). The machine itself
varies more: the same file took 6 to 9.7 ms within minutes (benchmarks/tables/fit.md, 2026-11-29).
"""

DEVICE = Schedule(warm_up=5, least=20, most=200, seconds=2.0, warm_up_seconds=2.0)
"""Of a candidate on another device; shorter than FIT, because a pass may take seconds there."""

FEW = 4
"""Passes after which timing ends if all but the first took more than FAR times the limit."""

FAR = 2.0
"""A candidate that takes this many times its limit is timed for FEW passes only."""

ALIKE = 0.05
"""Relative difference of the last three untimed passes below which a warm-up ends."""

ALIKE_LEAST, ALIKE_MOST = 4, 12
"""Number of untimed passes of such a warm-up, whatever their times. Chosen, not measured."""

SETTLING = 0.05
"""Seconds of untimed passes before a pass in turns. An idle thread of ONNX Runtime keeps a core for
40 ms, which the next model lacks: with one untimed pass, times on two cores were up to 42 % too
long (benchmarks/tables/speed.md, 2026-11-28).
"""

MOST_WAIT = 1.3
"""Run-queue wait from which a timing counts as disturbed by other programs. Chosen, not
measured.
"""


# Passes in a row


@dataclass(frozen=True)
class Passes:
    """Milliseconds of each timed pass, and their `run_queue_wait` (NaN if they ended early)."""

    ms: list[float]
    run_queue_wait: float


def time_passes(
    run: Callable[[], object], schedule: Schedule, limit_ms: float = math.inf
) -> Passes:
    """Warm up, then time passes in a row.

    If passes take more than FAR times `limit_ms`, only FEW are run, the first of them untimed.
    """

    def one_pass() -> float:
        start = time.perf_counter()
        run()
        return 1000 * (time.perf_counter() - start)

    untimed = list[float]()
    began = time.perf_counter()
    while len(untimed) < min(2, schedule.warm_up) or (
        len(untimed) < schedule.warm_up and time.perf_counter() - began < schedule.warm_up_seconds
    ):
        untimed.append(one_pass())
        if len(untimed) == FEW and min(untimed[1:]) > FAR * limit_ms:
            return Passes(untimed[1:], math.nan)

    timed = list[float]()
    with clocks() as total:
        began = time.perf_counter()
        while len(timed) < schedule.least or (
            len(timed) < schedule.most and time.perf_counter() - began < schedule.seconds
        ):
            timed.append(one_pass())
    return Passes(timed, run_queue_wait(total.wall, total.cpu, total.queue))


# Passes in turns: each model in its own process, one pass after the other model's


def turn_order(count: int, turn: int) -> list[int]:
    """Return the order of `count` models in a round: the first one moves on by one each round."""
    return [(turn + place) % count for place in range(count)]


def warm_up(run: Callable[[], float]) -> list[float]:
    """Repeat a pass until its times are alike; return these times."""
    times = list[float]()
    while len(times) < ALIKE_LEAST or (
        len(times) < ALIKE_MOST and max(times[-3:]) > (1 + ALIKE) * min(times[-3:])
    ):
        times.append(run())
    return times


def settle(run: Callable[[], object]) -> None:
    """Run untimed passes before a timed one: they regain the caches and cores of the last model."""
    end = time.perf_counter() + SETTLING
    run()
    while time.perf_counter() < end:
        run()


# What is said about times


@dataclass(frozen=True)
class Latency:
    """A summary of times in milliseconds; low and high: 95 % interval of p50, iqr: p75 - p25."""

    p50: float
    p95: float
    low: float
    high: float
    least: float
    iqr: float


def summarise(times_ms: np.ndarray | Sequence[float]) -> Latency:
    """Return percentiles of times of any shape, all taken together."""
    values = np.sort(np.asarray(times_ms, dtype=float), axis=None)
    p25, p50, p75, p95 = np.percentile(values, [25, 50, 75, 95]).tolist()
    low, high = median_interval(values.tolist())
    return Latency(p50, p95, low, high, float(values[0]), p75 - p25)


def median_interval(times: Sequence[float]) -> tuple[float, float]:
    """Return the 95 % interval of the median, two order statistics (binomial distribution)."""
    count, rank, tail = len(times), 0, 1
    while 40 * tail <= 2**count:  # P(at most `rank` of them lie below the median) <= 2.5 %
        rank += 1
        tail += math.comb(count, rank)
    ordered = sorted(times)
    return ordered[max(rank - 1, 0)], ordered[count - max(rank, 1)]


# What else ran


@dataclass
class Clocks:
    """Milliseconds of a block: wall, process CPU, and the time that threads waited for a core."""

    wall: float = math.nan
    cpu: float = math.nan
    queue: float = math.nan


@contextmanager
def clocks(wait: Callable[[], object] = lambda: None) -> Iterator[Clocks]:
    """Time a block; `wait`, called on both sides, returns when an accelerator has finished."""
    block = Clocks()
    wait()
    queue, cpu, wall = run_queue_ms(), time.process_time(), time.perf_counter()
    yield block
    wait()
    block.wall = 1000 * (time.perf_counter() - wall)
    block.cpu, block.queue = 1000 * (time.process_time() - cpu), run_queue_ms() - queue


def run_queue_ms() -> float:
    """Return how long threads of this process have waited for a core; NaN if not reported."""
    waited = 0
    try:
        for task in os.scandir("/proc/self/task"):
            with open(f"{task.path}/schedstat", encoding="ascii") as file:
                waited += int(file.read().split()[1])  # nanoseconds
    except (OSError, IndexError):
        return math.nan
    return waited / 1e6


def run_queue_wait(
    wall_ms: np.ndarray | float, cpu_ms: np.ndarray | float, queue_ms: np.ndarray | float
) -> float:
    """Return how many times as long passes took as on an idle machine (median); 1: undisturbed.

    It is the larger of wall time over CPU time, and of CPU time plus the time that threads waited
    for a core (NaN if not reported) over CPU time. With several threads the first is below 1.
    """
    cpu = np.maximum(cpu_ms, 1e-6)
    by_queue = 1 + np.nan_to_num(queue_ms) / cpu
    return float(np.median(np.maximum(wall_ms / cpu, by_queue)))


# A process of its own, so that memory is its own and no other library disturbs it


def peak_memory() -> float | None:
    """Return the peak memory of this process in bytes; None if the system does not report it.

    On Linux getrusage is not used: its peak survives exec, so a child would report its parent's.
    """
    try:
        with open("/proc/self/status", encoding="utf-8", errors="replace") as file:
            lines = [line for line in file if line.startswith("VmHWM:")]
        return int(lines[0].split()[1]) * 1024.0  # kB in the file
    except (OSError, IndexError):
        pass
    try:
        if sys.platform != "linux":
            import resource

            peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
            return float(peak * (1 if sys.platform == "darwin" else 1024))
    except ImportError:  # Windows
        pass
    try:
        import psutil
    except ImportError:
        return None
    return getattr(psutil.Process().memory_info(), "peak_wset", None)  # only on Windows


class ProcessFailed(RuntimeError):
    """A process ended without an answer; the message is the reason."""


def run_apart(command: Sequence[str], seconds: float) -> Any:
    """Run a command and return the JSON of its standard output.

    Raises:
        ProcessFailed: it did not end within `seconds`, or with another status than 0.
    """
    try:
        done = subprocess.run(
            command,
            capture_output=True,
            encoding="utf-8",
            errors="replace",
            check=False,
            timeout=seconds,
        )
    except subprocess.TimeoutExpired:
        raise ProcessFailed(f"its process had not ended after {seconds:g} s") from None
    if done.returncode:
        raise ProcessFailed(exit_reason(done.returncode, done.stderr))
    return json.loads(done.stdout)


def exit_reason(status: int, messages: str) -> str:
    """Return why a process failed: the signal that ended it, else the last line of its messages."""
    if status < 0:
        memory = ", most often a lack of memory" if status == -9 else ""
        return f"its process was ended by signal {-status}{memory}"
    lines = [line.strip() for line in messages.splitlines() if line.strip()]
    return lines[-1] if lines else f"its process ended with status {status}"


def answers_alone() -> TextIO:
    """Return standard output as a file; what libraries print goes to standard error from now on."""
    answers = os.fdopen(os.dup(1), "w", encoding="utf-8")
    os.dup2(2, 1)
    return answers
