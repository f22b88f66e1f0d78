"""SLURM's signals leave one checkpoint, the run's own; a checkpoint that lies about is not taken up."""

import os
import signal
import subprocess
import sys
import time

import pytest
from small_training import SMALL, Killed, KilledAt, trained

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


def start(folder):
    command = [sys.executable, "-m", "featherseg", "train", "--out", str(folder / "run")]
    settings = [part for text in (*SMALL, "train.epochs=400", "train.validate_every=400") for part in ("--set", text)]
    pipes = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE, "text": True}
    return subprocess.Popen([*command, "frm-lite0", *settings], cwd=folder, env=os.environ | SLURM, **pipes)


@pytest.mark.parametrize("warning", [signal.SIGUSR1, pytest.param(signal.SIGTERM, marks=pytest.mark.slow)])
def test_a_signal_leaves_a_checkpoint_in_the_run_and_none_beside_it(tmp_path, monkeypatch, warning):
    (tmp_path / "hpc_ckpt_1.ckpt").write_bytes(b"left by another training")
    metrics = tmp_path / "run" / "metrics.jsonl"
    with start(tmp_path) as training:
        while len(read_lines(metrics)) < 2:
            assert training.poll() is None, training.communicate()
            time.sleep(0.02)
        training.send_signal(warning)
        out, err = training.communicate(timeout=120)
    assert training.returncode == 130, out + err
    last = read_lines(metrics)[-1]["step"]
    assert f"stopped at step {last}" in out
    assert sorted(path.name for path in tmp_path.iterdir()) == ["hpc_ckpt_1.ckpt", "run"]
    monkeypatch.chdir(tmp_path)
    for key, value in SLURM.items():
        monkeypatch.setenv(key, value)
    with pytest.raises(Killed):
        train(Request(None), tmp_path / "run", KilledAt(last + 1), resume=True)
    assert {"resumed_from": last} in read_lines(metrics)  # nothing was lost


@pytest.mark.parametrize(("tasks", "said"), [({"SLURM_NTASKS_PER_NODE": "4"}, "4"), ({}, "not set")])
def test_a_job_of_another_shape_is_refused(tmp_path, monkeypatch, tasks, said):
    for key, value in (SLURM | {"SLURM_NTASKS": "4"} | tasks).items():
        monkeypatch.setenv(key, value)
    with pytest.raises(ConfigError, match=rf"train.devices = 1 .* SLURM gave this job 1 nodes and {said} tasks a node"):
        trained(tmp_path / "run")
    assert not (tmp_path / "run").exists()
