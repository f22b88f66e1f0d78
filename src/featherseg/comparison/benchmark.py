"""Latency of a model in every build, and how close its masks are to those of plain PyTorch.

Each variant has its own process, so memory is its own and no library disturbs another. All
processes are started together, warmed up, and then take turns, so a ratio compares passes that are
close in time. This is repeated several times, because memory addresses, pages and thread placement
of a process affect all its times. No latency is given without its fidelity.
"""

import math
from collections.abc import Callable, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, field, replace
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import TYPE_CHECKING, Any

import numpy as np

from featherseg.comparison.benchmark_images import (
    Images,
    labelled_set,
    write_images,
    write_own_images,
)
from featherseg.comparison.benchmark_page import benchmark_html
from featherseg.comparison.benchmark_results import Benchmark, Plan, Row, Samples, Setting, Table
from featherseg.comparison.fidelity import Fidelity, Scored, fidelity_of, with_miou
from featherseg.comparison.statistics import Speedup, speedup
from featherseg.comparison.variants import BenchmarkModel, Variant, baseline_of, find_models
from featherseg.comparison.worker_process import COMMAND, Process, VariantError
from featherseg.converters.converted import as_dataset
from featherseg.core.config import with_given
from featherseg.core.errors import ConfigError
from featherseg.core.files import check_writable, write_text
from featherseg.core.machine import load_average, machine
from featherseg.core.notebook import progress_or_bar
from featherseg.core.types import Progress, SegmentationData
from featherseg.core.wording import counted, marks
from featherseg.costs.latency import turn_order
from featherseg.data import LabelledImages
from featherseg.inference.runtimes import check_trust
from featherseg.inference.settings import InferenceSettings

if TYPE_CHECKING:
    from featherseg.comparison.roofline import Limits
    from featherseg.runs.run import Run


def benchmark(
    models: "Sequence[str | Path | Run]",
    plan: Plan | Mapping[str, Any] = Plan(),  # noqa: B008 (frozen)
    *,
    data: str | None = None,
    data_root: Path | None = None,
    split: str | None = None,
    trust: bool = False,
    out: str | Path | None = None,
    progress: Progress | None = None,
) -> Benchmark:
    """Time models in every build and exported file, and compare their masks with plain PyTorch.

        featherseg.benchmark(["runs/photos"], {"threads": [1, 4]}, out="benchmark.html")

    Args:
        models: run folders, names of runs, exported files, names of the catalogue (seeded weights).
            Files alone, which lie in no run's export/, are compared with the first of them.
        plan: sizes, batches, threads, device, baseline and repeats, or a mapping of those that
            differ from the defaults of `featherseg benchmark`, such as {"threads": [1, 4]}.
        data, data_root, split: the labelled set for mIoU; if one is given, the others default to
            the runs' own. Without all three, mIoU is not measured.
        trust: open .pt2 files, also those in a run's export/; they run the code that they contain.
        out: also write the benchmark as one HTML page.
        progress: called with (text, steps done, steps in all). Default: a bar in a notebook.

    Returns:
        A table for each size, batch and number of threads, with 95 % intervals.

    Raises:
        RunError, DataNotFound: a run, a file or the data cannot be opened, or a baseline measured.
        ConfigError, UnknownName, DeviceError: the plan cannot be measured here.
        UntrustedFile: a .pt2 file is among the files, and `trust` is False.
    """
    if out is not None:
        check_writable(Path(out))
    plan = with_given(Plan(), plan, "plan", but=("models", "labelled"))
    names = [str(one if isinstance(one, str | Path) else one.path) for one in models]
    for name in names:
        check_trust(name, trust)
    timed_models = find_models(names)
    for file in (file for model in timed_models for file in model.files):
        check_trust(file, trust)
    if plan.calibrate and Plan.of_files(timed_models):
        raise ConfigError("--calibrate measures with torch: name the run of the files as well.")
    if not (data is None and data_root is None and split is None):
        tables = [model.run.recipe.data for model in timed_models if model.run]
        data = None if data is None else as_dataset(data, progress_or_bar(progress))
        labelled = labelled_set(tables, data, data_root, split)
        plan = replace(plan, labelled=replace(labelled, size=None))  # all images of the split
    result = measure(plan.completed(timed_models), progress_or_bar(progress))
    if out is not None:
        write_text(Path(out), benchmark_html(result))
    return result


def measure(
    plan: Plan, progress: Progress | None = None, command: Sequence[str] = COMMAND
) -> Benchmark:
    """Measure a completed plan; `command` starts a worker.

    Raises:
        DataNotFound: the labelled set is not here.
        ConfigError: a file has other classes than its run; or as `Plan.check`.
        VariantError: a baseline cannot be measured.
    """
    plan.check()
    machine_facts, steps = machine(), _Steps(plan, progress)
    tables: list[Table] = []
    limits: list[Limits] = []
    excluded: dict[str, str] = {}
    with TemporaryDirectory(prefix="featherseg-benchmark-") as folder:
        for threads in plan.threads:
            lane = _Lane(plan, threads, Path(folder) / str(threads), steps, command)
            limits += [lane.measure_limits()] if plan.calibrate else []
            tables += lane.run(limits[-1] if limits else None)
            excluded |= lane.left_out
    return Benchmark(
        plan, tuple(tables), tuple(excluded.items()), tuple(limits), machine_facts, load_average()
    )


class _Steps:
    """Count the steps of a progress bar: each start of a variant, each warm-up, each turn."""

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
    """The answers of a variant in one setting, one entry per start."""

    turns: list[list[dict[str, Any]]] = field(default_factory=list)
    opened: list[dict[str, Any]] = field(default_factory=list)
    first_ms: list[float] = field(default_factory=list)
    memory: list[dict[str, Any]] = field(default_factory=list)
    fidelity: Fidelity | None = None

    def samples(self) -> Samples:
        """Return the answers as arrays."""
        stages = list(self.turns[0][0]["wall"])
        wall, cpu, queue = (
            {
                stage: np.array([[turn[clock][stage] for turn in start] for start in self.turns])
                for stage in stages
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
    """All variants on one number of threads: the processes of the present start, all answers."""

    def __init__(
        self, plan: Plan, threads: int, folder: Path, steps: _Steps, command: Sequence[str]
    ) -> None:
        self.plan, self.threads, self.steps = plan, threads, steps
        self.folder, self.command = folder, command

        # Labelled images that each model was trained on, by its source
        self.data = plan.labelled.open() if plan.labelled else None
        self.trained_on: dict[str, dict[str, str]] = {}
        for model in plan.models if self.data else ():
            self.trained_on[model.source] = _check_labelled(model, self.data, plan.labelled)

        # The smallest setting comes first, because the peak memory of a process only grows
        self.variants = plan.variants(threads)
        self.settings = sorted(
            (Setting(size, batch, threads) for size in plan.sizes for batch in plan.batches),
            key=lambda one: (math.prod(one.size) * one.batch, one.size),
        )
        self.logs = {(v.name, s): _Log() for v in self.variants for s in self.settings}
        self.running: dict[str, Process] = {}
        self.opened: dict[str, dict[str, Any]] = {}
        self.scored: dict[str, Scored] = {}
        self.left_out: dict[str, str] = {}
        self.images: dict[Path, Images] = {}

    def measure_limits(self) -> "Limits":
        """Measure the rates of the machine in a process of its own."""
        self.steps.take("measuring the limits of this machine", 0)
        order: dict[str, Any] = {"threads": self.threads, "device": self.plan.device}
        from featherseg.comparison.roofline import Limits

        with Process("limits", self.threads, self.command) as process:
            return Limits(**process.request("limits", **order))

    def run(self, limits: "Limits | None") -> list[Table]:
        """Measure every start; return a table for each setting."""
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
        """Start the process of every variant; all open their models at the same time."""

        def send(variant: Variant, process: Process) -> None:
            source, file = variant.model.source, variant.file and str(variant.file)
            allocator = False
            if variant.build is not None:
                from featherseg.comparison.builds import TORCH_BUILDS

                allocator = TORCH_BUILDS[variant.build].allocator
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
        """Warm up the variants one after the other, then run each of them once in every round."""
        turns: dict[str, list[dict[str, Any]]] = {v.name: [] for v in self._present()}
        first: dict[str, float] = {}

        def prepare(variant: Variant, process: Process) -> None:
            files = self._images(variant.model, setting).files[: setting.batch]
            answer = process.request("prepare", files=list(map(str, files)))
            first[variant.name] = answer["first_ms"]
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
        for i in range(self.plan.rounds_each):
            self._each(turn, i)
        self._each(note)

    def _compare(self, setting: Setting) -> None:
        """Compare logits and masks of every variant with those of its model in plain float32."""

        def compare(variant: Variant, process: Process) -> None:
            images = self._images(variant.model, setting)
            outputs, reference = (
                self.folder / f"{self.variants.index(one)}.npz"
                for one in (variant, self._reference(variant))
            )
            process.request("outputs", files=list(map(str, images.files)), to=str(outputs))
            fidelity = fidelity_of(reference, outputs, images.description)
            self.logs[variant.name, setting].fidelity = fidelity

        self._each(compare)  # the reference of a model is its first variant

    def _score(self, data: SegmentationData) -> None:
        """Measure mIoU of every variant on the labelled set."""
        labelled = self.plan.labelled
        assert labelled is not None

        def score(variant: Variant, process: Process) -> None:
            def progress(doing: str, done: int, of: int | None) -> None:
                self.steps.take(f"{doing} {variant.name}: {done} of {of} images", 0)

            # In the variant's process
            counts = self.folder / "counts.npy"
            root = str(labelled.root) if labelled.root else None
            order = {"data": labelled.name, "split": labelled.split, "root": root}
            order |= {"split_by": labelled.split_by, "to": str(counts)}
            miou = process.request("score", progress, **order)["miou"]
            scored = self.scored[variant.name] = Scored(miou, np.load(counts))

            # Beside the fidelity of every setting
            reference = self.scored[self._reference(variant).name]
            run, trained_on = variant.model.run, self.trained_on[variant.model.source]
            selected = bool(
                run and labelled.is_of(run.recipe.data.name) and run.selected_on(labelled.split)
            )
            for log in (self.logs[variant.name, setting] for setting in self.settings):
                assert log.fidelity is not None
                fidelity = with_miou(log.fidelity, reference, scored, data)
                warning = marks(selected=selected, trained_on=trained_on)
                log.fidelity = replace(fidelity, marks=warning)

            # All variants of a run count as one look at these images
            if scored is reference and run and not run.read_only:
                inference = InferenceSettings(resize=run.recipe.data.test_resize)
                look: dict[str, Any] = {
                    "data": data.name,
                    "split": labelled.split,
                    "inference": str(inference),
                }
                from featherseg.evaluation.scoring import number
                from featherseg.reports.record import log_look

                look |= {"images": len(data), "miou": number(miou), "selected": selected}
                look |= {"trained_on": True} if trained_on else {}
                log_look(run, look | {"notes": ["by benchmark"]})

        self._each(score)

    def _rows(self, setting: Setting, limits: "Limits | None") -> list[Row]:
        """Return the rows of a setting's table."""
        samples = {v.name: self.logs[v.name, setting].samples() for v in self._present()}
        work: dict[str, Any] = dict.fromkeys(model.source for model in self.plan.models)
        if not self.plan.of_files(self.plan.models):
            from featherseg.comparison.roofline import work_of

            for n in self.plan.models:
                work[n.source] = work_of(n.on_meta(), n.seen(setting.size), setting.batch)
        rows = []
        for variant in self._present():
            measured = samples[variant.name]
            fidelity = self.logs[variant.name, setting].fidelity
            assert fidelity is not None  # no latency without it
            baselines = {
                name: samples[baseline_of(variant, name, self.variants).name]
                for name in self.plan.baselines
            }
            by_wall, by_cpu, end_to_end = (
                {name: ratio(base, measured) for name, base in baselines.items()}
                for ratio in (_by_wall, _by_cpu, _end_to_end)
            )
            precision = self.opened[variant.name]["precision"]
            pass_work = work[variant.model.source]
            limit_ms = pass_work.limit_ms(limits, precision) if limits else None
            speedups = (by_wall, by_cpu, end_to_end)
            rows.append(Row(variant, precision, measured, fidelity, *speedups, pass_work, limit_ms))
        return rows

    def _each(self, action: Callable[[Variant, Process], None], turn: int = 0) -> None:
        """Do `action` for every variant that has not failed; leave out those that fail now."""
        present = self._present()
        for variant in (present[i] for i in turn_order(len(present), turn)):
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

    def _reference(self, variant: Variant) -> Variant:
        """Return the variant of the same model in plain float32, the first of files alone."""
        return baseline_of(variant, variant.model.reference, self.variants)

    def _images(self, model: BenchmarkModel, setting: Setting) -> Images:
        """Return images of the labelled set, else of the run's validation split."""
        channels, (height, width) = model.channels, setting.size
        number = self.plan.models.index(model)
        folder = self.folder / f"{height}x{width}-{setting.batch}-{number}"
        if folder not in self.images:
            order = folder, setting.size, channels, setting.batch
            if self.data:
                self.images[folder] = write_images(*order, self.data)
            else:
                self.images[folder] = write_own_images(*order, model.run)
        return self.images[folder]


def _by_wall(baseline: Samples, variant: Samples) -> Speedup:
    return speedup(baseline.forward_ms, variant.forward_ms)


def _by_cpu(baseline: Samples, variant: Samples) -> Speedup:
    """Return the speedup by CPU time of the forward; 0 ms, below the clock's grain, are 1 us."""
    return speedup(
        np.maximum(baseline.cpu["forward"], 1e-3), np.maximum(variant.cpu["forward"], 1e-3)
    )


def _end_to_end(baseline: Samples, variant: Samples) -> Speedup:
    return speedup(baseline.end_to_end_ms, variant.end_to_end_ms)


def _check_classes(variant: Variant, opened: dict[str, Any]) -> None:
    """Raise ConfigError if a file has other classes than its run."""
    expected, classes = [info.name for info in variant.model.classes], opened["classes"]
    if classes != expected:
        raise ConfigError(
            f"{variant.file} has different classes from {variant.model.name}: "
            f"{', '.join(classes[:8])} ({len(classes)}) against {', '.join(expected[:8])} "
            f"({len(expected)}). Name the run that it was exported from."
        )


def _check_labelled(
    model: BenchmarkModel, data: SegmentationData | None, labelled: LabelledImages | None
) -> dict[str, str]:
    """Return the labelled images that a model was trained on (`learned_from`).

    Raises:
        ConfigError: mIoU cannot be measured: the model is untrained, or has other classes.
        DataError: the run was trained on images of its test split.
        RunError: the look at these images cannot be recorded in the run.
    """
    assert data is not None
    assert labelled is not None
    if model.run is None:
        reason = "is untrained: it has no mIoU" if model.first_file is None else "is no run"
        raise ConfigError(f"{model.name} {reason}. Leave out --split, or name a run.")
    classes, data_classes = ([info.name for info in one.classes] for one in (model, data))
    if classes != data_classes:
        raise ConfigError(
            f"{model.name} and {data.name} have different classes: {', '.join(classes[:8])} "
            f"({len(classes)}) against {', '.join(data_classes[:8])} ({len(data_classes)}). "
            "Name data with the model's classes."
        )
    from featherseg.evaluation.scored_split import learned_from, refuse_as_test
    from featherseg.reports.record import check_recordable

    if not model.run.read_only:
        check_recordable(model.run)
    trained_on = learned_from(model.run, data, labelled)
    refuse_as_test(model.run, trained_on, data, labelled.split)
    return trained_on
