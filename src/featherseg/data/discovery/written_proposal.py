"""A dataset.toml that `check --write` wrote: its first line tells whether it, or a list beside it, was edited since."""

import hashlib
import os
import re
from collections.abc import Mapping
from functools import partial
from pathlib import Path
from typing import BinaryIO

from featherseg.core.errors import DataError
from featherseg.core.files import read_bounded, write_together
from featherseg.core.wording import ESCAPES

_MARK = "# Written by `featherseg check --write`, which replaces it{lists} until it is edited: {digest}\n"

_MARKED = re.compile(
    _MARK.replace("{lists}", r"(?:, and ((?:[a-z0-9-]+\.txt ?)+),)?").replace(
        "{digest}", "([0-9a-f]{64})"
    )
)


def refuse_edited(folder: Path) -> None:
    """Raises DataError for a dataset.toml that `check --write` did not write, or that was edited since."""
    path = folder / "dataset.toml"
    if os.path.lexists(path) and written_lists(folder) is None:
        raise DataError(
            f"{path} exists and is not replaced, because it was edited, or was not written by `check --write`. Remove "
            "or rename it, then run the command again."
        )


def written_lists(folder: Path) -> list[str] | None:
    """The lists of splits that belong to a dataset.toml which may be replaced; None if there is none to replace."""
    try:
        content = read_bounded(folder / "dataset.toml")
        first, _, rest = content.partition(b"\n")
        mark = _MARKED.fullmatch(f"{first.decode()}\n")
        if mark is None:
            return None
        names = (mark[1] or "").split()
        lists = {name: read_bounded(folder / name) for name in names}
    except (OSError, ValueError):
        return None
    return names if mark[2] == _digest(rest, lists) else None


def write_proposal(folder: Path, text: str, lists: Mapping[str, str]) -> Path:
    """Write dataset.toml and its lists in place of those of an earlier proposal; returns the path of dataset.toml.

    Raises DataError where there is another dataset.toml, and FeathersegError where nothing can be written.
    """
    refuse_edited(folder)
    before, path = written_lists(folder) or [], folder / "dataset.toml"
    contents = {name: content.encode(errors=ESCAPES) for name, content in lists.items()}
    rest = text.encode(errors=ESCAPES)
    named = f", and {' '.join(lists)}," if lists else ""
    mark = _MARK.format(lists=named, digest=_digest(rest, contents)).encode()
    files = {folder / name: content for name, content in contents.items()} | {path: mark + rest}
    write_together({place: partial(_put, content) for place, content in files.items()})
    for name in before:
        if name not in lists:
            (folder / name).unlink(missing_ok=True)
    return path


def _digest(text: bytes, lists: Mapping[str, bytes]) -> str:
    digest = hashlib.sha256(text)
    for name, content in lists.items():
        digest.update(f"\0{name}\0".encode() + content)
    return digest.hexdigest()


def _put(content: bytes, file: BinaryIO) -> None:
    file.write(content)
