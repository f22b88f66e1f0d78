"""Folders in buckets: `s3://BUCKET/FOLDER` and `gs://BUCKET/FOLDER`, by fsspec (decision 0018).

The only file that imports fsspec. Its libraries read credentials from the environment. An address
with credentials is refused, and other libraries' messages are shown without secrets. Nothing is
cached between calls.
"""

import os
import posixpath
import re
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from featherseg.core.errors import ConfigError, DataError, DataNotFound, FeathersegError, require
from featherseg.core.wording import one_line

PACKAGES = {"s3": "s3fs", "gs": "gcsfs"}
"""Scheme of an address -> the package for this storage."""

MOST_BYTES = 2**30
"""Most bytes of one object, because it is held in memory; larger ones are not read."""

_REMOTE = re.compile(rf"({'|'.join(PACKAGES)}):/{{1,2}}(.*)", re.DOTALL)
_SECRET = re.compile(r"SECRET|TOKEN|PASSWORD|ACCESS_KEY|CREDENTIAL")


def is_remote(place: str | Path) -> bool:
    """Whether a text, or a Path made of it, is the address of a folder or object in a bucket."""
    return _REMOTE.match(str(place)) is not None


def refuse_address(place: str | Path) -> None:
    """Raise ConfigError for an address that cannot be read, such as https://HOST/image.jpg."""
    text = str(place)
    scheme = re.match(r"(?i)([a-z][a-z0-9+.-]+)://|https?:/", text)
    if scheme and not is_remote(text) and not text.startswith("hf://"):
        raise ConfigError(
            f"{text} is an address, expected a path: only "
            f"{' and '.join(f'{name}://' for name in PACKAGES)} are read, and runs from hf://. "
            "Download it, and give the path."
        )


def address(place: str | Path) -> str:
    """Return the address of a text or a Path, which has one slash fewer: `s3:/bucket/in`.

    Raises ConfigError for an address with credentials or a query.
    """
    match = _REMOTE.match(str(place))
    assert match is not None
    bucket, _, key = match[2].partition("/")
    if "@" in bucket or ":" in bucket:
        raise ConfigError(
            f"an address in {match[1]}:// has credentials in it, which belong into the "
            "environment, such as AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY. Give the address "
            "as s3://BUCKET/FOLDER."
        )
    if not bucket or "?" in match[2]:
        raise ConfigError(
            f"an address in {match[1]}:// has no bucket, or a query: expected s3://BUCKET/FOLDER."
        )
    key = key.strip("/")
    return f"{match[1]}://{bucket}/{key}" if key else f"{match[1]}://{bucket}"


def without_buckets(text: str) -> str:
    """Shorten the addresses in a text to their last two parts below the bucket."""
    return re.sub(
        rf"(?<![a-z0-9])(?:{'|'.join(PACKAGES)}):/{{1,2}}([^\"'`\n]*)",
        lambda m: "/".join(m[1].split("/")[1:][-2:]),
        text,
    )


def joined(folder: str, *names: str) -> str:
    """Return the address of something below a folder."""
    return posixpath.join(folder, *names)


@dataclass(frozen=True)
class StoredFile:
    """An object in a bucket, used as an image or file of a dataset; `size` in bytes.

    `version` changes with the content (S3's ETag).
    """

    address: str
    size: int
    version: str

    @property
    def name(self) -> str:
        """The name with its ending."""
        return posixpath.basename(self.address)

    @property
    def stem(self) -> str:
        """The name without its ending."""
        return posixpath.splitext(self.name)[0]

    def __str__(self) -> str:
        return self.address

    def read(self) -> bytes:
        """Return its content. Raises DataNotFound if it is gone, and DataError."""
        if self.size > MOST_BYTES:
            raise DataError(
                f"{self} has {self.size:,} bytes, more than {MOST_BYTES:,}, the limit for one file."
            )
        with _talking(self.address, "read"):
            content: bytes = _storage(self.address).cat_file(self.address)
        if len(content) != self.size:
            raise DataError(f"{self} has changed while it was read. Run the same command again.")
        return content


def list_files(folder: str, *, deep: bool = False) -> Iterator[StoredFile]:
    """Yield the objects directly in a folder by name; `deep`: also below it.

    The address of an object yields that object. Raises DataNotFound if there is nothing, DataError
    if it cannot be listed.
    """
    with _talking(folder, "listed"):
        storage = _storage(folder)
        storage.invalidate_cache()
        entries = (
            storage.find(folder, detail=True)
            if deep
            else {e["name"]: e for e in storage.ls(folder, detail=True)}
        )
    if not entries:
        raise DataNotFound(f"{folder} does not exist, or is empty.")
    scheme = folder.partition("://")[0]
    for name, facts in sorted(entries.items()):
        if facts["type"] == "file" and not name.endswith("/"):
            version = str(facts.get("ETag") or facts.get("etag") or facts.get("md5Hash") or "")
            yield StoredFile(f"{scheme}://{name}", int(facts["size"]), version.strip('"'))


def stream_files(folder: str) -> Iterator[StoredFile]:
    """Yield the objects directly in a large folder: on S3 a thousand at a time, elsewhere all.

    Yields nothing for a missing folder. Raises DataError if it cannot be listed.
    """
    with _talking(folder, "listed"):
        storage = _storage(folder)
    if not hasattr(storage, "call_s3"):
        with suppress(DataNotFound):
            yield from list_files(folder)
        return
    scheme, _, path = folder.partition("://")
    bucket, _, key = path.partition("/")
    request = {"Bucket": bucket, "Prefix": f"{key}/" if key else "", "Delimiter": "/"}
    while True:
        with _talking(folder, "listed"):
            page = storage.call_s3("list_objects_v2", **request)
        for entry in page.get("Contents", ()):
            if not entry["Key"].endswith("/"):
                yield StoredFile(
                    f"{scheme}://{bucket}/{entry['Key']}",
                    int(entry["Size"]),
                    entry["ETag"].strip('"'),
                )
        if not page.get("IsTruncated"):
            return
        request["ContinuationToken"] = page["NextContinuationToken"]


def read_lines(place: str) -> Iterator[bytes]:
    """Yield the lines of an object; none if it is missing. Raises DataError."""
    with _talking(place, "read"):
        try:
            file = _storage(place).open(place, "rb")
        except FileNotFoundError:
            return
        with file:
            yield from file


def write_file(place: str, file: Path) -> None:
    """Upload a file of any size like `write_whole`, without holding it. Raises DataError."""
    with _talking(place, "written"):
        _storage(place).put_file(str(file), place)


def write_whole(place: str, content: bytes) -> None:
    """Write or replace an object completely or not at all. Raises DataError.

    One request; above 100 MB in parts, which become visible with the last one.
    """
    with _talking(place, "written"):
        _storage(place).pipe_file(place, content)


def _storage(place: str) -> Any:
    scheme = place.partition("://")[0]
    fsspec = require("fsspec", "cloud", f"{scheme}:// addresses")
    require(PACKAGES[scheme], "cloud" if scheme == "s3" else "cloud,gcs", f"{scheme}:// addresses")
    return fsspec.filesystem(scheme, use_listings_cache=False)


@contextmanager
def _talking(place: str, doing: str) -> Iterator[None]:
    """Translate the many errors of the storage's library to ours, without secrets."""
    try:
        yield
    except FeathersegError:
        raise
    except FileNotFoundError:
        raise DataNotFound(
            f"{place} does not exist, or is hidden from these credentials."
        ) from None
    except Exception as error:
        reason = one_line(f"{type(error).__name__}: {error}")
        for name, value in os.environ.items():
            if _SECRET.search(name.upper()) and len(value) >= 4:
                reason = reason.replace(value, "***")
        raise DataError(
            f"{place} cannot be {doing}: {reason}. Look at the address, the network and the "
            "credentials in the environment (AWS_ACCESS_KEY_ID, AWS_ENDPOINT_URL and others), "
            "then run the same command again."
        ) from None
