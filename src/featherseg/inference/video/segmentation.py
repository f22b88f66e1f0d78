"""A video becomes the same video under the colours of its classes: `segment_video`. Needs PyAV, the extra [video].

Rate, times, size and orientation are those of the source; sound is left out. mp4 and webm are written
as VP9. Every frame is predicted by itself.
"""

import hashlib
from collections import deque
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from itertools import chain, islice
from pathlib import Path
from typing import Any

import numpy as np

from featherseg._version import __version__
from featherseg.core.errors import ConfigError
from featherseg.core.files import refuse_links
from featherseg.core.types import Progress, Size
from featherseg.inference.drawing import save_index_png
from featherseg.inference.predictor import Predictor
from featherseg.inference.runtimes.digest import model_digest
from featherseg.inference.video.parts import Origin, Parts, open_parts
from featherseg.inference.video.read import Frame, Frames, VideoFacts, is_video, read_facts
from featherseg.inference.video.write import OverlaidFrame, VideoFormat, check_ending, check_format

__all__ = ["SEGMENT_FRAMES", "VideoJob", "VideoResult", "is_video", "segment_video"]

SEGMENT_FRAMES = 50
"""Frames of a segment: what a kill costs at most."""

HEAD_BYTES = 1 << 20


@dataclass(frozen=True)
class VideoJob:
    """What to segment and where to: target ends in .mp4 or .webm.

    masks: a folder for the masks without loss, 000000.png for the first frame and so on; None: none are written.
    """

    source: Path
    target: Path
    masks: Path | None = None


@dataclass(frozen=True)
class VideoResult:
    """What was done: frames written, of which `resumed` were there already; unreadable ones are left out of it.

    damaged: frames that were partly unreadable and are in it all the same; how: "whole" or "6 tiles of 1024x1024".
    """

    job: VideoJob
    facts: VideoFacts
    frames: int
    resumed: int
    unreadable: int
    damaged: int
    how: str

    def as_dict(self) -> dict[str, Any]:
        """Plain values."""
        names = ("frames", "resumed", "unreadable", "damaged", "how")
        paths = {"source": str(self.job.source), "file": str(self.job.target)}
        return paths | {name: getattr(self, name) for name in names}


def segment_video(
    predictor: Predictor, job: VideoJob, progress: Progress | None = None
) -> VideoResult:
    """Write the video of `job` with the predictor's classes over it, half and half; an older target is replaced.

    Killed or stopped, the same call goes on behind the last of the segments that lie in TARGET.parts, and the result is
    that of a run which was not. Frames before are decoded again, which is quick, and not predicted.
    Raises DataError or DataNotFound for the source, ConfigError for the target's ending or a model that takes no
    images of one or three channels, RunError where TARGET.parts has another origin, MissingExtra without
    PyAV, FeathersegError where one of the folders is a link.
    """
    check_predictor(predictor)
    check_ending(job.target)
    if job.masks:
        refuse_links(job.masks.parent, job.masks.name)
    facts = read_facts(job.source)
    format = VideoFormat(job.target.suffix.lower(), facts.size, facts.rate, facts.time_base)
    check_format(format)
    frames = Frames(job.source, facts, predictor.runtime.channels)
    with open_parts(job.target, format, _origin(predictor, job, facts)) as parts:
        resumed = parts.frames
        _write_segments(predictor, frames, parts, job.masks, progress)
        parts.finish(job.target)
    if job.masks:
        number = parts.frames  # masks of an older, longer video go
        while (file := mask_file(job.masks, number)).is_file():
            file.unlink()
            number += 1
    how = predictor.plan(facts.size).how
    return VideoResult(job, facts, parts.frames, resumed, frames.unreadable, frames.damaged, how)


def check_predictor(predictor: Predictor) -> None:
    """Raises ConfigError for a model that takes neither colour nor grey images."""
    runtime = predictor.runtime
    if runtime.channels not in (1, 3):
        raise ConfigError(
            f"{runtime.name} takes images of {runtime.channels} channels, but a video has three."
        )


def draw_frames(
    predictor: Predictor, frames: Iterator[Frame], first: int, masks: Path | None
) -> Iterator[OverlaidFrame]:
    """Predict frames and draw them; `first` is the number of the first one, after which its mask is named."""
    times: deque[Frame] = deque()

    def pixels() -> Iterator[np.ndarray]:
        for frame in frames:
            times.append(frame)
            yield frame.pixels

    for number, result in enumerate(predictor(pixels()), start=first):
        frame = times.popleft()
        if masks:
            save_index_png(result.mask, result.classes, mask_file(masks, number))
        yield OverlaidFrame(np.array(result.overlay()), frame.begin, frame.duration)


def mask_file(folder: Path, number: int) -> Path:
    """The mask of frame `number`, from 0 on."""
    return folder / f"{number:06d}.png"


def _write_segments(
    predictor: Predictor,
    frames: Frames,
    parts: Parts,
    masks: Path | None,
    progress: Progress | None,
) -> None:
    """All frames behind those that the parts hold, SEGMENT_FRAMES at a time."""
    rest = frames.after(parts.frames)
    while (head := next(rest, None)) is not None:
        overlaid = draw_frames(
            predictor, chain([head], islice(rest, SEGMENT_FRAMES - 1)), parts.frames, masks
        )
        parts.add(with_progress(overlaid, parts.frames, frames.facts.frames, progress))


def with_progress(
    overlaid: Iterator[OverlaidFrame], done: int, total: int | None, progress: Progress | None
) -> Iterator[OverlaidFrame]:
    if progress:
        progress("frames", done, total)
    for number, frame in enumerate(overlaid, start=done + 1):
        yield frame
        if progress:
            progress("frames", number, total)


def _origin(predictor: Predictor, job: VideoJob, facts: VideoFacts) -> Origin:
    """All that decides the result's bytes, on one machine."""
    stat = job.source.stat()
    with open(job.source, "rb") as file:
        head = hashlib.sha256(file.read(HEAD_BYTES)).hexdigest()
    return {
        "source": {
            "name": job.source.name,
            "bytes": stat.st_size,
            "changed_ns": stat.st_mtime_ns,
            "head": head,
        },
        "masks": job.masks.name if job.masks else None,
        **settings_origin(predictor, facts.size),
    }


def settings_origin(predictor: Predictor, size: Size) -> Origin:
    """What of the model, its device and its settings decides the result for frames of (height, width)."""
    plan = predictor.plan(size)
    return {
        "featherseg": __version__,
        "model": {"name": predictor.runtime.name, "sha256": model_digest(predictor.runtime)},
        "device": str(predictor.runtime.device),
        "inference": asdict(plan.inference),
        "together": min(predictor.batch, plan.at_once),
        "segment_frames": SEGMENT_FRAMES,
    }
