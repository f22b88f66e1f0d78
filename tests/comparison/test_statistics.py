"""Ratios and their intervals on simulated times, of which it is known how much faster is faster."""

import numpy as np
import pytest
from scipy.special import stdtrit

from featherseg import FeathersegError
from featherseg.comparison.statistics import Speedup, speedup, student_factor

STARTS, ROUNDS = 5, 4


def noisy_times(
    rng: np.random.Generator, factors: tuple[float, ...], luck: float = 0.03
) -> list[np.ndarray]:
    """Return (S, R) times of each on a drifting machine, noisy by process and pass."""
    shape = (STARTS, ROUNDS)
    drift = np.cumsum(0.2 * rng.normal(size=STARTS * ROUNDS)).reshape(shape)
    found = []
    for factor in factors:
        late = np.where(rng.random(shape) < 0.05, rng.gamma(2, 1, shape), 0)
        own = luck * rng.normal(size=(STARTS, 1)) + 0.02 * rng.normal(size=shape)
        found.append(100 * factor * np.exp(drift + own + late))
    return found


def test_a_variant_that_takes_a_fifth_longer_is_found_on_a_machine_that_drifts():
    rng = np.random.default_rng(0)
    found = [speedup(*noisy_times(rng, (1.2, 1.0))) for _ in range(100)]
    assert np.mean([s.verdict == "faster" for s in found]) >= 0.95
    assert np.median([s.value for s in found]) == pytest.approx(1.2, rel=0.01)


@pytest.mark.seconds
def test_a_variant_beside_itself_is_seldom_called_faster_or_slower():
    rng = np.random.default_rng(1)
    called = [
        speedup(*noisy_times(rng, (1, 1))).verdict != "no difference shown" for _ in range(400)
    ]
    assert np.mean(called) <= 0.07


@pytest.mark.seconds
@pytest.mark.parametrize("luck", [0.0, 0.03, 0.1])
def test_intervals_hold_the_truth_in_about_95_of_100_benchmarks(luck):
    rng = np.random.default_rng(2)
    found = [speedup(*noisy_times(rng, (1.1, 1.0), luck)) for _ in range(400)]
    assert 0.92 <= np.mean([s.low <= 1.1 <= s.high for s in found]) <= 0.99


def test_the_ratio_turned_over_has_the_interval_turned_over():
    base, own = noisy_times(np.random.default_rng(3), (1.5, 1.0))
    forth, back = speedup(base, own), speedup(own, base)
    assert [forth.value, forth.low, forth.high] == pytest.approx(
        [1 / back.value, 1 / back.high, 1 / back.low]
    )


def test_a_variant_beside_its_own_times_is_the_baseline():
    times = noisy_times(np.random.default_rng(4), (1.0,))[0]
    assert speedup(times, times).itself
    assert str(speedup(times, times)) == "1"


@pytest.mark.parametrize(
    ("low", "high", "verdict"),
    [
        (1.1, 1.5, "faster"),
        (0.5, 0.9, "slower"),
        (0.9, 1.1, "no difference shown"),
        (1.0, 1.2, "no difference shown"),
    ],
)
def test_faster_is_said_only_where_the_interval_leaves_out_1(low, high, verdict):
    found = Speedup((low * high) ** 0.5, low, high)
    assert found.verdict == verdict
    assert (f"{found.value:.2f}x" in str(found)) == (verdict != "no difference shown")


def test_one_start_is_refused_as_it_does_not_know_its_spread():
    with pytest.raises(FeathersegError, match=r"\(1, 20\).*at least 2 starts"):
        speedup(np.ones((1, 20)), np.ones((1, 20)))
    with pytest.raises(FeathersegError, match="expected pairs"):
        speedup(np.ones((5, 4)), np.ones((5, 3)))


@pytest.mark.parametrize("share", [0.5, 0.95, 0.9995])
def test_student_s_factor_is_scipy_s_quantile(share):
    for freedom in (1, 2, 3, 4, 5, 9, 30, 99):
        expected = stdtrit(freedom, (1 + share) / 2)
        assert student_factor(share, freedom) == pytest.approx(expected, rel=1e-9)
