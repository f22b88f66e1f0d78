"""Prepared data: a dataset's images and class ids as they are needed, so that no training decodes an image twice.

`featherseg prepare` writes them (`data.cache_write`), `open_dataset` finds them by itself. A sample is a view of the
mapped file (`data.cache_index`): of a crop only its window is read. Nothing is served that its source files no longer
say: their stamps are compared at every read, and their content where these differ.

$FEATHERSEG_CACHE names the folder to look in, `off` reads the source files alone. Else it is .featherseg in the data's
own folder, or, where that cannot be written to, one of the user's.
"""

import hashlib
import json
import logging
import os
import re
from collections.abc import Sequence
from pathlib import Path

import numpy as np

from featherseg.core.types import Sample, SegmentationData
from featherseg.data.cache_index import STORAGES, Cache, Entry, Source, Stamp, read_cache, stamp_of
from featherseg.data.datasets.bdd100k_panoptic import BDD100KPanoptic
from featherseg.data.pairs import PairedFiles
from featherseg.data.panoptic.data import PanopticData
from featherseg.data.panoptic.segments import Panoptic

log = logging.getLogger("featherseg")


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
        if found and not (self.exact and found[1].difference) and self._is_current(found[1], index, 0):
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
        """What was lost of the images that are served, as a sentence's part; None where nothing was."""
        found = [] if self.exact else [self._find(index) for index in range(len(self))]
        lossy = [(cache.storage, entry.difference) for cache, entry in filter(None, found) if entry.difference]
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
        return next(((cache, entry) for cache, entry in places if entry and entry.meaning == meant), None)

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

    def __init__(self, data: PanopticData | BDD100KPanoptic, caches: Sequence[Cache], *, exact: bool) -> None:
        super().__init__(data, caches, exact=exact)
        self.panoptic_data, self.categories, self.rule = data, data.categories, data.rule

    def panoptic(self, index: int) -> Panoptic:
        """The segmentation of sample `index`, as the evaluation takes it."""
        return self.panoptic_data.panoptic(index)


def with_cache(data: PairedFiles, root: Path, *, exact: bool) -> SegmentationData:
    """The dataset, which lies in `root`, with its prepared data where there are any."""
    for folder in cache_folders(root):
        caches = [cache for name in STORAGES if (cache := read_cache(folder / folder_name(data.name) / name))]
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
    asked = os.environ.get("FEATHERSEG_CACHE")
    if asked:
        return [] if asked == "off" else [Path(asked)]
    home = os.environ.get("FEATHERSEG_HOME")
    users = Path(home) if home else Path.home() / ".cache" / "featherseg"
    place = hashlib.sha256(str(root.resolve()).encode()).hexdigest()[:16]
    return [root / ".featherseg", users / "data" / place]


def folder_name(dataset: str) -> str:
    """The name of a dataset as that of a folder."""
    return re.sub(r"[^A-Za-z0-9_-]", "_", dataset) or "_"


def meaning(data: PairedFiles, index: int, of_all: str) -> str:
    """The digest of what decides sample `index` beside the content of its files; `of_all` is `meaning_of_all`."""
    if not isinstance(data, PanopticData):
        return of_all
    segments = data.listing.annotations[data.keys[index]].segments
    return hashlib.sha256(of_all.encode() + segments.astype("<i8").tobytes()).hexdigest()


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
