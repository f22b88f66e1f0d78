"""The callback that records a run: metrics, validation, the kept weights, checkpoints, early stop - in that order.

One place decides what happens after a step, so that a kill between any two writes is made good by the next resume.
"""

import io
import math
import signal
import threading
import time
from collections.abc import Callable
from pathlib import Path
from types import FrameType
from typing import Any

import lightning.pytorch as pl
import torch
from lightning.fabric.plugins.environments import SLURMEnvironment
from lightning.pytorch.callbacks import Checkpoint
from lightning.pytorch.plugins.io import TorchCheckpointIO
from lightning.pytorch.utilities.exceptions import SIGTERMException
from torch import Tensor

from featherseg.core.files import append_line, write_bytes
from featherseg.core.notebook import percent
from featherseg.core.types import Reporter, SegmentationData
from featherseg.data.cache.fingerprint import groups_of
from featherseg.evaluation.clusters import clusters_of
from featherseg.evaluation.iou import Confusion
from featherseg.evaluation.scoring import evaluate, number
from featherseg.inference.runtimes.pytorch import TorchRuntime
from featherseg.recipe.tables import TrainTable
from featherseg.runs.run import CHECKPOINT, METRICS, Run, save_weights
from featherseg.training.class_weights import best_share, score_shares, undo_class_weights
from featherseg.training.finish import validation_score
from featherseg.training.module import SegmentationModule


class AtomicCheckpoints(TorchCheckpointIO):
    """Lightning's checkpoints, written as every file of ours (its own are neither atomic nor synced)."""

    def save_checkpoint(
        self, checkpoint: dict[str, Any], path: Any, storage_options: Any = None
    ) -> None:
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
        ends: float | Callable[[int], bool] | None,
        reporter: Reporter,
    ) -> None:
        self.run, self.val, self.settings, self.reporter = run, val, settings, reporter
        self.steps, self.every = steps, every  # of the whole run, and between validations
        moment = math.inf if ends is None or callable(ends) else ends
        self.is_last = ends if callable(ends) else lambda step: time.monotonic() >= moment
        self.best, self.stale, self.finished = (
            -math.inf,
            0,
            False,
        )  # score, validations since, nothing left to do
        undo = run.recipe.loss.undo_class_weights
        self.undone = (
            0.0 if undo == "auto" else undo
        )  # share of the class weights that kept weights undo
        self.saved_at, self.saved_step = time.monotonic(), 0
        self.stop_asked = False  # by a signal

    def state_dict(self) -> dict[str, Any]:
        """What a resumed run must know."""
        return {
            "best": self.best,
            "stale": self.stale,
            "finished": self.finished,
            "undone": self.undone,
        }

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Take it back."""
        self.best, self.stale = state_dict["best"], state_dict["stale"]
        self.finished = state_dict["finished"]
        self.undone = state_dict.get("undone", 0.0)  # runs of before undid nothing

    def on_train_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """The clock of the checkpoints starts with the first step; signals stop the run only where a step is saved.

        SIGTERM, Ctrl-C and, in a SLURM job, SIGUSR1: its warning before the job ends. They take the place of
        Lightning's handlers, which stop after any batch, saved or not; Lightning puts back what was there before it.
        Ctrl-C is left to a program that ignores it or has an answer of its own.
        """
        self.saved_at, self.saved_step = time.monotonic(), trainer.global_step
        self.finished = False  # a run that was, and goes on, has more steps now
        if threading.current_thread() is threading.main_thread():
            asks_to_stop = [
                signal.SIGTERM,
                *([signal.SIGUSR1] if SLURMEnvironment.detect() else []),
            ]
            if signal.getsignal(signal.SIGINT) is signal.default_int_handler:
                asks_to_stop.append(signal.SIGINT)
            for number in asks_to_stop:
                signal.signal(number, self._ask_to_stop)

    def _ask_to_stop(self, number: int, frame: FrameType | None) -> None:
        if (
            self.stop_asked and number == signal.SIGINT
        ):  # again: at once, back to the last checkpoint
            signal.default_int_handler(number, frame)
        self.stop_asked = True

    def on_train_batch_end(
        self,
        trainer: pl.Trainer,
        pl_module: pl.LightningModule,
        outputs: Any,
        batch: Any,
        batch_idx: int,
    ) -> None:
        """After an optimiser step, never inside an accumulation window: validate when due, log, save when due."""
        assert isinstance(pl_module, SegmentationModule)
        if pl_module.micro_batch % self.settings.accumulate:
            return
        step = trainer.global_step
        record = {"step": step, **pl_module.take_record()}
        now = time.monotonic()
        late = now - self.saved_at >= self.settings.checkpoint_seconds
        last = step == self.steps or self.is_last(step)
        late, stop, last = trainer.strategy.broadcast((late, self.stop_asked, last))
        validate = step % self.every == 0 or last
        save = validate or late or stop
        if save:
            pl_module.check_finite(step)
        if validate:
            record |= trainer.strategy.broadcast(
                self._validate(pl_module) if trainer.is_global_zero else {}
            )
            stop = trainer.strategy.broadcast(
                stop or self.stop_asked
            )  # while the images were scored
            self._judge(record, last)
            trainer.should_stop = trainer.should_stop or self.finished
        if trainer.is_global_zero:
            append_line(self.run.path / METRICS, record)
            self.reporter.step(step, self.steps, record)
        for logger in trainer.loggers:
            logger.log_metrics({k: v for k, v in record.items() if isinstance(v, float)}, step)
        if save:
            trainer.save_checkpoint(self.run.path / CHECKPOINT)
            self.saved_at, self.saved_step = time.monotonic(), step
        if stop:
            raise SIGTERMException

    def _validate(self, module: SegmentationModule) -> dict[str, Any]:
        """Score the weights that would be kept, as `featherseg evaluate` will; keep them where the recipe says so.

        Where another share of the class weights is better undone, they undo that, and are scored again.
        """
        trained = {key: value.detach().clone() for key, value in module.kept_state().items()}
        state, record, better = self._score(trained, module.device)
        if better != self.undone:
            self.undone, before = better, record
            state, record, _ = self._score(trained, module.device)
            scores = (
                f"mIoU {percent(record['val_miou'])} % in place of {percent(before['val_miou'])}"
            )
            self.reporter.message(
                f"{better:.0%} of the class weights are undone in the weights that are kept: {scores}"
            )
        if self.settings.keep == "last" or validation_score(record) > self.best:
            save_weights(self.run.path, state)
        return record

    def _score(
        self, trained: dict[str, Tensor], device: torch.device
    ) -> tuple[dict[str, Tensor], dict[str, Any], float]:
        """-> (the weights with the share undone, the record of their scores, the share that should be)."""
        recipe, model, state, better = (
            self.run.recipe,
            self.run.untrained_model(),
            trained,
            self.undone,
        )
        weights = self.run.info.class_weights if model.class_bias in trained else None
        if weights and model.class_bias:
            state = undo_class_weights(trained, model.class_bias, weights, self.undone)
        model.load_state_dict(state)
        runtime = TorchRuntime(
            model,
            self.run.classes,
            test_resize=recipe.data.test_resize,
            panoptic=recipe.panoptic,
            device=device,
        )
        progress, record = self._show_scoring, dict[str, Any]()
        if weights and recipe.loss.undo_class_weights == "auto":
            found, counts = score_shares(runtime, self.val, weights, self.undone, progress)
            better = best_share(counts, clusters_of(self.val.keys, groups_of(self.val)))
            record["class_weights_undone"] = self.undone
        else:
            scores = evaluate(runtime, self.val, boundary=False, progress=progress)
            found = Confusion(len(scores.classes), scores.confusion, scores.void)
            objects = scores.panoptic or {}
            record |= {f"val_{key}": number(objects[key]) for key in ("pq", "sq", "rq") if objects}
        record |= {
            "val_miou": number(found.miou()),
            "val_pixel_accuracy": number(found.pixel_accuracy()),
            "val_iou": [number(value) for value in found.iou()],
        }
        return state, record, better

    def _show_scoring(self, doing: str, done: int, total: int | None) -> None:
        waits = (
            "stopping behind this validation, or at once by another Ctrl-C: "
            if self.stop_asked
            else ""
        )
        self.reporter.progress(f"{waits}{doing}", done, total)

    def _judge(self, record: dict[str, Any], last: bool) -> None:
        """Is it the best so far, and is the run over? The same on every rank."""
        if validation_score(record) > self.best:
            self.best, self.stale = validation_score(record), 0
        else:
            self.stale += 1
        out_of_patience = (
            self.settings.patience is not None and self.stale >= self.settings.patience
        )
        self.finished = last or out_of_patience
