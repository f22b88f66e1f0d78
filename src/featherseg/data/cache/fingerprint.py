"""What a training knows its data by: a run goes on with the very data that it was begun with, and no image that it was
trained on is called test.

Kept are the classes, what the raw values of masks mean, and of every sample of every split the size, the times and the
SHA-256 of its two files. A file is read again only where its size or one of its times is another (docs/decisions/0006).
"""

import hashlib
import json
from collections.abc import Iterable, Iterator, Mapping, Sequence
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
"""How many images or classes a difference names."""

SHOWN_VALUES = 8
"""How many values of masks a difference names: with a threshold all 256 may mean another."""

READERS = 8
"""Files that are read at a time: a disk answers several requests sooner than one after the other."""

MAX_BYTES = 2**30

TEST = "test"
"""What is kept beside the splits of the training, to say later whether it changed; no training depends on it."""

TEACHERS = "teachers"
"""The images that teachers of the training learned from and itself does not."""

FileRow = tuple[Stamp | None, str]
"""A file's stamp (see Source) and the SHA-256 of its content."""

SampleRow = tuple[str, FileRow | None, FileRow | None, str]
"""Key, image, mask (None where no file is read) and the digest of what an annotation says of the mask."""


class Fingerprint(Config):
    """What stands in a run's data.json. `values`: raw value of a mask -> its class; `splits`: the samples in order."""

    channels: int
    classes: list[tuple[str, bool]]  # name, whether it has instances
    values: dict[str, str]
    prepared: str | None  # what the training images lost when they were prepared
    splits: dict[str, list[SampleRow]]

    @classmethod
    def of(cls, splits: Mapping[str, SegmentationData]) -> "Fingerprint":
        """Read every file of these splits once; the first split is the one that is trained on.

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

    def with_teachers(self, teachers: Iterable["Fingerprint"]) -> "Fingerprint":
        """It, and of the images that these trainings learned from, or their own teachers, those that it does not."""
        own = {row[1][1] for row in self.splits["train"] if row[1]}
        rows = [
            row
            for one in teachers
            for split in ("train", TEACHERS)
            for row in one.splits.get(split, ())
        ]
        learned = {row[1][1]: row for row in rows if row[1] and row[1][1] not in own}
        return self.model_copy(
            update={"splits": self.splits | ({TEACHERS: list(learned.values())} if learned else {})}
        )

    @property
    def learned(self) -> str:
        """`6 images (1a2b3c)`: how many are trained on, and a digest of what they hold, however these are called.

        Images that are no files are told by their keys.
        """
        rows = [
            [split, image[1] if image else key, mask and mask[1], annotation]
            for split in ("train", "unlabelled")
            for key, image, mask, annotation in self.splits.get(split, ())
        ]
        content = json.dumps([sorted(map(repr, rows)), sorted(self.values.items())])
        return f"{counted(len(rows), 'image')} ({hashlib.sha256(content.encode()).hexdigest()[:6]})"

    def save(self, path: Path) -> None:
        """Atomically write it, a line a split."""
        write_text(path, self.model_dump_json())

    def differences(self, splits: Mapping[str, SegmentationData]) -> list[str]:
        """What is no longer as it was: "3 images added to train: a, b, c". Empty where all is the same."""
        train = next(iter(splits.values()))
        found = class_differences(self.classes, train.classes)
        if train.channels != self.channels:
            found.append(
                f"the images had {counted(self.channels, 'channel')}, have {train.channels}"
            )
        found += self._other_values(train)
        for name in [name for name in {**self.splits, **splits} if name not in (TEST, TEACHERS)]:
            if name in self.splits and name in splits:
                found += _sample_differences(name, self.splits[name], splits[name])
            else:
                found.append(
                    f"split {name!r} was {'' if name in self.splits else 'not '}part of the run"
                )
        if not found and loss_of(train) != self.prepared:
            was, now = (text or "as in their files" for text in (self.prepared, loss_of(train)))
            found.append(f"the training images were prepared differently: {was}; now {now}")
        return found

    def _other_values(self, data: SegmentationData) -> list[str]:
        values, gone = _values(data), "not there"
        found = [
            raw for raw in {**self.values, **values} if self.values.get(raw) != values.get(raw)
        ]
        told = [
            f"[map] {raw} was {self.values.get(raw, gone)}, is {values.get(raw, gone)}"
            for raw in found[:SHOWN_VALUES]
        ]
        return told + [f"{len(found) - SHOWN_VALUES} more values of [map]"] * (
            len(found) > SHOWN_VALUES
        )

    def changes(self, split: str, data: SegmentationData, *, part: bool = False) -> list[str]:
        """What is no longer as it was in one split that is scored; with `part` there were fewer images of it.

        Nothing of a split that was not kept. Raises DataError for a file that cannot be read.
        """
        if split not in self.splits:
            return []
        return [
            *self._other_values(data),
            *_sample_differences(split, self.splits[split], data, part=part),
        ]

    def trained_on(self, data: SegmentationData, split: str = "train") -> dict[str, str]:
        """Key -> the key in training (or another split) of the images whose files hold the same, whatever their name.

        Only files of a size that one of training has are read. Raises DataError for one that cannot be.
        """
        files = files_of(data)
        trained = {row[1][1]: row[0] for row in self.splits.get(split, ()) if row[1]}
        stamps = [row[1][0] for row in self.splits.get(split, ()) if row[1]]
        if files is None or not trained:
            return {}
        sizes = (
            {stamp[0] for stamp in stamps if stamp} if all(stamps) else None
        )  # a file just written has no stamp

        def digest(pair: Pair) -> str | None:
            try:
                known = sizes is None or _path(pair, 0).stat().st_size in sizes
                return file_digest(_path(pair, 0)) if known else None
            except OSError as error:
                raise DataError(f"{error.filename} cannot be read: {error.strerror}.") from error

        with ThreadPoolExecutor(READERS) as readers:
            digests = list(readers.map(digest, files.pairs))
        return {
            key: trained[found]
            for key, found in zip(files.keys, digests, strict=True)
            if found in trained
        }

    def doubts(self, data: SegmentationData, name: str) -> list[str]:
        """Which images of `data`, called `name`, were not trained on and tell less all the same; empty where none.

        Raises DataError for a file that cannot be read.
        """
        found = []
        for split, one, several in (
            (
                "unlabelled",
                "is taught too, without its mask",
                "are taught too, without their masks",
            ),
            (TEACHERS, "is what a teacher was trained on", "are what a teacher was trained on"),
        ):
            if seen := self.trained_on(data, split):
                are = one if len(seen) == 1 else several
                told = f"{counted(len(seen), 'image')} of {name} {are}, so that a score on this split says less"
                found.append(f"{told}: {named_pairs(seen)}")
        return found


def copies_of(data: SegmentationData, train: SegmentationData) -> dict[str, str]:
    """What `Fingerprint.trained_on` will find of these images, before there is a training.

    Few files are read whole: those of one size and one middle. Raises DataError for one that cannot be read.
    """
    both = [files for files in (files_of(data), files_of(train)) if files]
    if len(both) < 2:
        return {}
    here, there = ({_path(pair, 0): pair.key for pair in files.pairs} for files in both)
    told: dict[Path, Any] = {}
    with ThreadPoolExecutor(READERS) as readers:
        for tell in (lambda path: path.stat().st_size, _middle, file_digest):
            paths = list(here | there)
            try:
                told = dict(zip(paths, readers.map(tell, paths), strict=True))
            except OSError as error:
                raise DataError(f"{error.filename} cannot be read: {error.strerror}.") from error
            shared = {told[path] for path in here} & {told[path] for path in there}
            here, there = (
                {path: key for path, key in one.items() if told[path] in shared}
                for one in (here, there)
            )
    trained = {told[path]: key for path, key in there.items()}
    return {key: trained[told[path]] for path, key in here.items()}


def _middle(path: Path) -> bytes:
    """A little of a file: of images without compression, which all have one size, hardly two have the same there."""
    with path.open("rb") as file:
        file.seek(path.stat().st_size // 2)
        return file.read(2**12)


def read_fingerprint(path: Path) -> Fingerprint | None:
    """The fingerprint at `path`, None where there is no file. Raises ConfigError or DataError for a damaged one."""
    if not path.is_file():
        return None
    try:
        if path.stat().st_size > MAX_BYTES:
            raise ValueError("too large")
        values = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError, RecursionError) as error:
        raise DataError(
            f"{path} cannot be read ({error}). It records the data that the run was started with: delete it to "
            "continue without this check."
        ) from None
    return parse(Fingerprint, values if isinstance(values, dict) else {}, str(path))


def class_differences(before: Sequence[tuple[str, bool]], now: Sequence[ClassInfo]) -> list[str]:
    """Where names, order or instances of the classes differ; `before` has (name, has instances)."""
    found = []
    for place in range(max(len(before), len(now))):
        was = before[place] if place < len(before) else None
        is_now = (now[place].name, now[place].thing) if place < len(now) else None
        if was is None:
            assert is_now is not None  # one of them has this place
            found.append(f"class {place} {is_now[0]!r} is new")
        elif is_now is None:
            found.append(f"class {place} {was[0]!r} is gone")
        elif was[0] != is_now[0]:
            found.append(f"class {place} was {was[0]!r}, is {is_now[0]!r}")
        elif was[1] != is_now[1]:
            found.append(
                f"class {was[0]!r} {'had' if was[1] else 'had no'} instances, {'has' if is_now[1] else 'has none'}"
            )
    return found


def _sample_differences(
    split: str, rows: Sequence[SampleRow], data: SegmentationData, *, part: bool = False
) -> Iterator[str]:
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
    # content: of the files that are in both, those whose stamp is another are read again
    both = [(index, key) for index, key in enumerate(data.keys) if key in known]
    compared: dict[Path, Stamp] = {}

    def changed(number: int, index: int, key: str) -> bool:
        row = known[key][number]
        if number and files.pairs[index].mask is None:  # of images that have none
            return row is not None
        try:
            return row is None or not Source(*row).is_current(
                _path(files.pairs[index], number), compared
            )
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
        yield f"the annotations of {counted(len(annotated), 'mask')} of {split} changed: {_named(annotated)}"


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
    """The file as it is; what `featherseg prepare` read of it is not read again."""
    path = _path(files.pairs[index], number)
    known = data.source(index, number) if isinstance(data, PreparedData) else None
    return known or Source.of(path)


def _path(pair: Pair, number: int) -> Path:
    """The image (0) or the mask (1)."""
    path = (pair.image, pair.mask)[number]
    assert path is not None
    return path


def files_of(data: SegmentationData) -> PairedFiles | None:
    """The dataset as files; None of one that the program makes up."""
    files = data.data if isinstance(data, PreparedData) else data
    return files if isinstance(files, PairedFiles) else None


def groups_of(data: SegmentationData) -> str | None:
    """`groups` of the dataset.toml that the images are of, which tells their sequences; None without."""
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
    """The digest of what is said of a mask beside its file, by a panoptic JSON or a folder; else empty."""
    own = files.annotation(index)
    return "" if own is None else hashlib.sha256(own).hexdigest()[:32]


def named_pairs(seen: Mapping[str, str]) -> str:
    """What `Fingerprint.trained_on` found, for a message: "7 (there 2), 8"."""
    return _named(
        [key if key == there else f"{key} (there {there})" for key, there in seen.items()]
    )


def _named(keys: Sequence[str]) -> str:
    shown = sorted(keys)[:SHOWN]
    return ", ".join(shown) + (
        f" and {len(keys) - len(shown)} more" if len(keys) > len(shown) else ""
    )
