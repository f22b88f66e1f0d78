"""What a fit decides: who goes on, for how many steps, who is delivered, what time is used up."""

import json
import math
import re
import time
from contextlib import contextmanager
from dataclasses import replace
from types import SimpleNamespace

import numpy as np
import pytest
from PIL import Image
from support.models.fit_plans import (
    FAST,
    SLOW,
    Scored,
    facts,
    fit_plan,
    state_of,
    timing,
    trained,
    write_yard,
)
from support.models.small_training import Silent

import featherseg
from featherseg.core.errors import ConfigError, DataError, RunError, TrainingError
from featherseg.core.files import locked
from featherseg.fitting import (
    beginning,
    delivery,
    last_training,
    screening,
    state,
    substitution,
    trials,
)
from featherseg.fitting import fit as session
from featherseg.fitting.delivery import worst
from featherseg.fitting.halving import Rung, Schedule
from featherseg.fitting.last_training import train
from featherseg.fitting.page import fit_html
from featherseg.fitting.plan import FinalTraining, read_plan
from featherseg.fitting.results import FitResult
from featherseg.fitting.screening import screen, segment_of
from featherseg.fitting.state import FitJob, Undelivered
from featherseg.fitting.substitution import smaller_scale, substitute
from featherseg.fitting.trials import Segment, TrialRecord, Workers, read_trial

SPLITS = "train = 0.6\nval = 0.2\ntest = 0.2"


TOO_SLOW = "21.0 ms in the worst of 3 timings of its file"


HALF = Workers(Scored(lambda s: 0.5), 1, 1)


def job_in(out, workers=HALF, began=None, said=None):
    """A fit whose hours begin now, unless that is said."""
    began = time.monotonic() if began is None else began
    return FitJob(out, began, workers, said or Silent())


def scored(score):
    """Workers that train nothing, one at a time."""
    return Workers(Scored(score), 1, 1)


def train_on(plan, out, workers=HALF, said=None, began=0.0, **trials):
    """The last training of SLOW; -> the plan behind it."""
    job = job_in(out, workers, began, said)
    return train(state_of(plan, **trials), plan.schedule.candidates[0], job, job.reporter).plan


def test_the_better_one_goes_on_and_the_faster_one_where_they_are_level(tmp_path):
    for slow, fast, winner in (
        (0.6, 0.5, SLOW),
        (0.5, 0.6, FAST),
        (0.5001, 0.5, SLOW),
        (0.5, 0.5, FAST),
    ):
        workers = scored(lambda s, slow=slow, fast=fast: slow if s.recipe == SLOW.model else fast)
        after = screen(state_of(fit_plan()), job_in(tmp_path, workers))
        assert after.ranking == (winner, FAST if winner == SLOW else SLOW)
        assert after.scores == {SLOW.name: slow, FAST.name: fast}
        assert [steps for _, steps, _, _ in workers.execute.asked] == [4, 4]


def test_a_training_that_fails_drops_its_candidate(tmp_path):
    workers = scored(lambda s: math.nan if s.recipe == SLOW.model else 0.1)
    assert screen(state_of(fit_plan()), job_in(tmp_path, workers)).ranking == (FAST,)
    nothing = job_in(tmp_path, scored(lambda s: math.nan))
    with pytest.raises(
        TrainingError, match=r"no candidate of rung 1 .*: see .* --resume tries again"
    ):
        screen(state_of(fit_plan()), nothing)
    reasons = {SLOW.model: "no number", FAST.model: "no room"}
    for model, reason in reasons.items():
        (folder := tmp_path / "trials" / f"{model}-1").mkdir(parents=True)
        (folder / "failed.json").write_text(json.dumps({"steps": 4, "reason": reason}))
    workers = Workers(lambda segments, reporter: [read_trial(s.folder) for s in segments], 1, 1)
    with pytest.raises(
        TrainingError, match=r"rung 1 could be trained: no number; no room\. What is done stays"
    ):
        screen(state_of(fit_plan()), job_in(tmp_path, workers))
    assert not list(tmp_path.rglob("failed.json"))


def test_who_was_dropped_takes_the_place_of_a_rung_that_fails(tmp_path):
    middle = replace(FAST, model="frm-lite0")
    steps = dict.fromkeys((FAST.name, SLOW.name, "frm-lite0 at 1"), 4)
    rungs = (Rung(steps, 2), Rung(dict.fromkeys(steps, 8), 1))
    schedule = Schedule((SLOW, middle, FAST), rungs, dict.fromkeys(steps, 10))
    first = {SLOW.model: 0.6, middle.model: 0.55, FAST.model: 0.5}
    workers = scored(lambda s: first[s.recipe] if s.steps == 4 else math.nan)
    plan = replace(fit_plan(), schedule=schedule)
    assert screen(state_of(plan), job_in(tmp_path, workers)).ranking == (FAST,)


def test_a_last_training_that_failed_goes_on_by_the_next_resume(fit_again, tmp_path, monkeypatch):
    broken = {SLOW.model, FAST.model}

    def execute(segments, reporter):
        records = []
        for one in segments:
            folder = one.folder / "failed.json"
            if one.steps > 4 and one.recipe in broken and not folder.is_file():
                one.folder.mkdir(parents=True, exist_ok=True)
                failure = {"steps": one.steps, "reason": "8 GiB of memory were taken"}
                folder.write_text(json.dumps(failure))
            score = {SLOW.model: 0.6, FAST.model: 0.5}[one.recipe]
            record = TrialRecord(one.steps, {one.steps: score})
            records.append(read_trial(one.folder) if folder.is_file() else record)
        return records

    @contextmanager
    def workers(*asked):
        yield Workers(execute, 1, 1)

    monkeypatch.setattr(session, "trial_workers", workers)
    with pytest.raises(
        RunError, match=rf"{FAST.name} could not .* failed: 8 GiB .* and --resume tries again"
    ):
        fit_again({})
    assert read_plan(tmp_path / "plan.json").failed == {
        SLOW.name: "its training failed: 8 GiB of memory were taken"
    }
    broken.clear()
    assert fit_again({}) == FAST.name


def test_a_fit_whose_last_candidates_fail_is_refused(fit_again, tmp_path, monkeypatch):
    @contextmanager
    def workers(*asked):
        yield Workers(Scored(lambda s: 0.6 if s.recipe == SLOW.model else math.nan), 1, 1)

    monkeypatch.setattr(session, "trial_workers", workers)
    replace(fit_plan(), failed={SLOW.name: "21.0 ms"}).write(tmp_path)
    with pytest.raises(
        TrainingError, match=rf"{SLOW.name} could not be delivered, .* Begin another fit"
    ):
        fit_again({})


@pytest.mark.parametrize(("slower", "rungs"), [(1.0, 2), (1.1, 2), (1.6, 1)])
def test_a_rung_that_would_starve_the_last_one_is_not_begun(slower, rungs, tmp_path, monkeypatch):
    # FAST and SLOW as if four: an hour of 0.1 and 0.2 s steps, a quarter of it for each rung
    plan = replace(fit_plan(rungs=((4000, 2), (8000, 1)), final=17000, hours=1.0), ending=0.0)
    pace = {FAST.model: 0.1 * slower, SLOW.model: 0.2 * slower}
    now, reached = [0.0], dict.fromkeys(pace, 0)

    def execute(segments, reporter):
        records = []
        for one in segments:
            now[0] += max(0, one.steps - reached[one.recipe]) * pace[one.recipe]
            reached[one.recipe] = max(one.steps, reached[one.recipe])
            score = 0.6 if one.recipe == FAST.model else 0.5
            record = trained(reached[one.recipe], pace[one.recipe])
            records.append(replace(record, scores={one.steps: score}))
        return records

    for module in (screening, state):
        monkeypatch.setattr(module, "time", SimpleNamespace(monotonic=lambda: now[0]))
    job = job_in(tmp_path, Workers(execute, 1, 1), 0.0, said := Silent())
    after = screen(state_of(plan), job)
    assert after.ranking == (FAST, SLOW)
    assert after.scores == {FAST.name: 0.6, SLOW.name: 0.5}
    assert len(after.plan.schedule.rungs) == rungs
    assert any("steps take longer than planned" in text for text in said.messages) == (rungs == 1)
    if rungs == 1:
        assert after.plan.schedule.rungs == (({SLOW.name: 4000, FAST.name: 4000}, 1),)
        assert read_plan(tmp_path / "plan.json") == after.plan

    # Once begun it stays: a resumed fit finds the rungs done, and does not count them again
    now[0] *= 2
    again = screen(replace(after, ranking=(), scores={}), job)
    assert (again.plan, again.ranking, again.scores) == (after.plan, after.ranking, after.scores)


@pytest.mark.parametrize("begun_by", ["a step", "a failure"])
def test_a_rung_that_has_begun_is_ended_however_little_time_is_left(
    tmp_path, monkeypatch, begun_by
):
    rungs = (Rung({SLOW.name: 4, FAST.name: 4}, 2), Rung({SLOW.name: 8, FAST.name: 8}, 1))
    schedule = Schedule((SLOW, FAST), rungs, {SLOW.name: 20, FAST.name: 20})
    plan, late = replace(fit_plan(), schedule=schedule), time.monotonic() - 1e6

    class Begun(Scored):
        """Behind the first rung a trial has taken a step of the second, or has failed in it."""

        def record(self, segment):
            record = super().record(segment)
            if segment.recipe != SLOW.model or segment.steps != 4:
                return record
            begun = {"step": 5} if begun_by == "a step" else {"failed_step": 8, "reason": "nan"}
            return replace(record, **begun)

    execute = Begun(lambda s: 0.6 if (s.recipe == FAST.model) == (s.steps == 8) else 0.4)
    after = screen(state_of(plan), job_in(tmp_path, Workers(execute, 1, 1), late))
    assert (after.ranking[0], after.plan) == (FAST, plan)


def test_fewer_steps_than_were_planned_before_take_the_place_of_what_was_not_reached(
    tmp_path, monkeypatch
):
    """A last training was killed after a slow machine had left it less time than planned."""
    monkeypatch.setattr(last_training, "time", SimpleNamespace(monotonic=lambda: 1000.0))
    kept = train_on(fit_plan(), tmp_path)
    (first,) = kept.finals
    longer = session._with_hours(kept, 1.1, tmp_path)
    for reached, finals in ((8, 1), (first.steps - first.decay, 2)):
        workers = scored(lambda s: 0.5)
        after = train_on(longer, tmp_path, workers, frm_lite0_light_1=trained(reached, 10.0))
        assert len(after.finals) == finals
        asked = [steps for _, steps, _, _ in workers.execute.asked]
        assert asked == sorted(asked)
        assert read_plan(tmp_path / "plan.json") == after


def test_a_last_training_that_was_begun_is_carried_out_to_the_letter(tmp_path):
    plan, workers = (
        replace(fit_plan(), finals=(FinalTraining(SLOW.name, 1.0, 10, 2),)),
        scored(lambda s: 0.5),
    )
    plan.write(tmp_path)
    plan = read_plan(tmp_path / "plan.json")
    job = job_in(tmp_path, workers, 0.0)
    after = train(state_of(plan), SLOW, job, Silent())
    assert after.plan == plan
    assert after.trials.keys() == {"frm-lite0-light-1", "frm-lite0-light-1-to-10"}
    trial = tmp_path / "trials" / "frm-lite0-light-1"
    assert workers.execute.asked == [(SLOW.model, 8, 0, None), (SLOW.model, 10, 2, trial)]


def test_with_images_without_masks_a_second_training_follows_the_one_on_the_masks(
    tmp_path, monkeypatch
):
    monkeypatch.setattr(last_training, "time", SimpleNamespace(monotonic=lambda: 1000.0))
    segments = []

    def execute(given, reporter):
        segments.extend(given)
        return [TrialRecord(one.steps, {one.steps: 0.5}) for one in given]

    plan = fit_plan(hours=1.0, unlabelled="/photos")
    kept = train_on(plan, tmp_path, Workers(execute, 1, 1), frm_lite0_light_1=trained(4))
    constant, masks, final = segments
    left = (3600 - 1000 - 30 - 2) / 0.2  # steps, a tenth of which is for labelling
    assert final.steps == masks.steps == kept.finals[0].first == int((0.9 * left + 4) / 2)
    assert masks.folder.name == f"frm-lite0-light-1-to-{final.steps}-masks"
    assert (masks.source, masks.labeller) == (constant.folder, None)
    assert (final.source, final.labeller) == (None, masks.folder)
    assert set(final.overrides) - set(masks.overrides) == {'data.unlabelled="/photos"'}
    assert masks.decay == final.decay > 0
    assert masks.deadline.seconds_left(1000.0, 0.0) == final.deadline.seconds_left(1000.0, 0.0) / 2
    train_on(kept, tmp_path, Workers(execute, 1, 1))  # it goes on alike
    assert segments[-2].until == final.steps


@pytest.mark.parametrize(("shares", "steps"), [(False, 503), (True, 2000)])
def test_the_last_one_gets_the_steps_of_the_pace_that_it_has_alone(
    tmp_path, monkeypatch, shares, steps
):
    """998 s remain after step 4: 499 steps at the rungs' pace, 24 of them take 0.5 s alone."""
    plan = replace(fit_plan(hours=1000 / 3600), ending=0.0)
    slow = replace(SLOW, step_seconds=2.0)
    plan = replace(plan, schedule=replace(plan.schedule, candidates=(slow, FAST)))
    now, asked, records = [0.0], [], {"frm_lite0_light_1": trained(4, 2.0)}

    def execute(segments, reporter):
        (one,) = segments
        name = one.folder.name.replace("-", "_")
        record = records.get(name, TrialRecord(one.steps))
        if not one.decay and one.steps > record.step:
            threads, pace = (2, 0.5) if shares else (1, 2.0)
            now[0] += pace * (one.steps - record.step)
            asked.append(one.steps)
            parts = (*trained(one.steps, pace, threads).parts, *record.parts)
            record = TrialRecord(one.steps, {}, parts)
        records[name] = replace(record, scores={one.steps: 0.5})
        return [records[name]]

    for module in (last_training, state):
        monkeypatch.setattr(module, "time", SimpleNamespace(monotonic=lambda: now[0]))
    workers = Workers(execute, 2, 1, shares)
    kept = train_on(plan, tmp_path, workers, **records)
    assert kept.finals[0].steps == steps
    assert asked == [*([28] if shares else []), kept.finals[0].steps - kept.finals[0].decay]

    # Hours that are added are planned by what is known
    train_on(session._with_hours(kept, 2.0, tmp_path), tmp_path, workers, **records)
    assert len(asked) == (3 if shares else 2)


@pytest.mark.parametrize(("steps", "told"), [(1, ["1 step"]), (199, ["199 steps"]), (200, [])])
def test_very_few_steps_are_told(tmp_path, steps, told):
    heard, plan = Silent(), replace(fit_plan(), finals=(FinalTraining(SLOW.name, 1.0, steps, 0),))
    train_on(plan, tmp_path, said=heard)
    assert [text for text in heard.messages if "very few" in text] == [
        f"it has {text}, which is very few: "
        "give it more --hours, or go on with --resume and more of them"
        for text in told
    ]


def test_more_hours_are_appended_to_the_plan_and_carried_out_in_turn(tmp_path, monkeypatch):
    monkeypatch.setattr(last_training, "time", SimpleNamespace(monotonic=lambda: 1000.0))
    kept = train_on(fit_plan(), tmp_path)
    reached = kept.finals[0].steps - kept.finals[0].decay
    longer, workers = session._with_hours(kept, 2.0, tmp_path), scored(lambda s: 0.5)
    kept = train_on(longer, tmp_path, workers, frm_lite0_light_1=trained(reached))
    assert [one.hours for one in kept.finals] == [1.0, 2.0]
    again, planned = scored(lambda s: 0.5), read_plan(tmp_path / "plan.json")
    train_on(planned, tmp_path, again, frm_lite0_light_1=trained(reached))
    assert again.execute.asked == workers.execute.asked
    first, last = (one.steps - one.decay for one in kept.finals)
    steps = [steps for _, steps, _, _ in again.execute.asked]
    assert steps == [first, last, kept.finals[1].steps]


@pytest.fixture
def fit_again(tmp_path, monkeypatch):
    """Resume the fit in a folder without trainings, and return the delivered candidate.

    failing: {candidate: milliseconds over the limit, or None if it has no file}.
    """

    @contextmanager
    def workers(*asked):
        yield Workers(Scored(lambda s: {SLOW.model: 0.6, FAST.model: 0.5}[s.recipe]), 1, 1)

    def go_on(failing, out=tmp_path):
        def deliver(state, winner, watch, job, ends, *, accept):
            if state.failure:
                raise state.failure
            over_ms = failing.get(winner.name)
            if winner.name in failing and not (accept and over_ms):
                reason = "its file could not be written" if over_ms is None else TOO_SLOW
                raise Undelivered(f"{winner.name} took 21.0 ms", reason, over_ms=over_ms)
            go_on.accepted, go_on.left = accept, ends - job.began
            return winner.name

        monkeypatch.setattr(session, "deliver", deliver)
        return featherseg.fit(out=out, resume=True)

    monkeypatch.setattr(session, "trial_workers", workers)
    fit_plan().write(tmp_path)
    return go_on


def test_the_next_one_is_delivered_where_the_first_cannot_be(fit_again, tmp_path):
    assert fit_again({SLOW.name: 50.0}) == FAST.name
    plan = read_plan(tmp_path / "plan.json")
    assert plan.failed == {SLOW.name: TOO_SLOW}
    assert [one.candidate for one in plan.finals] == [SLOW.name, FAST.name]
    assert fit_again({}) == FAST.name  # as it was decided


def test_a_fit_of_which_none_can_be_delivered_can_be_tried_again(fit_again, tmp_path):
    with pytest.raises(RunError, match=f"{FAST.name} took"):
        fit_again({SLOW.name: None, FAST.name: None})
    assert fit_again({}) == FAST.name


def test_the_best_that_is_trained_is_delivered_where_nobody_keeps_the_limit(
    fit_again, tmp_path, monkeypatch
):
    monkeypatch.setattr(
        substitution,
        "_final_score",
        lambda state, one, job: {SLOW.name: 0.7, FAST.name: 0.6}[one.name],
    )
    assert (fit_again({SLOW.name: 50.0, FAST.name: 21.0}), fit_again.accepted) == (SLOW.name, True)
    plan = read_plan(tmp_path / "plan.json")
    assert (plan.over_limit, plan.failed) == (SLOW.name, {FAST.name: TOO_SLOW})
    assert fit_again.left == pytest.approx(3600.0)
    assert fit_again({SLOW.name: 50.0, FAST.name: 21.0}) == SLOW.name  # as it was decided
    (tmp_path / "fit.json").write_text(json.dumps({**facts(), "limit_kept": False}))
    assert (fit_again({SLOW.name: 50.0}), fit_again.left) == (
        SLOW.name,
        math.inf,
    )  # its hours may be over
    (tmp_path / "fit.json").unlink()

    # Where the best has no file, the next one that is trained
    replace(fit_plan()).write(tmp_path)
    assert fit_again({SLOW.name: None, FAST.name: 21.0}) == FAST.name
    assert read_plan(tmp_path / "plan.json").over_limit == FAST.name


@pytest.mark.parametrize(
    ("hours", "delivering", "accepted"), [(0.02, 15.0, False), (0.02, 40.0, True)]
)
def test_no_second_training_begins_that_would_end_behind_the_hours(
    fit_again, tmp_path, hours, delivering, accepted
):
    plan = replace(
        fit_plan(hours=hours), delivering=delivering
    )  # 72 s: three deliveries, and two validations of 1 s
    plan.write(tmp_path)
    failing = {SLOW.name: 21.0}
    assert (fit_again(failing), fit_again.accepted) == (
        (SLOW.name, True) if accepted else (FAST.name, False)
    )
    assert [one.candidate for one in read_plan(tmp_path / "plan.json").finals] == [
        SLOW.name,
        *([] if accepted else [FAST.name]),
    ]


def test_whoever_has_no_file_gives_way_however_little_time_is_left(fit_again, tmp_path):
    replace(fit_plan(hours=0.02), delivering=40.0).write(tmp_path)
    assert (fit_again({SLOW.name: None}), fit_again.accepted) == (FAST.name, True)


def test_a_model_over_the_limit_is_timed_again_by_a_resume_while_its_training_is_there(
    fit_again, tmp_path
):
    last = FinalTraining(SLOW.name, 1.0, 10, 2)
    plan = replace(
        fit_plan(), finals=(last, FinalTraining(FAST.name, 1.0, 8, 2)), over_limit=SLOW.name
    )
    plan.write(tmp_path)
    over = {**facts(), "steps": 10, "limit_kept": False, "latency_over_ms": 1.0}
    (tmp_path / "fit.json").write_text(json.dumps(over))
    assert fit_again({}).limit_kept is False  # its trials are gone
    (folder := trials.final_folder(tmp_path, SLOW, 10)).mkdir(parents=True)
    (folder / "resolved.json").touch()
    assert not session._is_finished(plan, FitResult(tmp_path, over))
    assert session._is_finished(plan, FitResult(tmp_path, over | {"limit_kept": True}))

    # More hours train it again as any other
    assert session._with_hours(plan, 2.0, tmp_path).over_limit is None


def test_a_slower_one_takes_no_place_of_one_that_was_too_slow(tmp_path):
    for over_ms, failed in ((21.0, {"middle at 1", f"{SLOW.name}"}), (None, {"middle at 1"})):
        ranking = [replace(FAST, model="middle", latency_ms=10.0), SLOW, FAST]
        error, before = Undelivered("", "why", over_ms=over_ms), state_of(fit_plan(), ranking)
        after = substitute(before, ranking[0], error, job_in(tmp_path), Silent())
        assert after.plan.failed.keys() == failed


@pytest.mark.parametrize(
    ("over_ms", "before", "rival", "scale"),
    [
        # 96x144 has 3x5 cells of 32 pixels, 0.625 of 128x192; 97x145 has 4x5, 0.83
        (23.5, None, 0.5, 0.75),
        (23.5, None, None, 0.75),
        (23.5, None, 0.61, None),  # who would take its place is better
        (21.0, 0.87, 0.5, 0.83),  # still too slow at 0.87, which has 4x6 cells; 106x159 has 4x5
        (45.0, None, 0.5, None),  # it would be below 0.7
    ],
)
def test_one_that_is_too_slow_sees_smaller_images_where_it_stays_the_better_one(
    over_ms, before, rival, scale, tmp_path, monkeypatch
):
    resizes = []
    monkeypatch.setattr(
        substitution, "score_val", lambda plan, run, resize, reporter: resizes.append(resize) or 0.6
    )
    shrunk, finals = {SLOW.name: before} if before else {}, (FinalTraining(SLOW.name, 1.0, 10, 2),)
    plan = replace(fit_plan(), image_size=(128, 192), shrunk=shrunk, finals=finals)
    assert smaller_scale(plan, SLOW, over_ms, rival, job_in(tmp_path), Silent()) == scale
    assert resizes == ([] if over_ms == 45.0 else [(106, 159)] if before else [(96, 144)])


def test_no_image_is_made_too_small(tmp_path):
    plan = replace(fit_plan(), finals=(FinalTraining(SLOW.name, 1.0, 10, 2),))  # 64 pixels high
    assert smaller_scale(plan, SLOW, 25.0, None, job_in(tmp_path), Silent()) is None


def test_who_is_shrunk_stays_the_chosen_one_by_the_plan_too(fit_again, tmp_path, monkeypatch):
    monkeypatch.setattr(substitution, "smaller_scale", lambda *given: 0.87)

    def deliver(state, winner, *rest, **how):
        if not state.plan.shrunk:
            raise Undelivered("too slow", "21.0 ms", over_ms=21.0)
        return winner.name, dict(state.plan.shrunk)

    monkeypatch.setattr(session, "deliver", deliver)
    assert featherseg.fit(out=tmp_path, resume=True) == (SLOW.name, {SLOW.name: 0.87})
    plan = read_plan(tmp_path / "plan.json")
    assert (plan.failed, plan.shrunk) == ({}, {SLOW.name: 0.87})


def test_one_that_was_not_delivered_is_told_by_its_last_training(tmp_path):
    finals = (FinalTraining(SLOW.name, 1.0, 10, 2), FinalTraining(FAST.name, 1.0, 8, 1))
    tried = replace(fit_plan(), finals=finals, failed={SLOW.name: "21.0 ms"})
    half = TrialRecord(4, {4: 0.5}, ({"seconds": 30.0},))
    records = {"frm_lite0_light_1": half, "frm_lite0_half_light_1": half}
    records["frm_lite0_light_1_to_10"] = TrialRecord(10, {10: 0.7}, ({"seconds": 40.0},))
    before = replace(state_of(tried, **records), scores={SLOW.name: 0.6, FAST.name: 0.5})
    rows = delivery._candidates(before, FAST, tried.timing(FAST), 0.5, tmp_path)
    row = next(row for row in rows if row["model"] == SLOW.model)
    assert (row["status"], row["miou_val"], row["seconds_trained"]) == (
        "not delivered: 21.0 ms",
        0.7,
        70.0,
    )
    assert row["run"] == "trials/frm-lite0-light-1-to-10"

    # The page says where its weights are
    page = fit_html(facts() | {"candidates": rows}, {}, tried.schedule)
    assert (
        "has 70.00 % on the validation images and was not delivered: 21.0 ms. "
        "Before it was trained it took" in page
    )
    assert "trials/frm-lite0-light-1-to-10 is a run" in page
    assert "it could not be delivered" not in fit_html(facts(), {}, tried.schedule)


def test_one_whose_training_failed_in_a_rung_is_told_with_the_reason(tmp_path):
    failed = TrialRecord(failed_step=4, reason="the loss is no number")
    before = state_of(fit_plan(), frm_lite0_half_light_1=failed)
    before = replace(before, scores={FAST.name: math.nan})
    rows = delivery._candidates(before, SLOW, before.plan.timing(SLOW), 0.5, tmp_path)
    row = next(row for row in rows if row["model"] == FAST.model)
    assert (row["status"], row["miou_val"]) == (
        "its training failed at rung 1: the loss is no number",
        None,
    )


@pytest.mark.parametrize(
    ("p50", "memory", "status"),
    [
        (40.0, 300.0, "over the limit"),
        (19.0, 300.0, "within 10 % of the limit"),
        (19.0, 500.0, "within 10 % of the limit"),
        (17.0, 500.0, "over the limit of memory"),
        (17.0, 300.0, "not trained: others are better guesses"),
    ],
)
def test_who_was_not_trained_is_told_why(tmp_path, p50, memory, status):
    plan = fit_plan(max_mib=400.0)
    plan = replace(plan, timings=(*plan.timings[:2], timing("frm-lite0", p50=p50, memory=memory)))
    rows = delivery._candidates(state_of(plan), SLOW, plan.timing(SLOW), 0.5, tmp_path)
    assert [row["status"] for row in rows if row["model"] == "frm-lite0"] == [status]
    page = " ".join(fit_html(facts() | {"candidates": rows}, {}, plan.schedule).split())
    assert "Candidates that train must stay 10 % below the limit" in page
    limit = status in ("over the limit", "within 10 % of the limit")
    assert (f"A higher limit would let in frm-lite0 at 1 first, with {p50} ms" in page) == limit


def test_one_that_was_shrunk_is_told_as_it_is_delivered(tmp_path):
    smaller, plan = timing(SLOW.model, 0.87, p50=19.0), fit_plan()
    before = replace(state_of(plan), scores={SLOW.name: 0.6})
    rows = delivery._candidates(before, SLOW, smaller, 0.55, tmp_path)
    row = next(row for row in rows if row["model"] == SLOW.model)
    assert (row["scale"], row["latency_ms"]["p50"], row["miou_val"], row["status"]) == (
        0.87,
        19.0,
        0.55,
        "chosen",
    )
    slower = delivery._candidates(before, SLOW, replace(smaller, p50=41.0), 0.55, tmp_path)
    assert [row["latency_ms"]["p50"] for row in slower] == [5.0, 40.0, 41.0]
    told = facts() | {"candidates": rows}
    told["chosen"] |= {"scale": 0.87, "trained_scale": 1.0}
    curves = {f"{SLOW.model} at 0.87": [(4, 0.4), (8, 0.5), (10, 0.55)]}
    page = " ".join(fit_html(told, curves, plan.schedule).split())
    assert "was trained as frm-lite0-light at 1; there its file was over the limit" in page
    assert "there its file was over the limit" not in fit_html(facts(), {}, plan.schedule)


def test_the_page_tells_how_far_timings_of_one_file_lie_apart():
    told, plan = facts(), fit_plan().schedule
    assert "It was timed" not in fit_html(told, {}, plan)
    told["chosen"] |= {"timings_ms": [10.0, 15.25, 14.0, 9.5]}
    assert re.search(r"It was timed 4\s+times: 9\.5 to 15\.[23] ms", fit_html(told, {}, plan))


def test_a_finished_fit_trains_nothing_again_though_its_trials_are_gone(
    fit_again, tmp_path, monkeypatch
):
    last = FinalTraining(SLOW.name, 1.0, 10, 2)
    replace(fit_plan(), finals=(last,)).write(tmp_path)
    (tmp_path / "fit.json").write_text(json.dumps({**facts(), "steps": 10}))
    assert fit_again({SLOW.name: 21.0}).facts["steps"] == 10

    # One whose last training has gone on since, or of another model, is not finished
    for other in (
        replace(last, steps=12),
        replace(last, candidate=FAST.name),
        replace(last, hours=0.5),
    ):
        replace(fit_plan(), finals=(last, other)).write(tmp_path)
        monkeypatch.setattr(session, "train", lambda state, *rest: state)
        assert fit_again({}) == SLOW.name


def test_a_model_that_was_delivered_before_stays(fit_again, tmp_path):
    (tmp_path / "fit.json").write_text(json.dumps({**facts(), "steps": 1}))
    with pytest.raises(RunError, match=f"{SLOW.name} took"):
        fit_again({SLOW.name: 21.0})


def test_the_worst_of_three_timings_must_keep_the_limit(tmp_path):
    again, config = (
        [timing(p50=p50, p95=30.0) for p50 in (19.0, 20.5, 18.0)],
        fit_plan(max_ms=21.0, max_mib=400.0).config,
    )
    assert worst(SLOW.name, again, config, tmp_path, tmp_path).p50 == 20.5
    with pytest.raises(
        Undelivered,
        match=r"20\.5 ms in the worst of 3 timings of its file, over the limit of 20 ms",
    ) as slow:
        worst(SLOW.name, again, replace(config, max_ms=20.0), tmp_path, tmp_path)
    assert slow.value.over_ms == 20.5
    again.append(replace(again[0], memory_mib=401.0))
    with pytest.raises(
        Undelivered, match=r"401 MiB when its file was run again, over the limit of 400 MiB"
    ) as heavy:
        worst(SLOW.name, again, config, tmp_path, tmp_path)
    assert heavy.value.over_ms is None


def test_a_value_without_a_class_is_said_before_anything_is_timed(tmp_path, monkeypatch):
    path = write_yard(tmp_path / "yard", splits=SPLITS)
    Image.fromarray(np.full((64, 96), 7, np.uint8)).save(tmp_path / "yard" / "masks" / "017x.png")
    monkeypatch.setattr(beginning, "time_offers", None)
    with pytest.raises(DataError, match=r"017x.png.*7"):
        featherseg.fit(path, 20.0, out=tmp_path / "out", hours=0.1)
    assert not (tmp_path / "out").exists()


def test_a_plan_says_whether_initial_weights_are_taken(tmp_path):
    replace(fit_plan(), pretrained=False).write(tmp_path)
    scratch, job = state_of(read_plan(tmp_path / "plan.json")), job_in(tmp_path)
    overrides = segment_of(scratch, job, FAST, 5).overrides
    assert "model.pretrained=false" in overrides  # though they are here
    overrides = segment_of(state_of(fit_plan()), job, FAST, 5).overrides
    assert not any("pretrained" in text for text in overrides)


def test_the_last_one_gets_the_time_that_is_left(tmp_path, monkeypatch):
    plan = fit_plan(hours=1.0)
    monkeypatch.setattr(last_training, "time", SimpleNamespace(monotonic=lambda: 1000.0))
    kept = train_on(plan, tmp_path)
    steps, decay = kept.finals[0].steps, kept.finals[0].decay
    assert steps == int((3600 - 1000 - 30 - 2) / 0.2)
    assert decay == int(0.2 * steps)
    assert train_on(kept, tmp_path, began=-2000.0).finals == kept.finals  # once begun it stays


def delivered(steps, out):
    """What an earlier command delivered."""
    return FitResult(out, facts() | {"steps": steps})


def test_the_last_one_gets_no_more_steps_than_a_training_may_have(tmp_path):
    plan = fit_plan(hours=60.0)
    state = state_of(plan, frm_lite0_light_1=trained(3_000_000, 0.02))
    kept = train(state, SLOW, job_in(tmp_path), Silent()).plan
    assert [(one.steps, one.decay) for one in kept.finals] == [(10_000_000, 2_000_000)]
    assert read_plan(tmp_path / "plan.json") == kept
    longer = replace(plan, config=replace(plan.config, hours=80.0))
    state = replace(state, plan=longer, delivered=delivered(10_000_000, tmp_path))
    with pytest.raises(
        ConfigError, match=r"--hours 80: .* the most that a training takes\. Leave it out"
    ):
        train(state, SLOW, job_in(tmp_path), Silent())


def test_so_little_more_time_that_the_model_would_train_for_less_is_refused(tmp_path, monkeypatch):
    monkeypatch.setattr(last_training, "time", SimpleNamespace(monotonic=lambda: 1000.0))

    def steps_in(hours, began=0.0):
        state = replace(state_of(fit_plan(hours=hours)), delivered=delivered(14_000, tmp_path))
        return train(state, SLOW, job_in(tmp_path, began=began), Silent()).plan.finals[-1].steps

    with pytest.raises(
        ConfigError,
        match=r"would get 12840 steps, and it was delivered with 14000, .* at least 1\.08",
    ):
        steps_in(1.0)
    assert steps_in(1.08) > 14_000
    with pytest.raises(ConfigError, match="would get 1 steps") as refused:  # its hours are over
        steps_in(1.0, -3000.0)
    least = float(re.search(r"at least (\S+)\.$", str(refused.value))[1])
    assert 14_000 < steps_in(least, -3000.0) < 14_500


def test_what_a_killed_fit_took_counts(tmp_path):
    with session._counted(tmp_path, time.monotonic() - 100):
        pass
    assert 100 <= session._spent(tmp_path, fit_plan()) < 101
    for damaged in ("[]", '{"seconds": 1e300}', '{"seconds": -1}', '{"seconds": NaN}'):
        (tmp_path / "spent.json").write_text(damaged)
        assert session._spent(tmp_path, fit_plan()) == 10.0


def test_a_second_fit_of_a_folder_takes_nothing_from_the_first(tmp_path):
    path, out = write_yard(tmp_path / "yard", splits=SPLITS), tmp_path / "out"
    out.mkdir()
    (out / "dataset.toml").write_text("the first one's")
    with (
        locked(out / ".fit.lock", RunError("taken")),
        pytest.raises(RunError, match="another process fits in"),
    ):
        featherseg.fit(path, 20.0, out=out)
    assert (out / "dataset.toml").read_text() == "the first one's"


def test_a_candidate_without_room_in_the_memory_is_dropped(tmp_path, monkeypatch):
    def refuse(*args, **more):
        raise ConfigError("a step takes more memory than there is")

    monkeypatch.setattr(trials, "train", refuse)
    said = Silent()
    segment = Segment(tmp_path / "trials" / "frm-lite0-1", "frm-lite0", (), 4)
    assert math.isnan(trials.train_segment(segment, said).score_of(segment))
    assert said.messages == ["frm-lite0-1 is dropped: a step takes more memory than there is"]
