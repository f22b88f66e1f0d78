"""Prepared data on disk: a folder for each form of a dataset, with one flat file and an index of what lies where in it.

In the flat file image (H, W, C), label (H, W) and instances (H, W) of a sample follow each other, uncompressed and
little-endian, or the image as a JPEG. index.jsonl has a head (version, storage, name of the flat file) and a line a
sample; of several lines with one key the last counts. Both files only grow: what was read stays where it is.
"""

import hashlib
import io
import logging
import math
import mmap
import time
from collections.abc import Iterator, MutableMapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from featherseg.core.files import read_lines
from featherseg.core.types import Sample
from featherseg.data.images import MAX_PIXELS

FORMAT_VERSION = 1
"""Raised when the same source files would be stored otherwise: what older versions stored is not used."""

STORAGES = ("raw", "jpeg")
"""The folders of a dataset, a form of images each; of a sample that both hold, the first counts."""

INDEX = "index.jsonl"
MAX_INDEX_BYTES = 2**30
ALIGN = 64
"""Bytes that every array begins at a multiple of."""

SETTLED_SECONDS = 2.0
"""A file changed later than this before it was read may change again under the same stamp, as clocks tick slowly."""

Stamp = tuple[int, int, int]
"""Bytes of a file, and the times (ns) of the last change to its content and to anything about it."""

log = logging.getLogger("featherseg")


@dataclass(frozen=True)
class Source:
    """A source file as it was read: its stamp (None where a later change might bear the same) and its content."""

    stamp: Stamp | None
    sha256: str

    @classmethod
    def of(cls, path: Path) -> "Source":
        """The file as it is now. Raises OSError."""
        stamp = stamp_of(path)
        return cls(stamp, sha256(path))

    def is_current(self, path: Path, compared: MutableMapping[Path, Stamp]) -> bool:
        """Whether the file still holds what was read: by its stamp, or by its content where that is another.

        `compared` has the stamps of files that were compared by content, and gets this one. Raises OSError.
        """
        stamp = stamp_of(path)
        if stamp is not None and stamp in (self.stamp, compared.get(path)):
            return True
        if sha256(path) != self.sha256:
            return False
        if stamp is not None:
            compared[path] = stamp
        return True


def stamp_of(path: Path) -> Stamp | None:
    """The stamp of a file, None where it has not settled yet. Raises OSError."""
    stat = path.stat()
    settled = time.time() - stat.st_ctime_ns / 1e9 > SETTLED_SECONDS
    return (stat.st_size, stat.st_mtime_ns, stat.st_ctime_ns) if settled else None


def sha256(path: Path) -> str:
    """The digest of a file's content. Raises OSError."""
    with open(path, "rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


@dataclass(frozen=True)
class Storage:
    """How images are stored: as they are, or as JPEG of a quality (1..100), which loses."""

    quality: int | None = None

    @property
    def folder(self) -> str:
        """Which of STORAGES it is."""
        return "raw" if self.quality is None else "jpeg"

    def __str__(self) -> str:
        return "raw" if self.quality is None else f"JPEG of quality {self.quality}"


RAW = Storage()


@dataclass(frozen=True)
class Entry:
    """One stored sample: where it begins in the file, its storage, and the files that it was read from.

    shape is (H, W, C) of the image; jpeg its stored bytes, 0 where it is stored as it is; difference the mean over its
    values of |stored - source| (0..255), 0 where nothing is lost; meaning the digest of what the dataset makes of the
    files' values.
    """

    key: str
    offset: int
    shape: tuple[int, int, int]
    deep: bool  # uint16, else uint8
    jpeg: int
    instances: bool
    difference: float
    meaning: str
    sources: tuple[Source, Source]

    @property
    def image_bytes(self) -> int:
        """Of the image, as it is stored."""
        return self.jpeg or math.prod(self.shape) * (2 if self.deep else 1)

    @property
    def label_at(self) -> int:
        """Where the label begins, in bytes from the sample's own beginning."""
        return aligned(self.image_bytes)

    @property
    def instances_at(self) -> int:
        """Where the instances begin, likewise."""
        return aligned(self.label_at + self.pixels)

    @property
    def pixels(self) -> int:
        """Height times width."""
        return self.shape[0] * self.shape[1]

    @property
    def end(self) -> int:
        """Where the sample ends in the file."""
        return self.offset + (self.instances_at + 4 * self.pixels if self.instances else self.label_at + self.pixels)

    def record(self) -> dict[str, Any]:
        """The entry as a line of the index."""
        return {**self.__dict__, "sources": [[source.stamp, source.sha256] for source in self.sources]}

    @classmethod
    def parse(cls, record: dict[str, Any]) -> "Entry":
        """Raises ValueError, TypeError or KeyError for a line that is damaged."""
        sources = tuple(Source(None if stamp is None else tuple(stamp), digest) for stamp, digest in record["sources"])
        height, width, channels = (int(n) for n in record["shape"])
        entry = cls(**{**record, "shape": (height, width, channels), "sources": sources})
        numbers = (entry.offset, entry.jpeg, min(height, width, channels) - 1)
        if len(sources) != 2 or min(numbers) < 0 or entry.pixels > MAX_PIXELS:
            raise ValueError(f"no sample can be stored as {record!r}")
        return entry


@dataclass(frozen=True)
class Cache:
    """The prepared data of a dataset, opened: its storage, the flat file, and the entries by key."""

    folder: Path
    storage: Storage
    pixels: Path
    entries: dict[str, Entry]

    def sample(self, entry: Entry) -> Sample:
        """The stored sample; its arrays are views of a mapping of their own (what is written to them goes nowhere)."""
        stored = self._map(entry, 0, entry.end - entry.offset)
        image = decoded(stored[: entry.jpeg]) if entry.jpeg else stored[: entry.image_bytes]
        if entry.deep:
            image = image.view("<u2")
        label = stored[entry.label_at : entry.label_at + entry.pixels].reshape(entry.shape[:2])
        instances = stored[entry.instances_at :].view("<i4").reshape(entry.shape[:2]) if entry.instances else None
        return Sample(entry.key, image.reshape(entry.shape), label, instances)

    def label(self, entry: Entry) -> np.ndarray:
        """(H, W) uint8 of the stored sample; its image is not read."""
        return self._map(entry, entry.label_at, entry.pixels).reshape(entry.shape[:2])

    def _map(self, entry: Entry, start: int, length: int) -> np.ndarray:
        """(length,) uint8 from `start` of the sample on, as private pages of the file."""
        first = entry.offset + start
        page = first // mmap.ALLOCATIONGRANULARITY * mmap.ALLOCATIONGRANULARITY
        with open(self.pixels, "rb") as file:
            pages = mmap.mmap(file.fileno(), first - page + length, access=mmap.ACCESS_COPY, offset=page)
        return np.frombuffer(pages, np.uint8, length, first - page)


def read_cache(folder: Path) -> Cache | None:
    """The prepared data in a folder, None where there are none that this version can use."""
    index = folder / INDEX
    if not index.is_file() or index.stat().st_size > MAX_INDEX_BYTES:
        return None
    head, *records = read_lines(index) or [{}]
    if head.get("format_version") != FORMAT_VERSION:
        log.warning("%s was written by another version of featherseg and is not used: prepare the data again.", folder)
        return None
    pixels = folder / Path(str(head.get("pixels"))).name
    size = pixels.stat().st_size if pixels.is_file() else 0
    return Cache(folder, Storage(head.get("quality")), pixels, {entry.key: entry for entry in _entries(records, size)})


def _entries(records: list[dict[str, Any]], size: int) -> Iterator[Entry]:
    """The entries that are whole, as far as the file of `size` bytes holds them; of one key the last counts."""
    for record in records:
        try:
            entry = Entry.parse(record)
        except (ValueError, TypeError, KeyError):
            continue
        if entry.end <= size:
            yield entry


def aligned(position: int) -> int:
    """The first multiple of ALIGN that is not below."""
    return -(-position // ALIGN) * ALIGN


def decoded(jpeg: np.ndarray) -> np.ndarray:
    """(n,) bytes of a JPEG -> (H, W, 3) or (H, W) uint8. Raises OSError."""
    with Image.open(io.BytesIO(jpeg.tobytes()), formats=("JPEG",)) as image:
        return np.array(image)
