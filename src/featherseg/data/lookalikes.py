"""Images that look nearly alike, though no pixel may be equal: neighbouring frames, copies of another size or quality.

Each image is kept as a thumbnail of SIDE x SIDE grey values and a hash of 64 bits, of which each says whether the image
grows brighter from one place to the next (as "dHash" does): 264 bytes beside its name. Only images that share one of
four parts of the hash are compared, by all of it and then by their thumbnails.

Found so: 46 of 51 frames of CamVid that were put 1/15 s beside one of another split, and in NEU-Seg 11 test images, by
eye each of the same place of steel as a training image.
"""

from collections.abc import Sequence

import numpy as np
from PIL import Image

SIDE = 16

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


class Lookalikes:
    """Collects images by split and finds those of one split that look like one of another."""

    def __init__(self) -> None:
        self.places: list[tuple[str, str]] = []  # split and key
        self._thumbnails = bytearray()
        self._hashes = bytearray()

    def add(self, split: str, key: str, image: np.ndarray) -> None:
        """Keep an image (H, W, C), uint8 or uint16."""
        grey = image if image.dtype == np.uint8 else (image >> 8).astype(np.uint8)
        shown = grey[:, :, :3] if grey.shape[2] >= 3 else grey[:, :, 0]
        plain = Image.fromarray(np.ascontiguousarray(shown)).convert("L")
        self.places.append((split, key))
        self._thumbnails += plain.resize((SIDE, SIDE), Image.Resampling.BOX).tobytes()
        small = np.asarray(plain.resize((9, 8), Image.Resampling.BOX))  # (8, 9): 64 neighbours
        self._hashes += np.packbits(small[:, 1:] > small[:, :-1]).tobytes()  # 8 bytes

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
                        beside = earlier[np.argsort(np.abs(earlier - image), kind="stable")[:MOST_BESIDE]]
                        bits = np.unpackbits((parts[beside] ^ parts[image]).view(np.uint8), axis=1).sum(axis=1)
                        for other in beside[bits <= FAR].tolist():
                            if _alike(thumbnails[image], thumbnails[other]):
                                found[image] = other
                                break
        return sorted(found.items())


def _alike(first: np.ndarray, second: np.ndarray) -> bool:
    """Whether two thumbnails (256,) show the same, brightness apart."""
    one, other = (values - values.mean() for values in (first.astype(np.float32), second.astype(np.float32)))
    like = float(one @ other) / float(np.sqrt((one @ one) * (other @ other)))
    return like >= LIKE and float(np.abs(one - other).mean()) <= DIFFERENT
