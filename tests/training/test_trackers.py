"""Trackers beside the run folder: MLflow's real server, Weights & Biases offline, both slow."""

import json
import os
import signal
import socket
import subprocess
import sys
import time
from pathlib import Path

import pytest
from PIL import Image
from support.models.fit_plans import begin_planned, write_yard
from support.models.small_training import (
    SMALL,
    Killed,
    KilledAt,
    Silent,
    equal_state,
    outcome,
    request,
    trained,
)

import featherseg
from featherseg.core.errors import ConfigError, MissingExtra
from featherseg.core.old_names import with_old_recipe
from featherseg.training import Request, check, trackers, train
from featherseg.training.check import check_trackers
from featherseg.training.trackers import Tracker

pytestmark = pytest.mark.usefixtures("tiny")

ALL = 'train.loggers=["tensorboard"]'
MLFLOW = 'train.loggers=["mlflow"]'


class Broken:
    """A logger whose server goes away after some calls."""

    def __init__(self, calls):
        self.calls, self.seen = calls, []

    def log_metrics(self, metrics, step):
        if len(self.seen) == self.calls:
            raise ConnectionError("no route to host\nand a long story")
        self.seen.append((step, metrics))

    def finalize(self, status):
        raise AssertionError("asked though it failed")

    @property
    def experiment(self):
        return self

    def add_image(self, name, pixels, dataformats):
        assert (name, pixels.ndim, dataformats) == ("batch", 3, "HWC")


@pytest.fixture
def broken(monkeypatch):
    """Every tracker is one whose server goes away after its first step."""
    loggers = []

    def begin(self):
        self._logger = Broken(1)
        loggers.append(self._logger)

    monkeypatch.setattr(Tracker, "_begin", begin)
    return loggers


def test_a_tracker_that_fails_is_named_once_and_the_training_goes_on(broken, tmp_path):
    reporter = Silent()
    run = trained(tmp_path / "run", ALL, reporter=reporter)
    assert sorted(run.metrics()) == [1, 2, 3, 4]
    said = [text for text in reporter.messages if " fails (" in text]
    assert said == [
        "tensorboard fails (no route to host): the training goes on without it; "
        f"every figure is in {tmp_path / 'run'}"
    ]
    assert [step for step, _ in broken[0].seen] == [1]


@pytest.mark.parametrize("name", ["mlflow", "wandb", "tensorboard"])
def test_the_first_batch_is_sent_in_the_way_of_each_tracker(name, tmp_path, small_run):
    sent = []

    class Logger:
        """The calls of all three, as their documentation has them."""

        run_id, experiment = "7", None

        def log_artifact(self, run_id, path):
            sent.append((run_id, path))

        def log_image(self, key, images):
            sent.append((key, images[0].size))

        def add_image(self, tag, pixels, dataformats):
            sent.append((tag, pixels.shape, dataformats))

    Image.new("RGB", (6, 4)).save(tmp_path / "batch.jpg")
    tracker = Tracker(name, small_run, 10, print)
    tracker._logger = Logger()
    tracker._logger.experiment = tracker._logger
    tracker.log_batch(tmp_path / "batch.jpg")
    assert sent == [
        {
            "mlflow": ("7", str(tmp_path / "batch.jpg")),
            "wandb": ("batch", (6, 4)),
            "tensorboard": ("batch", (4, 6, 3), "HWC"),
        }[name]
    ]


def test_a_tracker_that_cannot_begin_is_named_and_the_training_goes_on(monkeypatch, tmp_path):
    def begin(self):
        raise OSError("no server")

    monkeypatch.setattr(Tracker, "_begin", begin)
    reporter = Silent()
    run = trained(tmp_path / "run", ALL, "train.epochs=1", reporter=reporter)
    assert sorted(run.metrics()) == [1, 2]
    assert sum("tensorboard fails (no server)" in text for text in reporter.messages) == 1


@pytest.mark.seconds
def test_trackers_change_nothing_of_the_result(tmp_path):
    first, second = trained(tmp_path / "a"), trained(tmp_path / "b", ALL)
    assert equal_state(outcome(first), outcome(second))


def test_of_a_long_training_about_two_thousand_steps_are_sent(monkeypatch, tmp_path, small_run):
    tracker = Tracker("mlflow", small_run, 10_000, print)
    tracker._logger = logger = Broken(10_000)
    for step in range(1, 31):
        tracker.log_metrics({"loss": 1.0, **({"val_miou": 0.5} if step == 13 else {})}, step)
    assert [step for step, _ in logger.seen] == [5, 10, 13, 15, 20, 25, 30]


def test_a_tracker_that_is_not_installed_or_has_no_server_is_refused_before_the_training(
    monkeypatch,
):
    recipe = request(MLFLOW).read()[1]
    monkeypatch.setitem(sys.modules, "mlflow", None)
    with pytest.raises(MissingExtra, match=r"pip install 'featherseg\[mlflow\]'"):
        check_trackers(recipe)
    monkeypatch.setattr(check, "require", lambda *names: None)
    monkeypatch.delenv("MLFLOW_TRACKING_URI", raising=False)
    with pytest.raises(ConfigError, match="Set MLFLOW_TRACKING_URI, such as http"):
        check_trackers(recipe)


def test_a_run_from_before_keeps_its_tensorboard():
    old = {"recipe": {"train": {"tensorboard": True, "lr": 1}, "data": {}}}
    assert with_old_recipe(old)["recipe"] == {
        "train": {"lr": 1, "loggers": ["tensorboard"]},
        "data": {},
    }
    assert with_old_recipe({"recipe": {"train": {"loggers": []}}}) == {
        "recipe": {"train": {"loggers": []}}
    }


def test_settings_are_sent_by_their_keys(small_run):
    sent = trackers._settings(small_run)
    assert sent["train.batch_size"] == small_run.recipe.train.batch_size
    assert sent["licence"] == small_run.licence


@pytest.fixture
def mlflow_server(tmp_path, monkeypatch):
    """MLflow's own server with a sqlite file, on a free port: (address, its process)."""
    pytest.importorskip("mlflow", reason="mlflow is not installed")
    pytest.importorskip("flask", reason="mlflow is here without its server")
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    command = [
        sys.executable,
        "-W",
        "ignore",
        "-m",
        "mlflow",
        "server",
        "--host",
        "127.0.0.1",
        "--port",
        str(port),
    ]
    command += ["--backend-store-uri", f"sqlite:///{tmp_path}/mlflow.db", "--workers", "1"]
    command += ["--artifacts-destination", str(tmp_path / "artifacts")]
    process = subprocess.Popen(
        command, cwd=tmp_path, start_new_session=True, stdout=subprocess.DEVNULL
    )
    address = f"http://127.0.0.1:{port}"
    monkeypatch.setenv("no_proxy", "*")
    monkeypatch.setenv("MLFLOW_TRACKING_URI", address)
    try:
        end = time.monotonic() + 240
        while socket.socket().connect_ex(("127.0.0.1", port)):
            assert process.poll() is None
            assert time.monotonic() < end
            time.sleep(0.2)
        yield address, process
    finally:
        if process.poll() is None:
            os.killpg(process.pid, signal.SIGKILL)
        process.wait()


def found_runs(address):
    from mlflow.tracking import MlflowClient

    client = MlflowClient(address)
    experiment = client.get_experiment_by_name("featherseg")
    return client, client.search_runs([experiment.experiment_id])


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore")
def test_mlflow_shows_the_run_and_a_resumed_one_continues_it(mlflow_server, tmp_path):
    address, _ = mlflow_server
    out = tmp_path / "run"
    with pytest.raises(Killed):
        train(request(MLFLOW), out, KilledAt(3))
    client, runs = found_runs(address)
    (begun,) = runs
    run = trained(out, MLFLOW, resume=True)
    client, runs = found_runs(address)
    (found,) = runs
    assert (
        found.info.run_id
        == begun.info.run_id
        == json.loads((out / "trackers.json").read_text())["mlflow"]
    )
    assert found.info.status == "FINISHED"
    assert found.data.params["train.batch_size"] == "4"
    assert found.data.params["model.name"] == "tiny"
    metrics = {m.step: m.value for m in client.get_metric_history(found.info.run_id, "loss")}
    assert metrics == {step: record["loss"] for step, record in run.metrics().items()}
    validated = {m.step for m in client.get_metric_history(found.info.run_id, "val_miou")}
    assert validated == {step for step, record in run.metrics().items() if "val_miou" in record}
    artifacts = {file.path for file in client.list_artifacts(found.info.run_id)}
    assert {"card.md", "recipe.toml", "resolved.json", "weights.safetensors"} <= artifacts
    fetched = client.download_artifacts(found.info.run_id, "weights.safetensors", str(tmp_path))
    assert Path(fetched).read_bytes() == (out / "weights.safetensors").read_bytes()


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore")
def test_a_server_that_goes_away_ends_no_training(mlflow_server, tmp_path):
    _, process = mlflow_server

    class Ending(Silent):
        def step(self, step, steps, record):
            super().step(step, steps, record)
            if step == 2:
                os.killpg(process.pid, signal.SIGKILL)
                process.wait()

    reporter = Ending()
    began = time.monotonic()
    run = trained(tmp_path / "run", MLFLOW, reporter=reporter)
    assert sorted(run.metrics()) == [1, 2, 3, 4]
    assert sum("mlflow fails (" in text for text in reporter.messages) == 1
    assert time.monotonic() - began < 200


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore")
def test_a_sweep_s_trainings_stand_under_one_run(mlflow_server, tmp_path):
    from featherseg.comparison.sweep import train_all

    address, _ = mlflow_server
    asked = Request("frm-lite0", overrides=(*SMALL, MLFLOW, "train.epochs=1"))
    train_all(asked, ["tiny"], [0, 1], tmp_path / "sweep", Silent())
    _, runs = found_runs(address)
    parents = [run for run in runs if "mlflow.parentRunId" not in run.data.tags]
    assert len(runs) == 3
    assert {run.data.tags.get("mlflow.parentRunId") for run in runs} == {
        None,
        parents[0].info.run_id,
    }


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore")
def test_a_fit_s_trainings_stand_under_one_run_and_rungs_go_on_with_theirs(mlflow_server, tmp_path):
    address, _ = mlflow_server
    yard = write_yard(tmp_path / "yard", splits="train = 0.6\nval = 0.2\ntest = 0.2")
    begin_planned(
        yard,
        tmp_path / "out",
        max_ms=1000.0,
        rungs=((2, 1),),
        final=4,
        decay=2,
        loggers=("mlflow",),
    )
    featherseg.fit(out=tmp_path / "out", resume=True)
    _, runs = found_runs(address)
    parents = [run for run in runs if "mlflow.parentRunId" not in run.data.tags]
    assert len(runs) == 3  # the chosen one's second folder goes on with the run of its first
    assert {run.data.tags.get("mlflow.parentRunId") for run in runs} == {
        None,
        parents[0].info.run_id,
    }
    assert parents[0].info.run_name == "out"
    assert (
        json.loads((tmp_path / "out" / "trackers.json").read_text())["mlflow"]
        == parents[0].info.run_id
    )


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore")
def test_weights_and_biases_keeps_the_run_offline(tmp_path, monkeypatch):
    pytest.importorskip("wandb", reason="wandb is not installed")
    monkeypatch.setenv("WANDB_MODE", "offline")
    monkeypatch.setenv("WANDB_SILENT", "true")
    reporter = Silent()
    out = tmp_path / "run"
    with pytest.raises(Killed):
        train(request('train.loggers=["wandb"]'), out, KilledAt(3))
    first = json.loads((out / "trackers.json").read_text())["wandb"]
    trained(out, 'train.loggers=["wandb"]', resume=True, reporter=reporter)
    assert json.loads((out / "trackers.json").read_text())["wandb"] == first
    assert not [text for text in reporter.messages if " fails (" in text]
    files = sorted((out / "wandb").glob(f"offline-run-*-{first}/run-{first}.wandb"))
    assert len(files) >= 1
    content = b"".join(file.read_bytes() for file in files)
    assert b"train.batch_size" in content
    assert b"val_miou" in content
