"""The self test on scores of known truth: better than chance or not, intervals, calibration."""

from itertools import permutations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from featherseg.auditing import self_test
from featherseg.auditing.self_test import (
    PLANTED,
    Calibration,
    Copies,
    SelfTest,
    _precisions,
    average_precision,
    fit_calibration,
    random_order,
    run_self_test,
)

NAMES = ("dropped", "other")


@pytest.fixture(autouse=True)
def few_replicates(monkeypatch) -> None:
    monkeypatch.setattr(self_test, "REPLICATES", 200)


def audited(
    seed: int,
    apart: float,
    count: int = 200,
    in_a_clip: int = 1,
    alike: float = 0.0,
    plain: float = 0.0,
    of_masks: float = 0.0,
) -> tuple[SelfTest, Calibration]:
    """Run a self test on normal scores: faults score `apart` higher, clips share the part `alike`.

    A share `plain` of the masks shows one class. Masks of several classes score `of_masks` higher,
    with or without a fault. Faults of the second kind show several classes on any mask.
    """
    rng = np.random.default_rng(seed)
    of_clip = np.repeat(rng.normal(size=-(-count // in_a_clip)), in_a_clip)[:count]
    own = np.sqrt(alike) * of_clip + np.sqrt(1 - alike) * rng.normal(size=count)
    shows_one = rng.random(count) < plain
    image, fault = np.repeat(np.arange(count), 2), np.tile([0, 1], count)
    copy_plain = shows_one[image] & (fault == 0)
    kept = ~copy_plain  # nothing can be dropped from a mask of one class
    image, fault, copy_plain = image[kept], fault[kept], copy_plain[kept]
    level = (
        np.sqrt(alike) * of_clip[image] + np.sqrt(1 - alike) * rng.normal(size=len(image)) + apart
    )

    def score(values: np.ndarray, one: np.ndarray) -> np.ndarray:
        return 1 / (1 + np.exp(-values - of_masks * ~one))

    copies = Copies(image, fault, score(level, copy_plain), level, copy_plain)
    keys = [f"clip{number // in_a_clip}/{number:04}" for number in range(count)]
    return run_self_test(score(own, shows_one), own, shows_one, copies, 0.5, NAMES, keys, None)


@pytest.mark.slow
@pytest.mark.parametrize("alike", [0.0, 0.8])
def test_a_list_that_knows_nothing_is_rarely_called_better_than_chance(alike):
    better = [audited(seed, 0.0, 60, 5, alike)[0].better_than_chance for seed in range(60)]
    assert np.mean(better) <= 0.1


def test_a_list_that_finds_faults_is_called_better_than_chance():
    assert all(audited(seed, 1.5, 60, 5)[0].better_than_chance for seed in range(10))


@pytest.mark.seconds
def test_a_list_that_knows_only_which_masks_show_one_class_is_no_better_than_chance():
    tests = [audited(seed, 0.0, plain=0.6, of_masks=3.0)[0] for seed in range(20)]
    assert all(
        test.average_precision.low > random_order(test.images, test.planted) for test in tests
    )
    assert np.mean([test.better_than_chance for test in tests]) <= 0.1


@pytest.mark.slow
def test_the_intervals_hold_the_mean_of_many_audits():
    found = [audited(seed, 1.0, 150, 3, 0.3)[0].average_precision for seed in range(60)]
    truth = np.mean([one.value for one in found])
    assert np.mean([one.low <= truth <= one.high for one in found]) >= 0.85


@pytest.mark.seconds
def test_the_precision_of_the_first_is_that_of_a_walk_down_lists_with_planted_faults():
    rng, found = np.random.default_rng(0), []
    for _ in range(400):
        wrong = rng.permutation(200) < PLANTED * 200
        found.append(wrong[np.argsort(-(rng.normal(size=200) + 1.0 * wrong))[:50]].mean())
    told = [audited(seed, 1.0)[0].precision_at_50 for seed in range(20)]
    assert np.mean([one.value for one in told]) == pytest.approx(np.mean(found), abs=0.02)
    assert np.mean([one.low <= np.mean(found) <= one.high for one in told]) >= 0.85


def test_few_clusters_give_no_interval_and_no_claim():
    test = audited(0, 5.0, 7)[0]
    assert (test.average_precision.low, test.better_than_chance) == (None, False)
    assert "no interval" in test.message


@pytest.mark.parametrize(("count", "wrong"), [(6, 1), (6, 3), (5, 5), (1, 1)])
def test_a_random_order_has_the_mean_of_all_orders(count, wrong):
    faulty = np.arange(count) < wrong
    orders = [
        average_precision(-np.array(order, float), faulty) for order in permutations(range(count))
    ]
    assert random_order(count, wrong) == pytest.approx(np.mean(orders))


@pytest.mark.seconds
@given(
    st.lists(
        st.tuples(st.integers(0, 5), st.booleans(), st.integers(0, 3)), min_size=2, max_size=120
    ).filter(lambda rows: any(wrong and times for _, wrong, times in rows))
)
def test_an_image_that_counts_twice_is_one_that_stands_there_twice(rows):
    scores, wrong, times = (np.array(column) for column in zip(*rows, strict=True))
    counted = _precisions(scores.astype(float), wrong, times[None])[0]
    repeated = np.repeat(scores, times), np.repeat(wrong, times)
    assert counted[0] == pytest.approx(average_precision(*repeated))
    first = repeated[1][np.argsort(-repeated[0], kind="stable")[:50]]
    assert counted[1] == pytest.approx(first.mean())


def test_a_draw_takes_every_fault_as_often_and_each_image_once():
    image, fault = np.repeat(np.arange(30), 2), np.tile([0, 1], 30)
    kept = (fault == 1) | (image < 8)  # eight masks have something to drop
    copies = Copies(
        image[kept], fault[kept], *np.zeros((2, kept.sum())), np.zeros(kept.sum(), bool)
    )
    for seed in range(10):
        rows = copies.drawn(10, np.random.default_rng(seed))
        assert len(set(copies.image[rows])) == 10
        assert np.bincount(copies.fault[rows]).tolist() == [5, 5]
    rows = copies.drawn(30, np.random.default_rng(0))
    assert len(set(copies.image[rows])) == 30, "if a fault runs out others take its place"


def test_faults_in_one_of_many_clips_give_no_warning(recwarn):
    count = 100
    image = np.arange(20)  # masks of two clips of ten can have a fault
    copies = Copies(image, image % 2, *np.full((2, 20), 0.9), np.zeros(20, bool))
    scores, plain = np.random.default_rng(0).random(count), np.zeros(count, bool)
    keys = [f"clip{number // 10}/{number:04}" for number in range(count)]
    test, _ = run_self_test(scores, scores, plain, copies, 0.5, NAMES, keys, None)
    assert test.average_precision.low is not None
    assert not recwarn.list


@given(st.floats(-3, 3), st.floats(0.05, 0.5), st.integers(20, 400))
def test_a_score_is_the_share_of_faults_among_what_scores_alike(apart, share, count):
    rng = np.random.default_rng(count)
    wrong = np.arange(count) < max(1, round(share * count))
    raw = 1 / (1 + np.exp(-4 * rng.normal(size=count) - 4 * apart * wrong))
    scores = fit_calibration(raw, wrong, np.ones(count))(raw)
    assert scores.mean() == pytest.approx(wrong.mean(), abs=2.1 / count), (
        "as many faults as there are"
    )
    assert (np.diff(scores[np.argsort(raw)]) >= 0).all()
    assert 0 < scores.min() <= scores.max() < 1


def test_scores_that_tell_nothing_apart_are_the_share_of_planted_faults():
    raw = np.random.default_rng(0).random(3000)
    wrong = np.arange(3000) % 5 == 0
    assert fit_calibration(raw, wrong, np.ones(3000))(raw) == pytest.approx(0.2, abs=0.05)
    assert audited(0, 0.0)[1](raw) == pytest.approx(PLANTED, abs=0.15)
    worse = fit_calibration(1 - 0.5 * wrong - 0.4 * raw, wrong, np.ones(3000))
    assert worse(raw) == pytest.approx(0.2, abs=0.01)
