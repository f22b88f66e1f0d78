"""A candidate's latency during training: when it is measured, and what it says of smaller files."""

import itertools
from dataclasses import replace
from types import SimpleNamespace

import pytest
from support.models.fit_plans import SLOW, fit_plan, timing, write_yard
from support.models.small_training import Silent

from featherseg.core.errors import RunError
from featherseg.fitting import watch
from featherseg.fitting.watch import Watch, watching_seconds


@pytest.fixture
def clock(monkeypatch):
    """A clock with steps of 1 s and timings of 6 s, and the timings made: (when, model)."""
    now, taken = [1000.0], []

    def take(self):
        taken.append((now[0] - 1000, self.candidate.name))
        now[0] += 6
        if len(taken) == 2:
            raise RunError("its process ended with status -2")
        return timing(p50=10.0 + len(taken))

    monkeypatch.setattr(watch, "time", SimpleNamespace(monotonic=lambda: now[0]))
    monkeypatch.setattr(Watch, "time", take)
    return now, taken


def train(watching, now, steps):
    for step in range(1, steps + 1):
        now[0] += 1
        watching.step(step, steps, {"step": step})


def test_it_is_timed_evenly_over_the_training_and_one_timing_that_fails_does_not_end_it(
    clock, tmp_path
):
    now, taken = clock
    watching = Watch(fit_plan(), SLOW, 1000.0 + 1600, tmp_path, said := Silent())
    train(watching, now, 2000)
    assert [when for when, _ in taken] == [pytest.approx(1 + 201 * n, abs=3 * n) for n in range(8)]
    assert {name for _, name in taken} == {SLOW.name}
    assert [t.p50 for t in watching.timings] == [11.0, *(10.0 + n for n in range(3, 9))]
    watching.message("a sentence")
    assert said.messages == ["a sentence"]


@pytest.mark.parametrize(
    ("hours", "elsewhere", "times"),
    [(2 / 60, False, 0), (0.25, False, 2), (0.5, False, 5), (9.0, False, 8), (9.0, True, 0)],
)
def test_it_is_timed_as_often_as_a_fiftieth_of_the_time_allows(
    hours, elsewhere, times, clock, tmp_path
):
    now, taken = clock
    plan = replace(fit_plan(hours=hours), elsewhere=elsewhere)
    train(
        Watch(plan, SLOW, 1000.0 + 1800 * hours, tmp_path, Silent()), now, int(1800 * hours) + 600
    )
    assert len(taken) == times
    assert watching_seconds(hours) <= 0.02 * 3600 * hours
    if times:  # its file takes about as long to write
        assert watching_seconds(hours) == 6 * (times + 1) or elsewhere


def test_timings_that_a_busy_machine_takes_long_for_are_fewer(clock, tmp_path, monkeypatch):
    now, taken = clock
    watching = Watch(fit_plan(), SLOW, 1000.0 + 1600, tmp_path, Silent())
    monkeypatch.setattr(
        Watch, "time", lambda self: taken.append(now[0]) or now.append(now.pop() + 20) or timing()
    )
    train(watching, now, 2000)
    assert len(taken) == 3  # of the 54 s that eight should take


def test_two_timings_lie_a_minute_apart_where_little_time_is_left(clock, tmp_path):
    now, taken = clock
    train(Watch(fit_plan(), SLOW, 1000.0 - 50, tmp_path, Silent()), now, 100)
    assert [when for when, _ in taken] == [1, pytest.approx(61, abs=1)]


def test_its_untrained_file_is_written_once_and_timed_on_an_image_of_the_dataset(
    tmp_path, monkeypatch
):
    yard, seen = write_yard(tmp_path / "yard", splits="train = 0.6\nval = 0.4"), []
    monkeypatch.setattr(
        watch,
        "time_file",
        lambda file, image, name: seen.append((file, image.shape, name)) or timing(),
    )
    written = itertools.count()

    def write(name, classes, resize, image, calibration, folder):
        assert (name, [info.name for info in classes], resize) == (
            (SLOW.model, 1.0, "onnx"),
            ["ground", "box"],
            None,
        )
        return folder / f"{next(written)}.onnx"

    monkeypatch.setattr(watch, "write_untrained", write)
    watching = Watch(fit_plan(yard), SLOW, 0.0, tmp_path / "aside", Silent())
    assert [watching.time(), watching.time()] == [timing(), timing()]
    assert seen == 2 * [(tmp_path / "aside" / "0.onnx", (64, 96, 3), (SLOW.model, 1.0, "onnx"))]
    assert watching.timings == []


def test_a_smaller_file_is_expected_to_be_slowed_down_as_its_own_was(tmp_path):
    watching = Watch(fit_plan(), SLOW, 0.0, tmp_path, Silent())
    watching.timings = [timing(p50=ms) for ms in (10.0, 14.0, 10.5)]
    quick, slow = (timing(p50=8.0), timing(p50=10.0)), (timing(p50=11.2), timing(p50=14.0))
    assert watching.slowdown([quick, quick, quick]) == pytest.approx(1.4)
    assert watching.slowdown([slow, slow, slow]) == 1.0

    # The machine changes within a pair, and between two
    assert watching.slowdown([quick, quick, (timing(p50=8.0), timing(p50=14.0))]) == pytest.approx(
        1.4
    )
    assert watching.slowdown([slow, quick, quick]) == pytest.approx(1.0)

    # By the limit's percentile; nothing is expected to be quicker than it was
    plan = fit_plan(percentile=95)
    by_tail = Watch(plan, SLOW, 0.0, tmp_path, Silent())
    by_tail.timings = [timing(p50=10.0, p95=30.0)]
    assert by_tail.slowdown(
        [(timing(p50=8.0, p95=10.0), timing(p50=10.0, p95=15.0))]
    ) == pytest.approx(2.0)
    watching.timings = [timing(p50=5.0)]
    assert watching.slowdown([quick, quick, quick]) == 1.0
