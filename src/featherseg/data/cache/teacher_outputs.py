"""Teachers' logits for the training images, kept on the disk and looked up for each crop.

Each teacher has a folder, named for the content of its weights, with a flat file and index.jsonl.
The flat file has, for each image, the least logit and the step of each class, float32 (K,), then
the logits (K, h, w) as uint8 in these steps: none is off by more than half a step, 1/510 of its
class's range. index.jsonl has a head (version, name of the flat file) and a line an image, with the
SHA-256 of its content and the stamp of its file, so that an unchanged file is not read again. Both
files only grow. `training.teaching` writes them.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from featherseg.core.files import read_lines
from featherseg.core.types import SegmentationData, Size
from featherseg.data.cache.origins import Origins
from featherseg.data.cache.prepared import INDEX, Stamp, aligned
from featherseg.data.images.decoding import MAX_PIXELS

FORMAT_VERSION = 1
"""Raised if the same teacher and image are stored differently: older files are then not used."""

MOST_PIXELS = 4 * MAX_PIXELS
"""Largest number of pixels that a teacher sees of an image."""

LEVELS = 255
"""Number of steps between the least and the largest logit of a class."""


class TeacherLogits(NamedTuple):
    """Teachers' logits for a crop at the places of the model's logits; collate adds B in front.

    logits (K, h, w) float16, the mean over the teachers; inside (h, w) bool: places in an image.
    """

    logits: Tensor
    inside: Tensor


class Grid(NamedTuple):
    """The places of logits of `size` (h, w) over `covered` (H, W) pixels."""

    size: Size
    covered: Size
    align_corners: bool

    def places(self, axis: int) -> np.ndarray:
        """Return the places of rows (0) or columns (1) in pixels; the first pixel's is 0.5."""
        number, covered = self.size[axis], self.covered[axis]
        if self.align_corners:
            return np.arange(number) * ((covered - 1) / max(number - 1, 1)) + 0.5
        return (np.arange(number) + 0.5) * (covered / number)

    def numbers(self, places: np.ndarray, axis: int) -> np.ndarray:
        """Return the rows or columns, from 0 on, at places in pixels."""
        number, covered = self.size[axis], self.covered[axis]
        if self.align_corners:
            return (places - 0.5) * ((number - 1) / max(covered - 1, 1))
        return places * (number / covered) - 0.5


@dataclass(frozen=True)
class Entry:
    """The stored logits of one image.

    Attributes:
        offset: First byte in the file.
        grid: Covers the resized image and the teacher's padding.
        image: Size of the image (H, W).
        resized: Size to which it was brought for the teacher.
    """

    offset: int
    classes: int
    grid: Grid
    image: Size
    resized: Size

    @property
    def logits_at(self) -> int:
        """The first byte of the logits, after the least logit and the step of each class."""
        return self.offset + 8 * self.classes

    @property
    def end(self) -> int:
        """The byte after the image in the file."""
        return self.logits_at + self.classes * math.prod(self.grid.size)

    def record(self) -> dict[str, Any]:
        """Return the entry as part of a line of the index."""
        return {**self.__dict__, "grid": list(self.grid)}

    @classmethod
    def parse(cls, record: dict[str, Any]) -> Entry:
        """Read a line. Raises ValueError, TypeError or KeyError if it is damaged."""
        size, covered, align_corners = record["grid"]
        grid = Grid(_size(size), _size(covered), bool(align_corners))
        image, resized = _size(record["image"]), _size(record["resized"])
        entry = cls(int(record["offset"]), int(record["classes"]), grid, image, resized)
        pixels = max(map(math.prod, (*grid[:2], resized)))
        if entry.offset < 0 or not 1 <= entry.classes <= 255 or pixels > MOST_PIXELS:
            raise ValueError(f"no logits can be stored as {record!r}")
        return entry

    def read(self, file: Path, rows: slice, columns: slice) -> np.ndarray:
        """Return logits (K, rows, columns) float32. Raises OSError."""
        scales = np.fromfile(file, "<f4", 2 * self.classes, offset=self.offset)
        least, step = scales.reshape(2, self.classes, 1, 1)
        shape = (self.classes, *self.grid.size)
        steps = np.memmap(file, np.uint8, "r", offset=self.logits_at, shape=shape)[:, rows, columns]
        return least + step * steps.astype(np.float32)

    def at(self, file: Path, rows: np.ndarray, columns: np.ndarray) -> np.ndarray:
        """Return the logits at places of the image in pixels, (h, w) each: (K, h, w) float32.

        They are interpolated bilinearly. Raises OSError.
        """
        # The rows and columns around these places are read, and no others
        numbers, parts = [], []
        for axis, places in enumerate((rows, columns)):
            resized = places * (self.resized[axis] / self.image[axis])
            number = self.grid.numbers(resized, axis).clip(0, self.grid.size[axis] - 1)
            start, stop = int(number.min()), int(number.max()) + 2
            parts.append(slice(start, min(stop, self.grid.size[axis])))
            numbers.append((number - start) * 2 + 1)
        logits = torch.from_numpy(self.read(file, parts[0], parts[1]))[
            None
        ]  # (1, K, rows, columns)
        y, x = (
            number / length - 1 for number, length in zip(numbers, logits.shape[2:], strict=True)
        )
        grid = torch.from_numpy(np.stack([x, y], -1).astype(np.float32))[None]  # (1, h, w, 2)
        return F.grid_sample(logits, grid, padding_mode="border", align_corners=False)[0].numpy()


def _size(sides: Any) -> Size:
    height, width = (int(side) for side in sides)
    if min(height, width) < 1:
        raise ValueError(f"{height}x{width} is no size")
    return height, width


def stored(logits: np.ndarray) -> bytes:
    """Return logits (K, h, w) float32 as stored: least and step of each class, then the steps."""
    # Each class has its own range, so that small logits keep their precision
    least = logits.min(axis=(1, 2)).astype("<f4")  # (K,)
    step = ((logits.max(axis=(1, 2)) - least) / LEVELS).astype("<f4")
    divisor = np.where(step > 0, step, 1)[:, None, None]
    steps = ((logits - least[:, None, None]) / divisor).round().clip(0, LEVELS).astype(np.uint8)
    return least.tobytes() + step.tobytes() + steps.tobytes()


@dataclass(frozen=True)
class TeacherOutputs:
    """The outputs of one teacher: the flat file, and {SHA-256 of an image: its entry}.

    digests: {(key, stamp of its file): SHA-256 of the content}.
    """

    folder: Path
    file: Path
    entries: dict[str, Entry]
    digests: dict[tuple[str, Stamp], str]


def read_outputs(folder: Path) -> TeacherOutputs | None:
    """Return the outputs in a folder; None if there are none for this version."""
    head, *records = read_lines(folder / INDEX) or [{}]
    if head.get("format_version") != FORMAT_VERSION:
        return None
    file = folder / Path(str(head.get("file"))).name
    size = file.stat().st_size if file.is_file() else 0
    entries, digests = dict[str, Entry](), dict[tuple[str, Stamp], str]()
    for record in records:
        try:
            digest, stamp = str(record["sha256"]), record.get("stamp")
            if "offset" in record:
                entry = Entry.parse(record)
                if entry.end > size:
                    continue
                entries[digest] = entry
            if stamp is not None:
                length, changed, anything = (int(number) for number in stamp)
                digests[str(record["key"]), (length, changed, anything)] = digest
        except (ValueError, TypeError, KeyError):
            continue
    return TeacherOutputs(folder, file, entries, digests)


def first_free(outputs: TeacherOutputs) -> int:
    """Return the offset of the next image in the flat file."""
    return aligned(max((entry.end for entry in outputs.entries.values()), default=0))


@dataclass(frozen=True)
class Teaching:
    """What teachers add to a training.

    Attributes:
        files: The flat file of each teacher.
        entries: The entries of each teacher: of images with masks, then of `unlabelled` ones.
        grid: The places of the trained model's logits over a crop.
        share: Share of the samples that are images without a mask (0..1).
    """

    files: tuple[Path, ...]
    entries: tuple[tuple[Entry, ...], ...]
    grid: Grid
    unlabelled: SegmentationData | None = None
    share: float = 0.0

    def __call__(self, origins: Origins) -> TeacherLogits:
        """Return the mean of the teachers' logits for a crop; 0 at places outside any image."""
        owner = origins.owner.numpy()  # (H, W)
        rows, columns = (self.grid.places(axis) for axis in (0, 1))  # (h,), (w,)
        # The model may pad the crop, and so have logits outside of it
        within = (rows < owner.shape[0])[:, None] & (columns < owner.shape[1])
        nearest = (
            places.astype(int).clip(max=side - 1)
            for places, side in zip((rows, columns), owner.shape, strict=True)
        )
        owners = np.where(within, owner[np.ix_(*nearest)], 0)  # (h, w)
        logits = np.zeros((self.entries[0][0].classes, *self.grid.size), np.float32)
        for number, (index, matrix) in enumerate(origins.parts, start=1):
            of_part = owners == number
            if not of_part.any():
                continue
            in_image = [m[0] * rows[:, None] + m[1] * columns + m[2] for m in matrix[:2]]  # (h, w)
            by_teacher = [
                entries[index].at(file, *in_image)
                for file, entries in zip(self.files, self.entries, strict=True)
            ]  # (K, h, w) each
            mean = sum(by_teacher[1:], by_teacher[0]) / len(by_teacher)
            np.copyto(logits, mean, where=of_part)
        return TeacherLogits(torch.from_numpy(logits).half(), torch.from_numpy(owners > 0))
