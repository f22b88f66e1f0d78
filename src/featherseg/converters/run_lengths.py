"""Masks as run lengths, in the three encodings of annotation tools.

Counts that do not fit the image are an error.
"""

from collections.abc import Iterable, Sequence

import numpy as np

from featherseg.converters.annotations import EmptyShape, Region, UnusableShape
from featherseg.core.types import Size

MOST_RUNS = 20_000_000
"""Most runs of one mask; pure noise of 40 megapixels has as many."""


def mask_of_counts(counts: Iterable[object], size: Size) -> np.ndarray:
    """Return the mask (H, W) bool of counts: lengths of zeros and ones in turn, row by row.

    The first length is of zeros. Raises UnusableShape if these are not counts, or do not add up to
    the number of pixels.
    """
    lengths = _checked(counts, size)
    return np.repeat(np.arange(len(lengths)) % 2 == 1, lengths).reshape(size)


def region_of_counts(counts: Iterable[object], size: Size) -> Region:
    """Return the columns of a mask that contain ones, from counts column by column, as in COCO.

    Raises EmptyShape if there are no ones, UnusableShape as `mask_of_counts`.
    """
    lengths, height = _checked(counts, size), size[0]
    ends = np.cumsum(lengths)
    runs = 1 + 2 * np.flatnonzero(lengths[1::2])  # of ones
    if not len(runs):
        raise EmptyShape("empty masks")
    left, right = int(ends[runs[0] - 1]) // height, -(-int(ends[runs[-1]]) // height)
    changes = np.zeros((right - left) * height + 1, np.int8)
    changes[ends[runs - 1] - left * height] += 1
    changes[ends[runs] - left * height] -= 1
    return Region(0, left, np.cumsum(changes[:-1], dtype=np.int8).view(bool).reshape(-1, height).T)


def _checked(counts: Iterable[object], size: Size) -> np.ndarray:
    """Return counts as (n,) int64. Raises UnusableShape."""
    lengths = list(counts)
    if (
        not all(type(length) is int and length >= 0 for length in lengths)
        or len(lengths) > MOST_RUNS
    ):
        raise UnusableShape("run lengths that are no counts of pixels")
    total = sum(lengths)  # type: ignore[arg-type]
    if total != size[0] * size[1]:
        raise UnusableShape(
            f"run lengths of {total:,} pixels where the mask has {size[0] * size[1]:,}"
        )
    return np.array(lengths, np.int64)


def coco_counts(text: str) -> list[int]:
    """Decode COCO's compressed counts, as `rleFrString` of pycocotools.

    Each character has five bits; from the third number on they are differences. Raises
    UnusableShape if the text is not of this form.
    """
    counts: list[int] = []
    value = shift = 0
    for character in text.encode("ascii", errors="replace"):
        bits = character - 48
        if not 0 <= bits < 64 or shift > 50:
            raise UnusableShape("run lengths that are no text of COCO")
        value |= (bits & 31) << shift
        shift += 5
        if bits & 32:  # the number continues
            continue
        value -= (bits & 16) << (shift - 4)  # the fifth bit of the last character is the sign
        counts.append(value + (counts[-2] if len(counts) > 2 else 0))
        value = shift = 0
    if shift:
        raise UnusableShape("run lengths that end in the middle of a number")
    return counts


def label_studio_mask(data: Sequence[object], size: Size) -> np.ndarray:
    """Return the mask (H, W) bool of Label Studio's brush (`brush.decode_rle` of label-studio-sdk).

    The bits of this format, thi.ng/rle-pack: the number of values (32), bits of a value - 1 (5),
    four widths - 1 (4 each). Then for every run: whether its value is repeated (1), which of the
    widths its length has (2), its length - 1, and the value, or all values. The values are RGBA,
    and alpha is the mask. Raises UnusableShape if the data is damaged or of another size.
    """
    try:
        packed = bytes(data)  # type: ignore[arg-type]
    except (TypeError, ValueError):
        raise UnusableShape("brush strokes that are no bytes") from None
    position = 0

    def read(width: int) -> int:
        nonlocal position
        first, position = position, position + width
        if position > 8 * len(packed):
            raise UnusableShape("brush strokes that are cut off")
        last = (position + 7) // 8
        number = int.from_bytes(packed[first // 8 : last], "big")
        return number >> (8 * last - position) & (1 << width) - 1

    total, word, widths = read(32), read(5) + 1, [read(4) + 1 for _ in range(4)]
    if total != 4 * size[0] * size[1]:
        raise UnusableShape(
            f"brush strokes of {total // 4:,} pixels in an image of {size[0] * size[1]:,}"
        )
    values = np.zeros(total, bool)
    done = 0
    while done < total:
        repeated = read(1)
        length = read(widths[read(2)]) + 1
        if length > total - done:
            raise UnusableShape("brush strokes of more pixels than the image has")
        if repeated:
            values[done : done + length] = read(word) > 0
        else:
            for place in range(done, done + length):
                values[place] = read(word) > 0
        done += length
    return values.reshape(*size, 4)[:, :, 3]


def counts_of_rows(inside: np.ndarray) -> list[int]:
    """Return the counts of a mask (h, w) bool: lengths of zeros and ones in turn, row by row.

    The first length is of zeros.
    """
    flat = inside.ravel()
    changes = np.flatnonzero(flat[1:] != flat[:-1]) + 1
    lengths = np.diff(changes, prepend=0, append=flat.size).tolist()
    return [0, *lengths] if flat[0] else lengths
