"""Resolve a recipe: every setting that it leaves open gets a value.

Nothing is opened, measured or written here: the same recipe and the same facts give the same
result. The facts are gathered in `job.py` and measured in `memory.py` and `timing.py`.
"""

import math
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from featherseg.core.errors import ConfigError
from featherseg.core.types import Size
from featherseg.core.wording import WarningText, counted, duration, size_text
from featherseg.data.datasets.statistics import choose_crop
from featherseg.layers.sizes import resized
from featherseg.recipe.tables import Recipe
from featherseg.training.optimisers import rate_factor

if TYPE_CHECKING:
    from featherseg.training.memory import Estimate

SAMPLES = 960
"""Crops per square root of the number of images: 367 images (CamVid) get 2,300 steps of 8."""

LEAST_STEPS = 500
"""Steps of the shortest training whose length follows from the number of images."""

USUAL_BATCH = 8
"""Images of a step with `train.batch_size = "auto"` ..."""

MOST_BATCH = 32
"""... and the most, for small crops ..."""

BATCH_PIXELS = 1_400_000
"""... that together have at most this many pixels: 32 of 200x200, 16 of 256x256, 8 of 360x480."""

MEMORY_SHARE = 0.8
"""Share of the free memory for a step with an automatic batch size; the loader needs some too."""

MEMORY_MARGIN = 1.15
"""Factor by which an estimate of memory may be too low."""

SPARE_SHARE = 0.02
"""Share of `train.minutes` that is kept free, besides ENDING_SECONDS."""

ENDING_SECONDS = 5.0
"""Seconds for the pages that are written at the end."""

VALIDATION_SHARE = 0.05
"""Largest share of `train.minutes` for validations."""

SCORED_AGAIN = 2
"""Validations that are expected to be repeated with another share of the class weights undone."""


@dataclass(frozen=True)
class DataFacts:
    """What a recipe needs to know of the data.

    images, val_images: Numbers of images to train and to validate on.
    pseudo: Number of images with pseudo-masks.
    image_size: The typical (height, width) of a training image.
    shared: Whether images to validate on are among those to train on.
    """

    images: int
    val_images: int
    image_size: Size
    shared: bool = False
    pseudo: int = 0


@dataclass(frozen=True)
class MachineFacts:
    """The device that trains: its type, and whether it has instructions for bf16."""

    device: str
    computes_bf16: bool


@dataclass(frozen=True)
class Speed:
    """Measured times in seconds: of a step, of a validation, and since the command began.

    step_seconds is None if the model fails on the trial's images; validation_seconds is None if
    the recipe does not need it.
    """

    step_seconds: float | None
    validation_seconds: float | None = None
    elapsed_seconds: float = 0.0


@dataclass(frozen=True)
class Facts:
    """All that a recipe is resolved by.

    from_scratch: Whether no weights were loaded.
    memory: The estimate for the resolved crop, precision and optimiser; None if there is none.
    speed: Measured with the resolved crop and batch size; None before that.
    """

    data: DataFacts
    machine: MachineFacts
    from_scratch: bool
    memory: "Estimate | None" = None
    speed: Speed | None = None


@dataclass(frozen=True)
class TrainingPlan:
    """What a training would do, as `featherseg train --dry-run` shows it.

    recipe: The resolved recipe.
    steps, validations: Their numbers.
    memory_gb: Memory that the process will hold at its peak; None if it cannot be estimated.
    minutes: Expected minutes of steps and validations; None if they cannot be estimated.
    second: Whether a first training comes before it, which labels the images without masks.
    """

    recipe: Recipe
    steps: int
    validations: int
    memory_gb: float | None
    minutes: float | None
    second: bool = False

    def lines(self) -> list[str]:
        """Return the table that the command line prints."""
        train, crop = self.recipe.train, self.recipe.augment.crop
        assert crop is not None
        assert isinstance(train.batch_size, int)
        accumulate = f", accumulated over {train.accumulate}" if train.accumulate > 1 else ""
        time = "unknown" if self.minutes is None else f"about {duration(60 * self.minutes)}"
        rows = {
            "crop": size_text(crop),
            "batch": counted(train.batch_size, "image") + accumulate,
            "steps": f"{self.steps}, {counted(self.validations, 'validation')}",
            "optimizer": f"{train.optimizer}, lr {train.lr * rate_factor(train):.3g}",
            "precision": train.precision,
            "memory": "unknown" if self.memory_gb is None else f"about {self.memory_gb} GB",
            "time": time,
        }
        if self.second:
            rows["time"] += ", after a first training on the masks alone, which takes about as long"
        return [f"{name:<11}{value}" for name, value in rows.items()]


class TooFewMinutes(ConfigError):
    """`train.minutes` are used up before the first step; `least`: minutes with one step.

    share: Of the first of two trainings, whose minutes these are.
    """

    def __init__(
        self, minutes: float, beside_minutes: float, step_minutes: float, share: float = 1.0
    ) -> None:
        self.of_one = minutes, beside_minutes, step_minutes
        self.least = (beside_minutes + step_minutes) / share
        first = f" in the first training, which has {share:.0%} of them" if share < 1 else ""
        super().__init__(
            f"train.minutes = {minutes / share:g}: start, validation and report alone take "
            f"about {beside_minutes:.1f} minutes here{first}. Give at least "
            f"{math.ceil(self.least)}."
        )


def resolve(recipe: Recipe, facts: Facts) -> Recipe:
    """Return the recipe with a value for every setting that it leaves open.

    Raises TooFewMinutes.
    """
    recipe = resolve_settings(recipe, facts)
    recipe = resolve_batch_size(recipe, facts)
    return resolve_length(recipe, facts)


def resolve_settings(recipe: Recipe, facts: Facts) -> Recipe:
    """Return the recipe with precision, optimiser, crop and kept weights; needs no measurement."""
    train: dict[str, Any] = {}
    loss: dict[str, Any] = {}
    if recipe.train.precision == "auto":
        train["precision"] = "bf16" if facts.machine.computes_bf16 else "fp32"
    if recipe.train.optimizer == "auto":
        train["optimizer"] = "muon" if facts.from_scratch else "adamw"

    # Scores on images that were trained on choose neither the best weights nor the best share
    if validates_on_training_images(recipe, facts):
        train["keep"] = "last"
        if recipe.loss.undo_class_weights == "auto" and recipe.loss.class_weights != "none":
            loss["undo_class_weights"] = 0.0

    crop = recipe.augment.crop or choose_crop(trained_size(recipe, facts))
    return updated(recipe, train=train, loss=loss, augment={"crop": crop})


def resolve_batch_size(recipe: Recipe, facts: Facts) -> Recipe:
    """Return the recipe with its batch size as a number; its crop is one already."""
    if recipe.train.batch_size != "auto":
        return recipe
    assert recipe.augment.crop is not None
    ranks = recipe.train.devices * recipe.train.nodes
    batch_size = choose_batch_size(
        facts.memory, recipe.augment.crop, facts.data.images + facts.data.pseudo, ranks=ranks
    )
    return updated(recipe, train={"batch_size": batch_size})


def resolve_length(recipe: Recipe, facts: Facts) -> Recipe:
    """Return the recipe with its number of steps, or with epochs; crop and batch size are numbers.

    Raises TooFewMinutes.
    """
    settings, data = recipe.train, facts.data
    assert isinstance(settings.batch_size, int)
    if settings.steps == "auto":
        steps = usual_steps(data.images + data.pseudo, settings.batch_size * settings.accumulate)
        return updated(recipe, train={"steps": steps})
    if not settings.minutes or settings.steps is not None:
        return recipe

    # Minutes: what start, validations and report leave is divided by the seconds of a step
    speed = facts.speed
    assert speed is not None
    assert speed.step_seconds is not None
    assert speed.validation_seconds is not None
    seconds = seconds_to_train(settings.minutes)
    affordable = int(VALIDATION_SHARE * seconds / speed.validation_seconds)
    validations = min(settings.validations, max(1, affordable))
    weighted = recipe.loss.class_weights != "none" and recipe.loss.undo_class_weights == "auto"
    scorings = validations + 1 + (SCORED_AGAIN if weighted else 0)  # one more for the report
    seconds -= speed.elapsed_seconds + scorings * speed.validation_seconds
    if (steps := int(seconds / speed.step_seconds)) < 1:
        beside_minutes = settings.minutes - seconds / 60
        raise TooFewMinutes(settings.minutes, beside_minutes, speed.step_seconds / 60)
    length = {"steps": steps, "validations": validations, "validate_every": None}
    return updated(recipe, train=length)


def choose_batch_size(
    estimate: "Estimate | None", crop: Size, images: int, *, ranks: int = 1
) -> int:
    """Return the images of a step over all devices, a multiple of `ranks`, the number of devices.

    USUAL_BATCH is doubled while crops are small, because that costs little, and while `images`
    give at least LEAST_STEPS. It is halved until a step fits into the memory; without an estimate
    the memory is not considered.
    """
    batch = USUAL_BATCH
    while (
        2 * batch <= MOST_BATCH
        and 2 * batch * math.prod(crop) <= BATCH_PIXELS
        and SAMPLES * math.sqrt(images) >= LEAST_STEPS * 2 * batch
    ):
        batch *= 2
    rank_batch = max(1, batch // ranks)
    while (
        rank_batch > 1
        and estimate
        and MEMORY_MARGIN * estimate.added(rank_batch, crop) > MEMORY_SHARE * estimate.available
    ):
        rank_batch //= 2
    return rank_batch * ranks


def usual_steps(images: int, batch_size: int) -> int:
    """Return the steps of a training on `images` images that names no length."""
    return max(LEAST_STEPS, round(SAMPLES * math.sqrt(images) / batch_size))


def seconds_to_train(minutes: float) -> float:
    """Return the seconds of `train.minutes` without the spare time and the end."""
    return 60 * minutes * (1 - SPARE_SHARE) - ENDING_SECONDS


def latest_end(recipe: Recipe, speed: Speed, began: float) -> float | None:
    """Return when the last step of `train.minutes` must be over, on the clock of `began`.

    Steps may take longer than when they were timed. After the last one come its validation, one
    with other class weights, and the report's. None without minutes.
    """
    if not recipe.train.minutes or speed.validation_seconds is None:
        return None
    return began + 60 * recipe.train.minutes - ENDING_SECONDS - 3 * speed.validation_seconds


def count_steps(recipe: Recipe, images: int) -> tuple[int, int]:
    """Return (total optimiser steps, steps between validations) for a resolved recipe."""
    settings = recipe.train
    assert isinstance(settings.batch_size, int)
    epoch_steps = -(-images // (settings.batch_size * settings.accumulate))  # rounded up
    if settings.epochs:
        steps = settings.epochs * epoch_steps
    else:
        assert isinstance(settings.steps, int)
        steps = settings.steps
    if settings.validate_every:
        return steps, settings.validate_every * epoch_steps
    return steps, max(epoch_steps, -(-steps // settings.validations))


def validates_on_training_images(recipe: Recipe, facts: Facts) -> bool:
    """Return whether the recipe trains on images that it validates on."""
    return facts.data.shared or recipe.trains_on_all


def trained_size(recipe: Recipe, facts: Facts) -> Size:
    """Return the (height, width) of a typical training image after `augment.resize`."""
    return resized(facts.data.image_size, recipe.augment.resize)


def updated(recipe: Recipe, **tables: dict[str, Any]) -> Recipe:
    """Return the recipe with other values of some keys, by table: train={"steps": 500}."""
    tables = {name: values for name, values in tables.items() if values}
    return recipe.model_copy(
        update={
            name: getattr(recipe, name).model_copy(update=values) for name, values in tables.items()
        }
    )


def resolved_keys(requested: Recipe, facts: Facts) -> list[str]:
    """Return the keys of `requested` whose values were resolved, such as "augment.crop"."""
    values = {
        "augment.crop": requested.augment.crop,
        "train.optimizer": requested.train.optimizer,
        "train.precision": requested.train.precision,
        "train.batch_size": requested.train.batch_size,
        "train.steps": requested.train.epochs or requested.train.steps,
    }
    keys = [key for key, value in values.items() if value in (None, "auto")]
    keys += ["train.keep"] * facts.data.shared
    return keys + ["loss.undo_class_weights"] * validates_on_training_images(requested, facts)


def settings_messages(requested: Recipe, recipe: Recipe, facts: Facts) -> list[str]:
    """Return what to tell the user about resolved settings, all but the length."""
    train = recipe.train
    messages = emulation_warnings(recipe, facts.machine)
    if requested.train.precision == "auto" and train.precision == "fp32":
        messages.append(
            f"trains in fp32, because this {facts.machine.device} has no instructions for bf16 "
            "(train.precision)"
        )
    if validates_on_training_images(recipe, facts):
        messages.append(
            f"{recipe.data.val_split} is trained on too: the last weights are kept, and its scores "
            "say nothing about unseen images"
        )
        if requested.loss.undo_class_weights != recipe.loss.undo_class_weights:
            messages.append(
                "the kept weights undo none of the class weights, because the best share is chosen "
                "on unseen images. Give the share that a training without them chose, such as "
                "loss.undo_class_weights=0.5"
            )
    resize, size = recipe.augment.resize, facts.data.image_size
    if resize and not recipe.data.test_resize and trained_size(recipe, facts) != size:
        messages.append(
            WarningText(
                f"trains on images of {size_text(trained_size(recipe, facts))} (augment.resize), "
                f"but validates and predicts at {size_text(size)}: for one size set "
                f"data.test_resize=[{','.join(map(str, resize))}] too"
            )
        )
    if requested.train.optimizer == "auto" and train.optimizer == "muon":
        messages.append(
            "trains from scratch: matrices learn by Muon, other weights by AdamW (train.optimizer)"
        )
    if (factor := rate_factor(train)) != 1:
        assert isinstance(train.batch_size, int)
        messages.append(
            f"steps have {counted(train.batch_size * train.accumulate, 'image')}: the rate is "
            f"{factor:.3g} times train.lr = {train.lr:g}, which is for {train.lr_batch_size} "
            "(train.lr_batch_size)"
        )
    return messages


def emulation_warnings(recipe: Recipe, machine: MachineFacts) -> list[str]:
    """Return a warning if the machine has no instructions for the recipe's precision."""
    if recipe.train.precision != "bf16" or machine.computes_bf16:
        return []
    return [
        WarningText(
            f"train.precision = 'bf16' is emulated by this {machine.device}: a step may take ten "
            "times as long as in fp32"
        )
    ]


def length_messages(
    requested: Recipe, recipe: Recipe, facts: Facts, pseudo_share: float = 0.0
) -> list[str]:
    """Return what to tell the user about the length.

    pseudo_share: Share of the samples that have pseudo-masks.
    """
    train, data = recipe.train, facts.data
    step_seconds = facts.speed.step_seconds if facts.speed else None
    messages = [describe_length(recipe, data.images, data.val_images, step_seconds, pseudo_share)]
    if train.warmup_steps >= count_steps(recipe, data.images)[0]:
        messages.append(
            f"train.warmup_steps = {train.warmup_steps}: the rate rises until the last step and "
            "never reaches lr"
        )
    if requested.train.minutes and requested.train.validate_every:
        messages.append(
            f"{counted(train.validations, 'validation')}, as the minutes allow, in place of "
            f"train.validate_every = {requested.train.validate_every}"
        )
    return messages


def describe_length(
    recipe: Recipe,
    images: int,
    val_images: int,
    step_seconds: float | None,
    pseudo_share: float = 0.0,
) -> str:
    """Return the length of a training in words.

    `2300 steps of 8 images, crops of 360x480: each of 367 images 50 times, about 24 min and 10
    validations of 101 images`
    """
    assert recipe.augment.crop is not None
    assert isinstance(recipe.train.batch_size, int)
    steps, every = count_steps(recipe, images)
    step_images = recipe.train.batch_size * recipe.train.accumulate
    growing = ", at first at half their size" if recipe.augment.progressive else ""
    views = steps * step_images * (1 - pseudo_share) / images
    text = (
        f"{counted(steps, 'step')} of {counted(step_images, 'image')}, crops of "
        f"{size_text(recipe.augment.crop)}{growing}: each of {counted(images, 'image')} "
        f"{views:.3g} times"
    )
    if pseudo_share:
        text += f" ({pseudo_share:.0%} of the samples have pseudo-masks)"
    if step_seconds is None:
        return text
    validations = counted(-(-steps // every), "validation")
    return (
        f"{text}, about {duration(steps * step_seconds)} and {validations} of "
        f"{counted(val_images, 'image')}"
    )
