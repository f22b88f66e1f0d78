"""What a bootstrap resamples: whole sequences where names and scores show enough of them, else blocks in time.

Neighbouring images of a drive look alike, so that 233 of them count for less than 233 unrelated
ones. How much less is read from their scores (`Sequences.correlated`). The constants were chosen
by simulation (test_coverage.py): 95 % intervals from blocks of 25, whatever the scores, held the
truth in 62 % where neighbours correlate by 0.98.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from featherseg.core.wording import counted
from featherseg.data.sequences import in_natural_order, numbers_of, sequence_names

BLOCK = 2
"""Images in a block for every image over which scores stay correlated."""

MIN_IMAGES = 32
"""Fewer consecutive images than these show nothing of how alike they are: no interval."""

MIN_CLUSTERS = 8
"""Fewer clusters than these carry no claim: correlation that is as long as the images themselves cannot be seen."""

JOINED = 1.0
"""Standard errors of no correlation from which on sequences are taken to go on from one to the
next. Sums of whole sequences in place of quarters missed more of those that do, or saw more in
those that do not (simulated)."""

MIN_SEQUENCES = 10
"""Sequences from which they are drawn whole; the spread of fewer is known too badly, so they are cut into blocks."""


@dataclass(frozen=True)
class Clusters:
    """index (N,) names each image's cluster, 0..count-1."""

    index: np.ndarray
    count: int


@dataclass(frozen=True)
class Sequences:
    """Images in their order in time: order (N,) holds their indices, one sequence after the other, of these lengths.

    whole: the sequences are the clusters, not blocks of them, where one scores unlike the next
    (`in_one`).
    """

    order: np.ndarray
    lengths: np.ndarray
    whole: bool

    @property
    def single(self) -> bool:
        """Whether each image is a sequence of its own, which is taken to be apart from all others."""
        return self.whole and len(self.order) == len(self.lengths)

    @property
    def enough(self) -> bool:
        """Whether there are images enough for an interval."""
        return self.whole or len(self.order) >= MIN_IMAGES

    @property
    def description(self) -> str:
        """What the clusters are, for tables and pages."""
        if self.whole:
            return (
                f"{len(self.lengths)} {'single images' if self.single else 'whole sequences, blocks where they go on'}"
            )
        if not self.enough:
            return f"one block of {counted(len(self.order), 'image')}"
        return "blocks of consecutive images, as long as neighbours score alike"

    def cut(self, length: int) -> Clusters:
        """Blocks of about `length` consecutive images, none across two sequences, two at least; or the sequences."""
        images = len(self.order)
        blocks = np.ones_like(self.lengths) if self.whole else np.maximum(1, np.rint(self.lengths / length).astype(int))
        if len(blocks) == 1 and not self.whole:
            blocks = np.maximum(blocks, min(2, images))
        index = np.empty(images, dtype=np.int64)
        places = np.concatenate([np.arange(n) * b // n for n, b in zip(self.lengths, blocks, strict=True)])
        index[self.order] = places + np.repeat(np.cumsum(blocks) - blocks, self.lengths)
        return Clusters(index, int(blocks.sum()))

    def in_one(self) -> "Sequences":
        """The images as one sequence, where these go on from one to the next."""
        return Sequences(self.order, np.array([len(self.order)]), whole=False)

    def joined(self, series: np.ndarray) -> np.ndarray:
        """Whether each series (N, Q) goes on from one sequence to the next, (Q,): whether the
        last quarter of each correlates with the first of the next by more than JOINED.
        """
        parts = np.split(series[self.order], np.cumsum(self.lengths)[:-1])
        first = np.array([part[: max(1, len(part) // 4)].mean(axis=0) for part in parts[1:]])  # (S - 1, Q)
        last = np.array([part[-max(1, len(part) // 4) :].mean(axis=0) for part in parts[:-1]])
        spread = np.sqrt((first**2).sum(axis=0) * (last**2).sum(axis=0))
        return (first * last).sum(axis=0) > JOINED / len(parts) ** 0.5 * spread

    def correlated(self, series: np.ndarray) -> np.ndarray:
        """Over how many images each series stays correlated, (Q,): 1, 2, 4, ...; series (N, Q) has means of 0.

        Autocorrelations are added up over 1, 2 to 3, 4 to 7, ... images; the first sum that is
        not above 0 ends it. That the mean was taken off makes them too small by its variance,
        which is put back. Of zeros it is 1.
        """
        images, most = len(self.order), min(max(2, len(self.order) // 2), int(self.lengths.max()))
        products, pairs = np.zeros((most, series.shape[1])), np.zeros((most, 1))
        for part in np.split(series[self.order], np.cumsum(self.lengths)[:-1]):
            padded = np.fft.rfft(part, 2 * len(part), axis=0)
            found = np.fft.irfft(np.abs(padded) ** 2, 2 * len(part), axis=0)[: min(most, len(part))]
            products[: len(found)] += found
            pairs[: len(found), 0] += len(part) - np.arange(len(found))
        covariance = products / np.maximum(pairs, 1)
        variance, of_mean = np.maximum(covariance[0], 1e-300), 0.0
        for _ in range(4):  # the correction converges in about as many
            correlation = (covariance + of_mean) / (variance + of_mean)
            reach, total, alive = np.ones(series.shape[1]), np.ones(series.shape[1]), np.ones(series.shape[1], bool)
            lag = 1
            while lag < most:
                added = correlation[lag : 2 * lag].sum(axis=0)
                alive &= added > 1e-9
                lag *= 2
                total += np.where(alive, 2 * added, 0)
                reach[alive] = lag
            of_mean = np.minimum(1, total / images) * variance
        return np.where(covariance[0] > 0, reach, 1).astype(np.int64)


def clusters_of(keys: Sequence[str], groups: str | None = None) -> Sequences:
    """The sequences of the images with these keys; the frames' numbers give their order in time.

    A sequence is a key without its frame number, or what `groups` of a dataset.toml finds in it
    (`data.sequences`). Names show sequences where half of them hold two images or more. Ten
    sequences or more are drawn whole where their scores show them to be apart; fewer are cut into
    blocks, none across two; so is the list where names show nothing.
    """
    names = sequence_names(keys, groups)
    place = {name: i for i, name in enumerate(sorted(set(names), key=lambda name: (in_natural_order(name), name)))}
    index = np.array([place[name] for name in names])
    lengths = np.bincount(index)
    if np.median(lengths) < 2:
        index, lengths = np.zeros(len(keys), dtype=np.int64), np.array([len(keys)])
    order = sorted(range(len(keys)), key=lambda i: (index[i], numbers_of(keys[i]), keys[i]))
    return Sequences(np.array(order), lengths, whole=len(lengths) >= MIN_SEQUENCES)


def single_images(count: int) -> Sequences:
    """Every image a cluster of its own: right only where the images are unrelated."""
    return Sequences(np.arange(count), np.ones(count, dtype=np.int64), whole=True)
