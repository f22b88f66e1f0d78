"""Prepared data: a dataset's images and class ids as they are needed, so that no training decodes an image twice.

`featherseg prepare` writes them (`data.prepared_writer`), `open_dataset` finds them by itself. A sample is a view of
the mapped file: of a crop only its window is read. Nothing is served that its source files no longer
say: their stamps are compared at every read, and their content where these differ.

On disk each storage of a dataset is a folder with one flat file and an index of what lies where in it. In the flat file
image (H, W, C), label (H, W) and instances (H, W) of a sample follow each other, uncompressed and little-endian, or the
image as a JPEG. index.jsonl has a head (version, storage, name of the flat file) and a line a sample; of several lines
with one key the last counts. Both files only grow: what was read stays where it is.

$FEATHERSEG_CACHE names the folder to look in, `off` reads the source files alone. Else it is .featherseg in the data's
own folder, or, where that cannot be written to, one of the user's.
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
        return cls(stamp, file_digest(path))

    def is_current(self, path: Path, compared: MutableMapping[Path, Stamp]) -> bool:
        """Whether the file still holds what was read: by its stamp, or by its content where that is another.

        `compared` has the stamps of files that were compared by content, and gets this one. Raises OSError.
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
    """The stamp of a file, None where it has not settled yet. Raises OSError."""
    stat = path.stat()
    settled = time.time() - stat.st_ctime_ns / 1e9 > SETTLED_SECONDS
    return (stat.st_size, stat.st_mtime_ns, stat.st_ctime_ns) if settled else None


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
        return self.offset + (
            self.instances_at + 4 * self.pixels if self.instances else self.label_at + self.pixels
        )

    def record(self) -> dict[str, Any]:
        """The entry as a line of the index."""
        return {
            **self.__dict__,
            "sources": [[source.stamp, source.sha256] for source in self.sources],
        }

    @classmethod
    def parse(cls, record: dict[str, Any]) -> "Entry":
        """Raises ValueError, TypeError or KeyError for a line that is damaged."""
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
        instances = (
            stored[entry.instances_at :].view("<i4").reshape(entry.shape[:2])
            if entry.instances
            else None
        )
        return Sample(entry.key, image.reshape(entry.shape), label, instances)

    def label(self, entry: Entry) -> np.ndarray:
        """(H, W) uint8 of the stored sample; its image is not read."""
        return self._map(entry, entry.label_at, entry.pixels).reshape(entry.shape[:2])

    def _map(self, entry: Entry, start: int, length: int) -> np.ndarray:
        """(length,) uint8 from `start` of the sample on, as private pages of the file."""
        first = entry.offset + start
        page = first // mmap.ALLOCATIONGRANULARITY * mmap.ALLOCATIONGRANULARITY
        with open(self.pixels, "rb") as file:
            pages = mmap.mmap(
                file.fileno(), first - page + length, access=mmap.ACCESS_COPY, offset=page
            )
        return np.frombuffer(pages, np.uint8, length, first - page)


def read_cache(folder: Path) -> Cache | None:
    """The prepared data in a folder, None where there are none that this version can use."""
    index = folder / INDEX
    if not index.is_file() or index.stat().st_size > MAX_INDEX_BYTES:
        return None
    head, *records = read_lines(index) or [{}]
    if head.get("format_version") != FORMAT_VERSION:
        log.warning(
            "%s was written by another version of featherseg and is not used: prepare the data again.",
            folder,
        )
        return None
    pixels = folder / Path(str(head.get("pixels"))).name
    size = pixels.stat().st_size if pixels.is_file() else 0
    return Cache(
        folder,
        Storage(head.get("quality")),
        pixels,
        {entry.key: entry for entry in _entries(records, size)},
    )


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


class PreparedData:
    """A dataset whose samples come from its caches where these hold them, and from their files where not.

    The first cache that holds a sample counts. With `exact` images that lost something when they were stored are read
    from their files.
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
        found = self._find(index)
        if (
            found
            and not (self.exact and found[1].difference)
            and self._is_current(found[1], index, 0)
        ):
            cache, entry = found
            try:
                return cache.sample(entry)
            except (OSError, ValueError):  # prepared anew meanwhile, or damaged
                pass
        return self.data[index]

    def label(self, index: int) -> np.ndarray:
        """(H, W) uint8 class ids of sample `index`, 255 = ignore; the image is not read."""
        found = self._find(index)
        if found and self._is_current(found[1], index, 1):
            cache, entry = found
            try:
                return cache.label(entry)
            except (OSError, ValueError):
                pass
        return self.data.label(index)

    def source(self, index: int, number: int) -> Source | None:
        """File `number` (image, mask) of sample `index` as it was prepared; None where it changed since, or was not."""
        found = self._find(index)
        if not found or found[1].sources[number].stamp is None:
            return None
        source = found[1].sources[number]
        return source if source.stamp == stamp_of(self.data.pairs[index].files[number]) else None

    @property
    def loss(self) -> str | None:
        """What was lost of the images that are served, as part of a message; None where nothing was."""
        found = [] if self.exact else [self._find(index) for index in range(len(self))]
        lossy = [
            (cache.storage, entry.difference)
            for cache, entry in filter(None, found)
            if entry.difference
        ]
        if not lossy:
            return None
        storage, lost = lossy[0][0], [difference for _, difference in lossy]
        return (
            f"{len(lost)} of {len(self)} images as {storage}, whose values differ from the source by "
            f"{np.mean(lost):.2f} of 255 on average"
        )

    def _find(self, index: int) -> tuple[Cache, Entry] | None:
        """Where a sample is stored; None where it is not, or means something else by now."""
        key, meant = self.keys[index], meaning(self.data, index, self._meaning)
        places = ((cache, cache.entries.get(key)) for cache in self.caches)
        return next(
            ((cache, entry) for cache, entry in places if entry and entry.meaning == meant), None
        )

    def _is_current(self, entry: Entry, index: int, first: int) -> bool:
        """Whether the source files from number `first` on (image, mask) are those that were stored."""
        files = self.data.pairs[index].files
        try:
            for path, source in zip(files[first:], entry.sources[first:], strict=True):
                if not source.is_current(path, self._compared):
                    self._warn(path)
                    return False
        except OSError:  # a missing file: reading it says so
            return False
        return True

    def _warn(self, path: Path) -> None:
        if not self._warned:
            log.warning(
                "%s has changed since it was prepared, so it is read directly, which is slower. `featherseg prepare` "
                "updates prepared data.",
                path,
            )
        self._warned = True


class PreparedPanoptic(PreparedData):
    """`PreparedData` of a panoptic dataset, with what its evaluation asks beside samples."""

    def __init__(
        self, data: PanopticData | BDD100KPanoptic, caches: Sequence[Cache], *, exact: bool
    ) -> None:
        super().__init__(data, caches, exact=exact)
        self.panoptic_data, self.categories, self.rule = data, data.categories, data.rule

    def panoptic(self, index: int) -> Panoptic:
        """The segmentation of sample `index`, as the evaluation takes it."""
        return self.panoptic_data.panoptic(index)


def with_cache(data: PairedFiles, root: Path, *, exact: bool) -> SegmentationData:
    """The dataset, which lies in `root`, with its prepared data where there are any."""
    for folder in cache_folders(root):
        caches = [
            cache
            for name in STORAGES
            if (cache := read_cache(folder / folder_name(data.name) / name))
        ]
        if caches and isinstance(data, PanopticData | BDD100KPanoptic):
            return PreparedPanoptic(data, caches, exact=exact)
        if caches:
            return PreparedData(data, caches, exact=exact)
    return data


def loss_of(data: SegmentationData) -> str | None:
    """What the images of a dataset lost when they were prepared, None where nothing."""
    return data.loss if isinstance(data, PreparedData) else None


def cache_folders(root: Path) -> list[Path]:
    """Where prepared data of a dataset in `root` are looked for, the first that is there being taken."""
    folder = os.environ.get("FEATHERSEG_CACHE")
    if folder:
        return [] if folder == "off" else [Path(folder)]
    place = hashlib.sha256(str(root.resolve()).encode()).hexdigest()[:16]
    return [root / ".featherseg", home_folder() / "data" / place]


def folder_name(dataset: str) -> str:
    """The name of a dataset as that of a folder."""
    return re.sub(r"[^A-Za-z0-9_-]", "_", dataset) or "_"


def meaning(data: PairedFiles, index: int, of_all: str) -> str:
    """The digest of what decides sample `index` beside the content of its files; `of_all` is `meaning_of_all`."""
    own = data.annotation(index)
    return of_all if own is None else hashlib.sha256(of_all.encode() + own).hexdigest()


def meaning_of_all(data: PairedFiles) -> str:
    """The digest of what decides every sample: the channels, the classes that are things, the map of raw values."""
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
