"""Networks side by side on one dataset: how good, how costly, and what may be said of the difference.

Networks that started from different weights are never ranked in one list: what is seen would be the start. What is said
of *these networks* needs runs with several seeds; of *these files* it is said apart.
"""

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path

import numpy as np

from featherseg.benchmarking.latency import SideBySide, Took, time_side_by_side
from featherseg.benchmarking.session import Watch
from featherseg.comparison.candidates import NOT_RECORDED, Contestant, by_network, cautions, seeds_of, trained_unlike
from featherseg.comparison.pareto import LATENCY, MEMORY, Pick, Point, Quantity, pick
from featherseg.core.errors import ConfigError
from featherseg.core.types import SegmentationData, Size
from featherseg.data.labelled_images import Labelled
from featherseg.data.statistics import Progress, typical_size
from featherseg.evaluation.scoring import Scores, check_fit, evaluate
from featherseg.inference.modes import Mode
from featherseg.inference.runtimes import Runtime
from featherseg.reports.record import check_recordable, log_look
from featherseg.uncertainty.bootstrap import MIN_RUNS, Difference, best, compare_files, compare_networks, too_few_runs
from featherseg.uncertainty.clusters import Units, units_of

MOST_FILES = 12
"""More files than these are not compared pair by pair: the pairs would be too many to read."""

FEW_UNITS = 5
"""Fewer blocks or sequences than these make an interval that rests on very little."""


@dataclass(frozen=True)
class Standing:
    """A network and what was measured of it: miou (m,) and iou (m, K) of its files, fractions; costs of the first.

    params and gmacs (by `macs`, at the size that was timed) are None for a file that does not tell its network.
    """

    name: str
    start: str
    files: tuple[str, ...]
    seeds: int
    miou: np.ndarray
    iou: np.ndarray
    params: int | None
    gmacs: float | None
    took: Took

    @property
    def class_iou(self) -> np.ndarray:
        """IoU of each class, (K,): the mean of the files in which it is known, NaN where it is in none."""
        known = ~np.isnan(self.iou)
        return np.where(known.any(axis=0), np.where(known, self.iou, 0).sum(axis=0) / known.sum(axis=0).clip(1), np.nan)


@dataclass(frozen=True)
class Ranking:
    """Networks of one start, the highest mean mIoU first.

    differences are those of every pair, by their places in the list; none where `silence` says why nothing can be said.
    left_out are networks of which nothing is said as they have too few runs; unlike are settings of the training in
    which these networks differ.
    """

    start: str
    standings: tuple[Standing, ...]
    differences: tuple[Difference, ...]
    silence: str
    left_out: tuple[str, ...]
    unlike: tuple[str, ...]

    @property
    def best(self) -> Standing | None:
        """The one that is better than every other of which something is said, if any is shown to be."""
        place = best(self.differences)
        return None if place is None else self.standings[place]

    @property
    def undecided(self) -> set[frozenset[str]]:
        """Pairs of names between which no difference is shown."""
        told = [d for d in self.differences if d.better is not None]
        shown = {frozenset((self.standings[d.first].name, self.standings[d.second].name)) for d in told}
        names = [s.name for s in self.standings]
        return {frozenset((a, b)) for a in names for b in names if a != b} - shown

    @property
    def title(self) -> str:
        """`trained from scratch`, `trained from ImageNet weights`, or that it is not recorded."""
        if self.start == NOT_RECORDED:
            return "what the training started from is not recorded"
        return f"trained {self.start if self.start.startswith('from ') else f'from {self.start}'}"

    def verdict(self) -> str:
        """What the figures allow to say of the list as a whole, in a sentence without a full stop."""
        if self.silence:
            return self.silence
        others = "every other network with three seeds" if self.left_out else "every other network of this list"
        if self.best is None:
            return f"no network is shown to be better than {others}"
        return f"{self.best.name}{', as trained here,' if self.unlike else ''} is better than {others}"


@dataclass(frozen=True)
class FilePairs:
    """What was asked of *these files*: every pair of `names`; says nothing about the networks."""

    names: tuple[str, ...]
    differences: tuple[Difference, ...]


@dataclass(frozen=True)
class Outcome:
    """A whole comparison. size is what was timed and measured; timing None where that was left out."""

    data: str
    split: str
    images: int
    classes: tuple[str, ...]
    mode: str
    units: str
    size: Size
    rankings: tuple[Ranking, ...]
    files: FilePairs | None
    timing: SideBySide | None
    cautions: tuple[str, ...]


@dataclass(frozen=True)
class Budgets:
    """What a network may cost at most; None for any."""

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
        """What is paid, the networks by it, and the budget for it."""
        return [
            (LATENCY, _points((s, s.took.p50_ms) for s in ranking.standings), self.max_ms),
            (MEMORY, _points((s, s.took.memory_mib) for s in ranking.standings), self.max_mib),
        ]

    def picks(self, ranking: Ranking) -> list[tuple[Quantity, Pick]]:
        """The network of a ranking for each budget that is given."""
        return [
            (quantity, pick(points, budget, quantity, undecided=ranking.undecided))
            for quantity, points, budget in self.fronts(ranking)
            if budget is not None
        ]


def compare(
    contestants: Sequence[Contestant],
    labelled: Labelled,
    mode_of: Callable[[Runtime], Mode],
    *,
    size: Size | None = None,
    costs: bool = True,
    watch: Watch,
) -> Outcome:
    """Measure time and memory of one file a network, score everyone on every image, and say what the figures allow.

    mode_of is how a network looks at images; size (height, width) is what one pass is timed with, by default that of
    a typical image; `costs` False leaves time and memory out; watch is called with (what is done, steps done, of).
    A look at a split counts in every run, as `evaluate` counts it. Raises ConfigError where classes do not fit,
    RunError where a run cannot be written to, and what opening the data raises.
    """
    data = labelled.open()
    for one in contestants:
        check_fit(one.runtime, data)
        if one.run and not one.run.shipped:
            check_recordable(one.run)
    size, networks = size or typical_size(data), by_network(contestants)
    firsts = [files[0] for files in networks.values()]
    timing = _time(firsts, size, partial(watch, "time and memory")) if costs else None
    took = {one.network: timing.took(place) for place, one in enumerate(firsts)} if timing else {}
    modes = [mode_of(one.runtime) for one in contestants]
    scores = {
        one.path: _score(one, data, labelled.split, mode, partial(watch, f"scoring {one.name}"))
        for one, mode in zip(contestants, modes, strict=True)
    }
    units = units_of(data.keys)
    standings = {
        key: _standing(files, [scores[one.path] for one in files], took.get(key, Took()), size)
        for key, files in networks.items()
    }
    counts = {key: np.stack([scores[one.path].counts for one in files]) for key, files in networks.items()}
    starts = dict.fromkeys(one.start for one in firsts)
    rankings = [_rank([one for one in firsts if one.start == start], standings, counts, units) for start in starts]
    pairs, too_many = _file_pairs(contestants, scores, units, list(standings.values()))
    return Outcome(
        data=data.name,
        split=labelled.split,
        images=len(data),
        classes=tuple(c.name for c in data.classes),
        mode=", ".join(dict.fromkeys(map(str, modes))),
        units=units.words,
        size=size,
        rankings=tuple(rankings),
        files=pairs,
        timing=timing,
        cautions=(*cautions(contestants, labelled, data.keys), *_few(units), *too_many),
    )


def _time(firsts: Sequence[Contestant], size: Size, progress: Progress) -> SideBySide:
    labels, paths, runtimes = zip(*((one.label, one.path, one.runtime) for one in firsts), strict=True)
    return time_side_by_side(labels, paths, runtimes, size, progress)


def _score(one: Contestant, data: SegmentationData, split: str, mode: Mode, progress: Progress) -> Scores:
    scores = evaluate(one.runtime, data, mode, boundary=False, progress=progress)
    if one.run and not one.run.shipped:
        log_look(one.run, data, split, mode, scores)
    return scores


def _standing(files: Sequence[Contestant], scores: Sequence[Scores], took: Took, size: Size) -> Standing:
    first = files[0]
    cost = first.cost(size)
    return Standing(
        name=first.label,
        start=first.start,
        files=tuple(one.name for one in files),
        seeds=seeds_of(files),
        miou=np.array([s.miou for s in scores]),
        iou=np.stack([s.iou for s in scores]),
        params=cost.params if cost else None,
        gmacs=cost.macs["macs"] / 1e9 if cost else None,
        took=took,
    )


def _rank(
    firsts: Sequence[Contestant], standings: Mapping[str, Standing], counts: Mapping[str, np.ndarray], units: Units
) -> Ranking:
    """The networks of one start, each by its first file; differences of those that have runs enough."""
    order = sorted((one.network for one in firsts), key=lambda key: -standings[key].miou.mean())
    ranked = tuple(standings[key] for key in order)
    known = [place for place, s in enumerate(ranked) if s.seeds >= MIN_RUNS]
    silence, found = "", []
    if len(ranked) < 2:
        silence = "one network alone: nothing to compare it with"
    elif len(known) < 2:
        silence = too_few_runs([s.seeds for s in ranked])
    else:
        found = compare_networks([counts[order[place]] for place in known], units)
    return Ranking(
        start=firsts[0].start,
        standings=ranked,
        differences=tuple(replace(d, first=known[d.first], second=known[d.second]) for d in found),
        silence=silence,
        left_out=() if silence else tuple(s.name for s in ranked if s.seeds < MIN_RUNS),
        unlike=trained_unlike(firsts),
    )


def _file_pairs(
    contestants: Sequence[Contestant], scores: Mapping[Path, Scores], units: Units, standings: Sequence[Standing]
) -> tuple[FilePairs | None, list[str]]:
    """Every pair of files, where networks cannot be told apart by their runs; -> those, and why there are none."""
    if not too_few_runs([s.seeds for s in standings]):
        return None, []
    if len(contestants) > MOST_FILES:
        return None, [f"{len(contestants)} files are not compared pair by pair: name {MOST_FILES} or fewer for that"]
    names = tuple(one.name for one in contestants)
    return FilePairs(names, tuple(compare_files([scores[one.path].counts for one in contestants], units))), []


def _few(units: Units) -> list[str]:
    if units.count == 1:
        return ["the images are one block, so that no interval can be given and nothing is called better: score more"]
    return [f"intervals rest on {units.words} alone"] if units.count < FEW_UNITS else []


def _points(paid: Iterable[tuple[Standing, float | None]]) -> list[Point]:
    """Networks with what they cost, as far as it was measured."""
    return [Point(s.name, cost, float(s.miou.mean())) for s, cost in paid if cost is not None]
