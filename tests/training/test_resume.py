"""A run that is stopped anywhere and resumed ends as if it had never been stopped, to the bit."""

import re
import shutil

import pytest
import torch
from support.models.small_training import (
    Killed,
    KilledAt,
    Silent,
    equal_state,
    outcome,
    request,
    trained,
)
from support.processes.faulty_disk import FAULTS, Crash, FaultyDisk

from featherseg.core.errors import FeathersegError, RunError
from featherseg.core.files import read_lines
from featherseg.runs.run import load_run, save_weights
from featherseg.training import Request, train
from featherseg.training.recorder import AtomicCheckpoints

pytestmark = pytest.mark.usefixtures("tiny")

# a checkpoint every step; the embedding head of the contrast is resumed too
CONTRAST = ("loss.contrast=1.0", "loss.contrast_views=4", "loss.contrast_warmup_steps=2")
LONG = (
    "train.epochs=3",
    "train.ema=0.9",
    "train.lr=1e-3",
    *CONTRAST,
    "train.checkpoint_seconds=1e-9",
)


@pytest.fixture(scope="module")
def finished(tmp_path_factory):
    return trained(tmp_path_factory.mktemp("whole") / "run", *LONG)


@pytest.fixture(scope="module")
def uninterrupted(finished):
    return outcome(finished)


@pytest.mark.parametrize(
    ("kills", "setting"),
    [
        ([1, 6], "train.checkpoint_activations=true"),
        ([3, 4], "data.workers=0"),
        ([2, 2], "data.workers=2"),
    ],
    ids=["first and last step, blocks computed again", "resumes of resumes", "same step again"],
)
def test_a_stopped_run_ends_as_the_uninterrupted_one(uninterrupted, tmp_path, kills, setting):
    out = tmp_path / "run"
    settings = (*LONG, setting)
    for number, step in enumerate(kills):
        with pytest.raises(Killed):
            train(request(*settings), out, KilledAt(step), resume=number > 0)
    run = trained(out, *settings, resume=True)
    assert equal_state(outcome(run), uninterrupted)
    resumed = [r["resumed_from"] for r in read_lines(out / "metrics.jsonl") if "resumed_from" in r]
    assert resumed == [
        step - 1 for step in kills
    ]  # no more than the interval of a step is repeated


@pytest.mark.seconds
def test_a_checkpoint_in_which_the_model_is_called_net_goes_on(uninterrupted, tmp_path):
    with pytest.raises(Killed):
        train(request(*LONG), tmp_path / "run", KilledAt(3))
    file = tmp_path / "run" / "last.ckpt"
    checkpoint = torch.load(file, weights_only=True)
    state = checkpoint["state_dict"]
    checkpoint["state_dict"] = {
        re.sub(r"^model\.", "net.", key): value for key, value in state.items()
    }
    assert checkpoint["state_dict"].keys() != state.keys()
    torch.save(checkpoint, file)
    assert equal_state(outcome(trained(tmp_path / "run", *LONG, resume=True)), uninterrupted)


@pytest.mark.seconds
def test_without_a_checkpoint_it_starts_anew_and_says_so(tmp_path):
    settings = (
        *LONG[:-1],
        "train.epochs=2",
        "train.checkpoint_seconds=1000",
        "train.validate_every=2",
    )
    whole = trained(tmp_path / "whole", *settings)
    with pytest.raises(Killed):
        train(request(*settings), tmp_path / "run", KilledAt(3))
    reporter = Silent()
    run = trained(tmp_path / "run", *settings, resume=True, reporter=reporter)
    assert any("no checkpoint yet" in message for message in reporter.messages)
    assert {"resumed_from": 0} in read_lines(run.path / "metrics.jsonl")
    assert equal_state(outcome(run), outcome(whole))


def test_resume_begins_a_run_that_was_never_begun(tmp_path):
    reporter = Silent()
    run = trained(tmp_path / "run", "train.epochs=1", resume=True, reporter=reporter)
    assert "starting a new one" in reporter.messages[0]
    assert sorted(run.metrics()) == [1, 2]


def test_resume_touches_no_folder_that_holds_no_run(tmp_path):
    (tmp_path / "first_training").mkdir()  # a run of one's own, called like a part of a run
    for name in ("first_training/weights.safetensors", "notes.txt"):
        (tmp_path / name).write_text("mine")
    with pytest.raises(RunError, match="contains files, but no run to resume"):
        train(Request(None), tmp_path, Silent(), resume=True)
    assert sorted(path.name for path in tmp_path.rglob("*")) == [
        "first_training",
        "notes.txt",
        "weights.safetensors",
    ]


@pytest.mark.slow
def test_accumulation_resumes_at_whole_steps(tmp_path):
    settings = (*LONG, "train.epochs=2", "train.accumulate=2", "train.batch_size=2")
    whole = trained(tmp_path / "whole", *settings)
    with pytest.raises(Killed):
        train(request(*settings), tmp_path / "run", KilledAt(3))
    assert equal_state(outcome(trained(tmp_path / "run", *settings, resume=True)), outcome(whole))


@pytest.mark.parametrize("fault", FAULTS, ids=["full disk", "I/O error", "crash"])
def test_a_save_that_fails_at_any_file_operation_leaves_a_run_that_loads(
    finished, tmp_path, monkeypatch, fault
):
    out = tmp_path / "run"
    shutil.copytree(finished.path, out)
    old = finished.model.state_dict()
    new = {key: value + 1 if value.is_floating_point() else value for key, value in old.items()}
    checkpoints, k = AtomicCheckpoints(), 0
    while True:
        k += 1
        save_weights(out, old)
        checkpoints.save_checkpoint({"version": "old"}, out / "last.ckpt")
        with monkeypatch.context() as patched:
            disk = FaultyDisk(patched, k, fault)
            try:
                save_weights(out, new)
                checkpoints.save_checkpoint({"version": "new"}, out / "last.ckpt")
            except (FeathersegError, Crash):
                pass
        loaded = dict(load_run(out).model.state_dict())
        assert equal_state(loaded, dict(old)) or equal_state(loaded, new)
        assert torch.load(out / "last.ckpt", weights_only=True)["version"] in ("old", "new")
        if disk.count < k:
            break
    assert k > 10  # both files were written under every fault


@pytest.mark.seconds
def test_a_full_disk_stops_the_training_with_a_sentence_and_it_can_go_on(
    uninterrupted, tmp_path, monkeypatch
):
    out = tmp_path / "run"
    original = AtomicCheckpoints.save_checkpoint

    def full(self, checkpoint, path, storage_options=None):
        if checkpoint["global_step"] == 5:
            raise FeathersegError("cannot write last.ckpt: No space left on device")
        original(self, checkpoint, path, storage_options)

    with monkeypatch.context() as patched:
        patched.setattr(AtomicCheckpoints, "save_checkpoint", full)
        with pytest.raises(FeathersegError, match="No space left"):
            trained(out, *LONG)
    assert equal_state(outcome(trained(out, *LONG, resume=True)), uninterrupted)
