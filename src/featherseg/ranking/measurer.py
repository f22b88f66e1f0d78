"""Measures images and keeps what it found on the disk: an interrupted ranking goes on, another list costs nothing."""

import hashlib
import json
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
from torch import nn

from featherseg.core.errors import ConfigError, DataError, FeathersegError, RunError
from featherseg.core.files import locked, refuse_links
from featherseg.core.types import Progress, SegmentationData
from featherseg.data.fingerprint import files_of
from featherseg.data.images import image_size, read_image
from featherseg.inference.predictor import Predictor
from featherseg.inference.runtimes import Runtime
from featherseg.inference.runtimes.pytorch import weight_bytes
from featherseg.inference.settings import InferenceSettings, own_settings
from featherseg.ranking.measures import measure
from featherseg.runs import Run

FORMAT = 1
"""Raised where what is kept of an image would be another."""


class Measurer:
    """Measures images by one model. Of each a row (1 + F,) float32: uncertainty and features; NaN where it cannot."""

    def __init__(self, predictor: Predictor, run: str | Path | Run, kept: Path) -> None:
        self.predictor, self.kept = predictor, kept
        self.model = _digest_of(predictor.runtime, run)
        side = max(64, predictor.runtime.minimum_size)
        blank = np.zeros((side, side, predictor.runtime.channels), np.uint8)
        self.width = 1 + len(measure(predictor.runtime, blank, InferenceSettings()).feature)

    def images(self, paths: list[Path], failed: dict[int, str], progress: Progress) -> np.ndarray:
        """Rows (N, 1 + F) of image files; in `failed` why one has none."""

        def row_of(number: int) -> np.ndarray:
            progress("measuring images", number, len(paths))
            path = paths[number]
            return self._row(str(path), partial(self._read, path), partial(failed.__setitem__, number))

        return self._rows("images", [(str(path), *_stat(path)) for path in paths], row_of)

    def labelled(self, data: SegmentationData, most: int, progress: Progress) -> tuple[np.ndarray, list[str]]:
        """Features (M, F) of at most `most` images of a dataset, evenly spread, and why some have none."""
        count, failed = min(len(data), most), dict[int, str]()
        numbers = [i * len(data) // count for i in range(count)]

        def row_of(place: int) -> np.ndarray:
            progress("measuring labelled images", place, count)
            number = numbers[place]
            return self._row(data.keys[number], lambda: data[number].image, partial(failed.__setitem__, place))

        files = files_of(data)
        facts = [(data.keys[i], *(() if files is None else _stat(files.pairs[i].files[0]))) for i in numbers]
        rows = self._rows("labelled", facts, row_of)
        spoiled = np.isnan(rows[:, 0])
        return rows[~spoiled, 1:] if spoiled.any() else rows[:, 1:], list(failed.values())

    def _row(self, name: str, read: Callable[[], np.ndarray], say: Callable[[str], object]) -> np.ndarray:
        try:
            image = read()
            found = measure(self.predictor.runtime, image, self.predictor.plan(image.shape[:2]).inference)
        except (DataError, ConfigError) as error:
            say(str(error))
            return np.full(self.width, np.nan)
        row = np.concatenate([[found.uncertainty], found.feature])
        if np.isfinite(row).all():
            return row
        say(f"{name}: the model's output is not finite. Were its weights damaged in training?")
        return np.full(self.width, np.nan)

    def _read(self, path: Path) -> np.ndarray:
        self.predictor.plan(image_size(path))  # too large for the memory is said before it is decoded
        return read_image(path, self.predictor.runtime.channels)

    def _rows(self, name: str, facts: list[Any], row_of: Callable[[int], np.ndarray]) -> np.ndarray:
        """The rows of a file that is known by the model and `facts`, one an image; those missing are appended.

        Those that an earlier call could not make are tried again, for what went wrong then may have been mended.
        Mapped into the memory: they may be more than it holds. Of a row that a kill has torn nothing is kept.
        """
        digest = hashlib.sha256(json.dumps([FORMAT, self.model, facts]).encode()).hexdigest()[:16]
        path, size = self.kept / f"{name}-{digest}", 4 * self.width
        refuse_links(self.kept, path.name)
        try:
            with open(path, "ab") as file:
                there = min(len(facts), file.tell() // size)
                file.truncate(there * size)
                for number in range(there, len(facts)):
                    file.write(row_of(number).astype("<f4").tobytes())
                    file.flush()
        except OSError as error:
            raise FeathersegError(
                f"cannot write {path}: {error.strerror or error}. Make room, then run the same command again: it goes "
                "on where it was."
            ) from error
        rows = np.memmap(path, "<f4", "r+", shape=(len(facts), self.width))
        for number in np.flatnonzero(np.isnan(rows[:there, 0])).tolist():
            rows[number] = row_of(number)
        return rows


@contextmanager
def measuring(predictor: Predictor, run: str | Path | Run, kept: Path) -> Iterator[Measurer]:
    """A Measurer that keeps its rows in the folder `kept`, for this process alone."""
    kept.mkdir(parents=True, exist_ok=True)
    taken = RunError(f"another process is ranking with {kept}. Wait for it, or name another list with -o.")
    with locked(kept / ".lock", taken):
        yield Measurer(predictor, run, kept)


def _digest_of(runtime: Runtime, run: str | Path | Run) -> str:
    """What a model is known by: its weights and the size it takes images at, or the file."""
    model = getattr(runtime, "model", None)
    if not isinstance(model, nn.Module):
        return str((str(run), *_stat(Path(str(run)))))
    weights = hashlib.sha256(str(own_settings(runtime)).encode())
    for content in weight_bytes(model):
        weights.update(content)
    return weights.hexdigest()


def _stat(path: Path) -> tuple[int, int]:
    """Size and time of a file; of one that is gone 0, 0."""
    try:
        found = path.stat()
    except OSError:
        return 0, 0
    return found.st_size, found.st_mtime_ns
