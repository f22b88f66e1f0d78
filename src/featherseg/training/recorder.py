"""The callback that records a run after each step: validation, kept weights, metrics, checkpoint.

One place decides what happens after a step, so the next resume repairs a kill between any two
writes.
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
from featherseg.training.pictures import draw_predictions, is_drawn


class AtomicCheckpoints(TorchCheckpointIO):
    """Lightning's checkpoints, written atomically and synced, and read without running code."""

    def save_checkpoint(
        self, checkpoint: dict[str, Any], path: Any, storage_options: Any = None
    ) -> None:
        """Replace the file in one step; torch hides a full disk, so it is written from memory."""
        content = io.BytesIO()
        torch.save(checkpoint, content)
        write_bytes(Path(path), content.getvalue())

    def load_checkpoint(self, path: Any, *args: Any, **options: Any) -> dict[str, Any]:
        """Read tensors and plain values only, which Lightning's `fit` can ask for since 2.6."""
        return torch.load(path, map_location="cpu", weights_only=True)


class Recorder(Checkpoint):
    """Writes the run folder while it trains; its state is kept in the checkpoint.

    steps, every: Steps of the whole run, and between validations.
    ends: See `Request.ends`.
    """

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
        self.steps, self.every = steps, every
        self.moment = math.inf if ends is None or callable(ends) else ends
        self.is_last = ends if callable(ends) else lambda step: time.monotonic() >= self.moment
        self.best = -math.inf  # score
        self.stale = 0  # validations since the best one
        self.finished = False
        undo = run.recipe.loss.undo_class_weights
        self.undone = 0.0 if undo == "auto" else undo  # share of the class weights
        self.saved_at, self.saved_step = time.monotonic(), 0
        self.stop_requested = False  # by a signal

    def state_dict(self) -> dict[str, Any]:
        """Return the state that a resumed run continues from."""
        return {
            "best": self.best,
            "stale": self.stale,
            "finished": self.finished,
            "undone": self.undone,
        }

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Restore that state."""
        self.best, self.stale = state_dict["best"], state_dict["stale"]
        self.finished = state_dict["finished"]
        self.undone = state_dict.get("undone", 0.0)  # old runs undid nothing

    def on_train_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Start the clock of the checkpoints, and let signals stop the run only after a saved step.

        The signals are SIGTERM, Ctrl-C and, in a SLURM job, SIGUSR1, its warning before the job
        ends. These handlers replace Lightning's, which stop after any batch, saved or not;
        Lightning restores those from before it. A program's own handler of Ctrl-C stays.
        """
        self.saved_at, self.saved_step = time.monotonic(), trainer.global_step
        self.finished = False  # a finished run that continues has more steps now
        if threading.current_thread() is threading.main_thread():
            signals = [signal.SIGTERM, *([signal.SIGUSR1] if SLURMEnvironment.detect() else [])]
            if signal.getsignal(signal.SIGINT) is signal.default_int_handler:
                signals.append(signal.SIGINT)
            for number in signals:
                signal.signal(number, self._request_stop)

    def _request_stop(self, number: int, frame: FrameType | None) -> None:
        if self.stop_requested and number == signal.SIGINT:  # the second Ctrl-C stops at once
            signal.default_int_handler(number, frame)
        self.stop_requested = True

    def on_train_batch_end(
        self,
        trainer: pl.Trainer,
        pl_module: pl.LightningModule,
        outputs: Any,
        batch: Any,
        batch_idx: int,
    ) -> None:
        """After an optimiser step: validate if due, log, save if due; not while accumulating."""
        assert isinstance(pl_module, SegmentationModule)
        if pl_module.micro_batch % self.settings.accumulate:
            return
        step = trainer.global_step
        record = {"step": step, **pl_module.take_record()}
        now = time.monotonic()
        late = now - self.saved_at >= self.settings.checkpoint_seconds
        last = step == self.steps or self.is_last(step)
        # Rank 0 decides for all
        late, stop, last = trainer.strategy.broadcast((late, self.stop_requested, last))
        if last and step < self.steps and now >= self.moment:
            self.reporter.message(
                f"the time is over after step {step} of {self.steps}: steps took longer than when "
                "they were timed. The weights of this step are scored"
            )
        validate = step % self.every == 0 or last
        save = validate or late or stop
        if save:
            pl_module.check_finite(step)
        if validate:
            record |= trainer.strategy.broadcast(
                self._validate(pl_module, step, last) if trainer.is_global_zero else {}
            )
            # A signal may have come while images were scored
            stop = trainer.strategy.broadcast(stop or self.stop_requested)
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

    def _validate(self, module: SegmentationModule, step: int, last: bool) -> dict[str, Any]:
        """Score the weights as `featherseg evaluate` does, keep them if due, return the record.

        If undoing another share of the class weights is better, that share is undone and scored.
        """
        trained = {key: value.detach().clone() for key, value in module.kept_state().items()}
        state, record, better, runtime = self._score(trained, module.device)
        if better != self.undone:
            self.undone, before = better, record
            state, record, _, runtime = self._score(trained, module.device)
            scores = (
                f"mIoU {percent(record['val_miou'])} % in place of {percent(before['val_miou'])}"
            )
            self.reporter.message(
                f"{better:.0%} of the class weights are undone in the kept weights: {scores}"
            )
        if self.settings.keep == "last" or validation_score(record) > self.best:
            save_weights(self.run.path, state)
        if is_drawn(step // self.every, last):
            draw_predictions(self.run.path, runtime, self.val, step)
        return record

    def _score(
        self, trained: dict[str, Tensor], device: torch.device
    ) -> tuple[dict[str, Tensor], dict[str, Any], float, TorchRuntime]:
        """Return (weights with the share undone, their scores, the best share, their model)."""
        recipe, model = self.run.recipe, self.run.untrained_model()
        state, better = trained, self.undone
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
            confusion, counts = score_shares(runtime, self.val, weights, self.undone, progress)
            better = best_share(counts, clusters_of(self.val.keys, groups_of(self.val)))
            record["class_weights_undone"] = self.undone
        else:
            scores = evaluate(runtime, self.val, boundary=False, progress=progress)
            confusion = Confusion(len(scores.classes), scores.confusion, scores.void)
            objects = scores.panoptic or {}
            record |= {f"val_{key}": number(objects[key]) for key in ("pq", "sq", "rq") if objects}
        record |= {
            "val_miou": number(confusion.miou()),
            "val_pixel_accuracy": number(confusion.pixel_accuracy()),
            "val_iou": [number(value) for value in confusion.iou()],
        }
        return state, record, better, runtime

    def _show_scoring(self, doing: str, done: int, total: int | None) -> None:
        stopping = (
            "stopping after this validation, or at once by another Ctrl-C: "
            if self.stop_requested
            else ""
        )
        self.reporter.progress(f"{stopping}{doing}", done, total)

    def _judge(self, record: dict[str, Any], last: bool) -> None:
        """Note whether the score is the best so far, and whether the run is over; on every rank."""
        if validation_score(record) > self.best:
            self.best, self.stale = validation_score(record), 0
        else:
            self.stale += 1
        out_of_patience = (
            self.settings.patience is not None and self.stale >= self.settings.patience
        )
        self.finished = last or out_of_patience
