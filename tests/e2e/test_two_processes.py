"""Distributed training: two processes on the CPU (gloo), as `train.devices=2` starts them."""

import subprocess
import sys

import numpy as np
import pytest
from PIL import Image
from support.models.small_training import SMALL

from featherseg.core.files import read_lines
from featherseg.runs.run import load_run
from featherseg.training.self_training import FIRST


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


@pytest.mark.slow
def test_two_processes_learn_from_images_without_masks_labelled_once(tmp_path):
    photos = tmp_path / "photos"
    photos.mkdir()
    for number in range(4):
        values = np.random.default_rng(number).integers(0, 256, (64, 96, 3), np.uint8)
        Image.fromarray(values).save(photos / f"{number}.png")
    command = [sys.executable, "-m", "featherseg", "train", "efficientvit-seg-b0", "--no-report"]
    command += ["--unlabelled", str(photos), "--out", str(tmp_path / "run")]
    for setting in (*SMALL, "train.device=cpu", "train.devices=2"):
        command += ["--set", setting]
    both = subprocess.run(command, capture_output=True, text=True, timeout=300)
    assert both.returncode == 0, both.stderr
    assert both.stdout.count("4 images without masks labelled") == 1
    for folder in (tmp_path / "run" / FIRST, tmp_path / "run"):
        records = read_lines(folder / "metrics.jsonl")
        assert [record["step"] for record in records] == [1, 2, 3, 4]
    again = subprocess.run([*command, "--resume"], capture_output=True, text=True, timeout=300)
    assert "finished: 4 steps" in again.stdout
