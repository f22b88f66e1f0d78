"""The verbs as functions: `featherseg.evaluate(run)` in a program or a notebook is `featherseg evaluate RUN`.

Each opens what it is given, calls the folder that does the work, and returns a result that gives plain values
(`as_dict`) and shows itself in Jupyter. None prints, ends the program, or leaves torch set otherwise than it was. What
is worth knowing on the way goes to the logger "featherseg".
"""

from __future__ import annotations

import os
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, overload

from torch import nn

from featherseg.core.config import refuse_unused, setting_texts
from featherseg.core.errors import ConfigError, near_path, require_installed
from featherseg.core.files import check_folder, check_writable
from featherseg.core.machine import this_rank
from featherseg.core.notebook import percent, progress_or_bar, reporter_of
from featherseg.core.types import Progress, Reporter, SegmentationData, Size, as_size
from featherseg.core.wording import marks
from featherseg.costs.cost import Cost, cost_of
from featherseg.costs.cost import cost as cost_by_name
from featherseg.data.checks.check import check_data
from featherseg.data.checks.fixes import free_target, write_mended
from featherseg.data.checks.report import CheckReport
from featherseg.data.discovery.mask_folders import FoldersAs
from featherseg.data.discovery.written_proposal import refuse_edited
from featherseg.layers.own_model import as_model
from featherseg.reports.evaluate import evaluate
from featherseg.reports.run_report import REPORT, Report, write_report
from featherseg.runs.run import METRICS, RESOLVED, Run, find_run, open_run

if TYPE_CHECKING:
    from featherseg.training.objects import OwnAugmentation, OwnLoss
    from featherseg.training.resolve import TrainingPlan


@overload
def train(
    recipe: str | Path | nn.Module | None = ...,
    data: str | Path | tuple[SegmentationData, SegmentationData] | None = ...,
    *,
    out: str | Path,
    init: str | Path | None = ...,
    settings: Mapping[str, Any] | Sequence[str] = ...,
    loss: OwnLoss | None = ...,
    augment: OwnAugmentation | None = ...,
    resume: bool = ...,
    report: bool = ...,
    dry_run: Literal[False] = ...,
    progress: Progress | Reporter | None = ...,
) -> Run: ...


@overload
def train(
    recipe: str | Path | nn.Module | None = ...,
    data: str | Path | tuple[SegmentationData, SegmentationData] | None = ...,
    *,
    out: str | Path,
    init: str | Path | None = ...,
    settings: Mapping[str, Any] | Sequence[str] = ...,
    loss: OwnLoss | None = ...,
    augment: OwnAugmentation | None = ...,
    resume: bool = ...,
    report: bool = ...,
    dry_run: Literal[True],
    progress: Progress | Reporter | None = ...,
) -> TrainingPlan: ...


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


def _path(path: str | Path | None) -> Path | None:
    return None if path is None else Path(path)
