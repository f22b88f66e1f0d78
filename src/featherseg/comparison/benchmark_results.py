"""The plan and the results of a benchmark: a table per setting, all as JSON."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from typing import TYPE_CHECKING, Any

import numpy as np

from featherseg.comparison.fidelity import Fidelity
from featherseg.comparison.statistics import MIN_STARTS, Speedup
from featherseg.comparison.variants import (
    EAGER,
    TUNED,
    BenchmarkModel,
    Variant,
    baseline_of,
    variants_of,
)
from featherseg.core.errors import ConfigError
from featherseg.core.machine import default_threads, pick_device, usable_cores
from featherseg.core.types import Size
from featherseg.core.wording import brief, counted, finite, size_text
from featherseg.costs.latency import MOST_WAIT, run_queue_wait, summarise
from featherseg.data import LabelledImages

if TYPE_CHECKING:
    from featherseg.comparison.roofline import Limits, Work

SCHEMA, SCHEMA_VERSION = "featherseg-benchmark", 2

USUAL_STARTS = 5
"""Default number of starts; the page warns of fewer. Chosen, not measured."""

ROUNDS, ROUNDS_ON_GPU = 20, 100
"""Default number of rounds, those of all starts together."""

BATCHES, BATCHES_ON_GPU = (1,), (1, 8)
"""Default batch sizes."""


@dataclass(frozen=True)
class Setting:
    """The setting of one table: images of (height, width), batch size, number of threads."""

    size: Size
    batch: int
    threads: int

    def __str__(self) -> str:
        batch = "" if self.batch == 1 else f", batch of {self.batch}"
        return f"{size_text(self.size)}{batch}, {counted(self.threads, 'thread')}"


@dataclass(frozen=True)
class Plan:
    """What to measure, and how often.

    Args:
        sizes: (height, width) of the images; default: those the models were trained with.
        batches: images per pass; default 1, on a GPU 1 and 8.
        threads: of each process; default: all cores.
        device: auto, cpu, cuda, cuda:N or mps.
        baseline: the variant with which the others are compared.
        starts: number of times each process is started.
        rounds: those of all starts together; default 20, on a GPU 100.
        labelled: the set for mIoU; None: not measured.
        calibrate: also measure the limits of the machine.
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

    def completed(self, models: Sequence[BenchmarkModel]) -> Plan:
        """Return the plan for these models, with defaults filled in; raises DeviceError."""
        alone = self.of_files(models)
        device = self.device if alone else str(pick_device(self.device))
        on_gpu = not alone and device.startswith("cuda")
        return replace(
            self,
            models=models,
            baseline=models[0].reference if alone and self.baseline == EAGER else self.baseline,
            sizes=self.sizes or list(dict.fromkeys(model.size for model in models)),
            batches=self.batches or (BATCHES_ON_GPU if on_gpu else BATCHES),
            threads=self.threads or (default_threads(),),
            device=device,
            rounds=self.rounds or (ROUNDS_ON_GPU if on_gpu else ROUNDS),
        )

    @staticmethod
    def of_files(models: Sequence[BenchmarkModel]) -> bool:
        """Whether the models are files alone, which are timed without torch."""
        return any(model.first_file for model in models)

    @property
    def baselines(self) -> tuple[str, ...]:
        """The variants with which every row is compared: `baseline`, plain eager, tuned eager."""
        if self.of_files(self.models):
            return (self.baseline,)
        return tuple(dict.fromkeys([self.baseline, EAGER, TUNED]))

    @property
    def reference(self) -> str:
        """What the masks of every row are compared with."""
        alone = self.of_files(self.models)
        return self.models[0].reference if alone else "plain float32 PyTorch"

    @property
    def rounds_each(self) -> int:
        """Number of rounds of one start."""
        return -(-self.rounds // self.starts)

    def variants(self, threads: int) -> list[Variant]:
        """Return the rows of a table."""
        if self.of_files(self.models):
            return variants_of(self.models, ())
        from featherseg.comparison.builds import builds_for

        return variants_of(self.models, builds_for(pick_device(self.device).type, threads))

    def check(self) -> None:
        """Raise ConfigError, UnknownName or DeviceError if the plan cannot be measured here."""
        if self.starts < MIN_STARTS or self.rounds < 2 * self.starts:
            raise ConfigError(
                f"{self.starts} starts and {self.rounds} rounds: expected at least {MIN_STARTS} "
                "starts (the spread between processes is part of the interval), and two rounds "
                "for each."
            )
        if not min(self.threads) >= 1 <= min(self.batches):
            raise ConfigError(
                f"threads {list(self.threads)}, batches {list(self.batches)}: expected 1 or more "
                "of each."
            )
        if max(self.threads) > usable_cores():
            raise ConfigError(
                f"threads {max(self.threads)}: expected at most {usable_cores()}, the number of "
                "usable cores."
            )
        for threads in self.threads:
            variants = self.variants(threads)
            for variant in variants:
                baseline_of(variant, self.baseline, variants)


@dataclass
class Samples:
    """All measurements of one variant in one setting.

    Args:
        wall, cpu, queue: stage -> (S, R) milliseconds in S starts of R rounds (`worker.Times`).
        open_ms, first_ms: (S,) opening the model, and its first forward.
        process_mib: (S,) peak memory of the process; NaN if the system does not report it.
        gpu_mib: (S,) peak memory on the GPU; None without one.
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
        """Latency of the model alone, up to logits at its stride, (S, R)."""
        return self.wall["forward"]

    @property
    def end_to_end_ms(self) -> np.ndarray:
        """Latency from image file to mask file, (S, R)."""
        return np.asarray(sum(self.wall.values()))

    @property
    def process_peak(self) -> str:
        """Median over starts of the peak memory in MiB, as text; `-` if unknown."""
        return "-" if np.isnan(self.process_mib).any() else f"{np.median(self.process_mib):.0f}"

    @property
    def run_queue_wait(self) -> float:
        """Run-queue wait of the forward, see `costs.latency.run_queue_wait`."""
        return run_queue_wait(self.forward_ms, self.cpu["forward"], self.queue["forward"])


@dataclass(frozen=True)
class Row:
    """One variant in one setting.

    Args:
        by_wall, by_cpu: speedup of the forward over each baseline, by wall and by CPU time.
        end_to_end: speedup from image file to mask file, by wall time.
        work: None for files alone, whose operations are not counted.
        limit_ms: shortest time that the machine's rates allow; None if they were not measured.
    """

    variant: Variant
    precision: str
    samples: Samples
    fidelity: Fidelity
    by_wall: Mapping[str, Speedup]
    by_cpu: Mapping[str, Speedup]
    end_to_end: Mapping[str, Speedup]
    work: Work | None
    limit_ms: float | None


@dataclass(frozen=True)
class Table:
    """All rows of one setting."""

    setting: Setting
    rows: tuple[Row, ...]

    @property
    def run_queue_wait(self) -> float:
        """The largest run-queue wait of a row."""
        return max((row.samples.run_queue_wait for row in self.rows), default=1.0)

    @property
    def disturbed(self) -> bool:
        """Whether other programs ran, so that times (less so ratios) are not reliable."""
        return self.run_queue_wait > MOST_WAIT


@dataclass(frozen=True)
class Benchmark:
    """A whole benchmark; left_out: (variant, reason) for each that could not be measured."""

    plan: Plan
    tables: tuple[Table, ...]
    left_out: tuple[tuple[str, str], ...]
    limits: tuple[Limits, ...]
    machine: Mapping[str, Any]
    load_at_end: float | None

    @property
    def cautions(self) -> list[str]:
        """Return warnings about the figures, for the page and the terminal."""
        warnings = [
            f"{model.name} is untrained: latency only. Its masks mean nothing, nor how a lower "
            "precision changes them."
            for model in self.plan.models
            if model.run is None and model.first_file is None
        ]
        worst = max((table.run_queue_wait for table in self.tables), default=1.0)
        if worst > MOST_WAIT:
            warnings.append(
                f"Other programs were running: passes took up to {worst:.1f} times as long as on "
                "an idle machine. Ratios are affected less than times; repeat on an idle machine."
            )
        if self.plan.starts < USUAL_STARTS:
            warnings.append(
                f"{self.plan.starts} starts of each process: {USUAL_STARTS} or more are usual."
            )
        return warnings

    def as_dict(self) -> dict[str, Any]:
        """Return JSON values, null for NaN; `schema` and `version` name the layout."""
        plan = self.plan
        return {
            "schema": SCHEMA,
            "version": SCHEMA_VERSION,
            "machine": {**self.machine, "load_average_at_end": self.load_at_end},
            "plan": {
                "models": [
                    {"name": n.name, "trained": bool(n.run or n.first_file)} for n in plan.models
                ],
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

    def __repr__(self) -> str:
        rows = sum(len(table.rows) for table in self.tables)
        names = [model.name for model in self.plan.models]
        return brief(self, *names, counted(len(self.tables), "table"), counted(rows, "row"))

    def _repr_html_(self) -> str:
        """Return the sections of the page, for a notebook."""
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
            clock: {name: asdict(s) | {"verdict": s.verdict} for name, s in by_baseline.items()}
            for clock, by_baseline in speedups.items()
        },
        "fidelity": asdict(row.fidelity),
        "limit_ms": row.limit_ms,
        "macs": row.work and row.work.macs,
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
