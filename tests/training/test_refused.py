"""What is refused, or fails before a step, leaves no folder in the corrected command's way."""

import json
from pathlib import Path

import numpy as np
import pytest
import torch
from support.models.own_objects import SETTINGS, Halves, own_model
from support.models.small_training import SMALL, Silent, request, trained

import featherseg
from featherseg import models
from featherseg.core.errors import ConfigError, DataError, RunError
from featherseg.recipe.reading import parse_recipe, read_recipe
from featherseg.training import Request, memory, train
from featherseg.training import run as steps
from featherseg.training.module import SegmentationModule

pytestmark = pytest.mark.usefixtures("tiny")


@pytest.mark.parametrize(
    ("folder", "late"),
    [("new", True), ("empty", False)],
    ids=["failed in the first step", "refused"],
)
def test_the_mended_command_runs(tmp_path, monkeypatch, folder, late):
    out = tmp_path / "run"
    if folder == "empty":
        out.mkdir()
    with monkeypatch.context() as patched:
        if late:
            patched.setattr(SegmentationModule, "training_step", lambda *_: 1 / 0)
        with pytest.raises(ZeroDivisionError if late else ConfigError):
            trained(out, "loss.class_weights=none" if late else "loss.class_weights=[1.0]")
    assert not out.exists() or list(out.iterdir()) == []
    trained(out, "train.epochs=1")


class Ignored(Halves):
    """Halves of which nobody said which is which."""

    def label(self, index):
        return np.full((32, 48), 255, np.uint8)


@pytest.mark.parametrize(
    ("data", "sentence"),
    [
        (
            (Halves(4), Ignored(3)),
            r"halves val: no pixel of its 3 images is labelled, so no validation .*val_split",
        ),
        (
            (Ignored(4), Halves(3)),
            r"halves train: no pixel of its 4 images is labelled, so there is nothing to learn",
        ),
    ],
    ids=["val", "train"],
)
def test_a_split_without_a_labelled_pixel_is_refused(tmp_path, data, sentence):
    with pytest.raises(DataError, match=sentence):
        featherseg.train(own_model(), data, out=tmp_path / "run", settings=SETTINGS)
    assert not (tmp_path / "run").exists()


def test_a_failure_after_a_step_keeps_the_run(tmp_path, monkeypatch):
    original = SegmentationModule.training_step

    def fail(self, *batch):
        return original(self, *batch) if self.micro_batch == 0 else 1 / 0

    monkeypatch.setattr(SegmentationModule, "training_step", fail)
    with pytest.raises(ZeroDivisionError):
        trained(tmp_path / "run")
    assert (tmp_path / "run" / "resolved.json").is_file()
    with pytest.raises(RunError, match="--resume"):
        trained(tmp_path / "run")


def test_what_a_kill_left_before_there_was_a_run_is_in_no_way(tmp_path):
    for name in (".lock", "class_points.npy", ".data.json.1-ab.tmp"):
        (tmp_path / name).write_bytes(b"")
    trained(tmp_path, "train.epochs=1")
    (tmp_path / "resolved.json").unlink()
    with pytest.raises(RunError, match="already exists"):  # weights are nobody's leftover
        trained(tmp_path, "train.epochs=1")


@pytest.mark.seconds
@pytest.mark.parametrize(
    ("asked", "sentence"),
    [
        pytest.param(
            ("train.batch_size=4096",),
            r"4096 images of 64x96 takes about .* are free on cpu\. .*What fits: --set",
            marks=pytest.mark.slow,
        ),
        (
            ("augment.crop=[966, 1296]", "train.batch_size=8"),
            r"8 images of 966x1296 .* fits: "
            r"--set train.batch_size=[124] --set train.accumulate=[842]\.",
        ),
        pytest.param(
            ("augment.crop=[9660, 12960]", "train.batch_size=1"),
            r"What fits: .* --set augment.crop=\[\d+, \d+\]",
            marks=pytest.mark.slow,
        ),
    ],
)
def test_more_memory_than_there_is_is_refused_with_what_fits(
    tmp_path, monkeypatch, asked, sentence
):
    monkeypatch.setattr(memory, "available_memory", lambda device: 4e9)
    with pytest.raises(ConfigError, match=sentence) as told:
        trained(tmp_path / "run", "model.name=frm-lite0", *asked)
    assert not (tmp_path / "run").exists()
    fitting = str(told.value).rpartition("What fits: ")[2].rstrip(".").split("--set ")[1:]
    recipe = parse_recipe(read_recipe("frm-lite0"), [*SMALL, *asked, *map(str.strip, fitting)])
    said = []
    memory.check_memory(
        memory.estimate_memory(models.build("frm-lite0", 8), recipe, (64, 96)), recipe, said.append
    )
    assert "may not fit" not in said[0]


def test_a_model_for_whose_weights_alone_there_is_no_room_is_refused(tmp_path, monkeypatch):
    monkeypatch.setattr(memory, "available_memory", lambda device: 1e6)
    with pytest.raises(ConfigError, match="tiny alone takes more memory than is free on cpu"):
        trained(tmp_path / "run")


@pytest.mark.parametrize(
    ("peaks", "said"), [((1e9, 1.234e9), "held 1.23"), ((2e9, 2e9), "held at most 2.0")]
)
def test_memory_is_said_before_the_first_step_and_after_the_last_and_kept(
    tmp_path, monkeypatch, peaks, said
):
    reporter, measured = Silent(), iter(peaks)
    monkeypatch.setattr(steps, "peak_held", lambda recipe: next(measured))
    run = trained(tmp_path / "run", "train.epochs=1", reporter=reporter)
    kept = json.loads((run.path / "environment.json").read_text())["memory_gb"]
    before, after = (text for text in reporter.messages if " GB" in text)
    assert before.startswith("a step of 4 images of 64x96 takes about 0.")
    assert before.endswith(f"this process will hold about {kept['estimated']} GB")
    assert after == f"the training {said} GB of memory (estimated: {kept['estimated']} GB)"
    assert kept.get("measured") == (1.23 if peaks[0] < peaks[1] else None)


def test_what_is_free_is_within_the_limit_of_a_container(tmp_path, monkeypatch):
    free = memory.available_memory(torch.device("cpu"))
    monkeypatch.setattr(memory, "CGROUP", tmp_path)
    for name, text in (
        ("max", "3000000"),
        ("current", "2500000"),
        ("stat", "anon 5\ninactive_file 250000\n"),
    ):
        (tmp_path / f"memory.{name}").write_text(text)
    assert memory.available_memory(torch.device("cpu")) == 750_000 < free
    (tmp_path / "memory.max").write_text("max\n")
    assert memory.available_memory(torch.device("cpu")) > 750_000


def test_a_run_goes_on_from_another_folder(tmp_path, monkeypatch):
    Path(tmp_path / "a").mkdir()
    monkeypatch.chdir(tmp_path / "a")
    run = train(request(data_root=Path("data"), init=None), Path("run"), Silent())
    assert run.recipe.data.root == str(tmp_path / "a" / "data")
    monkeypatch.chdir("/")
    train(Request(None), tmp_path / "a" / "run", Silent(), resume=True)
