"""Examine the images of a dataset: predict each one, plant faults, keep its Example in a file."""

import time
from collections import deque
from collections.abc import Callable
from pathlib import Path

import numpy as np

from featherseg.auditing.examples import Example, examine, example_file
from featherseg.auditing.faults import FAULTS
from featherseg.auditing.folds import FOLDS
from featherseg.core.types import Progress, SegmentationData
from featherseg.data.checks.decisions import audited_places

LOADS = 4
"""Time kept for ranking an image, in readings of its file. Measured: ranking reads the file twice
and takes as long again.
"""

LEAST_PLANTED, ALWAYS_PLANTED, MOST_PLANTED = 12, 60, 600
"""Number of images with planted faults: at least; in up to half of the time for predicting; and at
most, because more teach the scorer nothing new.
"""

Predict = Callable[[int, np.ndarray, np.ndarray, np.ndarray], np.ndarray]
"""(number, image (H, W, C), rows, columns) -> probabilities (K, rows, columns) of a model that
never saw the image.
"""


def examine_all(
    data: SegmentationData,
    predict: Predict,
    folds: np.ndarray,
    folder: Path,
    ends: float,
    progress: Progress,
) -> np.ndarray:
    """Write the Example of every image to `folder`, unless it is there; return their numbers.

    Numbers ascend. If the time until `ends` (`time.monotonic`) is too short for all images, they
    are spread over all, and fewer have planted faults.
    """
    began, count = time.monotonic(), len(data)
    there = np.array([example_file(folder, number).is_file() for number in range(count)])
    ready = int(there.sum())
    durations = deque[tuple[float, float]](maxlen=25)  # of examining and of reading, in s
    for place, number in enumerate(spread_over(folds)):
        progress("predicting images", place, count)
        if there[number]:
            continue

        # Is there time for this image, and for faults in it? Ranking the others takes time, too
        start = time.monotonic()
        examining, reading = np.median(durations, axis=0) if durations else (0.0, 0.0)
        left = ends - start - LOADS * reading * ready
        if place >= LEAST_PLANTED and left < examining:
            break
        enough = left > (examining + LOADS * reading) * (count - place)
        planted = place < MOST_PLANTED and enough
        planted |= place < LEAST_PLANTED or (place < ALWAYS_PLANTED and start < (began + ends) / 2)

        # Predict it, plant faults with the help of another mask
        sample, size = data[number], data.label(number).shape
        rows, columns = audited_places((size[0], size[1]))
        label = other = sample.label[rows[:, None], columns]
        rng = np.random.default_rng([0, number])
        if planted and count > 1:
            other = data.label(int(rng.integers(1, count) + number) % count)
        probabilities = predict(number, sample.image, rows, columns)
        predicted = time.monotonic()
        faults = FAULTS if planted else ()
        example = examine(label, probabilities, (size[0], size[1]), faults, rng, other)
        example.save(example_file(folder, number))
        there[number], ready = True, ready + 1

        # Measure; planting can be left out, so it does not count
        saved = time.monotonic()
        Example.load(example_file(folder, number))
        examined = predicted if planted else saved
        durations.append((examined - start, time.monotonic() - saved))
    return np.flatnonzero(there)


def spread_over(folds: np.ndarray) -> np.ndarray:
    """Return an order of images (N,) of which every beginning is spread over images and folds."""
    when = np.zeros(len(folds))
    for fold in range(FOLDS):
        members = np.flatnonzero(folds == fold)
        bits, places = max(1, len(members) - 1).bit_length(), np.arange(len(members))
        reversed_bits = sum(  # 001 becomes 100
            (places >> bit & 1) << (bits - 1 - bit) for bit in range(bits)
        )
        when[members[np.argsort(reversed_bits)]] = places / max(1, len(members))
    return np.lexsort((folds, when))
