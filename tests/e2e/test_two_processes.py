"""Distributed training: two processes on the CPU (gloo), as `train.devices=2` starts them."""

import subprocess
import sys

import pytest
from support.models.small_training import SMALL

from featherseg.core.files import read_lines
from featherseg.runs.run import load_run


@pytest.mark.slow
def test_two_processes_train_one_run_and_resume_it(tmp_path):
    out = tmp_path / "run"
    command = [
        sys.executable,
        "-m",
        "featherseg",
        "train",
        "frm-lite0",
        "--no-report",
        "--out",
        str(out),
    ]
    for setting in (*SMALL, "train.device=cpu", "train.devices=2", "train.ema=0.9"):
        command += ["--set", setting]
    first = subprocess.run(command, capture_output=True, text=True, timeout=300)
    assert first.returncode == 0, first.stderr
    assert [record["step"] for record in read_lines(out / "metrics.jsonl")] == [
        1,
        2,
        3,
        4,
    ]  # one of them writes
    assert first.stdout.count("the run is in") == 1
    assert load_run(out).model.training is False
    again = subprocess.run([*command, "--resume"], capture_output=True, text=True, timeout=300)
    assert again.returncode == 0, again.stderr
    assert "finished: 4 steps" in again.stdout
