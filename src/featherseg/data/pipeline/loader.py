"""The training batches: a pure function of (seed, position), whatever the workers and restarts."""

import multiprocessing
import multiprocessing.util
import os
import signal
import sys
import tempfile
import threading
from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace
from functools import lru_cache
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.utils.data import DataLoader, Dataset, Sampler, default_collate

from featherseg.core.errors import DataError
from featherseg.core.types import Sample, SegmentationData
from featherseg.data.datasets.unlabelled import PseudoMasks
from featherseg.data.panoptic.targets import PanopticTargets
from featherseg.data.pipeline.augmentation import Augment
from featherseg.data.pipeline.rare import RareClasses
from featherseg.data.pipeline.sampling import ClassUniform
from featherseg.data.pipeline.transforms import Crop, is_interleaved, mixed, pasted

PREFETCH = 4
"""Batches that a worker prepares ahead."""

GROWTH = ((0.4, 0.5), (0.7, 0.75), (1.0, 1.0))
"""`augment.progressive`: (up to this share of the batches, crops have this part of their size).

Small images come first, as in EfficientNetV2 (Tan and Le, ICML 2021, Sec. 4). The shares are ours:
the batches have 57 % of the pixels.
"""

Batch = tuple[Tensor, Tensor] | tuple[Tensor, Tensor, PanopticTargets[Tensor]]
"""images (B, C, H, W) uint8 or uint16, labels (B, H, W) uint8, and a panoptic model's targets."""


class TrainingSamples(Dataset[Any]):
    """Augmented samples by (epoch, index); the same numbers give the same bytes in every process.

    A third number is the part of its size that the sample gets (`Augment.at`). A sample is
    (image, label) without a batch axis, and a third part with `targets`.

    Args:
        class_uniform: a share of the samples is drawn by class.
        targets: returns the targets of the instance branch for (label, instances).
        before: changes a sample before it is augmented.
        rare: classes whose pixels are pasted into the share augment.copy_paste of the samples;
            not with `targets`.
        pseudo: images with pseudo-masks, for a share of the samples; with them all samples are
            augmented more strongly (`Augment.stronger`).
    """

    def __init__(
        self,
        data: SegmentationData,
        augment: Augment,
        seed: int,
        class_uniform: ClassUniform | None = None,
        targets: Callable[[np.ndarray, np.ndarray], PanopticTargets[np.ndarray]] | None = None,
        before: Callable[[Sample, np.random.Generator], Sample] | None = None,
        rare: RareClasses | None = None,
        pseudo: PseudoMasks | None = None,
    ) -> None:
        self.data, self.seed = data, seed
        self.augment = augment.stronger() if pseudo else augment
        self.class_uniform, self.targets, self.before = class_uniform, targets, before
        self.rare, self.pseudo = rare, pseudo
        self._depth: np.dtype[Any] | None = None  # of the first image in this process

    def __getitem__(self, place: tuple[int, int] | tuple[int, int, float]) -> tuple[Any, ...]:
        # Choose an image, and a point for the crop
        epoch, index, *part = place
        augment = self.augment.at(*part) if part else self.augment
        rng, point = np.random.default_rng([self.seed, epoch, index]), None
        if self.pseudo and rng.random() < self.pseudo.share:
            index = len(self.data) + int(rng.integers(len(self.pseudo)))
        elif self.class_uniform and rng.random() < self.class_uniform.share:
            index, point = self.class_uniform.points.draw(rng)
        sample = self._sample(index, rng)

        # A panoptic model: the crop alone, because numbers of instances of two images could meet
        if self.targets is not None:
            crop = augment(sample, rng, point)
            assert crop.instances is not None  # refused before training starts
            return crop.image, crop.label, self.targets(crop.label.numpy(), crop.instances.numpy())

        # Another model: its crop, with parts of other samples
        crop = augment(replace(sample, instances=None), rng, point)
        if augment.cutmix and rng.random() < augment.cutmix:
            crop = mixed(crop, self._another(int(rng.integers(len(self.data))), augment, rng), rng)
        if self.rare and rng.random() < augment.copy_paste:
            crop = self._with_rare_classes(crop, self.rare, augment, rng)
        return crop[:2]

    def _another(
        self, index: int, augment: Augment, rng: np.random.Generator, around: int | None = None
    ) -> Crop:
        """Return a crop to be mixed into another one, around a pixel of the class `around`."""
        sample, point = self._sample(index, rng), None
        if around is not None and len(pixels := np.flatnonzero(sample.label == around)):
            row, column = divmod(int(rng.choice(pixels)), sample.label.shape[1])
            point = row, column
        return augment(replace(sample, instances=None), rng, point)

    def _sample(self, index: int, rng: np.random.Generator) -> Sample:
        """Return a sample; those with pseudo-masks come after the others."""
        place = index - len(self.data)
        sample = self.pseudo[place] if self.pseudo and place >= 0 else self.data[index]
        self._depth = self._depth or sample.image.dtype
        if sample.image.dtype != self._depth:
            own, others = (8 * kind.itemsize for kind in (sample.image.dtype, self._depth))
            raise DataError(
                f"{sample.key} of {self.data.name} has {own} bits a channel, others {others} bits "
                "a channel. Convert one of them."
            )
        return sample if self.before is None else self.before(sample, rng)

    def _with_rare_classes(
        self, crop: Crop, rare: RareClasses, augment: Augment, rng: np.random.Generator
    ) -> Crop:
        """Return the crop with all pixels of rare classes of another crop pasted into it."""
        around, index = rare.draw(rng)
        other = self._another(index, augment, rng, around)
        classes = torch.tensor(rare.classes, dtype=torch.uint8)
        return pasted(crop, other, torch.isin(other.label, classes))


class FlatBatches(Sampler[list[tuple[Any, ...]]]):
    """All batches of a run, lists of (epoch, index), from batch `start` on.

    Each epoch is a shuffle of all n samples, and epochs follow each other without a gap. So batch k
    of a rank is a pure function of (seed, k, rank). `len` is that of the whole run, as Lightning
    needs it.

    Args:
        growth: rows as in GROWTH; samples are (epoch, index, part) while the part is not 1.
    """

    def __init__(
        self,
        n: int,
        batch_size: int,
        *,
        seed: int,
        start: int,
        total: int,
        rank: int = 0,
        world: int = 1,
        growth: Sequence[tuple[float, float]] = (),
    ) -> None:
        self.n, self.batch_size, self.seed = n, batch_size, seed
        self.start, self.total, self.rank, self.world = start, total, rank, world
        self.growth = growth

    def __len__(self) -> int:
        return self.total

    def __iter__(self) -> Iterator[list[tuple[Any, ...]]]:
        for k in range(self.start, self.total):
            first = (k * self.world + self.rank) * self.batch_size
            part = next((part for until, part in self.growth if k < until * self.total), 1.0)
            more = () if part == 1 else (part,)
            yield [
                (*self._place(position), *more)
                for position in range(first, first + self.batch_size)
            ]

    def _place(self, position: int) -> tuple[int, int]:
        epoch, offset = divmod(position, self.n)
        return epoch, int(shuffled(self.n, self.seed, epoch)[offset])


@lru_cache(maxsize=4)
def shuffled(n: int, seed: int, epoch: int) -> np.ndarray:
    """Return the order of the samples in an epoch, (n,)."""
    return np.random.default_rng([seed, epoch]).permutation(n)


def training_loader(
    samples: TrainingSamples, batches: FlatBatches, *, workers: int
) -> DataLoader[Batch]:
    """Return the loader of a run; `workers` processes prepare batches ahead, 0 = this process."""
    if workers:
        _shorten_socket_paths()
    return DataLoader(
        samples,
        batch_sampler=batches,
        num_workers=workers,
        pin_memory=torch.cuda.is_available(),
        prefetch_factor=PREFETCH if workers else None,
        worker_init_fn=_leave_signals,
        collate_fn=collate,
        multiprocessing_context=start_method() if workers else None,
    )


def start_method() -> str:
    """Return how workers start: as the program chose, else by fork on Linux."""
    if (chosen := multiprocessing.get_start_method(allow_none=True)) is not None:
        return chosen
    return "fork" if sys.platform == "linux" else multiprocessing.get_start_method()


def _shorten_socket_paths() -> None:
    """Let multiprocessing put its sockets into /tmp if TMPDIR is too long for their paths.

    The path of a socket has at most 107 bytes on Linux and 103 on macOS; multiprocessing adds
    about 30. A worker that cannot open one sends no batch, and the training would wait for ever.
    """
    usual = tempfile.gettempdir()
    if sys.platform != "win32" and len(os.fsencode(usual)) > 70 and os.access("/tmp", os.W_OK):
        tempfile.tempdir = "/tmp"
        multiprocessing.util.get_temp_dir()  # for this process and its workers, removed at exit
        tempfile.tempdir = usual


def _leave_signals(_: int) -> None:
    """Ignore the signals that stop a whole job (SLURM, systemd): the training handles them."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    if hasattr(signal, "SIGUSR1"):  # not on Windows
        signal.signal(signal.SIGUSR1, signal.SIG_IGN)
    if hasattr(signal, "sigwaitinfo"):  # on Linux: it returns the sender of a signal
        signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGTERM})
        threading.Thread(target=_await_parent, daemon=True).start()


def _await_parent() -> None:
    """End this worker if SIGTERM comes from the training, which ends its workers with it."""
    while signal.sigwaitinfo({signal.SIGTERM}).si_pid != os.getppid():
        pass
    os._exit(0)


def collate(samples: Sequence[tuple[Any, ...]]) -> Batch:
    """Return the batch of samples (image, label, ...); channels that are innermost stay so."""
    if not all(is_interleaved(image) for image, *_ in samples):
        return default_collate(list(samples))
    rows = [(image.permute(1, 2, 0), *others) for image, *others in samples]
    images, *others = default_collate(rows)  # (B, H, W, C)
    return (images.permute(0, 3, 1, 2), *others)  # (B, C, H, W)
