"""How long models take and how much memory, side by side: a process each, their passes taking turns.

Models that are timed one after the other are timed on two machines: clocks, caches and neighbours change within
seconds. Here every round runs each model once, so that a ratio is taken between neighbours in time, and as in
`featherseg benchmark` all of it is done several times with processes started anew. The time is that of the model's
forward on one image, up to logits at its own stride (an exported file with masks gives these); the memory is the peak
of a process from an image file to a mask file.
"""

from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from itertools import combinations
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import numpy as np

from featherseg.comparison.benchmark_images import write_images
from featherseg.comparison.statistics import speedup
from featherseg.comparison.worker_process import COMMAND, Process, VariantError
from featherseg.core.errors import ConfigError, RunError
from featherseg.core.machine import default_threads, usable_cores
from featherseg.core.types import Progress, Size
from featherseg.core.wording import counted, size_text
from featherseg.costs.latency import summarise, turn_order
from featherseg.inference.runtimes import Runtime

STARTS, ROUNDS = 5, 8
"""How often all processes are started, and the rounds of each start."""


@dataclass(frozen=True)
class Ratio:
    """Time of model `first` over that of `second` (indices) and its 95 % interval, for all pairs together."""

    first: int
    second: int
    value: float
    low: float
    high: float

    @property
    def faster(self) -> int | None:
        """The faster model, None where the interval includes 1."""
        return self.first if self.high < 1 else self.second if self.low > 1 else None

    def message(self, names: Sequence[str]) -> str:
        """`a is faster than b: 1.52 times as fast` where the interval says so, else that no difference is shown."""
        if self.faster is None:
            return f"no difference in time between {names[self.first]} and {names[self.second]} is shown"
        slower = self.first + self.second - self.faster
        factor = max(self.value, 1 / self.value)
        return f"{names[self.faster]} is faster than {names[slower]}: {factor:.2f} times as fast"


@dataclass(frozen=True)
class Latency:
    """Of one model: the median of its times, what 95 of 100 stay within, and its peaks of memory, see SideBySide.

    None for what was not measured.
    """

    p50_ms: float | None = None
    p95_ms: float | None = None
    process_mib: float | None = None
    gpu_mib: float | None = None

    @property
    def memory_mib(self) -> float | None:
        """Peak on the GPU where there is one, else that of its process."""
        return self.process_mib if self.gpu_mib is None else self.gpu_mib


@dataclass(frozen=True)
class SideBySide:
    """Times and memory of N models at one size (height, width).

    times_ms (N, S, R): S starts of R rounds; process_mib (N,): peaks of their processes, NaN where the system does
    not report them; gpu_mib (N,) torch's peaks on a GPU, NaN without one; `machine` names device and threads.
    """

    names: tuple[str, ...]
    size: Size
    machine: str
    times_ms: np.ndarray
    process_mib: np.ndarray
    gpu_mib: np.ndarray

    def latency(self, place: int) -> Latency:
        """Of one model."""
        times = summarise(self.times_ms[place])
        memory = (
            None if np.isnan(mib[place]) else float(mib[place])
            for mib in (self.process_mib, self.gpu_mib)
        )
        return Latency(times.p50, times.p95, *memory)

    def ratios(self) -> list[Ratio]:
        """Every pair of models, the level of the intervals divided among them (Bonferroni)."""
        pairs = list(combinations(range(len(self.names)), 2))
        found = [
            (a, b, speedup(self.times_ms[a], self.times_ms[b], pairs=len(pairs))) for a, b in pairs
        ]
        return [Ratio(a, b, s.value, s.low, s.high) for a, b, s in found]


def time_side_by_side(
    names: Sequence[str],
    paths: Sequence[Path],
    runtimes: Sequence[Runtime],
    size: Size,
    progress: Progress | None = None,
    command: Sequence[str] = COMMAND,
) -> SideBySide:
    """Time N models on one synthetic image of (height, width), batch of one, on `default_threads`.

    paths are their run folders or exported files, runtimes the same as they were opened (for channels and device);
    command is what a process is started with. Raises ConfigError for
    a size below 1, RunError with the message of a model that could not be run.
    """
    if min(size) < 1:
        raise ConfigError(
            f"size = {size_text(size)}: expected a height and a width of at least 1 pixel."
        )
    threads, starts = default_threads(), []
    with TemporaryDirectory(prefix="featherseg-side-by-side-") as folder:
        images = [
            write_images(Path(folder, str(c)), size, c, 1, None).files[0]
            for c in (r.channels for r in runtimes)
        ]
        orders = [
            {
                "source": "",
                "build": None,
                "file": str(path),
                "device": str(runtime.device),
                "threads": threads,
            }
            for path, runtime in zip(paths, runtimes, strict=True)
        ]
        for start in range(STARTS):
            with ExitStack() as stack:
                processes = [stack.enter_context(Process(name, threads, command)) for name in names]
                _prepare(processes, orders, images)
                starts.append(_take_turns(processes, start, progress))
    times, process_mib, gpu_mib = (np.stack(part, axis=1) for part in zip(*starts, strict=True))
    return SideBySide(
        tuple(names),
        size,
        describe_device(runtimes),
        times,
        process_mib.max(axis=1),
        gpu_mib.max(axis=1),
    )


def describe_device(runtimes: Sequence[Runtime]) -> str:
    """Device and threads: `cpu, 2 cores; 1 thread each`."""
    devices = sorted({str(r.device) for r in runtimes})
    return f"{' and '.join(devices)}, {usable_cores()} cores; {counted(default_threads(), 'thread')} each"


def _prepare(
    processes: Sequence[Process], orders: Sequence[dict[str, Any]], images: Sequence[Path]
) -> None:
    """Open every model, all at the same time, then warm them up, one after the other."""
    for process, order in zip(processes, orders, strict=True):
        with _named(process):
            process.send("open", allocator=True, **order)
    for process in processes:
        with _named(process):
            process.receive()
    for process, image in zip(processes, images, strict=True):
        with _named(process):
            process.request("prepare", files=[str(image)])


def _take_turns(
    processes: Sequence[Process], start: int, progress: Progress | None
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """-> the forward's times (N, ROUNDS) in milliseconds, peaks of the processes (N,) and on a GPU (N,) in MiB."""
    times = np.empty((len(processes), ROUNDS))
    for turn in range(ROUNDS):
        for i in turn_order(len(processes), turn):
            with _named(processes[i]):
                times[i, turn] = processes[i].request("turn")["wall"]["forward"]
        if progress:
            progress("time and memory", start * ROUNDS + turn + 1, STARTS * ROUNDS)
    memory = [process.request("memory") for process in processes]
    peaks = np.array(
        [[m[kind] for m in memory] for kind in ("process_mib", "gpu_mib")], dtype=float
    )  # None -> NaN
    return times, peaks[0], peaks[1]


@contextmanager
def _named(process: Process) -> Iterator[None]:
    """Errors of a process with its model's name."""
    try:
        yield
    except VariantError as error:
        raise RunError(f"{process.name} could not be timed: {error}") from None
