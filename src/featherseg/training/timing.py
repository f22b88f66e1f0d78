"""The seconds of a training step and of a validation, measured on copies of the model."""

import copy
import math
import time
from collections.abc import Iterable
from contextlib import suppress
from functools import partial
from itertools import repeat
from typing import Any

import torch
import torch.nn.functional as F
from torch.nn.utils import clip_grad_norm_

from featherseg.core.machine import pick_device
from featherseg.core.types import IGNORE, SegmentationData
from featherseg.data.pipeline.loader import GROWTH, Batch
from featherseg.evaluation.scoring import evaluate
from featherseg.inference.runtimes.pytorch import TorchRuntime
from featherseg.layers.model import SegmentationModel
from featherseg.recipe.tables import Recipe
from featherseg.training.batches import UNIFORM, Sampling, loader_workers, open_batches
from featherseg.training.checkpointing import checkpoint_blocks
from featherseg.training.loss import build_loss, compute_loss
from featherseg.training.memory import HALF, blank_batch
from featherseg.training.objects import NAMES_ALONE, Objects
from featherseg.training.optimisers import build_optimizer
from featherseg.training.resolve import Speed, seconds_to_train, updated

TIMED_SHARE = 0.05
"""Share of `train.minutes` in which steps are timed ..."""

TIMED_SECONDS = 20.0
"""... at most this many seconds ..."""

TIMED_SHARE_OF_LONG = 0.01
"""... or this share of the minutes, if that is more."""

TRIAL_PIXELS = {"cuda": 800_000, "cpu": 260_000}
"""Pixels of the images of a step that is timed without `train.minutes`, about.

A GPU takes as long for few images as for some; a CPU takes its time for each."""

TRIAL_SECONDS = 0.2
"""Seconds for which that step is repeated, at least."""


def measure_speed(
    recipe: Recipe,
    model: SegmentationModel,
    data: tuple[SegmentationData, SegmentationData],
    class_weights: list[float] | None,
    objects: Objects,
    began: float,
    sampling: Sampling,
) -> Speed:
    """Time what the recipe's length needs: validations too if `train.minutes` decide the steps.

    Crop and batch size are numbers in the recipe. data: (train, val). began: when the command
    began, by `time.monotonic`.
    """
    settings, (train, val) = recipe.train, data
    if not settings.minutes or settings.steps is not None:
        return Speed(estimate_step(recipe, model, train, class_weights, objects, sampling))
    seconds = seconds_to_train(settings.minutes)
    trial = min(TIMED_SHARE * seconds, max(TIMED_SECONDS, TIMED_SHARE_OF_LONG * seconds))
    step_seconds = time_step(recipe, model, train, class_weights, trial, objects, sampling)
    opening, image_seconds = time_validation(model, recipe, val)
    return Speed(step_seconds, opening + len(val) * image_seconds, time.monotonic() - began)


def estimate_step(
    recipe: Recipe,
    model: SegmentationModel,
    train: SegmentationData,
    class_weights: list[float] | None,
    objects: Objects,
    sampling: Sampling,
) -> float | None:
    """Return about the seconds of a step, from a few black images; None if the model fails on them.

    A model given as an object may be made for one size.
    """
    settings, crop = recipe.train, recipe.augment.crop
    assert crop is not None
    assert isinstance(settings.batch_size, int)
    images, device = settings.batch_size * settings.accumulate, pick_device(settings.device).type
    pixels = TRIAL_PIXELS["cpu" if device == "cpu" else "cuda"]
    with suppress(RuntimeError, ValueError):
        few = max(
            min(2, settings.batch_size),
            min(settings.batch_size, pixels // math.prod(crop)),
        )
        batch = blank_batch(model, few, crop, torch.device("cpu"))
        seconds = time_batch(model, recipe, repeat(batch), class_weights, objects, TRIAL_SECONDS)
        gpus = settings.devices * settings.nodes if device == "cuda" else 1
        seconds *= images / gpus / few
        if loader_workers(recipe) == 0:  # then reading and training take turns
            seconds += time_reading(recipe, model, train, objects, sampling) * images
        return seconds * sum(share * part**2 for _, share, part in _sizes(recipe))
    return None


def time_reading(
    recipe: Recipe,
    model: SegmentationModel,
    train: SegmentationData,
    objects: Objects,
    sampling: Sampling,
) -> float:
    """Return the seconds in which this process reads and augments an image, the second of two."""
    recipe = updated(recipe, train={"batch_size": 1})
    batches = open_batches(
        recipe,
        train,
        total=2,
        panoptic=model.panoptic,
        augment=objects.augment,
        sampling=sampling,
        image_range=model.image_range,
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
    sampling: Sampling = UNIFORM,
) -> float:
    """Return the seconds of a step on training images, reading included, timed for about `seconds`.

    Crop and batch size are numbers in the recipe. On a CPU the processes of a training share the
    cores, so a step takes as many times longer.
    """
    total, ranks, step_seconds = 2**40, recipe.train.devices * recipe.train.nodes, 0.0
    batches = open_batches(
        recipe,
        train,
        total=total,
        panoptic=model.panoptic,
        augment=objects.augment,
        sampling=sampling,
        image_range=model.image_range,
    )
    for start, share, _ in (sizes := _sizes(recipe)):
        stream = batches(math.ceil(start * total), 0, ranks)
        step_seconds += (
            share
            * recipe.train.accumulate
            * time_batch(model, recipe, stream, class_weights, objects, seconds / len(sizes))
        )
    on_cpu = pick_device(recipe.train.device).type == "cpu"
    return step_seconds * (recipe.train.devices if on_cpu else 1)


def _sizes(recipe: Recipe) -> list[tuple[float, float, float]]:
    """Return (first share of the steps, share of them, share of the crop's sides) by crop size."""
    growth = GROWTH if recipe.augment.progressive else ((1.0, 1.0),)
    starts = [0.0, *(until for until, _ in growth)]
    return [
        (start, until - start, part) for start, (until, part) in zip(starts, growth, strict=False)
    ]


def time_batch(
    model: SegmentationModel,
    recipe: Recipe,
    batches: Iterable[Batch],
    class_weights: list[float] | None,
    objects: Objects,
    seconds: float,
) -> float:
    """Return the seconds of a training step on one batch, of a copy of the model.

    Batches are trained for about `seconds`, at least three. The later half counts, when the
    batches that the loader has in store are used up. Cross-entropy replaces a loss given as an
    object.
    """
    device, settings = pick_device(recipe.train.device), recipe.train
    trial: Any = copy.deepcopy(model).train()
    model = trial.to(device, memory_format=torch.channels_last)
    kind = HALF.get(settings.precision)
    with torch.random.fork_rng(range(torch.cuda.device_count())):
        stand_in = partial(F.cross_entropy, ignore_index=IGNORE) if objects.loss else None
        loss: Any = build_loss(class_weights, recipe, model, stand_in).to(device)
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
            with torch.autocast(device.type, dtype=kind, enabled=kind is not None):
                total = compute_loss(model, loss, _on_device(batch, device))[0]
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


def _on_device(batch: Any, device: torch.device) -> Any:
    """Return a batch of tensors and named tuples of tensors on the device."""
    return [
        part.to(device)
        if isinstance(part, torch.Tensor)
        else type(part)(*(tensor.to(device) for tensor in part))
        for part in batch
    ]


def time_validation(
    model: SegmentationModel, recipe: Recipe, val: SegmentationData
) -> tuple[float, float]:
    """Return (seconds to open the model, seconds per image) of scoring `val` with all scores."""
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
    image_seconds = (time.monotonic() - opened) / len(few)
    return max(0.0, opened - began - image_seconds), image_seconds


class _Few:
    """Some images of a dataset, evenly spread."""

    def __init__(self, data: SegmentationData, number: int) -> None:
        self._data, self._number = data, number

    def __getattr__(self, name: str) -> Any:
        if name == "panoptic":  # counts places in all of the data; the samples cost as much
            raise AttributeError(name)
        return getattr(self._data, name)

    def __len__(self) -> int:
        return self._number

    def __getitem__(self, index: int) -> Any:
        return self._data[index * len(self._data) // self._number]
