"""Write prepared data; what is there and unchanged is kept, so that an interruption costs little.

The index lists a sample only after the disk has its pixels, so that neither a kill nor a power cut
leaves a wrong one.
"""

import io
import json
import os
import secrets
import shutil
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
from PIL import Image

from featherseg.core.errors import ConfigError, DataError, FeathersegError
from featherseg.core.files import append_line, check_folder, locked, refuse_links, write_text
from featherseg.core.notebook import progress_or_bar
from featherseg.core.types import Progress
from featherseg.data import data_folder, find_dataset, given_root, is_own, open_files, own_listing
from featherseg.data.cache.prepared import (
    FORMAT_VERSION,
    INDEX,
    RAW,
    Cache,
    Entry,
    Source,
    Stamp,
    Storage,
    aligned,
    cache_folders,
    decoded,
    folder_name,
    meaning,
    meaning_of_all,
    read_cache,
)
from featherseg.data.images.decoding import MAX_PIXELS, image_size
from featherseg.data.images.pairs import PairedFiles
from featherseg.data.shapes import Shapes

FLUSH_BYTES = 64 * 2**20
"""Bytes written between two updates of the index: what a kill costs at most."""

SAMPLED = 9
"""Number of images, spread evenly, from which the space that a dataset needs is estimated."""

LONGEST_JPEG = 65535
"""Longest side of a JPEG in pixels."""


@dataclass(frozen=True)
class Prepared:
    """What was done for a split: its images, those kept from before, and the folder's bytes."""

    images: int
    kept: int
    folder: Path
    folder_bytes: int


def prepare(
    data: str,
    data_root: str | Path | None = None,
    *,
    splits: Sequence[str] = (),
    jpeg_quality: int | None = None,
    out: str | Path | None = None,
    progress: Progress | None = None,
) -> dict[str, Prepared]:
    """Store the decoded images and labels of a dataset; training and evaluation then use them.

    After an interruption the same call continues; after changes to the data it stores these.

        featherseg.prepare("photos")

    Args:
        data: A dataset's name, a dataset.toml or its folder.
        data_root: The folder that contains a dataset with a name.
        splits: The splits to prepare. Default: all that have files.
        jpeg_quality: Store images as JPEG of this quality (1 to 100), for training only. Default:
            raw pixels.
        out: The folder to write to, used if FEATHERSEG_CACHE names it. Default: .featherseg next to
            the data.
        progress: Called with (current activity, images done, total images). Default: a bar in a
            notebook.

    Returns:
        {split: Prepared}.

    Raises:
        UnknownName, DataNotFound, DataError: The dataset or a split cannot be opened.
        ConfigError: The dataset is generated on the fly, or FEATHERSEG_CACHE=off is set.
        FeathersegError: The folder cannot be written, or another process prepares data in it.
    """
    root, folder = (None if path is None else Path(path) for path in (data_root, out))
    names, progress = splits or splits_on_disk(data, root), progress_or_bar(progress)
    storage = Storage(jpeg_quality)
    return {name: prepare_data(data, name, root, storage, folder, progress) for name in names}


def prepare_data(
    name: str,
    split: str,
    root: Path | None = None,
    storage: Storage = RAW,
    out: Path | None = None,
    progress: Progress | None = None,
) -> Prepared:
    """Prepare one split of a dataset; `name`, `split` and `root` as for `open_dataset`.

    `out` is used only if $FEATHERSEG_CACHE names it. Default: where prepared data are searched.
    Raises as `open_dataset` and `prepare_split`, and ConfigError for a synthetic dataset.
    """
    data = open_files(name, split, root)
    if not isinstance(data, PairedFiles):
        raise _synthetic(name)
    folders = [out] if out else cache_folders(data_folder(name, root))
    if not folders:
        raise ConfigError(
            "FEATHERSEG_CACHE=off is set, so prepared data would not be used. Unset it first."
        )

    # The first folder that can be written, else the last
    place = next(
        (f for f in folders[:-1] if os.access(f if f.exists() else f.parent, os.W_OK)), folders[-1]
    )
    # Links in the folder of a dataset may be somebody else's; `out` is the user's own
    if place.parent == data_folder(name, root):
        refuse_links(place.parent, place.name)
    refuse_links(place, folder_name(data.name))
    check_folder(place)
    return prepare_split(data, place / folder_name(data.name) / storage.folder, storage, progress)


def splits_on_disk(name: str, root: Path | None = None) -> list[str]:
    """Return the splits of a dataset that have files. Raises as `prepare_data`."""
    if is_own(name):
        return list(own_listing(name, root).splits)
    dataset = find_dataset(name)
    if issubclass(dataset, Shapes):
        raise _synthetic(name)
    present = dataset.list_files(given_root(name, root), dataset.splits).splits
    return [split for split in dataset.splits if split in present]


def _synthetic(name: str) -> ConfigError:
    return ConfigError(f"{name} is generated on the fly, so there are no files to prepare.")


def prepare_split(
    data: PairedFiles, folder: Path, storage: Storage, progress: Progress | None = None
) -> Prepared:
    """Store every sample of a split in `folder`; unchanged samples in this storage stay.

    JPEGs of another quality are replaced. Raises what reading a sample raises, and FeathersegError
    if another process writes there, or the disk is too small (before anything is written) or fails.
    """
    try:
        with _locked(folder):
            cache = _open(folder, storage)
            missing = _missing(data, cache)
            _check_space(data, missing, cache)
            _store(data, missing, cache, progress)
            size = cache.pixels.stat().st_size
            return Prepared(len(data), len(data) - len(missing), folder, size)
    except OSError as error:
        raise FeathersegError(
            f"cannot write prepared data to {folder}: {error.strerror or error}. Make room (or "
            "check the rights, or name another folder with --out) and run the same command again: "
            "it continues."
        ) from error


@contextmanager
def _locked(folder: Path) -> Iterator[None]:
    """Keep other processes from writing to the folder."""
    folder.mkdir(parents=True, exist_ok=True)
    in_use = FeathersegError(
        f"another process is preparing data in {folder}. Wait for it or stop it."
    )
    with locked(folder / ".lock", in_use):
        yield


def _open(folder: Path, storage: Storage) -> Cache:
    """Return the prepared data of a folder in this storage without a torn end; new if needed."""
    cache = read_cache(folder)
    if cache is None or cache.storage != storage or not cache.pixels.is_file():
        (folder / INDEX).unlink(missing_ok=True)  # first, so that nothing refers to the old files
        for old in folder.glob("pixels-*.bin"):
            old.unlink()
        # A new name, so that a reader of the old file does not use this one
        pixels = folder / f"pixels-{secrets.token_hex(4)}.bin"
        pixels.touch()
        head = {"format_version": FORMAT_VERSION, "quality": storage.quality, "pixels": pixels.name}
        write_text(folder / INDEX, json.dumps(head) + "\n")
        cache = Cache(folder, storage, pixels, {})
    # Drop what a killed process wrote after the last listed sample
    os.truncate(cache.pixels, max((entry.end for entry in cache.entries.values()), default=0))
    return cache


def _missing(data: PairedFiles, cache: Cache) -> list[int]:
    """Return the samples that are not there, or whose files changed.

    A new stamp of a file with the same content is added to the index.
    """
    of_all, missing = meaning_of_all(data), []
    for index, key in enumerate(data.keys):
        entry, compared = cache.entries.get(key), dict[Path, Stamp]()
        if entry is None or entry.meaning != meaning(data, index, of_all):
            missing.append(index)
            continue
        files = data.pairs[index].files
        if not _are_current(files, entry.sources, compared):
            missing.append(index)
        elif compared:
            image, mask = (
                replace(source, stamp=compared.get(path, source.stamp))
                for path, source in zip(files, entry.sources, strict=True)
            )
            append_line(cache.folder / INDEX, replace(entry, sources=(image, mask)).record())
    return missing


def _check_space(data: PairedFiles, missing: Sequence[int], cache: Cache) -> None:
    """Raise FeathersegError if the disk is too small for the missing samples."""
    if not missing:
        return
    # JPEGs differ in size, so estimate bytes per pixel from some images
    sampled = missing[:: -(-len(missing) // SAMPLED)]
    entries = [_encoded(data, index, cache.storage)[0] for index in sampled]
    per_pixel = max(aligned(entry.end) / entry.pixels for entry in entries)
    pixels = 0
    for index in missing:
        height, width = image_size(data.pairs[index].files[0])
        pixels += height * width
    needed, free = per_pixel * pixels, shutil.disk_usage(cache.folder).free
    if needed > free:
        raise FeathersegError(
            f"{len(missing)} images of {data.name} need {needed / 1e9:.1f} GB as {cache.storage}, "
            f"but the disk of {cache.folder} has {free / 1e9:.1f} GB free. Make room, or name a "
            "folder on another disk with --out."
        )


def _store(
    data: PairedFiles, missing: Sequence[int], cache: Cache, progress: Progress | None
) -> None:
    """Append samples to the flat file, and their entries to the index when the disk has them."""
    kept, unlisted = len(data) - len(missing), list[Entry]()
    with open(cache.pixels, "ab") as file:
        flushed = file.tell()
        for done, index in enumerate(missing, start=1):
            entry, parts = _encoded(data, index, cache.storage, offset=aligned(file.tell()))
            for part in parts:
                file.write(bytes(aligned(file.tell()) - file.tell()))
                file.write(part)
            unlisted.append(entry)
            # List samples only when the disk has their pixels
            if file.tell() - flushed >= FLUSH_BYTES or done == len(missing):
                file.flush()
                os.fsync(file.fileno())
                for entry in unlisted:
                    append_line(cache.folder / INDEX, entry.record())
                flushed, unlisted = file.tell(), []
            if progress is not None:
                progress("preparing", kept + done, len(data))


def _encoded(
    data: PairedFiles, index: int, storage: Storage, offset: int = 0
) -> tuple[Entry, list[bytes]]:
    """Return a sample as it is stored: its entry; image, label and instances as bytes."""
    files = data.pairs[index].files
    try:
        sources = (Source.of(files[0]), Source.of(files[1]))
    except OSError as error:
        raise DataError(f"{error.filename} cannot be read: {error.strerror or error}.") from None
    sample = data[index]
    # The sample must be of the content that the digests are of
    if not _are_current(files, sources, {}):
        raise DataError(
            f"{files[0]} or {files[1]} changed while it was being read. Run the same command again."
        )
    height, width, channels = sample.image.shape
    jpeg, difference = b"", 0.0
    if storage.quality:
        jpeg, difference = _as_jpeg(sample.image, files[0], storage.quality)
    deep = sample.image.dtype == np.uint16
    parts = [jpeg or sample.image.astype("<u2" if deep else "u1").tobytes()]
    parts.append(sample.label.astype("u1").tobytes())
    if sample.instances is not None:
        parts.append(sample.instances.astype("<i4").tobytes())
    entry = Entry(
        key=data.keys[index],
        offset=offset,
        shape=(height, width, channels),
        deep=deep,
        jpeg=len(jpeg),
        instances=sample.instances is not None,
        difference=difference,
        meaning=meaning(data, index, meaning_of_all(data)),
        sources=sources,
    )
    return entry, parts


def _as_jpeg(image: np.ndarray, source: Path, quality: int) -> tuple[bytes, float]:
    """Return (JPEG, mean of |stored - image|) of (H, W, C); (b"", 0) for what JPEG cannot hold.

    A source that is a JPEG with the same pixels is kept as it is.
    """
    if image.dtype != np.uint8 or image.shape[2] not in (1, 3) or max(image.shape) > LONGEST_JPEG:
        return b"", 0.0
    if image.shape[0] * image.shape[1] > MAX_PIXELS // 2:  # Pillow warns of larger ones
        return b"", 0.0
    plain = image if image.shape[2] == 3 else image[:, :, 0]
    content = source.read_bytes()
    is_jpeg = content.startswith(b"\xff\xd8")
    if is_jpeg and np.array_equal(decoded(np.frombuffer(content, np.uint8)), plain):
        return content, 0.0
    buffer = io.BytesIO()
    # 4:4:4: colours keep their resolution
    Image.fromarray(plain).save(buffer, "JPEG", quality=quality, subsampling=0)
    content = buffer.getvalue()
    stored = decoded(np.frombuffer(content, np.uint8))
    return content, float(np.abs(stored.astype(np.int16) - plain).mean())


def _are_current(
    files: Sequence[Path], sources: Sequence[Source], compared: dict[Path, Stamp]
) -> bool:
    """Return whether all files are unchanged; a missing file is not."""
    try:
        return all(
            source.is_current(path, compared) for path, source in zip(files, sources, strict=True)
        )
    except OSError:
        return False
