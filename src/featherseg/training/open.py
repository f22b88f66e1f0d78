"""Open what a training needs and begin its run folder, before the first step."""

import copy
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

import torch

from featherseg import models
from featherseg._version import __version__
from featherseg.core.errors import ConfigError, DataError, FeathersegError
from featherseg.core.files import write_json, write_text
from featherseg.core.machine import environment
from featherseg.core.storage import is_remote
from featherseg.core.types import ClassInfo, OnMessage, Reporter, SegmentationData
from featherseg.core.wording import WarningText, counted
from featherseg.data import open_dataset, score_split
from featherseg.data.cache.fingerprint import (
    TEST,
    Fingerprint,
    copies_of,
    files_of,
    named_pairs,
)
from featherseg.data.cache.mirror import local_folder
from featherseg.data.datasets.unlabelled import UnlabelledImages
from featherseg.data.images.image_range import measure_range
from featherseg.layers.model import SegmentationModel
from featherseg.layers.normalise import FULL_RANGE
from featherseg.recipe.reading import RecipeFile
from featherseg.recipe.tables import Recipe
from featherseg.runs.run import (
    DATA,
    ENVIRONMENT,
    FORMAT_VERSION,
    Run,
    RunInfo,
    class_rows,
    write_info,
)
from featherseg.training.batches import UNIFORM, Sampling, open_sampling, write_class_points
from featherseg.training.class_weights import resolve_class_weights
from featherseg.training.initialisation import starting_weights, terms_of
from featherseg.training.loss import keep_supervised_heads
from featherseg.training.objects import Objects
from featherseg.training.resolve import Facts, count_steps, resolved_keys
from featherseg.training.self_training import label_images


@dataclass(frozen=True)
class Inputs:
    """What a new training starts from, opened once and checked.

    recipe: As requested; open settings are still open.
    loaded: The record of the weights that the model starts from; empty from scratch.
    image_range: The range of 16-bit images; None for 8-bit images.
    """

    file: RecipeFile
    recipe: Recipe
    train: SegmentationData
    val: SegmentationData
    model: SegmentationModel
    loaded: dict[str, Any]
    image_range: int | None
    objects: Objects
    unlabelled: UnlabelledImages | None = None


@dataclass(frozen=True)
class DataRecord:
    """What is kept of the data, and what the loss and the loader make of it.

    class_weights: One per class; None without weights.
    fingerprint: Of all images.
    test: The test split, if it is complete; empty otherwise.
    """

    class_weights: list[float] | None
    sampling: Sampling
    fingerprint: Fingerprint
    test: dict[str, SegmentationData]


@dataclass(frozen=True)
class Training:
    """All that the steps of a training need: its run folder, its settings, the data, the model.

    ends: When, by `time.monotonic`, the last step must be over; None: whenever it is.
    """

    run: Run
    recipe: Recipe
    train: SegmentationData
    val: SegmentationData
    model: SegmentationModel
    objects: Objects
    steps: int
    validate_every: int
    sampling: Sampling = UNIFORM
    estimated_gb: float | None = None
    ends: float | None = None


def open_data(recipe: Recipe, objects: Objects) -> tuple[SegmentationData, SegmentationData]:
    """Return the training and the validation split. Raises ConfigError and DataError."""
    if objects.data is not None:
        return objects.data
    root = None if recipe.data.root is None else Path(recipe.data.root)
    name, by = recipe.data.name, recipe.data.split_by
    train = open_dataset(
        name, recipe.data.train_split, root, recipe.data.train_size, exact=False, split_by=by
    )
    val = open_dataset(name, recipe.data.val_split, root, recipe.data.val_size, split_by=by)
    return train, val


def open_unlabelled(
    recipe: Recipe, train: SegmentationData, val: SegmentationData, objects: Objects
) -> UnlabelledImages | None:
    """Return the images without masks, None if the recipe names no folder.

    Images that train, val or a complete test split has too are left out: a model that learned from
    them could not be scored on them. Raises DataNotFound, DataError.
    """
    folder = recipe.data.unlabelled
    if folder is None:
        return None
    unlabelled = UnlabelledImages(
        local_folder(folder) if is_remote(folder) else Path(folder), train, train[0].image
    )
    unlabelled[0]  # raises now if its bits per channel differ
    files, resolve = files_of(train), cache(Path.resolve)
    masks = [path for pair in files.pairs for path in pair.mask_files] if files else []
    mask_places = {(resolve(mask.parent), mask.name) for mask in masks}
    if among_masks := [
        pair.key
        for pair in unlabelled.pairs
        if pair.image and (resolve(pair.image.parent), pair.image.name) in mask_places
    ]:
        are = "image in it is a mask" if len(among_masks) == 1 else "images in it are masks"
        raise DataError(
            f"{folder}: {len(among_masks)} {are} of {train.name}, such as {among_masks[0]}. Name a "
            "folder that contains only images."
        )
    splits = {"train": train, "val": val} | _open_test(recipe, objects)
    unlabelled.leave_out({name: copies_of(unlabelled, data) for name, data in splits.items()})
    return unlabelled


def _open_test(recipe: Recipe, objects: Objects) -> dict[str, SegmentationData]:
    """Return the test split by its name, nothing if there is none or it is incomplete."""
    root = None if recipe.data.root is None else Path(recipe.data.root)
    try:
        if objects.data or score_split(recipe.data.name, root) != TEST:
            return {}
        return {TEST: open_dataset(recipe.data.name, TEST, root, split_by=recipe.data.split_by)}
    except FeathersegError:
        return {}


def open_model(
    recipe: Recipe,
    classes: tuple[ClassInfo, ...],
    channels: int,
    init: str | None,
    on_message: OnMessage,
    user_model: SegmentationModel | None = None,
) -> tuple[SegmentationModel, dict[str, Any]]:
    """Return (the model as training starts with it, the record of the weights that were loaded).

    The same recipe gives the same weights. A model given as an object is copied. Raises ConfigError
    if it has other classes or channels than the data, WeightsError if weights do not fit.
    """
    torch.manual_seed(recipe.train.seed)
    if user_model is None:
        model = models.build(recipe.model.name, len(classes), channels, recipe.model.options)
    elif (user_model.classes, len(user_model.mean)) != (len(classes), channels):
        raise ConfigError(
            f"{recipe.model.name} is for {user_model.classes} classes and {len(user_model.mean)} "
            "channels (its `classes`, and the number of values of its `mean`); the data have "
            f"{len(classes)} and {channels}."
        )
    else:
        model = copy.deepcopy(user_model)
    keep_supervised_heads(model, recipe)
    loaded, messages = starting_weights(model, recipe, init, classes)
    for message in messages:
        on_message(message)
    return model, loaded


def set_image_range(
    train: SegmentationData, model: SegmentationModel, on_message: OnMessage
) -> int | None:
    """Measure the range of 16-bit training images and set it in the model; None for 8 bits."""
    image_range = measure_range(train)
    if image_range is not None:
        model.image_range = image_range
        if image_range < FULL_RANGE:
            on_message(
                f"16-bit images use values below {image_range:,} of {FULL_RANGE:,}: the model "
                "scales them by that"
            )
    return image_range


def record_data(
    inputs: Inputs, recipe: Recipe, first: Run | None, out: Path, reporter: Reporter
) -> DataRecord:
    """Read every image and mask that the recipe asks for, and write to `out` what is kept of them.

    That takes minutes: class weights, pseudo-masks, points by class, fingerprints. Crop and batch
    size are numbers in the recipe.

    Args:
        first: The run that labels the images without masks.
    """
    on_message = reporter.message
    class_weights = resolve_class_weights(recipe, inputs.train, inputs.model, on_message)
    pseudo = None
    if inputs.unlabelled and first:
        pseudo = label_images(first, inputs.unlabelled, recipe, len(inputs.train), out, reporter)
    write_class_points(out, recipe, inputs.train, on_message)
    sampling = open_sampling(out, recipe, inputs.train, pseudo)

    splits = {"train": inputs.train, "val": inputs.val}
    if inputs.unlabelled:
        splits["unlabelled"] = inputs.unlabelled
    test = _open_test(recipe, inputs.objects)
    fingerprint = Fingerprint.of(splits | test)
    fingerprint.save(out / DATA)
    return DataRecord(class_weights, sampling, fingerprint, test)


def warn_of_scores(
    recipe: Recipe, val: SegmentationData, record: DataRecord, on_message: OnMessage
) -> None:
    """Warn of images that will be scored and are trained on."""
    for name, scored in {recipe.data.val_split: val, **record.test}.items():
        for warning in record.fingerprint.score_warnings(scored, f"{scored.name} {name}"):
            on_message(WarningText(warning))
    if seen := record.fingerprint.trained_on(val):
        are = "is" if len(seen) == 1 else "are"
        images = f"{counted(len(seen), 'image')} of {val.name} {recipe.data.val_split}"
        on_message(WarningText(f"{images} {are} trained on too: {named_pairs(seen)}"))


def begin_run(
    inputs: Inputs,
    recipe: Recipe,
    facts: Facts,
    record: DataRecord,
    out: Path,
    estimated_gb: float | None,
) -> Training:
    """Write the record of a run folder; resolved.json comes last and makes the folder a run."""
    info = RunInfo(
        format_version=FORMAT_VERSION,
        featherseg=__version__,
        recipe_name=inputs.file.name,
        recipe=recipe,
        classes=class_rows(inputs.train.classes),
        channels=inputs.train.channels,
        image_size=facts.data.image_size,
        image_range=inputs.image_range,
        licence=terms_of(inputs.train.licence, inputs.loaded),
        loaded=inputs.loaded,
        class_weights=record.class_weights,
        threads=torch.get_num_threads(),
        found=resolved_keys(inputs.recipe, facts),
        device=facts.machine.device,
        objects=inputs.objects.names,
    )
    write_text(out / "recipe.toml", inputs.file.text)
    write_json(out / ENVIRONMENT, environment() | {"memory_gb": {"estimated": estimated_gb}})
    write_info(out, info)
    steps, validate_every = count_steps(recipe, len(inputs.train))
    return Training(
        Run(out, info, inputs.objects.model),
        recipe,
        inputs.train,
        inputs.val,
        inputs.model,
        inputs.objects,
        steps,
        validate_every,
        record.sampling,
        estimated_gb,
    )
