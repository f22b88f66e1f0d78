from dataclasses import replace

import numpy as np
import pytest

import featherseg.fitting.halving as plans
from featherseg.fitting.halving import (
    DECAY,
    FINAL_STEPS,
    FINALIST,
    FIRST,
    LEAST,
    LEAST_STEPS,
    MOST,
    Candidate,
    best_guesses,
    least_to_compare,
    make_schedule,
    survivors,
)
from featherseg.recipe.tables import TrainTable


def candidate(number, latency=None, step=0.1):
    return Candidate(f"model-{number}", 1.0, float(latency or number + 1), step)


EIGHT = [candidate(number, step=0.05 * (number + 1)) for number in range(8)]
ORDERED = EIGHT[::-1]  # the best guess first
FAST = [replace(one, step_seconds=one.step_seconds / 4) for one in ORDERED]


def order(*rows, place=("large", "middle", "small").index, **first):
    guesses = best_guesses(
        [Candidate(model, scale, 100 * scale, 0.1) for model, scale in rows], place, **first
    )
    return [(one.model, one.scale) for one in guesses]


def test_the_best_guess_is_the_first_model_at_its_scale_nearest_to_1():
    rows = [
        ("small", 1.0),
        ("small", 2.0),
        ("large", 0.5),
        ("large", 0.75),
        ("middle", 1.0),
        ("middle", 1.5),
    ]
    assert order(*rows)[0] == ("large", 0.75)
    assert order(*rows, ("large", 1.0), ("large", 1.5), ("large", 2.0))[0] == ("large", 1.0)
    assert order(("large", 2.0), ("large", 1.5))[0] == ("large", 1.5)


def test_models_are_compared_before_scales_and_of_each_two_at_most():
    scales = (0.5, 0.75, 1.0, 1.5, 2.0)
    found = order(*[(model, scale) for scale in scales for model in ("small", "large", "middle")])
    assert found == [
        (model, scale) for scale in (1.0, 1.5) for model in ("large", "middle", "small")
    ]
    assert order(("small", 0.5), ("small", 0.75)) == [("small", 0.75)]

    # Of many models the first ones are compared enlarged before the others are at all
    rows = [(str(number), scale) for scale in scales for number in range(9)]
    found = order(*rows, place=int)
    assert found[:MOST] == [(str(n), scale) for scale in (1.0, 1.5) for n in range(FIRST)]
    assert len(found) == 18

    # Where images are tiny they are compared enlarged first
    found = order(*rows, place=int, enlarged_first=True)
    assert found[:MOST] == [(str(n), scale) for scale in (1.5, 1.0) for n in range(FIRST)]
    assert order(("small", 0.5), ("small", 0.75), ("large", 1.0), enlarged_first=True)[0] == (
        "large",
        1.0,
    )


@pytest.mark.parametrize("seed", range(60))
def test_a_plan_fits_into_its_time_and_half_of_it_is_the_last_one_s(seed):
    rng = np.random.default_rng(seed)
    steps, seconds = (
        rng.uniform(0.01, 5, rng.integers(1, 13)).tolist(),
        float(10 ** rng.uniform(0, 5)),
    )
    schedule = make_schedule([candidate(n, step=step) for n, step in enumerate(steps)], seconds)
    price = {one.name: one.step_seconds for one in schedule.candidates}
    assert len(schedule.candidates) <= min(MOST, len(steps))
    for winner in price:
        # The winner stays whoever is dropped: the time of all trained segments, dearest others
        spent, before, left = 0.0, dict.fromkeys(price, 0), list(price)
        for rung, keep in schedule.rungs:
            spent += sum((rung[name] - before[name]) * price[name] for name in left)
            before = dict(rung)
            left = [winner, *(name for name in left if name != winner)][:keep]
        assert left == [winner] or len(price) == 1
        alone = (schedule.final[winner] - before[winner]) * price[winner]
        whole_steps = sum(price.values()) * (
            1 + len(schedule.rungs)
        )  # at least one step each, whatever it takes
        assert spent + alone <= seconds + whole_steps
        assert alone >= FINALIST * seconds - 2 * price[winner] or seconds < whole_steps


def test_the_first_ones_train_and_each_rung_halves_them():
    schedule = make_schedule(ORDERED, 8 * 3600)
    assert [one.name for one in schedule.candidates] == [
        f"model-{n} at 1" for n in range(7, -1, -1)
    ]
    assert [keep for _, keep in schedule.rungs] == [4, 2, 1]
    seconds = [rung["model-3 at 1"] * 0.2 for rung, _ in schedule.rungs]
    a_rung = 4 * 3600 / 3
    assert seconds == pytest.approx(
        [a_rung / 8, a_rung * (1 / 8 + 1 / 4), a_rung * (1 / 8 + 1 / 4 + 1 / 2)], abs=0.4
    )
    steps = schedule.final["model-3 at 1"]
    assert steps * 0.2 == pytest.approx(seconds[-1] + 4 * 3600, abs=0.8)


def test_no_candidate_is_wasted_where_they_are_no_power_of_two():
    for count, keeps in ((3, [2, 1]), (5, [3, 2, 1]), (7, [4, 2, 1])):
        schedule = make_schedule(ORDERED[:count], 48 * LEAST)
        assert len(schedule.candidates) == count
        assert [keep for _, keep in schedule.rungs] == keeps
    assert len(make_schedule(FAST, 12 * LEAST).candidates) == 3


def test_candidates_that_train_at_once_get_more_time_each():
    schedule = make_schedule(ORDERED, 8 * 3600, at_once=4)
    seconds = [rung["model-3 at 1"] * 0.2 for rung, _ in schedule.rungs]
    a_rung = 4 * 3600 / 3
    assert seconds == pytest.approx(
        [a_rung / 2, a_rung * (1 / 2 + 1), a_rung * (1 / 2 + 1 + 1)], abs=0.4
    )
    assert len(make_schedule(FAST, 12 * LEAST, at_once=4).candidates) == 8  # 48 one after the other


@pytest.mark.parametrize("at_once", [1, 8])
def test_a_fast_machine_gets_no_more_steps_than_a_training_may_have(at_once):
    schedule = make_schedule([candidate(n, step=0.001) for n in range(8)], 60 * 3600.0, at_once)
    for steps in schedule.final.values():
        decay = int(DECAY * steps)
        assert TrainTable(schedule="stable", steps=steps, decay_steps=decay)
        assert all(rung[name] <= steps - decay for rung, _ in schedule.rungs for name in rung)
    assert schedule.final["model-0 at 1"] == TrainTable(steps=10**7).steps
    with pytest.raises(ValueError, match="steps"):
        TrainTable(steps=10**7 + 1)


def test_with_little_time_it_is_the_rule_the_best_guess():
    for seconds, compared in ((4 * LEAST - 1, 1), (4 * LEAST, 2), (16 * LEAST, 4), (48 * LEAST, 8)):
        schedule = make_schedule(FAST, seconds)
        assert len(schedule.candidates) == compared
        assert schedule.candidates[0].name == "model-7 at 1"
    assert make_schedule(ORDERED, 10.0).final == {"model-7 at 1": 25}
    with pytest.raises(ValueError, match="found 0 and 60"):
        make_schedule([], 60)


def test_none_is_dropped_before_it_had_a_hundred_steps(monkeypatch):
    monkeypatch.setattr(plans, "FINAL_STEPS", 0)
    assert len(make_schedule(ORDERED, 8 * 3600).candidates) == 8
    for step, compared in ((1.49, 4), (1.51, 3), (2.01, 2), (6.01, 1)):
        slow = [candidate(8, step=step), *ORDERED]
        schedule = make_schedule(slow, 24 * 100.0)
        assert len(schedule.candidates) == compared
        assert all(min(steps.values()) >= LEAST_STEPS for steps, _ in schedule.rungs)


def test_none_is_compared_where_the_last_one_would_have_too_few_steps():
    for step, compared in ((1.99, 4), (2.01, 1)):
        slow = [candidate(8, step=step), *ORDERED[:3]]
        schedule = make_schedule(slow, 2 * FINAL_STEPS * 2.0)
        assert len(schedule.candidates) == compared
        before = schedule.rungs[-1].steps["model-8 at 1"] if schedule.rungs else 0
        assert schedule.final["model-8 at 1"] - before >= FINAL_STEPS

    # Too slow candidates: the first gets all of the time, others are skipped
    assert (
        len(
            make_schedule([*ORDERED[:3], candidate(8, step=2.01)], 2 * FINAL_STEPS * 2.0).candidates
        )
        == 3
    )


def test_noise_is_settled_by_latency():
    standing = list(zip(EIGHT[:4], [0.60, 0.62, 0.64, 0.70], strict=True))

    def kept(keep, margin):
        return [one.latency_ms for one in survivors(standing, keep, margin)]

    assert kept(1, 0.0) == [4.0]
    assert kept(1, 0.05) == [4.0]
    assert kept(1, 0.06) == [3.0]
    assert kept(1, 0.2) == [1.0]
    assert kept(2, 0.0) == [4.0, 3.0]
    assert kept(2, 0.03) == [4.0, 2.0]  # the best is safe, and the second is level with the third
    assert kept(2, 0.05) == [4.0, 1.0]
    assert kept(4, 0.5) == [1.0, 2.0, 3.0, 4.0]


def test_nobody_gives_way_to_one_who_is_worse_by_more_than_noise():
    standing = list(zip(EIGHT[:4], [0.4951, 0.4955, 0.5, 0.504], strict=True))
    assert [one.latency_ms for one in survivors(standing, 2, 0.005)] == [3.0, 4.0]


@pytest.mark.parametrize("seed", range(60))
def test_nobody_goes_on_who_is_worse_than_the_line_by_more_than_noise(seed):
    rng = np.random.default_rng(seed)
    scores, keep, margin = (
        rng.uniform(0, 1, rng.integers(1, 9)).tolist(),
        int(rng.integers(1, 9)),
        rng.uniform(0, 0.2),
    )
    standing = list(zip(EIGHT, scores, strict=False))
    found = survivors(standing, keep, margin)
    assert len(found) == len(set(found)) == min(keep, len(scores))
    score, line = dict(standing), sorted(scores, reverse=True)[:keep][-1]
    assert all(score[one] >= line - margin for one in found)
    assert all(one in found for one, value in standing if value > line + margin)
    assert survivors(standing[::-1], keep, margin) == found


@pytest.mark.parametrize("step", [0.01, 0.2, 3.0])
def test_two_are_compared_from_so_many_seconds_on(step):
    two, least = [candidate(1, step=step), candidate(2, step=step)], least_to_compare(step)
    assert [len(make_schedule(two, share * least).candidates) for share in (0.99, 1.01)] == [1, 2]
