"""A fit ends with its hours on any slow machine, and its plan records what the clock decided."""

from dataclasses import replace

import pytest
from support.models.fit_plans import FAST, SLOW, fit_plan
from support.models.simulated_machine import Machine, planned
from support.models.small_training import Silent

from featherseg.core.errors import TrainingError
from featherseg.fitting.clock import Deadline, StepClock, falling_steps, rung_deadlines
from featherseg.fitting.last_training import train
from featherseg.fitting.plan import FinalTraining, read_plan
from featherseg.fitting.screening import screen
from featherseg.fitting.state import FitJob, FitState
from featherseg.fitting.trials import Segment


def last_step(clock, times, paused=0.0):
    """Return the step after which a training with these step ends must stop, or None."""
    return next((n for n, now in enumerate(times, 1) if clock.is_last(n, now, paused)), None)


def test_a_training_stops_so_that_what_follows_ends_in_time():
    assert last_step(StepClock(Deadline(100.0, 1.0, 10.0)), range(1, 200)) == 90
    assert last_step(StepClock(Deadline(100.0, 1.0, 10.0)), range(1, 90)) is None

    # Steps at a falling rate follow, a fifth of all: 72 and 18
    assert last_step(StepClock(Deadline(100.0, 1.0, 10.0, decay=True)), range(1, 200)) == 72
    assert falling_steps(72) == 18

    # On a machine that is half as fast what follows takes twice as long; on a faster one no less
    assert last_step(StepClock(Deadline(100.0, 1.0, 10.0)), range(2, 400, 2)) == 40
    assert last_step(StepClock(Deadline(100.0, 2.0, 10.0)), range(1, 200)) == 90


def test_a_slow_first_step_and_pauses_are_not_the_pace_of_a_training():
    assert (
        last_step(StepClock(Deadline(100.0, 1.0, 10.0)), range(21, 90)) is None
    )  # the first takes 20 s
    clock = StepClock(Deadline(100.0, 1.0, 10.0))
    assert last_step(clock, range(1, 11)) is None
    assert last_step(clock, range(51, 90), paused=40.0) is None  # its file was timed meanwhile
    assert last_step(clock, range(90, 92), paused=40.0) == 1


def test_the_trials_of_a_rung_share_its_time():
    plan = replace(
        fit_plan(rungs=((4, 1),), final=1004), delivering=20.0, validating=5.0
    )  # 200 s for SLOW
    first, second = rung_deadlines(plan, [SLOW, FAST], 1000.0, 100.0, 1)
    ends = 1000 - 0.75 * 200
    assert [first.seconds_left(100.0, 0.0), second.seconds_left(100.0, 0.0)] == [
        pytest.approx((ends - 100) / 2 - 5 - 30 / 2),
        pytest.approx((ends - 100) - 5 - 30),
    ]
    side_by_side = rung_deadlines(plan, [SLOW, FAST], 1000.0, 100.0, 2)
    assert {one.ends for one in side_by_side} == {second.ends}


def fit(machine, plan, out):
    """Run a plan's trainings and delivery; return (winner, its last training, share of hours)."""
    machine.plan, job = plan, FitJob(out, 0.0, machine.workers, Silent())
    state = screen(FitState(plan, machine.records()), job)
    state = train(state, state.ranking[0], job, Silent())
    machine.spend(plan.delivering)
    final = state.plan.finals[-1]
    return state.ranking[0], final, machine.now / 3600 / plan.config.hours


@pytest.mark.parametrize("slowdown", [1.0, 2.0, 5.0, 10.0])
@pytest.mark.parametrize("since", [0.0, 0.2, 0.4, 0.6, 0.8])
@pytest.mark.parametrize(
    ("hours", "step_seconds"), [(0.3, 0.2), (1.0, 0.2), (1.0, 2.0), (4.0, 2.0)]
)
def test_a_fit_ends_with_its_hours_however_slow_the_machine_gets(
    hours, step_seconds, since, slowdown, tmp_path, monkeypatch
):
    machine = Machine(monkeypatch, slowdown, since * 3600 * hours)
    plan = planned(hours, step_seconds=step_seconds)
    machine.now = plan.spent
    winner, last, share = fit(machine, plan, tmp_path)
    assert winner.model == SLOW.model
    assert last.reached > 20
    assert (
        0.9 < share <= (1.12 if (hours, since) == (0.3, 0.8) else 1.0)
    )  # there its delivery is a third of what is left


@pytest.mark.parametrize("slowdown", [2.0, 5.0])
@pytest.mark.parametrize("since", [0.0, 0.2, 0.4])
def test_a_fit_of_seven_minutes_ends_with_them_under_load(since, slowdown, tmp_path, monkeypatch):
    machine = Machine(monkeypatch, slowdown, since * 432)
    plan = planned(0.12)
    machine.now = plan.spent
    assert fit(machine, plan, tmp_path)[2] <= 1.0


def test_what_the_clock_decided_is_in_the_plan_and_repeated_by_a_resume(tmp_path, monkeypatch):
    slow, plan = Machine(monkeypatch, 6.0, 500.0), planned(1.0)
    winner, last, _ = fit(slow, plan, tmp_path)
    decided = read_plan(tmp_path / "plan.json")
    assert decided.schedule.rungs[0] != plan.schedule.rungs[0]
    assert last.steps < plan.schedule.final[winner.name]
    assert decided.finals == (last,)

    # On a fast machine a resumed fit takes the same steps
    fast = Machine(monkeypatch, 1.0, 0.0)
    fit(fast, decided, tmp_path)
    assert fast.reached == slow.reached


def test_a_last_training_that_the_clock_stopped_is_repeated_up_to_that_step(tmp_path, monkeypatch):
    slow, plan = Machine(monkeypatch, 10.0, 3200.0), planned(1.0)
    winner, last, _ = fit(slow, plan, tmp_path)
    assert last.constant < last.stopped == last.reached < last.steps
    fast = Machine(monkeypatch, 1.0, 0.0)
    assert fit(fast, read_plan(tmp_path / "plan.json"), tmp_path)[:2] == (winner, last)
    assert (fast.segments[-1].steps, fast.segments[-1].until) == (last.steps, last.stopped)


def test_a_fit_that_is_resumed_under_load_ends_with_its_hours_as_well(tmp_path, monkeypatch):
    machine, plan = Machine(monkeypatch, 4.0, 2000.0), planned(1.0)
    machine.plan, machine.dies_at = plan, 2500.0
    with pytest.raises(KeyboardInterrupt):
        fit(machine, plan, tmp_path)
    decided = read_plan(tmp_path / "plan.json")
    assert len(decided.finals) == 1
    machine.dies_at = None
    _, last, share = fit(machine, decided, tmp_path)
    assert share <= 1.0
    assert last.steps <= decided.finals[0].steps
    assert machine.now < 3600


def test_hours_in_which_no_step_was_taken_are_told_with_those_that_are_needed(
    tmp_path, monkeypatch
):
    machine, plan = Machine(monkeypatch, 1.0, 0.0), planned(0.05, delivering=60.0)
    machine.now, machine.plan = 170.0, plan
    with pytest.raises(
        TrainingError, match=r"--hours 0\.05: nothing could be trained\. .* took 2\.8 minutes"
    ) as error:
        fit(machine, plan, tmp_path)
    assert f"featherseg fit --resume --hours 0.08 --out {tmp_path}" in str(error.value)
    assert not machine.reached


def test_a_last_training_stops_between_the_fall_of_its_rate_and_its_end():
    assert FinalTraining("a", 1.0, 10, 2, 9).reached == 9
    for stopped in (7, 10):
        with pytest.raises(ValueError, match="was stopped before its rate fell, or after its end"):
            FinalTraining("a", 1.0, 10, 2, stopped)


def test_a_deadline_is_a_plain_value_for_another_machine():
    import pickle
    from pathlib import Path

    deadline = Deadline(10.0, 1.0, 2.0, decay=True)
    segment = Segment(Path("a"), "frm-lite0", (), 5, deadline=deadline)
    assert pickle.loads(pickle.dumps(segment)) == segment
    assert deadline.moved(5.0).moved(-5.0) == deadline
