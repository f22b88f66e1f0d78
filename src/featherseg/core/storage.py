"""Folders in buckets: `s3://BUCKET/FOLDER` and `gs://BUCKET/FOLDER`, by fsspec (docs/decisions/0018).

The only file that imports it. Credentials are those that the storage's own library finds in the environment; an address
with some in it is refused, and messages of others are shown without them. Nothing is kept between calls.
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
"""Scheme of an address -> the package that speaks with the storage."""

MOST_BYTES = 2**30
"""Of one object: a larger one is refused before it is read, as it is held in memory."""

_REMOTE = re.compile(rf"({'|'.join(PACKAGES)}):/{{1,2}}(.*)", re.DOTALL)
_SECRET = re.compile(r"SECRET|TOKEN|PASSWORD|ACCESS_KEY|CREDENTIAL")


def is_remote(place: str | Path) -> bool:
    """Whether a text, or the path that was made of it, is the address of a folder or an object in a bucket."""
    return _REMOTE.match(str(place)) is not None


def refuse_address(place: str | Path) -> None:
    """Raises ConfigError where a text is an address that is not read, such as https://HOST/image.jpg."""
    text = str(place)
    scheme = re.match(r"(?i)([a-z][a-z0-9+.-]+)://|https?:/", text)
    if scheme and not is_remote(text) and not text.startswith("hf://"):
        raise ConfigError(
            f"{text} is an address, expected a path: only {' and '.join(f'{name}://' for name in PACKAGES)} are read, "
            "and runs from hf://. Download it, and give the path."
        )


def address(place: str | Path) -> str:
    """The address as it is written: a Path has one slash fewer, `s3:/bucket/in`.

    Raises ConfigError for an address with credentials or a query in it.
    """
    found = _REMOTE.match(str(place))
    assert found is not None
    bucket, _, rest = found[2].partition("/")
    if "@" in bucket or ":" in bucket:
        raise ConfigError(
            f"an address in {found[1]}:// has credentials in it, which belong into the environment, such as "
            "AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY. Give the address as s3://BUCKET/FOLDER."
        )
    if not bucket or "?" in found[2]:
        raise ConfigError(f"an address in {found[1]}:// has no bucket, or a query: expected s3://BUCKET/FOLDER.")
    rest = rest.strip("/")
    return f"{found[1]}://{bucket}/{rest}" if rest else f"{found[1]}://{bucket}"


def without_buckets(text: str) -> str:
    """A text that is passed on: of an address, up to its closing quote, the last two parts below the bucket."""
    return re.sub(
        rf"(?<![a-z0-9])(?:{'|'.join(PACKAGES)}):/{{1,2}}([^\"'`\n]*)",
        lambda m: "/".join(m[1].split("/")[1:][-2:]),
        text,
    )


def joined(folder: str, *names: str) -> str:
    """The address of something below a folder."""
    return posixpath.join(folder, *names)


@dataclass(frozen=True)
class StoredFile:
    """An object in a bucket, where it is called an image or a file of a dataset; `size` in bytes.

    `version` changes with the content (S3's ETag).
    """

    address: str
    size: int
    version: str

    @property
    def name(self) -> str:
        """With its ending."""
        return posixpath.basename(self.address)

    @property
    def stem(self) -> str:
        """Without its ending."""
        return posixpath.splitext(self.name)[0]

    def __str__(self) -> str:
        return self.address

    def read(self) -> bytes:
        """Its content. Raises DataNotFound where it has gone, and DataError."""
        if self.size > MOST_BYTES:
            raise DataError(f"{self} has {self.size:,} bytes, more than {MOST_BYTES:,}, the limit for one file.")
        with _talking(self.address, "read"):
            content: bytes = _storage(self.address).cat_file(self.address)
        if len(content) != self.size:
            raise DataError(f"{self} has changed while it was read. Run the same command again.")
        return content


def list_files(folder: str, *, deep: bool = False) -> Iterator[StoredFile]:
    """The objects directly in a folder, by name; `deep`: below it too. Of an object's own address: that object.

    Raises DataNotFound where there is nothing, DataError where it cannot be listed.
    """
    with _talking(folder, "listed"):
        storage = _storage(folder)
        storage.invalidate_cache()
        found = storage.find(folder, detail=True) if deep else {e["name"]: e for e in storage.ls(folder, detail=True)}
    if not found:
        raise DataNotFound(f"{folder} does not exist, or holds nothing.")
    scheme = folder.partition("://")[0]
    for name, facts in sorted(found.items()):
        if facts["type"] == "file" and not name.endswith("/"):
            version = str(facts.get("ETag") or facts.get("etag") or facts.get("md5Hash") or "")
            yield StoredFile(f"{scheme}://{name}", int(facts["size"]), version.strip('"'))


def stream_files(folder: str) -> Iterator[StoredFile]:
    """The objects directly in a folder, where there are too many to hold: on S3 a thousand at a time, elsewhere all.

    Nothing of a folder that does not exist. Raises DataError where it cannot be listed.
    """
    with _talking(folder, "listed"):
        storage = _storage(folder)
    if not hasattr(storage, "call_s3"):
        with suppress(DataNotFound):
            yield from list_files(folder)
        return
    scheme, _, rest = folder.partition("://")
    bucket, _, key = rest.partition("/")
    asked = {"Bucket": bucket, "Prefix": f"{key}/" if key else "", "Delimiter": "/"}
    while True:
        with _talking(folder, "listed"):
            page = storage.call_s3("list_objects_v2", **asked)
        for entry in page.get("Contents", ()):
            if not entry["Key"].endswith("/"):
                yield StoredFile(f"{scheme}://{bucket}/{entry['Key']}", int(entry["Size"]), entry["ETag"].strip('"'))
        if not page.get("IsTruncated"):
            return
        asked["ContinuationToken"] = page["NextContinuationToken"]


def read_lines(place: str) -> Iterator[bytes]:
    """The lines of an object, one after the other; nothing where there is none. Raises DataError."""
    with _talking(place, "read"):
        try:
            file = _storage(place).open(place, "rb")
        except FileNotFoundError:
            return
        with file:
            yield from file


def write_file(place: str, file: Path) -> None:
    """`write_whole` of a file of any size, which is not held. Raises DataError."""
    with _talking(place, "written"):
        _storage(place).put_file(str(file), place)


def write_whole(place: str, content: bytes) -> None:
    """Put an object, which is there whole or not at all; what was there under its name is replaced. Raises DataError.

    In one request; above 100 MB in parts, which count from the moment when the last is there.
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
    """What the storage's library raises, of which there are dozens of kinds, as ours, without a secret in it."""
    try:
        yield
    except FeathersegError:
        raise
    except FileNotFoundError:
        raise DataNotFound(f"{place} does not exist, or is hidden from these credentials.") from None
    except Exception as error:
        reason = one_line(f"{type(error).__name__}: {error}")
        for name, value in os.environ.items():
            if _SECRET.search(name.upper()) and len(value) >= 4:
                reason = reason.replace(value, "***")
        raise DataError(
            f"{place} cannot be {doing}: {reason}. Look at the address, the network and the credentials in the "
            "environment (AWS_ACCESS_KEY_ID, AWS_ENDPOINT_URL and others), then run the same command again."
        ) from None
