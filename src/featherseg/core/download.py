"""Download a file completely or not at all, and continue an interrupted download.

The received part is `.NAME.part` beside the target; `.NAME.part.json` says which file it begins.
Only https is used (RFC 9110 for ranges and validators). Nothing is unpacked, and the size is
bounded.
"""

import http.client
import os
import re
import shutil
import time
import urllib.error
import urllib.request
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

from featherseg._version import __version__
from featherseg.core.errors import FeathersegError
from featherseg.core.files import (
    check_folder,
    file_digest,
    load_json,
    locked,
    refuse_links,
    replace_synced,
    write_json,
)
from featherseg.core.types import Progress

TRIES = 5
"""Connections in a row that bring nothing before the command gives up."""
SILENT_SECONDS = 30
"""Seconds without a byte after which a connection is given up."""
PIECE = 2**20
"""Bytes read and written at a time."""
LOOPBACK = ("127.0.0.1", "::1", "localhost")


class DownloadError(FeathersegError):
    """A file could not be downloaded, or is not the expected one; the target was not created."""


@dataclass(frozen=True)
class _Broken(Exception):
    """The connection ended early, or the server is busy: worth another try."""

    reason: str


def download(
    address: str,
    path: Path,
    *,
    most: int,
    sha256: str = "",
    check: Callable[[Path], object] | None = None,
    progress: Progress | None = None,
    loopback: bool = False,
    pause: float = 1.0,
) -> str:
    """Download `address` to the file `path`, and return its sha256.

    Args:
        address: https, also for redirects; with `loopback` also http to this machine (for tests).
        path: the file, which appears in one rename, synced; its folder is created.
        most: largest accepted size in bytes.
        sha256: the expected first hexadecimal digits.
        check: called with the complete file before it takes its name; an exception refuses the
            file.
        progress: called with (file name, bytes done, total bytes).
        pause: seconds before the next try, doubled with each try.

    Raises:
        DownloadError: the address, the connection or the content is refused. If the connection
            broke, the received part is kept and the next call continues; an unexpected file is
            removed.
        FeathersegError: nothing can be written in the folder of `path`.
    """
    check_address(address, loopback)
    check_folder(path.parent)
    path.parent.mkdir(parents=True, exist_ok=True)
    part, note = path.with_name(f".{path.name}.part"), path.with_name(f".{path.name}.part.json")
    refuse_links(path.parent, part.name, note.name)
    locked_error = DownloadError(
        f"{path.name} is being fetched by another process. Wait for it or stop it first."
    )
    lock = path.with_name(f".{path.name}.lock")
    with locked(lock, locked_error):
        begun = furthest = _size(part)
        tries = 0
        while True:
            try:
                _fetch(address, part, note, path.name, most, progress, loopback)
                break
            except _Broken as broken:
                come = _size(part)
                tries, furthest = (1, come) if come > furthest else (tries + 1, furthest)
                if tries >= TRIES or come == begun:  # stop when a connection brought nothing
                    kept = (
                        f"{come:,} bytes are kept; the same command goes on from there"
                        if come
                        else "try again"
                    )
                    raise DownloadError(
                        f"{address} could not be fetched: {broken.reason}. Check the connection: "
                        f"{kept}. Where there is none, bring the file here as {path}."
                    ) from None
                time.sleep(pause * 2 ** (tries - 1))

        # The file is complete: is it the expected one?
        try:
            digest = file_digest(part)
            if not digest.startswith(sha256):
                raise DownloadError(
                    f"{address} gave another file than the published one: its sha256 is {digest}, "
                    f"expected one that begins with {sha256}. It was removed."
                )
            if check:
                check(part)
        except FeathersegError:
            part.unlink()
            raise
        replace_synced(part, path)
        for left in (note, lock):
            with suppress(OSError):  # Windows cannot remove a locked file
                left.unlink()
    return digest


def check_address(address: str, loopback: bool = False) -> None:
    """Raise DownloadError unless `address` is https, or with `loopback` http to this machine."""
    parts = urlsplit(address)
    if parts.scheme == "https" and parts.hostname:
        return
    if not (loopback and parts.scheme == "http" and parts.hostname in LOOPBACK):
        raise DownloadError(
            f"{address} is not fetched: only addresses that begin with https:// are."
        )


class _Redirects(urllib.request.HTTPRedirectHandler):
    """Follows redirects, also to other hosts, as far as `check_address` allows."""

    max_redirections = 5

    def __init__(self, loopback: bool) -> None:
        self.loopback = loopback

    def redirect_request(
        self, req: Any, fp: Any, code: int, msg: str, headers: Any, newurl: str
    ) -> Any:
        check_address(newurl, self.loopback)
        return super().redirect_request(req, fp, code, msg, headers, newurl)


def _size(part: Path) -> int:
    return part.stat().st_size if part.is_file() else 0


def _fetch(
    address: str,
    part: Path,
    note: Path,
    name: str,
    most: int,
    progress: Progress | None,
    loopback: bool,
) -> None:
    """Continue `part` with one connection, or begin again if the server has another file.

    Raises _Broken if it ended early, DownloadError if another try would not help.
    """
    # Ask for the remaining bytes only if a validator tells which file `part` belongs to
    begun: dict[str, Any] = {}
    try:
        begun = load_json(note)
        start = _size(part) if begun["address"] == address and begun["version"] else 0
    except (OSError, ValueError, KeyError, TypeError):
        start = 0
    if start and start == begun["size"]:
        return  # the last call was interrupted between the last byte and the rename
    headers = {"User-Agent": f"featherseg/{__version__}", "Accept-Encoding": "identity"}
    if start:
        headers |= {"Range": f"bytes={start}-", "If-Range": begun["version"]}
    opener = urllib.request.build_opener(_Redirects(loopback))
    try:
        answer = opener.open(
            urllib.request.Request(address, headers=headers), timeout=SILENT_SECONDS
        )
    except urllib.error.HTTPError as error:
        error.close()
        if error.code == 416:  # range not satisfiable: `part` is not the beginning of this file
            part.unlink(missing_ok=True)
        if error.code in (408, 416, 429) or error.code >= 500:
            raise _Broken(f"the server answered {error.code} {error.reason}") from None
        raise DownloadError(
            f"{address} cannot be fetched: the server answered {error.code} {error.reason}."
        ) from None
    except (OSError, http.client.HTTPException) as error:
        raise _Broken(
            str(getattr(error, "reason", None) or error or type(error).__name__)
        ) from None

    with answer:
        # The total size; and does the answer continue where `part` ends?
        length, span = (
            answer.headers.get("Content-Length", ""),
            answer.headers.get("Content-Range", ""),
        )
        if answer.status == 206:
            range_match = re.fullmatch(r"bytes (\d{1,15})-(\d{1,15})/(\d{1,15})", span)
            if not range_match or [int(n) for n in range_match.groups()] != [
                start,
                begun["size"] - 1,
                begun["size"],
            ]:
                part.unlink(missing_ok=True)
                raise _Broken(
                    "the server answered with another part of the file "
                    f"({span or 'which it does not name'})"
                )
            total = int(range_match[3])
        elif (
            not re.fullmatch(r"\d{1,15}", length)
            or answer.headers.get("Content-Encoding", "identity") != "identity"
        ):
            raise DownloadError(
                f"{address} is not fetched: the server does not say how large the file is."
            )
        else:
            start, total = 0, int(length)
        if total > most:
            part.unlink(missing_ok=True)
            raise DownloadError(
                f"{address} is not fetched: {total:,} bytes, and at most {most:,} are taken."
            )
        if (free := shutil.disk_usage(part.parent).free) < total - start:
            raise DownloadError(
                f"{part.parent} has no room for {name}: {total - start:,} bytes, {free:,} are free."
            )

        # Only a strong validator guarantees the same bytes (RFC 9110, 8.8.1)
        version = answer.headers.get("ETag", "")
        version = "" if version.startswith("W/") else version
        if start == 0:
            write_json(note, {"address": address, "size": total, "version": version})
        with part.open("ab" if start else "wb") as file:
            come = start
            while come < total:
                try:
                    piece = answer.read(min(PIECE, total - come))
                except (OSError, http.client.HTTPException) as error:
                    raise _Broken(str(error) or type(error).__name__) from None
                if not piece:
                    break
                file.write(piece)
                come += len(piece)
                if progress:
                    progress(name, come, total)
            file.flush()
            os.fsync(file.fileno())
        if come < total:
            raise _Broken(f"the connection ended after {come:,} of {total:,} bytes")
