"""The units that a bootstrap resamples: whole sequences of images if there are enough, else blocks.

Neighbouring images of a drive look alike, so 233 of them are worth less than 233 unrelated ones.
How much less is estimated from their scores (`Sequences.correlated`). The constants were chosen by
simulation (test_coverage.py). With fixed blocks of 25 images, 95 % intervals contained the true
value in only 62 % of the cases if neighbours correlate by 0.98.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from featherseg.core.wording import counted
from featherseg.data.datasets.sequences import in_natural_order, numbers_of, sequence_names

BLOCK = 2
"""Length of a block, as a multiple of the number of images over which scores stay correlated."""

MIN_IMAGES = 32
"""With fewer consecutive images their correlation cannot be estimated: there is no interval."""

MIN_CLUSTERS = 8
"""With fewer clusters nothing is claimed: correlation over all images would go unseen."""

JOINED = 1.0
"""Standard errors above zero correlation from which a sequence counts as continued by the next.

Comparing means of whole sequences instead of quarters missed more continued ones, or reported more
in unrelated ones (simulated).
"""

MIN_SEQUENCES = 10
"""Number of sequences from which whole sequences are drawn; fewer are cut into blocks.

The spread of fewer than these is known too badly.
"""


@dataclass(frozen=True)
class Clusters:
    """The cluster of each image: index (N,) is 0..count-1."""

    index: np.ndarray
    count: int


@dataclass(frozen=True)
class Sequences:
    """Images in order of time: order (N,) are their indices, sequence after sequence of `lengths`.

    whole: the clusters are the sequences, unless scores continue from one to the next (`joined`);
    otherwise the clusters are blocks.
    """

    order: np.ndarray
    lengths: np.ndarray
    whole: bool

    @property
    def single(self) -> bool:
        """Whether each image is a sequence by itself, unrelated to all others."""
        return self.whole and len(self.order) == len(self.lengths)

    @property
    def enough(self) -> bool:
        """Whether there are enough images for an interval."""
        return self.whole or len(self.order) >= MIN_IMAGES

    @property
    def description(self) -> str:
        """The clusters in words, for tables and pages."""
        if self.whole:
            kind = "single images" if self.single else "whole sequences, blocks where they go on"
            return f"{len(self.lengths)} {kind}"
        if not self.enough:
            return f"one block of {counted(len(self.order), 'image')}"
        return "blocks of consecutive images, as long as neighbours score alike"

    def cut(self, length: int) -> Clusters:
        """Return blocks of about `length` consecutive images, or the sequences if they are `whole`.

        No block crosses the end of a sequence; a single sequence has at least two blocks.
        """
        images = len(self.order)
        if self.whole:
            blocks = np.ones_like(self.lengths)
        else:
            blocks = np.maximum(1, np.rint(self.lengths / length).astype(int))
            if len(blocks) == 1:
                blocks = np.maximum(blocks, min(2, images))
        index = np.empty(images, dtype=np.int64)
        counts = zip(self.lengths, blocks, strict=True)
        places = np.concatenate([np.arange(n) * b // n for n, b in counts])  # block of each image
        index[self.order] = places + np.repeat(np.cumsum(blocks) - blocks, self.lengths)
        return Clusters(index, int(blocks.sum()))

    def in_one(self) -> "Sequences":
        """Return all images as one sequence, to be cut into blocks."""
        return Sequences(self.order, np.array([len(self.order)]), whole=False)

    def joined(self, series: np.ndarray) -> np.ndarray:
        """Return whether each series (N, Q) continues from one sequence to the next, (Q,) bool.

        It does if the mean of each sequence's last quarter correlates with the mean of the next
        one's first quarter by more than JOINED.
        """
        parts = np.split(series[self.order], np.cumsum(self.lengths)[:-1])
        quarters = [max(1, len(part) // 4) for part in parts]
        pairs = list(zip(parts, quarters, strict=True))
        first = np.array([part[:n].mean(axis=0) for part, n in pairs[1:]])  # (S - 1, Q)
        last = np.array([part[-n:].mean(axis=0) for part, n in pairs[:-1]])
        spread = np.sqrt((first**2).sum(axis=0) * (last**2).sum(axis=0))
        return (first * last).sum(axis=0) > JOINED / len(parts) ** 0.5 * spread

    def correlated(self, series: np.ndarray) -> np.ndarray:
        """Return the number of images over which each series stays correlated, (Q,): 1, 2, 4, ...

        Autocorrelations are summed over the lags 1, 2 to 3, 4 to 7, ...; the first sum that is
        not above 0 ends the correlation. A series of zeros has 1.

        Args:
            series: (N, Q), each with mean 0. Subtracting the mean lowers all covariances by the
                variance of the mean, which is added back.
        """
        images, width = len(self.order), series.shape[1]
        most = min(max(2, images // 2), int(self.lengths.max()))  # lags

        # autocovariance at each lag, by FFT: the sum over all pairs of images within a sequence
        products, pairs = np.zeros((most, width)), np.zeros((most, 1))
        for part in np.split(series[self.order], np.cumsum(self.lengths)[:-1]):
            lags = min(most, len(part))
            spectrum = np.abs(np.fft.rfft(part, 2 * len(part), axis=0)) ** 2
            products[:lags] += np.fft.irfft(spectrum, 2 * len(part), axis=0)[:lags]
            pairs[:lags, 0] += len(part) - np.arange(lags)
        covariance = products / np.maximum(pairs, 1)

        # the variance of the mean depends on the correlation, which depends on it
        variance, of_mean = np.maximum(covariance[0], 1e-300), 0.0
        for _ in range(4):  # converges in about four rounds
            correlation = (covariance + of_mean) / (variance + of_mean)
            reach, total, alive = np.ones(width), np.ones(width), np.ones(width, bool)
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
    """Return the sequences of the images with these keys, in the order of their frame numbers.

    The name of a sequence is a key without its frame number, or what `groups` of a dataset.toml
    matches in it (`data.sequences`). If the median sequence has fewer than two images, names show
    no sequences, and all images are one. MIN_SEQUENCES or more are drawn whole, fewer are cut
    into blocks.
    """
    names = sequence_names(keys, groups)
    in_order = sorted(set(names), key=lambda name: (in_natural_order(name), name))
    place = {name: i for i, name in enumerate(in_order)}
    index = np.array([place[name] for name in names])
    lengths = np.bincount(index)
    if np.median(lengths) < 2:
        index, lengths = np.zeros(len(keys), dtype=np.int64), np.array([len(keys)])
    order = sorted(range(len(keys)), key=lambda i: (index[i], numbers_of(keys[i]), keys[i]))
    return Sequences(np.array(order), lengths, whole=len(lengths) >= MIN_SEQUENCES)


def single_images(count: int) -> Sequences:
    """Return every image as a cluster by itself: right only if the images are unrelated."""
    return Sequences(np.arange(count), np.ones(count, dtype=np.int64), whole=True)
