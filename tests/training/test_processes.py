"""Training over two and four processes on the CPU (gloo), each a program as users start it."""

import json
import shlex
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import psutil
import pytest
import torch
from PIL import Image
from support.models.small_training import SMALL, YARD, Silent, equal_state, request

from featherseg.core.errors import ConfigError
from featherseg.core.files import read_lines
from featherseg.training import Request, train
from featherseg.training.check import check_machine

pytestmark = pytest.mark.usefixtures("tiny")

PROGRAM = """
import sys, json
import torch
from torch import nn
import featherseg


class Net(nn.Module):
    classes, mean, std = 3, (120.0, 120.0, 120.0), (60.0, 60.0, 60.0)

    def __init__(self):
        super().__init__()
        torch.manual_seed(3)
        self.body = nn.Sequential(
            nn.Conv2d(3, 16, 5, 4, 2), nn.BatchNorm2d(16), nn.ReLU(), nn.Conv2d(16, 3, 3, 1, 1)
        )

    def forward(self, images):
        return self.body(images)


class Slow:
    def message(self, text):
        print(text, flush=True)

    def step(self, step, steps, record):
        print("STEP", step, flush=True)

    def progress(self, doing, done, total):
        pass


if __name__ == "__main__":
    out, resume, settings = sys.argv[1], sys.argv[2] == "resume", json.loads(sys.argv[3])
    try:
        featherseg.train(
            Net(), "yard/dataset.toml", out=out, settings=settings, resume=resume,
            report=False, progress=Slow(),
        )
    except featherseg.FeathersegError as error:
        print(f"error: {error}", file=sys.stderr)
        sys.exit(2)
"""
SETTINGS = (
    "data.workers=0",
    "augment.crop=[32, 48]",
    "loss.class_weights=[1.0, 4.0, 0.5]",
    "loss.lovasz=0",
    "train.batch_size=4",
    "train.steps=6",
    "train.validations=1",
    "train.precision=fp32",
    "train.optimizer=sgd",
    "train.lr=0.05",
    "train.device=cpu",
    "train.checkpoint_seconds=1000",
)


@pytest.fixture
def yard(tmp_path, monkeypatch):
    """A dataset with very unequal shares of ignored pixels, and the program that trains on it."""
    monkeypatch.chdir(tmp_path)
    rng = np.random.default_rng(0)
    for kind in ("images", "masks"):
        (tmp_path / "yard" / kind).mkdir(parents=True)
    for number in range(8):
        Image.fromarray(rng.integers(0, 256, (40, 56, 3), dtype=np.uint8)).save(
            tmp_path / f"yard/images/{number}.png"
        )
        mask = rng.integers(0, 3, (40, 56), dtype=np.uint8)
        mask[:, : (0, 10, 30, 50, 54, 55, 56, 20)[number]] = 255
        Image.fromarray(mask).save(tmp_path / f"yard/masks/{number}.png")
    (tmp_path / "yard/dataset.toml").write_text(YARD + '255 = "ignore"\n')
    (tmp_path / "yard/train.txt").write_text("".join(f"{number}\n" for number in range(7)))
    (tmp_path / "yard/val.txt").write_text("7\n")
    (tmp_path / "program.py").write_text(PROGRAM)
    return tmp_path


def begin(out, devices, *more, resume=False):
    settings = json.dumps([*SETTINGS, f"train.devices={devices}", *more])
    command = [sys.executable, "program.py", str(out), "resume" if resume else "new", settings]
    return subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)


def finished(process, seconds=400):
    out, err = process.communicate(timeout=seconds)
    assert process.returncode == 0, err
    return out


def losses(out):
    return [
        record["loss"] for record in read_lines(Path(out) / "metrics.jsonl") if "loss" in record
    ]


@pytest.mark.slow
@pytest.mark.parametrize(
    "more",
    [(), ("train.optimizer=adamw", "train.lr=0.002", "train.accumulate=2", "loss.mean=number")],
)
def test_losses_of_two_and_four_processes_are_those_of_one(yard, more):
    for devices in (1, 2, 4):
        finished(begin(f"r{devices}", devices, *more))
    one = losses("r1")
    assert len(one) == 6
    for devices in (2, 4):
        assert losses(f"r{devices}") == pytest.approx(one, abs=1e-5)


def wait_for(process, line):
    for text in process.stdout:
        if text.startswith(line):
            return
    raise AssertionError(process.stderr.read())


@pytest.mark.slow
def test_a_killed_process_ends_the_others_and_resuming_is_bit_equal(yard):
    settings = ("train.steps=60", "train.checkpoint_seconds=0.001")
    finished(begin("whole", 2, *settings))
    process = begin("killed", 2, *settings)
    wait_for(process, "STEP 5")
    (child,) = [
        p for p in psutil.Process(process.pid).children() if "program.py" in " ".join(p.cmdline())
    ]
    child.kill()
    process.communicate(timeout=60)
    assert process.returncode != 0
    assert len(losses("killed")) < 60
    finished(begin("killed", 2, *settings, resume=True))
    states = [torch.load(f"{run}/last.ckpt", weights_only=True) for run in ("whole", "killed")]
    for key in ("state_dict", "optimizer_states", "lr_schedulers", "global_step"):
        assert equal_state(states[0][key], states[1][key]), key
    assert (
        Path("whole/weights.safetensors").read_bytes()
        == Path("killed/weights.safetensors").read_bytes()
    )


@pytest.mark.slow
def test_another_number_of_processes_is_said_and_goes_on(yard):
    process = begin("run", 2, "train.steps=40", "train.checkpoint_seconds=0.001")
    wait_for(process, "STEP 3")
    process.send_signal(signal.SIGTERM)
    process.communicate(timeout=60)
    out = finished(begin("run", 1, "train.steps=40", resume=True))
    assert "begun with 2 processes (devices x nodes), resumed with 1" in out
    finished(begin("one", 1, "train.steps=40"))
    found = {r["step"]: r["loss"] for r in read_lines(Path("run/metrics.jsonl")) if "step" in r}
    assert [found[step] for step in range(1, 41)] == pytest.approx(losses("one"), abs=1e-5)


@pytest.mark.slow
def test_a_process_that_hangs_ends_the_training_within_its_time(yard):
    process = begin(
        "run", 2, "train.steps=5000", "train.rank_seconds=60", "train.checkpoint_seconds=0.001"
    )
    wait_for(process, "STEP 3")
    (child,) = [
        p for p in psutil.Process(process.pid).children() if "program.py" in " ".join(p.cmdline())
    ]
    child.suspend()
    began = time.monotonic()
    try:
        _, err = process.communicate(timeout=240)
    finally:
        if child.is_running():
            child.kill()
    assert time.monotonic() - began < 150
    assert process.returncode == 2
    assert "did not answer for 60 s (train.rank_seconds)" in err
    assert "Continue with: featherseg train --resume --out run" in err
    assert "Traceback" not in err


@pytest.mark.slow
def test_the_page_s_torchrun_line_trains(yard):
    page = (Path(__file__).parents[2] / "docs/start/cluster.md").read_text()
    (line,) = [line for line in page.splitlines() if line.startswith("torchrun ")]
    command = [sys.executable, "-m", "torch.distributed.run", *shlex.split(line)[1:]]
    more = [*SMALL, "model.name=efficientvit-seg-b0", "train.device=cpu", "augment.crop=[32, 48]"]
    command += [part for setting in more for part in ("--set", setting)] + ["--no-report"]
    done = subprocess.run(command, capture_output=True, text=True, timeout=400)
    assert done.returncode == 0, done.stderr
    assert len(losses("runs/torchrun")) == 4
    assert done.stdout.count("the run is in") == 1


def test_torchrun_with_another_number_of_processes_is_refused(monkeypatch):
    monkeypatch.setenv("TORCHELASTIC_RUN_ID", "1")
    monkeypatch.setenv("WORLD_SIZE", "4")
    recipe = Request("frm-lite0", overrides=(*SMALL, "train.devices=2", "train.device=cpu")).read()[
        1
    ]
    with pytest.raises(ConfigError, match="make 2, but torchrun started 4 processes"):
        check_machine(recipe)


def test_another_number_of_processes_may_resume(tmp_path):
    reporter = Silent()
    run = train(request("train.epochs=1"), tmp_path / "run", reporter)
    asked = Request(None, overrides=("train.devices=2", "train.device=cpu"))
    train(asked, run.path, reporter, resume=True)
    assert any("nothing left to do" in text for text in reporter.messages)
