"""Files that are never half written, and never written through somebody else's link.

A file is written beside its target, synced, renamed over it, and the folder is synced. Folders may
come from others: before a file in them is appended to, locked or written, links are refused by
name.
"""

import errno
import hashlib
import json
import math
import os
import platform
import re
import secrets
import shutil
import threading
import unicodedata
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from functools import cache
from pathlib import Path
from typing import Any, BinaryIO, Protocol

import psutil
from filelock import FileLock, Timeout

from featherseg.core.errors import FeathersegError
from featherseg.core.wording import ESCAPES, finite

_LEFTOVER = re.compile(r"\..{0,40}\.(\d{1,9})-([0-9a-f]{4})[0-9a-f]{12}\.tmp", re.DOTALL)
"""A temporary file or folder of featherseg: its process id and its machine."""

_NO_SYNC = (errno.EINVAL, errno.ENOTSUP, errno.EBADF, errno.EACCES, errno.EPERM)
"""Error numbers of file systems that cannot sync folders."""

_entries: set[Path] = set()
_looking = threading.Lock()


FIT, PLAN = "fit.json", "plan.json"
"""In a run folder: the choice of `fit` with its scores; and its decisions before training."""

LOCK, FIT_LOCK = ".lock", ".fit.lock"
"""Files that a process locks while it trains in a run folder, and while it fits in one."""

LOOKED = 0.2
"""Seconds to wait for a lock, because `is_held` holds it for an instant."""

MOST_TEXT = 2**24
"""Most bytes of a JSON or TOML file: Python needs up to twenty times as much for the content."""

MOST_YAML = 2**22
"""Most characters of a YAML text: its reader needs seconds for a megabyte."""

MOST_LINES = 2**28
"""Most bytes of a JSON-lines file: one record per ten steps of a training of ten million."""


MOST_SEARCHED = 2**30
"""Bytes of a file that are searched for a text."""


def home_folder() -> Path:
    """Return the folder of downloads and measurements: $FEATHERSEG_HOME or ~/.cache/featherseg."""
    home = os.environ.get("FEATHERSEG_HOME")
    return Path(home) if home else Path.home() / ".cache" / "featherseg"


def write_atomic(path: Path, write: Callable[[BinaryIO], object]) -> None:
    """Replace `path` by the output of `write(file)`; a crash leaves the old or the new file.

    The temporary file is new (see `temporary_path`). A link at `path` is replaced, not followed.
    Raises FeathersegError naming the file if the disk refuses, or `path` is a device or another
    special file.
    """
    write_together({path: write})


def write_together(writes: Mapping[Path, Callable[[BinaryIO], object]]) -> None:
    """Like `write_atomic` for several files: all are on disk before the first takes its name.

    They take their names in order.
    """
    path, temporaries = Path(), dict[Path, Path]()
    try:
        for path, write in writes.items():
            _refuse_special(path)
            path.parent.mkdir(parents=True, exist_ok=True)
            temporaries[path] = temporary_path(path)
            with open(temporaries[path], "xb") as file:
                write(file)
                file.flush()
                os.fsync(file.fileno())
        for path, temporary in temporaries.items():
            os.replace(temporary, path)
        for folder in {path.parent for path in writes}:
            _sync_folder(folder)
    except OSError as error:
        raise FeathersegError(
            f"cannot write {path}: {error.strerror or error}. Existing files are unchanged. Make "
            f"room (or check the permissions of {path.parent}) and run the same command again; a "
            "training goes on with --resume."
        ) from error
    finally:
        for temporary in temporaries.values():
            with suppress(OSError):
                temporary.unlink()


def replace_synced(temporary: Path, path: Path) -> None:
    """Rename the synced file `temporary` to `path`, and sync the folder."""
    os.replace(temporary, path)
    _sync_folder(path.parent)


def temporary_path(path: Path) -> Path:
    """Return a new, unpredictable name for a temporary file or folder beside `path`.

    With a fixed name somebody else could place a link that redirects the write. Leftovers of killed
    processes are removed on the first call for a folder. Raises FeathersegError for ".".
    """
    if not path.name:
        raise FeathersegError(
            f"{path.absolute()} is where this command runs, and cannot be replaced. Name a new "
            "folder."
        )
    folder = path.parent.absolute()
    with _looking:
        if folder not in _entries:
            _entries.add(folder)
            with (
                suppress(OSError),
                os.scandir(folder) as entries,
            ):  # the folder may be writable but not listable
                for entry in entries:  # a generator, because there may be millions
                    made_by = _LEFTOVER.fullmatch(entry.name)
                    ours = made_by and made_by[2] == _machine()
                    if (
                        made_by
                        and ours
                        and (
                            int(made_by[1]) == os.getpid() or not psutil.pid_exists(int(made_by[1]))
                        )
                    ):
                        remove_tree(folder / entry.name)
    return path.with_name(f".{path.name[:40]}.{os.getpid()}-{_machine()}{secrets.token_hex(6)}.tmp")


@cache
def _machine() -> str:
    """Return four digits for this machine: leftovers of other machines in a shared folder stay."""
    return hashlib.sha256(platform.node().encode()).hexdigest()[:4]


def remove_tree(path: Path) -> None:
    """Remove a file, a link or a folder tree as far as possible, without following links."""
    if path.is_dir() and not path.is_symlink():
        shutil.rmtree(path, ignore_errors=True)
    else:
        with suppress(OSError):
            path.unlink()


def check_writable(path: Path) -> None:
    """Raise FeathersegError if no file can be written at `path`; called before the work."""
    if os.path.isdir(path):
        raise FeathersegError(
            f"{path} is a folder. Name the file to write, such as {path / 'NAME'}."
        )
    _refuse_special(path)
    check_folder(path.parent)
    if name_too_long(path):
        raise FeathersegError(
            f"{path} cannot be written: its name is too long for the file system."
        )


def name_too_long(path: Path) -> bool:
    """Whether the name of `path` is too long for the file system; its folder may not exist yet."""
    there = next(folder for folder in path.absolute().parents if os.path.isdir(folder))
    try:
        os.lstat(there / path.name)
    except OSError as error:
        return error.errno == errno.ENAMETOOLONG
    return False


def check_folder(folder: Path) -> None:
    """Raise FeathersegError if no file can be written in `folder`, which may be new.

    A file is created and removed, because some file systems report rights but refuse (/proc, /sys,
    a mounted archive).
    """
    absolute = folder.absolute()
    there = next(place for place in (absolute, *absolute.parents) if os.path.lexists(place))
    try:
        if not there.is_dir():
            raise NotADirectoryError(errno.ENOTDIR, os.strerror(errno.ENOTDIR))
        for name in absolute.relative_to(there).parts:
            if name_too_long(there / name):
                raise OSError(errno.ENAMETOOLONG, os.strerror(errno.ENAMETOOLONG))
        probe = temporary_path(there / "probe")
        try:
            open(probe, "xb").close()
        finally:
            probe.unlink(missing_ok=True)
    except OSError as error:
        raise FeathersegError(
            f"nothing can be written to {folder}: {there} is not a folder, or cannot be written "
            f"({error.strerror or error}). Choose another location."
        ) from None


def refuse_used(out: Path, remedy: str) -> None:
    """Raise FeathersegError if `out` cannot become a new folder: it is in use or not writable."""
    if os.path.lexists(out) and (out.is_symlink() or not out.is_dir() or any(out.iterdir())):
        raise FeathersegError(f"{out} exists and is not empty. {remedy}")
    check_folder(out.absolute().parent)


@contextmanager
def new_folder(out: Path) -> Iterator[Path]:
    """Yield a folder that becomes `out` in one rename at the end; after a failure nothing remains.

    Raises FeathersegError if `out` exists and is not empty, cannot be written, or the disk refuses.
    """
    refuse_used(out, "Choose a new folder with --out.")
    temporary = temporary_path(out)
    try:
        temporary.mkdir(parents=True)
        yield temporary
        os.replace(temporary, out)
    except OSError as error:
        raise FeathersegError(
            f"cannot write {out}: {error.strerror or error}. Make room, or choose another folder "
            "with --out."
        ) from error
    finally:
        remove_tree(temporary)


def refuse_links(folder: Path, *names: str, below: float = math.inf) -> None:
    """Raise FeathersegError if one of `names` in `folder`, or anything in it, is a symbolic link.

    Called before writing there: a link in a folder from others may lead anywhere. `folder` itself
    may be reached by links, which are the user's own. below: how many levels below the names are
    checked.
    """
    waiting = [(folder / name, below) for name in names]
    while waiting:
        place, levels = waiting.pop()
        if place.is_symlink():
            raise FeathersegError(
                f"{place} is a symbolic link, and nothing is written through links inside "
                f"{folder}, because they may point anywhere. Replace it with a real file or "
                "folder, then run the same command again."
            )
        if levels and place.is_dir():
            waiting += [(inside, levels - 1) for inside in place.iterdir()]


@contextmanager
def locked(path: Path, held_error: FeathersegError) -> Iterator[None]:
    """Lock the file at `path` against other processes; it is created if needed.

    Raises `taken` if another process holds it. The lock ends with the process, however it ends;
    forked workers, which may outlive it, close theirs (docs/decisions/0005). If the lock is the
    last file in its folder, the file is removed when released.
    """
    refuse_links(path.parent, path.name)
    lock = FileLock(path, timeout=LOOKED)
    try:
        lock.acquire()
    except Timeout:
        raise held_error from None
    except OSError as error:
        raise FeathersegError(
            f"cannot lock {path}: {error.strerror or error}. Remove it, or check the permissions "
            f"of {path.parent}."
        ) from error
    try:
        yield
    finally:
        lock.release()
        with suppress(OSError):
            if os.listdir(path.parent) == [path.name]:
                path.unlink()


def is_held(path: Path) -> bool:
    """Whether a process holds the lock at `path`; False if the file cannot be opened."""
    if not path.is_file():
        return False
    try:
        with FileLock(path, timeout=0):
            return False
    except Timeout:
        return True
    except OSError:
        return False


def file_digest(path: Path) -> str:
    """Return the sha256 of a file's content as hexadecimal digits. Raises OSError."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def content_digest(*files: Path) -> str:
    """Return the sha256 of the content of these files in order; missing ones are skipped."""
    digest = hashlib.sha256()
    for path in files:
        if path.is_file():
            with path.open("rb") as file:
                while block := file.read(2**20):
                    digest.update(block)
    return digest.hexdigest()


def write_bytes(path: Path, content: bytes) -> None:
    """Atomically replace `path` by `content`."""
    write_atomic(path, lambda file: file.write(content))


def composed(name: str) -> str:
    """Return a name in composed Unicode: macOS stores a letter and its accent separately."""
    return unicodedata.normalize("NFC", name)


def write_text(path: Path, content: str) -> None:
    """Atomically replace `path` by `content` in UTF-8; lone surrogates become escapes."""
    write_bytes(path, content.encode(errors=ESCAPES))


def write_json(path: Path, content: Any) -> None:
    """Atomically replace `path` by `content` as indented JSON; null for NaN and infinity."""
    write_text(path, json.dumps(finite(content), indent=2, ensure_ascii=False) + "\n")


def append_line(path: Path, content: dict[str, Any]) -> None:
    """Append one JSON object as a line, in one write.

    After a kill at most the last line is torn; the next call ends it first, so that it spoils no
    later record. NaN and infinity become null. Raises FeathersegError if `path` is a link or no
    file.
    """
    line = (json.dumps(finite(content), ensure_ascii=False) + "\n").encode(errors=ESCAPES)
    refuse_links(path.parent, path.name)
    _refuse_special(path)
    with open(path, "ab+") as file:
        if file.seek(0, os.SEEK_END):
            file.seek(-1, os.SEEK_END)
            if file.read(1) != b"\n":
                line = b"\n" + line
        file.write(line)


def read_bounded(path: Path, most: int = MOST_TEXT) -> bytes:
    """Return the bytes of a small file. Raises OSError, and ValueError above `most` bytes."""
    with open(path, "rb") as file:
        content = file.read(most + 1)
    if len(content) > most:
        raise ValueError(f"it has more than {most:,} bytes, the limit")
    return content


def mentions(path: Path, text: bytes) -> bool:
    """Whether the first gigabyte of a file contains a text; False if it cannot be read."""
    overlap = b""
    try:
        with open(path, "rb") as file:
            while (chunk := file.read(2**20)) and file.tell() <= MOST_SEARCHED:
                if text in overlap + chunk:
                    return True
                overlap = chunk[-len(text) :]  # the text may cross the chunks' border
    except OSError:
        pass
    return False


def load_json(path: Path) -> Any:
    """Return the content of a JSON file.

    Raises OSError, and ValueError if it is no JSON, too large or too deeply nested.
    """
    return parse_json(read_bounded(path).decode())


def parse_json(text: str) -> Any:
    """Return the content of a JSON text. Raises ValueError if it is no JSON or nested too deep."""
    try:
        return json.loads(text)
    except RecursionError:
        raise ValueError("its brackets are nested too deeply") from None


def parse_yaml(text: str) -> Any:
    """Return the content of a YAML text as data.

    Raises ValueError if it is no YAML, too large, or refers to parts of itself.
    """
    if len(text) > MOST_YAML:
        raise ValueError(f"it has more than {MOST_YAML:,} characters, the limit")
    import yaml  # 15 ms

    try:
        if any(isinstance(event, yaml.AliasEvent) for event in yaml.parse(text, yaml.SafeLoader)):
            raise ValueError("parts of it refer to others, which featherseg does not read")
        return yaml.safe_load(text)
    except (yaml.YAMLError, RecursionError) as error:
        raise ValueError(f"it is no YAML ({str(error).splitlines()[0]})") from None


def read_lines(path: Path) -> list[dict[str, Any]]:
    """Return the records of a JSON-lines file; torn lines are skipped, a missing file has none."""
    if not path.is_file():
        return []
    if path.stat().st_size > MOST_LINES:
        raise FeathersegError(
            f"{path} is larger than {MOST_LINES:,} bytes, the limit. Move it away or shorten it."
        )
    records = []
    for line in path.read_bytes().splitlines():
        try:
            records.append(parse_json(line[:MOST_TEXT].decode(errors="replace")))
        except ValueError:
            continue
    return [record for record in records if isinstance(record, dict)]


def _refuse_special(path: Path) -> None:
    if (os.path.exists(path) and not os.path.isfile(path)) or str(path.parent.absolute()) == "/dev":
        raise FeathersegError(
            f"{path} is a folder or a device, not a file, and is not replaced. Choose a file name."
        )


def _sync_folder(folder: Path) -> None:
    """Sync a folder so that a rename survives a power cut, if the system can (Windows cannot)."""
    if not hasattr(os, "O_DIRECTORY"):
        return
    try:
        descriptor = os.open(folder, os.O_RDONLY)
        try:
            os.fsync(descriptor)
        finally:
            os.close(descriptor)
    except OSError as error:
        if error.errno not in _NO_SYNC:
            raise


def short_names(paths: Sequence[Path], skip: str = "") -> list[str]:
    """Return the last parts of each path, as many as distinguish it from the others.

    Folders called `skip` do not count: with "export", runs/yard/export/model.onnx is
    yard/model.onnx.
    """
    parts = [[part for part in path.parts if part != skip] for path in paths]
    tails = [
        ["/".join(own[start:]) for start in range(len(own) - 1, -1, -1)] for own in parts
    ]  # c, b/c, a/b/c
    counts = Counter(tail for own in tails for tail in own)
    return [
        next((t for t in own if counts[t] == 1), str(path))
        for own, path in zip(tails, paths, strict=True)
    ]


class Names(Protocol):
    """The names in use, in lower case; a set is one."""

    def __contains__(self, name: str, /) -> bool: ...

    def add(self, name: str, /) -> None: ...


def unique_names(files: Iterable[Path]) -> list[str]:
    """Return each file's name without its ending; repeated names are numbered: photo, photo-2."""
    return list(numbered((file.stem for file in files), set()))


def numbered(stems: Iterable[str], taken: Names) -> Iterator[str]:
    """Yield the stems in order; one that is in `taken` gets the next free number.

    Each result is added to `taken`.
    """
    for stem in stems:
        name, number = stem, 1
        while name.lower() in taken:  # in lower case: to some file systems a.png is A.png
            number += 1
            name = f"{stem}-{number}"
        taken.add(name.lower())
        yield name
