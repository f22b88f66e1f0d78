"""Results of a comparison: rankings per initialisation, differences, picks for a budget."""

import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from featherseg.comparison.candidates import NOT_RECORDED
from featherseg.comparison.pareto import LATENCY, MEMORY, Pick, Point, Quantity, pareto_front, pick
from featherseg.comparison.side_by_side import MeasuredCosts, SideBySide
from featherseg.core.errors import ConfigError
from featherseg.core.types import Size
from featherseg.core.wording import brief, counted
from featherseg.evaluation.bootstrap import Difference, Interval, best
from featherseg.evaluation.scoring import number


@dataclass(frozen=True)
class CandidateResult:
    """Scores and costs of one model, of m seeds and K classes.

    Args:
        files: names of all its files; files with the same seed count once, as their mean.
        miou: (m,), fractions.
        iou: (m, K), fractions.
        params, gmacs: at the timed size, by `macs`; None if the model cannot be built.
        latency: latency and memory of the first file.
        pq: (m,) panoptic quality, fractions; None if no objects were scored.
    """

    name: str
    init: str
    files: tuple[str, ...]
    seeds: int
    miou: np.ndarray
    iou: np.ndarray
    params: int | None
    gmacs: float | None
    latency: MeasuredCosts
    pq: np.ndarray | None = None

    @property
    def class_iou(self) -> np.ndarray:
        """IoU of each class, (K,): mean of the seeds in which it is known; NaN if it is in none."""
        known = ~np.isnan(self.iou)
        return np.where(
            known.any(axis=0),
            np.where(known, self.iou, 0).sum(axis=0) / known.sum(axis=0).clip(1),
            np.nan,
        )

    def as_dict(self) -> dict[str, Any]:
        """Return plain values; mIoU and IoU are fractions, null if not measured."""
        return {
            "name": self.name,
            "files": list(self.files),
            "seeds": self.seeds,
            "miou": number(self.miou.mean()),
            "runs": [number(v) for v in self.miou],
            "pq": None if self.pq is None else number(self.pq.mean()),
            "pq_runs": None if self.pq is None else [number(v) for v in self.pq],
            "iou": [number(v) for v in self.class_iou],
            "params": self.params,
            "gmacs": self.gmacs,
            "latency_ms": {"p50": self.latency.p50_ms, "p95": self.latency.p95_ms},
            "memory_mib": self.latency.memory_mib,
        }


@dataclass(frozen=True)
class Ranking:
    """Models of one initialisation, the highest mean mIoU first.

    Args:
        differences: of every pair, by index in `results`; empty if there is a `reason`.
        reason: why nothing is compared; empty otherwise.
        left_out: models with too few runs to be compared.
        unlike: settings of the training in which the models differ.
        pq_differences: of panoptic quality, its mean and each class's.
    """

    init: str
    results: tuple[CandidateResult, ...]
    differences: tuple[Difference, ...]
    reason: str
    left_out: tuple[str, ...]
    unlike: tuple[str, ...]
    pq_differences: tuple[Difference, ...] = ()

    @property
    def by_pq(self) -> list[CandidateResult]:
        """Panoptic models, the highest mean PQ first."""
        known = [(float(s.pq.mean()), s) for s in self.results if s.pq is not None]
        return [s for _, s in sorted(known, key=lambda pair: -pair[0])]

    def pq_verdict(self) -> str:
        """Return `by PQ: a 54.53 %, b 50.10 %; a is better than every other`, no full stop."""
        order = ", ".join(
            f"{s.name} {100 * float(s.pq.mean()):.2f} %" for s in self.by_pq if s.pq is not None
        )
        first = best(self.pq_differences)
        shown = "no model is shown to be" if first is None else f"{self.results[first].name} is"
        seeds = " with three seeds" if any(s.name in self.left_out for s in self.by_pq) else ""
        claim = f"; {shown} better than every other{seeds}" if len(self.by_pq) > 1 else ""
        return f"by PQ: {order}{claim}"

    @property
    def best(self) -> CandidateResult | None:
        """The model that is shown to be better than every other compared model; None if none is."""
        place = best(self.differences)
        return None if place is None else self.results[place]

    @property
    def undecided(self) -> set[frozenset[str]]:
        """Pairs of names between which no difference is shown."""
        names = [s.name for s in self.results]
        return {
            frozenset((names[d.first], names[d.second]))
            for d in self.differences
            if d.better is None
        }

    @property
    def title(self) -> str:
        """`trained from scratch`, `trained from ImageNet weights`; another text if not recorded."""
        if self.init == NOT_RECORDED:
            return "what the training started from is not recorded"
        return f"trained {self.init if self.init.startswith('from ') else f'from {self.init}'}"

    def verdict(self) -> str:
        """Return what the figures show about the ranking, without a full stop."""
        if self.reason:
            return self.reason
        others = f"every other model {'with three seeds' if self.left_out else 'of this list'}"
        if self.best is None:
            return f"no model is shown to be better than {others}"
        training = ", as trained here," if self.unlike else ""
        return f"{self.best.name}{training} is better than {others}"

    def as_dict(self, budgets: "Budgets") -> dict[str, Any]:
        """Return plain values, with the best model for each budget."""
        names = [s.name for s in self.results]
        fronts = {
            q.name: [p.name for p in pareto_front(points)]
            for q, points, _ in budgets.fronts(self)
            if points
        }
        return {
            "init": self.init,
            "models": [s.as_dict() for s in self.results],
            "differences": [_difference(d, names) for d in self.differences],
            "by_pq": [s.name for s in self.by_pq],
            "pq_differences": [_difference(d, names, "pq") for d in self.pq_differences],
            "reason": self.reason or None,
            "left_out": list(self.left_out),
            "trained_unlike": list(self.unlike),
            "best": self.best.name if self.best else None,
            "pareto_fronts": fronts,
            "picks": [
                {"budget": q.name, "model": p.point.name if p.point else None, "reason": p.reason}
                for q, p in budgets.picks(self)
            ],
        }


@dataclass(frozen=True)
class FilePairs:
    """Differences of files, by index in `names`; they say nothing about the models."""

    names: tuple[str, ...]
    differences: tuple[Difference, ...]
    pq_differences: tuple[Difference, ...] = ()


@dataclass(frozen=True)
class Budgets:
    """Limits of latency and memory; None: no limit."""

    max_ms: float | None = None
    max_mib: float | None = None

    def check(self, costs: bool) -> None:
        """Raise ConfigError if a budget is not positive, or is not measured."""
        for flag, value in (("--max-ms", self.max_ms), ("--max-mib", self.max_mib)):
            if value is not None and not value > 0:
                raise ConfigError(f"{flag} {value:g}: expected a number above 0.")
            if value is not None and not costs:
                raise ConfigError(
                    f"{flag} needs time and memory to be measured: leave out --no-costs."
                )

    def fronts(self, ranking: Ranking) -> list[tuple[Quantity, list[Point], float | None]]:
        """Return (kind of cost, models by this cost, budget) for latency and memory."""
        return [
            (LATENCY, _points((s, s.latency.p50_ms) for s in ranking.results), self.max_ms),
            (MEMORY, _points((s, s.latency.memory_mib) for s in ranking.results), self.max_mib),
        ]

    def picks(self, ranking: Ranking) -> list[tuple[Quantity, Pick]]:
        """Return the best model of a ranking for each budget."""
        return [
            (quantity, pick(points, budget, quantity, undecided=ranking.undecided))
            for quantity, points, budget in self.fronts(ranking)
            if budget is not None
        ]


@dataclass(frozen=True)
class Comparison:
    """A whole comparison; `comparison_html` returns it as a page.

    Args:
        size: (height, width) of the timed images.
        files: differences of files, if there are too few runs to compare models.
        timing: None if latency was not measured.
        selected: whether a model that is chosen by these scores is selected on these images.
    """

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
    budgets: Budgets = Budgets()
    selected: bool = True

    def as_dict(self) -> dict[str, Any]:
        """Return JSON values; mIoU and IoU are fractions, null if not measured."""
        timing, files = self.timing, self.files
        ratios = timing.ratios() if timing else []
        names = timing.names if timing else ()
        return {
            "data": self.data,
            "split": self.split,
            **({"selected": True} if self.selected else {}),
            "images": self.images,
            "classes": list(self.classes),
            "inference": self.inference,
            "clusters": self.clusters,
            "size": list(self.size),
            "machine": timing.machine if timing else None,
            "cautions": list(self.cautions),
            "rankings": [ranking.as_dict(self.budgets) for ranking in self.rankings],
            "files": [_difference(d, files.names) for d in files.differences] if files else None,
            "pq_files": [_difference(d, files.names, "pq") for d in files.pq_differences]
            if files
            else None,
            "latency_ratios": [
                {
                    "first": names[r.first],
                    "second": names[r.second],
                    "ratio": [r.value, r.low, r.high],
                }
                for r in ratios
            ],
        }

    def __repr__(self) -> str:
        names = {result.name: None for ranking in self.rankings for result in ranking.results}
        images = counted(self.images, "image")
        return brief(self, f"{self.data} {self.split}", images, *names)

    def _repr_html_(self) -> str:
        """Return the sections of the page, for a notebook."""
        from featherseg.comparison.compare_page import sections_html

        return sections_html(self)


def _points(paid: Iterable[tuple[CandidateResult, float | None]]) -> list[Point]:
    """Return models with their cost, if cost and mIoU are known."""
    known = [(s.name, cost, float(s.miou.mean())) for s, cost in paid if cost is not None]
    return [Point(name, cost, miou) for name, cost, miou in known if not math.isnan(miou)]


def _difference(d: Difference, names: Sequence[str], of: str = "miou") -> dict[str, Any]:
    return {
        "first": names[d.first],
        "second": names[d.second],
        of: _interval(d.miou),
        "classes": [_interval(i) for i in d.classes],
        "clusters": d.miou.clusters,
        "better": None if d.better is None else names[d.better],
        "message": d.message(names),
    }


def _interval(i: Interval) -> list[float | None]:
    return [number(v) for v in (i.value, i.low, i.high)]
