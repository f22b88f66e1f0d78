"""Export from a model to its files, top to bottom: prepare once; draft, check, move each format."""

import os
import shutil
from collections.abc import Callable, Mapping, Sequence
from copy import deepcopy
from dataclasses import dataclass, replace
from functools import cache, partial
from operator import methodcaller
from pathlib import Path
from tempfile import TemporaryDirectory, gettempdir
from typing import Any

import numpy as np
import torch
from torch import nn

from featherseg.core.config import with_given
from featherseg.core.errors import (
    ConfigError,
    DataError,
    ExportError,
    FeathersegError,
    require,
    unknown,
)
from featherseg.core.files import (
    check_writable,
    refuse_links,
    remove_tree,
    temporary_path,
    write_together,
)
from featherseg.core.notebook import progress_or_bar
from featherseg.core.types import ClassInfo, Progress, Size, as_size
from featherseg.costs.latency import EXPORT, summarise, time_passes
from featherseg.data.images.palettes import bright_palette
from featherseg.exporters.calibration import Images, LabelledSplit, labelled_split, training_images
from featherseg.exporters.formats import EXPORTERS, Format
from featherseg.exporters.job import Facts, Job
from featherseg.exporters.onnx import graph_form, to_onnx
from featherseg.exporters.parity import SAME_CLASS, SIGNAL_DB, TOLERANCE, ParityReport, verify
from featherseg.exporters.quiet import DISK_REFUSES
from featherseg.exporters.report import PARITY, ExportReport, keep_reports
from featherseg.inference.runtimes import open_file
from featherseg.layers.model import SegmentationModel, merge_paths
from featherseg.layers.own_model import as_model
from featherseg.runs.provenance import provenance
from featherseg.runs.run import EXPORTS, Run, load_run

LIKE_FILES = {".bin", ".engine", ".html", ".json", ".mlmodel", ".pt", ".pth"}
"""Endings that name a file although no export writes it; other dots may be in a folder's name."""


@dataclass(frozen=True)
class ExportSettings:
    """How to export.

    Args:
        masks: images in and masks out (see `job.Job`).
        score: score file and model on the labelled split; int8 files are always scored, if there is
            one.
        max_drop: points of mIoU, 0 to 100, that an int8 file may lose.
        calibration: number of training images to calibrate int8 with, drawn by `seed`.
        data_root: folder of the run's dataset.
        image_size: (height, width) of the images for a file of one size (ncnn, litert, coreml).
            Default: that of a typical training image.

    Raises:
        ConfigError: a value is out of range.
    """

    masks: bool = False
    score: bool = False
    max_drop: float = 1.0
    calibration: int = 64
    seed: int = 0
    data_root: Path | None = None
    image_size: Size | None = None

    def __post_init__(self) -> None:
        if not 0 <= self.max_drop <= 100:
            raise ConfigError(
                f"max_drop = {self.max_drop}: expected points of mIoU, from 0 to 100."
            )
        if self.calibration < 1:
            raise ConfigError(f"calibration = {self.calibration}: expected at least one image.")
        if self.seed < 0:
            raise ConfigError(f"seed = {self.seed}: expected 0 or more.")
        if self.image_size is not None and not all(
            32 <= n <= 2**16 for n in as_size("image_size", self.image_size)
        ):
            raise ConfigError(
                f"image_size = {self.image_size}: expected (height, width), each from 32 pixels on."
            )


DEFAULTS = ExportSettings()


def export(
    model_or_run: nn.Module | Run | str | Path,
    format: str = "onnx",
    path: str | Path | None = None,
    classes: Sequence[ClassInfo] | None = None,
    settings: ExportSettings | Mapping[str, Any] = DEFAULTS,
    progress: Progress | None = None,
) -> ExportReport:
    """Write a run's model, or a bare one, as a file, and check that it gives the model's logits.

        report = featherseg.export("runs/photos", format="onnx")
        featherseg.Predictor(report.path)

    Args:
        model_or_run: a Run, a run folder, the name of one, or a model.
        format: a key of EXPORTERS.
        path: a folder, or the file's name. Default: RUN/export, or export/ for a shipped run. An
            older file is replaced only if parity holds. A file in its run gets a row in
            RUN/parity.json.
        classes: for a bare model; default class_0, class_1, ... A run has its own.
        settings: ExportSettings, or a mapping of those that differ from the defaults, such as
            {"masks": True}.

    Raises:
        UnknownName: for the format.
        MissingExtra, ConfigError, DataNotFound: for a package, a setting, the run's images.
        ExportError: the model or a file cannot be written, parity fails, int8 loses more than it
            may, or the file would replace one with other outputs (masks, logits) without being
            named.
    """
    if not isinstance(format, str):
        raise ConfigError(
            f"format = {format!r}: expected one name, such as 'onnx'. Call export once for each "
            "format."
        )
    if isinstance(model_or_run, str | Path):
        model_or_run = load_run(model_or_run)
    elif isinstance(model_or_run, nn.Module):
        model_or_run = as_model(model_or_run)
    given = with_given(DEFAULTS, settings, "settings")
    reports, errors = export_formats(model_or_run, [format], path, classes, given, progress)
    if errors:
        raise errors[0]
    return reports[0]


def export_formats(
    model_or_run: SegmentationModel | Run,
    formats: Sequence[str],
    path: str | Path | None = None,
    classes: Sequence[ClassInfo] | None = None,
    settings: ExportSettings = DEFAULTS,
    progress: Progress | None = None,
) -> tuple[list[ExportReport], list[FeathersegError]]:
    """`export` to several formats, continuing after failures; return (reports, errors).

    Errors that can be known before the work (names, places, packages, data) are raised at once.
    """
    # Names, packages, settings and places
    formats = list(dict.fromkeys(formats))
    int8 = _check_formats(formats, settings)
    run = model_or_run if isinstance(model_or_run, Run) else None
    if run is None and settings.score:
        raise ConfigError("score has no effect: a model without a run has no labelled images.")
    places = destinations((Path() if run.read_only else run.path) if run else None, formats, path)

    # A file inside its run gets a row in the run's parity.json
    in_run = False
    if run and not run.read_only:
        place = next(iter(places.values()))
        # RUN/../X is not in RUN, and a link in RUN may lead out of it
        target, folder = (Path(os.path.abspath(path)) for path in (place, run.path))
        if folder in target.parents:
            refuse_links(run.path, target.relative_to(folder).parts[0])
        in_run = run.path.resolve() in place.resolve().parents
        if in_run:
            check_writable(run.path / PARITY)
    _refuse_other_kind(places, path, settings.masks)

    # Shared by the formats: the model in fp32 on the CPU, its facts, its ONNX graph, images
    reports, errors = list[ExportReport](), list[FeathersegError]()
    show_progress = progress_or_bar(progress)

    def tell(message: str) -> None:
        show_progress(message, len(reports) + len(errors), len(formats))

    original = model_or_run.model if isinstance(model_or_run, Run) else model_or_run
    facts = replace(describe(original, run, classes), used_size=settings.image_size)
    model = deepcopy(original).to("cpu", torch.float32).eval()
    merge_paths(model)
    calibration, checked, split = None, None, None
    if run and int8:
        calibration, checked = training_images(
            run, settings.calibration, settings.seed, settings.data_root
        )
    if run and (int8 or settings.score) and not settings.masks:
        split = labelled_split(run, settings.data_root)
        if split is None:
            tell("the run's labelled images were not found: mIoU is not measured (set --data-root)")
        else:
            split = replace(split, progress=show_progress)

    @cache
    def model_miou() -> float | None:
        """Return the mIoU of the model itself on the labelled split, in fp32."""
        if run is None or split is None:
            return None
        return split.score(run)

    graph = cache(lambda form: to_onnx(form, facts, settings.masks))
    form = graph_form(model, channels_last=True)
    forms = {True: form, False: graph_form(form)}
    shared = Shared(
        model, forms, facts, graph, calibration, checked, split, model_miou, settings, tell
    )

    # One format after the other
    for name, place in places.items():
        tell(f"{name}: writing")
        try:
            reports.append(_export_one(name, place, shared))
        except FeathersegError as error:
            errors.append(error)
            continue
        tell(f"{name}: written")
        if run and in_run:
            keep_reports(run, reports)
    return reports, errors


def _refuse_other_kind(places: Mapping[str, Path], path: str | Path | None, masks: bool) -> None:
    """Raise ExportError if a file of logits would replace one of masks, or reverse, unnamed."""
    for name, place in places.items():
        if (
            not EXPORTERS[name].masks
            or not place.is_file()
            or (path is not None and place == Path(path))
        ):
            continue
        try:
            file_has_masks = open_file(place, "cpu").masks
        except FeathersegError:  # damaged, or no export: replaced
            continue
        if file_has_masks != masks:
            old, new = ("masks", "logits") if file_has_masks else ("logits", "masks")
            raise ExportError(
                f"{place} returns {old}, and would be replaced by a file that returns {new}. -o "
                f"FILE puts the new one elsewhere; -o {place} replaces the old one."
            )


def _check_formats(formats: Sequence[str], settings: ExportSettings) -> bool:
    """Return whether one of the formats is int8.

    Raises UnknownName, MissingExtra, ConfigError for impossible formats and settings.
    """
    for name in formats:
        if name not in EXPORTERS:
            raise unknown("export format", name, EXPORTERS)
    for name in formats:
        row = EXPORTERS[name]
        if settings.masks and not row.masks:
            names = ", ".join(name for name, row in EXPORTERS.items() if row.masks)
            raise ConfigError(
                f"--masks: {name} is not written with masks for outputs. Formats that are: {names}."
            )
        for package in row.packages:
            require(package, row.extra, f"Export to {name}")
        if row.need:
            row.need()
    if settings.masks and settings.score:
        raise ConfigError(
            "--score has no effect with --masks: only files that give logits are scored."
        )
    int8 = any(EXPORTERS[name].quantised for name in formats)
    changed = [
        name
        for name in ("max_drop", "calibration", "seed")
        if getattr(settings, name) != getattr(DEFAULTS, name)
    ]
    if changed and not int8:
        raise ConfigError(
            f"--{changed[0].replace('_', '-')} has no effect: no format in int8 is among those to "
            "write."
        )
    if settings.score and not any(EXPORTERS[name].verified for name in formats):
        raise ConfigError(
            f"--score has no effect: nothing here runs {' or '.join(formats)}. Leave it out."
        )
    if settings.data_root is not None and not (int8 or settings.score):
        raise ConfigError(
            "--data-root has no effect: no format in int8 is written, and --score is not given."
        )
    return int8


@dataclass(frozen=True)
class Shared:
    """What the formats of one export share; calibration and checked are None without run images.

    forms contains `onnx.graph_form` of the model by `Format.channels_last`; graph returns the
    content of an .onnx file.
    """

    model: SegmentationModel
    forms: dict[bool, SegmentationModel]
    facts: Facts
    graph: Callable[[SegmentationModel], bytes]
    calibration: Images | None
    checked: Images | None
    split: LabelledSplit | None
    model_miou: Callable[[], float | None]
    settings: ExportSettings
    tell: Callable[[str], None]


def _export_one(name: str, place: Path, shared: Shared) -> ExportReport:
    """Draft a format, check it, move it. Raises ExportError, and `place` is unchanged then."""
    row, split = EXPORTERS[name], shared.split
    model, facts, parity = shared.model, shared.facts, None
    height, width = timed_size = facts.fixed_size
    try:
        with TemporaryDirectory() as folder:
            # Draft it. Only int8 gets images and a lowest score. It gets the model's own layers,
            # because a shift that became a weight costs frm-lite0 three points in 8 bits
            graph = partial(
                shared.graph, model if row.quantised else shared.forms[row.channels_last]
            )
            job = Job(model, facts, Path(folder), graph, masks=shared.settings.masks)
            if row.quantised:
                floor = (shared.model_miou() or 0.0) - shared.settings.max_drop / 100
                score = split.score if split else None
                job = replace(job, calibration=shared.calibration or (), score=score, floor=floor)
            quantised = row.write(job)
            file = job.folder / (row.checked or row.main)

            if row.verified:
                # The file must give the model's logits
                images = (row.quantised and shared.checked) or ()
                parity = verify(
                    model, file, facts=facts, quantised=row.quantised, calibration=images
                )
                if not parity.ok:
                    raise ExportError(f"{_difference(name, parity)} {place} was not written.")

                # Its mIoU; that of int8 is already known
                miou = quantised.miou if quantised else None
                runtime = open_file(file, "cpu", trust=True)
                to_score = split if shared.settings.score and not quantised else None
                if to_score and runtime.masks:
                    shared.tell(f"{name}: mIoU is not measured: the file returns masks, not logits")
                elif to_score:
                    try:
                        miou = to_score.score(file)
                    except (DataError, ExportError) as error:  # it takes images of only one size
                        shared.tell(f"{name}: mIoU is not measured: {error}")

                # Its latency, on an image of zeros
                if runtime.masks:
                    image = np.zeros((1, height, width, runtime.channels), np.uint8)
                else:
                    image = np.zeros((1, runtime.channels, height, width), np.float32)
                latency = summarise(time_passes(partial(runtime.run, image), EXPORT).ms).p50
                model_miou = None if miou is None else shared.model_miou()
                parity = replace(parity, model_miou=model_miou, file_miou=miou, latency_ms=latency)
            size = move(job.folder, row, place)
    except OSError as error:
        if error.errno not in DISK_REFUSES:
            raise ExportError(f"{name}: {error}. {place} was not written.") from error
        raise ExportError(
            f"{name}: cannot write to {gettempdir()}, where files are drafted: {error.strerror}. "
            f"Make room there, or name another folder in TMPDIR. {place} was not written."
        ) from error
    names = tuple(shared.calibration.keys) if row.quantised and shared.calibration else ()
    return ExportReport(place, name, size, parity, timed_size, quantised, names)


def describe(
    model: SegmentationModel, run: Run | None, classes: Sequence[ClassInfo] | None
) -> Facts:
    """Return the facts about the model for the file.

    Raises ExportError for the wrong number of classes.
    """
    if classes is None and run:
        classes = run.classes
    elif classes is None:
        classes = [
            ClassInfo(f"class_{i}", color)
            for i, color in enumerate(bright_palette()[: model.classes])
        ]
    if len(classes) != model.classes:
        raise ExportError(f"{len(classes)} classes were named, but the model has {model.classes}.")
    if run is None:
        return Facts(type(model).__name__, tuple(classes), "not stated")
    recipe = run.recipe
    return Facts(
        recipe.model.name,
        tuple(classes),
        run.licence,
        image_size=run.info.image_size,
        test_resize=recipe.data.test_resize,
        panoptic=recipe.panoptic,
        options=recipe.model.options,
        init=run.init,
        provenance=provenance(run),
    )


def _difference(name: str, parity: ParityReport) -> str:
    """Return the sentence why a file is not written."""
    row = next((row for row in parity.rows if not row.ok), parity.worst)
    where = f"; it begins to differ at {parity.first_difference}" if parity.first_difference else ""
    limit = f"at most {TOLERANCE:.0e} is allowed"
    if row.quantised:
        limit = (
            f"{row.same_class:.1%} of the places have the same class; "
            f"at least {SAME_CLASS:.0%} must"
        )
        if row.same_class >= SAME_CLASS:
            limit = (
                f"{row.signal_db:.1f} dB of the signal above the noise; "
                f"at least {SIGNAL_DB:g} dB must be"
            )
    return (
        f"the exported model is not the same: at {row.height}x{row.width}, batch {row.batch}, the "
        f"{name} file is off by {row.relative_error:.1e} of the logits' range ({limit}){where}."
    )


def destinations(
    folder: Path | None, formats: Sequence[str], path: str | Path | None
) -> dict[str, Path]:
    """Return where the file (or folder) of each format goes: into `path`, else `folder`/export.

    For one format, `path` may also be the file's name, with the ending of the format. Raises
    ExportError if no place is named, or a file with another ending; FeathersegError if nothing can
    be written there.
    """
    if path is None:
        if folder is None:
            raise ExportError(
                "a model without a run has no folder of its own: name the file, path='model.onnx'."
            )
        path = folder / EXPORTS
    path = Path(path)
    places = {name: path / EXPORTERS[name].main for name in formats}

    # The ending decides whether `path` names a file; folders such as .mlpackage also have one
    folders = [row.ending for row in map(EXPORTERS.__getitem__, formats) if row.is_folder]
    endings = {Path(row.main).suffix for row in EXPORTERS.values()} - {""} | LIKE_FILES
    if path.suffix.lower() in endings and (path.suffix in folders or not path.is_dir()):
        if len(formats) > 1:
            raise ExportError(
                f"{path} names one file, but {len(formats)} are to be written. Name a folder with "
                "-o."
            )
        ending = EXPORTERS[formats[0]].ending
        if not ending or not path.name.endswith(ending):
            expected = f"a name that ends in {ending}, or a folder" if ending else "a folder"
            raise ExportError(f"{path} was named for {formats[0]}. Expected {expected}.")
        places = {formats[0]: path}
    for name, place in places.items():
        # A folder may exist already, so a file in it is tried
        check_writable(place / "index.html" if EXPORTERS[name].is_folder else place)
    return places


def move(draft: Path, format: Format, place: Path) -> int:
    """Move an exporter's files from `draft` to `place`; return their size in bytes.

    Old files are replaced after all new ones are written, the main one last; a folder replaces a
    folder. Files of other formats stay. Files named like the main one ("model.bin" beside
    "model.xml") are renamed like `place`. Raises FeathersegError if the disk refuses; the old files
    are unchanged then.
    """
    size = sum(file.stat().st_size for file in draft.rglob("*") if file.is_file())
    main = draft / format.main
    if main.is_dir():
        _replace_folder(main, place)
        return size
    stem, new_stem = (path.name.removesuffix(format.ending) for path in (main, place))
    writes = {}
    for file in [*sorted(file for file in draft.iterdir() if file != main), main]:
        name = new_stem + file.name.removeprefix(stem) if file.name.startswith(stem) else file.name
        writes[place.with_name(name)] = methodcaller("write", file.read_bytes())
    write_together(writes)
    return size


def _replace_folder(source: Path, place: Path) -> None:
    """Replace an older export folder by a copy of `source`, with the shortest gap between them.

    Raises ExportError if the existing folder contains other files.
    """
    names = [] if place.is_symlink() else [path.relative_to(place) for path in place.rglob("*")]
    others = sorted(path for path in names if not (source / path).exists())
    if others or (place.is_file() and not place.is_symlink()):
        reason = f"contains {others[0]}" if others else "is a file"
        raise ExportError(
            f"{place} {reason}, which no export wrote. Remove it, or name another folder with -o."
        )
    place.parent.mkdir(parents=True, exist_ok=True)
    new, old = temporary_path(place), temporary_path(place)
    try:
        new.mkdir()
        for item in sorted(source.rglob("*")):
            copy = new / item.relative_to(source)
            copy.mkdir() if item.is_dir() else shutil.copyfile(item, copy)
        if os.path.lexists(place):
            place.rename(old)
        new.rename(place)
    except OSError as error:
        if not os.path.lexists(place) and os.path.lexists(old):
            old.rename(place)
        raise ExportError(
            f"cannot write {place}: {error.strerror or error}. What was there is unchanged."
        ) from error
    finally:
        remove_tree(new)
        remove_tree(old)
