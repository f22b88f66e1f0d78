"""The batches of a training, and the class points by which `data.class_uniform` draws samples.

The points take one pass over all labels (33 ms for a mask of 1024 x 2048 on one CPU core), so they
are kept in the run folder: a resumed run and the other processes of a distributed one read them.
"""

import pickle
import sys
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import numpy as np
from torch.utils.data import DataLoader

from featherseg.core.errors import ConfigError, RunError
from featherseg.core.machine import pick_device, usable_cores
from featherseg.core.types import OnMessage, SegmentationData
from featherseg.core.wording import counted
from featherseg.data.datasets.unlabelled import PseudoMasks
from featherseg.data.panoptic.targets import panoptic_targets
from featherseg.data.pipeline.augmentation import Augment
from featherseg.data.pipeline.loader import (
    GROWTH,
    Batch,
    FlatBatches,
    TrainingSamples,
    start_method,
    training_loader,
)
from featherseg.data.pipeline.rare import RareClasses, find_rare_classes
from featherseg.data.pipeline.sampling import ClassPoints, ClassUniform, find_class_points
from featherseg.layers.normalise import FULL_RANGE
from featherseg.recipe.tables import Recipe
from featherseg.training.objects import OwnAugmentation, augment_sample

CLASS_POINTS, RARE_CLASSES = "class_points.npy", "rare_classes.npy"

MOST_WORKERS = 8
"""Loader processes of a process that trains on a GPU, if `data.workers` is not set."""


@dataclass(frozen=True)
class Sampling:
    """How samples are drawn, besides at random from all images."""

    class_uniform: ClassUniform | None = None
    rare: RareClasses | None = None
    pseudo: PseudoMasks | None = None


UNIFORM = Sampling()
"""Every image is drawn alike, and nothing is pasted."""


def write_class_points(
    out: Path, recipe: Recipe, data: SegmentationData, on_message: OnMessage
) -> None:
    """Write the class points and the rare classes that the recipe needs to the run folder.

    `data.class_uniform` needs points in tiles of the crop's longer side, `augment.copy_paste` the
    rare classes. Raises what reading a label raises.
    """
    if recipe.data.class_uniform:
        assert recipe.augment.crop is not None
        on_message(f"locating the classes in {counted(len(data), 'mask')}, to sample by class")
        find_class_points(data, max(recipe.augment.crop)).save(out / CLASS_POINTS)
    if recipe.augment.copy_paste:
        on_message(f"looking for rare classes in {counted(len(data), 'mask')}, to paste them")
        find_rare_classes(data).save(out / RARE_CLASSES)


def open_sampling(
    out: Path, recipe: Recipe, data: SegmentationData, pseudo: PseudoMasks | None
) -> Sampling:
    """Return how the samples of a run are drawn, from its folder. Raises RunError."""
    return Sampling(
        open_class_uniform(out, recipe, data), open_rare_classes(out, recipe, data), pseudo
    )


def open_rare_classes(out: Path, recipe: Recipe, data: SegmentationData) -> RareClasses | None:
    """Return the pixels that a run pastes, None without `augment.copy_paste`. Raises RunError."""
    if not recipe.augment.copy_paste:
        return None
    return RareClasses(_read_rows(out / RARE_CLASSES, "augment.copy_paste", data))


def open_class_uniform(out: Path, recipe: Recipe, data: SegmentationData) -> ClassUniform | None:
    """Return how a run draws samples by class, None without `data.class_uniform`.

    Raises RunError if the file is missing or damaged, or names images that `data` lacks.
    """
    if not recipe.data.class_uniform:
        return None
    return ClassUniform(
        recipe.data.class_uniform,
        ClassPoints(_read_rows(out / CLASS_POINTS, "data.class_uniform", data)),
    )


def _read_rows(path: Path, key: str, data: SegmentationData) -> np.ndarray:
    """Return rows (class, image, ...) of the file that the key `key` needs. Raises RunError."""
    try:
        rows = np.load(path, allow_pickle=False)
        last = int(rows[:, 1].max())
    except (OSError, ValueError, IndexError, EOFError) as error:
        raise RunError(
            f"{path} cannot be read ({error}), and {key} needs it: it was written when this run "
            "started. Start a new run with another --out."
        ) from None
    if last >= len(data):
        raise RunError(
            f"{path} names image {last + 1}, but {data.name} has {len(data)}: this run started "
            "with more images. Point --data-root to the same images."
        )
    return np.asarray(rows)


def open_batches(
    recipe: Recipe,
    data: SegmentationData,
    *,
    total: int,
    panoptic: bool,
    augment: OwnAugmentation | None = None,
    sampling: Sampling = UNIFORM,
    image_range: int = FULL_RANGE,
) -> Callable[[int, int, int], DataLoader[Batch]]:
    """Return a function (start, rank, world) -> the loader of a run's batches from `start` on.

    Args:
        recipe: With crop and batch size as numbers.
        data: The training images.
        total: Batches of the whole run.
        panoptic: Whether batches need panoptic targets.
        augment: An augmentation given as an object; it comes before the recipe's.
        sampling: How samples are drawn.
        image_range: 16-bit images have values below it.

    Raises:
        ConfigError: the loader's processes cannot be given copies of the samples.
    """
    settings, batch_size = recipe.train, recipe.train.batch_size
    assert recipe.augment.crop is not None
    assert isinstance(batch_size, int)
    things = [i for i, info in enumerate(data.classes) if info.thing]
    targets = (
        partial(panoptic_targets, things=things, sigma=recipe.loss.center_sigma)
        if panoptic
        else None
    )
    before = None if augment is None else partial(augment_sample, augment)
    growth = GROWTH if recipe.augment.progressive else ()
    augmentation = Augment(**recipe.augment.model_dump(), image_range=image_range)
    samples = TrainingSamples(
        data,
        augmentation,
        settings.seed,
        sampling.class_uniform,
        targets,
        before,
        sampling.rare,
        sampling.pseudo,
    )
    workers = loader_workers(recipe)
    if workers and start_method() != "fork":
        try:
            pickle.dumps(samples)
        except (pickle.PicklingError, AttributeError, TypeError) as error:
            if recipe.data.workers:
                raise ConfigError(
                    f"data.workers = {workers}: on this system workers need copies of the data and "
                    f"of augment=, which cannot be made: {error}. Define these in a module of "
                    "their own, or leave data.workers out."
                ) from None
            workers = 0

    def make(start: int, rank: int, world: int) -> DataLoader[Batch]:
        batches = FlatBatches(
            len(data),
            batch_size // world,
            seed=settings.seed,
            start=start,
            total=total,
            rank=rank,
            world=world,
            growth=growth,
        )
        return training_loader(samples, batches, workers=workers)

    return make


def loader_workers(recipe: Recipe) -> int:
    """Return the number of loader processes per training process: `data.workers`, or by cores.

    A CPU that trains keeps a core for itself and gets at most two; a GPU gets at most MOST_WORKERS.
    Processes that are not forked (macOS, Windows) begin by importing the program. There are none
    if that would train again (no `__main__` guard), or if the program is a notebook.
    """
    if recipe.data.workers is not None:
        return recipe.data.workers
    if start_method() != "fork":
        file = getattr(sys.modules["__main__"], "__file__", None)
        try:
            if file is None or "__main__" not in Path(file).read_text(
                encoding="utf-8", errors="replace"
            ):
                return 0
        except OSError:  # the featherseg command inside an .exe
            pass
    cores = usable_cores() // recipe.train.devices
    return (
        min(2, max(0, cores - 1))
        if pick_device(recipe.train.device).type == "cpu"
        else min(MOST_WORKERS, cores)
    )
