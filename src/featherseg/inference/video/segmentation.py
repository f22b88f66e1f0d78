"""A video becomes the same video under the colours of its classes: `segment_video`.

Needs PyAV, the extra [video]. Rate, times, size and orientation are those of the source; sound is
dropped. mp4 and webm are written as VP9. Every frame is predicted by itself.
"""

import hashlib
from collections import deque
from collections.abc import Iterator, Mapping
from dataclasses import asdict, dataclass, field
from itertools import chain, islice
from pathlib import Path
from typing import Any

import numpy as np

from featherseg._version import __version__
from featherseg.core.errors import ConfigError
from featherseg.core.files import refuse_links
from featherseg.core.types import Progress, Size
from featherseg.data.images.palettes import recolored
from featherseg.inference.drawing import save_index_png
from featherseg.inference.predictor import Predictor
from featherseg.inference.runtimes.digest import model_digest
from featherseg.inference.video.parts import Origin, Parts, open_parts
from featherseg.inference.video.read import Frame, Frames, VideoFacts, is_video, read_facts
from featherseg.inference.video.write import OverlaidFrame, VideoFormat, check_ending, check_format

__all__ = ["SEGMENT_FRAMES", "VideoJob", "VideoResult", "is_video", "segment_video"]

SEGMENT_FRAMES = 50
"""Frames of a segment: the most that a kill costs."""

HEAD_BYTES = 1 << 20
"""Bytes at the start of a video that identify it."""


@dataclass(frozen=True)
class VideoJob:
    """A video to segment.

    Args:
        source: The video.
        target: The output, .mp4 or .webm.
        masks: A folder for the masks without loss, 000000.png for the first frame and so on; None:
            they are not written.
        look: Arguments of `Prediction.overlay`.
    """

    source: Path
    target: Path
    masks: Path | None = None
    look: Mapping[str, Any] = field(default_factory=dict)


@dataclass(frozen=True)
class VideoResult:
    """What was done.

    Attributes:
        job: The job.
        facts: Of the source.
        frames: Number of frames that were written.
        resumed: How many of them an earlier run wrote.
        unreadable: Frames that are missing in the output.
        damaged: Frames in the output that were partly unreadable.
        how: "whole" or "6 tiles of 1024x1024".
    """

    job: VideoJob
    facts: VideoFacts
    frames: int
    resumed: int
    unreadable: int
    damaged: int
    how: str

    def as_dict(self) -> dict[str, Any]:
        """Return plain values."""
        names = ("frames", "resumed", "unreadable", "damaged", "how")
        paths = {"source": str(self.job.source), "file": str(self.job.target)}
        return paths | {name: getattr(self, name) for name in names}


def segment_video(
    predictor: Predictor, job: VideoJob, progress: Progress | None = None
) -> VideoResult:
    """Write the video of `job` under the predictor's colours; an older target is replaced.

    After a kill the same call continues after the last segment in TARGET.parts, with the same
    result as an uninterrupted run. Earlier frames are decoded again, which is quick, and not
    predicted.

    Raises:
        DataError, DataNotFound: The source cannot be read.
        ConfigError: The target's ending is wrong, or the model takes other channels than 1 or 3.
        RunError: TARGET.parts has another origin.
        MissingExtra: PyAV is not installed.
        FeathersegError: One of the folders is a link.
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
        _write_segments(predictor, frames, parts, job, progress)
        parts.finish(job.target)
    if job.masks:
        number = parts.frames  # delete masks of an older, longer video
        while (file := mask_file(job.masks, number)).is_file():
            file.unlink()
            number += 1
    how = predictor.plan(facts.size).how
    return VideoResult(job, facts, parts.frames, resumed, frames.unreadable, frames.damaged, how)


def check_predictor(predictor: Predictor) -> None:
    """Raise ConfigError for a model that takes neither colour nor grey images."""
    runtime = predictor.runtime
    if runtime.channels not in (1, 3):
        raise ConfigError(
            f"{runtime.name} takes images of {runtime.channels} channels, but a video has three."
        )


def draw_frames(
    predictor: Predictor,
    frames: Iterator[Frame],
    first: int,
    masks: Path | None,
    look: Mapping[str, Any],
) -> Iterator[OverlaidFrame]:
    """Predict frames and draw them; `first` is the number of the first one, for its mask's name."""
    times: deque[Frame] = deque()

    def pixels() -> Iterator[np.ndarray]:
        for frame in frames:
            times.append(frame)
            yield frame.pixels

    for number, result in enumerate(predictor(pixels()), start=first):
        frame = times.popleft()
        if masks:
            classes = recolored(result.classes, look.get("palette"))
            save_index_png(result.mask, classes, mask_file(masks, number))
        yield OverlaidFrame(np.array(result.overlay(**look)), frame.begin, frame.duration)


def mask_file(folder: Path, number: int) -> Path:
    """Return the mask file of frame `number`, from 0 on."""
    return folder / f"{number:06d}.png"


def _write_segments(
    predictor: Predictor,
    frames: Frames,
    parts: Parts,
    job: VideoJob,
    progress: Progress | None,
) -> None:
    """Write all frames after those of the parts, SEGMENT_FRAMES at a time."""
    remaining = frames.after(parts.frames)
    while (head := next(remaining, None)) is not None:
        segment = chain([head], islice(remaining, SEGMENT_FRAMES - 1))
        overlaid = draw_frames(predictor, segment, parts.frames, job.masks, job.look)
        parts.add(with_progress(overlaid, parts.frames, frames.facts.frames, progress))


def with_progress(
    overlaid: Iterator[OverlaidFrame], done: int, total: int | None, progress: Progress | None
) -> Iterator[OverlaidFrame]:
    """Yield the frames, and report each to `progress`."""
    if progress:
        progress("frames", done, total)
    for number, frame in enumerate(overlaid, start=done + 1):
        yield frame
        if progress:
            progress("frames", number, total)


def _origin(predictor: Predictor, job: VideoJob, facts: VideoFacts) -> Origin:
    """Return all that decides the bytes of the result, on one machine."""
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
        "look": dict(job.look),
        **settings_origin(predictor, facts.size),
    }


def settings_origin(predictor: Predictor, size: Size) -> Origin:
    """Return what decides the result of frames of (height, width) besides the source."""
    plan = predictor.plan(size)
    return {
        "featherseg": __version__,
        "model": {"name": predictor.runtime.name, "sha256": model_digest(predictor.runtime)},
        "device": str(predictor.runtime.device or "cpu"),
        "inference": asdict(plan.inference),
        "together": min(predictor.batch, plan.at_once),
        "segment_frames": SEGMENT_FRAMES,
    }
