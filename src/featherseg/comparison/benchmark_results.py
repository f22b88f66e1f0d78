"""What a benchmark measures, and what came out: a plan, a table per setting, everything as JSON."""

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from typing import Any

import numpy as np

from featherseg.comparison.builds import EAGER, TUNED, builds_for
from featherseg.comparison.fidelity import Fidelity
from featherseg.comparison.roofline import Limits, Work
from featherseg.comparison.statistics import MIN_STARTS, Speedup
from featherseg.comparison.variants import BenchmarkModel, Variant, baseline_of, variants_of
from featherseg.core.errors import ConfigError
from featherseg.core.machine import default_threads, pick_device, usable_cores
from featherseg.core.types import Size
from featherseg.core.wording import counted, finite, size_text
from featherseg.costs.latency import MOST_WAIT, run_queue_wait, summarise
from featherseg.data import LabelledImages

SCHEMA, SCHEMA_VERSION = "featherseg-benchmark", 2

USUAL_STARTS = 5
"""Starts from which a process's luck is averaged out; fewer are a caution."""

ROUNDS, ROUNDS_ON_GPU = 20, 100
BATCHES, BATCHES_ON_GPU = (1,), (1, 8)


@dataclass(frozen=True)
class Setting:
    """What one table is about: images of (height, width), so many at a time, on so many threads."""

    size: Size
    batch: int
    threads: int

    def __str__(self) -> str:
        batch = "" if self.batch == 1 else f", batch of {self.batch}"
        return f"{size_text(self.size)}{batch}, {counted(self.threads, 'thread')}"


@dataclass(frozen=True)
class Plan:
    """What to measure, and how often.

    sizes: (height, width) of the images, of an empty list those the models were trained with. batches: images at a
    time, 1, on a GPU 1 and 8. threads: of each process, all cores. device: auto, cpu, cuda, cuda:N or mps. baseline:
    the variant that the others are compared with. starts: how often each variant's process is started anew. rounds:
    those of all starts together, 20, on a GPU 100. labelled: what mIoU is measured on, None = not. calibrate: measure
    the machine's limits too.
    """

    models: Sequence[BenchmarkModel] = ()
    sizes: Sequence[Size] = ()
    batches: Sequence[int] = ()
    threads: Sequence[int] = ()
    device: str = "auto"
    baseline: str = EAGER
    starts: int = USUAL_STARTS
    rounds: int = 0
    labelled: LabelledImages | None = None
    calibrate: bool = False

    def completed(self, models: Sequence[BenchmarkModel]) -> "Plan":
        """For these models, with defaults where nothing is set. Raises DeviceError."""
        device = pick_device(self.device)
        on_gpu = device.type == "cuda"
        return replace(
            self,
            models=models,
            sizes=self.sizes or list(dict.fromkeys(model.size for model in models)),
            batches=self.batches or (BATCHES_ON_GPU if on_gpu else BATCHES),
            threads=self.threads or (default_threads(),),
            device=str(device),
            rounds=self.rounds or (ROUNDS_ON_GPU if on_gpu else ROUNDS),
        )

    @property
    def baselines(self) -> tuple[str, ...]:
        """What every row is compared with: its own, then plain eager and tuned eager."""
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
                f"threads {max(self.threads)}: expected at most {usable_cores()}, the cores that may be used here."
            )
        for threads in self.threads:
            variants = self.variants(threads)
            for variant in variants:
                baseline_of(variant, self.baseline, variants)


@dataclass
class Samples:
    """All that was measured of one variant in one setting; arrays are (S, R): starts, rounds of each.

    wall, cpu and queue hold milliseconds by stage, see `worker.Times`; the others one value a start.
    process_mib is NaN where the system does not report it, gpu_mib None without a GPU.
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
    def end_to_end_ms(self) -> np.ndarray:
        """From an image file to a mask file, (S, R)."""
        return np.asarray(sum(self.wall.values()))

    @property
    def process_peak(self) -> str:
        """The median of the starts' peaks in MiB, as tables show it."""
        return "-" if np.isnan(self.process_mib).any() else f"{np.median(self.process_mib):.0f}"

    @property
    def run_queue_wait(self) -> float:
        """See `costs.latency.run_queue_wait`; of the forward."""
        return run_queue_wait(self.forward_ms, self.cpu["forward"], self.queue["forward"])


@dataclass(frozen=True)
class Row:
    """One variant in one setting.

    by_wall, by_cpu and end_to_end: the speedup over each baseline, by the forward's wall and CPU time and by the wall
    time from an image file to a mask file.
    limit_ms is the least time that the machine's rates leave, None where they were not measured.
    """

    variant: Variant
    precision: str
    samples: Samples
    fidelity: Fidelity
    by_wall: Mapping[str, Speedup]
    by_cpu: Mapping[str, Speedup]
    end_to_end: Mapping[str, Speedup]
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
    def disturbed(self) -> bool:
        """Whether absolute times are not to be trusted; ratios suffer less."""
        return self.run_queue_wait > MOST_WAIT


@dataclass(frozen=True)
class Benchmark:
    """A whole benchmark; left_out holds (variant, reason) of those that could not be measured."""

    plan: Plan
    tables: tuple[Table, ...]
    left_out: tuple[tuple[str, str], ...]
    limits: tuple[Limits, ...]
    machine: Mapping[str, Any]
    load_at_end: float | None

    def as_dict(self) -> dict[str, Any]:
        """Plain JSON values in a stable layout, `schema` and `version` say which; null for NaN and infinity."""
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
                "labelled": plan.labelled
                and {"name": plan.labelled.name, "split": plan.labelled.split},
            },
            "limits": [limits.as_json() for limits in self.limits],
            "tables": finite([_table_json(table) for table in self.tables]),
            "left_out": [{"variant": name, "reason": reason} for name, reason in self.left_out],
        }

    def _repr_html_(self) -> str:
        """For a notebook: the sections of the page without its head."""
        from featherseg.comparison.benchmark_page import sections_html

        return sections_html(self)


def _table_json(table: Table) -> dict[str, Any]:
    setting = {
        "size": list(table.setting.size),
        "batch": table.setting.batch,
        "threads": table.setting.threads,
    }
    wait = {"run_queue_wait": table.run_queue_wait, "disturbed": table.disturbed}
    return {**setting, **wait, "rows": [_row_json(row, table.setting.batch) for row in table.rows]}


def _row_json(row: Row, batch: int) -> dict[str, Any]:
    samples, forward = row.samples, summarise(row.samples.forward_ms)
    speedups = {"by_wall": row.by_wall, "by_cpu": row.by_cpu, "end_to_end": row.end_to_end}
    return {
        "variant": row.variant.name,
        "model": row.variant.model.name,
        "precision": row.precision,
        "forward_ms": {
            "p50": forward.p50,
            "p95": forward.p95,
            "min": forward.least,
            "iqr": forward.iqr,
        },
        "end_to_end_ms": {"p50": summarise(samples.end_to_end_ms).p50},
        "images_per_second": 1000 * batch / forward.p50,
        "speedup": {
            clock: {name: asdict(s) | {"verdict": s.verdict} for name, s in found.items()}
            for clock, found in speedups.items()
        },
        "fidelity": asdict(row.fidelity),
        "limit_ms": row.limit_ms,
        "macs": row.work.macs,
        "samples": {
            **{
                clock: {
                    stage: values.round(4).tolist()
                    for stage, values in getattr(samples, clock).items()
                }
                for clock in ("wall", "cpu", "queue")
            },
            "open_ms": samples.open_ms.tolist(),
            "first_ms": samples.first_ms.tolist(),
            "process_mib": samples.process_mib.tolist(),
            "gpu_mib": None if samples.gpu_mib is None else samples.gpu_mib.tolist(),
        },
    }
