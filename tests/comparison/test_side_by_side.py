"""Timing in turns with workers that invent times; ratios against the simulated ones."""

import json
import re
import sys
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pytest
import torch

from featherseg import FeathersegError
from featherseg.comparison.side_by_side import ROUNDS, STARTS, Ratio, SideBySide, time_side_by_side

FAKE = Path(__file__).parents[1] / "support/processes/fake_benchmark_worker.py"


class Opened:
    """As much of a runtime as is asked for."""

    channels = 3

    def __init__(self, device: torch.device | None) -> None:
        self.device = device


def timed(
    folder: Path, builds: Sequence[str], size: tuple[int, int] = (8, 8), progress=None
) -> SideBySide:
    """Models that the fake workers know, each called by the first letter of its build."""
    folder.mkdir(exist_ok=True)
    names, command = [build[0] for build in builds], (sys.executable, str(FAKE), str(folder))
    runtimes = [Opened(torch.device("cpu")), *(Opened(None) for _ in builds[1:])]  # run, files
    return time_side_by_side(
        names, [Path(f) for f in builds], runtimes, size, "cpu", progress, command
    )


def noisy(rng: np.random.Generator, factors: Sequence[float]) -> SideBySide:
    """A drifting machine with noise of each process and pass, and outliers in one pass of 20."""
    shape = (len(factors), STARTS, ROUNDS)
    drift = np.cumsum(0.05 * rng.normal(size=STARTS * ROUNDS)).reshape(shape[1:])
    luck, noise = 0.03 * rng.normal(size=(*shape[:2], 1)), 0.05 * rng.normal(size=shape)
    late = np.where(rng.random(shape) < 0.05, rng.gamma(2, 1, shape), 0)
    times = 10 * np.array(factors)[:, None, None] * np.exp(drift + luck + noise + late)
    nothing = np.full(len(factors), np.nan)
    return SideBySide(tuple("abcdefgh"[: len(factors)]), (8, 8), "", times, nothing, nothing)


@pytest.mark.seconds
def test_models_take_turns_in_processes_that_are_started_anew(tmp_path):
    steps = []
    found = timed(tmp_path / "w", ["eager", "ours-fp32"], progress=lambda *step: steps.append(step))
    assert found.times_ms.shape == (2, STARTS, ROUNDS)
    assert len([p for p in (tmp_path / "w").iterdir() if p.name.isdigit()]) == 2 * STARTS
    assert steps == [
        ("time and memory", done, STARTS * ROUNDS) for done in range(1, STARTS * ROUNDS + 1)
    ]
    growing = 100 * 1.05 ** np.arange(ROUNDS)  # what the fake workers make up: slower every round
    np.testing.assert_allclose(
        found.times_ms, np.array([1, 0.25])[:, None, None] * np.tile(growing, (2, STARTS, 1))
    )
    (ratio,) = found.ratios()
    assert ratio.value == pytest.approx(4)  # on a machine that grows slower
    assert ratio.message(found.names) == "o is faster than e: 4.00 times as fast"
    eager, ours = found.costs_of(0), found.costs_of(1)
    assert (eager.process_mib, ours.process_mib, eager.gpu_mib) == (
        400,
        100,
        None,
    )  # each process's own
    assert eager.p95_ms > eager.p50_ms == pytest.approx(4 * ours.p50_ms)
    assert re.fullmatch(r"cpu, \d+ cores; \d+ threads? each", found.machine)


def test_a_model_that_cannot_be_run_is_named_with_what_it_said(tmp_path):
    (tmp_path / "w").mkdir()
    (tmp_path / "w" / "faults.json").write_text(json.dumps({"ours-fp32": "turn"}))
    with pytest.raises(FeathersegError, match=r"^o could not be timed: .*no such instruction"):
        timed(tmp_path / "w", ["eager", "ours-fp32"])


def test_a_size_without_pixels_is_refused_before_anything_is_started(tmp_path):
    with pytest.raises(FeathersegError, match="0x8"):
        timed(tmp_path / "w", ["eager"], (0, 8))
    assert not list((tmp_path / "w").iterdir())


@pytest.mark.parametrize(
    ("low", "high", "faster"), [(0.5, 0.9, 0), (1.1, 1.5, 1), (0.9, 1.1, None), (0.9, 1.0, None)]
)
def test_faster_is_said_only_where_the_interval_excludes_1(low, high, faster):
    ratio = Ratio(0, 1, (low * high) ** 0.5, low, high)
    assert ratio.faster == faster
    assert ("faster" in ratio.message(["a", "b"])) == (faster is not None)


@pytest.mark.seconds
def test_intervals_of_the_ratio_hold_the_truth_in_95_of_100_noisy_timings():
    rng = np.random.default_rng(1)
    ratios = [noisy(rng, (1, 1.1)).ratios()[0] for _ in range(300)]
    assert 0.92 <= np.mean([r.low <= 1 / 1.1 <= r.high for r in ratios]) <= 0.99


@pytest.mark.seconds
def test_among_five_equal_models_one_is_seldom_called_faster():
    rng = np.random.default_rng(2)
    called = [any(r.faster is not None for r in noisy(rng, (1,) * 5).ratios()) for _ in range(100)]
    assert np.mean(called) <= 0.06


def test_one_model_alone_has_no_ratio():
    assert noisy(np.random.default_rng(3), (1,)).ratios() == []
