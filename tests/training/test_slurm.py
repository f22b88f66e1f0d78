"""SLURM's signals leave one checkpoint, the run's own; a checkpoint that lies about is not taken up."""

import os
import signal

import pytest
from small_training import Killed, KilledAt, Silent, trained

from featherseg.core.errors import ConfigError
from featherseg.core.files import read_lines
from featherseg.training import Request, train

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
    """Sends this process a signal while a step is being written down, the moment at which one was lost once."""

    def __init__(self, number):
        super().__init__()
        self.number = number

    def step(self, step, steps, record):
        super().step(step, steps, record)
        if step == 2:
            os.kill(os.getpid(), self.number)


@pytest.mark.parametrize(("warning", "accumulate"), [(signal.SIGUSR1, 1), (signal.SIGTERM, 2)])
def test_a_signal_leaves_a_checkpoint_in_the_run_and_none_beside_it(tmp_path, monkeypatch, warning, accumulate):
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
    assert [line["step"] for line in read_lines(metrics)] == [1, 2, 3]  # the step that was under way is finished
    assert any("stopped at step 3. Continue with" in text for text in reporter.messages)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["hpc_ckpt_1.ckpt", "run"]
    with pytest.raises(Killed):
        train(Request(None), tmp_path / "run", KilledAt(4), resume=True)
    assert {"resumed_from": 3} in read_lines(metrics)  # nothing was lost


@pytest.mark.parametrize(("tasks", "said"), [({"SLURM_NTASKS_PER_NODE": "4"}, "4"), ({}, "not set")])
def test_a_job_of_another_shape_is_refused(tmp_path, monkeypatch, tasks, said):
    for key, value in (SLURM | {"SLURM_NTASKS": "4"} | tasks).items():
        monkeypatch.setenv(key, value)
    with pytest.raises(ConfigError, match=rf"train.devices = 1 .* SLURM gave this job 1 nodes and {said} tasks a node"):
        trained(tmp_path / "run")
    assert not (tmp_path / "run").exists()
