"""Write a proposed dataset.toml; its first line shows whether anyone edited it afterwards."""

import hashlib
import os
import re
from collections.abc import Mapping
from operator import methodcaller
from pathlib import Path

from featherseg.core.errors import DataError
from featherseg.core.files import read_bounded, write_together
from featherseg.core.wording import ESCAPES

_MARK = (
    "# Written by `featherseg check --write`, which replaces it{lists} until it is edited: "
    "{digest}\n"
)

_MARKED = re.compile(
    _MARK.replace("{lists}", r"(?:, and ((?:[a-z0-9-]+\.txt ?)+),)?").replace(
        "{digest}", "([0-9a-f]{64})"
    )
)


def refuse_edited(folder: Path) -> None:
    """Raise DataError if dataset.toml was edited, or not written by `check --write`."""
    path = folder / "dataset.toml"
    if os.path.lexists(path) and written_lists(folder) is None:
        raise DataError(
            f"{path} exists and is not replaced, because it was edited, or was not written by "
            "`check --write`. Remove or rename it, then run the command again."
        )


def written_lists(folder: Path) -> list[str] | None:
    """Return the lists of a dataset.toml that may be replaced; None if there is no such file."""
    try:
        content = read_bounded(folder / "dataset.toml")
        first, _, text = content.partition(b"\n")
        mark = _MARKED.fullmatch(f"{first.decode()}\n")
        if mark is None:
            return None
        names = (mark[1] or "").split()
        lists = {name: read_bounded(folder / name) for name in names}
    except (OSError, ValueError):
        return None
    return names if mark[2] == _digest(text, lists) else None


def write_proposal(folder: Path, text: str, lists: Mapping[str, str]) -> Path:
    """Write dataset.toml and its lists in place of an earlier proposal; return the path.

    Raises DataError if the dataset.toml is not an earlier proposal, FeathersegError if nothing can
    be written.
    """
    refuse_edited(folder)
    earlier_lists, path = written_lists(folder) or [], folder / "dataset.toml"
    list_bytes = {name: content.encode(errors=ESCAPES) for name, content in lists.items()}
    text_bytes = text.encode(errors=ESCAPES)
    named = f", and {' '.join(lists)}," if lists else ""
    mark = _MARK.format(lists=named, digest=_digest(text_bytes, list_bytes)).encode()
    contents = {folder / name: content for name, content in list_bytes.items()}
    contents[path] = mark + text_bytes
    write_together({place: methodcaller("write", content) for place, content in contents.items()})
    for name in earlier_lists:
        if name not in lists:
            (folder / name).unlink(missing_ok=True)
    return path


def _digest(text: bytes, lists: Mapping[str, bytes]) -> str:
    digest = hashlib.sha256(text)
    for name, content in lists.items():
        digest.update(f"\0{name}\0".encode() + content)
    return digest.hexdigest()
