"""Images that look nearly alike, though no pixel may be equal: neighbouring frames, copies of another size or quality.

Each image is kept as a thumbnail of SIDE x SIDE grey values and a hash of 64 bits, of which each says whether the image
grows brighter from one place to the next (as "dHash" does): 264 bytes beside its name. Only images that share one of
four parts of the hash are compared, by all of it and then by their thumbnails.

Found so: 46 of 51 frames of CamVid that were put 1/15 s beside one of another split, and in NEU-Seg 11 test images, by
eye each of the same place of steel as a training image.
"""

import random
from collections.abc import Sequence
from itertools import product

import numpy as np
from PIL import Image

Look = bytes
"""How an image looks: a thumbnail of SIDE x SIDE grey values and 8 bytes of a hash."""

SIDE = 16

ROWS_SEEN = 128
"""Rows of an image that are looked at, evenly spread, if it has twice as many or more."""

FAR = 8
"""Bits in which the hashes of two images alike may differ; with 3 a quarter of the frames above were not found."""

PARTS = 4

DIFFERENT = 4.0
"""Mean difference of two thumbnails (of 255), their mean brightness apart, up to which they are alike."""

LIKE = 0.97
"""Correlation of two thumbnails from which they are alike."""

PLAIN = 4.0
"""Standard deviation of a thumbnail below which an image shows too little to be compared: sky, blank steel."""

MOST_BESIDE = 64
"""Images with the same part of a hash that one is compared with: of a fixed camera all are alike."""


def look_of(image: np.ndarray) -> Look:
    """The look of an image (H, W, C), uint8 or uint16."""
    rows = seen_rows(image)
    grey = rows if rows.dtype == np.uint8 else (rows >> 8).astype(np.uint8)
    shown = grey[:, :, :3] if grey.shape[2] >= 3 else grey[:, :, 0]
    plain = Image.fromarray(np.ascontiguousarray(shown)).convert("L")
    small = np.asarray(plain.resize((9, 8), Image.Resampling.BOX))  # (8, 9): 64 neighbours
    brighter = np.packbits(small[:, 1:] > small[:, :-1]).tobytes()  # 8 bytes
    return plain.resize((SIDE, SIDE), Image.Resampling.BOX).tobytes() + brighter


def seen_rows(image: np.ndarray) -> np.ndarray:
    """Every so many rows of an image (H, W, C), from ROWS_SEEN to twice as many: (h, W, C)."""
    return image[:: max(1, len(image) // ROWS_SEEN)]


class Lookalikes:
    """Collects images by split and finds those of one split that look like one of another."""

    def __init__(self) -> None:
        self.places: list[tuple[str, str]] = []  # split and key
        self._thumbnails = bytearray()
        self._hashes = bytearray()

    def add(self, split: str, key: str, look: Look) -> None:
        """Keep an image by its look."""
        self.places.append((split, key))
        self._thumbnails += look[: SIDE * SIDE]
        self._hashes += look[SIDE * SIDE :]

    def across(self, splits: Sequence[str]) -> list[tuple[int, int]]:
        """(image, the one of an earlier split that it looks like), as numbers in `places`; of each image one.

        `splits` says which split comes first. Takes time in proportion to the number of images, whatever they show.
        """
        if len(self.places) < 2:
            return []
        thumbnails = np.frombuffer(self._thumbnails, np.uint8).reshape(-1, SIDE * SIDE)  # (N, 256)
        parts = np.frombuffer(self._hashes, np.uint16).reshape(-1, PARTS)  # (N, 4)
        rank = np.array([splits.index(split) for split, _ in self.places])  # (N,)
        shown = thumbnails.std(axis=1, dtype=np.float32) >= PLAIN
        found: dict[int, int] = {}
        for part in range(PARTS):
            order = np.lexsort((rank, parts[:, part]))
            order = order[shown[order]]
            for group in np.split(order, np.flatnonzero(np.diff(parts[order, part])) + 1):
                if rank[group[:1]].tolist() == rank[group[-1:]].tolist():
                    continue  # of one split
                for image in group[rank[group] > rank[group[0]]].tolist():
                    if image not in found:
                        earlier = group[rank[group] < rank[image]]
                        beside = earlier[
                            np.argsort(np.abs(earlier - image), kind="stable")[:MOST_BESIDE]
                        ]
                        bits = np.unpackbits(
                            (parts[beside] ^ parts[image]).view(np.uint8), axis=1
                        ).sum(axis=1)
                        for other in beside[bits <= FAR].tolist():
                            if _alike(thumbnails[image], thumbnails[other]):
                                found[image] = other
                                break
        return sorted(found.items())


def _alike(first: np.ndarray, second: np.ndarray) -> bool:
    """Whether two thumbnails (256,) show the same, brightness apart."""
    one, other = (
        values - values.mean() for values in (first.astype(np.float32), second.astype(np.float32))
    )
    like = float(one @ other) / float(np.sqrt((one @ one) * (other @ other)))
    return like >= LIKE and float(np.abs(one - other).mean()) <= DIFFERENT


SAME = 0.98
"""Correlation of two thumbnails of 8 x 8 from which they show the same: copies with noise of 5 % have 0.99."""

ROWS = 512
"""Images that are compared with all at a time, which bounds memory."""

REACH = 4
"""How far apart in order neighbours are compared: cameras that take turns have a neighbour at 2, 3 or 4."""

MOVES = (-2, 0, 2)
"""How far, in 1/16 of the image, neighbours are moved against each other."""

COMPARED = 400
"""Pairs of neighbours, and of images drawn at random, that are compared at each distance."""

MORE_ALIKE = 0.8
"""Share of comparisons in which a pair of neighbours is more alike than a random pair, from which on they are frames.

CamVid's frames, a second apart, have 0.93, a walk 1.00, road photographs 5 m apart 0.95; single images of steel 0.71.
"""

SURE = 3.4
"""By how many standard errors that share must be above a half."""

SHORT = 16
"""Images of a sequence up to which its random pairs are drawn from all images: its own are all neighbours."""


def show_same(looks: Sequence[Look | None]) -> np.ndarray:
    """The number of the group of each image, (N,): images that show the same are of one group, through others too.

    An image without a look, or that shows too little, is a group of its own.
    """
    groups, shown = np.arange(len(looks)), _shown(looks)
    small = _small(looks, shown)  # (M, 64)
    for first in range(0, len(shown), ROWS):
        rows = slice(first, first + ROWS)
        same = small[rows] @ small[: first + ROWS].T >= SAME  # (rows, images up to these)
        for row in np.flatnonzero(same.sum(axis=1) > 1):  # each is like itself
            joined = np.unique(groups[shown[: same.shape[1]][same[row]]])
            groups[np.isin(groups, joined)] = joined[0]
    return groups


def order_by_look(looks: Sequence[Look]) -> list[int]:
    """The images in an order in which each is most like one before it, such as the frames of a shuffled walk."""
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
    """Whether each image shows the same as one of the others, (N,) bool."""
    of_others = _small(others, _shown(others))
    found = np.zeros(len(looks), bool)
    shown = _shown(looks)
    for first in range(0, len(shown), ROWS):
        rows = shown[first : first + ROWS]
        found[rows] = (_small(looks, rows) @ of_others.T >= SAME).any(axis=1)
    return found


def neighbours_look_alike(sequences: Sequence[Sequence[Look | None]]) -> bool:
    """Whether images that follow one another look more alike than others do, as frames of a video.

    An image that shows the same as one of those just before it is a copy, and is passed over: three versions of each
    photograph are no video. So are of a fixed camera all images but the first.
    """
    parts = list[np.ndarray]()
    for looks in sequences:
        shown, kept = _shown(looks), list[int]()
        small = _small(looks, shown)
        for place in range(len(shown)):
            if not (small[kept[-2 * REACH :]] @ small[place] >= SAME).any():
                kept.append(place)
        parts.append(_thumbnails(looks, shown[kept]))
    whole = np.concatenate(parts) if parts else np.empty((0, SIDE * SIDE), np.float32)  # (M, 256)
    whole = (
        whole - whole.mean(axis=0) if len(whole) else whole
    )  # what all have in common tells nothing
    whole = whole.reshape(-1, SIDE, SIDE)
    lengths = [len(part) for part in parts]
    ends = np.repeat(
        np.cumsum(lengths, dtype=int), lengths
    )  # (M,) where the sequence of each image ends
    begins = ends - np.repeat(lengths, lengths)
    draw = random.Random(0)
    for distance in range(1, REACH + 1):
        near = [(i, i + distance) for i in range(len(whole) - distance) if i + distance < ends[i]]
        near, apart = draw.sample(near, min(COMPARED, len(near))), set[tuple[int, int]]()
        for _ in range(COMPARED if near else 0):
            i = draw.randrange(len(whole))
            own = ends[i] - begins[i] > SHORT
            j = draw.randrange(begins[i], ends[i]) if own else draw.randrange(len(whole))
            if ends[i] != ends[j] or abs(i - j) > distance:
                apart.add((min(i, j), max(i, j)))
        if not near or not apart:
            continue
        of_near, of_apart = (_likeness(whole, np.array(sorted(pairs))) for pairs in (near, apart))
        more = float((of_near[:, None] > of_apart).mean())  # 0.5 where order says nothing
        error = (
            (len(near) + len(apart) + 1) / (12 * len(near) * len(apart))
        ) ** 0.5  # of Mann and Whitney's U
        if more >= MORE_ALIKE and more - 0.5 >= SURE * error:
            return True
    return False


def _likeness(images: np.ndarray, pairs: np.ndarray) -> np.ndarray:
    """The correlation of each pair (P, 2) of images (M, SIDE, SIDE), moved so that it is largest: cameras turn."""
    most = np.full(len(pairs), -1.0)
    for down, right in product(MOVES, repeat=2):
        one, other = (
            _unit(
                images[
                    pairs[:, side], max(0, y) : SIDE + min(0, y), max(0, x) : SIDE + min(0, x)
                ].reshape(len(pairs), -1)
            )
            for side, y, x in ((0, down, right), (1, -down, -right))
        )
        most = np.maximum(most, (one * other).sum(axis=1))
    return most


def _thumbnails(looks: Sequence[Look | None], which: Sequence[int] | np.ndarray) -> np.ndarray:
    """(M, 256) float32 of those images, which have a look."""
    pixels = b"".join(look[: SIDE * SIDE] for i in which if (look := looks[i]) is not None)
    return np.frombuffer(pixels, np.uint8).reshape(-1, SIDE * SIDE).astype(np.float32)


def _shown(looks: Sequence[Look | None]) -> np.ndarray:
    """The numbers of the images that show enough to be compared."""
    with_look = np.array([i for i, look in enumerate(looks) if look is not None], int)
    return with_look[_thumbnails(looks, with_look).std(axis=1) >= PLAIN]


def _small(looks: Sequence[Look | None], which: Sequence[int] | np.ndarray) -> np.ndarray:
    """(M, 64): thumbnails of 8 x 8 whose scalar product is their correlation; averaging makes noise harmless."""
    half = SIDE // 2
    return _unit(
        _thumbnails(looks, which)
        .reshape(-1, half, 2, half, 2)
        .mean(axis=(2, 4))
        .reshape(-1, half * half)
    )


def _unit(rows: np.ndarray) -> np.ndarray:
    """Each row less its mean, of length 1."""
    rows = rows - rows.mean(axis=1, keepdims=True)
    length = np.linalg.norm(rows, axis=1, keepdims=True)
    return rows / np.maximum(length, np.finfo(np.float32).tiny)
