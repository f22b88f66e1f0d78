"""Real kills of the real command: SIGKILL at random moments, in validation, and while a checkpoint is written.

The figures of a run of this test stand in docs/log.md.
"""

import random
import signal
import subprocess
import sys
import time
from collections import Counter

import pytest
import torch
from small_training import equal_state

from featherseg.core.files import read_lines
from featherseg.runs import open_run

STEPS, EVERY = 420, 70
CHECKPOINT_SECONDS = 3.0
SETTINGS = (
    "model.pretrained=false",
    "data.train_size=70",
    "data.val_size=30",
    "data.workers=2",
    "augment.crop=[64, 96]",
    "train.batch_size=1",
    "train.precision=fp32",
    "train.epochs=6",
    "train.ema=0.99",
    f"train.checkpoint_seconds={CHECKPOINT_SECONDS}",
)
KILLS = ["step"] * 14 + ["validation"] * 3 + ["checkpoint"] * 3


def start(out, *, resume):
    command = [sys.executable, "-m", "featherseg", "train", "frm-lite0", "--out", str(out)]
    for setting in SETTINGS:
        command += ["--set", setting]
    return subprocess.Popen(command + ["--resume"] * resume, stdout=subprocess.DEVNULL, start_new_session=True)


def last_step(out):
    """The last step of this life of the process: 0 before its first."""
    step = 0
    for record in read_lines(out / "metrics.jsonl"):
        step = 0 if "resumed_from" in record else record["step"]
    return step


def wait_for(process, condition, seconds=180.0):
    """Poll until the condition holds; False where the process ended before."""
    end = time.monotonic() + seconds
    while not condition():
        if process.poll() is not None:
            return False
        assert time.monotonic() < end, "the training does not move"
        time.sleep(0.0005)
    return True


def wait_for_moment(process, out, moment, rng):
    """Let the training run until the kind of moment at which it is to die."""
    if moment == "step":
        if rng.random() < 0.25:
            time.sleep(rng.uniform(0.0, 6.0))  # anywhere, start-up included
            return process.poll() is None
        if not wait_for(process, lambda: last_step(out) > 0):
            return False
        time.sleep(rng.uniform(0.0, 3.0))
        return process.poll() is None
    if moment == "validation":  # the step before a validation is logged: then the next half second is in it
        if not wait_for(process, lambda: last_step(out) % EVERY == EVERY - 1):
            return False
        time.sleep(rng.uniform(0.4, 0.8))
        return process.poll() is None
    return wait_for(process, (out / "last.ckpt.tmp").exists)


def outcome(out):
    checkpoint = torch.load(out / "last.ckpt", weights_only=True)
    run = open_run(out)
    parts = {key: checkpoint[key] for key in ("state_dict", "optimizer_states", "lr_schedulers", "average")}
    return {"weights": dict(run.model.state_dict()), "metrics": run.metrics(), **parts}


@pytest.mark.slow
def test_twenty_kills_and_the_run_ends_bit_identical(tmp_path, capsys):
    rng = random.Random(0)
    whole, out = tmp_path / "whole", tmp_path / "run"
    assert start(whole, resume=False).wait() == 0
    moments, counted, lost = KILLS.copy(), Counter(), []
    rng.shuffle(moments)
    number = 0
    while moments:
        process = start(out, resume=number > 0)
        number += 1
        if not wait_for_moment(process, out, moments[-1], rng):
            assert process.wait() == 0, "the training ended with an error"
            break
        process.send_signal(signal.SIGKILL)
        process.wait()
        moment, step = moments.pop(), last_step(out)
        validating = moment == "validation" and step % EVERY == EVERY - 1
        writing = (out / "last.ckpt.tmp").exists()
        counted[moment if moment == "step" or validating or writing else "missed"] += 1
        counted["after the first step"] += step > 0
        if (out / "last.ckpt").exists() and step:
            lost.append(time.time() - (out / "last.ckpt").stat().st_mtime)
    assert start(out, resume=True).wait() == 0
    assert equal_state(outcome(out), outcome(whole))
    assert sorted(open_run(out).metrics()) == list(range(1, STEPS + 1))
    with capsys.disabled():
        sys.stdout.write(f"\nkills: {dict(counted)}; seconds of work lost to a kill, at most: {max(lost):.1f}\n")
    assert counted["step"] + counted["validation"] + counted["checkpoint"] == len(KILLS)
    assert counted["after the first step"] >= 10
    assert max(lost) < CHECKPOINT_SECONDS + 6  # an interval, and at worst a validation under way


def test_a_killed_training_goes_on_and_ends_bit_identical(tmp_path):
    """One kill, in the ordinary tests."""
    short = ("--set", "train.epochs=1", "--set", "data.train_size=6", "--set", "data.val_size=1")
    for name, kill in (("whole", False), ("run", True)):
        out = tmp_path / name
        command = [sys.executable, "-m", "featherseg", "train", "frm-lite0", "--out", str(out)]
        command += [part for setting in SETTINGS for part in ("--set", setting)] + list(short)
        command += ["--set", "train.checkpoint_seconds=0.001"]
        if kill:
            process = subprocess.Popen(command, stdout=subprocess.DEVNULL)
            assert wait_for(process, lambda: last_step(tmp_path / "run") >= 2)
            process.kill()
            process.wait()
            command.append("--resume")
        assert subprocess.run(command, stdout=subprocess.DEVNULL).returncode == 0
    assert equal_state(outcome(tmp_path / "run"), outcome(tmp_path / "whole"))
