"""What a comparison found: models ranked by initialisation, differences with intervals, picks for a budget."""

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
from featherseg.evaluation.bootstrap import Difference, Interval, best
from featherseg.evaluation.scoring import number


@dataclass(frozen=True)
class CandidateResult:
    """A model and what was measured of it: miou (m,) and iou (m, K) of its seeds, fractions; costs of the first file.

    Files of one seed, which are no further trainings, stand in `files` and have their mean in the others. pq (m,) is
    that of a panoptic model, a fraction, None where no objects were scored. params and gmacs (by `macs`, at the size
    that was timed) are None for a file that does not name its model.
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
        """IoU of each class, (K,): the mean of the seeds in which it is known, NaN where it is in none."""
        known = ~np.isnan(self.iou)
        return np.where(
            known.any(axis=0),
            np.where(known, self.iou, 0).sum(axis=0) / known.sum(axis=0).clip(1),
            np.nan,
        )

    def as_dict(self) -> dict[str, Any]:
        """Plain values; mIoU and IoU as fractions, null where nothing was measured."""
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

    differences are those of every pair, by their places in the list; none where `reason` says why.
    left_out are models that are not compared as they have too few runs; unlike are settings of the training in
    which these models differ. pq_differences are those of PQ, its mean and each class's, of the panoptic models.
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
        """The panoptic models, the highest mean PQ first."""
        known = [(float(s.pq.mean()), s) for s in self.results if s.pq is not None]
        return [s for _, s in sorted(known, key=lambda pair: -pair[0])]

    def pq_verdict(self) -> str:
        """`by PQ: a 54.53 %, b 50.10 %; a is better than every other` where that is shown; no full stop."""
        order = ", ".join(
            f"{s.name} {100 * float(s.pq.mean()):.2f} %" for s in self.by_pq if s.pq is not None
        )
        first = best(self.pq_differences)
        shown = "no model is shown to be" if first is None else f"{self.results[first].name} is"
        seeds = " with three seeds" if any(s.name in self.left_out for s in self.by_pq) else ""
        return f"by PQ: {order}" + (
            f"; {shown} better than every other{seeds}" if len(self.by_pq) > 1 else ""
        )

    @property
    def best(self) -> CandidateResult | None:
        """The one that is better than every other that is compared, if any is shown to be."""
        place = best(self.differences)
        return None if place is None else self.results[place]

    @property
    def undecided(self) -> set[frozenset[str]]:
        """Pairs of names that were compared, and between which no difference is shown."""
        names = [s.name for s in self.results]
        return {
            frozenset((names[d.first], names[d.second]))
            for d in self.differences
            if d.better is None
        }

    @property
    def title(self) -> str:
        """`trained from scratch`, `trained from ImageNet weights`, or that it is not recorded."""
        if self.init == NOT_RECORDED:
            return "what the training started from is not recorded"
        return f"trained {self.init if self.init.startswith('from ') else f'from {self.init}'}"

    def verdict(self) -> str:
        """What the figures show of the list as a whole; no full stop."""
        if self.reason:
            return self.reason
        others = (
            "every other model with three seeds"
            if self.left_out
            else "every other model of this list"
        )
        if self.best is None:
            return f"no model is shown to be better than {others}"
        return (
            f"{self.best.name}{', as trained here,' if self.unlike else ''} is better than {others}"
        )

    def as_dict(self, budgets: "Budgets") -> dict[str, Any]:
        """Plain values, the model for each budget among them."""
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
    """Every pair of *these files*, by their `names`; says nothing about the models."""

    names: tuple[str, ...]
    differences: tuple[Difference, ...]
    pq_differences: tuple[Difference, ...] = ()


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
                raise ConfigError(
                    f"{flag} needs time and memory to be measured: leave out --no-costs."
                )

    def fronts(self, ranking: Ranking) -> list[tuple[Quantity, list[Point], float | None]]:
        """What is paid, the models by it, and the budget for it."""
        return [
            (LATENCY, _points((s, s.latency.p50_ms) for s in ranking.results), self.max_ms),
            (MEMORY, _points((s, s.latency.memory_mib) for s in ranking.results), self.max_mib),
        ]

    def picks(self, ranking: Ranking) -> list[tuple[Quantity, Pick]]:
        """The model of a ranking for each budget that is given."""
        return [
            (quantity, pick(points, budget, quantity, undecided=ranking.undecided))
            for quantity, points, budget in self.fronts(ranking)
            if budget is not None
        ]


@dataclass(frozen=True)
class Comparison:
    """A whole comparison. size is that of the images that were timed; timing None where that was left out; selected:
    whether to choose by it is to select on these images.

    `print(comparison.as_dict())`, or the name alone in a notebook; `comparison_html` makes a page of it.
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
        """Everything as plain JSON values: mIoU and IoU as fractions, null where nothing was measured."""
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

    def _repr_html_(self) -> str:
        """For a notebook: the sections of the page without its head."""
        from featherseg.comparison.compare_page import sections_html

        return sections_html(self)


def _points(paid: Iterable[tuple[CandidateResult, float | None]]) -> list[Point]:
    """Models with what they cost, as far as cost and mIoU are known."""
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
