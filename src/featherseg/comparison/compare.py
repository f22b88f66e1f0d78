"""Compare models on one dataset: scores, costs, and which differences are shown.

Models with different initialisations are never ranked in one list, because the initialisation alone
may decide. A statement about models needs runs with several seeds; without them, the statement is
about these files.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np

from featherseg.comparison.benchmark_images import labelled_set
from featherseg.comparison.candidates import (
    Candidate,
    by_model,
    cautions,
    open_candidates,
    seeds_of,
    trained_unlike,
)
from featherseg.comparison.compare_page import comparison_html
from featherseg.comparison.compare_results import (
    Budgets,
    CandidateResult,
    Comparison,
    FilePairs,
    Ranking,
)
from featherseg.comparison.side_by_side import MeasuredCosts, time_side_by_side
from featherseg.converters.converted import as_dataset
from featherseg.core.config import with_given
from featherseg.core.errors import ConfigError, DataError, FeathersegError, RunError
from featherseg.core.files import check_writable, write_text
from featherseg.core.machine import pick_device
from featherseg.core.notebook import progress_or_bar
from featherseg.core.types import Progress, SegmentationData, Size, as_size
from featherseg.core.wording import SELECTED, counted
from featherseg.data import LabelledImages
from featherseg.data.cache.fingerprint import TEST, groups_of, read_fingerprint
from featherseg.data.datasets.statistics import refuse_unlabelled, typical_size
from featherseg.evaluation.bootstrap import (
    MIN_RUNS,
    Difference,
    compare_files,
    compare_models,
    too_few_runs,
)
from featherseg.evaluation.clusters import MIN_CLUSTERS, MIN_IMAGES, Sequences, clusters_of
from featherseg.evaluation.scored_split import learned_from, refuse_as_test, times_scored
from featherseg.evaluation.scoring import Scores, check_classes, evaluate
from featherseg.inference.settings import InferenceSettings, check_panoptic, own_settings
from featherseg.layers.sizes import resize_factor, scaled_size
from featherseg.reports.record import check_recordable, log_evaluation
from featherseg.runs.run import DATA, Run, not_a_run

MOST_FILES = 12
"""Most files that are compared pair by pair; with more, the pairs are too many to read."""


def compare(
    runs: Sequence[str | Path | Run],
    data: str | SegmentationData | None = None,
    *,
    data_root: Path | None = None,
    split: str | None = None,
    inference: InferenceSettings | Mapping[str, Any] | None = None,
    size: Size | None = None,
    costs: bool = True,
    budgets: Budgets | Mapping[str, Any] = Budgets(),  # noqa: B008 (frozen)
    device: str = "auto",
    trust: bool = False,
    out: str | Path | None = None,
    progress: Progress | None = None,
) -> Comparison:
    """Compare runs and exported files on the same images: mIoU, parameters, MACs, latency, memory.

    Runs that differ only in their seed are runs of one model. Every comparison is recorded in each
    run, as `evaluate` does.

        featherseg.compare(["runs/a", "runs/b"], out="compare.html")

    Args:
        runs: two or more run folders, names of runs or exported files. Open a run of your own model
            with `load_run(..., model=)`.
        data: name of a dataset, a dataset.toml or your own dataset; default: that of the runs.
        data_root: folder of the dataset; default: that of the runs.
        split: part of the dataset; default: the validation split. Who chooses a model by it has
            "selected on these images"; keep "test" for the last look.
        inference: settings that differ from those of each run's validation, such as {"flip": True}.
        size: (height, width) for latency and MACs; default: that of a typical image.
        costs: False omits latency and memory.
        budgets: limits for which the best model is named, also as a mapping: {"max_ms": 20}.
        device: auto, cpu, cuda, cuda:N or mps.
        trust: open .pt2 files; they run the code that they contain.
        out: also write the comparison as one HTML page.
        progress: called with (text, steps done, steps in all). Default: a bar in a notebook.

    Returns:
        Rankings, differences with 95 % intervals, and the best model for each budget.

    Raises:
        ConfigError: classes differ, a run is named twice, or the runs have different datasets.
        RunError, ExportError, DeviceError: a run or file cannot be opened, timed or written to.
        DataNotFound, DataError: images or masks are missing or damaged, or no pixel is labelled.
    """
    # Refuse whatever can be refused before anything is timed or scored
    budgets = with_given(Budgets(), budgets, "budgets")
    budgets.check(costs)
    pick_device(device)
    if out is not None:
        check_writable(Path(out))
    progress = progress_or_bar(progress)
    size = None if size is None else as_size("size", size)
    if isinstance(runs, str | Path):
        raise ConfigError(
            f"expected a list of runs, such as [{str(runs)!r}, ...], found {str(runs)!r} alone."
        )
    if others := [run for run in runs if not isinstance(run, Run | str | Path)]:
        raise not_a_run(others[0])
    candidates = open_candidates(
        [run if isinstance(run, Run) else str(run) for run in runs], device, trust=trust
    )
    if costs:
        _refuse_untimeable(candidates)
    data = as_dataset(data, progress) if isinstance(data, str) else data
    plan = _plan(candidates, data, data_root, split, inference)
    if plan.changed_inference and budgets != Budgets():
        raise ConfigError(
            "latency and memory are those of one pass at each model's own size, the mIoU would be "
            f"that of {plan.changed_inference}: no model can be named for a limit by both. Leave "
            "out --max-ms and --max-mib, or --tta, --scales and --resize."
        )

    # Time one file per model: runs with other seeds cost the same
    size, models = size or typical_size(plan.images), by_model(candidates)
    timing, measured = None, dict[str, MeasuredCosts]()
    if costs:
        firsts = [files[0] for files in models.values()]
        labels, paths, runtimes = zip(
            *((one.label, one.path, one.runtime) for one in firsts), strict=True
        )
        timing = time_side_by_side(labels, paths, runtimes, size, device, progress)
        measured = {one.model: timing.costs_of(place) for place, one in enumerate(firsts)}

    # Score every file on every image, and record the scores after the last one
    scores = {
        one.path: _score(one, plan.images, plan.settings[one.path], progress) for one in candidates
    }
    for one in candidates:
        if run := one.recorded_run:
            trained_on = bool(plan.trained_on[one.path])
            marked = replace(
                scores[one.path], selected=plan.selected[one.path], trained_on=trained_on
            )
            log_evaluation(run, plan.images, plan.labelled.split, plan.settings[one.path], marked)

    # Differences of models if there are enough runs, else of these files
    clusters = clusters_of(plan.images.keys, groups_of(plan.images))
    results = {
        key: _result(
            files, [scores[one.path] for one in files], measured.get(key, MeasuredCosts()), size
        )
        for key, files in models.items()
    }
    rankings, pairs = _rankings(models, scores, results, clusters), None
    by_file = bool(too_few_runs([result.seeds for result in results.values()]))
    if by_file and len(candidates) <= MOST_FILES:
        pairs = _pairs(candidates, scores, clusters)

    # The result, with what limits its figures
    comparison = Comparison(
        data=plan.images.name,
        split=plan.labelled.split,
        images=len(plan.images),
        classes=tuple(info.name for info in plan.images.classes),
        inference=", ".join(dict.fromkeys(map(str, plan.settings.values()))),
        clusters=clusters.description,
        size=size,
        rankings=rankings,
        files=pairs,
        timing=timing,
        cautions=tuple(_cautions(candidates, plan, clusters, rankings, pairs, costs, by_file)),
        budgets=budgets,
        selected=any(plan.selected.values()),
    )
    if out is not None:
        write_text(Path(out), comparison_html(comparison))
    return comparison


@dataclass(frozen=True)
class _Plan:
    """What the candidates are scored on, and how; the mappings are by a candidate's path.

    Args:
        trained_on: images of `images` that a run was trained on (`learned_from`).
        selected: whether a choice by these scores is selected on these images.
        doubts: how the images differ from those of a run, as texts.
        changed_inference: inference settings that differ from a run's validation, as text.
    """

    labelled: LabelledImages
    images: SegmentationData
    settings: Mapping[Path, InferenceSettings]
    trained_on: Mapping[Path, Mapping[str, str]]
    selected: Mapping[Path, bool]
    doubts: Sequence[str]
    changed_inference: str


def _refuse_untimeable(candidates: Sequence[Candidate]) -> None:
    """Raise ConfigError for a model of the user's own, which another process cannot open."""
    for one in candidates:
        if one.run and "model" in one.run.info.objects:
            raise ConfigError(
                f"{one.name} has a model of your own, which the processes that time it cannot "
                "open: pass costs=False."
            )


def _plan(
    candidates: Sequence[Candidate],
    data: str | SegmentationData | None,
    root: Path | None,
    split: str | None,
    inference: InferenceSettings | Mapping[str, Any] | None,
) -> _Plan:
    """Open the images and check that every candidate can be scored on them.

    Raises as `compare`.
    """
    # The images
    labelled, images = _open_images(candidates, data, root, split)
    refuse_unlabelled(
        images, labelled.split, "so nothing can be scored on it. Name another split with --split."
    )

    # What the candidates know of them
    trained_on, doubts = dict[Path, Mapping[str, str]](), list[str]()
    for one in candidates:
        check_classes(one.runtime, images)
        if run := one.recorded_run:
            check_recordable(run)
        if one.run is None:
            continue
        trained_on[one.path] = learned_from(one.run, images, labelled)
        refuse_as_test(one.run, trained_on[one.path], images, labelled.split)
        if fingerprint := read_fingerprint(one.run.path / DATA):
            differences = fingerprint.score_warnings(images, f"{images.name} {labelled.split}")
            doubts += [f"{one.name}: {difference}" for difference in differences]
    selected = {
        one.path: labelled.split != TEST or _selected_on(one.run, labelled) for one in candidates
    }

    # How each is scored
    settings = {
        one.path: with_given(own_settings(one.runtime), inference, "inference")
        for one in candidates
    }
    changed = dict[str, None]()
    for one in candidates:
        if one.runtime.panoptic and images[0].instances is not None:
            check_panoptic(settings[one.path])
        if settings[one.path] != own_settings(one.runtime):
            changed[str(settings[one.path])] = None
    return _Plan(labelled, images, settings, trained_on, selected, doubts, "; ".join(changed))


def _cautions(
    candidates: Sequence[Candidate],
    plan: _Plan,
    clusters: Sequences,
    rankings: Sequence[Ranking],
    pairs: FilePairs | None,
    costs: bool,
    by_file: bool,
) -> list[str]:
    """Return what limits the figures, a sentence each, without a full stop."""
    texts = [*cautions(candidates, plan.trained_on, len(plan.images)), *plan.doubts]

    # Choosing by these images
    if any(plan.selected.values()):
        texts.append(
            f"{SELECTED}: a model that is chosen here scores less on new images; --split test is "
            "for the last look"
        )
    elif looks := [
        f"{one.name} {times_scored(run, TEST, plan.images.name)}"
        for one in candidates
        if (run := one.recorded_run)
    ]:
        texts.append(f"looks at test, this one included: {', '.join(looks)}")

    # Too few images, or too many files
    if not clusters.enough:
        texts.append(
            f"the images are one block, fewer than {MIN_IMAGES}, so no interval can be given and "
            "nothing is called better: score more images"
        )
    if costs and plan.changed_inference:
        texts.append(
            "latency, MACs and memory are those of one pass at each model's own size, not of "
            f"{plan.changed_inference}"
        )
    if by_file and pairs is None:
        texts.append(
            f"{len(candidates)} files are not compared pair by pair: name {MOST_FILES} or fewer "
            "for that"
        )
    differences = [
        d for one in (*rankings, pairs) if one for d in (*one.differences, *one.pq_differences)
    ]
    if few := sum(d.miou.few for d in differences):
        texts.append(
            f"of {counted(len(differences), 'difference')}, on fewer than {MIN_CLUSTERS} clusters "
            f"of images, too few for any claim: {few}; neighbouring images score alike for long, "
            "so score more of them or other sequences"
        )
    return texts


def _open_images(
    candidates: Sequence[Candidate],
    data: str | SegmentationData | None,
    root: Path | None,
    split: str | None,
) -> tuple[LabelledImages, SegmentationData]:
    """Return the labelled set by name, and opened; raises as `labelled_set` and `open_dataset`."""
    if isinstance(data, str | None):
        labelled = labelled_set(
            [one.run.recipe.data for one in candidates if one.run], data, root, split
        )
        return labelled, labelled.open()
    if root is not None:
        raise ConfigError("data_root has no effect on a dataset object. Leave it out.")
    return LabelledImages(data.name, split or "val"), data


def _by_seed(files: Sequence[Candidate], values: Sequence[np.ndarray]) -> np.ndarray:
    """Return values (m, ...) of m seeds; several runs with the same seed count as their mean."""
    of_seed = dict[int | None, list[np.ndarray]]()
    for one, value in zip(files, values, strict=True):
        of_seed.setdefault(one.seed, []).append(value)
    return np.stack([np.mean(v, axis=0) if len(v) > 1 else v[0] for v in of_seed.values()])


def _selected_on(run: Run | None, labelled: LabelledImages) -> bool:
    """Whether a run kept the weights that scored best on these images."""
    return bool(run and labelled.is_of(run.recipe.data.name) and run.selected_on(labelled.split))


def _score(
    one: Candidate, data: SegmentationData, inference: InferenceSettings, progress: Progress
) -> Scores:
    """Score one candidate. Raises DataError for an image, RunError for the model, with its name."""

    def named(doing: str, done: int, of: int | None) -> None:
        progress(f"{doing} {one.name}", done, of)

    try:
        return evaluate(one.runtime, data, inference, boundary=False, progress=named)
    except DataError:  # of an image, whatever the model
        raise
    except FeathersegError as error:
        raise RunError(f"{one.name} could not be scored: {error}") from None


def _result(
    files: Sequence[Candidate], scores: Sequence[Scores], latency: MeasuredCosts, size: Size
) -> CandidateResult:
    """Return scores and costs of one model, from all its files."""
    first, pq = files[0], [np.array(s.panoptic["pq"]) for s in scores if s.panoptic]
    cost = first.cost(scaled_size(size, resize_factor(size, first.runtime.test_resize)))
    return CandidateResult(
        name=first.label,
        init=first.init,
        files=tuple(one.name for one in files),
        seeds=seeds_of(files),
        miou=_by_seed(files, [np.array(s.miou) for s in scores]),
        iou=_by_seed(files, [s.iou for s in scores]),
        pq=_by_seed(files, pq) if len(pq) == len(files) else None,
        params=cost.params if cost else None,
        gmacs=cost.macs["macs"] / 1e9 if cost else None,
        latency=latency,
    )


def _rankings(
    models: Mapping[str, Sequence[Candidate]],
    scores: Mapping[Path, Scores],
    results: Mapping[str, CandidateResult],
    clusters: Sequences,
) -> tuple[Ranking, ...]:
    """Return a ranking per initialisation, in the order of the candidates."""
    counts = {
        key: _by_seed(files, [scores[one.path].counts for one in files])
        for key, files in models.items()
    }
    panoptic_counts = dict[str, np.ndarray]()
    for key, files in models.items():
        known = [c for one in files if (c := scores[one.path].panoptic_counts) is not None]
        if len(known) == len(files):
            panoptic_counts[key] = _by_seed(files, known)
    firsts = [files[0] for files in models.values()]
    return tuple(
        _rank(
            [one for one in firsts if one.init == init], results, counts, panoptic_counts, clusters
        )
        for init in dict.fromkeys(one.init for one in firsts)
    )


def _rank(
    firsts: Sequence[Candidate],
    results: Mapping[str, CandidateResult],
    counts: Mapping[str, np.ndarray],
    panoptic_counts: Mapping[str, np.ndarray],
    clusters: Sequences,
) -> Ranking:
    """Rank the models of one initialisation; only those with enough runs are compared.

    firsts: the first file of each model.
    """
    order = sorted((one.model for one in firsts), key=lambda key: -results[key].miou.mean())
    ranked = tuple(results[key] for key in order)
    enough = [result.seeds >= MIN_RUNS for result in ranked]
    reason, differences, pq_differences = "", tuple[Difference, ...](), tuple[Difference, ...]()
    if len(ranked) < 2:
        reason = "only one model: nothing to compare it with"
    elif sum(enough) < 2:
        reason = too_few_runs([result.seeds for result in ranked])
    else:
        differences, pq_differences = (
            _differences(
                [values.get(key) if ok else None for key, ok in zip(order, enough, strict=True)],
                compare_models,
                clusters,
            )
            for values in (counts, panoptic_counts)
        )
    return Ranking(
        init=firsts[0].init,
        results=ranked,
        differences=differences,
        reason=reason,
        left_out=() if reason else tuple(s.name for s in ranked if s.seeds < MIN_RUNS),
        unlike=trained_unlike(firsts),
        pq_differences=pq_differences,
    )


def _pairs(
    candidates: Sequence[Candidate], scores: Mapping[Path, Scores], clusters: Sequences
) -> FilePairs:
    """Return the differences of these files, pair by pair; they say nothing about the models."""
    of_files = [scores[one.path] for one in candidates]
    return FilePairs(
        tuple(one.name for one in candidates),
        _differences([one.counts for one in of_files], compare_files, clusters),
        _differences([one.panoptic_counts for one in of_files], compare_files, clusters),
    )


def _differences(
    counts: Sequence[np.ndarray | None],
    compare_all: Callable[[Sequence[np.ndarray], Sequences], Sequence[Difference]],
    clusters: Sequences,
) -> tuple[Difference, ...]:
    """Return the differences among entries with counts, numbered as in `counts`."""
    places = [place for place, values in enumerate(counts) if values is not None]
    if len(places) < 2:
        return ()
    differences = compare_all([values for values in counts if values is not None], clusters)
    return tuple(replace(d, first=places[d.first], second=places[d.second]) for d in differences)
