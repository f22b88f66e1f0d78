"""Images of a run's data to calibrate int8, to compare a file with its model, and to score it."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import overload

import numpy as np
import torch
from torch import Tensor

from featherseg.core.errors import DataError, UnknownName
from featherseg.core.types import Progress, SegmentationData
from featherseg.data import open_dataset
from featherseg.evaluation.scoring import evaluate
from featherseg.inference.runtimes import open_runtime
from featherseg.layers.resize import preprocess
from featherseg.runs.run import Run

CHECKED = 4
"""Number of training images on which a quantised file is compared with its model.

They are not used for calibration if the split has enough others.
"""


@dataclass(frozen=True)
class Images(Sequence[Tensor]):
    """Some images of a split as the model sees them in validation, read when accessed."""

    run: Run
    data: SegmentationData
    indices: tuple[int, ...]

    def __len__(self) -> int:
        return len(self.indices)

    @overload
    def __getitem__(self, index: int) -> Tensor: ...
    @overload
    def __getitem__(self, index: slice) -> "Images": ...

    def __getitem__(self, index: int | slice) -> "Tensor | Images":
        """Return a normalised float32 image (1, C, H, W); for a slice, unread `Images`."""
        if isinstance(index, slice):
            return Images(self.run, self.data, self.indices[index])
        image = self.data[self.indices[index]].image  # (H, W, C)
        pixels = torch.from_numpy(np.ascontiguousarray(image)).permute(2, 0, 1)[
            None
        ]  # (1, C, H, W)
        model, fit = self.run.model, self.run.recipe.data.test_resize
        return preprocess(pixels, model.mean, model.std, fit, model.image_range)

    @property
    def keys(self) -> list[str]:
        """Return the names of the images."""
        return [self.data.keys[i] for i in self.indices]


def training_images(
    run: Run, count: int, seed: int, root: Path | None = None
) -> tuple[Images, Images]:
    """Return `count` images of the run's training split, drawn by the seed, and CHECKED others.

    There are fewer if the split has fewer. root is where the dataset lies, by default where it lay
    during training. Raises DataNotFound if it is not there.
    """
    settings = run.recipe.data
    data = open_dataset(
        settings.name,
        settings.train_split,
        root or _root(run),
        settings.train_size,
        split_by=settings.split_by,
    )
    drawn = [int(i) for i in np.random.default_rng(seed).permutation(len(data))]
    checked = drawn[:CHECKED] if len(drawn) > CHECKED else []
    calibrated = drawn[len(checked) :][:count]
    return Images(run, data, tuple(calibrated)), Images(run, data, tuple(checked or drawn))


@dataclass(frozen=True)
class LabelledSplit:
    """The split on which the run was validated, to score files; progress: where it reports."""

    data: SegmentationData
    split: str
    progress: Progress | None = None

    def score(self, file: Path | Run) -> float:
        """Return the mIoU (0..1) of an exported file, or of the run, on the CPU like `evaluate`."""
        name = "the model" if isinstance(file, Run) else file.name

        def progress(_: str, done: int, total: int | None) -> None:
            if self.progress:
                self.progress(f"scoring {name} on {self.split}", done, total)

        runtime = open_runtime(file, "cpu", trust=True)
        return evaluate(runtime, self.data, boundary=False, progress=progress).miou


def labelled_split(run: Run, root: Path | None = None) -> LabelledSplit | None:
    """Return the split that training validated on; None if it cannot be opened or has no image."""
    settings = run.recipe.data
    try:
        data = open_dataset(
            settings.name,
            settings.val_split,
            root or _root(run),
            settings.val_size,
            split_by=settings.split_by,
        )
    except (DataError, UnknownName):
        return None
    return LabelledSplit(data, settings.val_split) if len(data) else None


def _root(run: Run) -> Path | None:
    return None if run.recipe.data.root is None else Path(run.recipe.data.root)
