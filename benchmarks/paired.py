"""Time things in turns, round by round, and compare them by the ratio within each round.

The speed of a machine changes within seconds (clocks, caches, neighbours), so two figures from two
minutes are not comparable. Here a round runs everything once, in an order that rotates by one each
round. A ratio is the median of the rounds' ratios; its 95 % interval is a bootstrap over them.

    # functions, in this process
    table = paired.compare({"usual": f, "ours": g}, rounds=30, clock="cpu")
    # programs, a process each, which call `serve`
    table = paired.processes({"eager": ["w.py", "a"], "ours": ["w.py", "b"]})
    paired.print_table(table)
    paired.print_goal(table, "ours", 25)

Both clocks are always read: "wall", and "cpu", this process' time on all cores together, which
neighbours disturb less. The other scripts of this folder time functions with it; `featherseg
benchmark` times models.
"""

import argparse
import ctypes
import json
import os
import subprocess
import sys
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from dataclasses import asdict, dataclass, field
from pathlib import Path
from time import perf_counter, process_time
from typing import Any, Literal

import numpy as np

from featherseg.core.machine import load_average, machine_text
from featherseg.core.machine import machine as featherseg_machine
from featherseg.costs.latency import MOST_WAIT, turn_order

Clock = Literal["cpu", "wall"]
REPLICATES = 2000
WARM_UP = 8
"""Untimed rounds at most; they end when each function's last three times are within 5 %."""


@dataclass(frozen=True)
class Ratio:
    """Time of the first over that of this one: `value` times as fast, and its 95 % interval."""

    value: float
    low: float
    high: float

    def __str__(self) -> str:
        return f"{self.value:.2f}x ({self.low:.2f}-{self.high:.2f})"


@dataclass(frozen=True)
class Table:
    """Times of F functions; the first is what the others are compared with.

    wall_ms, cpu_ms: (starts, rounds, F). memory_mib: memory by name, where it was measured, and
    `memory` describes what was measured. facts: what each process reported about itself. machine:
    processor, threads, versions and load.
    """

    names: tuple[str, ...]
    wall_ms: np.ndarray
    cpu_ms: np.ndarray
    clock: Clock
    machine: str
    memory: str = "extra MiB"
    memory_mib: Mapping[str, float] = field(default_factory=dict)
    facts: Mapping[str, Mapping[str, Any]] = field(default_factory=dict)

    @property
    def times_ms(self) -> np.ndarray:
        """The times of the clock that ratios are taken by, (starts, rounds, F)."""
        return self.cpu_ms if self.clock == "cpu" else self.wall_ms

    def p50_ms(self, clock: Clock | None = None) -> np.ndarray:
        """The median of each function, (F,)."""
        times = {"cpu": self.cpu_ms, "wall": self.wall_ms, None: self.times_ms}[clock]
        return np.median(times, axis=(0, 1))

    def ratio(self, name: str, base: str | None = None) -> Ratio:
        """Return how many times as fast `name` is as `base` (the first): median of round ratios."""
        first = self.names.index(base) if base else 0
        return ratio(self.times_ms[..., first] / self.times_ms[..., self.names.index(name)])


def ratio(rounds: np.ndarray) -> Ratio:
    """Return the median of ratios (starts, rounds) and its bootstrap interval over both."""
    starts, count = rounds.shape
    rng = np.random.default_rng(0)
    start = rng.integers(starts, size=(REPLICATES, starts, 1))
    drawn = rounds[
        start, rng.integers(count, size=(REPLICATES, starts, count))
    ]  # (REPLICATES, starts, rounds)
    low, high = np.percentile(np.median(drawn, axis=(1, 2)), [2.5, 97.5])
    return Ratio(float(np.median(rounds)), float(low), float(high))


def compare(
    functions: Mapping[str, Callable[[], Any]],
    rounds: int = 30,
    clock: Clock = "cpu",
    memory: bool = False,
) -> Table:
    """Time functions without arguments in this process after a warm-up; the first is the baseline.

    memory: also measure the peak of each on top of the process' memory before (`extra_mib`).
    """
    before = load_average()
    times = _take_turns({name: _timed(call) for name, call in functions.items()}, rounds)
    extra = {name: extra_mib(call) for name, call in functions.items()} if memory else {}
    return _table(functions, [times], clock, before, memory_mib=extra)


def processes(
    commands: Mapping[str, Sequence[str]],
    rounds: int = 20,
    clock: Clock = "wall",
    starts: int = 1,
    environments: Mapping[str, Mapping[str, str]] | None = None,
) -> Table:
    """Time one process per variant in turns: `python *command`, a script that calls `serve`.

    All are started, then warmed up, then timed. starts: how often all are started again; five or
    more show the effect of what changes by chance at a start (addresses, pages). environments:
    additions to a variant's environment. The memory in the table is the peak of each process with
    Python and libraries, the highest of its starts.
    """
    before, environments = load_average(), environments or {}
    times, facts = [], {}
    peaks: dict[str, float] = {}
    for _ in range(starts):
        children = {
            name: _Child(command, environments.get(name, {})) for name, command in commands.items()
        }
        try:
            facts = {
                name: child.read() for name, child in children.items()
            }  # waits until all are ready
            times.append(
                _take_turns({name: child.step for name, child in children.items()}, rounds)
            )
            peaks = {name: max(peaks.get(name, 0), child.end()) for name, child in children.items()}
        finally:
            for child in children.values():
                child.close()
    return _table(commands, times, clock, before, memory="peak MiB", memory_mib=peaks, facts=facts)


def serve(step: Callable[[], Any], facts: Mapping[str, Any] | None = None, passes: int = 1) -> None:
    """Answer `processes`: report facts, run `step` for every line read, report the peak at the end.

    passes: steps a line, of which the median is reported; the first may find its core still busy
    with other work. Answers use a pipe of their own, so a script may print anything.
    """
    with os.fdopen(int(os.environ["PAIRED_ANSWERS"]), "w", buffering=1) as answers:
        print(json.dumps(dict(facts or {})), file=answers)
        timed = _timed(step)
        for _ in sys.stdin:
            print(
                json.dumps(np.median([timed() for _ in range(passes)], axis=0).tolist()),
                file=answers,
            )
        print(json.dumps(resident_mib("VmHWM")), file=answers)


def extra_mib(call: Callable[[], Any]) -> float:
    """Return the peak memory of one call and its result in MiB on top of the process' (Linux)."""
    _give_back_freed_memory()
    Path("/proc/self/clear_refs").write_text("5")  # the peak starts anew
    held = resident_mib("VmRSS")
    result = call()
    peak = resident_mib("VmHWM")
    del result
    return peak - held


def resident_mib(line: str) -> float:
    """Memory of this process: `VmRSS` now, `VmHWM` its peak (Linux)."""
    status = dict(
        row.split(":", 1)
        for row in Path("/proc/self/status").read_text().splitlines()
        if ":" in row
    )
    return int(status[line].split()[0]) / 1024


def parser(
    description: str | None, rounds: int = 30, clock: Clock = "cpu"
) -> argparse.ArgumentParser:
    """What every timing script takes: --rounds, --clock, --threads, --json."""
    made = argparse.ArgumentParser(
        description=description, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    made.add_argument("--rounds", type=int, default=rounds)
    made.add_argument(
        "--clock",
        choices=("cpu", "wall"),
        default=clock,
        help=f"what ratios are taken by ({clock})",
    )
    made.add_argument("--threads", type=int, default=1)
    made.add_argument("--json", type=Path, metavar="FILE", help="write all raw times")
    return made


def print_table(table: Table, columns: Mapping[str, Sequence[str]] | None = None) -> None:
    """Print p50 by both clocks, ratio with interval, memory, and `columns` (heading -> F cells)."""
    columns = columns or {}
    heads = ["", "wall ms", "cpu ms", f"times as fast ({table.clock})"]
    heads += [table.memory] * bool(table.memory_mib) + list(columns)
    rows = []
    for i, name in enumerate(table.names):
        cells = [name, f"{table.p50_ms('wall')[i]:.2f}", f"{table.p50_ms('cpu')[i]:.2f}"]
        cells.append(str(table.ratio(name)) if i else "1")
        if table.memory_mib:
            cells.append(f"{table.memory_mib[name]:.1f}" if name in table.memory_mib else "")
        rows.append([*cells, *(column[i] for column in columns.values())])
    widths = [max(len(row[i]) for row in [heads, *rows]) for i in range(len(heads))]
    for row in [heads, *rows]:
        print(
            "  ".join(
                [
                    row[0].ljust(widths[0]),
                    *(c.rjust(w) for c, w in zip(row[1:], widths[1:], strict=True)),
                ]
            )
        )
    print(f"{table.wall_ms.shape[0]} x {table.wall_ms.shape[1]} rounds; {table.machine}")


def print_goal(table: Table, name: str, at_least: float, base: str | None = None) -> bool:
    """Print whether `name` is `at_least` times as fast as `base`; return if its interval is too."""
    reached = table.ratio(name, base)
    word = (
        "reached"
        if reached.low >= at_least
        else "missed"
        if reached.high < at_least
        else "within the interval"
    )
    print(f"goal {at_least:g}x for {name} vs {base or table.names[0]}: {reached}: {word}")
    return reached.low >= at_least


def write_json(file: Path, **tables: Table) -> None:
    """Everything that was measured, raw times included."""
    facts = {
        name: {**asdict(t), "wall_ms": t.wall_ms.tolist(), "cpu_ms": t.cpu_ms.tolist()}
        for name, t in tables.items()
    }
    file.write_text(json.dumps(facts, indent=1, default=str) + "\n")


def machine() -> str:
    """Processor, cores, system, versions, threads of this process."""
    facts = featherseg_machine()
    torch = sys.modules.get("torch")
    threads = torch.get_num_threads() if torch else os.environ.get("OMP_NUM_THREADS", "not set")
    allocator = os.environ.get("FEATHERSEG_ALLOCATOR", "on")
    return f"{machine_text(facts)}; threads {threads}, FEATHERSEG_ALLOCATOR {allocator}"


class _Child:
    """A process that `serve`s: one line of JSON for every line that it is sent."""

    def __init__(self, command: Sequence[str], environment: Mapping[str, str]) -> None:
        self.command = " ".join(command)
        read, write = os.pipe()
        environment = {**os.environ, **environment, "PAIRED_ANSWERS": str(write)}
        self.process = subprocess.Popen(
            [sys.executable, *command],
            env=environment,
            stdin=subprocess.PIPE,
            stdout=2,
            pass_fds=[write],
            encoding="utf-8",
        )
        os.close(write)
        self.answers = os.fdopen(read)
        assert self.process.stdin is not None
        self.orders = self.process.stdin

    def step(self) -> tuple[float, float]:
        """One timed step: (wall, CPU) milliseconds."""
        with suppress(BrokenPipeError):  # `read` says so
            self.orders.write("step\n")
            self.orders.flush()
        wall, cpu = self.read()
        return wall, cpu

    def end(self) -> float:
        """Its peak memory in MiB; it ends by itself."""
        self.orders.close()
        return self.read()

    def close(self) -> None:
        """End it, whatever it is doing."""
        self.process.kill()
        self.process.wait()
        self.answers.close()
        with suppress(BrokenPipeError):
            self.orders.close()

    def read(self) -> Any:
        """The next answer; the program ends where the process has ended."""
        line = self.answers.readline()
        if not line:
            sys.exit(f"`{self.command}` ended with {self.process.wait()}; see above.")
        return json.loads(line)


def _timed(call: Callable[[], Any]) -> Callable[[], tuple[float, float]]:
    """-> a function that calls it once and gives (wall, CPU) milliseconds."""

    def timed() -> tuple[float, float]:
        cpu, wall = process_time(), perf_counter()
        call()
        return 1000 * (perf_counter() - wall), 1000 * (process_time() - cpu)

    return timed


def _take_turns(steps: Mapping[str, Callable[[], tuple[float, float]]], rounds: int) -> np.ndarray:
    """Warm up, then time `rounds` rounds: (rounds, F, 2), wall and CPU milliseconds."""
    calls = list(steps.values())
    warm: list[list[float]] = []
    while len(warm) < 3 or (
        len(warm) < WARM_UP and np.ptp(warm[-3:], axis=0).max(initial=0) > 0.05
    ):
        warm.append([np.log(max(call()[1], 1e-3)) for call in calls])
    times = np.empty((rounds, len(calls), 2))
    for turn in range(rounds):
        for i in turn_order(len(calls), turn):
            times[turn, i] = calls[i]()
    return times


def _table(
    names: Mapping[str, Any],
    times: list[np.ndarray],
    clock: Clock,
    before: float | None,
    **measured: Any,
) -> Table:
    wall, cpu = np.moveaxis(np.stack(times), -1, 0)  # (starts, rounds, F) each
    where = f"{machine()}; load {before or 0:.1f} before, {load_average() or 0:.1f} after"
    if np.median(wall / np.maximum(cpu, 1e-6)) > MOST_WAIT:
        where += f"; DISTURBED: wall time is over {MOST_WAIT} times the CPU time"
    return Table(tuple(names), wall, np.maximum(cpu, 1e-6), clock, where, **measured)


def _give_back_freed_memory() -> None:
    """Let glibc return what was freed, so that reusing it counts as memory taken."""
    try:
        ctypes.CDLL(None).malloc_trim(0)
    except (OSError, AttributeError):  # not glibc
        return
