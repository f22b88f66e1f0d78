"""`featherseg evaluate`: score a run, an exported file or a folder of predictions."""

from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

from featherseg.converters.converted import as_dataset
from featherseg.core.config import refuse_unused, with_given
from featherseg.core.errors import ConfigError
from featherseg.core.machine import torch_threads, usable_cores
from featherseg.core.notebook import progress_or_bar
from featherseg.core.storage import is_remote
from featherseg.core.types import Progress, SegmentationData
from featherseg.core.wording import counted
from featherseg.costs.published import compare
from featherseg.data.cache.mirror import local_folder
from featherseg.evaluation import scoring
from featherseg.evaluation.scored_split import ScoredSplit, split_to_score
from featherseg.evaluation.scoring import Scores
from featherseg.inference.runtimes import (
    Runtime,
    is_exported_file,
    open_runtime,
    refuse_needless_trust,
)
from featherseg.inference.settings import InferenceSettings, own_settings
from featherseg.reports.record import check_recordable, record
from featherseg.runs.run import Run, load_run

Inference = InferenceSettings | Mapping[str, Any] | None
"""All settings of inference, or those that differ from the model's own."""


def evaluate(
    run: Run | str | Path | None = None,
    data: SegmentationData | str | Path | None = None,
    split: str | None = None,
    *,
    data_root: str | Path | None = None,
    predictions: str | Path | None = None,
    full: bool = False,
    device: str = "auto",
    inference: Inference = None,
    trust: bool = False,
    progress: Progress | None = None,
) -> Scores:
    """Score a run, an exported file or a folder of predictions at the full size of the labels.

    The scores of a run are stored in it: scores.json, a line in evaluations.jsonl, its card, its
    best and worst images in examples/. Nothing is written, and no look at test is counted, for an
    exported file, for predictions and for a run that comes with featherseg.

        featherseg.evaluate("runs/yard", split="test").miou

    Args:
        run: A Run, a run folder, the name of one, or an exported file.
        data: A dataset's name, a dataset.toml, a folder, or a dataset object. Default: the data of
            the training.
        split: The split of the dataset. Default: the split of the paper's row if the recipe names
            one, else test if it has masks, else the validation split ("val" for other data).
        data_root: The folder of the dataset. Default: where it was for the training.
        predictions: A folder of index PNGs to score instead of a model: as `predict` writes them,
            or KEY.png.
        full: Score all images of the run's own data, without the limit of `data.val_size`.
        device: auto, cpu, cuda, cuda:N or mps.
        inference: How images are processed, or what differs from validation: {"flip": True}.
        trust: Open a .pt2 file, which runs the code that it contains.
        progress: Called with (current activity, images done, total images). Default: a bar in a
            notebook.

    Returns:
        Scores: mIoU, IoU by class, accuracies, boundary F, the confusion matrix, and the paper's
        row with what the run did otherwise; `selected` if the weights were chosen because they are
        the best on these images.

    Raises:
        RunError, ExportError: The run or the file cannot be used.
        ConfigError: Model and data have different classes or channels, it is not clear what to
            score, or an option has no effect.
        DataNotFound, DataError: Images, masks or predictions are missing or damaged, or a split
            called test has images that the run was trained on.
    """
    if (run is None) == (predictions is None):
        raise ConfigError(
            "expected either a RUN (or an exported file) or --predictions DIR to evaluate."
        )
    refuse_needless_trust(run, trust)
    progress = progress_or_bar(progress)
    data = as_dataset(data, progress) if isinstance(data, str | Path) else data
    root = None if data_root is None else Path(data_root)
    if predictions is not None:
        unused = {"full": full, "device": device != "auto", "inference": _is_set(inference)}
        refuse_unused(unused, "predictions are scored as they are, all of them")
        folder = local_folder(str(predictions)) if is_remote(predictions) else Path(predictions)
        chosen = split_to_score(None, data, split, root)
        scores = scoring.evaluate_predictions(folder, chosen.data, progress=progress)
        return replace(scores, split=chosen.split, notes=chosen.notes + scores.notes)
    if not isinstance(run, Run) and is_exported_file(str(run)):
        refuse_unused({"full": full}, "an exported file is scored on all images")
        chosen = split_to_score(None, data, split, root)
        runtime = open_runtime(str(run), device, trust=trust)
        return _score(runtime, chosen, _settings(runtime, inference), progress)

    assert run is not None
    run = run if isinstance(run, Run) else load_run(run)
    if not run.read_only:
        check_recordable(run)
    chosen = split_to_score(run, data, split, root, full=full)
    if run.unfinished:
        chosen = replace(chosen, notes=(*chosen.notes, run.how_far))
    runtime = open_runtime(run, device)
    # another number of threads than in training may change the last bits
    with torch_threads(run.info.threads if run.info.threads <= usable_cores() else None):
        scores = _score_run(run, runtime, chosen, _settings(runtime, inference), progress)
    return replace(scores, published=compare(run))


def _settings(runtime: Runtime, inference: Inference) -> InferenceSettings:
    return with_given(own_settings(runtime), inference, "inference")


def _score(
    runtime: Runtime, chosen: ScoredSplit, settings: InferenceSettings, progress: Progress | None
) -> Scores:
    """Return the scores, with all that is known of the split and of the inference."""
    scores = scoring.evaluate(runtime, chosen.data, settings, progress=progress)
    processed = (f"images are processed: {settings}",) if str(settings) != "whole" else ()
    return replace(
        scores,
        split=chosen.split,
        inference=str(settings),
        selected=chosen.selected,
        trained_on=chosen.trained_on,
        notes=chosen.notes + processed,
    )


def _score_run(
    run: Run,
    runtime: Runtime,
    chosen: ScoredSplit,
    settings: InferenceSettings,
    progress: Progress | None,
) -> Scores:
    """Return the scores of a run, stored in it unless it is read-only."""
    scores = _score(runtime, chosen, settings, progress)
    if run.read_only:
        where = "is included in featherseg" if run.shipped else "lies in the hub's cache"
        unstored = f"{run.name} {where}: its scores are shown but not stored"
        return replace(scores, notes=(*scores.notes, unstored))
    assert chosen.split is not None
    record(run, runtime, chosen.data, chosen.split, settings, scores)
    if (looks := chosen.looks) is None:
        return scores
    times = f"this run has been evaluated on test {counted(looks, 'time')}"
    return replace(scores, look=looks, notes=(*scores.notes, f"look {looks} at test: {times}"))


def _is_set(inference: Inference) -> bool:
    """Whether the settings ask for more than whole images; a size counts, also `--resize off`."""
    if isinstance(inference, Mapping):
        default = InferenceSettings()
        return "resize" in inference or with_given(default, inference, "inference") != default
    return inference is not None
