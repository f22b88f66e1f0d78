"""What may be chosen, which of it keeps the limit, and what is timed to know that."""

import json
import math
from dataclasses import replace
from types import SimpleNamespace

import numpy as np
import pytest
from support.models.fit_plans import fit_plan, timing
from support.models.small_training import Silent

from featherseg.core.errors import RunError
from featherseg.fitting import feasible, latency
from featherseg.fitting.candidates import (
    MODELS,
    SCALES,
    TINY,
    has_weights,
    in_line,
    offers,
    resize_of,
    settings_of,
)
from featherseg.fitting.halving import MOST, SPARE
from featherseg.models import MODELS as CATALOGUE

# What may be chosen


def test_offers_are_models_of_the_catalogue_at_scales_the_cheapest_first():
    assert set(MODELS) <= set(CATALOGUE)
    found = offers((400, 600))
    assert {offer.scale for offer in found} == set(SCALES)
    assert [offer.macs for offer in found] == sorted(offer.macs for offer in found)
    assert {offer.scale for offer in offers((360, 480))} == {*SCALES, 1.5, 2.0}
    assert {offer.scale for offer in offers((70, 70))} == {1.0, 1.5, 2.0}  # no side below 64 pixels
    assert {offer.scale for offer in offers((40, 40))} == {2.0}


def test_models_are_guessed_in_table_order_and_tiny_images_are_enlarged_first():
    here = [name for name in MODELS if has_weights(name)] or list(MODELS)
    assert [one.model for one in in_line(offers((1080, 1920)), (1080, 1920))] == here
    side = math.isqrt(TINY)
    assert in_line(offers((side, side)), (side, side))[0].name == f"{here[0]} at 1.5"
    assert in_line(offers((side, side + 1)), (side, side + 1))[0].name == f"{here[0]} at 1"


def test_a_candidate_is_trained_at_its_scale_at_a_constant_rate():
    assert resize_of(0.5, (360, 480)) == (180, 240)
    assert resize_of(1.0, (360, 480)) is None
    assert resize_of(1.0, (480, 360), whole=False) == (360, 480)
    found = settings_of((180, 240), (720, 960), {"name": "shapes", "root": None})
    assert found["augment.crop"] == (180, 240)
    assert found["augment.resize"] == found["data.test_resize"] == (180, 240)
    assert found["train.schedule"] == "stable"
    assert not {"data.root", "model.pretrained"} & found.keys()
    assert settings_of(None, (720, 960), {}, pretrained=False)["model.pretrained"] is False


# Which keep the limit


def measured(
    monkeypatch, speed, max_ms, hours=100.0, pace=1.0, broken=(), wrong=1.7, power=1.0, alone=()
):
    """Return candidates timed by `speed` a multiply-accumulate and `pace` s a timing, and all.

    power: exponent of the scale in these times beside the multiply-accumulates'. alone: candidates
    after which the time is too short for another.
    """
    now = [0.0]
    monkeypatch.setattr(feasible, "time", SimpleNamespace(monotonic=lambda: now[0]))
    monkeypatch.setattr(feasible, "guess_speed", lambda: wrong * speed)  # no guess is right
    choice = offers((100, 100))
    truth = {offer.name: offer.macs * 1e4 * speed * offer.scale ** (power - 1) for offer in choice}

    def measure(offer):
        now[0] += pace
        if offer.model in broken:
            raise RunError(f"{offer.name} could not be timed")
        return timing(offer.model, offer.scale, truth[offer.name])

    config = fit_plan(max_ms=max_ms, hours=hours).config
    found = feasible.time_offers(
        choice, config, (100, 100), measure, lambda t: t.name in alone, 0.0, Silent()
    )
    assert len({(t.model, t.scale) for t in found}) == len(found)
    return found, truth


@pytest.mark.parametrize("power", [1.0, 0.0])  # of small images most is not multiplied
@pytest.mark.parametrize("max_ms", [3.0, 7.0, 10.0, 40.0, 1000.0])
def test_those_that_would_be_compared_are_timed(monkeypatch, max_ms, power):
    choice = offers((100, 100))
    found, truth = measured(monkeypatch, 2.0 / (choice[0].macs * 1e4), max_ms, power=power)
    kept = {t.name for t in found if t.keeps(max_ms, 50, None)}
    best = in_line([one for one in choice if truth[one.name] <= (1 - SPARE) * max_ms], (100, 100))[
        :MOST
    ]
    assert kept >= {one.name for one in best}
    assert len(found) <= MOST + 5
    if max_ms == 1000:
        assert {t.scale for t in found} == {1.0, 1.5}


def test_with_little_time_the_best_guess_within_the_limit_is_timed(monkeypatch):
    speed = 2.0 / (offers((100, 100))[0].macs * 1e4)
    found, truth = measured(monkeypatch, speed, 40.0, hours=40 / 3600, pace=4.0)  # 4 s for timing
    best = in_line([one for one in offers((100, 100)) if truth[one.name] <= 40 / 1.7], (100, 100))[
        0
    ]
    assert [t.name for t in found] == [best.name]


def test_none_is_timed_beside_a_best_guess_that_trains_alone(monkeypatch):
    choice = offers((100, 100))
    speed, names = 2.0 / (choice[0].macs * 1e4), {offer.name for offer in choice}
    best = in_line(choice, (100, 100))[0].name
    assert [t.name for t in measured(monkeypatch, speed, 1000.0, alone=names)[0]] == [best]
    assert len(measured(monkeypatch, speed, 1000.0, alone=names - {best})[0]) == MOST
    # If the first are over the limit and the cheapest is not, a better guess is still timed
    found, truth = measured(monkeypatch, speed, 10.0, wrong=0.1, alone=names)
    within = [one for one in choice if truth[one.name] <= (1 - SPARE) * 10.0]
    assert not found[0].keeps(10.0, 50, None)
    kept = [t for t in found if t.keeps(10.0, 50, None)]
    assert in_line(kept, (100, 100))[0].name == in_line(within, (100, 100))[0].name


def test_one_that_cannot_be_timed_is_left_out_and_the_others_go_on(monkeypatch):
    broken = {"frm-lite0-light"}
    found, _ = measured(monkeypatch, 1e-12, 1000.0, broken=broken)
    assert len(found) == MOST
    assert not broken & {t.model for t in found}
    with pytest.raises(RunError, match="could not be timed"):
        measured(monkeypatch, 1e-12, 1000.0, broken=set(MODELS))


def test_timing_ends_with_its_share_of_the_time_and_where_nothing_keeps_the_limit(monkeypatch):
    cheapest = min(offer.macs for offer in offers((100, 100))) * 1e4
    found, _ = measured(monkeypatch, 2.0 / cheapest, 40.0, hours=0.1, pace=10.0)
    assert 10 * len(found) <= 0.1 * 360
    found, _ = measured(monkeypatch, 2.0 / cheapest, 1.0, pace=10.0)
    assert 10 * len(found) <= 60
    found, _ = measured(monkeypatch, 2.0 / cheapest, 1.0, pace=29.0)
    assert [t.p50 for t in found] == pytest.approx([2.0])
    found, _ = measured(
        monkeypatch, 2.0 / cheapest, 3.0, hours=0.1, pace=30.0, wrong=0.3
    )  # the first guess is over it
    assert [t.keeps(3.0, 50, None) for t in found] == [False, True]
    assert min(t.p50 for t in found) == pytest.approx(2.0)
    assert "The fastest is frm-lite0-half-light-w32 at" in str(
        feasible.no_candidate(fit_plan(max_ms=1.0).config, found)
    )


def test_a_limit_is_of_time_with_something_to_spare_and_of_memory():
    one = timing(p50=10.0, p95=19.0, memory=300.0)
    assert one.keeps(12.0, 50, None)
    assert not one.keeps(10.5, 50, None)
    assert one.keeps(10.5, 50, None, spare=0)
    assert not one.keeps(12.0, 95, None)
    assert not one.keeps(12.0, 50, 299)
    assert replace(one, memory_mib=None).keeps(12.0, 50, 299)


def test_what_was_measured_before_is_taken_where_it_is_believed(tmp_path, monkeypatch):
    monkeypatch.setenv("FEATHERSEG_HOME", str(tmp_path))
    monkeypatch.setattr(latency, "write_untrained", lambda *given: given[-1])
    taken = iter((30.0, 12.0))
    monkeypatch.setattr(latency, "time_file", lambda *_: timing(p50=next(taken)))
    given = ("frm-lite0-light", 1.0, "onnx"), (), None, np.zeros((8, 8, 3), np.uint8), ()
    assert latency.time_candidate(*given).timing.p50 == 30.0
    assert latency.time_candidate(*given).timing.p50 == 30.0
    assert (
        latency.time_candidate(*given, lambda t: t.p50 < 20).timing.p50 == 12.0
    )  # nothing ran beside it this time
    assert latency.time_candidate(*given, lambda t: t.p50 < 20).timing.p50 == 12.0

    # What it took is known of it, and a row that cannot be does not take the others with it
    assert latency.time_candidate(*given).seconds > 0
    rows = json.loads((tmp_path / "latency.json").read_text())
    wrong = {"timing": {**next(iter(rows.values()))["timing"], "p50": "fast"}, "seconds": 1.0}
    (tmp_path / "latency.json").write_text(
        json.dumps({"a": wrong, **rows, "b": {"p50": 1.0}, "c": None})
    )
    assert latency._read_cache(tmp_path / "latency.json").keys() == rows.keys()
    assert latency.time_candidate(*given).timing.p50 == 12.0

    # The cache may lie where machines of one name and other generations use it
    taken, found = iter((20.0, 15.0)), latency.machine()
    for kind, p50 in (({"cpu_model": "another"}, 20.0), ({"flags": ["none"]}, 15.0), ({}, 12.0)):
        monkeypatch.setattr(latency, "machine", lambda kind=kind: {**found, **kind})
        assert latency.time_candidate(*given).timing.p50 == p50
    monkeypatch.setattr(
        latency, "machine", lambda: {**found, "cpu_family": "25", "cpu_model": "17"}
    )
    assert "(family 25, model 17), " in latency.here()[0]
