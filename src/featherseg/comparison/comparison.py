"""Models side by side on one dataset: how good, how costly, and what may be said of the difference.

Models that started from different weights are never ranked in one list: what is seen would be the weights. What is said
of *these models* needs runs with several seeds; of *these files* it is said apart.
"""

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np

from featherseg.benchmarking.latency import Latency, SideBySide, time_side_by_side
from featherseg.comparison.candidates import NOT_RECORDED, Candidate, by_model, cautions, seeds_of, trained_unlike
from featherseg.comparison.pareto import LATENCY, MEMORY, Pick, Point, Quantity, pick
from featherseg.core.errors import ConfigError
from featherseg.core.types import Progress, SegmentationData, Size
from featherseg.data.labelled_images import LabelledImages
from featherseg.data.statistics import typical_size
from featherseg.evaluation.scoring import Scores, check_resize, evaluate
from featherseg.inference.runtimes import Runtime
from featherseg.inference.settings import InferenceSettings
from featherseg.reports.record import check_recordable, log_evaluation
from featherseg.uncertainty.bootstrap import MIN_RUNS, Difference, best, compare_files, compare_models, too_few_runs
from featherseg.uncertainty.clusters import Clusters, clusters_of

MOST_FILES = 12
"""More files than these are not compared pair by pair: the pairs would be too many to read."""

FEW_CLUSTERS = 5
"""Fewer blocks or sequences than these make an interval that rests on very little."""


@dataclass(frozen=True)
class CandidateResult:
    """A model and what was measured of it: miou (m,) and iou (m, K) of its files, fractions; costs of the first.

    params and gmacs (by `macs`, at the size that was timed) are None for a file that does not tell its model.
    """

    name: str
    init: str
    files: tuple[str, ...]
    seeds: int
    miou: np.ndarray
    iou: np.ndarray
    params: int | None
    gmacs: float | None
    latencies: Latency

    @property
    def class_iou(self) -> np.ndarray:
        """IoU of each class, (K,): the mean of the files in which it is known, NaN where it is in none."""
        known = ~np.isnan(self.iou)
        return np.where(known.any(axis=0), np.where(known, self.iou, 0).sum(axis=0) / known.sum(axis=0).clip(1), np.nan)


@dataclass(frozen=True)
class Ranking:
    """Models of one initialisation, the highest mean mIoU first.

    differences are those of every pair, by their places in the list; none where `reason` says why nothing can be said.
    left_out are models of which nothing is said as they have too few runs; unlike are settings of the training in
    which these models differ.
    """

    init: str
    results: tuple[CandidateResult, ...]
    differences: tuple[Difference, ...]
    reason: str
    left_out: tuple[str, ...]
    unlike: tuple[str, ...]

    @property
    def best(self) -> CandidateResult | None:
        """The one that is better than every other of which something is said, if any is shown to be."""
        place = best(self.differences)
        return None if place is None else self.results[place]

    @property
    def undecided(self) -> set[frozenset[str]]:
        """Pairs of names between which no difference is shown."""
        told = [d for d in self.differences if d.better is not None]
        shown = {frozenset((self.results[d.first].name, self.results[d.second].name)) for d in told}
        names = [s.name for s in self.results]
        return {frozenset((a, b)) for a in names for b in names if a != b} - shown

    @property
    def title(self) -> str:
        """`trained from scratch`, `trained from ImageNet weights`, or that it is not recorded."""
        if self.init == NOT_RECORDED:
            return "what the training started from is not recorded"
        return f"trained {self.init if self.init.startswith('from ') else f'from {self.init}'}"

    def verdict(self) -> str:
        """What the figures allow to say of the list as a whole, in a sentence without a full stop."""
        if self.reason:
            return self.reason
        others = "every other model with three seeds" if self.left_out else "every other model of this list"
        if self.best is None:
            return f"no model is shown to be better than {others}"
        return f"{self.best.name}{', as trained here,' if self.unlike else ''} is better than {others}"


@dataclass(frozen=True)
class FilePairs:
    """What was asked of *these files*: every pair of `names`; says nothing about the models."""

    names: tuple[str, ...]
    differences: tuple[Difference, ...]


@dataclass(frozen=True)
class Outcome:
    """A whole comparison. size is what was timed and measured; timing None where that was left out."""

    data: str
    split: str
    images: int
    classes: tuple[str, ...]
    inference: str
    clusters: str
    size: Size
    rankings: tuple[Ranking, ...]
    files: FilePairs | None
    timing: SideBySide | None
    cautions: tuple[str, ...]


@dataclass(frozen=True)
class Budgets:
    """What a model may cost at most; None for any."""

    max_ms: float | None = None
    max_mib: float | None = None

    def check(self, costs: bool) -> None:
        """Raises ConfigError for a budget that nothing can keep, or that is not measured."""
        for flag, value in (("--max-ms", self.max_ms), ("--max-mib", self.max_mib)):
            if value is not None and not value > 0:
                raise ConfigError(f"{flag} {value:g}: expected a number above 0.")
            if value is not None and not costs:
                raise ConfigError(f"{flag} needs time and memory to be measured: leave out --no-costs.")

    def fronts(self, ranking: Ranking) -> list[tuple[Quantity, list[Point], float | None]]:
        """What is paid, the models by it, and the budget for it."""
        return [
            (LATENCY, _points((s, s.latencies.p50_ms) for s in ranking.results), self.max_ms),
            (MEMORY, _points((s, s.latencies.memory_mib) for s in ranking.results), self.max_mib),
        ]

    def picks(self, ranking: Ranking) -> list[tuple[Quantity, Pick]]:
        """The model of a ranking for each budget that is given."""
        return [
            (quantity, pick(points, budget, quantity, undecided=ranking.undecided))
            for quantity, points, budget in self.fronts(ranking)
            if budget is not None
        ]


def compare(
    candidates: Sequence[Candidate],
    labelled: LabelledImages,
    mode_of: Callable[[Runtime], InferenceSettings],
    *,
    size: Size | None = None,
    costs: bool = True,
    progress: Progress | None = None,
) -> Outcome:
    """Measure time and memory of one file a model, score everyone on every image, and say what the figures allow.

    mode_of is how a model looks at images; size (height, width) is what one pass is timed with, by default that of
    a typical image; `costs` False leaves time and memory out.
    A look at a split counts in every run, as `evaluate` counts it. Raises ConfigError where classes do not fit,
    RunError where a run cannot be written to, and what opening the data raises.
    """
    data = labelled.open()
    for one in candidates:
        check_resize(one.runtime, data)
        if one.run and not one.run.shipped:
            check_recordable(one.run)
    size, models = size or typical_size(data), by_model(candidates)
    firsts = [files[0] for files in models.values()]
    timing = _time(firsts, size, progress) if costs else None
    latencies = {one.model: timing.latency(place) for place, one in enumerate(firsts)} if timing else {}
    modes = [mode_of(one.runtime) for one in candidates]
    scores = {
        one.path: _score(one, data, labelled.split, inference, progress)
        for one, inference in zip(candidates, modes, strict=True)
    }
    clusters = clusters_of(data.keys)
    results = {
        key: _result(files, [scores[one.path] for one in files], latencies.get(key, Latency()), size)
        for key, files in models.items()
    }
    counts = {key: np.stack([scores[one.path].counts for one in files]) for key, files in models.items()}
    inits = dict.fromkeys(one.init for one in firsts)
    rankings = [_rank([one for one in firsts if one.init == init], results, counts, clusters) for init in inits]
    pairs, too_many = _file_pairs(candidates, scores, clusters, list(results.values()))
    return Outcome(
        data=data.name,
        split=labelled.split,
        images=len(data),
        classes=tuple(c.name for c in data.classes),
        inference=", ".join(dict.fromkeys(map(str, modes))),
        clusters=clusters.words,
        size=size,
        rankings=tuple(rankings),
        files=pairs,
        timing=timing,
        cautions=(*cautions(candidates, labelled, data.keys), *_few(clusters), *too_many),
    )


def _time(firsts: Sequence[Candidate], size: Size, progress: Progress | None) -> SideBySide:
    labels, paths, runtimes = zip(*((one.label, one.path, one.runtime) for one in firsts), strict=True)
    return time_side_by_side(labels, paths, runtimes, size, progress)


def _score(
    one: Candidate, data: SegmentationData, split: str, inference: InferenceSettings, progress: Progress | None
) -> Scores:
    named = progress and (lambda doing, done, of: progress(f"{doing} {one.name}", done, of))
    scores = evaluate(one.runtime, data, inference, boundary=False, progress=named)
    if one.run and not one.run.shipped:
        log_evaluation(one.run, data, split, inference, scores)
    return scores


def _result(files: Sequence[Candidate], scores: Sequence[Scores], latencies: Latency, size: Size) -> CandidateResult:
    first = files[0]
    cost = first.cost(size)
    return CandidateResult(
        name=first.label,
        init=first.init,
        files=tuple(one.name for one in files),
        seeds=seeds_of(files),
        miou=np.array([s.miou for s in scores]),
        iou=np.stack([s.iou for s in scores]),
        params=cost.params if cost else None,
        gmacs=cost.macs["macs"] / 1e9 if cost else None,
        latencies=latencies,
    )


def _rank(
    firsts: Sequence[Candidate],
    results: Mapping[str, CandidateResult],
    counts: Mapping[str, np.ndarray],
    clusters: Clusters,
) -> Ranking:
    """The models of one initialisation, each by its first file; differences of those that have runs enough."""
    order = sorted((one.model for one in firsts), key=lambda key: -results[key].miou.mean())
    ranked = tuple(results[key] for key in order)
    known = [place for place, s in enumerate(ranked) if s.seeds >= MIN_RUNS]
    reason, found = "", []
    if len(ranked) < 2:
        reason = "one model alone: nothing to compare it with"
    elif len(known) < 2:
        reason = too_few_runs([s.seeds for s in ranked])
    else:
        found = compare_models([counts[order[place]] for place in known], clusters)
    return Ranking(
        init=firsts[0].init,
        results=ranked,
        differences=tuple(replace(d, first=known[d.first], second=known[d.second]) for d in found),
        reason=reason,
        left_out=() if reason else tuple(s.name for s in ranked if s.seeds < MIN_RUNS),
        unlike=trained_unlike(firsts),
    )


def _file_pairs(
    candidates: Sequence[Candidate],
    scores: Mapping[Path, Scores],
    clusters: Clusters,
    results: Sequence[CandidateResult],
) -> tuple[FilePairs | None, list[str]]:
    """Every pair of files, where models cannot be told apart by their runs; -> those, and why there are none."""
    if not too_few_runs([s.seeds for s in results]):
        return None, []
    if len(candidates) > MOST_FILES:
        return None, [f"{len(candidates)} files are not compared pair by pair: name {MOST_FILES} or fewer for that"]
    names = tuple(one.name for one in candidates)
    return FilePairs(names, tuple(compare_files([scores[one.path].counts for one in candidates], clusters))), []


def _few(clusters: Clusters) -> list[str]:
    if clusters.count == 1:
        return ["the images are one block, so that no interval can be given and nothing is called better: score more"]
    return [f"intervals rest on {clusters.words} alone"] if clusters.count < FEW_CLUSTERS else []


def _points(paid: Iterable[tuple[CandidateResult, float | None]]) -> list[Point]:
    """Models with what they cost, as far as it was measured."""
    return [Point(s.name, cost, float(s.miou.mean())) for s, cost in paid if cost is not None]
