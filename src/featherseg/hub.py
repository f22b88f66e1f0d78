"""Runs on the Hugging Face Hub, hf://ORG/NAME[@REVISION], with huggingface_hub and its cache.

A repository comes from others: only the files of a run are fetched, each within its limit, and none
is executed. Files in the cache are never changed. huggingface_hub handles the token (HF_TOKEN,
`hf auth login`); no code here sees it.
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
    "weights.safetensors": 2**30 + 2**24,  # the largest allowed model, and its header
    "metrics.jsonl": MOST_LINES,
    "evaluations.jsonl": MOST_LINES,
    "card.md": MOST_TEXT,
}
"""Files of a run that are shared -> their largest size in bytes.

Checkpoints, images and facts of the machine and the data's files are not shared.
"""

NEEDED = ("resolved.json", "weights.safetensors")
README = "README.md"  # the name of a card on the hub
PICTURE = "overlay.png"  # an image with its prediction, in that card


def is_address(name: str | Path) -> bool:
    """Whether a name is an address on the hub; a Path has lost one of the slashes."""
    return str(name).startswith("hf:/")


def parse_address(name: str | Path) -> tuple[str, str | None]:
    """Return hf://ORG/NAME[@REVISION] as ("ORG/NAME", revision or None).

    The revision is a branch, tag or commit. Raises ConfigError for anything else.
    """
    text = re.sub("^hf:/+", SCHEME, str(name))
    part = r"[A-Za-z0-9][\w.-]{0,95}"
    match = re.fullmatch(
        rf"hf://({part}/{part})(?:@([A-Za-z0-9][\w./-]{{0,199}}))?", text, re.ASCII
    )
    if match is None or ".." in text or "--" in match[1]:
        raise ConfigError(
            f"{text} is no address of a run on the hub: expected hf://ORG/NAME or "
            "hf://ORG/NAME@REVISION."
        )
    return match[1], match[2]


def pulled_from(path: Path) -> str | None:
    """Return hf://ORG/NAME@COMMIT of a folder in the hub's cache, None for other folders.

    Folders of the cache are called models--ORG--NAME/snapshots/COMMIT.
    """
    path = Path(os.path.abspath(path))
    repository = path.parent.parent.name
    if path.parent.name != "snapshots" or not re.fullmatch("[0-9a-f]{40}", path.name):
        return None
    match = re.fullmatch(r"models--([^/]+?)--([^/]+)", repository)
    return f"{SCHEME}{match[1]}/{match[2]}@{path.name}" if match else None


def pull(address: str | Path) -> Path:
    """Fetch a run from the hub, as far as it is not in the hub's cache; return its folder there.

    Without a connection the copy in the cache is used, if there is one. Raises RunError,
    ConfigError, MissingExtra.
    """
    repository, revision = parse_address(address)
    hub = _open_hub(repository)
    with _hub_errors(hub, address):
        commit = hub.HfApi().resolve_revision(repository, revision=revision).resolved

        # Check names and sizes before a byte is fetched; None without a connection
        listing: dict[str, Any] | None
        try:
            listing = {
                file.path: file
                for file in hub.HfApi().get_paths_info(repository, list(SHARED), revision=commit)
            }
        except hub.errors.HfHubHTTPError:
            raise
        except (hub.errors.HTTPError, ConnectionError):
            listing = None
        for name, file in (listing or {}).items():
            if getattr(file, "size", None) is None:
                raise RunError(f"{address} is no run: {name} is a folder there.")
            if file.size > SHARED[name]:
                raise RunError(
                    f"{address} is not fetched: its {name} has {file.size:,} bytes; at most "
                    f"{SHARED[name]:,} are allowed."
                )
        if listing is not None and (missing := [name for name in NEEDED if name not in listing]):
            raise RunError(
                f"{address} is no run: it has no {' and no '.join(missing)}. See: featherseg push"
            )

        # Fetch the files into the cache
        files = {}
        for name in SHARED if listing is None else listing:
            try:
                path = hub.hf_hub_download(
                    repository, name, revision=commit, local_files_only=listing is None
                )
                files[name] = Path(path)
            except hub.errors.LocalEntryNotFoundError:
                if name in NEEDED or listing is not None:
                    raise

    # The files in the cache are those that were listed, and no link leads outside
    folder = files[NEEDED[0]].parent
    store = os.path.realpath(folder.parents[1])
    for name, path in files.items():
        if (
            os.path.commonpath([store, os.path.realpath(path)]) != store
            or path.stat().st_size > SHARED[name]
        ):
            raise RunError(
                f"{path} leads out of the hub's cache, or is too large. Delete {folder} and try "
                "again."
            )
        stored = getattr((listing or {}).get(name), "lfs", None)
        if stored and stored.sha256 != file_digest(path):
            raise RunError(
                f"{path} differs from the file at {address}: its sha256 is another. "
                f"Delete {folder} and try again."
            )
    return folder


def upload(files: Mapping[str, bytes | Path], address: str, message: str, *, public: bool) -> str:
    """Write `files` to the repository of `address` in one commit; return the address of its page.

    SHARED files and the PICTURE of an earlier run that are not in `files` are deleted. A missing
    repository or branch is created, the repository private unless `public`; an existing one stays
    private or public. Raises RunError, ConfigError, MissingExtra.
    """
    repository, revision = parse_address(address)
    hub = _open_hub(repository)
    with _hub_errors(hub, address):
        api = hub.HfApi()
        api.create_repo(repository, private=not public, exist_ok=True)
        if revision and not api.revision_exists(repository, revision):
            api.create_branch(repository, branch=revision)
        old_files = api.get_paths_info(repository, [*SHARED, PICTURE], revision=revision)
        changes = [
            hub.CommitOperationAdd(path_in_repo=name, path_or_fileobj=file)
            for name, file in files.items()
        ]
        changes += [
            hub.CommitOperationDelete(path_in_repo=file.path)
            for file in old_files
            if file.path not in files
        ]
        commit = api.create_commit(repository, changes, commit_message=message, revision=revision)
        return str(commit.commit_url)


def _open_hub(repository: str) -> ModuleType:
    """Import huggingface_hub with all parts that are used. Raises MissingExtra."""
    for part in ("constants", "errors"):
        require(f"huggingface_hub.{part}", "hub", f"{SCHEME}{repository}")
    return require("huggingface_hub", "hub", f"{SCHEME}{repository}")


@contextmanager
def _hub_errors(hub: ModuleType, address: str | Path) -> Iterator[None]:
    """Raise RunError for errors of the hub, without the content of requests (such as a token)."""
    errors, server = hub.errors, hub.constants.ENDPOINT
    try:
        yield
    except errors.RevisionNotFoundError:
        raise RunError(f"{address}: there is no such branch, tag or commit on {server}.") from None
    except errors.RepositoryNotFoundError:
        raise RunError(
            f"{address} cannot be opened on {server}: it does not exist, or you may not read or "
            "write it. Log in with `hf auth login`, or set HF_TOKEN."
        ) from None
    except (errors.RevisionResolutionError, errors.LocalEntryNotFoundError):
        raise RunError(
            f"{address} cannot be fetched: {server} is not reachable, and "
            f"{hub.constants.HF_HUB_CACHE} has no copy of it. Try again with a connection."
        ) from None
    except errors.HfHubHTTPError as error:
        status = error.response.status_code
        raise RunError(
            f"{address}: {server} answered {status}.{_REMEDIES.get(status, '')}"
        ) from None
    except (errors.HTTPError, errors.HFValidationError, OSError, ValueError, RuntimeError) as error:
        if isinstance(error, OSError) and error.errno in _DISK_ERRORS:
            cache = hub.constants.HF_HUB_CACHE
            raise RunError(
                f"{address}: {error.filename or cache} cannot be written: {error.strerror}. Make "
                f"room in {cache}, or set HF_HUB_CACHE to another folder."
            ) from None
        reason = (str(error).splitlines() or [type(error).__name__])[0].rstrip(".")
        raise RunError(
            f"{address} could not be reached on {server}: {reason}. Try again later."
        ) from None


_DISK_ERRORS = (errno.ENOSPC, errno.EDQUOT, errno.EROFS, errno.EACCES, errno.EPERM)

_REMEDIES = {
    401: " Log in with `hf auth login`, or set HF_TOKEN.",
    403: " Your token needs the permission to write.",
    429: " Wait a minute and try again.",
}
