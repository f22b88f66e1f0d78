"""Continue a run: its own settings and data, except for what does not change its result."""

import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch

from featherseg import models
from featherseg.core.errors import ConfigError, DataError, RunError
from featherseg.core.types import OnMessage, SegmentationData
from featherseg.core.wording import flattened
from featherseg.data import DATASETS
from featherseg.data.cache.fingerprint import Fingerprint, class_differences, read_fingerprint
from featherseg.data.datasets.unlabelled import PseudoMasks
from featherseg.data.images.pairs import NamedData
from featherseg.recipe.reading import override_recipe, with_absolute_paths
from featherseg.recipe.tables import MACHINE_KEYS, ModelTable, Recipe, TrainTable
from featherseg.runs.run import DATA, Run
from featherseg.training.request import OBJECT_RECIPE, Request
from featherseg.training.resolve import updated

LENGTH = {"steps", "decay_steps"}
"""Keys of [train] that may be larger when a run with a stable schedule continues."""

_FREE_TRAIN = [key.removeprefix("train.") for key in MACHINE_KEYS if key.startswith("train.")]


def resumed_recipe(run: Run, request: Request) -> Recipe:
    """Return the recipe of a run that continues: its own, with what the request may change.

    The request may change MACHINE_KEYS, where the data lie, and the steps of a stable schedule.
    Without a recipe in the request only its options are compared with the run, else all settings.

    Raises:
        ConfigError: an option is unknown, or settings differ; names each with both values.
    """
    begun = _own_recipe(run)
    requested = _requested_recipe(run, begun, request)
    begun_objects, given_objects = run.info.objects, request.objects.names
    if given_objects != begun_objects:
        needed = " and ".join(f"{name}=" for name in begun_objects) or "none"
        raise ConfigError(
            f"{run.path} was begun with {needed} as objects, but this command has "
            f"{', '.join(given_objects) or 'none'}. Pass {needed}."
        )
    before, now = (_settings(recipe, request) for recipe in (begun, requested))
    different = {
        key: (before.get(key), now.get(key))
        for key in {**before, **now}
        if before.get(key) != now.get(key)
    }
    begun_init, init = run.info.loaded.get("init"), request.init
    if init is not None and (
        begun_init is None
        or {begun_init, os.path.abspath(begun_init)}.isdisjoint({init, os.path.abspath(init)})
    ):
        different["--init"] = (begun_init, init)
    allowed = MACHINE_KEYS | _resolved_keys(run, begun, requested, now) | _places(begun, requested)

    if request.objects.loss is not None:  # old runs kept the recipe's [loss], which had no effect
        allowed |= {key for key in different if key.startswith("loss.")}
    longer: dict[str, int] = {}
    if {"train.steps", "train.decay_steps"} & different.keys() and begun.train.schedule == "stable":
        longer = _longer(run, begun.train, requested.train)
        allowed |= {f"train.{key}" for key in longer}

    refused = [
        f"{key} is {old!r} in the run and {new!r} now"
        for key, (old, new) in different.items()
        if key not in allowed
    ]
    if refused:
        raise ConfigError(
            f"{run.path} was started with other settings: {'; '.join(refused)}. A resumed run "
            "keeps its settings: leave these options out, or start a new run from its weights:\n"
            f"featherseg train {begun.model.name} --init {run.path} --out NEW"
        )
    data = begun.data.model_copy(
        update={
            "name": requested.data.name,
            "root": requested.data.root or begun.data.root,
            "unlabelled": requested.data.unlabelled,
            "workers": requested.data.workers,
        }
    )
    free = {key: getattr(requested.train, key) for key in _FREE_TRAIN}
    train = begun.train.model_copy(update=free | longer)
    return begun.model_copy(update={"data": data, "train": train})


def _requested_recipe(run: Run, begun: Recipe, request: Request) -> Recipe:
    """Return the request's recipe, or the run's with the request's options."""
    if request.recipe is None:
        if "model" in run.info.objects:  # its name is in no catalogue
            begun = begun.model_copy(update={"model": ModelTable(name=OBJECT_RECIPE)})
        overridden = override_recipe(begun, str(run.path), request.overrides, **request.data_keys)
        requested = request.with_objects(with_absolute_paths(overridden))
    else:
        _, requested = request.read()
    if requested.data.split_by is None:  # the run keeps the rule that its dataset.toml had then
        return updated(requested, data={"split_by": begun.data.split_by})
    return requested


def _resolved_keys(run: Run, begun: Recipe, requested: Recipe, now: Mapping[str, Any]) -> set[str]:
    """Return the keys that the run resolved and the request leaves open: they may differ."""
    open_keys = (
        {"augment.crop", "train.batch_size"} if run.info.found is None else set(run.info.found)
    )
    open_keys |= {"train.optimizer", "train.precision"}  # old runs had AdamW and bf16
    resolved = {"train.validations", "train.validate_every"} if begun.train.minutes else set()
    resolved |= {"train.keep"} & open_keys  # last, because it validates on training images
    if (
        begun.train.lr_batch_size is None
        and begun.train.batch_size == requested.train.lr_batch_size
    ):  # old runs had rates for their own batch size
        resolved.add("train.lr_batch_size")
        open_keys.add("train.batch_size")
    return resolved | {key for key in open_keys if now.get(key) in (None, "auto")}


def _longer(run: Run, begun: TrainTable, requested: TrainTable) -> dict[str, int]:
    """Return the steps that a stable schedule gets now, and how many of them decay.

    The run then is as if it had been begun with these, except for earlier validations: with
    train.keep = "best" other weights may be kept. Raises ConfigError if the rate has fallen
    already, or if another setting depends on the length.
    """
    steps, done = requested.steps, max(run.metrics(), default=0)
    if not isinstance(begun.steps, int) or not isinstance(steps, int) or begun.minutes:
        return {}  # refused like any other setting that differs
    bound = {
        "train.ema_share": begun.ema_share,
        "train.patience": begun.patience,
        "augment.progressive": run.recipe.augment.progressive,
    }
    for key in [key for key, value in bound.items() if value]:
        raise ConfigError(
            f"{run.path} was begun with {key}, which depends on the number of steps: it keeps its "
            "number."
        )
    falls, fell = steps - requested.decay_steps, begun.steps - begun.decay_steps
    if begun.decay_steps and done > fell:
        raise ConfigError(
            f"{run.path} is at step {done}, and its rate has been falling since step {fell}: it "
            "cannot be made longer. Start a new run from its weights:\n"
            f"featherseg train {run.recipe.model.name} --init {run.path} --out NEW"
        )
    if done > falls:
        raise ConfigError(
            f"{run.path} is at step {done}, but the rate of {steps} steps with decay_steps = "
            f"{requested.decay_steps} falls from step {falls}. Give at least "
            f"{done + requested.decay_steps} steps."
        )
    return {"steps": steps, "decay_steps": requested.decay_steps}


def check_same_data(
    run: Run,
    data: tuple[SegmentationData, SegmentationData],
    pseudo: PseudoMasks | None,
    on_message: OnMessage,
) -> None:
    """Compare the data (train, val) and the images without masks with those of the run's start.

    Old runs kept no fingerprint: only their classes are compared, and a fingerprint is written now.
    Raises DataError naming everything that differs.
    """
    train, val = data
    splits: dict[str, SegmentationData] = {"train": train, "val": val}
    if pseudo:
        splits["unlabelled"] = pseudo.images
    fingerprint = read_fingerprint(run.path / DATA)
    if fingerprint is None:
        different = class_differences(
            [(info.name, info.thing) for info in run.classes], train.classes
        )
    else:
        different = fingerprint.differences(splits)
    if different:
        raise DataError(
            f"the data of {run.path} are not those that it was started with: "
            f"{'; '.join(different)}. Put them back, or start a new run on the new data:\n"
            f"featherseg train {run.recipe.model.name} --init {run.path} --out NEW"
        )
    if fingerprint is None:
        on_message(
            f"{run.path} has no {DATA}, so it cannot be checked whether its images and masks are "
            "those that it was started with"
        )
        Fingerprint.of(splits).save(run.path / DATA)


def data_moved(recipe: Recipe, run: Run) -> bool:
    """Return whether the resumed `recipe` has its data in another place than the run had."""
    begun = _own_recipe(run).data
    return (recipe.data.name, recipe.data.root) != (begun.name, begun.root)


def _own_recipe(run: Run) -> Recipe:
    """Return the run's recipe with absolute paths; data given as an object have no path."""
    recipe = with_absolute_paths(run.recipe)
    return (
        recipe.model_copy(update={"data": run.recipe.data})
        if "data" in run.info.objects
        else recipe
    )


def _places(begun: Recipe, requested: Recipe) -> set[str]:
    """Return the keys that say where the data lie: a dataset on disk may have been moved."""
    unlabelled = all(recipe.data.unlabelled for recipe in (begun, requested))
    return _places_of_masks(begun, requested) | ({"data.unlabelled"} if unlabelled else set())


def _places_of_masks(begun: Recipe, requested: Recipe) -> set[str]:
    if all(os.path.isabs(recipe.data.name) for recipe in (begun, requested)):
        return {"data.name", "data.root"}
    return {"data.root"} if issubclass(DATASETS.get(begun.data.name, object), NamedData) else set()


def _settings(recipe: Recipe, request: Request) -> dict[str, Any]:
    """Return all settings by key, the model's too; [paper] only if the request sets some of it."""
    published = set() if any(text.startswith("paper.") for text in request.overrides) else {"paper"}
    model: dict[str, Any] = {}
    if request.objects.model is None:
        model = models.configure(recipe.model.name, recipe.model.options).model_dump()
    return flattened({"model": model}) | flattened(recipe.model_dump(exclude=published))


def read_checkpoint(path: Path) -> dict[str, Any] | None:
    """Return the checkpoint of a run, None if there is none. Raises RunError if it is damaged."""
    if not path.is_file():
        return None
    try:
        checkpoint = torch.load(path, map_location="cpu", weights_only=True, mmap=True)
        missing = {"global_step", "micro_batch", "average", "callbacks"} - set(checkpoint)
    except Exception as error:  # a damaged file raises a dozen kinds
        raise RunError(
            f"{path} cannot be read ({type(error).__name__}: {str(error).splitlines()[0]}). Delete "
            f"it to restart the run from step 0; {path.parent}/weights.safetensors is kept."
        ) from error
    if missing:
        raise RunError(
            f"{path} is not a featherseg checkpoint: it has no {', '.join(sorted(missing))}."
        )
    return checkpoint
