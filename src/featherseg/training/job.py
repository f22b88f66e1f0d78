"""`featherseg train`: from a request to a finished run folder, and on again after a kill.

Lightning's Trainer drives one flat run of `steps` optimiser steps (no epochs of its own), because only so a run that
was killed and resumed ends bit-identical (docs/decisions/0001).
"""

import os
import re
import shutil
import signal
import time
import warnings
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import replace
from datetime import timedelta
from pathlib import Path
from typing import Any

import lightning.pytorch as pl
import torch
from lightning.fabric.plugins.environments import SLURMEnvironment
from lightning.pytorch.strategies import DDPStrategy

from featherseg.core.errors import DataError, DataNotFound, RunError, TrainingError
from featherseg.core.files import (
    LOCK,
    append_line,
    check_folder,
    locked,
    read_lines,
    refuse_links,
    remove_tree,
    write_text,
)
from featherseg.core.machine import pick_device
from featherseg.core.notebook import percent
from featherseg.core.wording import WarningText
from featherseg.data.datasets.statistics import largest_size
from featherseg.kernels import native
from featherseg.layers.normalise import FULL_RANGE
from featherseg.recipe.tables import Recipe
from featherseg.reports.card import write_card
from featherseg.reports.charts import curve_svg
from featherseg.runs.run import (
    CHECKPOINT,
    CURVE,
    DATA,
    METRICS,
    RESOLVED,
    Run,
    open_run,
    write_info,
)
from featherseg.training.batches import open_batches, open_class_uniform, open_rare_classes
from featherseg.training.checkpointing import checkpoint_blocks
from featherseg.training.length import count_steps
from featherseg.training.loss import build_loss, keep_supervised_heads
from featherseg.training.memory import check_memory, estimate_memory, peak_held
from featherseg.training.module import SegmentationModule
from featherseg.training.prepare import (
    BEGINNINGS,
    Request,
    Training,
    begin,
    check_machine,
    new_model,
    note_loss,
    note_memory,
    open_data,
    refuse_existing,
    resolve_precision,
)
from featherseg.training.recorder import AtomicCheckpoints, Recorder, Reporter, judged
from featherseg.training.resume import check_same_data, data_moved, resumed_recipe
from featherseg.training.teaching import open_teaching
from featherseg.training.trackers import TENSORBOARD, WANDB, Tracker, quiet

PRECISIONS: dict[str, Any] = {"fp32": "32-true", "bf16": "bf16-mixed", "fp16": "16-mixed"}
RANK_WAIT_SECONDS = 600
LENGTH = {"steps", "decay_steps"}
"""Keys of [train] that a run with a stable schedule may have larger when it goes on."""
ADVERTS = [
    f"lightning.pytorch.{part}"
    for part in ("utilities.rank_zero", "trainer.connectors.checkpoint_connector")
]
"""Loggers of Lightning that advertise, and say a line a checkpoint."""


@contextmanager
def torch_as_it_was() -> Iterator[None]:
    """What a training sets in torch for the whole process is put back: random state, deterministic algorithms."""
    deterministic = torch.are_deterministic_algorithms_enabled()
    warn_only = torch.is_deterministic_algorithms_warn_only_enabled()
    benchmark = torch.backends.cudnn.benchmark
    try:
        with torch.random.fork_rng(range(torch.cuda.device_count())):
            yield
    finally:
        torch.use_deterministic_algorithms(deterministic, warn_only=warn_only)
        torch.backends.cudnn.benchmark = benchmark


def train(request: Request, out: Path, reporter: Reporter, *, resume: bool = False) -> Run:
    """Train as asked and write the run folder `out`; with `resume` go on with what is there, as it was begun.

    Raises FeathersegError kinds before anything is written where the request cannot be right, RunError where `out`
    exists (without `resume`) or another process trains in it.
    """
    if this_rank():
        _wait_for_rank_zero(out, request)
        return _continue(out, request, reporter, resume=resume)
    with _locked(out, resume):
        if (out / RESOLVED).is_file():
            run = _continue(out, request, reporter, resume=resume)
        else:
            if resume:
                reporter.message(f"there is no run at {out} yet: starting a new one")
            try:
                training = begin(request, out, reporter.message)
                if resume:
                    _note_resume(training, None, reporter)
                run = _run(training, reporter, request, resume_from=None)
            except Exception:
                _remove_unbegun(out)
                raise
        write_text(run.path / CURVE, curve_svg(run.metrics()))
        write_card(run)
        if hint := overfitting(run.metrics(), run.recipe.train.keep):
            reporter.message(hint)
        reporter.message(f"the run is in {out}; score it with: featherseg evaluate {out}")
        return run


def overfitting(metrics: dict[int, dict[str, Any]], keep: str) -> str | None:
    """What to try where validation fell by more than a point after its best; None where it did not.

    metrics: records by step, as metrics.jsonl has them; keep: which weights were kept, "best" or "last".
    """
    scores = {
        step: judged(record)
        for step, record in metrics.items()
        if record.get("val_miou") is not None
    }
    if not scores:
        return None
    best, last = max(scores, key=lambda step: scores[step]), max(scores)
    if scores[best] - scores[last] <= 0.01:
        return None
    name = "PQ" if metrics[best].get("val_pq") is not None else "mIoU"
    text = f"validation {name} was {percent(scores[best])} % at step {best} and {percent(scores[last])} % at the end: "
    kept = (
        "the weights of the best were kept"
        if keep == "best"
        else "the last weights were kept (train.keep=best)"
    )
    return (
        f"{text}the model may be learning its training images by heart, or the validation images "
        f"be too few to tell. More images or fewer steps may help; {kept}"
    )


def this_rank() -> int:
    """This process's number in a distributed run (torchrun, SLURM, or Lightning's own children), 0 alone."""
    return next(
        (
            int(os.environ[name])
            for name in ("RANK", "SLURM_PROCID", "LOCAL_RANK")
            if name in os.environ
        ),
        0,
    )


@contextmanager
def _locked(out: Path, resume: bool) -> Iterator[None]:
    """Only one process may train in a folder. The lock goes with the process at once, however it ends."""
    refuse_existing(out, resume=resume)
    new = not out.exists()
    check_folder(out)
    out.mkdir(parents=True, exist_ok=True)
    refuse_links(
        out, METRICS, TENSORBOARD, *([WANDB] if (out / WANDB).is_symlink() else [])
    )  # which holds its own
    with locked(
        out / LOCK, RunError(f"another process is training in {out}. Wait for it or stop it first.")
    ):
        try:
            yield
        finally:
            if (
                new and not (out / RESOLVED).is_file()
            ):  # refused before it began: leave nothing behind
                shutil.rmtree(out, ignore_errors=True)  # Windows keeps the lock until it is let go


def _remove_unbegun(out: Path) -> None:
    """Of a run that failed before its first step was taken nothing stays: it would be in the mended command's way."""
    if (out / CHECKPOINT).is_file() or any(
        isinstance(r.get("step"), int) for r in read_lines(out / METRICS)
    ):
        return
    for name in (RESOLVED, *BEGINNINGS):  # first that which makes it a run
        remove_tree(out / name)


def _wait_for_rank_zero(out: Path, request: Request) -> None:
    """The other processes of a distributed run start when the first has prepared the folder.

    Once it has begun, that may take as long as it likes: every image and mask may have to be looked at first.
    """
    begin = time.monotonic()
    while not (out / RESOLVED).is_file():
        if time.monotonic() - begin > RANK_WAIT_SECONDS and not (out / LOCK).is_file():
            raise RunError(f"rank 0 did not begin a run at {out} within {RANK_WAIT_SECONDS} s.")
        time.sleep(0.5)


def _continue(out: Path, request: Request, reporter: Reporter, *, resume: bool) -> Run:
    """Open what a run folder says of its training, and go on from its last checkpoint, or from the start."""
    run = open_run(out, request.objects.model)
    if run.imported:
        raise RunError(
            f"{out} was imported from {run.imported}, so there is no training to resume. To continue training these "
            f"weights, start a new run from them: featherseg train {run.recipe.model.name} --init {out} --out NEW"
        )
    recipe = resumed_recipe(run, request) if resume else run.recipe

    # Nothing is left to do where its last checkpoint says so, unless it was given more steps since
    checkpoint, length = _read_checkpoint(out / CHECKPOINT), recipe.train.model_dump(include=LENGTH)
    longer = (
        recipe.train.schedule == "stable"
        and recipe.train.patience is None
        and isinstance(recipe.train.steps, int)
    )
    finished = checkpoint and checkpoint["callbacks"]["Recorder"]["finished"]
    if checkpoint and finished and not (longer and checkpoint["global_step"] < length["steps"]):
        if recipe.train.device != run.recipe.train.device:
            check_machine(recipe)
        moved = data_moved(recipe, run)
        if resume and (moved or (out / DATA).is_file()):
            with suppress(*(() if moved else (DataNotFound,))):  # it needs them no longer
                check_same_data(run, recipe, open_data(recipe, request.objects), reporter.message)
        reporter.message(
            f"{out} is finished: {checkpoint['global_step']} steps, nothing left to do"
        )
        return _as_it_is_here(run, recipe)

    # Data and model: with a checkpoint Lightning brings the weights, else the model is as it was begun
    check_machine(recipe)
    train_data, val_data = open_data(recipe, request.objects)
    if checkpoint:
        model = run.untrained_model()
    else:
        init = run.info.loaded.get("init")
        model, _ = new_model(
            recipe, run.classes, run.info.channels, init, lambda text: None, request.objects.model
        )
        model.image_range = run.info.image_range or FULL_RANGE
    training = Training(run, recipe, train_data, val_data, model, request.objects)

    # The first process writes down that it goes on, on the data that it was begun with
    if resume and not this_rank():
        check_same_data(run, recipe, (train_data, val_data), reporter.message)
        resolve_precision(recipe, reporter.message)  # it may be another machine
        _note_resume(training, checkpoint, reporter)
        estimate = estimate_memory(
            model, recipe, largest_size(val_data), own_loss=request.objects.loss is not None
        )
        estimated = check_memory(estimate, recipe, reporter.message)
        training = replace(training, estimated_gb=estimated)
        if length != run.recipe.train.model_dump(include=LENGTH):
            kept = run.recipe.model_copy(
                update={"train": run.recipe.train.model_copy(update=length)}
            )
            training = replace(
                training, run=replace(run, info=run.info.model_copy(update={"recipe": kept}))
            )
            write_info(out, training.run.info)
            reporter.message(f"it goes on to step {recipe.train.steps}")
    own_data = request.objects.data is not None
    teaching = open_teaching(
        recipe, run.info.teachers, train_data, model, out, reporter.message, own_data=own_data
    )
    training = replace(training, teaching=teaching)
    run = _run(training, reporter, request, resume_from=out / CHECKPOINT if checkpoint else None)
    return _as_it_is_here(run, recipe)


def _as_it_is_here(run: Run, recipe: Recipe) -> Run:
    """The run with its data where they lie now and the device of now, for whoever scores it; its record stays."""
    data = run.recipe.data.model_copy(update={"name": recipe.data.name, "root": recipe.data.root})
    train = run.recipe.train.model_copy(update={"device": recipe.train.device})
    moved = run.recipe.model_copy(update={"data": data, "train": train})
    return replace(run, info=run.info.model_copy(update={"recipe": moved}))


def _note_resume(training: Training, checkpoint: dict[str, Any] | None, reporter: Reporter) -> None:
    """Write down and say from which step it goes on, and where the machine is another than it was begun on."""
    step = checkpoint["global_step"] if checkpoint else 0
    append_line(training.run.path / METRICS, {"resumed_from": step})
    reporter.message(
        f"resuming from step {step}" if checkpoint else "no checkpoint yet: starting from step 0"
    )
    info, device, threads = (
        training.run.info,
        pick_device(training.recipe.train.device).type,
        torch.get_num_threads(),
    )
    if info.device not in (None, device):
        reporter.message(
            WarningText(
                f"begun on {info.device}, resumed on {device}: the result may differ in the last bits"
            )
        )
    begun_with, now = (
        recipe.train.devices * recipe.train.nodes
        for recipe in (training.run.recipe, training.recipe)
    )
    if begun_with != now:
        reporter.message(
            f"begun with {begun_with} of devices x nodes, resumed with {now}: a step has the same images; its loss may "
            "differ in the last bits, and more by batch norms, which on a CPU see the images of one process alone, and "
            "by terms that are means of each process's (Lovasz, Dice, boundaries, the pixel contrast, distillation)"
        )
    if info.threads != threads:
        threads_then = f"begun with {info.threads} threads, resumed with {threads}"
        hint = f"set OMP_NUM_THREADS={info.threads} to avoid it"
        reporter.message(
            WarningText(f"{threads_then}: the result may differ in the last bits ({hint})")
        )


def _run(
    training: Training, reporter: Reporter, request: Request, *, resume_from: Path | None
) -> Run:
    """Make module, loss and loader of what was opened, and let Lightning take every step."""
    run, recipe, model = training.run, training.recipe, training.model
    if not this_rank():
        if pick_device(recipe.train.device).type == "cpu" and native() is None:
            reporter.message(
                "without the compiled loops a step takes longer: featherseg doctor says what is missing"
            )
        note_loss(run.path, training.train, reporter.message)
        (run.path / CURVE).unlink(missing_ok=True)  # of a finished run that was given more steps
    keep_supervised_heads(model, recipe)
    if recipe.train.checkpoint_activations:
        checkpoint_blocks(model)
    steps, every = count_steps(recipe, len(training.train))
    batches = open_batches(
        recipe,
        training.train,
        total=steps * recipe.train.accumulate,
        panoptic=model.panoptic,
        augment=training.objects.augment,
        class_uniform=open_class_uniform(run.path, recipe, training.train),
        rare=open_rare_classes(run.path, recipe, training.train),
        teaching=training.teaching,
        image_range=model.image_range,
    )
    loss = build_loss(run.info.class_weights, recipe, model, training.objects.loss)
    module = SegmentationModule(model, loss, recipe.train, steps=steps, make_loader=batches)
    recorder = Recorder(
        run,
        training.val,
        recipe.train,
        steps=steps,
        every=every,
        ends=request.ends,
        reporter=reporter,
    )
    before = peak_held(recipe)
    trackers = [
        Tracker(name, run, steps, reporter.message, request.group) for name in recipe.train.loggers
    ]
    done = False
    try:
        for tracker in trackers:
            tracker.begin()
        _run_trainer(module, recorder, recipe, run.path, trackers, resume_from=resume_from)
        if trackers and not this_rank():
            write_card(run)  # which goes along
        done = True
    finally:
        for tracker in trackers:
            tracker.finish(done=done)
    if not this_rank():
        note_memory(training, before, peak_held(recipe), reporter.message)
    return run


def _run_trainer(
    module: SegmentationModule,
    recorder: Recorder,
    recipe: Recipe,
    out: Path,
    trackers: list[Tracker],
    *,
    resume_from: Path | None,
) -> None:
    settings = recipe.train
    device, processes = pick_device(settings.device), settings.devices * settings.nodes
    ddp = (
        processes > 1 or "TORCHELASTIC_RUN_ID" in os.environ
    )  # torchrun with one process is DDP as well
    with warnings.catch_warnings(), quiet(ADVERTS):
        warnings.filterwarnings("ignore", module="lightning")
        warnings.filterwarnings("ignore", message=".*LeafSpec.*")
        trainer = pl.Trainer(
            max_steps=module.steps,
            max_epochs=-1,
            accumulate_grad_batches=settings.accumulate,
            gradient_clip_val=settings.clip_norm
            or None,  # of the step's whole gradient, fp16's scale taken off
            accelerator={"cuda": "gpu"}.get(device.type, device.type),
            devices=[device.index] if device.index is not None else settings.devices,
            num_nodes=settings.nodes,
            strategy=DDPStrategy(timeout=timedelta(seconds=settings.rank_seconds))
            if ddp
            else "auto",
            sync_batchnorm=settings.sync_bn and device.type == "cuda" and processes > 1,
            precision=PRECISIONS[settings.precision],
            callbacks=[recorder],
            plugins=[AtomicCheckpoints(), *_slurm()],
            default_root_dir=out
            / RESOLVED,  # a file: of a folder, SLURM's checkpoints in it would be loaded
            logger=trackers or False,
            use_distributed_sampler=False,
            limit_val_batches=0,
            num_sanity_val_steps=0,
            enable_progress_bar=False,
            enable_model_summary=False,
        )
        ended = False
        try:
            trainer.fit(module, ckpt_path=resume_from, weights_only=True)
            ended = True
        except SystemExit:  # Lightning's answer to Ctrl-C, and the recorder's to a signal
            kept = f"step {recorder.saved_step}" if (out / CHECKPOINT).is_file() else "the start"
            again = (
                "" if recorder.saved_step == trainer.global_step else f"; it goes on from {kept}"
            )
            if not this_rank():
                goes_on = f"Continue with: featherseg train --resume --out {out}"
                recorder.reporter.message(
                    f"stopped at step {trainer.global_step}{again}. {goes_on}"
                )
            raise KeyboardInterrupt from None
        except (
            DataError
        ) as error:  # of a loader worker: torch puts the worker's traceback before the sentence
            raise DataError(str(error).rpartition("DataError: ")[2].strip()) from error
        except (RuntimeError, torch.distributed.DistError) as error:
            if processes == 1 or not re.search(
                "gloo|nccl|timed? ?out|connection", str(error), re.IGNORECASE
            ):
                raise
            raise TrainingError(
                f"another of the {processes} processes of this training has ended, or did not answer for "
                f"{settings.rank_seconds:g} s (train.rank_seconds): {str(error).splitlines()[0][:200]}. Continue with: "
                f"featherseg train --resume --out {out}"
            ) from error
        finally:
            launcher = (
                trainer.strategy.launcher
            )  # of processes on this machine that nobody else has started
            if not ended and launcher is not None and hasattr(launcher, "kill"):
                launcher.kill(getattr(signal, "SIGKILL", signal.SIGTERM))


def _slurm() -> list[SLURMEnvironment]:
    """SLURM's processes without what Lightning does on its signals: a checkpoint of its own, and a new job."""
    return [SLURMEnvironment(auto_requeue=False)] if SLURMEnvironment.detect() else []


def _read_checkpoint(path: Path) -> dict[str, Any] | None:
    if not path.is_file():
        return None
    try:
        checkpoint = torch.load(path, map_location="cpu", weights_only=True, mmap=True)
        missing = {"global_step", "micro_batch", "average", "callbacks"} - set(checkpoint)
    except Exception as error:  # a dozen kinds for a file that is damaged
        raise RunError(
            f"{path} cannot be read ({type(error).__name__}: {str(error).splitlines()[0]}). Delete it to restart the "
            f"run from step 0; {path.parent}/weights.safetensors stays as it is."
        ) from error
    if missing:
        raise RunError(
            f"{path} is not a featherseg checkpoint: it has no {', '.join(sorted(missing))}."
        )
    return checkpoint
