"""The unfinished result of a video: NAME.parts beside the output, with closed segments.

A kill at any moment leaves complete segments; the next run of the same command continues after
them.
"""

import shutil
from collections.abc import Iterable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

from featherseg.core.errors import RunError
from featherseg.core.files import load_json, locked, refuse_links, write_atomic, write_json
from featherseg.core.wording import changed_settings
from featherseg.inference.video.write import (
    SEGMENT_SUFFIX,
    OverlaidFrame,
    VideoFormat,
    join_segments,
    segment_extent,
    write_segment,
)

FORMAT_VERSION = 1
RECORD, LOCK = "parts.json", ".lock"

Origin = dict[str, Any]
"""What a result depends on, as plain values: source, model, settings."""


def parts_folder(target: Path) -> Path:
    """Return the folder of the segments of `target`, until it is finished."""
    return target.with_name(target.name + ".parts")


class Parts:
    """The finished segments, in order. frames: their number of frames; end: of the last one."""

    def __init__(self, folder: Path, format: VideoFormat) -> None:
        self.folder, self.format = folder, format
        self.segments: list[Path] = []
        self.frames = self.end = 0
        for path in sorted(folder.glob(f"*{SEGMENT_SUFFIX}")):
            frames, end = segment_extent(path)
            if path != self._next() or not frames:  # one was lost: the rest is made again
                break
            self._count(path, frames, end)

    def add(self, frames: Iterable[OverlaidFrame]) -> None:
        """Write one more segment. Raises FeathersegError if the disk refuses."""
        path = self._next()
        write_atomic(path, lambda file: write_segment(file, self.format, frames))
        self._count(path, *segment_extent(path))

    def finish(self, target: Path) -> None:
        """Join the segments to `target`, which is replaced atomically, and delete the folder."""
        write_atomic(target, lambda file: join_segments(file, self.format, self.segments))
        shutil.rmtree(self.folder, ignore_errors=True)  # Windows keeps the lock until released

    def _next(self) -> Path:
        return self.folder / f"{len(self.segments):06d}{SEGMENT_SUFFIX}"

    def _count(self, path: Path, frames: int, end: int) -> None:
        self.segments.append(path)
        self.frames, self.end = self.frames + frames, end


@contextmanager
def open_parts(target: Path, format: VideoFormat, origin: Origin) -> Iterator[Parts]:
    """Yield the parts of `target`: those of an earlier run with the same origin, or none.

    A run that ends before its first segment leaves nothing.

    Raises:
        RunError: Another process writes them, or they have another origin.
    """
    folder = parts_folder(target)
    refuse_links(folder.parent, folder.name)
    folder.mkdir(parents=True, exist_ok=True)
    with locked(
        folder / LOCK,
        RunError(f"another process is writing {target}. Wait for it or stop it first."),
    ):
        _check_origin(folder, {"format_version": FORMAT_VERSION, **origin})
        try:
            yield Parts(folder, format)
        finally:
            if folder.exists() and not _has_segments(folder):
                shutil.rmtree(folder, ignore_errors=True)
    with suppress(OSError):
        folder.rmdir()  # empty: Windows kept it with the lock


def _check_origin(folder: Path, origin: Origin) -> None:
    record = folder / RECORD
    if not _has_segments(folder):
        write_json(record, origin)
        return
    try:
        before = load_json(record)
    except (OSError, ValueError):
        before = None
    if not isinstance(before, dict):
        raise RunError(
            f"{folder} lacks a readable {RECORD}, so it cannot be continued. Delete it to start "
            "over."
        )
    if changed := changed_settings(before, origin):
        raise RunError(
            f"{folder} was started with other settings: {changed}. Use the earlier command, or "
            f"delete {folder} to start over."
        )


def _has_segments(folder: Path) -> bool:
    return any(folder.glob(f"*{SEGMENT_SUFFIX}"))
