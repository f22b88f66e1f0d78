"""The verbs train, check, cost and report as functions; other verbs are in their rooms.

A verb opens its arguments, calls the room that does the work, and returns a result with plain
values (`as_dict`) and a view for Jupyter. It does not print, end the program or change torch's
settings. Messages go to the logger "featherseg". What needs torch is imported by the functions that
use it: `check` does not.
"""

from __future__ import annotations

import os
import time
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, overload

from featherseg.converters.converted import as_dataset
from featherseg.core.config import refuse_unused, setting_texts
from featherseg.core.errors import ConfigError, near_path, require_installed
from featherseg.core.files import check_folder, check_writable
from featherseg.core.machine import this_rank
from featherseg.core.notebook import percent, progress_or_bar, reporter_of
from featherseg.core.types import Progress, Reporter, SegmentationData, Size, as_size
from featherseg.core.wording import marks
from featherseg.data.checks.check import check_data
from featherseg.data.checks.fixes import free_target, write_mended
from featherseg.data.checks.report import CheckReport
from featherseg.data.discovery.mask_folders import FoldersAs
from featherseg.data.discovery.written_proposal import refuse_edited

if TYPE_CHECKING:
    from torch import nn

    from featherseg.costs.cost import Cost
    from featherseg.reports.run_report import Report
    from featherseg.runs.run import Run
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
    """Train a model, write a run folder, score it on the validation split and write its report.

    A training can be killed at any time: `resume` continues it from its last checkpoint, on a CPU
    with the same bits. Only the weights of a model object are stored: to resume, pass the same
    objects, and to open the run call `load_run(path, model=...)`.

        run = featherseg.train("frm-lite0", "photos", out="runs/photos")
        run.model

    Args:
        recipe: A model's name (its default recipe), a shipped recipe, a .toml file, or a model: an
            nn.Module with `classes`, `mean` and `std` (one value per channel, in units of 0..255)
            that returns logits (B, classes, h, w) for normalised images (B, C, H, W). A copy of it
            is trained. Not needed with `resume`.
        data: A dataset's name, a dataset.toml, a folder of images and masks, or two dataset
            objects (train, val), see `featherseg.core.types.SegmentationData`. Default: the
            recipe's data.
        out: The run folder. It must be new, except with `resume`.
        init: Initial weights: a run (by path or name) or a checkpoint file.
        settings: Keys of the recipe with values, {"train.epochs": 40}, or texts,
            ["train.epochs=40"].
        loss: Replaces the recipe's loss. It is called with logits (B, K, H, W) at the size of the
            labels and labels (B, H, W) int64, 255 = ignore, and returns a scalar, as
            `torch.nn.CrossEntropyLoss(ignore_index=255)` does.
        augment: Called before the recipe's augmentation with image (H, W, C), label (H, W) uint8
            and a numpy generator. It returns (image, label).
        resume: Continue the run in `out` with its own settings.
        report: Score the run on its validation split at the end, and write report.html.
        dry_run: Resolve and check everything, write nothing, and return a TrainingPlan.
        progress: Called with (current activity, steps done, total steps), or a
            `featherseg.core.types.Reporter`. Default: a bar in a notebook.

    Returns:
        Run: with `model`, the trained model, and `evaluations()`. TrainingPlan with `dry_run`.

    Raises:
        ConfigError, UnknownName, DataError, DeviceError, WeightsError: Before anything is written.
        RunError: `out` exists (without `resume`), or another process trains in it.
        TrainingError: The loss or the weights are no longer finite.
        KeyboardInterrupt: It was interrupted, and saved. A second Ctrl-C ends it at once; then it
            continues from its last checkpoint.
    """
    require_installed("lightning", "train", "training")
    from torch import nn

    from featherseg.layers.own_model import as_model
    from featherseg.runs.run import RESOLVED
    from featherseg.training.job import plan_training, torch_as_it_was
    from featherseg.training.job import train as train_run
    from featherseg.training.objects import Objects
    from featherseg.training.request import OBJECT_RECIPE, Request

    # What was asked for: names, and objects instead of names
    model = as_model(recipe) if isinstance(recipe, nn.Module) else None
    datasets = None if data is None or isinstance(data, str | Path) else data
    name = str(recipe) if isinstance(recipe, str | Path) else None
    if model is not None and not (resume and (Path(out) / RESOLVED).is_file()):
        name = OBJECT_RECIPE
    if isinstance(settings, Mapping):
        settings = setting_texts(settings)
    request = Request(
        recipe=name,
        data=None if data is None or datasets else str(data),
        init=None if init is None else str(init),
        overrides=(settings,) if isinstance(settings, str) else tuple(settings),
        objects=Objects(model, datasets, loss, augment),
    )
    reporter = reporter_of(progress)
    if dry_run and resume:
        raise ConfigError("a dry run is for a new training: leave out --resume.")
    if request.data is not None:
        if request.recipe is not None:
            request.read()  # a slip ends the command before annotations are converted
        request = replace(request, data=as_dataset(request.data, reporter.progress))
    with torch_as_it_was():
        if dry_run:
            return plan_training(request, Path(out), reporter.message)
        run = train_run(request, Path(out), reporter, resume=resume)
        if report and this_rank() == 0:  # one of several processes
            _score_and_report(run, datasets and datasets[1], reporter)
    return run


def _score_and_report(run: Run, val: SegmentationData | None, reporter: Reporter) -> None:
    """Score a finished training on its validation split and write its page, unless it is there."""
    from featherseg.reports.evaluate import evaluate
    from featherseg.reports.run_report import REPORT, write_report
    from featherseg.runs.run import METRICS

    page = run.path / REPORT
    if page.is_file() and page.stat().st_mtime >= (run.path / METRICS).stat().st_mtime:
        return
    start, split, device = time.monotonic(), run.recipe.data.val_split, run.recipe.train.device
    scores = evaluate(run, val, split, device=device, progress=reporter.progress)
    reporter.progress("writing the report", 0, None)
    write_report(run)
    seconds = time.monotonic() - start
    caveats = marks(selected=scores.selected, trained_on=scores.trained_on)
    reporter.message(
        f"scored on {split}: mIoU {percent(scores.miou)} %{f' ({caveats})' if caveats else ''}; "
        f"{page} is written ({seconds:.0f} s)"
    )


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
    """Check every file of a dataset, and report every fault that would harm a training.

    For a folder without a dataset.toml, one is proposed: folders of images and masks, classes,
    splits.

        featherseg.check("photos", names={"1": "crack"}, write=True)

    Args:
        data: A dataset's name, a dataset.toml, or a folder of images and masks.
        data_root: The folder of a dataset with a name.
        write: Write the proposed dataset.toml into the folder. It replaces a file that `check`
            wrote and nobody edited, but no other.
        names: Names for values of the masks in the proposal, {"255": "crack"}, or for folders that
            are classes.
        masks: The folder of masks for the proposal, if there are several.
        folders: What folders of masks with 0 and one other value are: "classes", or "groups" that
            stay in one split.
        fix: Write a copy without the faults into this new folder.
        decisions: The file saved by the page of `featherseg audit`: its decisions change the masks
            of the copy.
        progress: Called with (current activity, samples done, total samples). Default: a bar in a
            notebook.

    Returns:
        CheckReport: faults, notes, the classes' shares by split; `proposal` for a folder without a
        dataset.toml, `written` if that was written, `mended` for what `fix` did.

    Raises:
        UnknownName, DataNotFound, ConfigError: The dataset cannot be opened, or a name belongs to
            no value of the masks.
        AmbiguousData: The folder can be read in two ways; `readings` contains a command for each.
        DataError: A dataset.toml prevents `write`, `fix` is in use or cannot be written, or the
            decisions are damaged or for other data.
    """
    progress, folder = progress_or_bar(progress), Path(data)
    if write:
        if not os.path.isdir(folder):
            raise ConfigError(
                f"{data} is no folder.{near_path(folder)} --write needs a folder with images and "
                "masks."
            )
        refuse_edited(folder)
        check_folder(folder)
    if fix is not None:
        free_target(Path(fix))  # before the long work
    elif decisions is not None:
        raise ConfigError(
            "--decisions are applied to a copy of the dataset: name its folder with --fix OUT."
        )
    if not write:
        data = as_dataset(data, progress, prefers_masks=True)
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
    """Count a model's parameters and its multiply-accumulates (MACs) for one image.

        featherseg.cost("frm-lite0", size=(512, 1024)).params

    Args:
        model: A name of the catalogue, a model, or a Run.
        size: (height, width) of the image in pixels.
        classes: The number of classes of a model given by name. Default: 19.

    Returns:
        Cost: parameters, MACs by each convention, and both by part.

    Raises:
        UnknownName: No model has that name, or a layer of the model has no rule.
        ConfigError: The size or the number of classes is impossible, or `classes` is given for a
            model or a Run.
    """
    from featherseg.costs.cost import cost as cost_by_name
    from featherseg.costs.cost import cost_of
    from featherseg.layers.own_model import as_model
    from featherseg.runs.run import Run

    size = as_size("size", size)
    if isinstance(model, str):
        return cost_by_name(model, size, 19 if classes is None else classes)
    refuse_unused({"classes": classes is not None}, "a model and a Run have their own number")
    if isinstance(model, Run):
        return cost_of(model.untrained_model(), model.recipe.model.name, size)
    return cost_of(as_model(model), type(model).__name__, size)


def report(run: Run | str | Path, out: str | Path | None = None) -> Report:
    """Write a run's report on one page: curves, scores by class, images, cost, export parity.

        featherseg.report("runs/photos").path

    Args:
        run: A Run, a run folder, or the name of one.
        out: The page. Default: RUN/report.html, or report.html in the current folder for a run
            that comes with featherseg.

    Returns:
        Report: the path of the page, and what the run does not contain yet.

    Raises:
        RunError: There is no such run, or a file in it is damaged.
    """
    from featherseg.reports.run_report import write_report
    from featherseg.runs.run import Run, find_run, open_run

    if out is not None:
        check_writable(Path(out))
    return write_report(run if isinstance(run, Run) else open_run(find_run(run)), _path(out))


def _path(path: str | Path | None) -> Path | None:
    return None if path is None else Path(path)
