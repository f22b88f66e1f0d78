"""Everything that can be known before training is checked here, then the run folder is begun."""

import copy
import os
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from lightning.fabric.plugins.environments import SLURMEnvironment
from torch import nn

from featherseg import models
from featherseg._version import __version__
from featherseg.core.errors import ConfigError, DeviceError, FeathersegError, RunError
from featherseg.core.files import LOCK, load_json, write_json, write_text
from featherseg.core.machine import command_began, computes_bf16, environment, pick_device
from featherseg.core.types import ClassInfo, SegmentationData
from featherseg.core.wording import WarningText, counted, size_text
from featherseg.data import open_dataset, score_split, share_rule
from featherseg.data.cache.fingerprint import TEST, Fingerprint, named_pairs, read_fingerprint
from featherseg.data.cache.prepared import loss_of
from featherseg.data.cache.teacher_outputs import Teaching
from featherseg.data.datasets.statistics import (
    choose_crop,
    largest_size,
    refuse_unlabelled,
    typical_size,
)
from featherseg.data.datasets.unlabelled import UnlabelledImages
from featherseg.data.images.image_range import measure_range
from featherseg.layers.model import SegmentationModel
from featherseg.layers.normalise import FULL_RANGE
from featherseg.layers.own_model import OwnModel
from featherseg.layers.resize import resized
from featherseg.recipe.reading import RecipeFile, parse_recipe, read_recipe, with_absolute_paths
from featherseg.recipe.tables import (
    LossTable,
    ModelTable,
    Recipe,
)
from featherseg.runs.run import (
    DATA,
    ENVIRONMENT,
    FORMAT_VERSION,
    METRICS,
    RESOLVED,
    Run,
    RunInfo,
    class_rows,
    write_info,
)
from featherseg.training.batches import (
    CLASS_POINTS,
    RARE_CLASSES,
    open_class_uniform,
    open_rare_classes,
    write_class_points,
)
from featherseg.training.class_weights import resolve_class_weights
from featherseg.training.initialisation import starting_weights, terms_of
from featherseg.training.length import choose_batch_size, count_steps, resolve_length, say_length
from featherseg.training.loss import keep_supervised_heads, refuse_unused_keys
from featherseg.training.memory import Estimate, check_memory, estimate_memory
from featherseg.training.objects import NAMES_ALONE, Objects
from featherseg.training.optimisers import build_optimizer, rate_factor
from featherseg.training.teaching import (
    OUTPUTS,
    check_teachers,
    open_teaching,
    refuse_own_folder,
    teacher_row,
)
from featherseg.training.trackers import TENSORBOARD, TRACKERS, WANDB, check_trackers

BEGINNINGS = (
    *("recipe.toml", ENVIRONMENT, CLASS_POINTS, RARE_CLASSES, DATA, METRICS, OUTPUTS),
    *(TENSORBOARD, WANDB, TRACKERS),
)
"""What a training writes before its first step, apart from resolved.json, which makes the folder a run."""

OBJECT_RECIPE = "frm-lite0"
"""The recipe of a model of one's own, its [model] apart."""

Say = Callable[[str], None]
"""Takes a message for the user."""


@dataclass(frozen=True)
class Request:
    """What the user asked for: the arguments of `featherseg train`, and objects in place of names."""

    recipe: str | None
    data: str | None = None
    data_root: Path | None = None
    init: str | None = None
    overrides: tuple[str, ...] = ()
    objects: Objects = NAMES_ALONE
    group: Path | None = None  # the folder of the sweep that it is one training of
    began: float = field(default_factory=command_began, compare=False)
    ends: float | Callable[[int], bool] | None = field(default=None, compare=False)
    """The step at this time, by time.monotonic, is the last; or what is asked after a step whether it is."""

    def read(self) -> tuple[RecipeFile, Recipe]:
        """The recipe's text and its resolved form. Raises ConfigError or UnknownName."""
        if self.recipe is None:
            raise ConfigError(
                "no recipe was given. Name a model or recipe: featherseg train frm-lite0-light --out RUN"
            )
        file = read_recipe(self.recipe)
        for key in (
            [override.partition("=")[0].strip() for override in self.overrides]
            if self.objects.loss
            else ()
        ):
            if key.startswith("loss."):
                raise ConfigError(
                    f"{key} is not part of a loss that is given as loss=: leave it out."
                )
        return file, self.with_objects(
            with_absolute_paths(parse_recipe(file, self.overrides, **self.data_keys))
        )

    def with_objects(self, recipe: Recipe) -> Recipe:
        """The recipe with the names of the objects; what was published is not of them."""
        model, data = self.objects.model, self.objects.data
        if model is not None:
            name = type(model.module if isinstance(model, OwnModel) else model).__name__
            recipe = recipe.model_copy(
                update={"model": ModelTable(name=name, pretrained=False), "paper": None}
            )
        if data is not None:
            named = recipe.data.model_copy(update={"name": data[0].name, "root": None})
            recipe = recipe.model_copy(update={"data": named, "paper": None})
        if (
            self.objects.loss is not None
        ):  # the recipe's class weights and auxiliary heads are no part of it
            recipe = recipe.model_copy(update={"loss": LossTable()})
        return recipe

    @property
    def data_keys(self) -> dict[str, str | None]:
        """What stands in place of the recipe's keys of [data], None where its own count."""
        return {"name": self.data, "root": None if self.data_root is None else str(self.data_root)}


def refuse_existing(out: Path, *, resume: bool = False) -> None:
    """Raises RunError where --out would overwrite something; with `resume` a run is continued.

    What a kill left before there was a run is in no way.
    """
    if resume and (out / RESOLVED).is_file():
        return
    names = {path.name for path in out.iterdir()} if out.is_dir() else set()
    unbegun = LOCK in names and all(
        name in (LOCK, *BEGINNINGS) or name.endswith(".tmp") for name in names
    )
    if out.exists() and not unbegun and (names or not out.is_dir()):
        found = (
            "holds files, but no run to resume"
            if resume
            else "already exists. Add --resume to continue it"
        )
        raise RunError(f"{out} {found}, or choose another folder with --out; nothing was changed.")


def open_data(recipe: Recipe, objects: Objects) -> tuple[SegmentationData, SegmentationData]:
    """The training and the validation part. Raises ConfigError or DataError for what is missing or does not fit."""
    if objects.data is not None:
        return objects.data
    root = None if recipe.data.root is None else Path(recipe.data.root)
    name, by = recipe.data.name, recipe.data.split_by
    train = open_dataset(
        name, recipe.data.train_split, root, recipe.data.train_size, exact=False, split_by=by
    )
    val = open_dataset(name, recipe.data.val_split, root, recipe.data.val_size, split_by=by)
    return train, val


def test_of(recipe: Recipe, objects: Objects) -> dict[str, SegmentationData]:
    """The test split as files, where there is one that is whole: it is kept what it held, to say later what changed."""
    root = None if recipe.data.root is None else Path(recipe.data.root)
    try:
        if objects.data or score_split(recipe.data.name, root) != TEST:
            return {}
        return {TEST: open_dataset(recipe.data.name, TEST, root, split_by=recipe.data.split_by)}
    except FeathersegError:
        return {}


Checked = tuple[
    RecipeFile, Recipe, tuple[SegmentationData, SegmentationData], SegmentationModel, dict[str, Any]
]
"""A recipe as written and resolved, (train, val), the model at its start, the record of its weights."""


def check_request(request: Request, say: Say) -> Checked:
    """All that can be wrong is found here."""
    return _check(request, say)[0]


def _check(request: Request, say: Say) -> tuple[Checked, list[Run], UnlabelledImages | None]:
    """As `check_request`, and the teachers with their images without masks."""
    file, recipe = request.read()
    rule = None if request.objects.data else share_rule(recipe.data.name)
    if recipe.data.split_by is None:  # kept, whatever the dataset.toml will say later
        recipe = recipe.model_copy(
            update={"data": recipe.data.model_copy(update={"split_by": rule})}
        )
    elif rule is None:
        raise ConfigError(
            f"data.split_by: {recipe.data.name} has no splits by fraction. Leave it out."
        )
    check_machine(recipe)
    recipe = resolve_precision(recipe, say)
    train, val = open_data(recipe, request.objects)
    nothing = "so {}. Label some, look at what their values mean ([map]), or name another split by data.{}_split."
    if request.objects.loss is None:
        refuse_unlabelled(
            train, recipe.data.train_split, nothing.format("there is nothing to learn", "train")
        )
    refuse_unlabelled(
        val, recipe.data.val_split, nothing.format("no validation can judge the weights", "val")
    )
    init = request.init
    if init is not None and Path(init).exists():  # a resume may come from another folder
        init = os.path.abspath(init)
    model, loaded = new_model(
        recipe, train.classes, train.channels, init, say, request.objects.model
    )
    check_instances(recipe, model, train, request.objects)
    if not model.panoptic and request.objects.loss is None:
        refuse_one_class(train)
    return (file, recipe, (train, val), model, loaded), *check_teachers(
        recipe, model, train, request.objects
    )


def refuse_one_class(data: SegmentationData) -> None:
    """Raises ConfigError where every labelled pixel is of one class: there is nothing to learn, and mIoU is 100 %."""
    if len(data.classes) == 1:
        raise ConfigError(
            f"{data.name} has one class, {data.classes[0].name}, which every pixel then is: nothing is left to learn. "
            "Give the other pixels a class of their own, such as background, where they are ignored now."
        )


def keep_last(recipe: Recipe, say: Say) -> Recipe:
    """The recipe of a training that validates on images that it trains on. Raises ConfigError for train.patience."""
    val = recipe.data.val_split
    if recipe.train.patience:
        raise ConfigError(f"train.patience: {val} is trained on and so tells no end: leave it out.")
    say(f"{val} is trained on too: the last weights are kept, and only other images tell how good")
    update: dict[str, Any] = {"train": recipe.train.model_copy(update={"keep": "last"})}
    if recipe.loss.undo_class_weights == "auto" and recipe.loss.class_weights != "none":
        say(
            "the kept weights undo nothing of the class weights, as only other images tell which share is best: give "
            "what a training without these found, such as loss.undo_class_weights=0.5"
        )
        update["loss"] = recipe.loss.model_copy(update={"undo_class_weights": 0.0})
    return recipe.model_copy(update=update)


@dataclass(frozen=True)
class Training:
    """All that a training needs, opened once: its run folder, its settings, the data, the model as it stands."""

    run: Run
    recipe: Recipe
    train: SegmentationData
    val: SegmentationData
    model: SegmentationModel
    objects: Objects
    estimated_gb: float | None = None  # what the process will hold
    teaching: Teaching | None = None


def begin(request: Request, out: Path, say: Say) -> Training:
    """Check everything, then begin a run folder: recipe, environment, resolved settings (last: then it is a run)."""
    # Data and model, opened once: what is wrong is found here
    (file, recipe, (train, val), model, loaded), teachers, unlabelled = _check(request, say)
    refuse_own_folder(teachers, out)

    image_range = resolve_image_range(train, model, say)

    # What the recipe leaves open becomes a number, and must fit into the memory; then the teachers' outputs
    size, asked, own_data = typical_size(train), recipe, request.objects.data is not None
    shared = not own_data and not set(train.keys).isdisjoint(
        val.keys
    )  # keys of objects may be mere numbers
    if shared or recipe.trains_on_all:
        recipe = keep_last(recipe, say)
    trained = resized(size, asked.augment.resize)
    if asked.augment.resize and not asked.data.test_resize and trained != size:
        sizes = f"images of {size_text(trained)} (augment.resize), but validates and predicts at {size_text(size)}"
        fit = ",".join(map(str, asked.augment.resize))
        say(WarningText(f"trains on {sizes}: for one size set data.test_resize=[{fit}] too"))
    crop = asked.augment.crop or choose_crop(trained)
    recipe = recipe.model_copy(update={"augment": recipe.augment.model_copy(update={"crop": crop})})
    if recipe.train.optimizer == "auto":
        scratch = not loaded and request.objects.model is None  # which may bring weights
        found = {"optimizer": "muon" if scratch else "adamw"}
        recipe = recipe.model_copy(update={"train": recipe.train.model_copy(update=found)})
        if scratch:
            say("from scratch matrices learn by Muon, the rest by AdamW (train.optimizer)")
    estimate = estimate_memory(
        model, recipe, largest_size(val), own_loss=request.objects.loss is not None
    )
    recipe = resolve_batch_size(recipe, estimate, len(train), say)
    estimated = check_memory(estimate, recipe, say)
    class_weights = resolve_class_weights(recipe, train, model, say)
    rows = tuple(teacher_row(run) for run in teachers)
    for run in teachers:
        if run.unfinished:
            say(
                WarningText(
                    f"teacher {run.name} is not finished: it teaches by its weights of now, and must keep them"
                )
            )
    teaching = open_teaching(
        recipe,
        rows,
        train,
        model,
        out,
        say,
        own_data=own_data,
        unlabelled=unlabelled,
        began=request.began,
    )

    # What of all images is looked at, before the time that is left is measured; until resolved.json is there, it is
    # no run
    write_class_points(out, recipe, train, say)
    splits = {"train": train, "val": val} | ({"unlabelled": unlabelled} if unlabelled else {})
    test = test_of(recipe, request.objects)
    theirs = [fingerprint for run in teachers if (fingerprint := read_fingerprint(run.path / DATA))]
    known = Fingerprint.of(splits | test).with_teachers(theirs)
    known.save(out / DATA)
    drawing = {
        "teaching": teaching,
        "class_uniform": open_class_uniform(out, recipe, train),
        "rare": open_rare_classes(out, recipe, train),
        "image_range": model.image_range,
    }

    # How many steps it has, by the time that is left where minutes were asked for, and what is odd about them
    recipe, pace = resolve_length(
        recipe, model, (train, val), class_weights, request.objects, request.began, drawing
    )
    steps = count_steps(recipe, len(train))[0]
    if recipe.train.decay_steps > steps:
        raise ConfigError(
            f"train.decay_steps = {recipe.train.decay_steps}: the run has {counted(steps, 'step')}."
        )
    say(say_length(recipe, len(train), len(val), pace, teaching.share if teaching else 0.0))
    if recipe.train.warmup_steps >= steps:
        say(
            f"train.warmup_steps = {recipe.train.warmup_steps}: the rate rises to the last step and never reaches lr"
        )
    if asked.train.minutes and asked.train.validate_every:
        said = f"in place of train.validate_every = {asked.train.validate_every}"
        say(f"{counted(recipe.train.validations, 'validation')}, as the minutes allow, {said}")

    _doubt_scores(known, recipe, val, test, say)

    # The record of the run: with the weights, all that is needed to use the model
    left_open = {
        "augment.crop": asked.augment.crop,
        "train.optimizer": asked.train.optimizer,
        "train.precision": request.read()[1].train.precision,
        "train.batch_size": asked.train.batch_size,
        "train.steps": asked.train.epochs or asked.train.steps,
    }
    info = RunInfo(
        format_version=FORMAT_VERSION,
        featherseg=__version__,
        recipe_name=file.name,
        recipe=recipe,
        classes=class_rows(train.classes),
        channels=train.channels,
        image_size=size,
        image_range=image_range,
        licence=terms_of(train.licence, loaded, rows),
        loaded=loaded,
        class_weights=class_weights,
        threads=torch.get_num_threads(),
        found=[key for key, value in left_open.items() if value in (None, "auto")]
        + ["train.keep"] * shared
        + ["loss.undo_class_weights"] * (shared or recipe.trains_on_all),
        device=pick_device(recipe.train.device).type,
        teachers=rows,
        objects=request.objects.names,
    )
    write_text(out / "recipe.toml", file.text)
    write_json(out / ENVIRONMENT, environment() | {"memory_gb": {"estimated": estimated}})
    write_info(out, info)
    run = Run(out, info, request.objects.model)
    return Training(run, recipe, train, val, model, request.objects, estimated, teaching)


def _doubt_scores(
    known: Fingerprint,
    recipe: Recipe,
    val: SegmentationData,
    test: Mapping[str, SegmentationData],
    say: Say,
) -> None:
    """Say which images that will be scored are trained on, with masks or without, or taught a teacher."""
    for name, scored in {recipe.data.val_split: val, **test}.items():
        for told in known.doubts(scored, f"{scored.name} {name}"):
            say(WarningText(told))
    if seen := known.trained_on(val):
        are = "is" if len(seen) == 1 else "are"
        images = f"{counted(len(seen), 'image')} of {val.name} {recipe.data.val_split}"
        say(WarningText(f"{images} {are} trained on too: {named_pairs(seen)}"))


def note_loss(out: Path, train: SegmentationData, say: Say) -> None:
    """Keep in the run's record what the training images lost when they were prepared; nothing where nothing was."""
    if loss := loss_of(train):
        say(WarningText(f"prepared data: {loss}"))
        _note(out, prepared_data=loss)


def note_memory(training: Training, before: float | None, peak: float | None, say: Say) -> None:
    """Say what the process held of the memory at its peak, in bytes, and what was estimated; keep both in the record.

    Where the peak before the training was as high it says nothing of the training, and is not kept.
    """
    if peak is None:
        return
    estimated, held = training.estimated_gb, round(peak / 1e9, 2)
    beside = "" if estimated is None else f" (estimated: {estimated} GB)"
    say(f"the training held {'at most ' if peak == before else ''}{held} GB of memory{beside}")
    if peak != before:
        _note(training.run.path, memory_gb={"estimated": estimated, "measured": held})


def _note(out: Path, **facts: Any) -> None:
    """Add to what a run keeps of its environment; a file that is no longer there, or damaged, is begun anew."""
    try:
        known = load_json(out / ENVIRONMENT)
    except (OSError, ValueError):
        known = {}
    write_json(out / ENVIRONMENT, (known if isinstance(known, dict) else {}) | facts)


def check_machine(recipe: Recipe) -> None:
    """Device, precision and sizes, before any long work. Raises DeviceError or ConfigError."""
    settings = recipe.train
    check_trackers(recipe)
    device = pick_device(settings.device)
    if device.type == "cpu" and settings.precision == "fp16":
        raise ConfigError("train.precision = 'fp16' needs a GPU. On a CPU use bf16 or fp32.")
    if device.type == "cuda" and settings.devices > torch.cuda.device_count():
        raise DeviceError(
            f"train.devices = {settings.devices}, but this machine has {torch.cuda.device_count()} GPUs."
        )
    if SLURMEnvironment.detect():
        try:
            SLURMEnvironment().validate_settings(settings.devices, settings.nodes)
        except (ValueError, RuntimeError):  # RuntimeError where tasks a node are not set
            shape = {
                key: os.environ.get(f"SLURM_{key}", "not set")
                for key in ("NNODES", "NTASKS_PER_NODE")
            }
            raise ConfigError(
                f"train.nodes = {settings.nodes} and train.devices = {settings.devices} (of a node), but SLURM gave "
                f"this job {shape['NNODES']} nodes and {shape['NTASKS_PER_NODE']} tasks a node. Make them the same."
            ) from None
    ranks, started = settings.devices * settings.nodes, int(os.environ.get("WORLD_SIZE", 0))
    if "TORCHELASTIC_RUN_ID" in os.environ and started != ranks:
        raise ConfigError(
            f"train.nodes = {settings.nodes} and train.devices = {settings.devices} (of a node) make {ranks}, but "
            f"torchrun started {started} processes. Make them the same."
        )
    if settings.batch_size != "auto" and settings.batch_size % ranks:
        raise ConfigError(
            f"train.batch_size = {settings.batch_size} cannot be divided among {ranks} devices: it is the number of "
            f"images per step over all devices, so it must be a multiple of {ranks}."
        )


def resolve_precision(recipe: Recipe, say: Say) -> Recipe:
    """The recipe with its precision where that is open; says what this device has no instructions for."""
    device, asked = pick_device(recipe.train.device), recipe.train.precision
    native = computes_bf16(device)
    if asked == "bf16" and not native:
        emulated = f"train.precision = 'bf16' is emulated by this {device.type}"
        say(WarningText(f"{emulated}: a step may take ten times as long as in fp32"))
    if asked != "auto":
        return recipe
    if not native:
        say(f"trains in fp32, as this {device.type} has no instructions for bf16 (train.precision)")
    found = {"precision": "bf16" if native else "fp32"}
    return recipe.model_copy(update={"train": recipe.train.model_copy(update=found)})


def new_model(
    recipe: Recipe,
    classes: tuple[ClassInfo, ...],
    channels: int,
    init: str | None,
    say: Say,
    own: SegmentationModel | None = None,
) -> tuple[SegmentationModel, dict[str, Any]]:
    """The model as training starts with it, the same for the same recipe; -> (model, record of what was loaded).

    Of a model of one's own, `own`, a copy. Raises ConfigError where it has other classes or channels than the data.
    """
    torch.manual_seed(recipe.train.seed)
    if own is None:
        model = models.build(recipe.model.name, len(classes), channels, recipe.model.options)
    elif (own.classes, len(own.mean)) != (len(classes), channels):
        raise ConfigError(
            f"{recipe.model.name} is for {own.classes} classes and {len(own.mean)} channels (its `classes`, and how "
            f"many values its `mean` has); the data have {len(classes)} and {channels}."
        )
    else:
        model = copy.deepcopy(own)
    if recipe.loss.contrast and model.feature_channels is None:
        raise ConfigError(
            f"loss.contrast: {recipe.model.name} has no features to contrast. Set loss.contrast=0."
        )
    keep_supervised_heads(model, recipe)
    build_optimizer(model, nn.Identity(), recipe.train)  # refused here where it cannot be
    loaded, sentences = starting_weights(model, recipe, init, classes)
    for message in sentences:
        say(message)
    return model, loaded


def resolve_image_range(train: SegmentationData, model: SegmentationModel, say: Say) -> int | None:
    """Measure the range of 16-bit training images and set it in the model; -> the range, None of 8-bit images."""
    image_range = measure_range(train)
    if image_range is not None:
        model.image_range = image_range
        if image_range < FULL_RANGE:
            say(
                f"16-bit images use values below {image_range:,} of {FULL_RANGE:,}: the model scales them by that"
            )
    return image_range


def check_instances(
    recipe: Recipe, model: SegmentationModel, train: SegmentationData, objects: Objects
) -> None:
    """Raises ConfigError where a panoptic model finds no instances to learn, or settings are not of its loss."""
    name = recipe.model.name
    if model.panoptic and (objects.loss or objects.augment):
        raise ConfigError(
            f"{name} is panoptic: it takes neither a loss nor an augmentation of one's own."
        )
    refuse_unused_keys(recipe, panoptic=model.panoptic)
    if not model.panoptic:
        return
    if not any(info.thing for info in train.classes) or train[0].instances is None:
        raise ConfigError(
            f"{name} learns to separate objects, but {train.name} has no instance ids. Train it on a panoptic "
            "dataset, such as coco-panoptic or shapes, or choose a model without panoptic."
        )
    for key in ("cutmix", "copy_paste"):
        if getattr(recipe.augment, key):
            raise ConfigError(
                f"augment.{key} does not apply to panoptic models ({name}): leave it out."
            )


def resolve_batch_size(recipe: Recipe, estimate: Estimate | None, images: int, say: Say) -> Recipe:
    """The recipe with its batch size as a number."""
    settings, batch = recipe.train, recipe.train.batch_size
    if batch == "auto":
        assert recipe.augment.crop is not None
        ranks = settings.devices * settings.nodes
        batch = choose_batch_size(estimate, recipe.augment.crop, images, ranks=ranks)
        settings = settings.model_copy(update={"batch_size": batch})
    if (factor := rate_factor(settings)) != 1:
        a_step = counted(batch * settings.accumulate, "image")
        rates = (
            f"{factor:.3g} times train.lr = {settings.lr:g}, which is for {settings.lr_batch_size}"
        )
        say(f"steps have {a_step}: learns at {rates} (train.lr_batch_size)")
    return recipe.model_copy(update={"train": settings})
