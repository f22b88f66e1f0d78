"""What a bootstrap resamples: whole sequences where the names of the images show enough of them, else blocks in time.

Neighbouring images of a drive look alike, so that 233 of them count for less than 233 unrelated ones.
"""

import re
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from featherseg.core.wording import counted

BLOCK = 25
"""Consecutive images in a block."""

MIN_SEQUENCES = 10
"""Sequences from which they are drawn whole; the spread of fewer is known too badly, so they are cut into blocks."""

_FRAME = re.compile(r"[^0-9a-zA-Z]*[a-zA-Z]*\d+\D*$")
"""What the number of a frame is written as, at the end of a key."""

_NUMBER = re.compile(r"(\d+)\D*$")


@dataclass(frozen=True)
class Clusters:
    """index (N,) names each image's cluster, 0..count-1; description says what they are, for tables and pages."""

    index: np.ndarray
    count: int
    description: str


def clusters_of(keys: Sequence[str], block: int = BLOCK) -> Clusters:
    """The clusters of the images with these keys; the frames' numbers give their order in time.

    A sequence is a key without its frame number: "0001TP" of "0001TP_006690", "seq1" of "seq1/0007". Names
    show sequences where half of them hold two images or more. Ten sequences or more are drawn whole; fewer are cut
    into blocks of about `block` consecutive images, none across two sequences; so is the list as a whole where names
    show nothing.
    """
    names = [_FRAME.sub("", key) for key in keys]
    found, index, lengths = np.unique(names, return_inverse=True, return_counts=True)
    if np.median(lengths) < 2:
        index, lengths = np.zeros(len(keys), dtype=np.int64), np.array([len(keys)])
    elif len(found) >= MIN_SEQUENCES:
        return Clusters(index, len(found), f"{len(found)} whole sequences")
    result = np.empty(len(keys), dtype=np.int64)
    count = 0
    for sequence, length in enumerate(lengths):
        blocks = max(1, round(length / block))
        in_time = sorted(np.flatnonzero(index == sequence).tolist(), key=lambda i: _by_number(keys[i]))
        result[in_time] = count + np.arange(length) * blocks // length
        count += blocks
    return Clusters(result, count, f"{counted(count, 'block')} of about {block} consecutive images")


def _by_number(key: str) -> tuple[str, int, str]:
    """Sorts images by sequence, then by the number of the frame: 9 before 10, padded with zeros or not."""
    number = _NUMBER.search(key)
    return _FRAME.sub("", key), int(number[1]) if number else -1, key


def single_images(count: int) -> Clusters:
    """Every image a cluster of its own: right only where the images are unrelated."""
    return Clusters(np.arange(count), count, f"{count} single images")
