"""What a run that goes on may be asked for: what it was begun with, and what does not change its result."""

import os
from pathlib import Path
from typing import Any

import torch

from featherseg import models
from featherseg.core.errors import ConfigError, DataError, RunError
from featherseg.core.types import OnMessage, SegmentationData
from featherseg.data import DATASETS
from featherseg.data.cache.fingerprint import Fingerprint, class_differences, read_fingerprint
from featherseg.data.images.pairs import NamedData
from featherseg.recipe.reading import override_recipe, with_absolute_paths
from featherseg.recipe.tables import ModelTable, Recipe, TrainTable
from featherseg.runs.run import DATA, Run, find_run, open_run
from featherseg.training.request import OBJECT_RECIPE, Request
from featherseg.training.teaching import open_unlabelled, teacher_row

FREE = {"data.workers", "train.device", "train.checkpoint_seconds", "train.loggers"}
FREE |= {"train.devices", "train.nodes", "train.rank_seconds"}
"""Settings that may be others than the run was begun with."""

LENGTH = {"steps", "decay_steps"}
"""Keys of [train] that may be larger when a run with a stable schedule continues."""

_FREE_TRAIN = [key.removeprefix("train.") for key in FREE if key.startswith("train.")]


def resumed_recipe(run: Run, request: Request) -> Recipe:
    """The run's own recipe; of the request only what does not change the result is taken.

    That is FREE, and where the data lie: whether they are the same is for the comparison of the data to say. A stable
    schedule may have more steps now. Without a recipe in the request its options are compared with the run's, with one
    all that it says. Raises ConfigError for an unknown option, and naming every one that differs with both values.
    """
    own = _own_recipe(run)
    if request.recipe is None:
        named = own  # a recipe whose model has a name in the catalogue
        if "model" in run.info.objects:
            named = own.model_copy(update={"model": ModelTable(name=OBJECT_RECIPE)})
        asked = with_absolute_paths(
            override_recipe(named, str(run.path), request.overrides, **request.data_keys)
        )
        asked = request.with_objects(asked)
    else:
        _, asked = request.read()
    if asked.data.split_by is None:  # of its dataset.toml, which may say another by now
        asked = asked.model_copy(
            update={"data": asked.data.model_copy(update={"split_by": own.data.split_by})}
        )
    given, needed = request.objects.names, run.info.objects
    if given != needed:
        these = " and ".join(f"{name}=" for name in needed) or "none"
        raise ConfigError(
            f"{run.path} was begun with {these} as objects, and {', '.join(given) or 'none'} came now: pass {these}."
        )
    mine, theirs = (_settings(recipe, request) for recipe in (own, asked))
    open_keys = (
        {"augment.crop", "train.batch_size"} if run.info.found is None else set(run.info.found)
    )
    open_keys |= {
        "train.optimizer",
        "train.precision",
    }  # runs of before recipes left these open: AdamW, bf16
    found_beside = {"train.validations", "train.validate_every"} if own.train.minutes else set()
    found_beside |= {"train.keep"} & open_keys  # as it validates on images that it trains on
    if (
        own.train.lr_batch_size is None and own.train.batch_size == asked.train.lr_batch_size
    ):  # of before, too
        found_beside.add("train.lr_batch_size")
        open_keys.add("train.batch_size")
    same = (
        FREE
        | found_beside
        | _places(own, asked)
        | {key for key in open_keys if theirs.get(key) in (None, "auto")}
    )
    different = {
        k: (mine.get(k), theirs.get(k)) for k in {**mine, **theirs} if mine.get(k) != theirs.get(k)
    }
    begun, init = run.info.loaded.get("init"), request.init
    if init is not None and (
        begun is None or {begun, os.path.abspath(begun)}.isdisjoint({init, os.path.abspath(init)})
    ):
        different["--init"] = (begun, init)
    teacher = own.teacher
    if asked.teacher != own.teacher and _same_teachers(run, asked):
        same |= (
            {"teacher.runs", "teacher.unlabelled"} if asked.teacher.unlabelled else {"teacher.runs"}
        )
        moved = {
            "runs": asked.teacher.runs,
            "unlabelled": asked.teacher.unlabelled or teacher.unlabelled,
        }
        teacher = teacher.model_copy(update=moved)
    if (
        request.objects.loss is not None
    ):  # runs of before kept the recipe's table, of which nothing is its
        same |= {key for key in different if key.startswith("loss.")}
    longer: dict[str, int] = {}
    if {"train.steps", "train.decay_steps"} & different.keys() and own.train.schedule == "stable":
        longer = _longer(run, own.train, asked.train)
        same |= {f"train.{key}" for key in longer}
    told = [
        f"{key} is {a!r} in the run and {b!r} now"
        for key, (a, b) in different.items()
        if key not in same
    ]
    if told:
        raise ConfigError(
            f"{run.path} was started with other settings: {'; '.join(told)}. A resumed run keeps its settings: leave "
            "these options out. To train longer or with other settings, start a new run from its weights: featherseg "
            f"train {own.model.name} --init {run.path} --out NEW"
        )
    data = own.data.model_copy(
        update={
            "name": asked.data.name,
            "root": asked.data.root or own.data.root,
            "workers": asked.data.workers,
        }
    )
    free = {key: getattr(asked.train, key) for key in _FREE_TRAIN}
    train = own.train.model_copy(update=free | longer)
    return own.model_copy(update={"data": data, "teacher": teacher, "train": train})


def _longer(run: Run, own: TrainTable, asked: TrainTable) -> dict[str, int]:
    """The steps that a stable schedule gets now, and how many of them decay; it then is as if begun with these.

    But for the validations before: with train.keep = "best" other weights may be kept.
    Raises ConfigError where it is not, as the rate has fallen already, or what is done depends on the length.
    """
    steps, done = asked.steps, max(run.metrics(), default=0)
    if not isinstance(own.steps, int) or not isinstance(steps, int) or own.minutes:
        return {}  # told as any other setting that differs
    bound = {
        "train.ema_share": own.ema_share,
        "train.patience": own.patience,
        "augment.progressive": run.recipe.augment.progressive,
    }
    for key in [key for key, value in bound.items() if value]:
        raise ConfigError(
            f"{run.path} was begun with {key}, which depends on the number of steps: it keeps its own."
        )
    falls, fell = steps - asked.decay_steps, own.steps - own.decay_steps
    if own.decay_steps and done > fell:
        raise ConfigError(
            f"{run.path} is at step {done}, and its rate has been falling since step {fell}: it cannot go on longer. "
            f"Start a new run from its weights: featherseg train {run.recipe.model.name} --init {run.path} --out NEW"
        )
    if done > falls:
        raise ConfigError(
            f"{run.path} is at step {done}, and of {steps} steps with {asked.decay_steps} at a falling rate it would "
            f"have to fall from step {falls} on. Give at least {done + asked.decay_steps} steps."
        )
    return {"steps": steps, "decay_steps": asked.decay_steps}


def _same_teachers(run: Run, asked: Recipe) -> bool:
    """Whether those that are named now say the same as the run's, wherever they lie."""
    names, rows = asked.teacher.runs, run.info.teachers
    if names == with_absolute_paths(run.recipe).teacher.runs:
        return True
    return len(names) == len(rows) and all(
        teacher_row(open_run(find_run(name))).outputs == row.outputs
        for name, row in zip(names, rows, strict=True)
    )


def check_same_data(
    run: Run, recipe: Recipe, data: tuple[SegmentationData, SegmentationData], on_message: OnMessage
) -> None:
    """Compare the data, (train, val), and the recipe's images without masks with what the run was begun with.

    A run from before that was kept has it written now.

    Raises DataError naming everything that differs. Of such an older run only the classes are compared.
    """
    train, val = data
    splits: dict[str, SegmentationData] = {"train": train, "val": val}
    if unlabelled := open_unlabelled(recipe, train):
        splits["unlabelled"] = unlabelled
    known = read_fingerprint(run.path / DATA)
    if known is None:
        different = class_differences(
            [(info.name, info.thing) for info in run.classes], train.classes
        )
    else:
        different = known.differences(splits)
    if different:
        raise DataError(
            f"the data of {run.path} are not those that it was started with: {'; '.join(different)}. Put them back, "
            f"or start a new run on the new data: featherseg train {run.recipe.model.name} --init {run.path} --out NEW"
        )
    if known is None:
        on_message(
            f"{run.path} has no {DATA}, so whether its images and masks are those it was started with cannot be checked"
        )
        Fingerprint.of(splits).save(run.path / DATA)


def data_moved(recipe: Recipe, run: Run) -> bool:
    """Whether `recipe`, that of the resumed run, looks for the data in another place than the run was begun with."""
    own = _own_recipe(run).data
    return (recipe.data.name, recipe.data.root) != (own.name, own.root)


def _own_recipe(run: Run) -> Recipe:
    """With whole paths; the name of data that came as an object is none, even where a folder is called so."""
    recipe = with_absolute_paths(run.recipe)
    return (
        recipe.model_copy(update={"data": run.recipe.data})
        if "data" in run.info.objects
        else recipe
    )


def _places(own: Recipe, asked: Recipe) -> set[str]:
    """The keys that say where the data lie: those of a dataset on disk may have been moved."""
    if all(
        os.path.isabs(recipe.data.name) for recipe in (own, asked)
    ):  # paths, of which either may be gone
        return {"data.name", "data.root"}
    return {"data.root"} if issubclass(DATASETS.get(own.data.name, object), NamedData) else set()


def _settings(recipe: Recipe, request: Request) -> dict[str, Any]:
    """Every setting by its key, those of the model too; what was published only where the request speaks of it."""
    published = set() if any(text.startswith("paper.") for text in request.overrides) else {"paper"}
    own = request.objects.model is not None
    model = {} if own else models.configure(recipe.model.name, recipe.model.options).model_dump()
    return _flat({"model": model}) | _flat(recipe.model_dump(exclude=published))


def _flat(values: dict[str, Any], prefix: str = "") -> dict[str, Any]:
    flat: dict[str, Any] = {}
    for key, value in values.items():
        flat |= (
            _flat(value, f"{prefix}{key}.")
            if isinstance(value, dict)
            else {f"{prefix}{key}": value}
        )
    return flat


def read_checkpoint(path: Path) -> dict[str, Any] | None:
    """Return the checkpoint of a run, None if there is none. Raises RunError if it is damaged."""
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
