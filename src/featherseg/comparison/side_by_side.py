"""Latency and peak memory of several models, each in its own process, their passes in turns.

The speed of a machine changes within seconds. Every round therefore runs each model once, so a
ratio compares passes that are close in time. All processes are started several times, as in
`featherseg benchmark`. Latency is that of the forward on one image, up to logits at the model's
stride (a file that returns masks: up to these). Memory is the peak of a process from image file to
mask file.
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

STARTS = 5
"""Number of times that all processes are started. Chosen, not measured."""

ROUNDS = 8
"""Rounds of each start. Chosen, not measured."""


@dataclass(frozen=True)
class Ratio:
    """Time of model `first` over that of `second` (indices), with its 95 % interval."""

    first: int
    second: int
    value: float
    low: float
    high: float

    @property
    def faster(self) -> int | None:
        """The index of the faster model; None if the interval includes 1."""
        return self.first if self.high < 1 else self.second if self.low > 1 else None

    def message(self, names: Sequence[str]) -> str:
        """Return `a is faster than b: 1.52 times as fast`, or that no difference is shown."""
        if self.faster is None:
            pair = f"{names[self.first]} and {names[self.second]}"
            return f"no difference in time between {pair} is shown"
        slower = self.first + self.second - self.faster
        factor = max(self.value, 1 / self.value)
        return f"{names[self.faster]} is faster than {names[slower]}: {factor:.2f} times as fast"


@dataclass(frozen=True)
class MeasuredCosts:
    """Latency and peak memory of one model; None for what was not measured."""

    p50_ms: float | None = None
    p95_ms: float | None = None
    process_mib: float | None = None
    gpu_mib: float | None = None

    @property
    def memory_mib(self) -> float | None:
        """Peak memory on the GPU if there is one, else of the process."""
        return self.process_mib if self.gpu_mib is None else self.gpu_mib


@dataclass(frozen=True)
class SideBySide:
    """Times and memory of N models on images of one size.

    Args:
        size: (height, width).
        machine: device, cores and threads, as text.
        times_ms: (N, S, R) times of the forward, in S starts of R rounds.
        process_mib: (N,) peak memory of each process; NaN if the system does not report it.
        gpu_mib: (N,) torch's peak memory on a GPU; NaN without one.
    """

    names: tuple[str, ...]
    size: Size
    machine: str
    times_ms: np.ndarray
    process_mib: np.ndarray
    gpu_mib: np.ndarray

    def costs_of(self, place: int) -> MeasuredCosts:
        """Return latency and memory of the model at an index."""
        times = summarise(self.times_ms[place])
        memory = (
            None if np.isnan(mib[place]) else float(mib[place])
            for mib in (self.process_mib, self.gpu_mib)
        )
        return MeasuredCosts(times.p50, times.p95, *memory)

    def ratios(self) -> list[Ratio]:
        """Return the ratio of every pair of models; the pairs share the 5 % (Bonferroni)."""
        pairs, ratios = list(combinations(range(len(self.names)), 2)), list[Ratio]()
        for first, second in pairs:
            ratio = speedup(self.times_ms[first], self.times_ms[second], pairs=len(pairs))
            ratios.append(Ratio(first, second, ratio.value, ratio.low, ratio.high))
        return ratios


def time_side_by_side(
    names: Sequence[str],
    paths: Sequence[Path],
    runtimes: Sequence[Runtime],
    size: Size,
    device: str,
    progress: Progress | None = None,
    command: Sequence[str] = COMMAND,
) -> SideBySide:
    """Time N models on one synthetic image, a batch of one, with `default_threads`.

    Args:
        names: what the models are called.
        paths: their run folders or exported files.
        runtimes: the same, opened; they state channels and device.
        size: (height, width) of the image.
        device: what they were opened with: auto, cpu, cuda, cuda:N or mps.
        command: what a process is started with.

    Raises:
        ConfigError: the size is below 1.
        RunError: a model cannot be run; with its name.
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
                "device": device,
                "threads": threads,
            }
            for path in paths
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
    """Return `cpu, 2 cores; 1 thread each`."""
    devices = sorted({str(r.device or "cpu") for r in runtimes})  # files take numpy arrays
    threads = counted(default_threads(), "thread")
    return f"{' and '.join(devices)}, {usable_cores()} cores; {threads} each"


def _prepare(
    processes: Sequence[Process], orders: Sequence[dict[str, Any]], images: Sequence[Path]
) -> None:
    """Open all models at the same time, then warm them up one after the other."""
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
    """Return times of the forward (N, ROUNDS) in ms, and peaks in MiB: processes (N,), GPU (N,)."""
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
    """Turn a VariantError into a RunError that names the model."""
    try:
        yield
    except VariantError as error:
        raise RunError(f"{process.name} could not be timed: {error}") from None
