"""Refuse what cannot be trained, before any long work and before anything is written."""

import os
from pathlib import Path

import torch
from torch import nn

from featherseg.core.errors import ConfigError, DeviceError, require
from featherseg.core.machine import pick_device
from featherseg.core.types import OnMessage, SegmentationData
from featherseg.core.wording import counted
from featherseg.data import share_rule
from featherseg.data.datasets.statistics import refuse_unlabelled
from featherseg.layers.model import SegmentationModel
from featherseg.losses.terms import ContrastKeys
from featherseg.recipe.tables import Recipe, TrainTable
from featherseg.training.folder import TENSORBOARD
from featherseg.training.loss import refuse_unused_keys
from featherseg.training.objects import Objects
from featherseg.training.open import (
    Inputs,
    open_data,
    open_model,
    open_unlabelled,
    set_image_range,
)
from featherseg.training.optimisers import optimiser_of, parameter_groups
from featherseg.training.request import Request
from featherseg.training.resolve import Facts, count_steps, updated, validates_on_training_images

ON = "> 0"

NEEDED_VALUES = {
    ("loss", "class_weight_power"): ("class_weights", "auto"),
    ("train", "power"): ("schedule", "poly"),
    ("train", "momentum"): ("optimizer", "sgd"),
} | {("loss", key): ("contrast", ON) for key in ContrastKeys.model_fields if key != "contrast"}
"""Keys that act only with one value of another key of their table, or if it is ON."""


def check_request(request: Request, on_message: OnMessage) -> Inputs:
    """Open and check the recipe, data and model of a request. Raises what is wrong with them."""
    file, recipe = request.read()
    check_used(recipe, request)
    # The rule of the split is kept, so that a later change of the dataset.toml changes no run
    rule = None if request.objects.data else share_rule(recipe.data.name)
    if recipe.data.split_by is None:
        recipe = updated(recipe, data={"split_by": rule})
    elif rule is None:
        raise ConfigError(
            f"data.split_by: {recipe.data.name} has no splits by fraction. Leave it out."
        )
    check_machine(recipe)
    train, val = open_data(recipe, request.objects)
    check_labels(recipe, train, val, request.objects)

    init = request.init
    if init is not None and Path(init).exists():  # a resumed run may start in another folder
        init = os.path.abspath(init)
    model, loaded = open_model(
        recipe, train.classes, train.channels, init, on_message, request.objects.model
    )
    check_model(recipe, model)
    check_instances(recipe, model, train, request.objects)
    if not model.panoptic and request.objects.loss is None:
        refuse_one_class(train)
    if recipe.data.unlabelled and model.panoptic:
        raise ConfigError(
            f"{recipe.model.name} is panoptic, and pseudo-masks have no objects. Leave out "
            "--unlabelled."
        )
    unlabelled = open_unlabelled(recipe, train, val, request.objects)
    image_range = set_image_range(train, model, on_message)
    return Inputs(
        file,
        recipe,
        train,
        val,
        model,
        loaded,
        image_range,
        request.objects,
        unlabelled,
    )


def check_used(recipe: Recipe, request: Request) -> None:
    """Raise ConfigError for a key that does nothing because another key has another value.

    An override may change the other key and leave the recipe's value without effect: that is
    accepted.
    """
    overridden = set(request.override_keys)
    for (table, key), (other, needed) in NEEDED_VALUES.items():
        settings = getattr(recipe, table)
        default = type(settings).model_fields[key].default
        value, actual = getattr(settings, key), getattr(settings, other)
        is_meant = f"{table}.{key}" in overridden or f"{table}.{other}" not in overridden
        acts = actual > 0 if needed == ON else actual == needed
        if not acts and value != default and is_meant:
            condition = needed if needed == ON else f"= {needed!r}"
            raise ConfigError(
                f"{table}.{key} = {value} acts only with {table}.{other} {condition}, and it is "
                f"{actual!r}. Leave it out."
            )


def check_machine(recipe: Recipe) -> None:
    """Raise DeviceError or ConfigError if this machine cannot train the recipe as it says."""
    settings = recipe.train
    check_trackers(recipe)
    device = pick_device(settings.device)
    if device.type == "cpu" and settings.precision == "fp16":
        raise ConfigError("train.precision = 'fp16' needs a GPU. On a CPU use bf16 or fp32.")
    if device.type == "cuda" and settings.devices > torch.cuda.device_count():
        raise DeviceError(
            f"train.devices = {settings.devices}, but this machine has "
            f"{torch.cuda.device_count()} GPUs."
        )
    _check_processes(settings)


def _check_processes(settings: TrainTable) -> None:
    """Raise ConfigError if SLURM or torchrun started another number of processes."""
    requested = f"train.nodes = {settings.nodes} and train.devices = {settings.devices} (per node)"
    if "SLURM_NTASKS" in os.environ:  # only then: importing Lightning takes seconds
        from lightning.fabric.plugins.environments import SLURMEnvironment

        try:
            if SLURMEnvironment.detect():
                SLURMEnvironment().validate_settings(settings.devices, settings.nodes)
        except (ValueError, RuntimeError):  # RuntimeError if the tasks per node are not set
            nodes, tasks = (
                os.environ.get(f"SLURM_{key}", "not set") for key in ("NNODES", "NTASKS_PER_NODE")
            )
            raise ConfigError(
                f"{requested}, but SLURM gave this job {nodes} nodes and {tasks} tasks per node. "
                "Make them the same."
            ) from None
    ranks, started = settings.devices * settings.nodes, int(os.environ.get("WORLD_SIZE", 0))
    if "TORCHELASTIC_RUN_ID" in os.environ and started != ranks:
        raise ConfigError(
            f"{requested} make {ranks}, but torchrun started {started} processes. Make them the "
            "same."
        )
    if settings.batch_size != "auto" and settings.batch_size % ranks:
        raise ConfigError(
            f"train.batch_size = {settings.batch_size} cannot be divided among {ranks} devices: it "
            "is the number of images per step over all devices. Give a multiple of "
            f"{ranks}."
        )


def check_trackers(recipe: Recipe) -> None:
    """Raise MissingExtra for a tracker whose package is missing, ConfigError without its server."""
    for name in recipe.train.loggers:
        require(name, "train" if name == TENSORBOARD else name, f"train.loggers = {name!r}")
    if "mlflow" in recipe.train.loggers and not os.environ.get("MLFLOW_TRACKING_URI"):
        raise ConfigError(
            "train.loggers has 'mlflow', but no server is named. Set MLFLOW_TRACKING_URI, such as "
            "http://127.0.0.1:5000, or sqlite:///mlflow.db for a file."
        )


def check_labels(
    recipe: Recipe, train: SegmentationData, val: SegmentationData, objects: Objects
) -> None:
    """Raise DataError if a split that needs masks has no labelled pixel."""
    problem = (
        "so {}. Label some, look at what their values mean ([map]), or name another split by "
        "data.{}_split."
    )
    if objects.loss is None:
        refuse_unlabelled(
            train, recipe.data.train_split, problem.format("there is nothing to learn", "train")
        )
    refuse_unlabelled(
        val, recipe.data.val_split, problem.format("no validation can judge the weights", "val")
    )


def check_model(recipe: Recipe, model: SegmentationModel) -> None:
    """Raise ConfigError if the model lacks what the loss or the optimiser needs."""
    if recipe.loss.contrast and model.feature_channels is None:
        raise ConfigError(
            f"loss.contrast: {recipe.model.name} has no features to contrast. Set loss.contrast=0."
        )
    optimiser_of(recipe.train)  # raises for an unknown name
    parameter_groups(model, nn.Identity(), recipe.train)  # raises for an unknown structure


def check_instances(
    recipe: Recipe, model: SegmentationModel, train: SegmentationData, objects: Objects
) -> None:
    """Raise ConfigError if a panoptic model has no instances, or settings are not for its loss."""
    name = recipe.model.name
    if model.panoptic and (objects.loss or objects.augment):
        raise ConfigError(f"{name} is panoptic: it takes neither loss= nor augment=.")
    refuse_unused_keys(recipe, panoptic=model.panoptic)
    if not model.panoptic:
        return
    if not any(info.thing for info in train.classes) or train[0].instances is None:
        raise ConfigError(
            f"{name} learns to separate objects, but {train.name} has no instance ids. Train it on "
            "a panoptic dataset, such as coco-panoptic or shapes, or choose a model without "
            "panoptic."
        )
    for key in ("cutmix", "copy_paste"):
        if getattr(recipe.augment, key):
            raise ConfigError(
                f"augment.{key} does not apply to panoptic models ({name}): leave it out."
            )


def refuse_one_class(data: SegmentationData) -> None:
    """Raise ConfigError if all labelled pixels have one class: its mIoU is 100 % untrained."""
    if len(data.classes) == 1:
        raise ConfigError(
            f"{data.name} has one class, {data.classes[0].name}, which every pixel then is. Give "
            "the other pixels a class of their own, such as background, instead of ignoring them."
        )


def check_patience(recipe: Recipe, facts: Facts) -> None:
    """Raise ConfigError if `train.patience` would wait for scores of images that are trained on."""
    if recipe.train.patience and validates_on_training_images(recipe, facts):
        raise ConfigError(
            f"train.patience: {recipe.data.val_split} is trained on, so its scores do not tell "
            "when to stop. Leave it out."
        )


def check_schedule(recipe: Recipe, images: int) -> None:
    """Raise ConfigError if the run ends before the rate falls or the contrast begins."""
    steps = count_steps(recipe, images)[0]
    if recipe.train.decay_steps > steps:
        raise ConfigError(
            f"train.decay_steps = {recipe.train.decay_steps}: the run has {counted(steps, 'step')}."
        )
    warmup = recipe.loss.contrast_warmup_steps
    if recipe.loss.contrast and warmup >= steps:
        raise ConfigError(
            f"loss.contrast_warmup_steps = {warmup}: the run has {counted(steps, 'step')}, so the "
            "contrast would never begin. Give fewer, or set loss.contrast=0."
        )
