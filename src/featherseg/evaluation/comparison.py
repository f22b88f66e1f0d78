"""Networks side by side on one dataset: how good, how costly, and what may be said of the difference.

Files are compared: run folders, exported files. Runs that differ in nothing but their seed are runs of one network.
Networks that started from different weights are never ranked in one list: what is seen would be the start.
"""

import json
import os
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np

from featherseg.core.errors import ConfigError, RunError
from featherseg.core.types import SegmentationData, Size
from featherseg.evaluation.bootstrap import Difference, best, compare_files, compare_networks, too_few_runs
from featherseg.evaluation.cost import cost_of
from featherseg.evaluation.evaluate import Progress, Scores, check_fit, evaluate
from featherseg.evaluation.front import LATENCY, MEMORY, Pick, Point, Quantity, pick
from featherseg.evaluation.record import log_look
from featherseg.evaluation.side_by_side import SideBySide, Took, time_side_by_side
from featherseg.evaluation.units import Units, units_of
from featherseg.inference.modes import Mode
from featherseg.inference.runtimes import Runtime, is_exported_file, open_runtime
from featherseg.runs import Run, build_network, load_run

NOT_RECORDED = "start not recorded"
MOST_FILES = 12
"""More files than these are not compared pair by pair: the pairs would be too many to read."""

MOST_SETTINGS = 2
"""More settings than these do not name a network."""

Watch = Callable[[str, int, int], None]
"""Called with (what is being done, steps done, steps in all)."""

FREE = ("train.seed", "train.device", "train.checkpoint_seconds", "data.root", "data.workers")
"""Settings in which runs of one network may differ."""


@dataclass(frozen=True)
class Contestant:
    """A file that is compared, called `name`; `network` is equal for runs of one network, which is called `label`."""

    name: str
    path: Path
    runtime: Runtime
    run: Run | None
    network: str
    label: str
    start: str


@dataclass(frozen=True)
class Standing:
    """A network and what was measured of it: miou (m,) and iou (m, K) of its files, fractions; costs of the first.

    params and gmacs (by `macs`, at the size that was timed) are None for an exported file.
    """

    name: str
    start: str
    files: tuple[str, ...]
    miou: np.ndarray
    iou: np.ndarray
    params: int | None
    gmacs: float | None
    took: Took


@dataclass(frozen=True)
class Ranking:
    """Networks of one start, the highest mean mIoU first.

    differences are those of every pair, by their places in the list; none where `silence` says why nothing can be said.
    """

    start: str
    standings: tuple[Standing, ...]
    differences: tuple[Difference, ...]
    silence: str

    @property
    def best(self) -> Standing | None:
        """The one that is better than every other, if any is shown to be."""
        place = best(self.differences)
        return None if place is None else self.standings[place]

    @property
    def undecided(self) -> set[frozenset[str]]:
        """Pairs of names between which no difference is shown."""
        if not self.differences:
            return {frozenset((a.name, b.name)) for a in self.standings for b in self.standings if a is not b}
        pairs = [d for d in self.differences if d.better is None]
        return {frozenset((self.standings[d.first].name, self.standings[d.second].name)) for d in pairs}


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
    pictures: int
    classes: tuple[str, ...]
    mode: str
    units: str
    size: Size
    rankings: tuple[Ranking, ...]
    files: FilePairs | None
    timing: SideBySide | None


def open_contestants(names: Sequence[str], device: str = "cpu") -> list[Contestant]:
    """Open every file that is named. Raises ConfigError where one is named twice, RunError, ExportError and so on."""
    paths = [str(Path(name).resolve()) for name in names]
    if doubled := sorted({name for name, path in zip(names, paths, strict=True) if paths.count(path) > 1}):
        raise ConfigError(f"{doubled[0]} is named twice: expected every run or file once.")
    if len(names) < 2:
        raise ConfigError(f"{len(names)} to compare: name two runs or exported files, or more.")
    opened = [_open(name, device) for name in names]
    labels, short = _labels(opened), [Path(name).name for name in names]
    called = short if len(set(short)) == len(short) else names
    return [
        Contestant(name, path, runtime, run, key, labels[key], start)
        for name, (path, runtime, run, key, start) in zip(called, opened, strict=True)
    ]


def compare(
    contestants: Sequence[Contestant],
    data: SegmentationData,
    split: str,
    mode_of: Callable[[Runtime], Mode],
    size: Size,
    *,
    costs: bool = True,
    watch: Watch | None = None,
) -> Outcome:
    """Measure time and memory of one file a network, score everyone on every picture, and say what the figures allow.

    mode_of is how a network looks at pictures; size (height, width) is what one pass is timed with, `costs` False
    leaves time and memory out. A look at a split counts in every run, as `evaluate` counts it. Raises ConfigError where
    classes do not fit, RunError where a run cannot be written to.
    """
    for one in contestants:
        check_fit(one.runtime, data)
        if one.run and not _writable(one.run.path):
            raise RunError(f"{one.run.path} cannot be written, but looks at data are counted there. Compare a copy.")
    tell = watch or _nobody
    networks = _by_network(contestants)
    firsts = [files[0] for files in networks.values()]
    timing = _time(firsts, size, partial(tell, "time and memory")) if costs else None
    took = {one.network: timing.took(place) for place, one in enumerate(firsts)} if timing else {}
    modes = [mode_of(one.runtime) for one in contestants]
    scores = {
        one.path: _score(one, data, split, mode, partial(tell, f"scoring {one.name}"))
        for one, mode in zip(contestants, modes, strict=True)
    }
    standings, counts = {}, {}
    for key, files in networks.items():
        own = [scores[one.path] for one in files]
        standings[key] = _standing(files, own, took.get(key, Took()), size)
        counts[key] = np.stack([score.counts for score in own])
    units = units_of(data.keys)
    starts = dict.fromkeys(one.start for one in firsts)
    rankings = [_rank(s, {k: v for k, v in standings.items() if v.start == s}, counts, units) for s in starts]
    return Outcome(
        data=data.name,
        split=split,
        pictures=len(data),
        classes=tuple(c.name for c in data.classes),
        mode=", ".join(dict.fromkeys(map(str, modes))),
        units=units.words,
        size=size,
        rankings=tuple(rankings),
        files=_file_pairs(contestants, scores, units, [len(files) for files in networks.values()]),
        timing=timing,
    )


def picks(ranking: Ranking, max_ms: float | None, max_mib: float | None) -> list[tuple[Quantity, Pick]]:
    """The network of a ranking for each budget that is given."""
    budgets = [(LATENCY, max_ms), (MEMORY, max_mib)]
    return [
        (quantity, pick(points(ranking, quantity), budget, quantity, undecided=ranking.undecided))
        for quantity, budget in budgets
        if budget is not None
    ]


def points(ranking: Ranking, quantity: Quantity) -> list[Point]:
    """The networks of a ranking as points of a front, as far as they were measured."""
    found = []
    for s in ranking.standings:
        cost = s.took.p50_ms if quantity is LATENCY else s.took.process_mib
        if cost is not None:
            found.append(Point(s.name, cost, float(s.miou.mean())))
    return found


def to_json(outcome: Outcome, max_ms: float | None = None, max_mib: float | None = None) -> dict[str, Any]:
    """Everything as plain JSON values: mIoU and IoU as fractions, null where nothing was measured."""
    timing = outcome.timing
    ratios = timing.ratios() if timing else []
    return {
        "data": outcome.data,
        "split": outcome.split,
        "pictures": outcome.pictures,
        "classes": list(outcome.classes),
        "mode": outcome.mode,
        "units": outcome.units,
        "size": list(outcome.size),
        "machine": timing.machine if timing else None,
        "rankings": [
            {
                "start": r.start,
                "networks": [_standing_json(s) for s in r.standings],
                "differences": [_difference_json(d, [s.name for s in r.standings]) for d in r.differences],
                "silence": r.silence or None,
                "best": r.best.name if r.best else None,
                "picks": [
                    {"budget": q.name, "network": p.point.name if p.point else None, "reason": p.reason}
                    for q, p in picks(r, max_ms, max_mib)
                ],
            }
            for r in outcome.rankings
        ],
        "files": [_difference_json(d, outcome.files.names) for d in outcome.files.differences]
        if outcome.files
        else None,
        "times": [
            {"first": timing.names[r.first], "second": timing.names[r.second], "ratio": [r.value, r.low, r.high]}
            for r in ratios
            if timing
        ],
    }


def _open(name: str, device: str) -> tuple[Path, Runtime, Run | None, str, str]:
    """-> (path, runtime, run, what is equal for runs of one network, start)."""
    if is_exported_file(name):
        path = Path(name)
        return path, open_runtime(path, device), None, str(path.resolve()), NOT_RECORDED
    run = load_run(name)
    return run.path, open_runtime(run, device), run, _training(run), start_of(run)


def _training(run: Run) -> str:
    """All settings of a training but its seed, as one text."""
    return json.dumps([_settings(run), run.info.loaded], sort_keys=True)


def _settings(run: Run) -> dict[str, Any]:
    """{"train.lr": 0.002, ...}: every setting of a training that is not FREE."""
    tables = run.recipe.model_dump(mode="json")
    flat = {f"{table}.{key}": value for table, rows in tables.items() for key, value in (rows or {}).items()}
    return {name: value for name, value in flat.items() if name not in FREE}


def start_of(run: Run) -> str:
    """What a run's training started from: `from scratch`, `ImageNet weights`, `weights of NAME`."""
    loaded = run.info.loaded
    if run.imported:
        return NOT_RECORDED
    if "init" in loaded:
        return f"weights of {Path(str(loaded['init'])).name}"
    return "ImageNet weights" if "file" in loaded else "from scratch"


def _labels(opened: Sequence[tuple[Path, Runtime, Run | None, str, str]]) -> dict[str, str]:
    """A name for each network: its model's; where several trainings of one model are compared, also what differs."""
    trainings: dict[str, dict[str, tuple[Path, Run | None]]] = {}  # model -> network -> its first file
    for path, runtime, run, key, _ in opened:
        trainings.setdefault(run.recipe.model.name if run else runtime.name, {}).setdefault(key, (path, run))
    labels: dict[str, str] = {}
    for model, firsts in trainings.items():
        told = _told_apart(firsts) if len(firsts) > 1 else dict.fromkeys(firsts, "")
        labels |= {key: f"{model} ({words})" if words else model for key, words in told.items()}
    return labels


def _told_apart(firsts: dict[str, tuple[Path, Run | None]]) -> dict[str, str]:
    """What tells trainings of one model apart: the settings that differ where these are few, else the file's name."""
    settings = {key: _settings(run) for key, (_, run) in firsts.items() if run}
    names = sorted({name for values in settings.values() for name in values})
    differing = [name for name in names if len({repr(values.get(name)) for values in settings.values()}) > 1]
    words = {key: ", ".join(f"{name}={values.get(name)}" for name in differing) for key, values in settings.items()}
    if len(set(words.values())) < len(firsts) or len(differing) > MOST_SETTINGS:
        return {key: path.name for key, (path, _) in firsts.items()}
    return words


def _by_network(contestants: Sequence[Contestant]) -> dict[str, list[Contestant]]:
    """The files of each network, in the order in which they were named."""
    networks: dict[str, list[Contestant]] = {}
    for one in contestants:
        networks.setdefault(one.network, []).append(one)
    return networks


def _time(firsts: Sequence[Contestant], size: Size, progress: Progress) -> SideBySide:
    labels, paths, runtimes = zip(*((one.label, one.path, one.runtime) for one in firsts), strict=True)
    return time_side_by_side(labels, paths, runtimes, size, progress)


def _score(one: Contestant, data: SegmentationData, split: str, mode: Mode, progress: Progress) -> Scores:
    scores = evaluate(one.runtime, data, mode, boundary=False, progress=progress)
    if one.run:
        log_look(one.run, data, split, mode, scores)
    return scores


def _standing(files: Sequence[Contestant], scores: Sequence[Scores], took: Took, size: Size) -> Standing:
    first = files[0]
    cost = cost_of(build_network(first.run.info), first.label, size) if first.run else None
    return Standing(
        name=first.label,
        start=first.start,
        files=tuple(one.name for one in files),
        miou=np.array([s.miou for s in scores]),
        iou=np.stack([s.iou for s in scores]),
        params=cost.params if cost else None,
        gmacs=cost.macs["macs"] / 1e9 if cost else None,
        took=took,
    )


def _rank(start: str, standings: dict[str, Standing], counts: dict[str, np.ndarray], units: Units) -> Ranking:
    order = sorted(standings, key=lambda key: -standings[key].miou.mean())
    ranked = tuple(standings[key] for key in order)
    if len(ranked) < 2:
        return Ranking(start, ranked, (), "one network alone: nothing to compare it with")
    if silence := too_few_runs([len(s.miou) for s in ranked]):
        return Ranking(start, ranked, (), silence)
    return Ranking(start, ranked, tuple(compare_networks([counts[key] for key in order], units)), "")


def _file_pairs(
    contestants: Sequence[Contestant], scores: Mapping[Path, Scores], units: Units, runs: Sequence[int]
) -> FilePairs | None:
    """Every pair of files, where the networks themselves cannot be told apart and the pairs can be read."""
    if not too_few_runs(runs) or len(contestants) > MOST_FILES:
        return None
    names = tuple(one.name for one in contestants)
    return FilePairs(names, tuple(compare_files([scores[one.path].counts for one in contestants], units)))


def _nobody(words: str, done: int, of: int) -> None:
    """Nobody watches."""


def _writable(folder: Path) -> bool:
    return os.access(folder, os.W_OK)


def _standing_json(s: Standing) -> dict[str, Any]:
    return {
        "name": s.name,
        "files": list(s.files),
        "miou": float(s.miou.mean()),
        "runs": s.miou.tolist(),
        "iou": [None if np.isnan(v) else float(v) for v in s.iou.mean(axis=0)],
        "params": s.params,
        "gmacs": s.gmacs,
        **asdict(s.took),
    }


def _difference_json(d: Difference, names: Sequence[str]) -> dict[str, Any]:
    def interval(i: Any) -> list[float | None]:
        return [None if np.isnan(v) else float(v) for v in (i.value, i.low, i.high)]

    return {
        "first": names[d.first],
        "second": names[d.second],
        "miou": interval(d.miou),
        "classes": [interval(i) for i in d.classes],
        "better": None if d.better is None else names[d.better],
        "words": d.words(names),
    }
