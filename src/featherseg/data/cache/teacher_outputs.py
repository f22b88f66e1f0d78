"""What teachers say of the training images: logits at their own stride, kept on the disk and looked up for a crop.

A folder a teacher, named for the content of its weights: a flat file and index.jsonl. In the flat file an image has the
least logit and the step of each class, float32 (K,), then its logits (K, h, w) as uint8 in these steps: none is off by
more than half a step, 1/510 of its class's range. index.jsonl has a head (version, name of the flat file) and a line an
image, by the SHA-256 of its content, with the stamp of its file, so that a file is not read again to know it. Both
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
"""Raised when the same teacher and image would be stored otherwise: what older versions stored is not used."""

MOST_PIXELS = 4 * MAX_PIXELS
"""Of what a teacher sees of an image."""

LEVELS = 255
"""Steps between the least and the largest logit of a class."""


class Taught(NamedTuple):
    """What teachers say of a crop at the places of the model's logits; collate adds B in front.

    logits (K, h, w) float16, the mean over the teachers; inside (h, w) bool: places that are in an image.
    """

    logits: Tensor
    inside: Tensor


class Grid(NamedTuple):
    """The places of logits of `size` (h, w) over `covered` (H, W) pixels."""

    size: Size
    covered: Size
    align_corners: bool

    def places(self, axis: int) -> np.ndarray:
        """Where their rows (0) or columns (1) lie, in pixels; the middle of the first pixel is at 0.5."""
        number, covered = self.size[axis], self.covered[axis]
        if self.align_corners:
            return np.arange(number) * ((covered - 1) / max(number - 1, 1)) + 0.5
        return (np.arange(number) + 0.5) * (covered / number)

    def numbers(self, places: np.ndarray, axis: int) -> np.ndarray:
        """The way back: pixels -> rows or columns, 0 being the first."""
        number, covered = self.size[axis], self.covered[axis]
        if self.align_corners:
            return (places - 0.5) * ((number - 1) / max(covered - 1, 1))
        return places * (number / covered) - 0.5


@dataclass(frozen=True)
class Entry:
    """The logits of one image: where they begin in the file, of how many classes, over what.

    image is the size of the image (H, W), resized what it was brought to for the teacher; the grid covers the latter,
    and what the teacher padded it with.
    """

    offset: int
    classes: int
    grid: Grid
    image: Size
    resized: Size

    @property
    def logits_at(self) -> int:
        """Where the logits begin in the file, behind the least logit and the step of each class."""
        return self.offset + 8 * self.classes

    @property
    def end(self) -> int:
        """Where the image ends in the file."""
        return self.logits_at + self.classes * math.prod(self.grid.size)

    def record(self) -> dict[str, Any]:
        """The entry as part of a line of the index."""
        return {**self.__dict__, "grid": list(self.grid)}

    @classmethod
    def parse(cls, record: dict[str, Any]) -> Entry:
        """Raises ValueError, TypeError or KeyError for a line that is damaged."""
        size, covered, align_corners = record["grid"]
        grid = Grid(_size(size), _size(covered), bool(align_corners))
        image, resized = _size(record["image"]), _size(record["resized"])
        entry = cls(int(record["offset"]), int(record["classes"]), grid, image, resized)
        if (
            entry.offset < 0
            or not 1 <= entry.classes <= 255
            or max(map(math.prod, (*grid[:2], resized))) > MOST_PIXELS
        ):
            raise ValueError(f"no logits can be stored as {record!r}")
        return entry

    def read(self, file: Path, rows: slice, columns: slice) -> np.ndarray:
        """(K, rows, columns) float32 of the logits. Raises OSError."""
        scales = np.fromfile(file, "<f4", 2 * self.classes, offset=self.offset).reshape(
            2, self.classes, 1, 1
        )
        shape = (self.classes, *self.grid.size)
        steps = np.memmap(file, np.uint8, "r", offset=self.logits_at, shape=shape)[:, rows, columns]
        return scales[0] + scales[1] * steps.astype(np.float32)

    def at(self, file: Path, rows: np.ndarray, columns: np.ndarray) -> np.ndarray:
        """The logits at places of the image, (h, w) each, in pixels -> (K, h, w) float32, bilinear. Raises OSError."""
        numbers, parts = [], []
        for axis, places in enumerate((rows, columns)):
            own = self.grid.numbers(places * (self.resized[axis] / self.image[axis]), axis)
            own = own.clip(0, self.grid.size[axis] - 1)
            part = slice(int(own.min()), int(own.max()) + 2)
            parts.append(slice(part.start, min(part.stop, self.grid.size[axis])))
            numbers.append((own - part.start) * 2 + 1)
        stored = torch.from_numpy(self.read(file, parts[0], parts[1]))[
            None
        ]  # (1, K, rows, columns)
        sides = [
            number / length - 1 for number, length in zip(numbers, stored.shape[2:], strict=True)
        ]
        grid = torch.from_numpy(np.stack(sides[::-1], -1).astype(np.float32))[
            None
        ]  # (1, h, w, 2): x and y, -1 to 1
        return F.grid_sample(stored, grid, padding_mode="border", align_corners=False)[0].numpy()


def _size(sides: Any) -> Size:
    height, width = (int(side) for side in sides)
    if min(height, width) < 1:
        raise ValueError(f"{height}x{width} is no size")
    return height, width


def stored(logits: np.ndarray) -> bytes:
    """Logits (K, h, w) float32 as the flat file holds them: the least and the step of each class, then the steps."""
    least = logits.min(axis=(1, 2)).astype("<f4")  # (K,)
    step = ((logits.max(axis=(1, 2)) - least) / LEVELS).astype("<f4")
    divisor = np.where(step > 0, step, 1)[:, None, None]
    steps = ((logits - least[:, None, None]) / divisor).round().clip(0, LEVELS).astype(np.uint8)
    return least.tobytes() + step.tobytes() + steps.tobytes()


@dataclass(frozen=True)
class TeacherOutputs:
    """The outputs of one teacher, opened: the flat file, its entries by the content of the image, and what files hold.

    digests: (key, stamp of its file) -> SHA-256 of the content.
    """

    folder: Path
    file: Path
    entries: dict[str, Entry]
    digests: dict[tuple[str, Stamp], str]


def read_outputs(folder: Path) -> TeacherOutputs | None:
    """The outputs in a folder, None where there are none that this version can use."""
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
                known = {"key", "stamp", "sha256"}
                entry = Entry.parse(
                    {key: value for key, value in record.items() if key not in known}
                )
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
    """Where the next image may begin in the flat file."""
    return aligned(max((entry.end for entry in outputs.entries.values()), default=0))


@dataclass(frozen=True)
class Teaching:
    """What teachers give to a training: their outputs by image, first those with masks, then `unlabelled` ones.

    files: the flat file of each teacher; entries: of each teacher its entry of every image; grid: the places of the
    trained model's logits over a crop; share: how many of the samples are images without a mask (0..1).
    """

    files: tuple[Path, ...]
    entries: tuple[tuple[Entry, ...], ...]
    grid: Grid
    unlabelled: SegmentationData | None = None
    share: float = 0.0

    def __call__(self, origins: Origins) -> Taught:
        """The mean of the teachers' logits for a crop; 0 at places outside any image."""
        owner = origins.owner.numpy()  # (H, W)
        rows, columns = (self.grid.places(axis) for axis in (0, 1))  # (h,), (w,)
        within = (rows < owner.shape[0])[:, None] & (
            columns < owner.shape[1]
        )  # not what a model pads the crop with
        at = (
            places.astype(int).clip(max=side - 1)
            for places, side in zip((rows, columns), owner.shape, strict=True)
        )
        owners = np.where(within, owner[np.ix_(*at)], 0)  # (h, w)
        logits = np.zeros((self.entries[0][0].classes, *self.grid.size), np.float32)
        for number, (index, matrix) in enumerate(origins.parts, start=1):
            mine = owners == number
            if not mine.any():
                continue
            there = [
                m[0] * rows[:, None] + m[1] * columns + m[2] for m in matrix[:2]
            ]  # (h, w) each
            said = [
                entries[index].at(file, *there)
                for file, entries in zip(self.files, self.entries, strict=True)
            ]  # (K, h, w) each
            np.copyto(logits, sum(said[1:], said[0]) / len(said), where=mine)
        return Taught(torch.from_numpy(logits).half(), torch.from_numpy(owners > 0))
