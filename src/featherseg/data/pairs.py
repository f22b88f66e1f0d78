"""A dataset that is pairs of files, picture and mask: what CamVid and `folder` share."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from featherseg.core.errors import ConfigError, DataError, DataNotFound
from featherseg.core.types import ClassInfo, Sample
from featherseg.data.images import is_image, read_image, read_mask
from featherseg.data.labels import LabelMap

SHOWN_NAMES = 3
"""How many missing files a message names."""


@dataclass(frozen=True)
class Pair:
    """One sample on disk. A file that is not there is None."""

    key: str
    image: Path | None
    mask: Path | None


class PairedFiles:
    """A dataset of picture and mask files; `SegmentationData` of `core.types`, read from disk when asked.

    Raises DataNotFound if pairs are incomplete, and (on reading) DataError for faulty files.
    """

    def __init__(
        self,
        name: str,
        classes: tuple[ClassInfo, ...],
        pairs: Sequence[Pair],
        label_map: LabelMap,
        *,
        channels: int = 3,
        size: int | None = None,
    ) -> None:
        self.name, self.classes, self.channels, self.label_map = name, classes, channels, label_map
        self.pairs = spread(complete(name, pairs), size)
        self.keys = [pair.key for pair in self.pairs]

    def __len__(self) -> int:
        return len(self.pairs)

    def __getitem__(self, index: int) -> Sample:
        pair = self.pairs[index]
        assert pair.image is not None
        image, label = read_image(pair.image, self.channels), self.label(index)  # (H, W, C), (H, W)
        if image.shape[:2] != label.shape:
            raise DataError(other_size(pair, image.shape[:2], label.shape))
        return Sample(pair.key, image, label)

    def label(self, index: int) -> np.ndarray:
        """(H, W) uint8 class ids of sample `index`, 255 = ignore; the picture is not read."""
        mask = self.pairs[index].mask
        assert mask is not None
        return self.label_map(read_mask(mask, self.label_map.colors), str(mask))


def files_by_stem(folder: Path, suffix: str = "") -> dict[str, Path]:
    """The pictures of a folder and the folders below it: "seq1/frame_0007" -> path, in the order of the names.

    Names that do not end in `suffix` (before the file's ending) are passed over, and the suffix is cut off.
    Raises DataError where two files share a stem (a.jpg beside a.png).
    """
    found: dict[str, Path] = {}
    for path in sorted(folder.rglob("*")):
        if not (is_image(path) and path.stem.endswith(suffix) and path.is_file()):
            continue
        stem = path.relative_to(folder).with_suffix("").as_posix().removesuffix(suffix)
        if stem in found:
            raise DataError(f"{found[stem]} and {path.name} share the stem {stem!r}. Keep one of them.")
        found[stem] = path
    return found


def complete(name: str, pairs: Sequence[Pair]) -> list[Pair]:
    """The pairs themselves; raises DataNotFound with counts and the first names where there is none, or one is half."""
    half = [pair for pair in pairs if pair.image is None or pair.mask is None]
    if half:
        without = [
            f"{sum(getattr(pair, part) is None for pair in pairs)} without {part}"
            for part in ("image", "mask")
            if any(getattr(pair, part) is None for pair in pairs)
        ]
        names = ", ".join(pair.key for pair in half[:SHOWN_NAMES]) + (", ..." if len(half) > SHOWN_NAMES else "")
        raise DataNotFound(
            f"{name}: {len(half)} of {len(pairs)} samples are incomplete ({' and '.join(without)}): {names}. "
            f"Run `featherseg check` on it for the whole list."
        )
    if not pairs:
        raise DataNotFound(f"{name}: there is no picture in this split.")
    return list(pairs)


def spread(pairs: list[Pair], size: int | None) -> list[Pair]:
    """At most `size` of the pairs, evenly spread over the list, always the same ones. None is all of them."""
    if size is not None and size < 1:
        raise ConfigError(f"a dataset of {size} samples was asked for. Expected at least 1.")
    if size is None or size >= len(pairs):
        return pairs
    return [pairs[i * len(pairs) // size] for i in range(size)]


def other_size(pair: Pair, image: tuple[int, ...], mask: tuple[int, ...]) -> str:
    """The sentence for a mask that does not cover its picture; sizes are (height, width)."""
    return (
        f"{pair.mask} is {mask[0]}x{mask[1]} (height x width), but its image {pair.image} is {image[0]}x{image[1]}. "
        f"Both must have one size."
    )
