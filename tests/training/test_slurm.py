"""SLURM's signals leave one checkpoint, the run's own; a stray checkpoint is not resumed."""

import os
import signal
from types import SimpleNamespace

import pytest
from support.models.small_training import Killed, KilledAt, Silent, trained

from featherseg.core.errors import ConfigError, RunError
from featherseg.core.files import read_lines
from featherseg.training import Request, folder, train

pytestmark = pytest.mark.usefixtures("tiny")

SLURM = {
    "SLURM_NTASKS": "1",
    "SLURM_PROCID": "0",
    "SLURM_LOCALID": "0",
    "SLURM_NODEID": "0",
    "SLURM_JOB_ID": "7",
    "SLURM_JOB_NAME": "yard",
    "SLURM_NNODES": "1",
}


class Signalled(Silent):
    """Signal this process while a step is recorded, when a signal was once lost."""

    def __init__(self, number):
        super().__init__()
        self.number = number

    def step(self, step, steps, record):
        super().step(step, steps, record)
        if step == 2:
            os.kill(os.getpid(), self.number)


@pytest.fixture
def ctrl_c():
    """Ctrl-C as Python answers it; what runs in the background may have been begun without."""
    before = signal.signal(signal.SIGINT, signal.default_int_handler)
    yield
    signal.signal(signal.SIGINT, before)


@pytest.mark.usefixtures("ctrl_c")
@pytest.mark.parametrize(
    ("warning", "accumulate"), [(signal.SIGUSR1, 1), (signal.SIGTERM, 2), (signal.SIGINT, 2)]
)
def test_a_signal_leaves_a_checkpoint_in_the_run_and_none_beside_it(
    tmp_path, monkeypatch, warning, accumulate
):
    (tmp_path / "hpc_ckpt_1.ckpt").write_bytes(b"left by another training")
    monkeypatch.chdir(tmp_path)
    for key, value in SLURM.items():
        monkeypatch.setenv(key, value)
    settings = ("train.epochs=400", "train.validate_every=400", f"train.accumulate={accumulate}")
    reporter, before = Signalled(warning), signal.getsignal(warning)
    with pytest.raises(KeyboardInterrupt):
        trained(tmp_path / "run", *settings, reporter=reporter)
    assert signal.getsignal(warning) == before
    metrics = tmp_path / "run" / "metrics.jsonl"
    assert [line["step"] for line in read_lines(metrics)] == [
        1,
        2,
        3,
    ]  # the step that was under way is finished
    assert any("stopped at step 3. Continue with" in text for text in reporter.messages)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["hpc_ckpt_1.ckpt", "run"]
    with pytest.raises(Killed):
        train(Request(None), tmp_path / "run", KilledAt(4), resume=True)
    assert {"resumed_from": 3} in read_lines(metrics)  # nothing was lost


@pytest.mark.seconds
@pytest.mark.usefixtures("ctrl_c")
@pytest.mark.parametrize("step", [2, 4])
def test_ctrl_c_during_a_validation_stops_behind_it_and_says_so(tmp_path, step):
    class Interrupted(Silent):
        shown: list[str] = []

        def step(self, step, steps, record):
            super().step(step, steps, record)
            self.last = step

        def progress(self, doing, done, total):
            if getattr(self, "last", 0) == step - 1:
                self.shown.append(doing)
                if len(self.shown) == 1:
                    os.kill(os.getpid(), signal.SIGINT)

    settings, reporter = ("train.epochs=2", "train.validate_every=1"), Interrupted()
    with pytest.raises(KeyboardInterrupt):
        trained(tmp_path / "run", *settings, reporter=reporter)
    assert reporter.shown[1].startswith("stopping after this validation")
    assert any(f"stopped at step {step}. Continue with" in text for text in reporter.messages)
    metrics = tmp_path / "run" / "metrics.jsonl"
    kept = read_lines(metrics)
    train(Request(None), tmp_path / "run", Silent(), resume=True)
    trained(tmp_path / "whole", *settings)
    assert [row for row in read_lines(metrics) if "step" in row] == read_lines(
        tmp_path / "whole" / "metrics.jsonl"
    )
    assert read_lines(metrics)[:step] == kept


@pytest.mark.usefixtures("ctrl_c")
def test_a_second_ctrl_c_stops_at_once_and_says_from_which_step_the_run_goes_on(tmp_path):
    class Interrupted(Silent):
        def step(self, step, steps, record):
            super().step(step, steps, record)
            if step == self.last:
                os.kill(os.getpid(), signal.SIGINT)
                os.kill(os.getpid(), signal.SIGINT)

    for last, kept in ((1, "the start"), (3, "step 2")):
        reporter = Interrupted()
        reporter.last = last
        with pytest.raises(KeyboardInterrupt):
            trained(tmp_path / "run", "train.validate_every=1", reporter=reporter, resume=True)
        assert [text for text in reporter.messages if text.startswith("stopped")] == [
            f"stopped at step {last}; it goes on from {kept}. "
            "Continue with: featherseg train --resume --out "
            f"{tmp_path / 'run'}"
        ]


@pytest.mark.parametrize("answer", [signal.SIG_IGN, lambda *_: None])
def test_ctrl_c_is_left_to_a_program_that_has_an_answer_to_it(tmp_path, answer):
    before = signal.signal(signal.SIGINT, answer)
    try:
        trained(tmp_path / "run", "train.epochs=2", reporter=Signalled(signal.SIGINT))
    finally:
        assert signal.signal(signal.SIGINT, before) is answer
    assert len(read_lines(tmp_path / "run" / "metrics.jsonl")) > 2


def test_other_processes_wait_as_long_as_the_first_prepares(tmp_path, monkeypatch):
    now = [0.0]

    def sleep(seconds):
        now[0] += 100
        if now[0] == 500:
            (tmp_path / "run").mkdir()
            (tmp_path / "run" / ".lock").touch()
        if now[0] == 50_000:
            (tmp_path / "run" / "resolved.json").touch()

    monkeypatch.setattr(folder, "time", SimpleNamespace(monotonic=lambda: now[0], sleep=sleep))
    folder.wait_for_rank_zero(tmp_path / "run")
    assert now[0] == 50_000
    with pytest.raises(RunError, match="rank 0 did not begin a run"):
        folder.wait_for_rank_zero(tmp_path / "none")


@pytest.mark.parametrize(
    ("tasks", "said"), [({"SLURM_NTASKS_PER_NODE": "4"}, "4"), ({}, "not set")]
)
def test_a_job_of_another_shape_is_refused(tmp_path, monkeypatch, tasks, said):
    for key, value in (SLURM | {"SLURM_NTASKS": "4"} | tasks).items():
        monkeypatch.setenv(key, value)
    with pytest.raises(
        ConfigError,
        match=rf"train.devices = 1 .* SLURM gave this job 1 nodes and {said} tasks per node",
    ):
        trained(tmp_path / "run")
    assert not (tmp_path / "run").exists()
