"""What a benchmark measures, and what came out: a plan, a table per setting, everything as JSON."""

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np

from featherseg.benchmarking.builds import EAGER, TUNED, builds_for
from featherseg.benchmarking.fidelity import Fidelity
from featherseg.benchmarking.roofline import Limits, Work
from featherseg.benchmarking.statistics import MIN_STARTS, MOST_WAIT, Speedup, run_queue_wait, summarise
from featherseg.benchmarking.variants import BenchmarkModel, Variant, baseline_of, variants_of
from featherseg.core.errors import ConfigError
from featherseg.core.machine import pick_device, usable_cores
from featherseg.core.types import Size
from featherseg.core.wording import counted
from featherseg.data.labelled_images import LabelledImages

SCHEMA, SCHEMA_VERSION = "featherseg-benchmark", 1

USUAL_STARTS = 5
"""Starts from which a process's luck is averaged out; fewer are told."""


@dataclass(frozen=True)
class Setting:
    """What one table is about: images of (height, width), so many at a time, on so many threads."""

    size: Size
    batch: int
    threads: int

    def __str__(self) -> str:
        batch = "" if self.batch == 1 else f", batch of {self.batch}"
        return f"{self.size[0]}x{self.size[1]}{batch}, {counted(self.threads, 'thread')}"


@dataclass(frozen=True)
class Plan:
    """What to measure. rounds are those of all starts together; labelled is what mIoU is measured on, None = not."""

    models: Sequence[BenchmarkModel]
    sizes: Sequence[Size]
    batches: Sequence[int] = (1,)
    threads: Sequence[int] = (1,)
    device: str = "cpu"
    baseline: str = EAGER
    starts: int = USUAL_STARTS
    rounds: int = 20
    labelled: LabelledImages | None = None
    calibrate: bool = False

    @property
    def baselines(self) -> tuple[str, ...]:
        """What every row is compared with: the one asked for, then plain eager and tuned eager."""
        return tuple(dict.fromkeys([self.baseline, EAGER, TUNED]))

    @property
    def rounds_each(self) -> int:
        """Rounds of one start."""
        return -(-self.rounds // self.starts)

    def variants(self, threads: int) -> list[Variant]:
        """The rows of a setting's table."""
        return variants_of(self.models, builds_for(pick_device(self.device).type, threads))

    def check(self) -> None:
        """Raises ConfigError, UnknownName, DeviceError for what cannot be measured."""
        if self.starts < MIN_STARTS or self.rounds < 2 * self.starts:
            raise ConfigError(
                f"{self.starts} starts and {self.rounds} rounds: expected at least {MIN_STARTS} starts (the spread "
                f"between processes is part of the interval), and two rounds for each."
            )
        if not min(self.threads) >= 1 <= min(self.batches):
            raise ConfigError(
                f"threads {list(self.threads)}, batches {list(self.batches)}: expected 1 or more of each."
            )
        if max(self.threads) > usable_cores():
            raise ConfigError(
                f"{max(self.threads)} threads were asked for, but {usable_cores()} cores may be used here."
            )
        for threads in self.threads:
            variants = self.variants(threads)
            for variant in variants:
                baseline_of(variant, self.baseline, variants)


@dataclass
class Samples:
    """All that was measured of one variant in one setting; arrays are (S, R): starts, rounds of each.

    wall, cpu and queue hold milliseconds by stage, see `benchmark_worker.Times`; the others one value a start.
    process_mib is NaN where the system does not tell, gpu_mib None without a GPU.
    """

    wall: dict[str, np.ndarray]
    cpu: dict[str, np.ndarray]
    queue: dict[str, np.ndarray]
    open_ms: np.ndarray
    first_ms: np.ndarray
    process_mib: np.ndarray
    gpu_mib: np.ndarray | None

    @property
    def forward_ms(self) -> np.ndarray:
        """The model alone, up to logits at its own stride, (S, R)."""
        return self.wall["forward"]

    @property
    def whole_ms(self) -> np.ndarray:
        """From an image file to a mask file, (S, R)."""
        return np.asarray(sum(self.wall.values()))

    @property
    def process_peak(self) -> str:
        """The median of the starts' peaks in MiB, as tables show it."""
        return "-" if np.isnan(self.process_mib).any() else f"{np.median(self.process_mib):.0f}"

    @property
    def run_queue_wait(self) -> float:
        """See `benchmark_statistics.run_queue_wait`; of the forward."""
        return run_queue_wait(self.forward_ms, self.cpu["forward"], self.queue["forward"])


@dataclass(frozen=True)
class Row:
    """One variant in one setting.

    by_wall, by_cpu and whole: how many times as fast as each baseline, by the forward's wall and CPU time and by the
    whole way's wall time.
    limit_ms is the least time that the machine's rates leave, None where they were not measured.
    """

    variant: Variant
    precision: str
    samples: Samples
    fidelity: Fidelity
    by_wall: Mapping[str, Speedup]
    by_cpu: Mapping[str, Speedup]
    whole: Mapping[str, Speedup]
    work: Work
    limit_ms: float | None


@dataclass(frozen=True)
class Table:
    """All rows of one setting."""

    setting: Setting
    rows: tuple[Row, ...]

    @property
    def run_queue_wait(self) -> float:
        """The worst of the rows; above MOST_WAIT the machine was not ours alone."""
        return max((row.samples.run_queue_wait for row in self.rows), default=1.0)

    @property
    def waited(self) -> bool:
        """Whether absolute times are not to be trusted; ratios suffer less."""
        return self.run_queue_wait > MOST_WAIT


@dataclass(frozen=True)
class Outcome:
    """A whole benchmark; left_out holds (variant, sentence) of those that could not be measured."""

    plan: Plan
    tables: tuple[Table, ...]
    left_out: tuple[tuple[str, str], ...]
    limits: tuple[Limits, ...]
    machine: Mapping[str, Any]
    load_at_end: float | None

    def as_json(self) -> dict[str, Any]:
        """The stable form: {"schema", "version", "machine", "limits", "tables": [{..., "rows": [...]}], "left_out"}."""
        plan = self.plan
        return {
            "schema": SCHEMA,
            "version": SCHEMA_VERSION,
            "machine": {**self.machine, "load_average_at_end": self.load_at_end},
            "plan": {
                "models": [{"name": n.name, "trained": n.run is not None} for n in plan.models],
                "device": plan.device,
                "baselines": list(plan.baselines),
                "starts": plan.starts,
                "rounds": plan.starts * plan.rounds_each,
                "labelled": plan.labelled and {"name": plan.labelled.name, "split": plan.labelled.split},
            },
            "limits": [limits.as_json() for limits in self.limits],
            "tables": [_table_json(table) for table in self.tables],
            "left_out": [{"variant": name, "why": why} for name, why in self.left_out],
        }


def _table_json(table: Table) -> dict[str, Any]:
    setting = {"size": list(table.setting.size), "batch": table.setting.batch, "threads": table.setting.threads}
    waited = {"run_queue_wait": table.run_queue_wait, "waited": table.waited}
    return {**setting, **waited, "rows": [_row_json(row, table.setting.batch) for row in table.rows]}


def _row_json(row: Row, batch: int) -> dict[str, Any]:
    samples, forward = row.samples, summarise(row.samples.forward_ms)
    speedups = {"by_wall": row.by_wall, "by_cpu": row.by_cpu, "whole_way": row.whole}
    return {
        "variant": row.variant.name,
        "model": row.variant.model.name,
        "precision": row.precision,
        "forward_ms": {"p50": forward.p50, "p95": forward.p95, "min": forward.least, "iqr": forward.iqr},
        "whole_way_ms": {"p50": summarise(samples.whole_ms).p50},
        "images_per_second": 1000 * batch / forward.p50,
        "times_as_fast": {
            clock: {name: asdict(s) | {"verdict": s.verdict} for name, s in found.items()}
            for clock, found in speedups.items()
        },
        "fidelity": asdict(row.fidelity),
        "limit_ms": row.limit_ms,
        "macs": row.work.macs,
        "samples": {
            **{clock: _lists(getattr(samples, clock)) for clock in ("wall", "cpu", "queue")},
            "open_ms": samples.open_ms.tolist(),
            "first_ms": samples.first_ms.tolist(),
            "process_mib": _list(samples.process_mib),
            "gpu_mib": None if samples.gpu_mib is None else samples.gpu_mib.tolist(),
        },
    }


def _lists(by_stage: Mapping[str, np.ndarray]) -> dict[str, list[list[float | None]]]:
    """(S, R) of each stage as lists; null for NaN."""
    return {stage: [_list(start.round(4)) for start in values] for stage, values in by_stage.items()}


def _list(values: np.ndarray) -> list[float | None]:
    """(N,) as a list; null for NaN."""
    return [None if np.isnan(x) else x for x in values.tolist()]
