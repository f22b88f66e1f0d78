"""Rankings by mIoU and by panoptic quality."""

from dataclasses import replace

import numpy as np
from support.models.simulated_scores import training_runs

from featherseg.comparison.compare import _differences
from featherseg.comparison.compare_results import Budgets, CandidateResult, Ranking
from featherseg.comparison.side_by_side import MeasuredCosts
from featherseg.evaluation.bootstrap import compare_models
from featherseg.evaluation.clusters import single_images


def result(name: str, miou: float, pq: float | None) -> CandidateResult:
    seeds = np.array([-0.01, 0.0, 0.01])
    of_objects = None if pq is None else pq + seeds
    iou = np.full((3, 5), miou)
    return CandidateResult(
        name, "scratch", (name,), 3, miou + seeds, iou, None, None, MeasuredCosts(), of_objects
    )


def test_panoptic_models_are_ranked_by_pq_beside_miou():
    runs = training_runs(np.random.default_rng(0), 9, 100, spread=0.02, noise=0.1)
    runs[:3, :, 1] = np.round(0.7 * runs[:3, :, 1])
    differences = _differences([runs[:3], None, runs[6:]], compare_models, single_images(100))
    assert [(d.first, d.second, d.better) for d in differences] == [(0, 2, 2)]
    results = result("masks", 0.7, 0.2), result("plain", 0.65, None), result("objects", 0.6, 0.4)
    found = Ranking("scratch", results, (), "", (), (), differences)
    assert [s.name for s in found.by_pq] == ["objects", "masks"]
    assert (
        found.pq_verdict()
        == "by PQ: objects 40.00 %, masks 20.00 %; objects is better than every other"
    )
    few = replace(found, results=(*results, result("new", 0.5, 0.9)), left_out=("new",))
    assert few.pq_verdict().endswith("; objects is better than every other with three seeds")
    values = found.as_dict(Budgets())
    assert values["by_pq"] == ["objects", "masks"]
    assert [round(model["pq"], 6) if model["pq"] else None for model in values["models"]] == [
        0.2,
        None,
        0.4,
    ]
    assert values["pq_differences"][0]["better"] == "objects"
    assert values["pq_differences"][0]["pq"][2] < 0


def test_only_what_was_compared_is_undecided():
    runs = training_runs(np.random.default_rng(0), 6, 100, spread=0.02, noise=0.1)
    differences = tuple(compare_models([runs[:3], runs[3:]], single_images(100)))
    results = tuple(result(name, 0.7, None) for name in "abc")
    found = Ranking("scratch", results, differences, "", ("c",), ())
    assert found.undecided == {frozenset("ab")}
    assert replace(found, differences=()).undecided == set()


def test_models_without_objects_are_not_ranked_by_pq():
    found = Ranking("scratch", (result("a", 0.7, None), result("b", 0.6, None)), (), "", (), ())
    assert (found.by_pq, found.pq_differences) == ([], ())


def test_what_is_not_known_is_null_in_json():
    values = result("a", np.nan, np.nan).as_dict()
    assert (values["miou"], values["pq"]) == (None, None)
    assert values["runs"] == values["pq_runs"] == [None] * 3


def test_a_model_whose_miou_is_not_known_is_on_no_front():
    ranked = Ranking("scratch", (result("a", 0.7, None), result("b", np.nan, None)), (), "", (), ())
    timed = replace(
        ranked, results=tuple(replace(s, latency=MeasuredCosts(9.0, 9.5)) for s in ranked.results)
    )
    assert [p.name for p in Budgets(max_ms=10).fronts(timed)[0][1]] == ["a"]


def test_costs_in_json_are_named_as_those_of_fit():
    measured = replace(
        result("a", 0.7, None), latency=MeasuredCosts(12.5, 15.0, process_mib=300.0, gpu_mib=90.0)
    )
    assert measured.as_dict()["latency_ms"] == {"p50": 12.5, "p95": 15.0}
    assert measured.as_dict()["memory_mib"] == 90.0
    assert result("b", 0.6, None).as_dict()["latency_ms"] == {"p50": None, "p95": None}
