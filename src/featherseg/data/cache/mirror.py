"""Copy datasets from buckets to this machine, because a training reads images many times.

Copies are in $FEATHERSEG_HOME/mirror (default ~/.cache/featherseg/mirror), in folders named like
the bucket's. The size is logged first. Later only files that changed in the bucket, by size and
version (S3's ETag), are fetched; an interrupted copy continues.
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
"""Time between two lines of progress."""

KEPT_FREE = 10**9
"""Bytes that a copy leaves free on the disk."""

log = logging.getLogger("featherseg")


def mirror_folder() -> Path:
    """Return the folder of the copies."""
    return home_folder() / "mirror"


@functools.cache
def local_dataset(place: str) -> str:
    """Copy a dataset.toml or a folder of images and masks from a bucket; return the path here.

    The folders and lists that a dataset.toml names are copied; all of a folder without one. The
    bucket is read once in a process. Raises DataNotFound, DataError, and ConfigError for a
    dataset.toml that names folders elsewhere.
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
    """Copy a folder from a bucket, return the path here. Raises as `local_dataset`."""
    return mirror(address(place))


def _parts(config: DatasetToml, place: str) -> list[str]:
    """Return the folders and lists that a dataset.toml names."""
    lists = [
        part for part in config.splits.values() if isinstance(part, str) and part.endswith(".txt")
    ]
    paths = [*config.folders, *lists]
    for part in paths:
        path = PurePosixPath(part)
        if path.is_absolute() or ".." in path.parts or is_remote(part):
            raise ConfigError(
                f"{place} names {part!r}: expected folders beside it, because all that it names is "
                "copied."
            )
    return list(dict.fromkeys(PurePosixPath(part).as_posix() for part in paths))


def mirror(folder: str, parts: Sequence[str] = (".",)) -> Path:
    """Copy what changed below `parts` of a folder in a bucket; return the folder here.

    Raises DataNotFound if a part does not exist, DataError if a name leads out of the folder, the
    disk is too small, or the storage does not answer.
    """
    scheme, _, path = folder.partition("://")
    bucket, _, inside = path.partition("/")
    home = mirror_folder() / scheme
    root, journal = home / bucket, home / f"{bucket}.jsonl"
    home.mkdir(parents=True, exist_ok=True)
    # One of the processes of a training copies; the others then have nothing to do
    with FileLock(home / f"{bucket}.lock"):
        known = {record["key"]: record for record in read_lines(journal) if "key" in record}
        files = {
            key: file
            for part in parts
            for key, file in _listed(folder, part, f"{scheme}://{bucket}/")
        }
        missing = {
            key: file
            for key, file in files.items()
            if not _is_here(root / key, file, known.get(key))
        }
        if missing:
            _announce(folder, files, missing, root)
            _copy(missing, root, journal, folder)

        # Delete copies of files that are gone from the bucket, but no files of others
        below = tuple(f"{PurePosixPath(inside, part).as_posix()}/" for part in parts)
        for key, record in known.items():
            within = "./" in below or key.startswith(below)
            if within and key not in files and record["version"] is not None:
                (root / key).unlink(missing_ok=True)
                append_line(journal, {"key": key, "size": 0, "version": None})
    return root / inside if inside else root


def _listed(folder: str, part: str, above: str) -> list[tuple[str, StoredFile]]:
    """Return (key in the bucket, file) of everything below a part of a folder."""
    listed = []
    forbidden = set("\\\0:" if os.name == "nt" else "\\\0")
    for file in list_files(folder if part == "." else joined(folder, part), deep=True):
        key = file.address.removeprefix(above)
        if any(name in ("", ".", "..") or forbidden & set(name) for name in key.split("/")):
            raise DataError(
                f"{folder} has a file called {key!r}, which cannot be copied into a folder. Rename "
                "it."
            )
        listed.append((key, file))
    return listed


def _is_here(path: Path, file: StoredFile, record: dict[str, object] | None) -> bool:
    if record is None or (record.get("size"), record.get("version")) != (file.size, file.version):
        return False
    with suppress(OSError):
        return path.stat().st_size == file.size
    return False


def _announce(
    folder: str, files: dict[str, StoredFile], missing: dict[str, StoredFile], root: Path
) -> None:
    """Log how much will be copied. Raises DataError if the disk is too small."""
    missing_size, size = (sum(file.size for file in group.values()) for group in (missing, files))
    free = shutil.disk_usage(root.parent).free
    if missing_size > free - KEPT_FREE:
        raise DataError(
            f"{folder} has {gigabytes(missing_size)} that are not here yet, and the disk of {root} "
            f"has {gigabytes(free)} free. Name a larger one with FEATHERSEG_HOME, or a smaller "
            "dataset."
        )
    if len(missing) > 1:
        log.info(
            f"{folder}: {counted(len(files), 'file')}, {gigabytes(size)}; of these "
            f"{counted(len(missing), 'file')}, {gigabytes(missing_size)}, are copied to {root} "
            f"first ({gigabytes(free)} free). After Ctrl-C the copy continues later."
        )


def _copy(missing: dict[str, StoredFile], root: Path, journal: Path, folder: str) -> None:
    """Fetch all files, each atomically, and note them in the journal."""
    logged, done, size = time.monotonic(), 0, 0
    with ThreadPoolExecutor(THREADS) as pool:
        jobs = {
            pool.submit(lambda key, file: write_bytes(root / key, file.read()), key, file): key
            for key, file in missing.items()
        }
        try:
            for job in as_completed(jobs):
                job.result()
                key = jobs.pop(job)
                file = missing[key]
                append_line(journal, {"key": key, "size": file.size, "version": file.version})
                done, size = done + 1, size + file.size
                if time.monotonic() - logged > LINE_SECONDS:
                    logged = time.monotonic()
                    log.info(
                        f"{folder}: {done:,} of {len(missing):,} files copied, {gigabytes(size)}"
                    )
        except BaseException:  # Ctrl-C, too: files that were started are finished
            pool.shutdown(wait=True, cancel_futures=True)
            raise


def gigabytes(size: int) -> str:
    """Return a size such as `1.24 GB` or `0.3 MB`."""
    return f"{size / 1e9:.2f} GB" if size >= 1e7 else f"{size / 1e6:.1f} MB"
