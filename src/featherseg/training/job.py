"""`featherseg train`: resolve -> check -> open -> run -> finish, and on again after a kill."""

import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch

from featherseg.core.errors import ConfigError, DataNotFound, RunError
from featherseg.core.files import append_line
from featherseg.core.machine import computes_bf16, pick_device, this_rank
from featherseg.core.types import OnMessage, Reporter, SegmentationData
from featherseg.core.wording import WarningText
from featherseg.data.datasets.statistics import largest_size, typical_size
from featherseg.data.datasets.unlabelled import PseudoMasks
from featherseg.layers.normalise import FULL_RANGE
from featherseg.recipe.tables import Recipe
from featherseg.runs.run import CHECKPOINT, DATA, METRICS, RESOLVED, Run, open_run, write_info
from featherseg.training.batches import UNIFORM, open_sampling
from featherseg.training.check import (
    check_machine,
    check_patience,
    check_request,
    check_schedule,
)
from featherseg.training.finish import finish
from featherseg.training.folder import (
    lock_folder,
    refuse_existing,
    remove_unbegun,
    wait_for_rank_zero,
)
from featherseg.training.loss import keep_supervised_heads
from featherseg.training.memory import check_memory, estimate_memory
from featherseg.training.open import (
    Inputs,
    Training,
    begin_run,
    open_data,
    open_model,
    open_unlabelled,
    record_data,
    warn_of_scores,
)
from featherseg.training.request import FIRST_SHARE, Request
from featherseg.training.resolve import (
    DataFacts,
    Facts,
    MachineFacts,
    Speed,
    TooFewMinutes,
    TrainingPlan,
    count_steps,
    emulation_warnings,
    latest_end,
    length_messages,
    resolve,
    resolve_batch_size,
    resolve_settings,
    settings_messages,
)
from featherseg.training.resume import (
    LENGTH,
    check_same_data,
    data_moved,
    read_checkpoint,
    resumed_recipe,
)
from featherseg.training.self_training import FIRST, LABELLING_SHARE, open_pseudo_masks
from featherseg.training.timing import estimate_step, measure_speed, time_validation


def train(request: Request, out: Path, reporter: Reporter, *, resume: bool = False) -> Run:
    """Train as requested and write the run folder `out`; with `resume` continue the run in it.

    With `data.unlabelled` a first training comes before it, as `self_training` says.

    Raises:
        FeathersegError: the request cannot be right; nothing was written.
        RunError: `out` exists (without `resume`), or another process trains in it.
    """
    if this_rank():
        if request.recipe is not None and not (out / RESOLVED).is_file():
            _train_first(request, out, reporter)
        wait_for_rank_zero(out)
        return _continue(out, request, reporter, resume=resume)
    with lock_folder(out, resume=resume):
        if (out / RESOLVED).is_file():
            run = _continue(out, request, reporter, resume=resume)
        else:
            if resume and not (out / FIRST).is_dir():
                reporter.message(f"there is no run at {out} yet: starting a new one")
            try:
                first = _train_first(request, out, reporter)
                training = _begin(request, out, reporter, first)
                if resume:
                    _note_resume(training, None, reporter.message)
                run = _run(training, reporter, request, resume_from=None)
            except Exception:
                remove_unbegun(out)
                raise
        finish(run, reporter.message)
        return run


def _train_first(request: Request, out: Path, reporter: Reporter) -> Run | None:
    """Return the finished first run of a training with images without masks, None without them."""
    if request.recipe is None and (out / FIRST / RESOLVED).is_file():
        raise ConfigError(
            f"{out} has only its first training so far, on the masks alone. Give the whole command "
            "again, with --resume."
        )
    if request.first or request.read()[1].data.unlabelled is None:
        return None
    if request.labeller:
        return open_run(request.labeller)
    if not this_rank():
        check_request(request, lambda text: None)  # before the long work
        reporter.message(
            f"two trainings: the first, {out / FIRST}, learns from the masks alone and labels the "
            "other images; the second learns from all"
        )
    begun = (out / FIRST / RESOLVED).is_file()
    try:
        return train(replace(request, first=True), out / FIRST, reporter, resume=begun)
    except TooFewMinutes as error:
        raise TooFewMinutes(*error.of_one, share=FIRST_SHARE) from None


def plan_training(request: Request, out: Path, on_message: OnMessage) -> TrainingPlan:
    """Resolve and check a request as `train` does, and write nothing.

    With `train.minutes` the number of steps is an estimate: a training measures its own steps, and
    counts the time for class weights and pseudo-masks. Raises what `train` raises.
    """
    refuse_existing(out)
    inputs = check_request(request, on_message)
    facts, recipe, memory_gb = resolve_but_length(inputs, on_message)

    # The times of a step and of a validation, on copies of the untrained model
    model, train, val = inputs.model, inputs.train, inputs.val
    step_seconds = estimate_step(recipe, model, train, None, inputs.objects, UNIFORM)
    if step_seconds is None and recipe.train.minutes and recipe.train.steps is None:
        raise ConfigError(
            "the steps of train.minutes cannot be planned: the model takes no small images to "
            "time. Train without --dry-run."
        )
    opening, image_seconds = time_validation(model, recipe, val)
    validation_seconds = opening + len(val) * image_seconds
    elapsed = time.monotonic() - request.began
    if inputs.unlabelled:
        elapsed += 60 * (FIRST_SHARE + LABELLING_SHARE) * (inputs.recipe.train.minutes or 0)
    facts = replace(facts, speed=Speed(step_seconds, validation_seconds, elapsed))

    recipe = resolve(inputs.recipe, facts)
    check_schedule(recipe, len(train))
    steps, every = count_steps(recipe, len(train))
    validations = -(-steps // every)
    minutes = None
    if step_seconds is not None:
        minutes = (steps * step_seconds + validations * validation_seconds) / 60
    return TrainingPlan(recipe, steps, validations, memory_gb, minutes, bool(inputs.unlabelled))


def resolve_but_length(inputs: Inputs, on_message: OnMessage) -> tuple[Facts, Recipe, float | None]:
    """Return (facts with the estimate of memory, recipe resolved but for its length, memory in GB).

    Raises ConfigError if a step does not fit into the memory.
    """
    objects = inputs.objects
    # Keys of datasets given as objects may be mere numbers: equal ones say nothing
    shared = objects.data is None and not set(inputs.train.keys).isdisjoint(inputs.val.keys)
    facts = Facts(
        DataFacts(
            len(inputs.train),
            len(inputs.val),
            typical_size(inputs.train),
            shared,
            len(inputs.unlabelled or ()),
        ),
        _machine_facts(inputs.recipe),
        from_scratch=not inputs.loaded and objects.model is None,  # an object may bring weights
    )
    check_patience(inputs.recipe, facts)
    recipe = resolve_settings(inputs.recipe, facts)
    memory = estimate_memory(
        inputs.model, recipe, largest_size(inputs.val), own_loss=objects.loss is not None
    )
    facts = replace(facts, memory=memory)
    recipe = resolve_batch_size(recipe, facts)
    for message in settings_messages(inputs.recipe, recipe, facts):
        on_message(message)
    return facts, recipe, check_memory(memory, recipe, on_message)


def _begin(request: Request, out: Path, reporter: Reporter, first: Run | None) -> Training:
    """Check and resolve a request, and begin its run folder."""
    on_message = reporter.message
    reporter.progress("opening model and data", 0, None)
    inputs = check_request(request, (lambda text: None) if first else on_message)
    if first:
        on_message(
            "the second training begins with the weights that the first began with, and changes "
            "its images more than [augment] says: twice the colours, and blur and CutMix"
        )
    reporter.progress("estimating the memory", 0, None)
    facts, recipe, memory_gb = resolve_but_length(inputs, on_message)

    # Every image and mask is read before the minutes that are left are measured
    reporter.progress("reading images and masks", 0, None)
    record = record_data(inputs, recipe, first, out, reporter)
    reporter.progress("timing steps", 0, None)
    speed = measure_speed(
        recipe,
        inputs.model,
        (inputs.train, inputs.val),
        record.class_weights,
        inputs.objects,
        request.began,
        record.sampling,
    )
    facts = replace(facts, speed=speed)

    recipe = resolve(inputs.recipe, facts)
    check_schedule(recipe, len(inputs.train))
    share = record.sampling.pseudo.share if record.sampling.pseudo else 0.0
    for message in length_messages(inputs.recipe, recipe, facts, share):
        on_message(message)
    warn_of_scores(recipe, inputs.val, record, on_message)
    training = begin_run(inputs, recipe, facts, record, out, memory_gb)
    return replace(training, ends=latest_end(recipe, speed, request.began))


def _run(
    training: Training, reporter: Reporter, request: Request, *, resume_from: Path | None
) -> Run:
    """Take the steps, and return the run."""
    reporter.progress("preparing the first step", 0, None)
    from featherseg.training.run import run_training  # Lightning: 3 s that refusals do not wait for

    run_training(training, reporter, request, resume_from=resume_from)
    return training.run


def _continue(out: Path, request: Request, reporter: Reporter, *, resume: bool) -> Run:
    """Open a run folder and train on from its last checkpoint, or from the start."""
    on_message = reporter.message
    run = open_run(out, request.objects.model)
    if run.imported:
        raise RunError(
            f"{out} was imported from {run.imported}, so there is no training to resume. To train "
            "these weights further, start a new run from them:\n"
            f"featherseg train {run.recipe.model.name} --init {out} --out NEW"
        )
    recipe = resumed_recipe(run, request) if resume else run.recipe

    # A finished run has nothing left to do, unless it was given more steps
    checkpoint, length = read_checkpoint(out / CHECKPOINT), recipe.train.model_dump(include=LENGTH)
    can_be_longer = (
        recipe.train.schedule == "stable"
        and recipe.train.patience is None
        and isinstance(recipe.train.steps, int)
    )
    is_finished = checkpoint and checkpoint["callbacks"]["Recorder"]["finished"]
    if (
        checkpoint
        and is_finished
        and not (can_be_longer and checkpoint["global_step"] < length["steps"])
    ):
        if recipe.train.device != run.recipe.train.device:
            check_machine(recipe)
        moved = data_moved(recipe, run)
        if resume and (moved or (out / DATA).is_file()):
            with suppress(*(() if moved else (DataNotFound,))):  # it no longer needs them
                train_data, val_data = open_data(recipe, request.objects)
                pseudo = _open_pseudo(recipe, train_data, val_data, request, out)
                check_same_data(run, (train_data, val_data), pseudo, on_message)
        on_message(f"{out} is finished: {checkpoint['global_step']} steps, nothing left to do")
        return _with_places_of(run, recipe)

    # Data and model. Lightning loads the weights of a checkpoint; else the model is as it was begun
    check_machine(recipe)
    train_data, val_data = open_data(recipe, request.objects)
    pseudo = _open_pseudo(recipe, train_data, val_data, request, out)
    if checkpoint:
        model = run.untrained_model()
        keep_supervised_heads(model, recipe)
    else:
        init = run.info.loaded.get("init")
        model, _ = open_model(
            recipe, run.classes, run.info.channels, init, lambda text: None, request.objects.model
        )
        model.image_range = run.info.image_range or FULL_RANGE
    steps, every = count_steps(recipe, len(train_data))
    training = Training(run, recipe, train_data, val_data, model, request.objects, steps, every)

    # Rank 0 records that the run goes on, with the data that it was begun with
    if resume and not this_rank():
        check_same_data(run, (train_data, val_data), pseudo, on_message)
        for warning in emulation_warnings(recipe, _machine_facts(recipe)):
            on_message(warning)
        _note_resume(training, checkpoint, on_message)
        estimate = estimate_memory(
            model, recipe, largest_size(val_data), own_loss=request.objects.loss is not None
        )
        training = replace(training, estimated_gb=check_memory(estimate, recipe, on_message))
        if length != run.recipe.train.model_dump(include=LENGTH):
            longer = run.recipe.model_copy(
                update={"train": run.recipe.train.model_copy(update=length)}
            )
            run = replace(run, info=run.info.model_copy(update={"recipe": longer}))
            training = replace(training, run=run)
            write_info(out, run.info)
            on_message(f"it goes on to step {recipe.train.steps}")
    training = replace(training, sampling=open_sampling(out, recipe, train_data, pseudo))
    run = _run(training, reporter, request, resume_from=out / CHECKPOINT if checkpoint else None)
    return _with_places_of(run, recipe)


def _open_pseudo(
    recipe: Recipe, train: SegmentationData, val: SegmentationData, request: Request, out: Path
) -> PseudoMasks | None:
    """Return the images with pseudo-masks of a run that goes on, None if it has none."""
    images = open_unlabelled(recipe, train, val, request.objects)
    return open_pseudo_masks(images, len(train), out) if images else None


def _with_places_of(run: Run, recipe: Recipe) -> Run:
    """Return the run with the data's place and the device of `recipe`; its file is unchanged."""
    places = recipe.data.model_dump(include={"name", "root", "unlabelled"})
    data = run.recipe.data.model_copy(update=places)
    train = run.recipe.train.model_copy(update={"device": recipe.train.device})
    moved = run.recipe.model_copy(update={"data": data, "train": train})
    return replace(run, info=run.info.model_copy(update={"recipe": moved}))


def _machine_facts(recipe: Recipe) -> MachineFacts:
    """Return the facts of the device that the recipe names."""
    device = pick_device(recipe.train.device)
    return MachineFacts(device.type, computes_bf16(device))


def _note_resume(
    training: Training, checkpoint: dict[str, Any] | None, on_message: OnMessage
) -> None:
    """Record and say from which step the run goes on, and what differs from how it was begun."""
    step = checkpoint["global_step"] if checkpoint else 0
    append_line(training.run.path / METRICS, {"resumed_from": step})
    on_message(
        f"resuming from step {step}" if checkpoint else "no checkpoint yet: starting from step 0"
    )
    info, device = training.run.info, pick_device(training.recipe.train.device).type
    if info.device not in (None, device):
        on_message(
            WarningText(
                f"begun on {info.device}, resumed on {device}: the result may differ in the last "
                "bits"
            )
        )
    processes_then, processes_now = (
        recipe.train.devices * recipe.train.nodes
        for recipe in (training.run.recipe, training.recipe)
    )
    if processes_then != processes_now:
        on_message(
            f"begun with {processes_then} processes (devices x nodes), resumed with "
            f"{processes_now}: a step has the same images, but its loss may differ, as some losses "
            "(Lovasz, Dice, boundaries, pixel contrast) are means over those of each "
            "process"
        )
    threads = torch.get_num_threads()
    if info.threads != threads:
        on_message(
            WarningText(
                f"begun with {info.threads} threads, resumed with {threads}: the result may differ "
                f"in the last bits (set OMP_NUM_THREADS={info.threads} to avoid it)"
            )
        )


@contextmanager
def torch_as_it_was() -> Iterator[None]:
    """Restore what a training sets in torch for the process: random state, determinism."""
    deterministic = torch.are_deterministic_algorithms_enabled()
    warn_only = torch.is_deterministic_algorithms_warn_only_enabled()
    benchmark = torch.backends.cudnn.benchmark
    try:
        with torch.random.fork_rng(range(torch.cuda.device_count())):
            yield
    finally:
        torch.use_deterministic_algorithms(deterministic, warn_only=warn_only)
        torch.backends.cudnn.benchmark = benchmark
