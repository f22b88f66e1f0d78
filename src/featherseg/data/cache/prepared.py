"""Prepared data: decoded images and class ids, so that no training decodes an image twice.

`featherseg prepare` writes them (`prepared_writer.py`), `open_dataset` finds them. A sample is a
view of the mapped file, so that of a crop only its window is read. Each read compares the stamps of
the source files, and their content if these differ; what no longer agrees is not used.

On disk each storage of a dataset is a folder with one flat file and an index. In the flat file
image (H, W, C), label (H, W) and instances (H, W) of a sample follow each other, uncompressed and
little-endian; the image may be a JPEG. index.jsonl has a head (version, storage, name of the flat
file) and a line a sample; the last line of a key counts. Both files only grow: what was read stays
in its place.

$FEATHERSEG_CACHE is the folder of prepared data; `off` reads source files alone. The default is
.featherseg in the folder of the data or, if that cannot be written, a folder of the user.
"""

import hashlib
import io
import json
import logging
import math
import mmap
import os
import re
import time
from collections.abc import Iterator, MutableMapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from featherseg.core.files import file_digest, home_folder, read_lines
from featherseg.core.types import Sample, SegmentationData
from featherseg.data.datasets.bdd100k_panoptic import BDD100KPanoptic
from featherseg.data.images.decoding import MAX_PIXELS
from featherseg.data.images.pairs import PairedFiles
from featherseg.data.panoptic.data import PanopticData
from featherseg.data.panoptic.segments import Panoptic
from featherseg.data.views import DataView

FORMAT_VERSION = 1
"""Raised if the same source files are stored differently: older files are then not used."""

STORAGES = ("raw", "jpeg")
"""The folders of a dataset, one for each storage; the first that has a sample is used."""

INDEX = "index.jsonl"
MAX_INDEX_BYTES = 2**30
ALIGN = 64
"""Arrays begin at a multiple of this number of bytes."""

SETTLED_SECONDS = 2.0
"""Age from which a change is settled: a younger file may change again under the same stamp."""

Stamp = tuple[int, int, int]
"""Bytes of a file, and the times (ns) of the last change to its content and to its metadata."""

log = logging.getLogger("featherseg")


@dataclass(frozen=True)
class Source:
    """A source file as it was read: its stamp (None if it had not settled) and its content."""

    stamp: Stamp | None
    sha256: str

    @classmethod
    def of(cls, path: Path) -> "Source":
        """Return the file as it is now. Raises OSError."""
        stamp = stamp_of(path)
        return cls(stamp, file_digest(path))

    def is_current(self, path: Path, compared: MutableMapping[Path, Stamp]) -> bool:
        """Return whether the file is unchanged, by its stamp or else by its content.

        `compared` collects the stamps of files that were compared by content. Raises OSError.
        """
        stamp = stamp_of(path)
        if stamp is not None and stamp in (self.stamp, compared.get(path)):
            return True
        if file_digest(path) != self.sha256:
            return False
        if stamp is not None:
            compared[path] = stamp
        return True


def stamp_of(path: Path) -> Stamp | None:
    """Return the stamp of a file, None if it has not settled yet. Raises OSError."""
    stat = path.stat()
    settled = time.time() - stat.st_ctime_ns / 1e9 > SETTLED_SECONDS
    return (stat.st_size, stat.st_mtime_ns, stat.st_ctime_ns) if settled else None


@dataclass(frozen=True)
class Storage:
    """How images are stored: as they are, or as JPEG of a quality (1..100)."""

    quality: int | None = None

    @property
    def folder(self) -> str:
        """The name among STORAGES."""
        return "raw" if self.quality is None else "jpeg"

    def __str__(self) -> str:
        return "raw" if self.quality is None else f"JPEG of quality {self.quality}"


RAW = Storage()


@dataclass(frozen=True)
class Entry:
    """One stored sample.

    Attributes:
        offset: First byte in the file.
        shape: (H, W, C) of the image.
        deep: Whether the image is uint16, not uint8.
        jpeg: Bytes of the stored JPEG, 0 without.
        difference: Mean of |stored - source| (0..255), 0 if nothing is lost.
        meaning: Digest of what the dataset makes of the files' values.
        sources: Image and mask.
    """

    key: str
    offset: int
    shape: tuple[int, int, int]
    deep: bool
    jpeg: int
    instances: bool
    difference: float
    meaning: str
    sources: tuple[Source, Source]

    @property
    def image_bytes(self) -> int:
        """The bytes of the stored image."""
        return self.jpeg or math.prod(self.shape) * (2 if self.deep else 1)

    @property
    def label_at(self) -> int:
        """The first byte of the label, counted from the sample's."""
        return aligned(self.image_bytes)

    @property
    def instances_at(self) -> int:
        """The first byte of the instances, counted from the sample's."""
        return aligned(self.label_at + self.pixels)

    @property
    def pixels(self) -> int:
        """The number of pixels, height times width."""
        return self.shape[0] * self.shape[1]

    @property
    def end(self) -> int:
        """The byte after the sample in the file."""
        if self.instances:
            return self.offset + self.instances_at + 4 * self.pixels
        return self.offset + self.label_at + self.pixels

    def record(self) -> dict[str, Any]:
        """Return the entry as a line of the index."""
        sources = [[source.stamp, source.sha256] for source in self.sources]
        return {**self.__dict__, "sources": sources}

    @classmethod
    def parse(cls, record: dict[str, Any]) -> "Entry":
        """Read a line. Raises ValueError, TypeError or KeyError if it is damaged."""
        sources = tuple(
            Source(None if stamp is None else tuple(stamp), digest)
            for stamp, digest in record["sources"]
        )
        height, width, channels = (int(n) for n in record["shape"])
        entry = cls(**{**record, "shape": (height, width, channels), "sources": sources})
        numbers = (entry.offset, entry.jpeg, min(height, width, channels) - 1)
        if len(sources) != 2 or min(numbers) < 0 or entry.pixels > MAX_PIXELS:
            raise ValueError(f"no sample can be stored as {record!r}")
        return entry


@dataclass(frozen=True)
class Cache:
    """The prepared data of a dataset in one storage: the flat file, and the entries by key."""

    folder: Path
    storage: Storage
    pixels: Path
    entries: dict[str, Entry]

    def sample(self, entry: Entry) -> Sample:
        """Return the stored sample; writing to its arrays does not change the file."""
        stored = self._map(entry, 0, entry.end - entry.offset)
        image = decoded(stored[: entry.jpeg]) if entry.jpeg else stored[: entry.image_bytes]
        if entry.deep:
            image = image.view("<u2")
        label = stored[entry.label_at : entry.label_at + entry.pixels].reshape(entry.shape[:2])
        instances = None
        if entry.instances:
            instances = stored[entry.instances_at :].view("<i4").reshape(entry.shape[:2])
        return Sample(entry.key, image.reshape(entry.shape), label, instances)

    def label(self, entry: Entry) -> np.ndarray:
        """Return the label (H, W) uint8 of the stored sample without reading its image."""
        return self._map(entry, entry.label_at, entry.pixels).reshape(entry.shape[:2])

    def _map(self, entry: Entry, start: int, length: int) -> np.ndarray:
        """Return bytes of the sample from `start` on, (length,) uint8, as private pages."""
        # A mapping must start at a multiple of the granularity
        first = entry.offset + start
        page = first // mmap.ALLOCATIONGRANULARITY * mmap.ALLOCATIONGRANULARITY
        with open(self.pixels, "rb") as file:
            size = first - page + length
            pages = mmap.mmap(file.fileno(), size, access=mmap.ACCESS_COPY, offset=page)
        return np.frombuffer(pages, np.uint8, length, first - page)


def read_cache(folder: Path) -> Cache | None:
    """Return the prepared data in a folder; None if there are none for this version."""
    index = folder / INDEX
    if not index.is_file() or index.stat().st_size > MAX_INDEX_BYTES:
        return None
    head, *records = read_lines(index) or [{}]
    if head.get("format_version") != FORMAT_VERSION:
        log.warning(
            "%s was written by another version of featherseg and is not used: prepare the data "
            "again.",
            folder,
        )
        return None
    pixels = folder / Path(str(head.get("pixels"))).name
    size = pixels.stat().st_size if pixels.is_file() else 0
    entries = {entry.key: entry for entry in _entries(records, size)}
    return Cache(folder, Storage(head.get("quality")), pixels, entries)


def _entries(records: list[dict[str, Any]], size: int) -> Iterator[Entry]:
    """Yield the entries that are complete in a file of `size` bytes."""
    for record in records:
        try:
            entry = Entry.parse(record)
        except (ValueError, TypeError, KeyError):
            continue
        if entry.end <= size:
            yield entry


def aligned(position: int) -> int:
    """Return the next multiple of ALIGN."""
    return -(-position // ALIGN) * ALIGN


def decoded(jpeg: np.ndarray) -> np.ndarray:
    """Decode a JPEG, (n,) bytes, to (H, W, 3) or (H, W) uint8. Raises OSError."""
    with Image.open(io.BytesIO(jpeg.tobytes()), formats=("JPEG",)) as image:
        return np.array(image)


class PreparedData(DataView):
    """A dataset whose samples come from its caches if these have them, else from their files.

    The first cache that has a sample is used. With `exact`, images that lost something when they
    were stored are read from their files.
    """

    def __init__(self, data: PairedFiles, caches: Sequence[Cache], *, exact: bool) -> None:
        self.name, self.classes, self.channels = data.name, data.classes, data.channels
        self.licence, self.keys = data.licence, data.keys
        self.data, self.caches, self.exact = data, tuple(caches), exact
        self._meaning = meaning_of_all(data)
        self._compared: dict[Path, Stamp] = {}
        self._warned = False

    def __len__(self) -> int:
        return len(self.data)

    def __getitem__(self, index: int) -> Sample:
        stored = self._find(index)
        if stored is not None:
            cache, entry = stored
            usable = not (self.exact and entry.difference) and self._is_current(entry, index, 0)
            if usable:
                with suppress(OSError, ValueError):  # prepared again meanwhile, or damaged
                    return cache.sample(entry)
        return self.data[index]

    def label(self, index: int) -> np.ndarray:
        """Return class ids (H, W) uint8 of a sample, 255 = ignore, without reading its image."""
        stored = self._find(index)
        if stored is not None:
            cache, entry = stored
            if self._is_current(entry, index, 1):
                with suppress(OSError, ValueError):
                    return cache.label(entry)
        return self.data.label(index)

    def source(self, index: int, number: int) -> Source | None:
        """Return file `number` (image, mask) as it was prepared; None if it changed since."""
        stored = self._find(index)
        if stored is None:
            return None
        source, path = stored[1].sources[number], self.data.pairs[index].files[number]
        return source if source.stamp and source.stamp == stamp_of(path) else None

    @property
    def loss(self) -> str | None:
        """What the images lost when they were stored, as part of a message; None if nothing."""
        stored = [] if self.exact else [self._find(index) for index in range(len(self))]
        lossy = [(cache, entry) for cache, entry in filter(None, stored) if entry.difference]
        if not lossy:
            return None
        mean = np.mean([entry.difference for _, entry in lossy])
        return (
            f"{len(lossy)} of {len(self)} images as {lossy[0][0].storage}, whose values differ "
            f"from the source by {mean:.2f} of 255 on average"
        )

    def _find(self, index: int) -> tuple[Cache, Entry] | None:
        """Return where a sample is stored; None if nowhere, or if its values mean another thing."""
        digest = meaning(self.data, index, self._meaning)
        for cache in self.caches:
            entry = cache.entries.get(self.keys[index])
            if entry and entry.meaning == digest:
                return cache, entry
        return None

    def _is_current(self, entry: Entry, index: int, first: int) -> bool:
        """Return whether the source files from number `first` on (image, mask) are unchanged."""
        files = self.data.pairs[index].files
        try:
            for path, source in zip(files[first:], entry.sources[first:], strict=True):
                if not source.is_current(path, self._compared):
                    if not self._warned:
                        log.warning(
                            "%s has changed since it was prepared, so it is read directly, which "
                            "is slower. `featherseg prepare` updates prepared data.",
                            path,
                        )
                    self._warned = True
                    return False
        except OSError:  # reading the missing file raises the error
            return False
        return True


class PreparedPanoptic(PreparedData):
    """`PreparedData` of a panoptic dataset, with what its evaluation needs beside samples."""

    def __init__(
        self, data: PanopticData | BDD100KPanoptic, caches: Sequence[Cache], *, exact: bool
    ) -> None:
        super().__init__(data, caches, exact=exact)
        self.panoptic_data, self.categories, self.rule = data, data.categories, data.rule

    def panoptic(self, index: int) -> Panoptic:
        """Return the segmentation of a sample for the evaluation."""
        return self.panoptic_data.panoptic(index)


def with_cache(data: PairedFiles, root: Path, *, exact: bool) -> SegmentationData:
    """Return the dataset in `root` with its prepared data, if there are any."""
    for folder in cache_folders(root):
        places = (folder / folder_name(data.name) / name for name in STORAGES)
        caches = list(filter(None, map(read_cache, places)))
        if caches and isinstance(data, PanopticData | BDD100KPanoptic):
            return PreparedPanoptic(data, caches, exact=exact)
        if caches:
            return PreparedData(data, caches, exact=exact)
    return data


def loss_of(data: SegmentationData) -> str | None:
    """Return what the images of a dataset lost when they were prepared, None if nothing."""
    return data.loss if isinstance(data, PreparedData) else None


def cache_folders(root: Path) -> list[Path]:
    """Return the folders in which prepared data of a dataset in `root` are searched, in order."""
    folder = os.environ.get("FEATHERSEG_CACHE")
    if folder:
        return [] if folder == "off" else [Path(folder)]
    place = hashlib.sha256(str(root.resolve()).encode()).hexdigest()[:16]
    return [root / ".featherseg", home_folder() / "data" / place]


def folder_name(dataset: str) -> str:
    """Return the name of a dataset as the name of a folder."""
    return re.sub(r"[^A-Za-z0-9_-]", "_", dataset) or "_"


def meaning(data: PairedFiles, index: int, of_all: str) -> str:
    """Return the digest of what a sample depends on beside its files; `of_all`: meaning_of_all."""
    annotation = data.annotation(index)
    if annotation is None:
        return of_all
    return hashlib.sha256(of_all.encode() + annotation).hexdigest()


def meaning_of_all(data: PairedFiles) -> str:
    """Return the digest of what all samples depend on: channels, things, map of raw values."""
    of_categories = list(data.listing.class_of.items()) if isinstance(data, PanopticData) else []
    facts = [
        data.channels,
        [info.thing for info in data.classes],
        type(data).__name__,
        type(data.label_map).__name__,
        data.label_map.colors,
        list(data.label_map.ids.items()),
        of_categories,
    ]
    return hashlib.sha256(json.dumps(facts).encode()).hexdigest()
