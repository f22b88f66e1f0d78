"""Real SIGKILLs of the command: at random, in validation, and while a checkpoint is written.

The figures of a run of this test stand in docs/log.md.
"""

import multiprocessing
import random
import subprocess
import sys
import time
from collections import Counter

import pytest
import torch
from support.models.small_training import Silent, equal_state

from featherseg.core.files import read_lines
from featherseg.runs.run import open_run
from featherseg.training import Request, train

STEPS, EVERY = 560, 70
CHECKPOINT_SECONDS = 3.0
SETTINGS = (
    "model.pretrained=false",
    "data.train_size=70",
    "data.val_size=30",
    "data.workers=2",
    "augment.crop=[64, 96]",
    "train.batch_size=1",
    "train.precision=fp32",
    "train.epochs=8",
    "train.ema=0.99",
    f"train.checkpoint_seconds={CHECKPOINT_SECONDS}",
)
KILLS = ["anywhere"] * 4 + ["step"] * 8 + ["validation"] * 4 + ["checkpoint"] * 4


def start(out, *, resume):
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
    for setting in SETTINGS:
        command += ["--set", setting]
    return subprocess.Popen(
        command + ["--resume"] * resume, stdout=subprocess.DEVNULL, start_new_session=True
    )


def steps_by_life(out):
    """The last step of each life of the training, in order; 0 for one that took none."""
    lives = [0]
    for record in read_lines(out / "metrics.jsonl"):
        if "resumed_from" in record:
            lives.append(0)
        else:
            lives[-1] = record["step"]
    return lives


class Life:
    """One process of the training, which will be killed."""

    def __init__(self, out, *, lives_before):
        self.out, self.begun, self.lives_before = out, time.time(), lives_before
        self.process = start(out, resume=lives_before > 0)

    def step(self):
        """The last step of this life, 0 before its first."""
        lives = steps_by_life(self.out)
        return lives[-1] if len(lives) > self.lives_before else 0

    def saving(self):
        """Return whether a checkpoint is being written; an older life may have left such a file."""
        try:
            return any(
                file.stat().st_mtime > self.begun for file in self.out.glob(".last.ckpt.*.tmp")
            )
        except FileNotFoundError:  # it has just become the checkpoint
            return False

    def wait_for(self, condition, seconds=180.0):
        """Poll until the condition holds; fail if the training ends before or does not move."""
        end = time.monotonic() + seconds
        while not condition():
            assert self.process.poll() is None, "the training ended before it could be killed"
            assert time.monotonic() < end, "the training does not move"
            time.sleep(0.0005)

    def wait_for_moment(self, moment, rng):
        """Let the training run until the kind of moment at which it is to die."""
        if moment == "anywhere":
            time.sleep(rng.uniform(0.0, 8.0))  # its start-up included
        elif moment == "step":
            self.wait_for(lambda: self.step() > 0)
            time.sleep(rng.uniform(0.0, 2.0))
        elif (
            moment == "validation"
        ):  # the step before one is logged: what follows the next step is the validation
            self.wait_for(lambda: self.step() % EVERY == EVERY - 1)
            time.sleep(rng.uniform(0.4, 0.7))
        else:
            self.wait_for(self.saving)

    def kill(self):
        """SIGKILL and return the phase: "validation", "checkpoint", "step", "start"."""
        self.process.kill()
        self.process.wait()
        if self.saving():
            return "checkpoint"
        if self.step() % EVERY == EVERY - 1 and self.step():
            return "validation"
        return "step" if self.step() else "start"


def most_steps_within(seconds, process, out):
    """Wait for an uninterrupted run; return the most steps it took in any `seconds` long period."""
    seen = []
    while process.poll() is None:
        seen.append((time.monotonic(), steps_by_life(out)[-1]))
        time.sleep(0.05)
    assert process.returncode == 0
    return max(
        after - before for t, before in seen for later, after in seen if 0 <= later - t <= seconds
    )


def repeated(out):
    """Steps that each resume took again, as metrics.jsonl shows them."""
    steps, before = [], 0
    for record in read_lines(out / "metrics.jsonl"):
        if "resumed_from" in record:
            steps.append(before - record["resumed_from"])
        else:
            before = record["step"]
    return steps


def outcome(out):
    checkpoint = torch.load(out / "last.ckpt", weights_only=True)
    run = open_run(out)
    parts = {
        key: checkpoint[key]
        for key in ("state_dict", "optimizer_states", "lr_schedulers", "average")
    }
    return {"weights": dict(run.model.state_dict()), "metrics": run.metrics(), **parts}


@pytest.mark.slow
def test_twenty_kills_and_the_run_ends_bit_identical(tmp_path, capsys):
    rng = random.Random(0)
    whole, out = tmp_path / "whole", tmp_path / "run"
    interval = most_steps_within(CHECKPOINT_SECONDS + 0.5, start(whole, resume=False), whole)
    moments, died_in = KILLS.copy(), Counter()
    rng.shuffle(moments)
    for moment in moments:
        lives = len(steps_by_life(out)) if (out / "metrics.jsonl").exists() else 0
        life = Life(out, lives_before=lives)
        life.wait_for_moment(moment, rng)
        died_in[life.kill()] += 1
    assert start(out, resume=True).wait() == 0
    with capsys.disabled():
        sys.stdout.write(
            f"\nkills: {dict(died_in)}; steps repeated: {repeated(out)}; "
            f"an interval: {interval} steps\n"
        )
    assert equal_state(outcome(out), outcome(whole))
    assert sorted(open_run(out).metrics()) == list(range(1, STEPS + 1))
    assert died_in["step"] + died_in["validation"] + died_in["checkpoint"] >= 10
    assert died_in["validation"] >= 3
    assert died_in["checkpoint"] >= 3
    assert max(repeated(out)) <= 1.5 * interval  # the machine is not always equally fast


def test_a_killed_training_goes_on_and_ends_bit_identical(tmp_path):
    """One kill, in the ordinary tests, of a model that is quick to train."""
    short = (
        "model.name=efficientvit-seg-b0",
        "train.epochs=1",
        "data.train_size=6",
        "data.val_size=1",
    )
    short += ("train.checkpoint_seconds=0.001", "data.workers=0")
    whole, out = tmp_path / "whole", tmp_path / "run"
    request = Request("frm-lite0", overrides=(*SETTINGS, *short))
    train(request, whole, Silent())
    process = multiprocessing.get_context("fork").Process(
        target=train, args=(request, out, Silent())
    )
    process.start()
    while steps_by_life(out)[-1] < 2:
        assert process.is_alive(), "the training ended before it could be killed"
        time.sleep(0.01)
    process.kill()
    process.join()
    train(Request(None), out, Silent(), resume=True)
    assert equal_state(outcome(out), outcome(whole))
