"""Datasets in buckets, copied here before they are used: a training reads every image many times.

The copy lies in $FEATHERSEG_HOME/mirror (else ~/.cache/featherseg/mirror), in folders named like the bucket's. How much
is to be copied is said first. Of a copy that is there only what has changed in the bucket is fetched, told by size and
version (S3's ETag); what was broken off goes on.
"""

import functools
import logging
import os
import shutil
import time
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor, as_completed
from contextlib import suppress
from pathlib import Path, PurePosixPath

from filelock import FileLock

from featherseg.core.errors import ConfigError, DataError, DataNotFound
from featherseg.core.files import append_line, home_folder, read_lines, write_bytes
from featherseg.core.storage import StoredFile, address, is_remote, joined, list_files
from featherseg.core.wording import counted
from featherseg.data.datasets.dataset_toml import DatasetToml, read_dataset_toml

TOML_NAME = "dataset.toml"
THREADS = 8
LINE_SECONDS = 10.0
"""Between two lines of progress."""

KEPT_FREE = 10**9
"""Bytes of the disk that a copy leaves free."""

log = logging.getLogger("featherseg")


def mirror_folder() -> Path:
    """Where the copies lie."""
    return home_folder() / "mirror"


@functools.cache
def local_dataset(place: str) -> str:
    """The path here of a dataset.toml in a bucket, or of a folder of images and masks, once it is copied.

    Of a dataset.toml the folders and lists that it names are copied, of a folder without one all of it. The bucket is
    looked at once in a process. Raises DataNotFound, DataError, and ConfigError for a dataset.toml that names folders
    elsewhere.
    """
    place = address(place)
    folder, name = place.rsplit("/", 1) if place.endswith(".toml") else (place, TOML_NAME)
    try:
        toml = mirror(folder, [name]) / name
    except DataNotFound:
        if place.endswith(".toml"):
            raise
        return str(mirror(folder))
    mirror(folder, _parts(read_dataset_toml(toml), place))
    return str(toml)


@functools.cache
def local_folder(place: str) -> Path:
    """The path here of a folder in a bucket, once all of it is copied. Raises as `local_dataset`."""
    return mirror(address(place))


def _parts(config: DatasetToml, place: str) -> list[str]:
    """The folders and lists that a dataset.toml names."""
    named = config.folders
    named += [
        part for part in config.splits.values() if isinstance(part, str) and part.endswith(".txt")
    ]
    for part in named:
        if (
            PurePosixPath(part).is_absolute()
            or ".." in PurePosixPath(part).parts
            or is_remote(part)
        ):
            raise ConfigError(
                f"{place} names {part!r}: expected folders beside it, as all that it names is copied."
            )
    return list(dict.fromkeys(PurePosixPath(part).as_posix() for part in named))


def mirror(folder: str, parts: Sequence[str] = (".",)) -> Path:
    """Copy the files below `parts` of a folder in a bucket; -> the folder here. What is here and unchanged stays.

    Raises DataNotFound where one of the parts is not there, DataError where a name leads out of the folder, the disk is
    too small, or the storage does not answer.
    """
    scheme, _, path = folder.partition("://")
    bucket, _, inside = path.partition("/")
    home = mirror_folder() / scheme
    root, journal = home / bucket, home / f"{bucket}.jsonl"
    home.mkdir(parents=True, exist_ok=True)
    with FileLock(
        home / f"{bucket}.lock"
    ):  # of several processes of a training one copies, the others find it done
        known = {record["key"]: record for record in read_lines(journal) if "key" in record}
        found = {
            key: file
            for part in parts
            for key, file in _listed(folder, part, f"{scheme}://{bucket}/")
        }
        missing = {
            key: file
            for key, file in found.items()
            if not _is_here(root / key, file, known.get(key))
        }
        if missing:
            _say(folder, found, missing, root)
            _copy(missing, root, journal, folder)

        # What is no longer in the bucket goes here as well; what others laid here stays.
        below = tuple(
            f"{posix}/" for posix in (PurePosixPath(inside, part).as_posix() for part in parts)
        )
        for key, record in known.items():
            within = "./" in below or key.startswith(below)
            if within and key not in found and record["version"] is not None:
                (root / key).unlink(missing_ok=True)
                append_line(journal, {"key": key, "size": 0, "version": None})
    return root / inside if inside else root


def _listed(folder: str, part: str, above: str) -> list[tuple[str, StoredFile]]:
    """(key in the bucket, file) of everything below a part of a folder."""
    listed = []
    for file in list_files(folder if part == "." else joined(folder, part), deep=True):
        key = file.address.removeprefix(above)
        odd = set("\\\0:" if os.name == "nt" else "\\\0")
        if any(name in ("", ".", "..") or odd & set(name) for name in key.split("/")):
            raise DataError(
                f"{folder} holds a file called {key!r}, which cannot be copied into a folder. Rename it."
            )
        listed.append((key, file))
    return listed


def _is_here(path: Path, file: StoredFile, record: dict[str, object] | None) -> bool:
    if record is None or (record.get("size"), record.get("version")) != (file.size, file.version):
        return False
    with suppress(OSError):
        return path.stat().st_size == file.size
    return False


def _say(
    folder: str, found: dict[str, StoredFile], missing: dict[str, StoredFile], root: Path
) -> None:
    """How much there is and how much is to come, before anything is fetched. Raises DataError: more than fits."""
    size, all_of_it = (sum(file.size for file in files.values()) for files in (missing, found))
    free = shutil.disk_usage(root.parent).free
    if size > free - KEPT_FREE:
        raise DataError(
            f"{folder} has {gigabytes(size)} that are not here yet, and the disk of {root} has {gigabytes(free)} free. "
            "Name a larger one with FEATHERSEG_HOME, or a smaller dataset."
        )
    if len(missing) == 1:
        return
    log.info(
        f"{folder}: {counted(len(found), 'file')}, {gigabytes(all_of_it)}; of these {counted(len(missing), 'file')}, "
        f"{gigabytes(size)}, are copied to {root} first ({gigabytes(free)} free). Ctrl-C stops; it goes on later."
    )


def _copy(missing: dict[str, StoredFile], root: Path, journal: Path, folder: str) -> None:
    """Fetch all of them, each whole or not at all, and note it."""

    def fetch(key: str, file: StoredFile) -> None:
        write_bytes(root / key, file.read())

    said, done, size = time.monotonic(), 0, 0
    with ThreadPoolExecutor(THREADS) as pool:
        waiting = {pool.submit(fetch, key, file): key for key, file in missing.items()}
        try:
            for copied in as_completed(waiting):
                copied.result()
                key = waiting.pop(copied)
                append_line(
                    journal,
                    {"key": key, "size": missing[key].size, "version": missing[key].version},
                )
                done, size = done + 1, size + missing[key].size
                if time.monotonic() - said > LINE_SECONDS:
                    said = time.monotonic()
                    log.info(
                        f"{folder}: {done:,} of {len(missing):,} files copied, {gigabytes(size)}"
                    )
        except BaseException:
            pool.shutdown(wait=True, cancel_futures=True)
            raise


def gigabytes(size: int) -> str:
    """`1.24 GB`, `0.3 MB`."""
    return f"{size / 1e9:.2f} GB" if size >= 1e7 else f"{size / 1e6:.1f} MB"
