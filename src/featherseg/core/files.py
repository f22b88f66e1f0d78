"""Files that are never half written: a temporary file beside the target, fsync, rename, fsync of the folder."""

import fcntl
import json
import os
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, BinaryIO

from featherseg.core.errors import FeathersegError


def write_atomic(path: Path, write: Callable[[BinaryIO], object]) -> None:
    """Replace `path` by what `write(file)` writes: a crash, a full disk or a kill leaves the old or the new file.

    The temporary file has one fixed name ("NAME.tmp"), so that what a kill leaves behind is overwritten next time.
    Raises FeathersegError naming the file where the disk refuses.
    """
    temporary = path.with_name(path.name + ".tmp")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        with open(temporary, "wb") as file:
            write(file)
            file.flush()
            os.fsync(file.fileno())
        os.replace(temporary, path)
        _sync_folder(path.parent)
    except OSError as error:
        _remove_quietly(temporary)
        raise FeathersegError(
            f"cannot write {path}: {error.strerror or error}. What was there before is unchanged; "
            f"make room (or check the rights of {path.parent}) and run the same command again."
        ) from error


def check_writable(path: Path) -> None:
    """Raises FeathersegError where no file can be written at `path`: asked before work whose result goes there."""
    folder = next(parent for parent in path.absolute().parents if parent.exists())
    if path.is_dir():
        raise FeathersegError(f"{path} is a folder. Name the file to write, such as {path / 'NAME'}.")
    if not folder.is_dir() or not os.access(folder, os.W_OK):
        raise FeathersegError(f"nothing can be written to {path}: {folder} is no folder, or may not be written to.")


@contextmanager
def locked(path: Path, taken: FeathersegError) -> Iterator[None]:
    """Hold the file at `path`, made if need be, against other processes. Raises `taken` where one of them holds it.

    A POSIX lock: `flock` would outlive a killed process in the workers that it forked.
    """
    with open(path, "w") as lock:
        try:
            fcntl.lockf(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError:
            raise taken from None
        yield


def write_bytes(path: Path, content: bytes) -> None:
    """Atomically replace `path` by `content`."""
    write_atomic(path, lambda file: file.write(content))


def write_text(path: Path, content: str) -> None:
    """Atomically replace `path` by `content` in UTF-8."""
    write_bytes(path, content.encode())


def write_json(path: Path, content: Any) -> None:
    """Atomically replace `path` by `content` as indented JSON."""
    write_text(path, json.dumps(content, indent=2, ensure_ascii=False) + "\n")


def append_line(path: Path, content: dict[str, Any]) -> None:
    """Append one JSON object as a line, in one write: a kill leaves whole lines, at worst one torn line at the end.

    A torn last line (an earlier kill) is closed first, so that it spoils no later record.
    """
    line = (json.dumps(content, ensure_ascii=False) + "\n").encode()
    with open(path, "ab+") as file:
        if file.seek(0, os.SEEK_END):
            file.seek(-1, os.SEEK_END)
            if file.read(1) != b"\n":
                line = b"\n" + line
        file.write(line)


def read_lines(path: Path) -> list[dict[str, Any]]:
    """The records of a JSON-lines file; a torn line is passed over, a missing file has none."""
    if not path.exists():
        return []
    records = []
    for line in path.read_text(encoding="utf-8", errors="replace").splitlines():
        try:
            records.append(json.loads(line))
        except ValueError:
            continue
    return [record for record in records if isinstance(record, dict)]


def _sync_folder(folder: Path) -> None:
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def _remove_quietly(path: Path) -> None:
    try:
        path.unlink(missing_ok=True)
    except OSError:
        return
