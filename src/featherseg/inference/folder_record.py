"""What an output folder holds: predictions.jsonl, to which a line is added for every image that is written.

A line {"settings": ...} says how the images in the lines below it were predicted; of lines of one name the last counts.
A command that was killed is so continued by the same command, and an image that has changed since is predicted again.
"""

import json
import os
from collections.abc import Container, Iterable
from dataclasses import asdict
from pathlib import Path
from typing import Any, NamedTuple

from featherseg.core.errors import ConfigError, DataError, FeathersegError
from featherseg.core.files import MOST_TEXT, parse_json, refuse_links
from featherseg.core.storage import StoredFile
from featherseg.inference.manifest import DONE
from featherseg.inference.predictor import Predictor
from featherseg.inference.runtimes.digest import model_digest

ImageFile = Path | StoredFile
Settings = dict[str, Any]
"""What the files of an image depend on beside the image, as plain values."""


class Version(NamedTuple):
    """Bytes of an image and when it was changed, in nanoseconds; in a bucket the ETag of its content."""

    bytes: int
    changed: int | str


class PredictedImage(NamedTuple):
    """An image as it was when it was predicted; image: its absolute path or address."""

    image: str
    version: Version
    settings: Settings


def image_place(file: ImageFile) -> str:
    """The absolute path of an image, or its address."""
    return os.path.abspath(file) if isinstance(file, Path) else file.address


def version_of(file: ImageFile) -> Version:
    """The image as it is now. Raises DataError where it has gone."""
    if isinstance(file, StoredFile):
        return Version(file.size, file.version)
    try:
        stat = os.stat(file)
    except OSError as error:
        raise DataError(f"{file} cannot be read: {error.strerror}.") from None
    return Version(stat.st_size, stat.st_mtime_ns)


def settings_of(predictor: Predictor, **files: Any) -> Settings:
    """What decides the bytes that this predictor's results are written as; files: which files, and how."""
    settings = {
        "model": {"name": predictor.runtime.name, "sha256": model_digest(predictor.runtime)},
        "device": str(predictor.runtime.device),
        "inference": asdict(predictor.inference),
        "batch": predictor.batch,
        "memory_gb": predictor.memory_gb,
        "max_side": predictor.max_side,
        **files,
    }
    plain: Settings = json.loads(json.dumps(settings))  # as they are read again: tuples as lists
    return plain


class FolderRecord:
    """The file predictions.jsonl at `path`, which may be still to be made.

    Raises FeathersegError where it is a link, ConfigError where it is of another kind.
    """

    def __init__(self, path: Path) -> None:
        refuse_links(path.parent, path.name)
        self.path = path
        self.settings: Settings | None = None  # of the last line
        self.changed = False

    def read(self, names: Container[str]) -> dict[str, PredictedImage]:
        """The predicted images among `names`; a last line that was torn by a kill is cut off."""
        predicted: dict[str, PredictedImage] = {}
        if not self.path.exists():
            return predicted
        whole = 0
        with open(self.path, "rb") as file:
            for line in file:
                if line.endswith(b"\n"):
                    whole += len(line)
                    self._read_line(line, names, predicted)
        if whole and self.settings is None:
            raise ConfigError(
                f"{self.path} is of another kind, such as --cluster writes. Choose another folder with -o."
            )
        if whole < self.path.stat().st_size:
            os.truncate(self.path, whole)
        return predicted

    def _read_line(
        self, line: bytes, names: Container[str], predicted: dict[str, PredictedImage]
    ) -> None:
        try:
            row = parse_json(line[:MOST_TEXT].decode())
            if "settings" in row:
                self.settings = dict(row["settings"])
            elif self.settings is not None and row["name"] in names:
                version = Version(row["bytes"], row["changed"])
                predicted[row["name"]] = PredictedImage(row["image"], version, self.settings)
        except (ValueError, TypeError, KeyError):
            pass  # damaged: its image is predicted again

    def begin(self, settings: Settings) -> None:
        """Say how the images of the following lines are predicted, where the last line does not say the same."""
        if settings != self.settings:
            self.path.parent.mkdir(parents=True, exist_ok=True)
            self._append([{"settings": settings}])
            self.settings = settings

    def add(self, images: Iterable[tuple[str, ImageFile, Version]]) -> None:
        """Record images whose files, each named by its name, are written."""
        self._append(
            {"name": name, "image": image_place(file), "status": DONE, **version._asdict()}
            for name, file, version in images
        )

    def _append(self, rows: Iterable[dict[str, Any]]) -> None:
        """In one write, so that a kill tears the last line at most; not synced: what is lost is predicted again."""
        lines = b"".join(json.dumps(row).encode() + b"\n" for row in rows)
        try:
            with open(self.path, "ab") as file:
                file.write(lines)
        except OSError as error:
            raise FeathersegError(
                f"cannot write {self.path}: {error.strerror or error}. Make room and run the same command again, which "
                "goes on."
            ) from None
        self.changed = True
