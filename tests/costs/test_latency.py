"""The timing engine: how often passes run, what is reported, and that it needs no other module."""

import ast
import json
import math
import os
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
from scipy.stats import binom

from featherseg.costs import latency
from featherseg.costs.latency import (
    DEVICE,
    EXPORT,
    FEW,
    FIT,
    ProcessFailed,
    clocks,
    median_interval,
    run_apart,
    run_queue_wait,
    settle,
    summarise,
    time_passes,
    turn_order,
    warm_up,
)

ENGINE = Path(latency.__file__)


@pytest.fixture
def clock(monkeypatch):
    """A clock of seconds that stands still until a test moves it."""
    now = SimpleNamespace(seconds=0.0)
    time = SimpleNamespace(perf_counter=lambda: now.seconds, process_time=lambda: now.seconds)
    monkeypatch.setattr(latency, "time", time)
    return now


class Pass:
    """Takes `ms` by the clock, ten times as long for the first one; counts its calls."""

    def __init__(self, clock, ms):
        self.clock, self.ms, self.calls = clock, ms, 0

    def __call__(self):
        self.clock.seconds += (self.ms if self.calls else 10 * self.ms) / 1000
        self.calls += 1
        return self.calls


def test_the_engine_imports_numpy_alone_in_the_syntax_of_python_3_9():
    tree = ast.parse(ENGINE.read_text(encoding="utf-8"), feature_version=(3, 9))
    top = [node for node in tree.body if isinstance(node, ast.Import | ast.ImportFrom)]
    names = {
        node.module if isinstance(node, ast.ImportFrom) else node.names[0].name for node in top
    }
    assert {name.split(".")[0] for name in names} - set(sys.stdlib_module_names) == {"numpy"}


def test_a_copy_of_the_engine_times_without_featherseg_torch_and_psutil(tmp_path):
    (tmp_path / "latency.py").write_bytes(ENGINE.read_bytes())
    code = f"""
import sys
for name in ("featherseg", "torch", "scipy", "psutil", "pydantic"):
    sys.modules[name] = None                          # importing it raises ImportError
sys.path.insert(0, {str(tmp_path)!r})
import json, latency
passes = latency.time_passes(lambda: sum(range(1000)), latency.EXPORT)
print(json.dumps([len(passes.ms), latency.summarise(passes.ms).p50, latency.peak_memory()]))
"""
    done = subprocess.run([sys.executable, "-I", "-c", code], capture_output=True, check=True)
    count, p50, peak = json.loads(done.stdout)
    assert count == 5
    assert p50 > 0
    assert peak is None or peak > 2**20


@pytest.mark.parametrize(
    ("schedule", "ms", "untimed", "timed"),
    [
        (EXPORT, 1, 2, 5),
        (FIT, 1, 8, 300),
        (FIT, 20, 8, 100),
        (FIT, 500, 8, 30),
        (DEVICE, 1, 5, 200),
        (DEVICE, 20, 5, 100),
        (DEVICE, 150, 5, 20),
        (DEVICE, 700, 2, 20),  # slow devices warm up for two passes
    ],
)
def test_a_schedule_bounds_untimed_and_timed_passes(clock, schedule, ms, untimed, timed):
    run = Pass(clock, ms)
    passes = time_passes(run, schedule)
    assert run.calls == untimed + timed
    assert passes.ms == pytest.approx([ms] * timed)


@pytest.mark.parametrize(("limit_ms", "few"), [(100, True), (300, False), (math.inf, False)])
def test_few_passes_tell_that_a_file_is_far_over_the_limit(clock, limit_ms, few):
    run = Pass(clock, 500)
    passes = time_passes(run, FIT, limit_ms)
    assert run.calls == (FEW if few else 8 + 30)
    assert passes.ms == pytest.approx([500] * (FEW - 1 if few else 30))


def test_every_model_is_first_once_in_as_many_rounds_as_there_are_models():
    assert [turn_order(3, turn) for turn in range(4)] == [
        [0, 1, 2],
        [1, 2, 0],
        [2, 0, 1],
        [0, 1, 2],
    ]


@pytest.mark.parametrize(
    ("times", "passes"),
    [([10, 10, 10, 10], 4), ([90, 30, 10, 10, 10, 10], 5), ([10, 11] * 10, 12)],
)
def test_a_warm_up_ends_when_three_times_are_alike(times, passes):
    given = iter(times)
    assert warm_up(lambda: next(given)) == times[:passes]


@pytest.mark.parametrize(("ms", "passes"), [(4, 13), (20, 3), (300, 1)])
def test_untimed_passes_last_until_the_cores_are_free(clock, ms, passes):
    run = Pass(clock, ms)
    run.calls = 1  # no first pass
    settle(run)
    assert run.calls == 1 + passes


def test_a_summary_is_that_of_all_rounds_together():
    found = summarise(np.arange(1.0, 102.0).reshape(1, 101).repeat(2, axis=0))
    assert (found.p50, found.p95, found.least, found.iqr) == (51, 96, 1, 50)


def test_the_interval_of_the_median_is_that_of_the_binomial_distribution():
    for count in range(1, 400):
        low, high = median_interval(range(count))
        rank = max(int(binom.ppf(0.025, count, 0.5)) - 1, 0)
        assert (low, high) == (rank, count - 1 - rank)


def test_the_interval_of_the_median_holds_it_in_95_of_100_draws():
    rng = np.random.default_rng(0)
    for count in (20, 30, 101):
        found = [median_interval(rng.exponential(size=count).tolist()) for _ in range(2000)]
        inside = np.mean([low <= math.log(2) <= high for low, high in found])
        assert 0.94 <= inside <= 0.99


def test_run_queue_wait_is_wall_over_cpu_and_sees_a_queue_that_two_threads_hide():
    ten = np.full((2, 3), 10.0)
    alone, unknown = np.zeros((2, 3)), np.full((2, 3), np.nan)
    assert run_queue_wait(1.5 * ten, ten, unknown) == 1.5
    assert run_queue_wait(0.5 * ten, ten, alone) == 1.0
    assert run_queue_wait(0.9 * ten, ten, 0.8 * ten) == pytest.approx(1.8)


def test_other_programs_are_seen_in_passes_that_wait_for_a_core(clock, monkeypatch):
    waited = iter([0.0, 500.0])  # ms in line, of passes that take 5 x 100 ms of the processor
    monkeypatch.setattr(latency, "run_queue_ms", lambda: next(waited))
    assert time_passes(Pass(clock, 100), EXPORT).run_queue_wait == pytest.approx(2)


def test_an_accelerator_is_waited_for_on_both_sides_of_a_block(clock):
    def wait():
        clock.seconds += 1.0

    with clocks(wait) as block:
        clock.seconds += 0.25
    assert (block.wall, block.cpu) == (1250, 1250)  # what is still under way before is not counted


def answer_of(code, seconds=60.0):
    return run_apart([sys.executable, "-c", code], seconds)


def test_what_a_library_prints_is_not_in_the_answer():
    code = f"""
import os, sys
sys.path.insert(0, {str(ENGINE.parent)!r})
from latency import answers_alone
with answers_alone() as answers:
    print("a library says hello", flush=True)
    os.write(1, b"and its C code too")
    answers.write("[1, 2]")
"""
    assert answer_of(code) == [1, 2]


@pytest.mark.parametrize(
    ("code", "reason"),
    [
        ("import sys; sys.exit('the graph is refused\\n')", "the graph is refused"),
        ("import sys; sys.exit(3)", "its process ended with status 3"),
        (
            "import os; os.kill(os.getpid(), 9)",
            "its process was ended by signal 9, most often a lack",
        ),
    ],
)
def test_a_process_that_fails_gives_the_reason(code, reason):
    if "kill" in code and os.name != "posix":
        pytest.skip("this system has no signals")
    with pytest.raises(ProcessFailed, match=reason):
        answer_of(code)


def test_a_process_that_hangs_is_ended():
    with pytest.raises(ProcessFailed, match=r"had not ended after 0\.01 s"):
        answer_of("import threading; threading.Event().wait()", 0.01)


@pytest.mark.seconds
def test_the_peak_of_memory_is_that_of_the_process(tmp_path):
    code = f"""
import json, sys
sys.path.insert(0, {str(ENGINE.parent)!r})
from latency import peak_memory
before = peak_memory()
large = bytes(range(256)) * 2**20
del large
print(json.dumps([before, peak_memory()]))
"""
    before, after = answer_of(code)
    assert before is None or 250 * 2**20 <= after - before <= 300 * 2**20
