"""Timing side by side, on a clock that simulated networks move; ratios against what they were simulated with."""

from dataclasses import dataclass, field

import numpy as np
import pytest
import torch

from featherseg import FeathersegError
from featherseg.evaluation import latency
from featherseg.evaluation.latency import Ratio, paired_ratios, time_side_by_side


@dataclass
class Clock:
    """Seconds that only passes of networks add to; machine is the factor by which all are slow just now."""

    now: float = 0.0
    machine: float = 1.0
    passes: list[str] = field(default_factory=list)

    def __call__(self) -> float:
        return self.now


class Network:
    """Takes `seconds` a pass; twice that in its first, and where another network ran just before."""

    channels, device = 3, torch.device("cpu")

    def __init__(self, name: str, seconds: float, clock: Clock) -> None:
        self.name, self.seconds, self.clock = name, seconds, clock

    def __call__(self, images: torch.Tensor) -> None:
        cold = not self.clock.passes or self.clock.passes[-1] != self.name
        self.clock.now += self.seconds * (2 if cold else 1) * self.clock.machine
        self.clock.machine *= 1.01  # it grows warm
        self.clock.passes.append(self.name)
        self.seen = images.shape


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> Clock:
    clock = Clock()
    monkeypatch.setattr(latency, "perf_counter", clock)
    return clock


def noisy_times(rng: np.random.Generator, rounds: int, factors: tuple[float, ...]) -> np.ndarray:
    """(rounds, S): a machine that drifts, noise of its own for each pass, and one pass in 20 far out."""
    drift = np.cumsum(0.05 * rng.normal(size=(rounds, 1)), axis=0)
    noise = 0.1 * rng.normal(size=(rounds, len(factors)))
    late = np.where(rng.random(noise.shape) < 0.05, rng.gamma(2, 1, noise.shape), 0)
    return 10 * np.array(factors) * np.exp(drift + noise + late)


def test_networks_take_turns_warmed_up_and_none_is_always_first(clock):
    networks = [Network(name, 0.01, clock) for name in "abc"]
    found = time_side_by_side(networks, (32, 64), rounds=30)
    assert found.times_ms.shape == (30, 3)
    assert found.names == ("a", "b", "c")
    assert {n.seen for n in networks} == {(1, 3, 32, 64)}
    turns = clock.passes[::2]
    assert turns == clock.passes[1::2]  # an untimed pass before each timed one
    rounds = ["".join(turns[i : i + 3]) for i in range(0, len(turns), 3)]
    assert len(rounds) == 30 + latency.WARM_UP_ROUNDS
    assert set(rounds) == {"abc", "bca", "cab"}


def test_ratios_are_right_on_a_machine_that_grows_slower(clock):
    found = time_side_by_side([Network("a", 0.01, clock), Network("b", 0.02, clock)], (8, 8), rounds=40)
    (ratio,) = found.ratios()
    assert ratio.value == pytest.approx(0.5, rel=0.01)
    assert ratio.words(found.names) == "a is faster than b: 2.00 times as fast"
    assert found.p50_ms[1] / found.p50_ms[0] == pytest.approx(2, rel=0.05)
    assert (found.p95_ms > found.p50_ms).all()


def test_the_machine_is_said_in_words(clock):
    words = time_side_by_side([Network("a", 0.01, clock)], (8, 8), rounds=20).machine
    threads = torch.get_num_threads()
    assert words.startswith("cpu, ")
    assert words.endswith(f"cores; torch on {threads} thread{'s' if threads > 1 else ''}")


def test_the_order_of_two_networks_turns_the_ratio_over():
    times = noisy_times(np.random.default_rng(0), 60, (1.0, 1.3))
    (forth,), (back,) = paired_ratios(times), paired_ratios(times[:, ::-1])
    assert [forth.value, forth.low, forth.high] == pytest.approx([1 / back.value, 1 / back.high, 1 / back.low])


@pytest.mark.parametrize(("low", "high", "faster"), [(0.5, 0.9, 0), (1.1, 1.5, 1), (0.9, 1.1, None), (0.9, 1.0, None)])
def test_faster_is_said_only_where_the_interval_excludes_1(low, high, faster):
    ratio = Ratio(0, 1, (low * high) ** 0.5, low, high)
    assert ratio.faster == faster
    assert ("faster" in ratio.words(["a", "b"])) == (faster is not None)


def test_intervals_of_the_ratio_hold_the_truth_in_95_of_100_noisy_timings():
    rng = np.random.default_rng(1)
    held = [r.low <= 1 / 1.1 <= r.high for r in (paired_ratios(noisy_times(rng, 60, (1, 1.1)))[0] for _ in range(500))]
    assert 0.92 <= np.mean(held) <= 0.98


def test_among_five_equal_networks_one_is_seldom_called_faster():
    rng = np.random.default_rng(2)
    called = [any(r.faster is not None for r in paired_ratios(noisy_times(rng, 60, (1,) * 5))) for _ in range(200)]
    assert np.mean(called) <= 0.06


def test_what_cannot_be_timed_is_refused(clock):
    network = Network("a", 0.01, clock)
    with pytest.raises(FeathersegError, match="0 networks"):
        time_side_by_side([], (8, 8))
    with pytest.raises(FeathersegError, match="0x8"):
        time_side_by_side([network], (0, 8))
    with pytest.raises(FeathersegError, match="over 5 rounds"):
        time_side_by_side([network], (8, 8), rounds=5)
    assert paired_ratios(np.ones((20, 1))) == []
