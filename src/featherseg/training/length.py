"""How long a training is: images of a step and steps where the recipe leaves them open, and the time they will take."""

import copy
import math
import time
from collections.abc import Iterable, Mapping
from contextlib import suppress
from functools import partial
from itertools import repeat
from typing import Any

import torch
import torch.nn.functional as F
from lightning.fabric.utilities import move_data_to_device
from torch.nn.utils import clip_grad_norm_

from featherseg.core.errors import ConfigError
from featherseg.core.machine import pick_device
from featherseg.core.types import IGNORE, SegmentationData, Size
from featherseg.core.wording import counted, size_text
from featherseg.data.pipeline.loader import GROWTH, Batch
from featherseg.evaluation.scoring import evaluate
from featherseg.inference.runtimes.pytorch import TorchRuntime
from featherseg.layers.model import SegmentationModel
from featherseg.recipe.tables import Recipe
from featherseg.training.batches import loader_workers, open_batches
from featherseg.training.checkpointing import checkpoint_blocks
from featherseg.training.loss import build_loss
from featherseg.training.memory import DOUBT, HALF, Estimate, blank_batch
from featherseg.training.module import compute_loss
from featherseg.training.objects import NAMES_ALONE, Objects
from featherseg.training.optimisers import build_optimizer

SAMPLES = 960
"""Crops seen in all for each square root of the number of images: 367 images (CamVid) get 2,300 steps of 8."""
LEAST_STEPS = 500
"""Of a training whose steps are found from the number of images."""
USUAL, MOST = 8, 32
"""Images of a step by `train.batch_size = "auto"` ..."""
STEP_PIXELS = 1_400_000
"""... more than USUAL where they have together no more pixels: 32 of 200x200, 16 of 256x256, 8 of 360x480."""
SHARE = 0.8
"""Of the free memory, what these take at most: the loader's processes need some of it."""
MEASURED = 0.05
"""Share of `train.minutes` in which the steps are timed ..."""
MOST_MEASURED, LONG = 20.0, 0.01
"""... and seconds of it, at most; of long ones this share."""
TRIAL_PIXELS = 800_000
"""Of the images by which the time of a step is estimated, where no minutes are given."""
TRIAL_SECONDS = 0.5
"""That they are timed for, at least."""
SPARE = 0.02
"""Share of `train.minutes` that is kept back, beside ENDING."""
ENDING = 5.0
"""Seconds for the pages that are written at the end."""
VALIDATING = 0.05
"""Share of `train.minutes` that validations may take ..."""
SCORED_AGAIN = 2
"""... and how many more there are where some find that another share of the class weights is better undone."""


def choose_batch_size(estimate: Estimate | None, crop: Size, images: int, *, ranks: int = 1) -> int:
    """USUAL images, more where crops are small, fewer where a step would not fit into the memory; over all devices.

    A step of small crops costs little more by twice as many. There are so many of `images` that the training still has
    LEAST_STEPS by itself. The number is a multiple of `ranks`, the devices; of no estimate the memory is not asked.
    """
    batch = USUAL
    while (
        2 * batch <= MOST
        and 2 * batch * math.prod(crop) <= STEP_PIXELS
        and SAMPLES * math.sqrt(images) >= LEAST_STEPS * 2 * batch
    ):
        batch *= 2
    own = max(1, batch // ranks)
    while own > 1 and estimate and DOUBT * estimate.added(own, crop) > SHARE * estimate.available:
        own //= 2
    return own * ranks


def usual_steps(images: int, batch_size: int) -> int:
    """Steps of a training on so many images that is given neither steps nor minutes."""
    return max(LEAST_STEPS, round(SAMPLES * math.sqrt(images) / batch_size))


def count_steps(recipe: Recipe, images: int) -> tuple[int, int]:
    """(optimiser steps of the whole run, optimiser steps between validations); steps and batch size are numbers."""
    settings = recipe.train
    assert isinstance(settings.batch_size, int)
    an_epoch = -(-images // (settings.batch_size * settings.accumulate))  # ceil
    if settings.epochs:
        steps = settings.epochs * an_epoch
    else:
        assert isinstance(settings.steps, int)
        steps = settings.steps
    if settings.validate_every:
        return steps, settings.validate_every * an_epoch
    return steps, max(an_epoch, -(-steps // settings.validations))


class TooFewMinutes(ConfigError):
    """Minutes that what is beside the steps takes alone; least: how many it takes with one step."""

    def __init__(self, minutes: float, beside: float, a_step: float) -> None:
        self.least = beside + a_step
        super().__init__(
            f"train.minutes = {minutes:g}: start, validation and report alone take about {beside:.1f} minutes here. "
            f"Give at least {math.ceil(self.least)}."
        )


def resolve_length(
    recipe: Recipe,
    model: SegmentationModel,
    data: tuple[SegmentationData, SegmentationData],
    class_weights: list[float] | None,
    objects: Objects,
    began: float,
    drawing: Mapping[str, Any] | None = None,
) -> tuple[Recipe, float | None]:
    """The recipe with its steps as a number; -> (that, seconds of a step, None where the model takes no such trial).

    Crop and batch size are numbers in the recipe; data: (train, val); began: when the command was given, by
    `time.monotonic`; drawing: how samples are drawn, the keywords that `open_batches` takes beside these. Raises
    TooFewMinutes where `train.minutes` are too few.
    """
    settings, (train, val) = recipe.train, data
    assert isinstance(settings.batch_size, int)
    batch_size, images = (
        settings.batch_size,
        settings.batch_size * settings.accumulate,
    )  # images of a step
    if settings.minutes and settings.steps is None:
        left = 60 * settings.minutes * (1 - SPARE) - ENDING
        trial = min(MEASURED * left, max(MOST_MEASURED, LONG * left))
        pace = time_step(recipe, model, train, class_weights, trial, objects, drawing)
        opening, each = time_validation(model, recipe, val)
        validating = opening + len(val) * each
        validations = min(settings.validations, max(1, int(VALIDATING * left / validating)))
        again = SCORED_AGAIN if class_weights and recipe.loss.undo_class_weights == "auto" else 0
        left -= (
            time.monotonic() - began + (validations + 1 + again) * validating
        )  # once more for the report
        if (steps := int(left / pace)) < 1:
            raise TooFewMinutes(settings.minutes, settings.minutes - left / 60, pace / 60)
        found = {"steps": steps, "validations": validations, "validate_every": None}
        return recipe.model_copy(update={"train": settings.model_copy(update=found)}), pace
    if settings.steps == "auto":
        settings = settings.model_copy(update={"steps": usual_steps(len(train), images)})
        recipe = recipe.model_copy(update={"train": settings})
    taken: float | None = None
    with suppress(
        RuntimeError, ValueError
    ):  # a model of one's own may be made for one size, and fails as it likes
        assert recipe.augment.crop is not None
        few = max(
            min(2, batch_size), min(batch_size, TRIAL_PIXELS // math.prod(recipe.augment.crop))
        )
        teaching = (drawing or {}).get("teaching")
        batch = blank_batch(
            model,
            few,
            recipe.augment.crop,
            torch.device("cpu"),
            teaching.grid if teaching else None,
        )
        on_device = (
            images / settings.devices / settings.nodes
            if pick_device(settings.device).type == "cuda"
            else images
        )
        taken = (
            time_batch(model, recipe, repeat(batch), class_weights, objects, TRIAL_SECONDS)
            * on_device
            / few
        )
        if loader_workers(recipe) == 0:  # reading waits for the step, and the step for it
            taken += time_reading(recipe, model, train, objects, drawing) * settings.accumulate
        taken *= sum(share * part**2 for _, share, part in _sizes(recipe))
    return recipe, taken


def time_reading(
    recipe: Recipe,
    model: SegmentationModel,
    train: SegmentationData,
    objects: Objects,
    drawing: Mapping[str, Any] | None = None,
) -> float:
    """Seconds that a batch is read and augmented in by this process, the second of two."""
    batches = open_batches(
        recipe, train, total=2, panoptic=model.panoptic, augment=objects.augment, **drawing or {}
    )
    stream = iter(batches(0, 0, 1))
    next(stream)
    began = time.monotonic()
    next(stream)
    return time.monotonic() - began


def time_step(
    recipe: Recipe,
    model: SegmentationModel,
    train: SegmentationData,
    class_weights: list[float] | None,
    seconds: float,
    objects: Objects = NAMES_ALONE,
    drawing: Mapping[str, Any] | None = None,
) -> float:
    """Seconds of a step on the training images, their reading included, found in about `seconds`.

    Crop and batch size are numbers in the recipe; drawing is as for `resolve_length`. On a CPU the processes of a
    training share its cores, so that each takes as many times as long.
    """
    total, ranks, pace = 2**40, recipe.train.devices * recipe.train.nodes, 0.0
    batches = open_batches(
        recipe,
        train,
        total=total,
        panoptic=model.panoptic,
        augment=objects.augment,
        **drawing or {},
    )
    for start, share, _ in (sizes := _sizes(recipe)):
        stream = batches(math.ceil(start * total), 0, ranks)
        pace += (
            share
            * recipe.train.accumulate
            * time_batch(model, recipe, stream, class_weights, objects, seconds / len(sizes))
        )
    return pace * (recipe.train.devices if pick_device(recipe.train.device).type == "cpu" else 1)


def _sizes(recipe: Recipe) -> list[tuple[float, float, float]]:
    """From which share of the steps on, and for which share of them, crops have which part of their size."""
    growth = GROWTH if recipe.augment.progressive else ((1.0, 1.0),)
    starts = [0.0, *(until for until, _ in growth)]
    return [
        (start, until - start, part) for start, (until, part) in zip(starts, growth, strict=False)
    ]


def say_length(
    recipe: Recipe, images: int, scored: int, pace: float | None, taught: float = 0.0
) -> str:
    """`2,300 steps of 8 images, crops of 360x480: each image 50 times, about 24 min and 10 validations of 101 images`.

    images, scored: how many are trained on and validated on; taught: share of the samples that are drawn from images
    without masks.
    """
    assert recipe.augment.crop is not None
    assert isinstance(recipe.train.batch_size, int)
    steps, every = count_steps(recipe, images)
    a_step = recipe.train.batch_size * recipe.train.accumulate
    growing = ", at first at half their size" if recipe.augment.progressive else ""
    crop = size_text(recipe.augment.crop)
    text = f"{counted(steps, 'step')} of {counted(a_step, 'image')}, crops of {crop}{growing}: "
    text += f"each of {counted(images, 'image')} {steps * a_step * (1 - taught) / images:.3g} times"
    text += f" ({taught:.0%} of what is seen has no mask)" if taught else ""
    if pace is None:
        return text
    validations = counted(-(-steps // every), "validation")
    return f"{text}, about {duration(steps * pace)} and {validations} of {counted(scored, 'image')}"


def duration(seconds: float) -> str:
    """`40 s`, `24 min`, `3.5 h`."""
    if seconds < 90:
        return f"{seconds:.0f} s"
    return f"{seconds / 60:.0f} min" if seconds < 5400 else f"{seconds / 3600:.1f} h"


def time_batch(
    model: SegmentationModel,
    recipe: Recipe,
    batches: Iterable[Batch],
    class_weights: list[float] | None,
    objects: Objects,
    seconds: float,
) -> float:
    """Seconds that training takes for one batch, on a copy of the model, behind a first that is not counted.

    So many batches as `seconds` have room for, two at least; of them the later half counts, when the loader's store is
    used up. In place of a loss of one's own stands cross-entropy.
    """
    device, settings = pick_device(recipe.train.device), recipe.train
    model = copy.deepcopy(model).train().to(device, memory_format=torch.channels_last)  # type: ignore[call-overload]
    kind = HALF.get(settings.precision)
    with torch.random.fork_rng(range(torch.cuda.device_count())):
        own = partial(F.cross_entropy, ignore_index=IGNORE) if objects.loss else None
        loss: Any = build_loss(class_weights, recipe, model, own).to(device)
        optimizer = build_optimizer(model, loss, settings)
        if settings.checkpoint_activations:
            checkpoint_blocks(model)
        average = (
            [p.detach().clone() for p in model.parameters()]
            if settings.ema or settings.ema_share
            else []
        )
        ends: list[float] = []
        for batch in batches:
            on_device = move_data_to_device(batch, device)
            with torch.autocast(device.type, dtype=kind, enabled=kind is not None):
                total = compute_loss(model, loss, on_device)[0]
            optimizer.zero_grad()
            total.backward()
            if settings.clip_norm:
                clip_grad_norm_(
                    [p for group in optimizer.param_groups for p in group["params"]],
                    settings.clip_norm,
                )
            optimizer.step()
            with torch.no_grad():
                for mean, parameter in zip(average, model.parameters(), strict=False):
                    mean.lerp_(parameter, 0.1)
            float(total.detach())  # waits for the device
            ends.append(time.monotonic())
            if len(ends) > 2 and ends[-1] - ends[0] >= seconds:
                break
    later = ends[(len(ends) - 1) // 2 :]
    return (later[-1] - later[0]) / (len(later) - 1)


def time_validation(
    model: SegmentationModel, recipe: Recipe, val: SegmentationData
) -> tuple[float, float]:
    """(seconds to open the model, seconds an image) of scoring `val`, with all scores."""
    began = time.monotonic()
    runtime = TorchRuntime(
        copy.deepcopy(model).eval(),
        val.classes,
        test_resize=recipe.data.test_resize,
        panoptic=recipe.panoptic,
        device=pick_device(recipe.train.device),
    )
    evaluate(runtime, _Few(val, 1))
    opened = time.monotonic()
    few = _Few(val, min(4, len(val)))
    evaluate(runtime, few)
    each = (time.monotonic() - opened) / len(few)
    return max(0.0, opened - began - each), each


class _Few:
    """Some images of a dataset, evenly spread."""

    def __init__(self, data: SegmentationData, number: int) -> None:
        self._data, self._number = data, number

    def __getattr__(self, name: str) -> Any:
        if (
            name == "panoptic"
        ):  # goes by places in all of the data; what the samples hold takes as long
            raise AttributeError(name)
        return getattr(self._data, name)

    def __len__(self) -> int:
        return self._number

    def __getitem__(self, index: int) -> Any:
        return self._data[index * len(self._data) // self._number]
