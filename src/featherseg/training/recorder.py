"""The callback that records a run: metrics, validation, the kept weights, checkpoints, early stop - in that order.

One place decides what happens after a step, so that a kill between any two writes is made good by the next resume.
"""

import io
import math
import signal
import threading
import time
from pathlib import Path
from typing import Any

import lightning.pytorch as pl
import torch
from lightning.fabric.plugins.environments import SLURMEnvironment
from lightning.pytorch.callbacks import Checkpoint
from lightning.pytorch.plugins.io import TorchCheckpointIO
from lightning.pytorch.utilities.exceptions import SIGTERMException

from featherseg.core.files import append_line, write_bytes
from featherseg.core.types import Reporter, SegmentationData
from featherseg.evaluation.scoring import evaluate, number
from featherseg.inference.runtimes.pytorch import TorchRuntime
from featherseg.recipe import TrainTable
from featherseg.runs import CHECKPOINT, METRICS, Run, save_weights
from featherseg.training.module import SegmentationModule


class AtomicCheckpoints(TorchCheckpointIO):
    """Lightning's checkpoints, written as every file of ours (its own are neither atomic nor synced)."""

    def save_checkpoint(self, checkpoint: dict[str, Any], path: Any, storage_options: Any = None) -> None:
        """Replace the file in one step; made up in memory first: torch hides a full disk."""
        content = io.BytesIO()
        torch.save(checkpoint, content)
        write_bytes(Path(path), content.getvalue())


class Recorder(Checkpoint):
    """Writes the run folder while it trains. Its state (the best score, what is over) travels in the checkpoint."""

    def __init__(
        self,
        run: Run,
        val: SegmentationData,
        settings: TrainTable,
        *,
        steps: int,
        every: int,
        ends: float | None,
        reporter: Reporter,
    ) -> None:
        self.run, self.val, self.settings, self.reporter = run, val, settings, reporter
        self.steps, self.every = steps, every  # of the whole run, and between validations
        self.ends = math.inf if ends is None else ends  # by time.monotonic: the run is over then, whatever the step
        self.best, self.stale, self.finished = -math.inf, 0, False  # score, validations since, nothing left to do
        self.saved_at = time.monotonic()
        self.stop_asked = False  # by a signal

    def state_dict(self) -> dict[str, Any]:
        """What a resumed run must know."""
        return {"best": self.best, "stale": self.stale, "finished": self.finished}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Take it back."""
        self.best, self.stale = state_dict["best"], state_dict["stale"]
        self.finished = state_dict["finished"]

    def on_train_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """The clock of the checkpoints starts with the first step; signals stop the run only where a step is saved.

        SIGTERM and, in a SLURM job, SIGUSR1: its warning before the job ends. They take the place of Lightning's
        handlers, which stop after any batch, saved or not; Lightning puts back what was there before it.
        """
        self.saved_at = time.monotonic()
        self.finished = False  # a run that was, and goes on, has more steps now
        if threading.current_thread() is threading.main_thread():
            for number in (signal.SIGTERM, *([signal.SIGUSR1] if SLURMEnvironment.detect() else [])):
                signal.signal(number, self._ask_to_stop)

    def _ask_to_stop(self, *_: Any) -> None:
        self.stop_asked = True

    def on_train_batch_end(
        self, trainer: pl.Trainer, pl_module: pl.LightningModule, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        """After an optimiser step, never inside an accumulation window: validate when due, log, save when due."""
        assert isinstance(pl_module, SegmentationModule)
        if pl_module.micro_batch % self.settings.accumulate:
            return
        step = trainer.global_step
        record = {"step": step, **pl_module.take_record()}
        now = time.monotonic()
        late = now - self.saved_at >= self.settings.checkpoint_seconds
        late, stop, last = trainer.strategy.broadcast((late, self.stop_asked, step == self.steps or now >= self.ends))
        validate = step % self.every == 0 or last
        save = validate or late or stop
        if save:
            pl_module.check_finite(step)
        if validate:
            record |= trainer.strategy.broadcast(self._validate(pl_module) if trainer.is_global_zero else {})
            self._judge(record, last)
            trainer.should_stop = trainer.should_stop or self.finished
        if trainer.is_global_zero:
            append_line(self.run.path / METRICS, record)
            self.reporter.step(step, self.steps, record)
        for logger in trainer.loggers:
            logger.log_metrics({k: v for k, v in record.items() if isinstance(v, float)}, step)
        if save:
            trainer.save_checkpoint(self.run.path / CHECKPOINT)
            self.saved_at = time.monotonic()
        if stop:
            raise SIGTERMException

    def _validate(self, module: SegmentationModule) -> dict[str, Any]:
        """Score the weights that would be kept, as `featherseg evaluate` will; keep them where the recipe says so."""
        state = {key: value.detach().clone() for key, value in module.kept_state().items()}
        model = self.run.untrained_model()
        model.load_state_dict(state)
        recipe = self.run.recipe
        runtime = TorchRuntime(
            model, self.run.classes, test_resize=recipe.data.test_resize, panoptic=recipe.panoptic, device=module.device
        )
        scores = evaluate(runtime, self.val, boundary=False, progress=self.reporter.progress)
        objects = {f"val_{key}": number(scores.panoptic[key]) for key in ("pq", "sq", "rq")} if scores.panoptic else {}
        record = objects | {
            "val_miou": number(scores.miou),
            "val_pixel_accuracy": number(scores.pixel_accuracy),
            "val_iou": [number(value) for value in scores.iou],
        }
        if self.settings.keep == "last" or judged(record) > self.best:
            save_weights(self.run.path, state)
        return record

    def _judge(self, record: dict[str, Any], last: bool) -> None:
        """Is it the best so far, and is the run over? The same on every rank."""
        if judged(record) > self.best:
            self.best, self.stale = judged(record), 0
        else:
            self.stale += 1
        out_of_patience = self.settings.patience is not None and self.stale >= self.settings.patience
        self.finished = last or out_of_patience


def judged(record: dict[str, Any]) -> float:
    """What a validation is judged by: PQ where objects were scored, else mIoU; -1 where no image has a label."""
    score = record.get("val_pq", record["val_miou"])
    return -1.0 if score is None else score
