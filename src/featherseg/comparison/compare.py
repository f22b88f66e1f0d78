"""Models side by side on one dataset: how good, how costly, and which differences are shown.

Models that started from different weights are never ranked in one list: what is seen would be the weights. A
statement about *these models* needs runs with several seeds; one about *these files* is kept apart.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
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
from featherseg.evaluation.scoring import Scores, check_classes, evaluate
from featherseg.inference.settings import InferenceSettings, check_panoptic, own_settings
from featherseg.layers.resize import resize_factor, scaled_size
from featherseg.reports.record import (
    check_recordable,
    learned_from,
    log_evaluation,
    refuse_as_test,
    times_scored,
)
from featherseg.runs.run import DATA, Run, not_a_run

MOST_FILES = 12
"""More files than these are not compared pair by pair: the pairs would be too many to read."""


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
    """Compare runs and exported files on the same images: mIoU with intervals, parameters, MACs, latency, memory.

    Runs that differ in their seed alone are runs of one model. Each evaluation of a split counts in every run, as with
    `evaluate`.

    Args:
        runs: Two run folders, names of runs or exported files, or more; of models of one's own `load_run(..., model=)`.
        data: A dataset by name, a dataset.toml or a dataset of your own; default: what the runs were trained on.
        data_root: The folder in which it lies; default: the runs' own.
        split: Part of the dataset; default: what training validated on, as comparing is choosing: what is chosen is
            "selected on these images". "test" is for the last look.
        inference: Inference settings, or what differs from how each run was validated: {"flip": True}.
        size: (height, width) that latency and MACs are measured at; default: that of a typical image.
        costs: False leaves latency and memory out.
        budgets: Latency and memory within which the best model is named, also as a mapping: {"max_ms": 20}.
        device: auto, cpu, cuda, cuda:N or mps.
        trust: Open .pt2 files, which run the code that they contain.
        out: Also write the comparison as one HTML page.
        progress: Called with (what is being done, steps done, steps in all). Default: a bar in a notebook.

    Returns:
        A Comparison: rankings, differences with 95 % intervals, picks.

    Raises:
        ConfigError: Classes do not fit, one run is named twice, or the runs were trained on several datasets.
        RunError, ExportError, DeviceError: A run or file cannot be opened, timed or written to.
        DataNotFound, DataError: Images or masks are missing or damaged, or no pixel is labelled.
    """
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

    # Everything that can be refused is, before anything is scored
    if costs and (
        unopenable := [
            one.name for one in candidates if one.run and "model" in one.run.info.objects
        ]
    ):
        raise ConfigError(
            f"{unopenable[0]} is of a model of one's own, which processes that are timed cannot open: pass costs=False."
        )
    labelled, images = _open_images(candidates, data, data_root, split)
    refuse_unlabelled(
        images, labelled.split, "so nothing can be scored on it. Name another split with --split."
    )
    recorded = {one.path: one.run for one in candidates if one.run and not one.run.read_only}
    for one in candidates:
        check_classes(one.runtime, images)
        if one.path in recorded:
            check_recordable(recorded[one.path])
    seen = {one.path: learned_from(one.run, images, labelled) for one in candidates if one.run}
    for one in candidates:
        if one.run:
            refuse_as_test(one.run, seen[one.path], images, labelled.split)
    of = f"{images.name} {labelled.split}"
    known = {one.name: read_fingerprint(one.run.path / DATA) for one in candidates if one.run}
    doubts = [
        f"{name}: {told}" for name, row in known.items() if row for told in row.doubts(images, of)
    ]
    settings = {
        one.path: with_given(own_settings(one.runtime), inference, "inference")
        for one in candidates
    }
    for one in candidates:
        if one.runtime.panoptic and images[0].instances is not None:
            check_panoptic(settings[one.path])
    otherwise = list(
        dict.fromkeys(
            str(settings[one.path])
            for one in candidates
            if settings[one.path] != own_settings(one.runtime)
        )
    )
    if otherwise and budgets != Budgets():
        raise ConfigError(
            f"latency and memory are those of one pass at each model's own size, the mIoU would be that of "
            f"{'; '.join(otherwise)}: no model can be named for a limit by both. Leave out --max-ms and --max-mib, or "
            "--tta, --scales and --resize."
        )
    chosen = {one.path: labelled.split != TEST or _kept_by(one.run, labelled) for one in candidates}
    size, models = size or typical_size(images), by_model(candidates)

    # Latency and memory of one file a model: runs with other seeds cost the same
    firsts = [files[0] for files in models.values()]
    timing = None
    if costs:
        labels, paths, runtimes = zip(
            *((one.label, one.path, one.runtime) for one in firsts), strict=True
        )
        timing = time_side_by_side(labels, paths, runtimes, size, progress)
    latencies = (
        {one.model: timing.costs_of(place) for place, one in enumerate(firsts)} if timing else {}
    )

    # Scores of every file on every image; when all are there, a line in the record of every run
    scores = {one.path: _score(one, images, settings[one.path], progress) for one in candidates}
    for path, run in recorded.items():
        marked = replace(scores[path], selected=chosen[path], trained_on=bool(seen[path]))
        log_evaluation(run, images, labelled.split, settings[path], marked)

    # Which differences the figures show: of models where their runs suffice, else of these files
    clusters = clusters_of(images.keys, groups_of(images))
    results = {
        key: _result(
            files, [scores[one.path] for one in files], latencies.get(key, MeasuredCosts()), size
        )
        for key, files in models.items()
    }
    rankings = _rankings(models, scores, results, clusters)
    by_file = bool(too_few_runs([s.seeds for s in results.values()]))
    pairs = (
        _pairs(candidates, scores, clusters) if by_file and len(candidates) <= MOST_FILES else None
    )

    # What limits these figures, in sentences
    found = [*cautions(candidates, seen, len(images)), *doubts]
    if selected := any(chosen.values()):
        found.append(
            f"{SELECTED}: what is chosen here scores less on unseen ones; --split test is for the last look"
        )
    elif looks := [
        f"{one.name} {times_scored(recorded[one.path], TEST, images.name)}"
        for one in candidates
        if one.path in recorded
    ]:
        found.append(f"looks at test, this one included: {', '.join(looks)}")
    if not clusters.enough:
        found.append(
            f"the images are one block, fewer than {MIN_IMAGES}, so that no interval can be given and nothing is "
            "called better: score more"
        )
    if costs and otherwise:
        asked = "; ".join(otherwise)
        found.append(
            f"latency, MACs and memory are those of one pass at each model's own size, not of {asked}"
        )
    if by_file and pairs is None:
        found.append(
            f"{len(candidates)} files are not compared pair by pair: name {MOST_FILES} or fewer for that"
        )
    differences = [
        d for one in (*rankings, pairs) if one for d in (*one.differences, *one.pq_differences)
    ]
    if few := sum(d.miou.few for d in differences):
        found.append(
            f"of {counted(len(differences), 'difference')}, on fewer than {MIN_CLUSTERS} clusters of images, too few "
            f"for any claim: {few}; neighbouring images score alike for long, so score more of them or other sequences"
        )
    comparison = Comparison(
        data=images.name,
        split=labelled.split,
        images=len(images),
        classes=tuple(c.name for c in images.classes),
        inference=", ".join(dict.fromkeys(map(str, settings.values()))),
        clusters=clusters.description,
        size=size,
        rankings=rankings,
        files=pairs,
        timing=timing,
        cautions=tuple(found),
        budgets=budgets,
        selected=selected,
    )
    if out is not None:
        write_text(Path(out), comparison_html(comparison))
    return comparison


def _open_images(
    candidates: Sequence[Candidate],
    data: str | SegmentationData | None,
    root: Path | None,
    split: str | None,
) -> tuple[LabelledImages, SegmentationData]:
    """What they are scored on, by name and opened. Raises what `labelled_set` and `open_dataset` do, ConfigError."""
    if isinstance(data, str | None):
        labelled = labelled_set(
            [one.run.recipe.data for one in candidates if one.run], data, root, split
        )
        return labelled, labelled.open()
    if root is not None:
        raise ConfigError(
            "data_root would have no effect: a dataset of one's own knows where it lies."
        )
    return LabelledImages(data.name, split or "val"), data


def _by_seed(files: Sequence[Candidate], values: Sequence[np.ndarray]) -> np.ndarray:
    """(m, ...) of m seeds: runs of one seed are no further trainings, so that their mean stands for them."""
    seeds = [one.seed for one in files]
    of = {
        seed: [value for value, own in zip(values, seeds, strict=True) if own == seed]
        for seed in seeds
    }
    return np.stack([np.mean(same, axis=0) if len(same) > 1 else same[0] for same in of.values()])


def _kept_by(run: Run | None, labelled: LabelledImages) -> bool:
    """Whether a run kept its weights by these images."""
    return bool(run and labelled.is_of(run.recipe.data.name) and run.selected_on(labelled.split))


def _score(
    one: Candidate, data: SegmentationData, inference: InferenceSettings, progress: Progress
) -> Scores:
    def named(doing: str, done: int, of: int | None) -> None:
        progress(f"{doing} {one.name}", done, of)

    try:
        return evaluate(one.runtime, data, inference, boundary=False, progress=named)
    except DataError:  # an image's, whichever model sees it
        raise
    except FeathersegError as error:
        raise RunError(f"{one.name} could not be scored: {error}") from None


def _result(
    files: Sequence[Candidate], scores: Sequence[Scores], latency: MeasuredCosts, size: Size
) -> CandidateResult:
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
    """A ranking of every initialisation, in the order in which they were named."""
    counts = {
        key: _by_seed(files, [scores[one.path].counts for one in files])
        for key, files in models.items()
    }
    of_objects = {
        key: _by_seed(files, found)
        for key, files in models.items()
        if len(
            found := [own for one in files if (own := scores[one.path].panoptic_counts) is not None]
        )
        == len(files)
    }
    firsts = [files[0] for files in models.values()]
    return tuple(
        _rank([one for one in firsts if one.init == init], results, counts, of_objects, clusters)
        for init in dict.fromkeys(one.init for one in firsts)
    )


def _rank(
    firsts: Sequence[Candidate],
    results: Mapping[str, CandidateResult],
    counts: Mapping[str, np.ndarray],
    of_objects: Mapping[str, np.ndarray],
    clusters: Sequences,
) -> Ranking:
    """The models of one initialisation, each by its first file; differences of those that have runs enough."""
    order = sorted((one.model for one in firsts), key=lambda key: -results[key].miou.mean())
    ranked = tuple(results[key] for key in order)
    known = [place for place, s in enumerate(ranked) if s.seeds >= MIN_RUNS]
    reason, found = "", []
    by_pq: tuple[Difference, ...] = ()
    if len(ranked) < 2:
        reason = "only one model: nothing to compare it with"
    elif len(known) < 2:
        reason = too_few_runs([s.seeds for s in ranked])
    else:
        found = compare_models([counts[order[place]] for place in known], clusters)
        objects = [
            of_objects.get(key) if place in known else None for place, key in enumerate(order)
        ]
        by_pq = _known(objects, compare_models, clusters)
    return Ranking(
        init=firsts[0].init,
        results=ranked,
        differences=tuple(replace(d, first=known[d.first], second=known[d.second]) for d in found),
        reason=reason,
        left_out=() if reason else tuple(s.name for s in ranked if s.seeds < MIN_RUNS),
        unlike=trained_unlike(firsts),
        pq_differences=by_pq,
    )


def _pairs(
    candidates: Sequence[Candidate], scores: Mapping[Path, Scores], clusters: Sequences
) -> FilePairs:
    """Differences of these files, two by two, which say nothing of their models."""
    own = [scores[one.path] for one in candidates]
    differences = compare_files([one.counts for one in own], clusters)
    of_objects = _known([one.panoptic_counts for one in own], compare_files, clusters)
    return FilePairs(tuple(one.name for one in candidates), tuple(differences), of_objects)


def _known(
    counts: Sequence[np.ndarray | None],
    compared: Callable[[Sequence[np.ndarray], Sequences], Sequence[Difference]],
    clusters: Sequences,
) -> tuple[Difference, ...]:
    """Differences among those with counts, by their places in the whole list; none of fewer than two."""
    places = [place for place, one in enumerate(counts) if one is not None]
    found = (
        compared([one for one in counts if one is not None], clusters) if len(places) > 1 else ()
    )
    return tuple(replace(d, first=places[d.first], second=places[d.second]) for d in found)
