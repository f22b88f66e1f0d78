"""A benchmark whose workers make up their times, measured once for all tests that only read it."""

import sys
from pathlib import Path

import pytest

from featherseg.comparison.benchmark import measure
from featherseg.comparison.benchmark_results import Benchmark, Plan
from featherseg.comparison.variants import find_models

FAKE = Path(__file__).parents[1] / "support/processes/fake_benchmark_worker.py"


@pytest.fixture(scope="session")
def measured(tmp_path_factory) -> tuple[Benchmark, list[tuple[str, int, int]]]:
    """The benchmark, and what its progress was called with."""
    steps, folder = [], tmp_path_factory.mktemp("workers")
    plan = Plan(sizes=[(32, 48)], threads=[1], device="cpu", starts=2, rounds=4, calibrate=True)
    completed = plan.completed(find_models(["frm-lite0"]))
    return measure(
        completed, lambda *step: steps.append(step), (sys.executable, str(FAKE), str(folder))
    ), steps


@pytest.fixture
def outcome(measured) -> Benchmark:
    return measured[0]
