"""The verbs as functions: `featherseg.evaluate(run)` in a program or a notebook is `featherseg evaluate RUN`.

Each opens what it is given, calls the folder that does the work, and returns a result that gives plain values
(`as_dict`) and shows itself in Jupyter. None prints, ends the program, or leaves torch set otherwise than it was. What
is worth knowing on the way goes to the logger "featherseg".
"""

from __future__ import annotations

import os
import time
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from torch import nn

from featherseg.core.config import refuse_unused, setting_texts, with_given
from featherseg.core.errors import ConfigError, DataError, near_path, require_installed
from featherseg.core.files import check_folder, check_writable
from featherseg.core.machine import this_rank, torch_threads, usable_cores
from featherseg.core.notebook import percent, progress_or_bar, reporter_of
from featherseg.core.storage import is_remote
from featherseg.core.types import Progress, Reporter, SegmentationData, Size, as_size
from featherseg.core.wording import SELECTED, counted, marks
from featherseg.costs.cost import Cost, cost_of
from featherseg.costs.cost import cost as cost_by_name
from featherseg.costs.published import compare
from featherseg.data import LabelledImages, open_dataset, score_split, share_rule
from featherseg.data.cache.fingerprint import TEST, read_fingerprint
from featherseg.data.cache.mirror import local_folder
from featherseg.data.checks.check import check_data
from featherseg.data.checks.fixes import free_target, write_mended
from featherseg.data.checks.report import CheckReport
from featherseg.data.datasets.sequences import OLD_RULES
from featherseg.data.discovery.mask_folders import FoldersAs
from featherseg.data.discovery.written_proposal import refuse_edited
from featherseg.evaluation import scoring
from featherseg.evaluation.scoring import Scores
from featherseg.inference.runtimes import is_exported_file, open_runtime
from featherseg.inference.settings import InferenceSettings, own_settings
from featherseg.layers.own_model import as_model
from featherseg.reports.record import (
    check_recordable,
    overlap_message,
    record,
    refuse_as_test,
    times_scored,
)
from featherseg.reports.run_report import REPORT, Report, write_report
from featherseg.runs.run import DATA, METRICS, RESOLVED, Run, find_run, load_run, open_run, parts_of

if TYPE_CHECKING:
    from featherseg.training.objects import OwnAugmentation, OwnLoss
    from featherseg.training.resolve import TrainingPlan


def train(
    recipe: str | Path | nn.Module | None = None,
    data: str | Path | tuple[SegmentationData, SegmentationData] | None = None,
    *,
    out: str | Path,
    init: str | Path | None = None,
    settings: Mapping[str, Any] | Sequence[str] = (),
    loss: OwnLoss | None = None,
    augment: OwnAugmentation | None = None,
    resume: bool = False,
    report: bool = True,
    dry_run: bool = False,
    progress: Progress | Reporter | None = None,
) -> Run | TrainingPlan:
    """Train a model and write a run folder; at its end score it on the validation split and write its report.

    Kill it at any time: with `resume` it goes on from its last checkpoint, on a CPU to the bit. Nothing of an object of
    one's own is kept in the run folder but the weights: give the same objects to resume, and
    `load_run(path, model=...)`.

    Args:
        recipe: A model's name (its default recipe), a shipped recipe, a .toml file, or a model of one's own: an
            nn.Module that states `classes`, `mean` and `std` (one value a channel, in units of 0..255) and turns
            normalised images (B, C, H, W) into logits (B, classes, h, w). A copy of it is trained. Not needed with
            `resume`.
        data: A dataset's name, a dataset.toml, a folder of images and masks, or two datasets of one's own, (train,
            val), each as `featherseg.core.types.SegmentationData` says. Default: the recipe's.
        out: The run folder to write; must be new, except with `resume`.
        init: Weights to start from: a run (by path or name) or a checkpoint file.
        settings: Keys of the recipe and their values, {"train.epochs": 40}, or texts, ["train.epochs=40"].
        loss: In place of the recipe's: called with logits (B, K, H, W) at the labels' size and labels (B, H, W) int64,
            255 = ignore; gives a scalar. `torch.nn.CrossEntropyLoss(ignore_index=255)` is one.
        augment: Called with image (H, W, C), label (H, W) uint8 and a numpy generator before the recipe's own
            augmentation; gives (image, label).
        resume: Go on where the run in `out` was stopped, as it was begun.
        report: Score the run on its validation split in the end, and write report.html.
        dry_run: Resolve and check everything, write nothing, and return a TrainingPlan.
        progress: Called with (what is being done, steps done, steps in all), or a `featherseg.core.types.Reporter`.
            Default: a bar in a notebook.

    Returns:
        Run: with `model`, the trained model, and `evaluations()`.

    Raises:
        ConfigError, UnknownName, DataError, DeviceError, WeightsError: Before anything is written.
        RunError: `out` exists (without `resume`), or another process trains in it.
        TrainingError: The loss or the weights are no longer finite.
        KeyboardInterrupt: It was stopped, and saved; by a second Ctrl-C at once, back to its last checkpoint.
    """
    require_installed("lightning", "train", "training")
    from featherseg.training.job import plan_training, torch_as_it_was
    from featherseg.training.job import train as train_run
    from featherseg.training.objects import Objects
    from featherseg.training.request import OBJECT_RECIPE, Request

    own = as_model(recipe) if isinstance(recipe, nn.Module) else None
    pair = None if data is None or isinstance(data, str | Path) else data
    begun = resume and (Path(out) / RESOLVED).is_file()
    alone = [settings] if isinstance(settings, str) else settings
    texts = setting_texts(alone) if isinstance(alone, Mapping) else alone
    request = Request(
        recipe=str(recipe)
        if isinstance(recipe, str | Path)
        else None
        if own is None or begun
        else OBJECT_RECIPE,
        data=None if data is None or pair else str(data),
        init=None if init is None else str(init),
        overrides=tuple(texts),
        objects=Objects(own, pair, loss, augment),
    )
    reporter = reporter_of(progress)
    if dry_run and resume:
        raise ConfigError("a dry run is for a new training: leave out --resume.")
    with torch_as_it_was():
        if dry_run:
            return plan_training(request, Path(out), reporter.message)
        run = train_run(request, Path(out), reporter, resume=resume)
        page = run.path / REPORT
        current = page.is_file() and page.stat().st_mtime >= (run.path / METRICS).stat().st_mtime
        if not report or this_rank() or current:
            return run
        start, split = time.monotonic(), run.recipe.data.val_split
        scores = evaluate(
            run, pair and pair[1], split, device=run.recipe.train.device, progress=reporter.progress
        )
        write_report(run)
    seconds = time.monotonic() - start
    told = marks(selected=scores.selected, trained_on=scores.trained_on)
    selected = f" ({told})" if told else ""
    reporter.message(
        f"scored on {split}: mIoU {percent(scores.miou)} %{selected}; {page} is written ({seconds:.0f} s)"
    )
    return run


def evaluate(
    run: Run | str | Path | None = None,
    data: SegmentationData | str | Path | None = None,
    split: str | None = None,
    *,
    data_root: str | Path | None = None,
    predictions: str | Path | None = None,
    full: bool = False,
    device: str = "auto",
    inference: InferenceSettings | Mapping[str, Any] | None = None,
    trust: bool = False,
    progress: Progress | None = None,
) -> Scores:
    """Score a run, an exported file or a folder of predictions at the full resolution of the labels.

    A run keeps its scores: scores.json, a line in evaluations.jsonl, its card, the best and worst images in examples/.
    Of an exported file, of predictions and of a run that comes with featherseg nothing is written, and so no look at
    test is counted.

    Args:
        run: A Run, a run folder, the name of one, or an exported file.
        data: A dataset's name, a dataset.toml, a folder, or a dataset of your own. Default: that of the training.
        split: The part of the dataset. Default: that of the paper's row where the recipe names one, else test where it
            has masks, else what training validated on ("val" of other data).
        data_root: The folder in which the dataset lies. Default: where it lay for the training.
        predictions: A folder of index PNGs to score in place of a model: as `predict` writes them, or KEY.png.
        full: Score all images of a run's own data, also those that its `data.val_size` left out.
        device: auto, cpu, cuda, cuda:N or mps.
        inference: How images are processed, or what differs from how the run was validated: {"flip": True}.
        trust: Open a .pt2 file, which runs the code that it contains.
        progress: Called with (what is being done, images done, images in all). Default: a bar in a notebook.

    Returns:
        Scores: mIoU, IoU by class, accuracies, boundary F, the confusion matrix, and the paper's row beside them;
        `selected` where the run's weights were kept because they are the best on these images.

    Raises:
        RunError, ExportError: The run or the file cannot be used.
        ConfigError: Classes or channels of model and data differ, or it is not clear what to score, or an option is
            given that has no effect on it.
        DataNotFound, DataError: Images, masks or predictions are missing or damaged, or the split is called test and
            holds images that the run was trained on.
    """
    if (run is None) == (predictions is None):
        raise ConfigError(
            "expected either a RUN (or an exported file) or --predictions DIR to evaluate."
        )
    progress = progress_or_bar(progress)
    if predictions is not None:
        unused = {"full": full, "device": device != "auto", "inference": _is_set(inference)}
        refuse_unused(unused, "predictions are scored as they are, all of them")
        chosen, split, note = _named_data(data, split, data_root)
        folder = local_folder(str(predictions)) if is_remote(predictions) else Path(predictions)
        scores = scoring.evaluate_predictions(folder, chosen, progress=progress)
        return replace(scores, split=split, notes=note + scores.notes)
    if not isinstance(run, Run) and is_exported_file(str(run)):
        refuse_unused({"full": full}, "an exported file is scored on all images")
        chosen, split, note = _named_data(data, split, data_root)
        runtime = open_runtime(str(run), device, trust=trust)
        settings = with_given(own_settings(runtime), inference, "inference")
        scores = scoring.evaluate(runtime, chosen, settings, progress=progress)
        return replace(
            scores, split=split, inference=str(settings), notes=note + _looked_at(settings)
        )

    assert run is not None
    run = run if isinstance(run, Run) else load_run(run)
    if not run.read_only:
        check_recordable(run)
    chosen, split, selected, trained, notes = _data_of(run, data, split, data_root, full)
    notes += (run.how_far,) if run.unfinished else ()
    runtime = open_runtime(run, device)
    settings = with_given(own_settings(runtime), inference, "inference")
    # another number of threads than the training had may give other last bits
    with torch_threads(run.info.threads if run.info.threads <= usable_cores() else None):
        scores = scoring.evaluate(runtime, chosen, settings, progress=progress)
        scores = replace(
            scores, split=split, inference=str(settings), selected=selected, trained_on=trained
        )
        notes += _looked_at(settings)
        if run.read_only:
            where = "is included in featherseg" if run.shipped else "lies in the hub's cache"
            notes += (f"{run.name} {where}: its scores are shown but not stored",)
        else:
            record(run, runtime, chosen, split, settings, replace(scores, notes=notes))
            if TEST in parts_of(split):
                times = times_scored(run, TEST, chosen.name)
                scores = replace(scores, look=times)
                notes += (
                    f"look {times} at test: this run has been evaluated on test {counted(times, 'time')}",
                )
    return replace(scores, published=compare(run), notes=notes)


def check(
    data: str | Path,
    data_root: str | Path | None = None,
    *,
    write: bool = False,
    names: Mapping[str, str] | None = None,
    masks: str | None = None,
    folders: FoldersAs | None = None,
    fix: str | Path | None = None,
    decisions: str | Path | None = None,
    progress: Progress | None = None,
) -> CheckReport:
    """Look through every file of a dataset for what would spoil a training: every fault is named.

    For a folder without a dataset.toml one is proposed: the folders of images and masks, the classes, the splits.

    Args:
        data: A dataset's name, a dataset.toml, or a folder of images and masks, whatever its folders are called.
        data_root: Where a dataset with a name lies.
        write: Write the proposed dataset.toml into the folder, in place of one that `check` wrote and nobody edited;
            never over another.
        names: What values of the masks mean in the proposal, {"255": "crack"}; also of a folder that is a class.
        masks: The folder of masks to propose, where there are several.
        folders: What folders of masks of 0 and one other value are: "classes", or "groups" that stay in one split.
        fix: Write a copy without the faults into this new folder.
        decisions: What the page of `featherseg audit` saved: the masks of the copy are changed as it says.
        progress: Called with (what is being done, samples done, samples in all). Default: a bar in a notebook.

    Returns:
        CheckReport: faults, notes, the classes' shares by split; `proposal` for a folder without a dataset.toml,
        `written` where that was written, `mended` says what `fix` did.

    Raises:
        UnknownName, DataNotFound, ConfigError: The dataset cannot be opened, or a name is of no value of the masks.
        AmbiguousData: The folder can be read in two ways; its `readings` have a command for each.
        DataError: There is a dataset.toml in the way of `write`, `fix` is in use or cannot be written, or the decisions
            are broken or of other data.
    """
    progress, folder = progress_or_bar(progress), Path(data)
    if write:
        if not os.path.isdir(folder):
            raise ConfigError(
                f"{data} is no folder.{near_path(folder)} --write needs one that holds images and masks."
            )
        refuse_edited(folder)
        check_folder(folder)
    if fix is not None:
        free_target(Path(fix))  # known before the long work
    elif decisions is not None:
        raise ConfigError(
            "--decisions are applied to a copy of the dataset: name its folder with --fix OUT."
        )
    names = None if names is None else {str(value): name for value, name in names.items()}
    report = check_data(
        str(data),
        _path(data_root),
        progress,
        names=names,
        masks=masks,
        folders=folders,
        anew=write,
        decisions=_path(decisions),
    )
    if write and report.proposal is not None:
        report.written = report.proposal.write(folder)
    if fix is not None:
        report.mended = write_mended(report, Path(fix), progress)
    return report


def cost(
    model: nn.Module | Run | str, size: Size = (1024, 2048), classes: int | None = None
) -> Cost:
    """Count a model's parameters, and the multiply-accumulates (MACs) that one image costs it.

    Args:
        model: A name of the catalogue, a model, or a Run.
        size: (height, width) of the image in pixels.
        classes: How many the model of that name tells apart, 19 by default; a model and a Run have their own number.

    Returns:
        Cost: parameters, MACs by each convention, and both by part.

    Raises:
        UnknownName: No model has that name, or a layer of the model has no rule.
        ConfigError: The size or the number of classes cannot be, or `classes` is given for a model or a Run.
    """
    size = as_size("size", size)
    if isinstance(model, str):
        return cost_by_name(model, size, 19 if classes is None else classes)
    refuse_unused({"classes": classes is not None}, "a model and a Run have their own number")
    if isinstance(model, Run):
        return cost_of(model.untrained_model(), model.recipe.model.name, size)
    return cost_of(as_model(model), type(model).__name__, size)


def report(run: Run | str | Path, out: str | Path | None = None) -> Report:
    """Write a run's report: curves, IoU by class, confusion, best and worst images, cost, export parity on one page.

    Args:
        run: A Run, a run folder, or the name of one.
        out: The page. Default: RUN/report.html; report.html here for a run that comes with featherseg.

    Returns:
        Report: where the page is, and what the run does not hold yet.

    Raises:
        RunError: There is no such run, or a file in it is damaged.
    """
    if out is not None:
        check_writable(Path(out))
    return write_report(run if isinstance(run, Run) else open_run(find_run(run)), _path(out))


def _named_data(
    data: SegmentationData | str | Path | None, split: str | None, root: str | Path | None
) -> tuple[SegmentationData, str | None, tuple[str, ...]]:
    """What to score without a run, its split where that is known, and a note."""
    if data is None:
        raise ConfigError(
            "name the dataset: --data NAME or --data path/to/dataset.toml. Only a run knows its own dataset."
        )
    if not isinstance(data, str | Path):
        refuse_unused({"data_root": root is not None}, "a dataset of one's own knows where it lies")
        return data, split, ()
    split = split or score_split(str(data), _path(root))
    note = f"scored on {split}{_UNCOUNTED if split == 'test' else ''}"
    return open_dataset(str(data), split, _path(root)), split, (note,)


_UNCOUNTED = ": only a run counts its looks at test"
_ALL = "all images of other data than the run's own are scored"


def _data_of(
    run: Run,
    data: SegmentationData | str | Path | None,
    split: str | None,
    root: str | Path | None,
    full: bool,
) -> tuple[SegmentationData, str, bool, bool, tuple[str, ...]]:
    """What to score a run on, its split, whether it was selected and whether it was trained on it, notes on that."""
    own, paper = run.recipe.data, run.recipe.paper

    # Other data than the run's, or a dataset of one's own, of which nothing but its name is known
    if isinstance(data, str | Path) and not LabelledImages(own.name, "").is_of(str(data)):
        refuse_unused({"full": full}, _ALL)
        split = split or score_split(str(data), _path(root))
        by = (
            own.split_by if own.split_by in OLD_RULES else None
        )  # an older run's own data may have been moved
        chosen = open_dataset(str(data), split, _path(root), split_by=by)
        (trained, seen), known = _trained_on(run, chosen, split), read_fingerprint(run.path / DATA)
        selected = bool(
            run.selected_on(own.val_split) and known and known.trained_on(chosen, "val")
        )
        return chosen, split, selected, trained, (f"scored on {split} of {data}", *seen)
    if data is not None and not isinstance(data, str | Path):
        refuse_unused({"full": full}, _ALL)
        chosen, split = _named_data(data, split, root)[0], split or "val"
        selected = chosen.name == own.name and run.selected_on(split)
        return chosen, split, selected, *_trained_on(run, chosen, split)

    # The run's own
    if "data" in run.info.objects:
        raise ConfigError(
            f"{run.path} was trained on a dataset of one's own, {own.name}: pass data=, or name one."
        )
    root = _path(root or own.root)
    if split is None:
        split = score_split(own.name, root, own.val_split)
        if paper is not None and own.name == paper.data and split not in paper.miou:
            split = next(iter(paper.miou))
    size = own.val_size if split == own.val_split and not full else None
    selected = run.selected_on(split)
    notes = [
        f"scored on {split}"
        + (f": {SELECTED}, as the weights were chosen by their score" * selected)
    ]
    trained = bool(parts_of(split) & parts_of(own.train_split)) and not run.imported
    if trained and TEST in parts_of(split):
        raise DataError(
            f"{run.name} was trained on {own.train_split}, so that {split} is no test. Score other images."
        )
    if trained:
        notes += [f"this run was trained on {split}: that says nothing of other images"]
    if own.split_by and share_rule(own.name) not in (None, own.split_by):
        notes += [f"the splits are those of its training, made by {own.split_by} (data.split_by)"]
    if size:
        notes += [
            f"{counted(size, 'image')} of {split}, as in training (data.val_size); all of them with --full"
        ]
    chosen = open_dataset(own.name, split, root, size, split_by=own.split_by)
    known = read_fingerprint(run.path / DATA)
    if known is not None:
        role = "val" if split == own.val_split else "train" if split == own.train_split else TEST
        whole = {
            "train": own.train_size is None,
            "val": not full or own.val_size is None,
            TEST: True,
        }
        changes = (
            known.changes(role, chosen, part=not whole[role])
            if role != TEST or split == TEST
            else []
        )
        notes += [f"since the training: {text}" for text in changes]
    elif not (run.shipped or run.imported):
        notes += [
            f"{run.name} has no {DATA}: whether its images and masks changed since the training is not known"
        ]
    if not trained:
        trained, seen = _trained_on(run, chosen, split)
        notes += seen
    return chosen, split, selected, trained, tuple(notes)


def _trained_on(run: Run, data: SegmentationData, split: str) -> tuple[bool, tuple[str, ...]]:
    """Whether the run was trained on images of these, by what their files hold, and notes on what it knows of them.

    Raises DataError where they are called test: a score on them would say how well the run remembers.
    """
    known = read_fingerprint(run.path / DATA)
    seen = {} if known is None else known.trained_on(data)
    refuse_as_test(run, seen, data, split)
    notes = [] if known is None else known.score_warnings(data, f"{data.name} {split}")
    told = (
        [f"{overlap_message(run, seen, data)}: that says nothing of other images"] if seen else []
    )
    return bool(seen), (*told, *notes)


def _is_set(inference: InferenceSettings | Mapping[str, Any] | None) -> bool:
    """Whether it asks for anything: for more than whole images, or for a size, be it their own (`--resize off`)."""
    if isinstance(inference, Mapping):
        return (
            "resize" in inference
            or with_given(InferenceSettings(), inference, "inference") != InferenceSettings()
        )
    return inference is not None


def _looked_at(settings: InferenceSettings) -> tuple[str, ...]:
    return (f"images are processed: {settings}",) if str(settings) != "whole" else ()


def _path(path: str | Path | None) -> Path | None:
    return None if path is None else Path(path)
