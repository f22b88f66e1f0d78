"""Runs on the Hugging Face Hub: hf://ORG/NAME[@REVISION], by huggingface_hub, which keeps them in its own cache.

A repository is from others: only the files that make a run are taken, each within its bound, and none is executed. What
lies in the cache is never written to. The token is the hub's own affair (HF_TOKEN, `hf auth login`) and passes through
nothing here.
"""

import errno
import os
import re
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from types import ModuleType
from typing import Any

from featherseg.core.errors import ConfigError, RunError, require
from featherseg.core.files import MOST_LINES, MOST_TEXT, file_digest

SCHEME = "hf://"
SHARED = {
    "recipe.toml": MOST_TEXT,
    "resolved.json": MOST_TEXT,
    "weights.safetensors": 2**30 + 2**24,  # the largest model that is opened, and its header
    "metrics.jsonl": MOST_LINES,
    "evaluations.jsonl": MOST_LINES,
    "card.md": MOST_TEXT,
}
"""What is passed on of a run, and how many bytes of it are taken at most. Checkpoints, images and what is known of the
machine and the data's files stay at home."""
NEEDED = ("resolved.json", "weights.safetensors")
README = "README.md"  # where the hub looks for a card


def is_address(name: str | Path) -> bool:
    """Whether a run is named by where it lies on the hub; a Path has lost one of the slashes."""
    return str(name).startswith("hf:/")


def parse_address(name: str | Path) -> tuple[str, str | None]:
    """hf://ORG/NAME[@REVISION] -> ("ORG/NAME", revision: a branch, tag or commit, None where none is named).

    Raises ConfigError for anything else.
    """
    text = re.sub("^hf:/+", SCHEME, str(name))
    part = r"[A-Za-z0-9][\w.-]{0,95}"
    match = re.fullmatch(
        rf"hf://({part}/{part})(?:@([A-Za-z0-9][\w./-]{{0,199}}))?", text, re.ASCII
    )
    if match is None or ".." in text or "--" in match[1]:
        raise ConfigError(
            f"{text} is no address of a run on the hub: expected hf://ORG/NAME or hf://ORG/NAME@REVISION."
        )
    return match[1], match[2]


def pulled_from(path: Path) -> str | None:
    """hf://ORG/NAME@COMMIT of a folder in the hub's cache (models--ORG--NAME/snapshots/COMMIT); None of any other."""
    path = Path(os.path.abspath(path))
    repository = path.parent.parent.name
    if path.parent.name != "snapshots" or not re.fullmatch("[0-9a-f]{40}", path.name):
        return None
    found = re.fullmatch(r"models--([^/]+?)--([^/]+)", repository)
    return f"{SCHEME}{found[1]}/{found[2]}@{path.name}" if found else None


def pull(address: str | Path) -> Path:
    """The folder of a run on the hub, in the hub's cache: fetched, as far as it is not there already.

    Without a connection it is the copy in the cache, if there is one. Raises RunError, ConfigError, MissingExtra.
    """
    repository, revision = parse_address(address)
    hub = _open_hub(repository)
    with _told(hub, address):
        commit = hub.HfApi().resolve_revision(repository, revision=revision).resolved

        # What is there, and is it within bounds: asked before a byte is fetched; None where there is no connection
        found: dict[str, Any] | None
        try:
            found = {
                file.path: file
                for file in hub.HfApi().get_paths_info(repository, list(SHARED), revision=commit)
            }
        except hub.errors.HfHubHTTPError:
            raise
        except (hub.errors.HTTPError, ConnectionError):
            found = None
        for name, file in (found or {}).items():
            if getattr(file, "size", None) is None:
                raise RunError(f"{address} is no run: {name} is a folder there.")
            if file.size > SHARED[name]:
                raise RunError(
                    f"{address} is not fetched: its {name} has {file.size:,} bytes; at most {SHARED[name]:,} are taken."
                )
        if found is not None and (missing := [name for name in NEEDED if name not in found]):
            raise RunError(
                f"{address} is no run: it has no {' and no '.join(missing)}. See: featherseg push"
            )

        files = {}
        for name in SHARED if found is None else found:
            try:
                path = hub.hf_hub_download(
                    repository, name, revision=commit, local_files_only=found is None
                )
                files[name] = Path(path)
            except hub.errors.LocalEntryNotFoundError:
                if name in NEEDED or found is not None:
                    raise

    # What lies in the cache is what was said, and lies nowhere else
    folder = files[NEEDED[0]].parent
    store = os.path.realpath(folder.parents[1])
    for name, path in files.items():
        if (
            os.path.commonpath([store, os.path.realpath(path)]) != store
            or path.stat().st_size > SHARED[name]
        ):
            raise RunError(
                f"{path} leads out of the hub's cache, or is too large. Delete {folder} and try again."
            )
        stored = getattr((found or {}).get(name), "lfs", None)
        if stored and stored.sha256 != file_digest(path):
            raise RunError(
                f"{path} is not what {address} has: its sha256 is another. Delete {folder} and try again."
            )
    return folder


def upload(files: Mapping[str, bytes | Path], address: str, message: str, *, public: bool) -> str:
    """Write `files` into the repository of `address` in one commit; -> where it is to be seen.

    Of an earlier run nothing that is SHARED stays there. A repository or branch that does not exist is made, the
    repository private unless `public`; of one that exists that stays as it is. Raises RunError, ConfigError,
    MissingExtra.
    """
    repository, revision = parse_address(address)
    hub = _open_hub(repository)
    with _told(hub, address):
        api = hub.HfApi()
        api.create_repo(repository, private=not public, exist_ok=True)
        if revision and not api.revision_exists(repository, revision):
            api.create_branch(repository, branch=revision)
        there = [
            file.path for file in api.get_paths_info(repository, list(SHARED), revision=revision)
        ]
        changes = [
            hub.CommitOperationAdd(path_in_repo=name, path_or_fileobj=file)
            for name, file in files.items()
        ]
        changes += [
            hub.CommitOperationDelete(path_in_repo=name) for name in there if name not in files
        ]
        return str(
            api.create_commit(
                repository, changes, commit_message=message, revision=revision
            ).commit_url
        )


def _open_hub(repository: str) -> ModuleType:
    """huggingface_hub with the parts that it does not import by itself. Raises MissingExtra."""
    for part in ("constants", "errors"):
        require(f"huggingface_hub.{part}", "hub", f"{SCHEME}{repository}")
    return require("huggingface_hub", "hub", f"{SCHEME}{repository}")


@contextmanager
def _told(hub: ModuleType, address: str | Path) -> Iterator[None]:
    """What goes wrong with the hub becomes a RunError of one sentence, without what a request carried."""
    errors, server = hub.errors, hub.constants.ENDPOINT
    try:
        yield
    except errors.RevisionNotFoundError:
        raise RunError(f"{address}: there is no such branch, tag or commit on {server}.") from None
    except errors.RepositoryNotFoundError:
        raise RunError(
            f"{address} cannot be opened on {server}: it does not exist, or you may not read or write it. Log in with "
            "`hf auth login`, or set HF_TOKEN."
        ) from None
    except (errors.RevisionResolutionError, errors.LocalEntryNotFoundError):
        raise RunError(
            f"{address} cannot be fetched: {server} is not reached, and {hub.constants.HF_HUB_CACHE} has no copy of "
            "it. Try again with a connection."
        ) from None
    except errors.HfHubHTTPError as error:
        status = error.response.status_code
        raise RunError(
            f"{address}: {server} answered {status}.{_REMEDIES.get(status, '')}"
        ) from None
    except (errors.HTTPError, errors.HFValidationError, OSError, ValueError, RuntimeError) as error:
        if isinstance(error, OSError) and error.errno in _OF_THE_DISK:
            cache = hub.constants.HF_HUB_CACHE
            raise RunError(
                f"{address}: {error.filename or cache} cannot be written: {error.strerror}. Make room in {cache}, or "
                "set HF_HUB_CACHE to a folder elsewhere."
            ) from None
        reason = (str(error).splitlines() or [type(error).__name__])[0].rstrip(".")
        raise RunError(
            f"{address} could not be reached on {server}: {reason}. Try again later."
        ) from None


_OF_THE_DISK = (errno.ENOSPC, errno.EDQUOT, errno.EROFS, errno.EACCES, errno.EPERM)

_REMEDIES = {
    401: " Log in with `hf auth login`, or set HF_TOKEN.",
    403: " Your token may not do this: it needs the right to write.",
    429: " Wait a minute and try again.",
}
