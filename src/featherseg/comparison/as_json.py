"""A comparison as plain JSON values, for programs."""

from collections.abc import Sequence
from dataclasses import asdict
from typing import Any

import numpy as np

from featherseg.comparison.comparison import Budgets, CandidateResult, Outcome, Ranking
from featherseg.comparison.pareto import front
from featherseg.uncertainty.bootstrap import Difference, Interval


def to_json(outcome: Outcome, budgets: Budgets) -> dict[str, Any]:
    """Everything: mIoU and IoU as fractions, null where nothing was measured."""
    timing, files = outcome.timing, outcome.files
    return {
        "data": outcome.data,
        "split": outcome.split,
        "images": outcome.images,
        "classes": list(outcome.classes),
        "inference": outcome.inference,
        "clusters": outcome.clusters,
        "size": list(outcome.size),
        "machine": timing.machine if timing else None,
        "cautions": list(outcome.cautions),
        "rankings": [_ranking(ranking, budgets) for ranking in outcome.rankings],
        "files": [_difference(d, files.names) for d in files.differences] if files else None,
        "times": [
            {"first": timing.names[r.first], "second": timing.names[r.second], "ratio": [r.value, r.low, r.high]}
            for r in timing.ratios()
        ]
        if timing
        else [],
    }


def _ranking(ranking: Ranking, budgets: Budgets) -> dict[str, Any]:
    names = [s.name for s in ranking.results]
    return {
        "init": ranking.init,
        "models": [_result(s) for s in ranking.results],
        "differences": [_difference(d, names) for d in ranking.differences],
        "reason": ranking.reason or None,
        "left_out": list(ranking.left_out),
        "trained_unlike": list(ranking.unlike),
        "best": ranking.best.name if ranking.best else None,
        "fronts": {q.name: [p.name for p in front(points)] for q, points, _ in budgets.fronts(ranking) if points},
        "picks": [
            {"budget": q.name, "model": p.point.name if p.point else None, "reason": p.reason}
            for q, p in budgets.picks(ranking)
        ],
    }


def _result(s: CandidateResult) -> dict[str, Any]:
    return {
        "name": s.name,
        "files": list(s.files),
        "seeds": s.seeds,
        "miou": float(s.miou.mean()),
        "runs": s.miou.tolist(),
        "iou": [_number(v) for v in s.class_iou],
        "params": s.params,
        "gmacs": s.gmacs,
        **asdict(s.latencies),
    }


def _difference(d: Difference, names: Sequence[str]) -> dict[str, Any]:
    return {
        "first": names[d.first],
        "second": names[d.second],
        "miou": _interval(d.miou),
        "classes": [_interval(i) for i in d.classes],
        "better": None if d.better is None else names[d.better],
        "words": d.words(names),
    }


def _interval(i: Interval) -> list[float | None]:
    return [_number(v) for v in (i.value, i.low, i.high)]


def _number(value: float) -> float | None:
    return None if np.isnan(value) else float(value)
