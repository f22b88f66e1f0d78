"""A file from the network: whole or not at all, and after a break from where it was.

What has come lies in `.NAME.part` beside the target, with `.NAME.part.json`, which says of what it is the beginning.
Only https is spoken (RFC 9110 for ranges and validators); nothing is unpacked, and no more is taken than was allowed.
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
"""So often a connection is made anew before the command ends; one that brought something counts for nothing."""
SILENT_SECONDS = 30
"""Without a byte for so long a connection is given up."""
PIECE = 2**20
"""Bytes that are read and written at a time."""
LOOPBACK = ("127.0.0.1", "::1", "localhost")


class DownloadError(FeathersegError):
    """A file could not be fetched, or is not the one that was asked for; nothing took its name."""


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
    """Fetch `address` into the file `path`; -> its sha256.

    Args:
        address: https only, also where it leads on to; with `loopback` http to this machine as well (for tests).
        path: the file, which appears in one rename, synced; its folder is made.
        most: bytes that are taken at most.
        sha256: how it must begin, as hexadecimal digits.
        check: called with the whole file before it takes its name; what it raises refuses the file.
        progress: called with (file name, bytes done, bytes in all).
        pause: seconds before a further try, doubled from try to try.

    Raises:
        DownloadError: the address, the connection or the content is refused. What has come is kept where the connection
            broke, and the next call goes on from there; what is not as it should be is removed.
        FeathersegError: nothing can be written in the folder of `path`.
    """
    check_address(address, loopback)
    check_folder(path.parent)
    path.parent.mkdir(parents=True, exist_ok=True)
    part, note = path.with_name(f".{path.name}.part"), path.with_name(f".{path.name}.part.json")
    refuse_links(path.parent, part.name, note.name)
    taken = DownloadError(f"{path.name} is being fetched by another process. Wait for it or stop it first.")
    lock = path.with_name(f".{path.name}.lock")
    with locked(lock, taken):
        begun = furthest = _size(part)
        tries = 0
        while True:
            try:
                _fetch(address, part, note, path.name, most, progress, loopback)
                break
            except _Broken as broken:
                come = _size(part)
                tries, furthest = (1, come) if come > furthest else (tries + 1, furthest)
                if tries >= TRIES or come == begun:  # a server that gave nothing is not asked again
                    kept = f"{come:,} bytes are kept; the same command goes on from there" if come else "try again"
                    raise DownloadError(
                        f"{address} could not be fetched: {broken.reason}. Check the connection: {kept}. Where there "
                        f"is none, bring the file here as {path}."
                    ) from None
                time.sleep(pause * 2 ** (tries - 1))

        # It is whole: is it the one that was asked for?
        try:
            digest = file_digest(part)
            if not digest.startswith(sha256):
                raise DownloadError(
                    f"{address} gave another file than the published one: its sha256 is {digest}, expected one that "
                    f"begins with {sha256}. It was removed."
                )
            if check:
                check(part)
        except FeathersegError:
            part.unlink()
            raise
        replace_synced(part, path)
        for left in (note, lock):
            with suppress(OSError):  # Windows keeps the lock until it is let go
                left.unlink()
    return digest


def check_address(address: str, loopback: bool = False) -> None:
    """Raises DownloadError unless `address` is https, or with `loopback` http to this machine."""
    parts = urlsplit(address)
    if parts.scheme == "https" and parts.hostname:
        return
    if not (loopback and parts.scheme == "http" and parts.hostname in LOOPBACK):
        raise DownloadError(f"{address} is not fetched: only addresses that begin with https:// are.")


class _Redirects(urllib.request.HTTPRedirectHandler):
    """Follows where an address leads on to, another host too, as far as `check_address` allows."""

    max_redirections = 5

    def __init__(self, loopback: bool) -> None:
        self.loopback = loopback

    def redirect_request(self, req: Any, fp: Any, code: int, msg: str, headers: Any, newurl: str) -> Any:
        check_address(newurl, self.loopback)
        return super().redirect_request(req, fp, code, msg, headers, newurl)


def _size(part: Path) -> int:
    return part.stat().st_size if part.is_file() else 0


def _fetch(
    address: str, part: Path, note: Path, name: str, most: int, progress: Progress | None, loopback: bool
) -> None:
    """One connection: go on with `part`, or begin it anew where the server does not continue the same file.

    Raises _Broken where it ended early, DownloadError where another try leads nowhere.
    """
    # Ask for the rest only where it is known of which file `part` is the beginning
    begun: dict[str, Any] = {}
    try:
        begun = load_json(note)
        start = _size(part) if begun["address"] == address and begun["version"] else 0
    except (OSError, ValueError, KeyError, TypeError):
        start = 0
    if start and start == begun["size"]:
        return  # stopped between its last byte and its name
    headers = {"User-Agent": f"featherseg/{__version__}", "Accept-Encoding": "identity"}
    if start:
        headers |= {"Range": f"bytes={start}-", "If-Range": begun["version"]}
    opener = urllib.request.build_opener(_Redirects(loopback))
    try:
        answer = opener.open(urllib.request.Request(address, headers=headers), timeout=SILENT_SECONDS)
    except urllib.error.HTTPError as error:
        error.close()
        if error.code == 416:  # nothing lies behind what is here: it was not the beginning of this file
            part.unlink(missing_ok=True)
        if error.code in (408, 416, 429) or error.code >= 500:
            raise _Broken(f"the server answered {error.code} {error.reason}") from None
        raise DownloadError(f"{address} cannot be fetched: the server answered {error.code} {error.reason}.") from None
    except (OSError, http.client.HTTPException) as error:
        raise _Broken(str(getattr(error, "reason", None) or error or type(error).__name__)) from None

    with answer:
        # How large is it in all, and is it the rest that comes?
        length, span = answer.headers.get("Content-Length", ""), answer.headers.get("Content-Range", "")
        if answer.status == 206:
            found = re.fullmatch(r"bytes (\d{1,15})-(\d{1,15})/(\d{1,15})", span)
            if not found or [int(n) for n in found.groups()] != [start, begun["size"] - 1, begun["size"]]:
                part.unlink(missing_ok=True)
                raise _Broken(f"the server answered with another part of the file ({span or 'which it does not name'})")
            total = int(found[3])
        elif not re.fullmatch(r"\d{1,15}", length) or answer.headers.get("Content-Encoding", "identity") != "identity":
            raise DownloadError(f"{address} is not fetched: the server does not say how large the file is.")
        else:
            start, total = 0, int(length)
        if total > most:
            part.unlink(missing_ok=True)
            raise DownloadError(f"{address} is not fetched: {total:,} bytes, and at most {most:,} are taken.")
        if (free := shutil.disk_usage(part.parent).free) < total - start:
            raise DownloadError(f"{part.parent} has no room for {name}: {total - start:,} bytes, {free:,} are free.")

        # A strong validator alone tells the same bytes again (RFC 9110, 8.8.1)
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
