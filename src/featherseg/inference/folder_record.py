"""The record of an output folder, predictions.jsonl: a line for each image that was written.

A line {"settings": ...} gives the settings by which the images of the lines below it were
predicted. The last line of a name counts. By this record the same command continues after a kill,
and an image that has changed since is predicted again.
"""

import json
import os
from collections.abc import Container, Iterable
from dataclasses import asdict
from pathlib import Path
from typing import Any, NamedTuple

from featherseg.core.errors import ConfigError, DataError, FeathersegError
from featherseg.core.files import MOST_TEXT, parse_json
from featherseg.core.storage import StoredFile
from featherseg.inference.predictor import Predictor
from featherseg.inference.runtimes.digest import model_digest

ImageFile = Path | StoredFile
Settings = dict[str, Any]
"""What the files of an image depend on besides the image, as plain values."""


class Version(NamedTuple):
    """Bytes of an image and when it was changed: in nanoseconds, in a bucket its ETag."""

    bytes: int
    changed: int | str


class PredictedImage(NamedTuple):
    """An image as it was when it was predicted; image: its absolute path or address."""

    image: str
    version: Version
    settings: Settings


def image_place(file: ImageFile) -> str:
    """Return the absolute path of an image, or its address."""
    return os.path.abspath(file) if isinstance(file, Path) else file.address


def version_of(file: ImageFile) -> Version:
    """Return the version of the image now.

    Raises:
        DataError: The image is missing.
    """
    if isinstance(file, StoredFile):
        return Version(file.size, file.version)
    try:
        stat = os.stat(file)
    except OSError as error:
        raise DataError(f"{file} cannot be read: {error.strerror}.") from None
    return Version(stat.st_size, stat.st_mtime_ns)


def settings_of(predictor: Predictor, **files: Any) -> Settings:
    """Return what decides the bytes of this predictor's results; files: which are written, how."""
    runtime = predictor.runtime
    settings = {
        "model": {"name": runtime.name, "sha256": model_digest(runtime)},
        "device": str(runtime.device or "cpu"),
        "inference": asdict(predictor.inference),
        "batch": predictor.batch,
        "memory_gb": predictor.memory_gb,
        "max_side": predictor.max_side,
        **files,
    }
    plain: Settings = json.loads(json.dumps(settings))  # tuples as lists, as they are read again
    return plain


def read_record(
    path: Path, names: Container[str]
) -> tuple[dict[str, PredictedImage], Settings | None]:
    """Return the predicted images among `names`, and the settings of the last line.

    A last line that a kill has torn is cut off. A damaged line is skipped, so that its image is
    predicted again. A missing file has no images, and no settings.

    Raises:
        ConfigError: The file is a record of another kind.
    """
    predicted, settings, complete_bytes = dict[str, PredictedImage](), None, 0
    if not path.exists():
        return predicted, settings
    with open(path, "rb") as file:
        for line in file:
            if not line.endswith(b"\n"):
                break
            complete_bytes += len(line)
            try:
                row = parse_json(line[:MOST_TEXT].decode())
                if "settings" in row:
                    settings = dict(row["settings"])
                elif settings is not None and row["name"] in names:
                    version = Version(row["bytes"], row["changed"])
                    predicted[row["name"]] = PredictedImage(row["image"], version, settings)
            except (ValueError, TypeError, KeyError):
                continue
    if complete_bytes and settings is None:
        raise ConfigError(
            f"{path} is of another kind, such as --cluster writes. Choose another folder with -o."
        )
    if complete_bytes < path.stat().st_size:
        os.truncate(path, complete_bytes)
    return predicted, settings


def append_rows(path: Path, rows: Iterable[dict[str, Any]]) -> None:
    """Append lines in one write, so that a kill tears only the last one.

    The file is not synced: images whose lines are lost are predicted again.

    Raises:
        FeathersegError: The disk refuses.
    """
    lines = b"".join(json.dumps(row).encode() + b"\n" for row in rows)
    path.parent.mkdir(parents=True, exist_ok=True)
    try:
        with open(path, "ab") as file:
            file.write(lines)
    except OSError as error:
        raise FeathersegError(
            f"cannot write {path}: {error.strerror or error}. Make room and run the same command "
            "again, which continues."
        ) from None
