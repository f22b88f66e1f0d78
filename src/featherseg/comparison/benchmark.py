"""The latency of a model in every build, and how far its masks are from those of plain PyTorch.

One process per variant, so that memory is its own and no library disturbs another. All are started together, warmed up,
and then take turns, round by round: a ratio is taken between neighbours in time. All of that several times, as a
process keeps its luck (addresses, pages, where its threads lie). A variant's latency is given only with its fidelity.
"""

import math
from collections.abc import Callable, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, field, replace
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import numpy as np

from featherseg.comparison.benchmark_images import (
    Images,
    labelled_set,
    write_images,
    write_own_images,
)
from featherseg.comparison.benchmark_page import benchmark_html
from featherseg.comparison.benchmark_results import Benchmark, Plan, Row, Samples, Setting, Table
from featherseg.comparison.builds import EAGER, TORCH_BUILDS
from featherseg.comparison.fidelity import Fidelity, Scored, fidelity_of, with_miou
from featherseg.comparison.roofline import Limits, work_of
from featherseg.comparison.statistics import Speedup, speedup
from featherseg.comparison.variants import BenchmarkModel, Variant, baseline_of, find_models
from featherseg.comparison.worker_process import COMMAND, Process, VariantError
from featherseg.core.config import with_given
from featherseg.core.errors import ConfigError
from featherseg.core.files import check_writable, write_text
from featherseg.core.machine import load_average, machine
from featherseg.core.notebook import progress_or_bar
from featherseg.core.types import Progress, SegmentationData
from featherseg.core.wording import counted, marks
from featherseg.costs.latency import turn_order
from featherseg.data import LabelledImages
from featherseg.evaluation.scoring import number
from featherseg.inference.runtimes import check_trust
from featherseg.inference.settings import InferenceSettings
from featherseg.reports.record import check_recordable, learned_from, log_look, refuse_as_test
from featherseg.runs.run import Run


def benchmark(
    models: Sequence[str | Path | Run],
    plan: Plan | Mapping[str, Any] = Plan(),  # noqa: B008 (frozen)
    *,
    data: str | None = None,
    data_root: Path | None = None,
    split: str | None = None,
    trust: bool = False,
    out: str | Path | None = None,
    progress: Progress | None = None,
) -> Benchmark:
    """Time models in every build and exported file, with the difference of their masks beside every latency.

    Args:
        models: Run folders, names of runs, exported files, names of the catalogue (seeded weights).
        plan: Sizes, batches, threads, device, baseline, repeats, also as a mapping: {"threads": [1, 4]}; its defaults
            are those of `featherseg benchmark`.
        data, data_root, split: What mIoU is measured on; naming one of them takes the others from the runs.
        trust: Open .pt2 files, also those in a run's export/; they run the code that they contain.
        out: Also write the benchmark as one HTML page.
        progress: Called with (what is being done, steps done, steps in all). Default: a bar in a notebook.

    Returns:
        A Benchmark: a table a setting, with 95 % intervals.

    Raises:
        RunError, DataNotFound: A run, a file or the data cannot be opened; a baseline cannot be measured.
        ConfigError, UnknownName, DeviceError: The plan cannot be measured here.
        UntrustedFile: A .pt2 file, without `trust`.
    """
    if out is not None:
        check_writable(Path(out))
    plan = with_given(Plan(), plan, "plan", but=("models", "labelled"))
    found = find_models(
        [str(model.path) if isinstance(model, Run) else str(model) for model in models]
    )
    for file in (file for model in found for file in model.files):
        check_trust(file, trust)
    if not (data is None and data_root is None and split is None):
        own = [model.run.recipe.data for model in found if model.run]
        plan = replace(plan, labelled=replace(labelled_set(own, data, data_root, split), size=None))
    result = measure(plan.completed(found), progress_or_bar(progress))
    if out is not None:
        write_text(Path(out), benchmark_html(result))
    return result


def measure(
    plan: Plan, progress: Progress | None = None, command: Sequence[str] = COMMAND
) -> Benchmark:
    """Measure a completed plan; `command` is what a worker is started with.

    Raises what `Plan.check` does, DataNotFound for the labelled set, ConfigError where a file has other classes than
    its run, VariantError where a baseline cannot be measured.
    """
    plan.check()
    here, steps = machine(), _Steps(plan, progress)
    tables: list[Table] = []
    limits: list[Limits] = []
    left_out: dict[str, str] = {}
    with TemporaryDirectory(prefix="featherseg-benchmark-") as folder:
        for threads in plan.threads:
            lane = _Lane(plan, threads, Path(folder) / str(threads), steps, command)
            limits += [lane.measure_limits()] if plan.calibrate else []
            tables += lane.run(limits[-1] if limits else None)
            left_out |= lane.left_out
    return Benchmark(
        plan, tuple(tables), tuple(left_out.items()), tuple(limits), here, load_average()
    )


class _Steps:
    """Counts what is done, for a bar: every start of a variant, every warm-up, every turn."""

    def __init__(self, plan: Plan, progress: Progress | None) -> None:
        settings, self.progress, self.done = len(plan.sizes) * len(plan.batches), progress, 0
        each = plan.starts * (1 + settings * (1 + plan.rounds_each))
        self.total = sum(each * len(plan.variants(threads)) for threads in plan.threads)

    def take(self, doing: str, steps: int = 1) -> None:
        self.done += steps
        if self.progress:
            self.progress(doing, min(self.done, self.total), self.total)


@dataclass
class _Log:
    """What a variant answered in one setting, in the order of the starts."""

    turns: list[list[dict[str, Any]]] = field(default_factory=list)
    opened: list[dict[str, Any]] = field(default_factory=list)
    first_ms: list[float] = field(default_factory=list)
    memory: list[dict[str, Any]] = field(default_factory=list)
    fidelity: Fidelity | None = None

    def samples(self) -> Samples:
        """As arrays."""
        stages = list(self.turns[0][0]["wall"])
        wall, cpu, queue = (
            {
                s: np.array([[turn[clock][s] for turn in start] for start in self.turns])
                for s in stages
            }
            for clock in ("wall", "cpu", "queue")
        )
        gpu = [m["gpu_mib"] for m in self.memory]
        return Samples(
            wall,
            cpu,
            queue,
            open_ms=np.array([o["open_ms"] for o in self.opened]),
            first_ms=np.array(self.first_ms),
            process_mib=np.array([m["process_mib"] for m in self.memory], dtype=float),
            gpu_mib=None if None in gpu else np.array(gpu),
        )


class _Lane:
    """All variants on one number of threads: their processes of the start that runs now, their answers so far."""

    def __init__(
        self, plan: Plan, threads: int, folder: Path, steps: _Steps, command: Sequence[str]
    ) -> None:
        self.plan, self.threads, self.folder, self.steps, self.command = (
            plan,
            threads,
            folder,
            steps,
            command,
        )
        self.data = plan.labelled.open() if plan.labelled else None
        self.seen: dict[
            str, dict[str, str]
        ] = {}  # of each run's source: of the labelled images those it learned from
        for model in plan.models if self.data else ():
            self.seen[model.source] = _check_labelled(model, self.data, plan.labelled)
        self.variants = plan.variants(threads)
        found = [Setting(size, batch, threads) for size in plan.sizes for batch in plan.batches]
        # small first: a process's peak only grows
        self.settings = sorted(found, key=lambda one: (math.prod(one.size) * one.batch, one.size))
        self.logs = {(v.name, s): _Log() for v in self.variants for s in self.settings}
        self.running: dict[str, Process] = {}
        self.opened: dict[str, dict[str, Any]] = {}
        self.scored: dict[str, Scored] = {}
        self.left_out: dict[str, str] = {}
        self.images: dict[Path, Images] = {}

    def measure_limits(self) -> Limits:
        """The machine's rates, measured in a process of its own."""
        self.steps.take("measuring what this machine can do at most", 0)
        with Process("limits", self.threads, self.command) as process:
            return Limits(
                **process.request("limits", threads=self.threads, device=self.plan.device)
            )

    def run(self, limits: Limits | None) -> list[Table]:
        """Every start, then the tables."""
        for start in range(self.plan.starts):
            doing = f"start {start + 1} of {self.plan.starts}"
            with ExitStack() as stack:
                self._open(doing, stack)
                for setting in self.settings:
                    self._measure(setting, f"{doing}, {setting}")
                    if start == 0:
                        self._compare(setting)
                if start == 0 and self.data:
                    self._score(self.data)
        return [Table(setting, tuple(self._rows(setting, limits))) for setting in self.settings]

    def _open(self, doing: str, stack: ExitStack) -> None:
        """Start every variant's process and let it open its model, all at the same time."""

        def send(variant: Variant, process: Process) -> None:
            source, file = variant.model.source, variant.file and str(variant.file)
            allocator = variant.build is not None and TORCH_BUILDS[variant.build].allocator
            order = {"threads": self.threads, "device": self.plan.device, "allocator": allocator}
            process.send("open", source=source, build=variant.build, file=file, **order)

        def receive(variant: Variant, process: Process) -> None:
            self.opened[variant.name] = process.receive()
            _check_classes(variant, self.opened[variant.name])
            self.steps.take(f"{doing}: {counted(len(self.running), 'variant')} opened")

        self.running = {
            v.name: stack.enter_context(Process(v.name, self.threads, self.command))
            for v in self._present()
        }
        self._each(send)
        self._each(receive)

    def _measure(self, setting: Setting, doing: str) -> None:
        """Warm up, one after the other; then every round runs each variant once, the first moving on by one."""
        turns: dict[str, list[dict[str, Any]]] = {v.name: [] for v in self._present()}
        first: dict[str, float] = {}

        def prepare(variant: Variant, process: Process) -> None:
            files = self._images(variant.model, setting).files[: setting.batch]
            first[variant.name] = process.request("prepare", files=list(map(str, files)))[
                "first_ms"
            ]
            self.steps.take(f"{doing}: warming up")

        def turn(variant: Variant, process: Process) -> None:
            turns[variant.name].append(process.request("turn"))
            self.steps.take(doing)

        def note(variant: Variant, process: Process) -> None:
            log = self.logs[variant.name, setting]
            log.memory.append(process.request("memory"))
            log.opened.append(self.opened[variant.name])
            log.first_ms.append(first[variant.name])
            log.turns.append(turns[variant.name])

        self._each(prepare)
        for place in range(self.plan.rounds_each):
            self._each(turn, start=place)
        self._each(note)

    def _compare(self, setting: Setting) -> None:
        """Logits and masks of every variant beside those of its model in plain float32."""

        def compare(variant: Variant, process: Process) -> None:
            images = self._images(variant.model, setting)
            own = self.folder / f"{self._number(variant)}.npz"
            process.request("outputs", files=list(map(str, images.files)), to=str(own))
            reference = self.folder / f"{self._number(self._reference(variant))}.npz"
            self.logs[variant.name, setting].fidelity = fidelity_of(
                reference, own, images.description
            )

        self._each(compare)  # a model's reference is its first variant

    def _score(self, data: SegmentationData) -> None:
        """mIoU of every variant on the labelled set."""
        labelled = self.plan.labelled
        assert labelled is not None

        def score(variant: Variant, process: Process) -> None:
            def progress(doing: str, done: int, of: int | None) -> None:
                self.steps.take(f"{doing} {variant.name}: {done} of {of} images", 0)

            to = self.folder / "counts.npy"
            root = str(labelled.root) if labelled.root else None
            order = {"data": labelled.name, "split": labelled.split, "root": root, "to": str(to)}
            order["split_by"] = labelled.split_by
            miou = process.request("score", progress, **order)["miou"]
            own = self.scored[variant.name] = Scored(miou, np.load(to))
            reference = self.scored[self._reference(variant).name]
            run, seen = variant.model.run, self.seen[variant.model.source]
            selected = bool(
                run and labelled.is_of(run.recipe.data.name) and run.selected_on(labelled.split)
            )
            for log in (self.logs[variant.name, setting] for setting in self.settings):
                assert log.fidelity is not None
                found = with_miou(log.fidelity, reference, own, data)
                log.fidelity = replace(found, marks=marks(selected=selected, trained_on=seen))
            if own is reference and run and not run.read_only:  # one look, however many variants
                size = InferenceSettings(resize=run.recipe.data.test_resize)
                look = {
                    "data": data.name,
                    "split": labelled.split,
                    "inference": str(size),
                    "images": len(data),
                }
                told = (
                    {"selected": selected}
                    | ({"trained_on": True} if seen else {})
                    | {"notes": ["by benchmark"]}
                )
                log_look(run, look | {"miou": number(miou)} | told)

        self._each(score)

    def _rows(self, setting: Setting, limits: Limits | None) -> list[Row]:
        samples = {v.name: self.logs[v.name, setting].samples() for v in self._present()}
        work = {
            n.source: work_of(n.on_meta(), n.seen(setting.size), setting.batch)
            for n in self.plan.models
        }
        rows = []
        for variant in self._present():
            own, fidelity = samples[variant.name], self.logs[variant.name, setting].fidelity
            assert fidelity is not None  # no latency without it
            names = {b: baseline_of(variant, b, self.variants).name for b in self.plan.baselines}
            bases = {b: samples[name] for b, name in names.items()}
            precision, todo = self.opened[variant.name]["precision"], work[variant.model.source]
            rows.append(
                Row(
                    variant,
                    precision,
                    own,
                    fidelity,
                    by_wall={
                        b: speedup(base.forward_ms, own.forward_ms) for b, base in bases.items()
                    },
                    by_cpu={b: _cpu_speed(base, own) for b, base in bases.items()},
                    end_to_end={
                        b: speedup(base.end_to_end_ms, own.end_to_end_ms)
                        for b, base in bases.items()
                    },
                    work=todo,
                    limit_ms=todo.limit_ms(limits, precision) if limits else None,
                )
            )
        return rows

    def _each(self, action: Callable[[Variant, Process], None], start: int = 0) -> None:
        """`action` for every variant that is still in it, from number `start` on; one that fails is left out."""
        present = self._present()
        for variant in (present[i] for i in turn_order(len(present), start)):
            try:
                action(variant, self.running[variant.name])
            except VariantError as error:
                if {variant.short, variant.name} & set(self.plan.baselines):
                    raise VariantError(
                        f"{variant.name}, a baseline, cannot be measured: {error}"
                    ) from None
                self.left_out[variant.name] = str(error)
                self.running[variant.name].close()

    def _present(self) -> list[Variant]:
        return [v for v in self.variants if v.name not in self.left_out]

    def _number(self, variant: Variant) -> int:
        return self.variants.index(variant)

    def _reference(self, variant: Variant) -> Variant:
        """Plain float32 eager, of the same model."""
        return baseline_of(variant, EAGER, self.variants)

    def _images(self, model: BenchmarkModel, setting: Setting) -> Images:
        """Written when first used; of the labelled set, else those that each run was validated on."""
        channels, (height, width) = model.channels, setting.size
        owner = self.plan.models.index(model)
        folder = self.folder / f"{height}x{width}-{setting.batch}-{owner}"
        if folder not in self.images:
            what = folder, setting.size, channels, setting.batch
            self.images[folder] = (
                write_images(*what, self.data) if self.data else write_own_images(*what, model.run)
            )
        return self.images[folder]


def _cpu_speed(base: Samples, own: Samples) -> Speedup:
    """By CPU time of the forward; a clock that stood still (it has its own grain) counts as its grain."""
    return speedup(np.maximum(base.cpu["forward"], 1e-3), np.maximum(own.cpu["forward"], 1e-3))


def _check_classes(variant: Variant, opened: dict[str, Any]) -> None:
    """Raises ConfigError where a file has other classes than its run."""
    wanted = [info.name for info in variant.model.classes]
    if opened["classes"] != wanted:
        raise ConfigError(
            f"{variant.file} has different classes from {variant.model.name}: {', '.join(opened['classes'][:8])} "
            f"({len(opened['classes'])}) against {', '.join(wanted[:8])} ({len(wanted)}). Name the run that it was "
            "exported from."
        )


def _check_labelled(
    model: BenchmarkModel, data: SegmentationData | None, labelled: LabelledImages | None
) -> dict[str, str]:
    """-> `learned_from`. Raises ConfigError where mIoU cannot be measured: no training, or other classes.

    DataError where a run was trained on images that are called test, RunError where its look cannot be counted.
    """
    assert data is not None
    assert labelled is not None
    if model.run is None:
        raise ConfigError(
            f"{model.name} is untrained: it has no mIoU. Leave out --split, or name a run."
        )
    ours, theirs = [info.name for info in model.classes], [info.name for info in data.classes]
    if ours != theirs:
        raise ConfigError(
            f"{model.name} and {data.name} have different classes: {', '.join(ours[:8])} ({len(ours)}) against "
            f"{', '.join(theirs[:8])} ({len(theirs)}). Name data with the model's classes."
        )
    if not model.run.read_only:
        check_recordable(model.run)
    seen = learned_from(model.run, data, labelled)
    refuse_as_test(model.run, seen, data, labelled.split)
    return seen
