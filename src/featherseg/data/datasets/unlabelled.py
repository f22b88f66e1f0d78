"""A folder of images without masks as a dataset: ignored everywhere, or with pseudo-masks."""

from collections.abc import Collection, Mapping, Sequence
from pathlib import Path

import numpy as np
from PIL import Image

from featherseg.core.errors import DataError, DataNotFound
from featherseg.core.types import IGNORE, Sample, SegmentationData
from featherseg.core.wording import counted, size_text
from featherseg.data.images.decoding import image_size, read_image
from featherseg.data.images.labels import LabelMap
from featherseg.data.images.listing import IMAGE_SUFFIXES, is_image
from featherseg.data.images.pairs import Pair, PairedFiles
from featherseg.data.images.unread import unread_endings, unread_note, warn_once


class UnlabelledImages(PairedFiles):
    """The images of a folder and its subfolders, sorted by name; every pixel is ignored.

    Args:
        folder: The folder of images.
        train: The labelled training images, whose classes, channels and licence are used.
        like: An image (H, W, C); reading an image with another bit depth raises DataError.

    Raises:
        DataNotFound: The folder has no images.
    """

    def __init__(self, folder: Path, train: SegmentationData, like: np.ndarray) -> None:
        files = sorted(
            path
            for path in folder.rglob("*")
            if path.is_file() and not any(p[0] == "." for p in path.relative_to(folder).parts)
        )
        paths, skipped = list(filter(is_image, files)), unread_note(unread_endings(map(str, files)))
        if not paths:
            lacking = "has no images." if folder.is_dir() else "is no folder."
            lacking += f" {skipped}." if skipped else ""
            raise DataNotFound(
                f"{folder} {lacking} Expected files ending in {', '.join(IMAGE_SUFFIXES)}."
            )
        if skipped:
            warn_once(f"{folder}: {skipped}")
        self.name, self.classes, self.channels = folder.name, train.classes, train.channels
        self.label_map, self.licence = LabelMap({}, expected=""), train.licence
        self.pairs = [Pair(path.relative_to(folder).as_posix(), path, None) for path in paths]
        self.keys = [pair.key for pair in self.pairs]
        self.folder, self.depth, self.left_out = folder, like.dtype, dict[str, int]()

    def leave_out(self, copies: Mapping[str, Collection[str]]) -> None:
        """Leave out images (split -> keys) that a split has too; `left_out` has their numbers.

        Raises DataNotFound if no image is left.
        """
        self.left_out = {split: len(keys) for split, keys in copies.items() if keys}
        known = {key for keys in copies.values() for key in keys}
        if known.issuperset(self.keys):
            raise DataNotFound(
                f"{self.folder} has no image without a mask: {counted(len(self.keys), 'image')} "
                f"of it are in {', '.join(self.left_out)}. Name a folder with further images."
            )
        self.keep(set(self.keys) - known)

    def keep(self, keys: set[str]) -> None:
        """Keep only the images with these keys."""
        self.pairs = [pair for pair in self.pairs if pair.key in keys]
        self.keys = [pair.key for pair in self.pairs]

    def __getitem__(self, index: int) -> Sample:
        pair = self.pairs[index]
        assert pair.image is not None
        image = read_image(pair.image, self.channels)
        if image.dtype != self.depth:
            bits, expected = 8 * image.dtype.itemsize, 8 * self.depth.itemsize
            raise DataError(
                f"{pair.image} has {bits} bits a channel, the training images {expected}. Convert "
                "it."
            )
        return Sample(pair.key, image, np.full(image.shape[:2], IGNORE, np.uint8))

    def label(self, index: int) -> np.ndarray:
        """Return a label (H, W) uint8, ignored everywhere, without reading the image."""
        path = self.pairs[index].image
        assert path is not None
        return np.full(image_size(path), IGNORE, np.uint8)


class PseudoMasks:
    """Images without masks, with pseudo-masks: what a model sees in them, where it is sure enough.

    A file FOLDER/KEY.png has two channels: the class, and the confidence (0..255) in it.

    Args:
        images: The images.
        folder: The folder of the files, one for each image.
        least: The least confidence of a pixel of each class (K,); other pixels are ignored.
        share: Share of the samples of a training that are drawn from these images.
    """

    def __init__(
        self, images: UnlabelledImages, folder: Path, least: Sequence[int], share: float
    ) -> None:
        self.images, self.folder, self.share = images, folder, share
        self.least = np.full(256, 256)  # of a class that there is not, no pixel
        self.least[: len(least)] = least

    def __len__(self) -> int:
        return len(self.images)

    def __getitem__(self, index: int) -> Sample:
        sample = self.images[index]
        path = pseudo_mask(self.folder, sample.key)
        both = read_pseudo_mask(path)
        if both.shape[:2] != sample.label.shape:
            raise DataError(
                f"{path} is {size_text(both.shape[:2])}, its image {size_text(sample.label.shape)}."
            )
        classes, confidence = both[..., 0], both[..., 1]
        label = np.where(confidence >= self.least[classes], classes, np.uint8(IGNORE))
        return Sample(sample.key, sample.image, label)


def pseudo_mask(folder: Path, key: str) -> Path:
    """Return the file of an image's pseudo-mask."""
    return folder / f"{key}.png"


def read_pseudo_mask(path: Path) -> np.ndarray:
    """Return classes and confidences (H, W, 2) uint8. Raises DataError."""
    try:
        with Image.open(path) as file:
            both = np.asarray(file)
    except (OSError, ValueError) as error:
        raise DataError(f"{path} cannot be read: {error}.") from None
    if both.ndim != 3 or both.shape[2] != 2:
        raise DataError(f"{path} is no pseudo-mask: it has other channels than class, confidence.")
    return both
