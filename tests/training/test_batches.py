"""data.class_uniform through a training: found once, kept in the run, the same after a kill."""

import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from support.models.own_objects import SETTINGS as OWN_SETTINGS
from support.models.own_objects import Halves, own_model
from support.models.small_training import Silent, equal_state, request, trained

import featherseg
from featherseg.core.errors import ConfigError, RunError
from featherseg.data import open_dataset
from featherseg.data.pipeline.loader import start_method
from featherseg.data.pipeline.sampling import find_class_points
from featherseg.recipe.reading import parse_recipe, read_recipe
from featherseg.training import batches, train
from featherseg.training.batches import (
    CLASS_POINTS,
    loader_workers,
    open_class_uniform,
    write_class_points,
)

pytestmark = pytest.mark.usefixtures("tiny")

SETTINGS = (
    "data.class_uniform=0.5",
    "train.epochs=1",
    "data.val_size=1",
    "train.checkpoint_seconds=1e-9",
)


class KilledAt(Silent):
    """Dies when a step is reported."""

    def __init__(self, last: int) -> None:
        super().__init__()
        self.last = last

    def step(self, step, steps, record):
        if step == self.last:
            raise KeyboardInterrupt


@pytest.fixture(scope="module")
def whole(tmp_path_factory):
    reporter = Silent()
    run = trained(tmp_path_factory.mktemp("whole") / "run", *SETTINGS, reporter=reporter)
    return run, reporter.messages


def test_the_run_keeps_the_points_of_its_training_labels_in_tiles_of_the_crop(whole):
    run, messages = whole
    data = open_dataset("shapes", "train", size=8)
    expected = find_class_points(data, 96)  # crops of 64 x 96
    np.testing.assert_array_equal(np.load(run.path / CLASS_POINTS), expected.rows)
    assert "locating the classes in 8 masks, to sample by class" in messages


@pytest.mark.seconds
def test_a_killed_run_resumes_to_the_same_bits_without_looking_through_the_labels_again(
    whole, tmp_path
):
    run, _ = whole
    with pytest.raises(KeyboardInterrupt):
        train(request(*SETTINGS), tmp_path / "run", KilledAt(2))
    before = (tmp_path / "run" / CLASS_POINTS).stat().st_mtime_ns
    reporter = Silent()
    resumed = trained(tmp_path / "run", *SETTINGS, resume=True, reporter=reporter)
    assert equal_state(dict(resumed.model.state_dict()), dict(run.model.state_dict()))
    assert (tmp_path / "run" / CLASS_POINTS).stat().st_mtime_ns == before
    assert not any("locating the classes" in message for message in reporter.messages)


def test_off_is_the_default_and_writes_nothing(tmp_path: Path):
    _, recipe = request().read()
    write_class_points(tmp_path, recipe, open_dataset("shapes", "train", size=2), lambda text: None)
    assert recipe.data.class_uniform == 0.0
    assert open_class_uniform(tmp_path, recipe, open_dataset("shapes", "train", size=2)) is None
    assert list(tmp_path.iterdir()) == []


def test_points_that_are_missing_damaged_or_of_other_data_are_told(tmp_path: Path):
    _, recipe = request(*SETTINGS).read()
    data = open_dataset("shapes", "train", size=4)
    with pytest.raises(
        RunError, match=rf"{CLASS_POINTS} cannot be read .*new run with another --out"
    ):
        open_class_uniform(tmp_path, recipe, data)
    write_class_points(tmp_path, recipe, data, lambda text: None)
    settings = open_class_uniform(tmp_path, recipe, data)
    assert settings is not None
    assert settings.share == 0.5
    with pytest.raises(RunError, match="names image 4, but shapes has 2"):
        open_class_uniform(tmp_path, recipe, open_dataset("shapes", "train", size=2))
    content = (tmp_path / CLASS_POINTS).read_bytes()
    for damaged in (b"", b"\x93NUMPY", content[:90], b"not points"):
        (tmp_path / CLASS_POINTS).write_bytes(damaged)
        with pytest.raises(RunError, match="cannot be read"):
            open_class_uniform(tmp_path, recipe, data)


@pytest.mark.parametrize(
    ("cores", "device", "asked", "expected"),
    [
        (1, "cpu", None, 0),
        (2, "cpu", None, 1),
        (16, "cpu", None, 2),
        (1, "cpu", 3, 3),
        (2, "cuda", None, 2),
        (16, "cuda", None, 8),
        (16, "cuda", 0, 0),
    ],
)
def test_the_loader_gets_the_cores_that_there_are(monkeypatch, cores, device, asked, expected):
    monkeypatch.setattr(batches, "usable_cores", lambda: cores)
    monkeypatch.setattr(batches, "pick_device", lambda name: torch.device(device))
    recipe = parse_recipe(
        read_recipe("frm-lite0"), () if asked is None else (f"data.workers={asked}",)
    )
    assert loader_workers(recipe) == expected


def test_workers_are_forked_where_a_system_can_and_the_program_says_nothing_else(monkeypatch):
    said = {"chosen": None}
    ask = lambda allow_none=False: (  # noqa: E731
        said["chosen"] or (None if allow_none else "forkserver")
    )
    monkeypatch.setattr("multiprocessing.get_start_method", ask)
    found = []
    for platform, chosen in (("linux", None), ("darwin", None), ("linux", "spawn")):
        monkeypatch.setattr("sys.platform", platform)
        said["chosen"] = chosen
        found.append(start_method())
    assert found == ["fork", "forkserver", "spawn"]


@pytest.mark.parametrize(
    ("program", "workers"),
    [
        ('featherseg.train("a", "b")', 0),
        ('if __name__ == "__main__":\n    featherseg.train("a", "b")', 1),
        (None, 0),
    ],
    ids=["a script", "one that can be imported", "a notebook"],
)
def test_a_program_that_spawned_workers_cannot_import_gets_none(
    monkeypatch, tmp_path, program, workers
):
    monkeypatch.setattr(batches, "usable_cores", lambda: 2)
    monkeypatch.setattr(batches, "start_method", lambda: "spawn")
    (tmp_path / "program.py").write_text(program or "")
    monkeypatch.setattr(
        sys.modules["__main__"], "__file__", program and str(tmp_path / "program.py"), raising=False
    )
    assert loader_workers(parse_recipe(read_recipe("frm-lite0"))) == workers
    assert loader_workers(parse_recipe(read_recipe("frm-lite0"), ("data.workers=3",))) == 3


@pytest.mark.seconds
def test_what_spawned_workers_cannot_be_given_is_drawn_here_or_refused_where_they_are_asked_for(
    monkeypatch, tmp_path
):
    monkeypatch.setattr(batches, "start_method", lambda: "spawn")
    monkeypatch.setattr(batches, "loader_workers", lambda recipe: recipe.data.workers or 2)
    data, local = (Halves(8), Halves(6)), lambda image, label, rng: (image, label)
    with pytest.raises(
        ConfigError,
        match=r"data\.workers = 1: on this system .*lambda.* or leave data\.workers out",
    ):
        featherseg.train(
            own_model(),
            data,
            out=tmp_path / "run",
            augment=local,
            settings={**OWN_SETTINGS, "data.workers": 1},
        )
    assert not (tmp_path / "run").exists()
    settings = {key: value for key, value in OWN_SETTINGS.items() if key != "data.workers"} | {
        "train.epochs": 1
    }
    featherseg.train(own_model(), data, out=tmp_path / "run", augment=local, settings=settings)
    assert (tmp_path / "run" / "weights.safetensors").is_file()


@pytest.mark.slow
@pytest.mark.parametrize("method", ["spawn", "forkserver"])
def test_a_script_that_cannot_be_imported_trains_with_either_way_of_workers(tmp_path, method):
    script = tmp_path / "script.py"
    script.write_text(
        f"import multiprocessing\nmultiprocessing.set_start_method({method!r})\n"
        "import featherseg\nfrom support.models.own_objects import SETTINGS, Halves, own_model\n"
        "settings = {key: value for key, value in SETTINGS.items() if key != 'data.workers'}\n"
        f"featherseg.train(own_model(), (Halves(8), Halves(6)), out={str(tmp_path / 'run')!r},\n"
        "    settings=settings)\n"
    )
    environment = {
        **os.environ,
        "PYTHONPATH": os.pathsep.join([str(Path(__file__).parents[1]), *sys.path]),
    }
    done = subprocess.run(
        [sys.executable, script], env=environment, capture_output=True, text=True, check=False
    )
    assert (done.returncode, (tmp_path / "run" / "weights.safetensors").is_file()) == (0, True), (
        done.stderr
    )
