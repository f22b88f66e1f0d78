"""The fingerprint of a training's data: whether data changed, and which images were trained on.

It has the classes, the meaning of raw mask values, and of every sample of every split the size,
times and SHA-256 of its two files. A file is read again only if its size or a time changed
(docs/decisions/0006).
"""

import hashlib
import json
from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

from featherseg.core.config import Config, parse
from featherseg.core.errors import DataError
from featherseg.core.files import file_digest, write_text
from featherseg.core.types import IGNORE, ClassInfo, SegmentationData
from featherseg.core.wording import counted
from featherseg.data.cache.prepared import PreparedData, Source, Stamp, loss_of
from featherseg.data.images.pairs import Pair, PairedFiles
from featherseg.data.panoptic.data import PanopticData

SHOWN = 3
"""Number of images that a difference names."""

SHOWN_VALUES = 8
"""Number of mask values that a difference names: with a threshold all 256 may change."""

READERS = 8
"""Number of files read at a time: a disk answers several requests sooner than one by one."""

MAX_BYTES = 2**30
"""Size above which a file is no fingerprint."""

TEST = "test"
"""The split that is only kept to detect changes: no training depends on it."""

FileRow = tuple[Stamp | None, str]
"""The stamp of a file (see Source) and the SHA-256 of its content."""

SampleRow = tuple[str, FileRow | None, FileRow | None, str]
"""Key, image, mask (None without a file) and the digest of what an annotation says of the mask."""


class Fingerprint(Config):
    """The content of a run's data.json.

    Attributes:
        classes: Name, and whether it has instances.
        values: {raw value of a mask: class}.
        prepared: What the training images lost when they were prepared.
        splits: The samples in order.
    """

    channels: int
    classes: list[tuple[str, bool]]
    values: dict[str, str]
    prepared: str | None
    splits: dict[str, list[SampleRow]]

    @classmethod
    def of(cls, splits: Mapping[str, SegmentationData]) -> "Fingerprint":
        """Read every file of these splits once; the first split is trained on.

        Raises DataError for a file that cannot be read.
        """
        train = next(iter(splits.values()))
        return cls(
            channels=train.channels,
            classes=[(info.name, info.thing) for info in train.classes],
            values=_values(train),
            prepared=loss_of(train),
            splits={name: _rows(data) for name, data in splits.items()},
        )

    @property
    def learned(self) -> str:
        """The number of images trained on and a digest of their content: `6 images (1a2b3c)`.

        Their names do not matter, unless they are no files.
        """
        # Sorted by content, because names and order do not matter
        rows = [
            [split, image[1] if image else key, mask and mask[1], annotation]
            for split in ("train", "unlabelled")
            for key, image, mask, annotation in self.splits.get(split, ())
        ]
        content = json.dumps([sorted(map(repr, rows)), sorted(self.values.items())])
        return f"{counted(len(rows), 'image')} ({hashlib.sha256(content.encode()).hexdigest()[:6]})"

    def save(self, path: Path) -> None:
        """Write it atomically."""
        write_text(path, self.model_dump_json())

    def differences(self, splits: Mapping[str, SegmentationData]) -> list[str]:
        """Return what changed, such as "3 images added to train: a, b, c"."""
        train = next(iter(splits.values()))
        differences = class_differences(self.classes, train.classes)
        if train.channels != self.channels:
            differences.append(
                f"the images had {counted(self.channels, 'channel')}, have {train.channels}"
            )
        differences += self._value_differences(train)
        for name in [name for name in {**self.splits, **splits} if name != TEST]:
            if name in self.splits and name in splits:
                differences += _sample_differences(name, self.splits[name], splits[name])
            else:
                was = "was" if name in self.splits else "was not"
                differences.append(f"split {name!r} {was} part of the run")
        if not differences and loss_of(train) != self.prepared:
            was, now = (text or "as in their files" for text in (self.prepared, loss_of(train)))
            differences.append(f"the training images were prepared differently: {was}; now {now}")
        return differences

    def _value_differences(self, data: SegmentationData) -> list[str]:
        values, nothing = _values(data), "not there"
        changed = [
            raw for raw in {**self.values, **values} if self.values.get(raw) != values.get(raw)
        ]
        differences = [
            f"[map] {raw} was {self.values.get(raw, nothing)}, is {values.get(raw, nothing)}"
            for raw in changed[:SHOWN_VALUES]
        ]
        if len(changed) > SHOWN_VALUES:
            differences.append(f"{len(changed) - SHOWN_VALUES} more values of [map]")
        return differences

    def changes(self, split: str, data: SegmentationData, *, part: bool = False) -> list[str]:
        """Return what changed in one split that is scored; [] if the split was not kept.

        With `part`, only a part of its images was kept. Raises DataError for an unreadable file.
        """
        if split not in self.splits:
            return []
        return [
            *self._value_differences(data),
            *_sample_differences(split, self.splits[split], data, part=part),
        ]

    def trained_on(self, data: SegmentationData, split: str = "train") -> dict[str, str]:
        """Return {key: key in training (or another split)} of images whose files are the same.

        Only files with the size of one of training are read. Raises DataError for one that cannot
        be read.
        """
        files = files_of(data)
        images = [(row[0], row[1]) for row in self.splits.get(split, ()) if row[1]]
        if files is None or not images:
            return {}
        trained = {digest: key for key, (_, digest) in images}
        stamps = [stamp for _, (stamp, _) in images]
        # A file that was just written has no stamp; then every file is read
        sizes = {stamp[0] for stamp in stamps if stamp} if all(stamps) else None

        def digest(pair: Pair) -> str | None:
            try:
                path = _path(pair, 0)
                return file_digest(path) if sizes is None or path.stat().st_size in sizes else None
            except OSError as error:
                raise DataError(f"{error.filename} cannot be read: {error.strerror}.") from error

        with ThreadPoolExecutor(READERS) as readers:
            digests = list(readers.map(digest, files.pairs))
        return {
            key: trained[content]
            for key, content in zip(files.keys, digests, strict=True)
            if content in trained
        }

    def score_warnings(self, data: SegmentationData, name: str) -> list[str]:
        """Return why a score on `data`, called `name`, says less though it was not trained on.

        Raises DataError for a file that cannot be read.
        """
        seen = self.trained_on(data, "unlabelled")
        if not seen:
            return []
        are = "is" if len(seen) == 1 else "are"
        return [
            f"{counted(len(seen), 'image')} of {name} {are} trained on too, with pseudo-masks, so "
            f"that a score on this split says less: {named_pairs(seen)}"
        ]


def copies_of(data: SegmentationData, train: SegmentationData) -> dict[str, str]:
    """Return what `Fingerprint.trained_on` will find of these images, before there is a training.

    Only files with the same size and the same bytes in the middle are read whole. Raises DataError
    for one that cannot be read.
    """
    both = [files for files in (files_of(data), files_of(train)) if files]
    if len(both) < 2:
        return {}
    here, there = ({_path(pair, 0): pair.key for pair in files.pairs} for files in both)
    facts: dict[Path, Any] = {}
    with ThreadPoolExecutor(READERS) as readers:
        for fact in (lambda path: path.stat().st_size, _middle, file_digest):
            paths = list(here | there)
            try:
                facts = dict(zip(paths, readers.map(fact, paths), strict=True))
            except OSError as error:
                raise DataError(f"{error.filename} cannot be read: {error.strerror}.") from error
            shared = {facts[path] for path in here} & {facts[path] for path in there}
            here, there = (
                {path: key for path, key in keys.items() if facts[path] in shared}
                for keys in (here, there)
            )
    trained = {facts[path]: key for path, key in there.items()}
    return {key: trained[facts[path]] for path, key in here.items()}


def _middle(path: Path) -> bytes:
    """Return 4 KB from the middle of a file; they tell apart images without compression."""
    with path.open("rb") as file:
        file.seek(path.stat().st_size // 2)
        return file.read(2**12)


def read_fingerprint(path: Path) -> Fingerprint | None:
    """Return the fingerprint at `path`, None without a file. Raises DataError or ConfigError."""
    if not path.is_file():
        return None
    try:
        if path.stat().st_size > MAX_BYTES:
            raise ValueError("too large")
        values = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError, RecursionError) as error:
        raise DataError(
            f"{path} cannot be read ({error}). It records the data that the run was started with: "
            "delete it to continue without this check."
        ) from None
    return parse(Fingerprint, values if isinstance(values, dict) else {}, str(path))


def class_differences(before: Sequence[tuple[str, bool]], now: Sequence[ClassInfo]) -> list[str]:
    """Return where names, order or instances of classes differ; `before`: (name, has instances)."""
    differences = []
    for place in range(max(len(before), len(now))):
        was = before[place] if place < len(before) else None
        is_now = (now[place].name, now[place].thing) if place < len(now) else None
        if was is None:
            assert is_now is not None  # one of them has this place
            differences.append(f"class {place} {is_now[0]!r} is new")
        elif is_now is None:
            differences.append(f"class {place} {was[0]!r} is gone")
        elif was[0] != is_now[0]:
            differences.append(f"class {place} was {was[0]!r}, is {is_now[0]!r}")
        elif was[1] != is_now[1]:
            had, has = "had" if was[1] else "had no", "has" if is_now[1] else "has none"
            differences.append(f"class {was[0]!r} {had} instances, {has}")
    return differences


def _sample_differences(
    split: str, rows: Sequence[SampleRow], data: SegmentationData, *, part: bool = False
) -> Iterator[str]:
    """Yield which images were added, removed, moved or changed."""
    known = {key: row for key, *row in rows}
    added = [key for key in data.keys if key not in known]
    gone = list(set(known) - set(data.keys))
    if added and not part:
        yield f"{counted(len(added), 'image')} added to {split}: {_named(added)}"
    if gone:
        yield f"{counted(len(gone), 'image')} removed from {split}: {_named(gone)}"
    if not added and not gone and list(known) != list(data.keys):
        yield f"the images of {split} are in a different order"
    files = files_of(data)
    if files is None:
        return
    # Files that are in both are read again if their stamp changed
    both = [(index, key) for index, key in enumerate(data.keys) if key in known]
    compared: dict[Path, Stamp] = {}

    def changed(number: int, index: int, key: str) -> bool:
        row = known[key][number]
        if number and files.pairs[index].mask is None:  # an image without a mask
            return row is not None
        try:
            path = _path(files.pairs[index], number)
            return row is None or not Source(*row).is_current(path, compared)
        except OSError as error:
            raise DataError(f"{error.filename} cannot be read: {error.strerror}.") from error

    with ThreadPoolExecutor(READERS) as readers:
        for number, kind in enumerate(("image", "mask")):
            verdicts = readers.map(lambda place, number=number: changed(number, *place), both)
            others = [key for (_, key), verdict in zip(both, verdicts, strict=True) if verdict]
            if others:
                yield f"{counted(len(others), kind)} of {split} changed: {_named(others)}"
    annotated = [key for index, key in both if known[key][2] != _annotation(files, index)]
    if annotated:
        masks = counted(len(annotated), "mask")
        yield f"the annotations of {masks} of {split} changed: {_named(annotated)}"


def _rows(data: SegmentationData) -> list[SampleRow]:
    files = files_of(data)
    if files is None:
        return [(key, None, None, "") for key in data.keys]

    def row(index: int) -> SampleRow:
        numbers = (0, 1) if files.pairs[index].mask else (0,)
        image, *masks = (_source(data, files, index, number) for number in numbers)
        rows = [(source.stamp, source.sha256) for source in (image, *masks)]
        return data.keys[index], rows[0], rows[1] if masks else None, _annotation(files, index)

    try:
        with ThreadPoolExecutor(READERS) as readers:
            return list(readers.map(row, range(len(data))))
    except OSError as error:
        raise DataError(f"{error.filename} cannot be read: {error.strerror}.") from error


def _source(data: SegmentationData, files: PairedFiles, index: int, number: int) -> Source:
    """Return an image (0) or mask (1) as it is; what `prepare` recorded is not read again."""
    path = _path(files.pairs[index], number)
    known = data.source(index, number) if isinstance(data, PreparedData) else None
    return known or Source.of(path)


def _path(pair: Pair, number: int) -> Path:
    """Return the image (0) or the mask (1)."""
    path = (pair.image, pair.mask)[number]
    assert path is not None
    return path


def files_of(data: SegmentationData) -> PairedFiles | None:
    """Return the dataset as files; None if it is synthetic or your own."""
    files = data.data if isinstance(data, PreparedData) else data
    return files if isinstance(files, PairedFiles) else None


def groups_of(data: SegmentationData) -> str | None:
    """Return `groups` of the dataset.toml of the images, which defines sequences, or None."""
    files = files_of(data)
    return None if files is None else files.groups


def _values(data: SegmentationData) -> dict[str, str]:
    files = files_of(data)
    if files is None:
        return {}
    names = {index: info.name for index, info in enumerate(files.classes)} | {IGNORE: "ignore"}
    if isinstance(files, PanopticData):
        return {str(category): names[index] for category, index in files.listing.class_of.items()}
    return {files.label_map.text(raw): names[index] for raw, index in files.label_map.ids.items()}


def _annotation(files: PairedFiles, index: int) -> str:
    """Return the digest of what a JSON or folder adds to a mask file, else ""."""
    annotation = files.annotation(index)
    return "" if annotation is None else hashlib.sha256(annotation).hexdigest()[:32]


def named_pairs(seen: Mapping[str, str]) -> str:
    """Return the result of `Fingerprint.trained_on` for a message: "7 (there 2), 8"."""
    texts = [key if key == there else f"{key} (there {there})" for key, there in seen.items()]
    return _named(texts)


def _named(keys: Sequence[str]) -> str:
    more = len(keys) - SHOWN
    return ", ".join(sorted(keys)[:SHOWN]) + (f" and {more} more" if more > 0 else "")
