"""Take the steps of a training: Lightning's Trainer drives one flat run of optimiser steps.

It has no epochs of its own, because only so a run that was killed and resumed ends bit-identical
(docs/decisions/0001).
"""

import os
import re
import signal
import warnings
from datetime import timedelta
from pathlib import Path
from typing import Any

import lightning.pytorch as pl
import torch
from lightning.fabric.plugins.environments import SLURMEnvironment
from lightning.pytorch.strategies import DDPStrategy

from featherseg.core.errors import DataError, TrainingError
from featherseg.core.machine import pick_device, this_rank
from featherseg.core.types import Reporter
from featherseg.data.cache.prepared import loss_of
from featherseg.kernels import native
from featherseg.recipe.tables import Recipe
from featherseg.reports.card import write_card
from featherseg.runs.run import BATCH, CHECKPOINT, CURVE, RESOLVED
from featherseg.training.batches import open_batches
from featherseg.training.checkpointing import checkpoint_blocks
from featherseg.training.finish import note_memory, note_prepared_data
from featherseg.training.loss import build_loss
from featherseg.training.memory import peak_held
from featherseg.training.module import SegmentationModule
from featherseg.training.open import Training
from featherseg.training.pictures import write_beginning
from featherseg.training.process_norms import synchronise_norms
from featherseg.training.recorder import AtomicCheckpoints, Recorder
from featherseg.training.request import Request
from featherseg.training.trackers import Tracker, quiet

PRECISIONS: dict[str, Any] = {"fp32": "32-true", "bf16": "bf16-mixed", "fp16": "16-mixed"}
"""Lightning's names of the precisions."""

ADVERTS = [
    f"lightning.pytorch.{part}"
    for part in ("utilities.rank_zero", "trainer.connectors.checkpoint_connector")
]
"""Loggers of Lightning that advertise, or print a line per checkpoint."""


def run_training(
    training: Training, reporter: Reporter, request: Request, *, resume_from: Path | None
) -> None:
    """Build loss, loader and optimiser, and take every step that is left."""
    run, recipe, model = training.run, training.recipe, training.model
    is_first = not this_rank()
    if is_first:
        if pick_device(recipe.train.device).type == "cpu" and native() is None:
            reporter.message(
                "the compiled loops are missing, so steps take longer: featherseg doctor says why"
            )
        note_prepared_data(run.path, loss_of(training.train), reporter.message)
        (run.path / CURVE).unlink(missing_ok=True)  # of a finished run that was given more steps
    if recipe.train.checkpoint_activations:
        checkpoint_blocks(model)

    # What a step needs
    batches = open_batches(
        recipe,
        training.train,
        total=training.steps * recipe.train.accumulate,
        panoptic=model.panoptic,
        augment=training.objects.augment,
        sampling=training.sampling,
        image_range=model.image_range,
    )
    loss = build_loss(run.info.class_weights, recipe, model, training.objects.loss)
    module = SegmentationModule(
        model, loss, recipe.train, steps=training.steps, make_loader=batches
    )
    recorder = Recorder(
        run,
        training.val,
        recipe.train,
        steps=training.steps,
        every=training.validate_every,
        ends=training.ends if request.ends is None else request.ends,
        reporter=reporter,
    )
    trackers = [
        Tracker(name, run, training.steps, reporter.message, request.group)
        for name in recipe.train.loggers
    ]

    # All steps
    again = f"featherseg train --resume --out {run.path}"
    if request.first:
        again = f"the same command with --resume --out {run.path.parent}"
    before = peak_held(recipe)
    is_done = False
    try:
        for tracker in trackers:
            tracker.begin()
        if is_first and resume_from is None:
            reporter.message("drawing the first batch")
            write_beginning(run.path, training.train, batches(0, 0, 1), model.image_range)
            for tracker in trackers:
                tracker.log_batch(run.path / BATCH)
        _run_trainer(module, recorder, recipe, again, trackers, resume_from=resume_from)
        if trackers and is_first:
            write_card(run)  # the trackers upload it
        is_done = True
    finally:
        for tracker in trackers:
            tracker.finish(done=is_done)
    if is_first:
        note_memory(run.path, training.estimated_gb, before, peak_held(recipe), reporter.message)


def _run_trainer(
    module: SegmentationModule,
    recorder: Recorder,
    recipe: Recipe,
    again: str,
    trackers: list[Tracker],
    *,
    resume_from: Path | None,
) -> None:
    """Run Lightning's Trainer; `again` is the command that continues a stopped training.

    Raises KeyboardInterrupt after a signal, DataError for an image that cannot be read,
    TrainingError if another process of a distributed training ended.
    """
    settings = recipe.train
    device, processes = pick_device(settings.device), settings.devices * settings.nodes
    # torchrun with one process is DDP as well
    distributed = processes > 1 or "TORCHELASTIC_RUN_ID" in os.environ
    if settings.sync_bn and processes > 1:
        synchronise_norms(module, module.model.local_norms, device.type)
    with warnings.catch_warnings(), quiet(ADVERTS):
        warnings.filterwarnings("ignore", module="lightning")
        warnings.filterwarnings("ignore", message=".*LeafSpec.*")
        trainer = pl.Trainer(
            max_steps=module.steps,
            max_epochs=-1,
            accumulate_grad_batches=settings.accumulate,
            gradient_clip_val=settings.clip_norm or None,  # of the step's whole unscaled gradient
            accelerator={"cuda": "gpu"}.get(device.type, device.type),
            devices=[device.index] if device.index is not None else settings.devices,
            num_nodes=settings.nodes,
            strategy=DDPStrategy(timeout=timedelta(seconds=settings.rank_seconds))
            if distributed
            else "auto",
            precision=PRECISIONS[settings.precision],
            callbacks=[recorder],
            plugins=[AtomicCheckpoints(), *_slurm()],
            # A file: Lightning would load SLURM's checkpoints from a folder
            default_root_dir=recorder.run.path / RESOLVED,
            logger=trackers or False,
            use_distributed_sampler=False,
            limit_val_batches=0,
            num_sanity_val_steps=0,
            enable_progress_bar=False,
            enable_model_summary=False,
        )
        is_over = False
        try:
            trainer.fit(module, ckpt_path=resume_from)
            is_over = True
        except SystemExit:  # Lightning's answer to Ctrl-C, and the recorder's to a signal
            if not this_rank():
                recorder.reporter.message(_stopped(recorder, trainer.global_step, again))
            raise KeyboardInterrupt from None
        except DataError as error:  # torch puts the traceback of a loader's worker before the text
            raise DataError(str(error).rpartition("DataError: ")[2].strip()) from error
        except (RuntimeError, torch.distributed.DistError) as error:
            if processes == 1 or not re.search(
                "gloo|nccl|timed? ?out|connection", str(error), re.IGNORECASE
            ):
                raise
            raise TrainingError(
                f"another of the {processes} processes of this training has ended, or did not "
                f"answer for {settings.rank_seconds:g} s (train.rank_seconds): "
                f"{str(error).splitlines()[0][:200]}. Continue with: "
                f"{again}"
            ) from error
        finally:
            # The processes that Lightning started on this machine end with this one
            launcher = trainer.strategy.launcher
            if not is_over and launcher is not None and hasattr(launcher, "kill"):
                launcher.kill(getattr(signal, "SIGKILL", signal.SIGTERM))
            # Else what this process computes alone would wait for the others
            if distributed and torch.distributed.is_initialized():
                torch.distributed.destroy_process_group()


def _stopped(recorder: Recorder, step: int, again: str) -> str:
    """Return the message of a training that was stopped at `step`."""
    saved = (recorder.run.path / CHECKPOINT).is_file()
    kept = f"step {recorder.saved_step}" if saved else "the start"
    lost = "" if recorder.saved_step == step else f"; it goes on from {kept}"
    return f"stopped at step {step}{lost}. Continue with: {again}"


def _slurm() -> list[SLURMEnvironment]:
    """Return SLURM's environment without Lightning's own checkpoint and new job on its signals."""
    return [SLURMEnvironment(auto_requeue=False)] if SLURMEnvironment.detect() else []
