"""Trackers of a training besides its run folder: TensorBoard, MLflow, Weights & Biases.

They are Lightning's loggers. A tracker that fails (its server is gone, its disk full) is named
once, and the training continues without it: the run folder has every figure. trackers.json keeps
the run's id in each tracker, so that a resumed training continues there.
"""

import logging
import os
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
from lightning.pytorch.loggers import Logger, MLFlowLogger, TensorBoardLogger, WandbLogger
from lightning.pytorch.utilities import rank_zero_only
from PIL import Image

from featherseg.core.files import load_json, write_json
from featherseg.core.types import OnMessage
from featherseg.core.wording import WarningText
from featherseg.runs.run import RESOLVED, WEIGHTS, Run
from featherseg.training.folder import TENSORBOARD, TRACKERS

PROJECT = "featherseg"
"""The project or experiment, unless the tracker's own variable names one."""

POINTS = 2000
"""Steps of a training that are sent over a network, about: a request takes milliseconds."""

ARTIFACTS = ("recipe.toml", RESOLVED, "card.md", "metrics.jsonl", WEIGHTS)
"""Files of a finished run that are uploaded."""

MLFLOW_ENVIRONMENT = {"MLFLOW_HTTP_REQUEST_MAX_RETRIES": "2", "MLFLOW_HTTP_REQUEST_TIMEOUT": "20"}
"""Defaults: MLflow's own, 7 tries of 120 s, would delay a training by minutes."""

TALKATIVE = ("mlflow", "wandb", "lightning.pytorch.loggers", "urllib3", "alembic")
"""Loggers whose messages below errors are hidden."""


class Tracker(Logger):
    """One of Lightning's loggers, whose failures end no training; only rank 0 uses it.

    group: The folder of the sweep or fit of this run; its runs get one parent in the tracker.
    """

    def __init__(
        self, name: str, run: Run, steps: int, on_message: OnMessage, group: Path | None = None
    ) -> None:
        super().__init__()
        self._name, self._run, self._on_message, self._group = name, run, on_message, group
        self._every = 1 if name == TENSORBOARD else max(1, steps // POINTS)
        self._logger: Any = None

    @property
    def name(self) -> str:
        """tensorboard, mlflow or wandb."""
        return self._name

    @property
    def version(self) -> str:
        """Empty: a run folder has one run."""
        return ""

    @rank_zero_only
    def begin(self) -> None:
        """Open the tracker, with the id of a resumed training, and send every setting."""
        self._try(self._begin)

    def _begin(self) -> None:
        known = _known(self._run.path)
        if self._name == TENSORBOARD:
            self._logger = TensorBoardLogger(save_dir=self._run.path, name=TENSORBOARD, version="")
            return
        if self._name == "mlflow":
            uri, project = _mlflow_place()
            tags = {"mlflow.parentRunId": _mlflow_parent(self._group)} if self._group else None
            self._logger = MLFlowLogger(
                project, self._run.name, uri, tags, run_id=known.get("mlflow")
            )
            identity = self._logger.run_id  # asks the server
            self._logger.experiment.update_run(identity, status="RUNNING")
        else:
            group = self._group.name if self._group else None
            project = os.environ.get("WANDB_PROJECT", PROJECT)
            version = known.get("wandb")
            self._logger = WandbLogger(
                self._run.name, self._run.path, version, project=project, group=group
            )
            identity = self._logger.experiment.id
        write_json(self._run.path / TRACKERS, _known(self._run.path) | {self._name: identity})
        if self._name not in known:
            self._logger.log_hyperparams(_settings(self._run))

    @rank_zero_only
    def log_metrics(self, metrics: Mapping[str, float], step: int | None = None) -> None:
        """Send the figures of a step: of every validation, and of about POINTS other steps."""
        if (step or 0) % self._every == 0 or "val_miou" in metrics:
            self._try(lambda: self._logger.log_metrics(dict(metrics), step))

    @rank_zero_only
    def log_batch(self, file: Path) -> None:
        """Send the picture of the first batch."""
        self._try(lambda: self._log_batch(file))

    def _log_batch(self, file: Path) -> None:
        if self._name == "mlflow":
            self._logger.experiment.log_artifact(self._logger.run_id, str(file))
            return
        with Image.open(file) as image:
            if self._name == "wandb":
                self._logger.log_image("batch", [image])
            else:
                self._logger.experiment.add_image("batch", np.asarray(image), dataformats="HWC")

    @rank_zero_only
    def log_hyperparams(self, params: Any, *args: Any, **kwargs: Any) -> None:
        """Do nothing: `begin` sends every setting."""

    @rank_zero_only
    def finalize(self, status: str) -> None:
        """Tell the tracker that the steps are over: "success" or "failed"."""
        self._try(lambda: self._logger.finalize(status))

    @rank_zero_only
    def finish(self, *, done: bool) -> None:
        """Close the tracker; upload the files of a run that is done (not to TensorBoard)."""
        self._try(lambda: self._finish(done))

    def _finish(self, done: bool) -> None:
        files = [
            self._run.path / name
            for name in ARTIFACTS
            if done and (self._run.path / name).is_file()
        ]
        if self._name == "mlflow":
            for file in files:
                self._logger.experiment.log_artifact(self._logger.run_id, str(file))
        elif self._name == "wandb":
            for file in files:
                self._logger.experiment.save(str(file), base_path=str(self._run.path), policy="now")
            self._logger.experiment.finish()

    def _try(self, call: Callable[[], object]) -> None:
        """Call; after a failure, which is told once, nothing more is sent."""
        if self._logger is None and call != self._begin:
            return
        try:
            with quiet(TALKATIVE, logging.ERROR):
                call()
        except Exception as error:  # networks raise a dozen kinds; none may end a long training
            self._logger = None
            reason = (str(error).splitlines() or [type(error).__name__])[0][:200]
            self._on_message(
                WarningText(
                    f"{self._name} fails ({reason}): the training goes on without it; every figure "
                    f"is in {self._run.path}"
                )
            )


def begin_group(group: Path, loggers: Sequence[str], on_message: OnMessage) -> None:
    """Make the parent run of a sweep or fit in MLflow, before several trainings begin at once."""
    if "mlflow" not in loggers:
        return
    try:
        with quiet(TALKATIVE, logging.ERROR):
            _mlflow_parent(group)
    except Exception as error:  # as in Tracker: the trainings report it too, and go on
        on_message(f"mlflow fails: {(str(error).splitlines() or [type(error).__name__])[0][:200]}")


def _mlflow_place() -> tuple[str, str]:
    """Return (address, experiment) of MLflow from the environment."""
    for key, value in MLFLOW_ENVIRONMENT.items():
        os.environ.setdefault(key, value)
    return os.environ["MLFLOW_TRACKING_URI"], os.environ.get("MLFLOW_EXPERIMENT_NAME", PROJECT)


def _mlflow_parent(group: Path) -> str:
    """Return the id of the parent run of a folder's trainings; the first of them makes it."""
    uri, project = _mlflow_place()
    group.mkdir(parents=True, exist_ok=True)
    known = _known(group)
    parent = MLFlowLogger(project, group.name, uri, run_id=known.get("mlflow"))
    write_json(group / TRACKERS, known | {"mlflow": parent.run_id})
    return str(parent.run_id)


@contextmanager
def quiet(names: Sequence[str], level: int = logging.WARNING) -> Iterator[None]:
    """Hide the messages of these loggers below `level` during the block."""
    loggers = [logging.getLogger(name) for name in names]
    levels = [logger.level for logger in loggers]
    for logger in loggers:
        logger.setLevel(level)
    try:
        yield
    finally:
        for logger, before in zip(loggers, levels, strict=True):
            logger.setLevel(before)


def _known(folder: Path) -> dict[str, str]:
    """Return the ids of this folder's run by tracker; {} if the file is missing or damaged."""
    try:
        return {str(key): str(value) for key, value in load_json(folder / TRACKERS).items()}
    except (OSError, ValueError, AttributeError):
        return {}


def _settings(run: Run) -> dict[str, Any]:
    """Return every setting by its key, {"train.lr": 0.002}, with classes, licence and init."""
    tables = run.recipe.model_dump(mode="json", exclude={"paper"})
    flat = {
        f"{table}.{key}": value for table, rows in tables.items() for key, value in rows.items()
    }
    return flat | {"classes": len(run.info.classes), "licence": run.licence, "init": run.init}
