"""Find images that look nearly alike: neighbouring frames, copies of another size or quality.

An image is kept as a thumbnail of SIDE x SIDE grey values and a hash of 64 bits; each bit is 1 if
the image gets brighter from one place to the next ("dHash"). Only images that share one of four
parts of the hash are compared, first by all of it and then by their thumbnails.

Measured: it finds 46 of 51 frames of CamVid that were put 1/15 s beside a frame of another split,
and in NEU-Seg 11 test images that show the same place of steel as a training image.
"""

import random
from collections.abc import Sequence
from itertools import product

import numpy as np
from PIL import Image

Look = bytes
"""How an image looks: a thumbnail of SIDE x SIDE grey values, then 8 bytes of hash."""

SIDE = 16
"""Rows and columns of a thumbnail."""

ROWS_SEEN = 128
"""Number of rows, evenly spread, that are read from an image with at least twice as many."""

FAR = 8
"""Bits in which the hashes of two similar images may differ; 3 misses a quarter of the frames."""

PARTS = 4
"""Number of parts of a hash; images that share one are compared."""

DIFFERENT = 4.0
"""Mean difference (0..255) up to which thumbnails of equal mean brightness are alike."""

LIKE = 0.97
"""Correlation from which two thumbnails are alike."""

PLAIN = 4.0
"""Standard deviation below which a thumbnail shows too little to compare: sky, blank steel."""

MOST_BESIDE = 64
"""Number of images with the same part of a hash that an image is compared with."""

SAME = 0.98
"""Correlation from which two thumbnails of 8 x 8 show the same: copies with 5 % noise have 0.99."""

ROWS = 512
"""Number of images that are compared with all others at a time; it bounds memory."""

REACH = 4
"""Largest distance at which neighbours are compared: cameras that take turns have one at 2 to 4."""

MOVES = (-2, 0, 2)
"""Shifts, in 1/16 of the image, that are tried between neighbours, because cameras turn."""

COMPARED = 400
"""Number of pairs of neighbours, and of random pairs, that are compared at each distance."""

MORE_ALIKE = 0.8
"""Share of comparisons in which neighbours are more alike than random pairs, from which images are
frames. Measured: frames of CamVid a second apart 0.93, a walk 1.00, road photographs 5 m apart
0.95, single images of steel 0.71.
"""

SURE = 3.4
"""Number of standard errors by which that share must exceed one half."""

SHORT = 16
"""Length of a sequence up to which random pairs come from all images: its own are neighbours."""


def look_of(image: np.ndarray) -> Look:
    """Return the look of an image (H, W, C), uint8 or uint16."""
    rows = seen_rows(image)
    grey = rows if rows.dtype == np.uint8 else (rows >> 8).astype(np.uint8)
    shown = grey[:, :, :3] if grey.shape[2] >= 3 else grey[:, :, 0]
    plain = Image.fromarray(np.ascontiguousarray(shown)).convert("L")
    small = np.asarray(plain.resize((9, 8), Image.Resampling.BOX))  # (8, 9): 64 neighbours
    brighter = np.packbits(small[:, 1:] > small[:, :-1]).tobytes()  # 8 bytes
    return plain.resize((SIDE, SIDE), Image.Resampling.BOX).tobytes() + brighter


def seen_rows(image: np.ndarray) -> np.ndarray:
    """Return ROWS_SEEN to 2 * ROWS_SEEN evenly spread rows of an image, (h, W, C)."""
    return image[:: max(1, len(image) // ROWS_SEEN)]


class Lookalikes:
    """Collects images by split and finds those of one split that look like one of another."""

    def __init__(self) -> None:
        self.places: list[tuple[str, str]] = []  # split and key
        self._thumbnails = bytearray()
        self._hashes = bytearray()

    def add(self, split: str, key: str, look: Look) -> None:
        """Add an image by its look."""
        self.places.append((split, key))
        self._thumbnails += look[: SIDE * SIDE]
        self._hashes += look[SIDE * SIDE :]

    def across(self, splits: Sequence[str]) -> list[tuple[int, int]]:
        """Return (image, the image of an earlier split that it looks like), as numbers in `places`.

        `splits` gives the order of the splits. An image occurs once on the left. The time grows in
        proportion to the number of images, whatever they show.
        """
        if len(self.places) < 2:
            return []
        thumbnails = np.frombuffer(self._thumbnails, np.uint8).reshape(-1, SIDE * SIDE)  # (N, 256)
        parts = np.frombuffer(self._hashes, np.uint16).reshape(-1, PARTS)  # (N, 4)
        rank = np.array([splits.index(split) for split, _ in self.places])  # (N,)
        usable = thumbnails.std(axis=1, dtype=np.float32) >= PLAIN
        like: dict[int, int] = {}
        for part in range(PARTS):
            # Images with the same part are a group, ordered by split
            order = np.lexsort((rank, parts[:, part]))
            order = order[usable[order]]
            for group in np.split(order, np.flatnonzero(np.diff(parts[order, part])) + 1):
                if rank[group[:1]].tolist() == rank[group[-1:]].tolist():
                    continue  # all of one split
                for image in group[rank[group] > rank[group[0]]].tolist():
                    if image not in like:
                        earlier = group[rank[group] < rank[image]]
                        nearest = np.argsort(np.abs(earlier - image), kind="stable")[:MOST_BESIDE]
                        others = earlier[nearest]
                        differ = (parts[others] ^ parts[image]).view(np.uint8)
                        bits = np.unpackbits(differ, axis=1).sum(axis=1)
                        for other in others[bits <= FAR].tolist():
                            if _alike(thumbnails[image], thumbnails[other]):
                                like[image] = other
                                break
        return sorted(like.items())


def _alike(first: np.ndarray, second: np.ndarray) -> bool:
    """Return whether two thumbnails (256,) show the same, apart from their mean brightness."""
    a, b = (
        values - values.mean() for values in (first.astype(np.float32), second.astype(np.float32))
    )
    correlation = float(a @ b) / float(np.sqrt((a @ a) * (b @ b)))
    return correlation >= LIKE and float(np.abs(a - b).mean()) <= DIFFERENT


def show_same(looks: Sequence[Look | None]) -> np.ndarray:
    """Return a group number for each image, (N,): images that show the same share a group.

    Images are also joined through others. An image without a look, or that shows too little, is a
    group of its own.
    """
    groups, usable = np.arange(len(looks)), _usable(looks)
    small = _small(looks, usable)  # (M, 64)
    for first in range(0, len(usable), ROWS):
        rows = slice(first, first + ROWS)
        same = small[rows] @ small[: first + ROWS].T >= SAME  # (rows, images up to these)
        for row in np.flatnonzero(same.sum(axis=1) > 1):  # each is like itself
            joined = np.unique(groups[usable[: same.shape[1]][same[row]]])
            groups[np.isin(groups, joined)] = joined[0]
    return groups


def order_by_look(looks: Sequence[Look]) -> list[int]:
    """Return an order in which each image is most like one before it: frames of a shuffled walk."""
    small, order = _small(looks, np.arange(len(looks))), [0]
    for _ in range(2):  # from anywhere to an end, then from this end
        order = order[-1:]
        nearest, left = small @ small[order[0]], np.ones(len(looks), bool)
        left[order[0]] = False
        while left.any():
            order.append(int(np.where(left, nearest, -np.inf).argmax()))
            left[order[-1]] = False
            nearest = np.maximum(nearest, small @ small[order[-1]])
    return order


def like_any(looks: Sequence[Look], others: Sequence[Look]) -> np.ndarray:
    """Return whether each image shows the same as one of the others, (N,) bool."""
    small_others = _small(others, _usable(others))
    like = np.zeros(len(looks), bool)
    usable = _usable(looks)
    for first in range(0, len(usable), ROWS):
        rows = usable[first : first + ROWS]
        like[rows] = (_small(looks, rows) @ small_others.T >= SAME).any(axis=1)
    return like


def neighbours_look_alike(sequences: Sequence[Sequence[Look | None]]) -> bool:
    """Return whether consecutive images look more alike than others, as frames of a video do.

    An image that shows the same as one just before it is a copy, and is skipped: three versions of
    each photograph are no video. So all images of a fixed camera but the first are skipped.
    """
    # The thumbnails of all sequences without copies, less what all have in common
    parts = list[np.ndarray]()
    for looks in sequences:
        usable, kept = _usable(looks), list[int]()
        small = _small(looks, usable)
        for place in range(len(usable)):
            if not (small[kept[-2 * REACH :]] @ small[place] >= SAME).any():
                kept.append(place)
        parts.append(_thumbnails(looks, usable[kept]))
    images = np.concatenate(parts) if parts else np.empty((0, SIDE * SIDE), np.float32)  # (M, 256)
    if len(images):
        images = images - images.mean(axis=0)
    images = images.reshape(-1, SIDE, SIDE)
    lengths = [len(part) for part in parts]
    ends = np.repeat(np.cumsum(lengths, dtype=int), lengths)  # (M,) end of each image's sequence
    begins = ends - np.repeat(lengths, lengths)

    # Compare neighbours at each distance with random pairs that are no neighbours
    draw = random.Random(0)
    for distance in range(1, REACH + 1):
        near = [(i, i + distance) for i in range(len(images) - distance) if i + distance < ends[i]]
        near, apart = draw.sample(near, min(COMPARED, len(near))), set[tuple[int, int]]()
        for _ in range(COMPARED if near else 0):
            i = draw.randrange(len(images))
            long = ends[i] - begins[i] > SHORT
            j = draw.randrange(begins[i], ends[i]) if long else draw.randrange(len(images))
            if ends[i] != ends[j] or abs(i - j) > distance:
                apart.add((min(i, j), max(i, j)))
        if not near or not apart:
            continue
        of_near, of_apart = (_likeness(images, np.array(sorted(pairs))) for pairs in (near, apart))
        share = float((of_near[:, None] > of_apart).mean())  # 0.5 if the order means nothing
        # The standard error of Mann and Whitney's U
        error = ((len(near) + len(apart) + 1) / (12 * len(near) * len(apart))) ** 0.5
        if share >= MORE_ALIKE and share - 0.5 >= SURE * error:
            return True
    return False


def _likeness(images: np.ndarray, pairs: np.ndarray) -> np.ndarray:
    """Return the correlation, at the best shift, of pairs (P, 2) of images (M, SIDE, SIDE)."""
    best = np.full(len(pairs), -1.0)
    for down, right in product(MOVES, repeat=2):
        first, second = (
            images[pairs[:, side], max(0, y) : SIDE + min(0, y), max(0, x) : SIDE + min(0, x)]
            for side, y, x in ((0, down, right), (1, -down, -right))
        )
        correlation = _unit(first.reshape(len(pairs), -1)) * _unit(second.reshape(len(pairs), -1))
        best = np.maximum(best, correlation.sum(axis=1))
    return best


def _thumbnails(looks: Sequence[Look | None], which: Sequence[int] | np.ndarray) -> np.ndarray:
    """Return the thumbnails of the images `which`, all of which have a look, (M, 256) float32."""
    pixels = b"".join(look[: SIDE * SIDE] for i in which if (look := looks[i]) is not None)
    return np.frombuffer(pixels, np.uint8).reshape(-1, SIDE * SIDE).astype(np.float32)


def _usable(looks: Sequence[Look | None]) -> np.ndarray:
    """Return the numbers of the images that show enough to be compared."""
    with_look = np.array([i for i, look in enumerate(looks) if look is not None], int)
    return with_look[_thumbnails(looks, with_look).std(axis=1) >= PLAIN]


def _small(looks: Sequence[Look | None], which: Sequence[int] | np.ndarray) -> np.ndarray:
    """Return unit thumbnails of 8 x 8, (M, 64): their scalar product is the correlation.

    Averaging to 8 x 8 makes noise harmless.
    """
    half = SIDE // 2
    small = _thumbnails(looks, which).reshape(-1, half, 2, half, 2).mean(axis=(2, 4))
    return _unit(small.reshape(-1, half * half))


def _unit(rows: np.ndarray) -> np.ndarray:
    """Return each row minus its mean, scaled to length 1."""
    rows = rows - rows.mean(axis=1, keepdims=True)
    length = np.linalg.norm(rows, axis=1, keepdims=True)
    return rows / np.maximum(length, np.finfo(np.float32).tiny)
