"""The work of one export: what its targets share, and one target from draft to its place."""

from collections.abc import Callable, Sequence
from copy import deepcopy
from dataclasses import dataclass, replace
from functools import cache, cached_property
from pathlib import Path
from tempfile import TemporaryDirectory, gettempdir

import torch

from featherseg.core.errors import ConfigError, ExportError
from featherseg.core.types import ClassInfo, Size
from featherseg.data.palettes import default_palette
from featherseg.exporters.calibration import Images, LabelledSplit, labelled_split, training_images
from featherseg.exporters.fixed_graph import fixed_size
from featherseg.exporters.job import Facts, Job, Quantised
from featherseg.exporters.measure import latency_ms
from featherseg.exporters.onnx import to_onnx
from featherseg.exporters.parity import SAME_CLASS, TOLERANCE, ParityReport, verify
from featherseg.exporters.places import move
from featherseg.exporters.report import ExportReport
from featherseg.exporters.targets import EXPORTERS, Target
from featherseg.layers.model import SegmentationModel
from featherseg.runs import Run

Say = Callable[[str], None]
"""Takes a sentence for the user."""


@dataclass(frozen=True)
class Options:
    """How to export.

    masks: images in and masks out (see `job.Job`). score: score file and model on the labelled split; quantised
    files always are, where there is one. max_drop: how many points of mIoU a quantised file may lose. calibration: how
    many images int8 is calibrated with, drawn by `seed`. data_root: where the run's dataset lies now.
    Raises ConfigError for values out of range.
    """

    masks: bool = False
    score: bool = False
    max_drop: float = 1.0
    calibration: int = 64
    seed: int = 0
    data_root: Path | None = None

    def __post_init__(self) -> None:
        if not 0 <= self.max_drop <= 100:
            raise ConfigError(f"max-drop = {self.max_drop}: expected points of mIoU, from 0 to 100.")
        if self.calibration < 1:
            raise ConfigError(f"calibration = {self.calibration}: expected at least one image.")


class Work:
    """What the targets of one export share: the model, its facts, its ONNX graph, data, its own score."""

    def __init__(
        self,
        source: SegmentationModel | Run,
        classes: Sequence[ClassInfo] | None,
        options: Options,
        quantised: bool,
        say: Say,
    ) -> None:
        model = source.model if isinstance(source, Run) else source
        self.source, self.options, self.say = source, options, say
        self.facts = facts_of(source, model, classes)
        self.model = deepcopy(model).to("cpu", torch.float32).eval()
        self.graph = cache(lambda: to_onnx(self.model, self.facts, options.masks))
        self.calibration: tuple[Images, Images] | None = None
        self.split: LabelledSplit | None = None
        if isinstance(source, Run):
            self._open_data(source, quantised)

    def _open_data(self, run: Run, quantised: bool) -> None:
        options = self.options
        if quantised:
            self.calibration = training_images(run, options.calibration, options.seed, options.data_root)
        if (quantised or options.score) and not options.masks:
            self.split = labelled_split(run, options.data_root)
            if self.split is None:
                self.say("the run's labelled images are not here: mIoU is not measured (--data-root says where)")

    @cached_property
    def model_miou(self) -> float | None:
        """Of the model itself on the labelled split, in fp32."""
        if self.split is None or not isinstance(self.source, Run):
            return None
        self.say(f"scoring the model on {len(self.split.data)} images of {self.split.split}")
        return self.split.score(self.source)

    def write(self, target: str, place: Path) -> ExportReport:
        """One target: draft, check, move. Raises ExportError; `place` is as it was then."""
        entry = EXPORTERS[target]
        try:
            with TemporaryDirectory() as folder:
                job = self._job(entry, Path(folder))
                quantised = entry.write(job)
                parity = self._checked(entry, job.folder / (entry.checked or entry.main), quantised)
                if parity and not parity.ok:
                    raise ExportError(f"{_off(target, parity)} {place} was not written.")
                size = move(job.folder, entry.main, place)
        except OSError as error:  # of the draft
            raise ExportError(
                f"{target}: cannot write to {gettempdir()}, where files are drafted: {error.strerror or error}. Make "
                f"room there, or name another folder in TMPDIR. {place} was not written."
            ) from error
        names = tuple(self.calibration[0].keys) if entry.quantised and self.calibration else ()
        return ExportReport(place, target, size, parity, self.timed_size, quantised, names)

    def _job(self, entry: Target, folder: Path) -> Job:
        if not entry.quantised:
            return Job(self.model, self.facts, folder, masks=self.options.masks, graph=self.graph)
        images = self.calibration[0] if self.calibration else ()
        score = self.split.score if self.split else None
        floor = (self.model_miou or 0.0) - self.options.max_drop / 100
        return Job(self.model, self.facts, folder, images, score, floor, graph=self.graph)

    def _checked(self, entry: Target, file: Path, quantised: Quantised | None) -> ParityReport | None:
        """Parity of a draft, and what else is measured of it; None for a target that nothing here can run."""
        if not entry.verified:
            return None
        images = self.calibration[1] if entry.quantised and self.calibration else ()
        parity = verify(self.model, file, facts=self.facts, quantised=entry.quantised, calibration=images)
        if not parity.ok:
            return parity
        miou = quantised.miou if quantised else self._miou(file)
        model_miou = None if miou is None else self.model_miou
        latency = latency_ms(file, self.timed_size)
        return replace(parity, model_miou=model_miou, file_miou=miou, latency_ms=latency)

    def _miou(self, file: Path) -> float | None:
        """Of a file on the labelled split; None where that is not asked for, or the file does not take its images."""
        if self.split is None or not self.options.score:
            return None
        try:
            return self.split.score(file)
        except ExportError as error:  # it gives masks, or takes images of one size alone
            self.say(f"the file's mIoU is not measured: {error}")
            return None

    @property
    def timed_size(self) -> Size:
        """The (height, width) that files are timed at."""
        return fixed_size(self.facts)


def _off(target: str, parity: ParityReport) -> str:
    """Why a file is not kept, in a sentence."""
    row = parity.worst
    where = f"; it begins to differ at {parity.first_difference}" if parity.first_difference else ""
    limit = f"at most {TOLERANCE:.0e} is allowed"
    if row.quantised:
        limit = f"{row.same_class:.1%} of the places have the same class; at least {SAME_CLASS:.0%} must"
    return (
        f"the exported model is not the same: at {row.height}x{row.width}, batch {row.batch}, the {target} file is "
        f"off by {row.relative_error:.1e} of the logits' range ({limit}){where}."
    )


def facts_of(source: SegmentationModel | Run, model: SegmentationModel, classes: Sequence[ClassInfo] | None) -> Facts:
    """What the file will tell about the model. Raises ExportError for the wrong number of classes."""
    if classes is None:
        classes = source.classes if isinstance(source, Run) else default_classes(model.classes)
    if len(classes) != model.classes:
        raise ExportError(f"{len(classes)} classes were named, but the model tells {model.classes} apart.")
    if isinstance(source, Run):
        recipe = source.recipe
        return Facts(
            recipe.model.name,
            tuple(classes),
            source.licence,
            image_size=source.info.image_size,
            test_resize=recipe.data.test_resize,
            panoptic=recipe.panoptic,
            options=recipe.model.options,
            init=source.init,
        )
    return Facts(type(source).__name__, tuple(classes), "not stated")


def default_classes(count: int) -> list[ClassInfo]:
    """class_0, class_1, ... in colours that lie apart, for a model whose classes nobody named."""
    return [ClassInfo(f"class_{i}", color) for i, color in enumerate(default_palette(count))]
