"""The trials of a fit over a cluster, beside their trainings: a stand-in takes Ray's place."""

import math
import platform
import sys
from contextlib import nullcontext
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch
from support.models.fit_plans import trained
from support.models.small_run import small_info
from support.models.small_training import Silent

from featherseg.core.cluster import Cluster
from featherseg.core.errors import ConfigError, DataNotFound, FeathersegError, TrainingError
from featherseg.core.files import PLAN, append_line
from featherseg.core.types import ClassInfo
from featherseg.core.wording import WarningText
from featherseg.fitting import trials
from featherseg.fitting.clock import Deadline
from featherseg.fitting.trials import DistinctWarnings, Segment, TrialRecord, trial_workers
from featherseg.runs.run import write_info
from featherseg.training.folder import refuse_existing


class RayError(Exception):
    """As Ray wraps what a task raises."""

    cause = None


@pytest.fixture
def ray(monkeypatch):
    """Does a task when it is asked for its outcome, the one that was given last first."""
    told = SimpleNamespace(options=[], lost=())

    def remote(function):
        def options(**given):
            told.options.append(given)
            return SimpleNamespace(remote=lambda *values: (function, values))

        return SimpleNamespace(options=options)

    def get(task):
        function, values = task
        if values[0].folder.name in told.lost:
            raise RayError("the worker died\nWorkerCrashed: unexpectedly")
        try:
            return function(*values)
        except FeathersegError as error:
            found = RayError("a task failed")
            found.cause = error
            raise found from error

    told.remote, told.get, told.exceptions = remote, get, SimpleNamespace(RayError=RayError)
    told.wait = lambda waiting: (waiting[-1:], waiting[:-1])
    monkeypatch.setitem(sys.modules, "ray", told)
    monkeypatch.setattr(torch, "set_num_threads", lambda threads: None)
    return told


def segments(out, count):
    return [Segment(out / "trials" / f"model-{n}", f"model-{n}", (), 10 + n) for n in range(count)]


@pytest.mark.parametrize(("machines", "processors", "at_once", "count", "threads"), [
    (3, 8, 3, 8, 8), (3, 8, 3, 1, 8), (3, 8, 6, 6, 4), (3, 8, 6, 2, 8), (1, 2, 2, 8, 1),
    (1, 2, 2, 1, 2),
    (1, 2, 5, 5, 1),
])  # fmt: skip
def test_trials_share_the_processors_of_a_machine(
    ray, tmp_path, monkeypatch, machines, processors, at_once, count, threads
):
    monkeypatch.setattr(trials, "train_segment", lambda segment, reporter: trained(segment.steps))
    (tmp_path / PLAN).touch()
    found = trials._over_ray(
        Cluster(machines, processors, 0), at_once, segments(tmp_path, count), Silent()
    )
    assert [record.step for record in found] == [10 + n for n in range(count)]
    assert ray.options[0]["num_cpus"] == threads
    assert ray.options[0]["num_gpus"] == 0


@pytest.mark.parametrize(
    ("workers", "device", "at_once", "shares"),
    [(None, "auto", 2, False), (2, "cuda", 2, False), (3, "cpu", 3, False), (8, "cpu", 8, True)],
)
def test_each_trial_has_a_gpu_where_there_are_some(
    ray, monkeypatch, workers, device, at_once, shares
):
    monkeypatch.setattr(trials, "ray_cluster", lambda *asked: nullcontext(Cluster(3, 8, 2)))
    with trial_workers("auto", workers, device) as found:
        assert (found.at_once, found.shares) == (at_once, shares)
        assert found.execute.args[0].gpus == (0 if device == "cpu" else 2)
    with (
        pytest.raises(
            ConfigError,
            match="--workers 3, but the cluster has 2 GPUs, and each candidate trains on one",
        ),
        trial_workers("auto", 3, "auto"),
    ):
        pass


def test_what_a_trial_says_and_that_it_failed_comes_back(ray, tmp_path, monkeypatch):
    def carry_out(segment, reporter):
        reporter.message(f"{segment.recipe} is dropped")
        return TrialRecord(failed_step=10, reason="no number")

    said = Silent()
    said.message = (texts := []).append
    monkeypatch.setattr(trials, "train_segment", carry_out)
    (tmp_path / PLAN).touch()
    (record,) = trials._over_ray(Cluster(1, 2, 0), 1, segments(tmp_path, 1), said)
    assert record.failure_at(10) == "no number"
    assert texts == ["model-0 is dropped"]


def test_a_machine_that_does_not_see_the_folder_is_named(ray, tmp_path):
    with pytest.raises(
        DataNotFound, match=f"{platform.node()} does not see .*plan.json: --out must lie on a disk"
    ):
        trials._over_ray(Cluster(2, 2, 0), 2, segments(tmp_path, 2), Silent())


def test_a_trial_whose_workers_all_die_is_named(ray, tmp_path, monkeypatch):
    monkeypatch.setattr(trials, "train_segment", lambda segment, reporter: trained(1))
    (tmp_path / PLAN).touch()
    ray.lost = ("model-1",)
    with pytest.raises(
        FeathersegError, match=r"gave up model-1: WorkerCrashed: unexpectedly\..* --resume"
    ):
        trials._over_ray(Cluster(2, 2, 0), 2, segments(tmp_path, 2), Silent())


def test_workers_are_of_a_cluster():
    with (
        pytest.raises(ConfigError, match="add --cluster local or an address"),
        trial_workers(None, 2),
    ):
        pass
    with pytest.raises(ConfigError, match="expected 1 or more"), trial_workers("local", 0):
        pass
    with trial_workers(None, None) as alone:
        assert (alone.execute, alone.at_once, alone.threads) == (
            trials.train_in_turn,
            1,
            torch.get_num_threads(),
        )


def test_a_relative_folder_is_told_as_a_whole_one(ray, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / PLAN).touch()
    seen = []
    monkeypatch.setattr(
        trials, "train_segment", lambda segment, reporter: seen.append(segment.folder) or trained(1)
    )
    trials._over_ray(Cluster(1, 2, 0), 1, segments(Path("."), 1), Silent())
    assert seen == [tmp_path / "trials" / "model-0"]


def test_a_trial_that_failed_before_its_first_step_begins_anew(tmp_path, monkeypatch):
    (segment,) = segments(tmp_path, 1)
    segment.folder.mkdir(parents=True)
    (segment.folder / "metrics.jsonl").write_text('{"step": 10, "val_miou": null}\n')
    (segment.folder / "seconds.jsonl").write_text('{"steps": 10, "seconds": 1.0}\n')

    def train(request, out, reporter, *, resume):
        refuse_existing(out, resume=resume)  # as a training does: files of others stay
        raise TrainingError("the loss is no number")

    monkeypatch.setattr(trials, "train", train)
    record = trials.train_segment(segment, Silent())
    assert math.isnan(record.score_of(segment))
    assert record == trials.read_trial(segment.folder)
    assert (record.failure_at(10), record.failure_at(20)) == ("the loss is no number", None)

    # It is not tried twice, until the failure is forgotten
    monkeypatch.setattr(trials, "train", None)
    assert trials.train_segment(segment, Silent()) == record
    (segment.folder / "failed.json").unlink()
    with pytest.raises(TypeError, match="not callable"):
        trials.train_segment(segment, Silent())


def test_a_trial_stops_by_its_clock_and_where_it_stopped_before(tmp_path, monkeypatch):
    (segment,), now = segments(tmp_path, 1), [0.0]  # to step 10
    segment.folder.mkdir(parents=True)
    write_info(segment.folder, small_info([ClassInfo("a", (0, 0, 0)), ClassInfo("b", (9, 9, 9))]))

    def train(request, out, reporter, *, resume):
        for step in range(trials.read_trial(out).step + 1, 11):
            now[0] += 1
            last = step == 10 or request.ends(step)
            record = {"step": step} | ({"val_miou": step / 100} if last else {})
            append_line(out / "metrics.jsonl", record)
            reporter.step(step, 10, record)
            if last:
                return

    monkeypatch.setattr(trials, "train", train)
    monkeypatch.setattr(trials, "time", SimpleNamespace(monotonic=lambda: now[0]))
    late = replace(segment, deadline=Deadline(6.0, 1.0, 2.0))

    def score_and_step(segment):
        (record,) = trials.train_in_turn([segment], Silent())
        return record.score_of(segment), record.step

    assert score_and_step(late) == (0.04, 4)
    assert score_and_step(late) == (0.04, 4)  # the hours are over
    assert (score_and_step(replace(segment, until=7)), now) == ((0.07, 7), [7.0])
    assert (score_and_step(replace(segment, until=7)), now) == ((0.07, 7), [7.0])
    assert (score_and_step(segment), now) == ((0.1, 10), [10.0])

    # What has nothing is not begun when the hours are over
    fresh = replace(late, folder=tmp_path / "trials" / "fresh")
    assert trials.train_in_turn([fresh], Silent()) == [TrialRecord()]
    assert not fresh.folder.exists()


def test_a_trial_that_was_killed_on_its_way_has_ended_its_earlier_segments(tmp_path, monkeypatch):
    (segment,) = segments(tmp_path, 1)  # to step 10
    info = small_info([ClassInfo("a", (0, 0, 0)), ClassInfo("b", (9, 9, 9))])
    train = info.recipe.train.model_copy(update={"steps": 10, "epochs": None})
    recipe = info.recipe.model_copy(update={"train": train})
    write_info(segment.folder, info.model_copy(update={"recipe": recipe}))
    for record in ({"step": 4, "val_miou": 0.3}, {"step": 5}):
        append_line(segment.folder / "metrics.jsonl", record)
    monkeypatch.setattr(trials, "train", None)
    first = replace(segment, steps=4)
    (record,) = trials.train_in_turn([first], Silent())
    assert (record.score_of(first), record.step) == (0.3, 5)
    with pytest.raises(TypeError, match="not callable"):
        trials.train_in_turn([segment], Silent())


def test_a_machine_of_a_cluster_keeps_the_deadline_by_its_own_clock(tmp_path, monkeypatch, ray):
    (tmp_path / "plan.json").touch()
    (segment,), seen = segments(tmp_path, 1), []
    monkeypatch.setattr(
        trials, "train_segment", lambda segment, reporter: seen.append(segment) or trained(1)
    )
    clocks = iter([1000.0, 50.0])  # here, then there
    monkeypatch.setattr(
        trials, "time", SimpleNamespace(monotonic=lambda: next(clocks), time=lambda: 5e9)
    )
    deadline = Deadline(1600.0, 1.0, 2.0)
    trials._over_ray(Cluster(1, 2, 0), 1, [replace(segment, deadline=deadline)], Silent())
    assert seen[0].deadline == replace(deadline, ends=650.0)


def test_a_resumed_part_is_counted_by_the_steps_that_it_took(tmp_path, monkeypatch):
    (segment,) = segments(tmp_path, 1)  # to step 10
    segment.folder.mkdir(parents=True)
    write_info(segment.folder, small_info([ClassInfo("a", (0, 0, 0)), ClassInfo("b", (9, 9, 9))]))
    append_line(segment.folder / "metrics.jsonl", {"step": 9})
    now = [0.0]

    class Timing(Silent):
        """Takes twenty seconds beside the seventh step, in which its file is timed."""

        def step(self, step, *given):
            now[0] += 20 if step == 7 else 0

    def train(request, out, reporter, *, resume):
        now[0] += 100  # all images are looked at
        for step in range(5, 11):  # killed behind step 9; its checkpoint was of step 4
            now[0] += 1
            reporter.step(step, 10, {})
        now[0] += 30  # the validation

    monkeypatch.setattr(trials, "train", train)
    monkeypatch.setattr(trials, "time", SimpleNamespace(monotonic=lambda: now[0]))
    record, threads = trials.train_segment(segment, Timing()), torch.get_num_threads()
    assert [record.pace(), record.pace(threads - 1), record.pace(threads)] == [1.0, 1.0, 0.0]
    assert record.seconds == 156.0

    # Of one step nothing is known; of a row of an older version all that it took
    append_line(segment.folder / "seconds.jsonl", {"steps": 1, "stepping": 0.0, "seconds": 50.0})
    assert trials.read_trial(segment.folder).pace() == 1.0
    append_line(segment.folder / "seconds.jsonl", {"steps": 6, "seconds": 10.0})
    assert trials.read_trial(segment.folder).pace() == (5 + 10) / 10


def test_a_trial_that_ran_out_of_memory_is_dropped(tmp_path, monkeypatch):
    def train(*given, **how):
        raise torch.OutOfMemoryError("CUDA out of memory")

    (segment,), said = segments(tmp_path, 1), Silent()
    monkeypatch.setattr(trials, "train", train)
    assert math.isnan(trials.train_segment(segment, said).score_of(segment))
    assert said.messages == ["model-0 is dropped: CUDA out of memory"]


def test_doubts_of_trials_are_told_once(tmp_path, monkeypatch):
    def train(request, out, reporter, *, resume):
        reporter.message("a step takes 2 s")
        reporter.message(WarningText("2 images of yard val are trained on too: a, b"))
        raise TrainingError("the loss is no number")

    monkeypatch.setattr(trials, "train", train)
    trials.train_in_turn(segments(tmp_path, 3), DistinctWarnings(said := Silent()))
    assert [text for text in said.messages if "dropped" not in text] == [
        "2 images of yard val are trained on too: a, b"
    ]
    assert len(said.messages) == 4


def test_no_run_is_copied_through_a_link(tmp_path):
    source, to, victim = tmp_path / "run", tmp_path / "out", tmp_path / "victim"
    for folder in (source / "export", to, victim):
        folder.mkdir(parents=True)
    for place in (source / "a.txt", source / "export" / "model.onnx"):
        place.write_text("new")
    for place in (victim / "a.txt", victim / "model.onnx"):
        place.write_text("mine")
    (to / "a.txt").symlink_to(victim / "a.txt")
    (to / "a.txt.tmp").symlink_to(victim / "a.txt")
    (to / "export").symlink_to(victim)
    trials.copy_run(source, to)
    assert [path.read_text() for path in sorted(victim.iterdir())] == ["mine", "mine"]
    assert [(to / name).read_text() for name in ("a.txt", "export/model.onnx")] == ["new", "new"]
