"""Reading a video: its frames upright, with square pixels, in RGB, and their times.

Only the containers named here are opened, and only from a file: a playlist that is called .mp4
opens nothing else.
"""

import os
import re
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from fractions import Fraction
from pathlib import Path
from typing import Any

import numpy as np

from featherseg.core.errors import DataError, DataNotFound, TooLarge, near_path, require
from featherseg.core.types import Size
from featherseg.core.wording import size_text

VIDEO_SUFFIXES = (".mp4", ".m4v", ".mov", ".webm", ".mkv", ".avi")
"""Endings (in lower case) of files that are videos."""

PURPOSE = "reading and writing videos"
_OPEN_OPTIONS = {"format_whitelist": "mov,matroska,avi", "protocol_whitelist": "file"}
UPRIGHT = (1, 0, 0, 1)

MAX_PIXELS = 35_651_584
"""Most pixels of a frame: those of the largest levels of H.264 and HEVC (6.2).

Decoders hold 17 or more frames.
"""

_USUAL_RATE = Fraction(25)

_HD_LINES = 720
"""Height from which a video without named colours is BT.709, as for players; below it is BT.601."""

_BT709, _UNNAMED = 1, 2
"""Colour spaces as ITU-T H.273 numbers them."""

_MISSING_FRAMES = 2
"""A file without a count of its frames lacks some if it ends this many before its stated length."""

Turn = tuple[int, int, int, int]
"""a, b, c, d of a display matrix: a stored point (x, y) is shown at (a x + c y, b x + d y)."""


@dataclass(frozen=True)
class VideoFacts:
    """What is known of a video before it is read.

    Attributes:
        size: (height, width) of an upright frame.
        stored: The same before it is turned.
        turn: How it is turned.
        rate: Frames per second, on average.
        time_base: The unit of all times, in seconds.
        frames: By the header; None if unknown.
        seconds: By the header; None if unknown.
        counted: Whether the header has the number of frames.
        sound: Whether it has sound.
    """

    size: Size
    stored: Size
    turn: Turn
    rate: Fraction
    time_base: Fraction
    frames: int | None
    seconds: float | None
    counted: bool
    sound: bool


@dataclass(frozen=True)
class Frame:
    """Pixels (H, W, C) uint8, begin and duration in units of time_base; the first begins at 0."""

    pixels: np.ndarray
    begin: int
    duration: int


def is_video(path: Path) -> bool:
    """Whether the name ends like a video's."""
    return path.suffix.lower() in VIDEO_SUFFIXES and not path.name.startswith(".")


def read_facts(path: Path) -> VideoFacts:
    """Return the facts of the header and the first frame.

    Raises:
        DataNotFound: The file is missing.
        DataError: It is no video, has no readable frame, or its frames exceed MAX_PIXELS.
        MissingExtra: PyAV is not installed.
    """
    with _opened(path) as (container, stream):
        first = next(Frames.decode(container, stream), None)
        if first is None:
            raise DataError(f"{path} has no readable frame: it is empty or damaged. Replace it.")
        stored = (first.height, squared_width(first.width, stream.sample_aspect_ratio))
        _check_bound(path, stored)
        turn = turn_of(first)
        rate = stream.average_rate or stream.guessed_rate or _USUAL_RATE
        seconds = _seconds(container, stream)
        estimate = None if seconds is None else round(seconds * rate)
        return VideoFacts(
            size=stored[::-1] if is_sideways(turn) else stored,
            stored=stored,
            turn=turn,
            rate=Fraction(rate),
            time_base=stream.time_base,
            frames=stream.frames or estimate,
            seconds=seconds,
            counted=bool(stream.frames),
            sound=bool(container.streams.audio),
        )


class Frames:
    """The frames of a video, in order; what cannot be decoded is counted and skipped.

    Attributes:
        given: Frames that are decoded so far.
        damaged: Those that are only partly right.
        failed: Packets without a frame.
    """

    def __init__(self, path: Path, facts: VideoFacts, channels: int = 3) -> None:
        self.path, self.facts, self.channels = path, facts, channels
        self.given = self.damaged = self.failed = self.cut_away = 0
        self.end = 0

    def after(self, done: int) -> Iterator[Frame]:
        """Yield the frames after the first `done`, which are decoded too: later ones need them."""
        first, last = None, -1
        usual = max(1, round(1 / (self.facts.rate * self.facts.time_base)))
        with _opened(self.path) as (container, stream):
            for decoded in self.decode(container, stream, self):
                self.given += 1
                self.damaged += decoded.is_corrupt
                begin = self.end if decoded.pts is None else decoded.pts
                first = begin if first is None else first
                last = max(begin - first, last + 1)  # in some files times repeat or go back
                duration = decoded.duration or usual
                self.end = last + duration
                if self.given > done:
                    yield Frame(self._pixels(decoded), last, duration)

    @property
    def unreadable(self) -> int:
        """Number of frames of the header that could not be read; known after all others."""
        if self.facts.counted and self.facts.frames:
            return max(self.facts.frames - self.given - self.cut_away, 0)
        seconds = (self.facts.seconds or 0.0) - float(self.end * self.facts.time_base)
        missing = round(seconds * self.facts.rate)
        return max(self.failed, missing if missing >= _MISSING_FRAMES else 0)

    @staticmethod
    def decode(container: Any, stream: Any, counts: "Frames | None" = None) -> Iterator[Any]:
        """Yield PyAV's frames as far as the file can be read; faults are counted in `counts`."""
        av = require("av", "video", PURPOSE)
        packets = container.demux(stream)
        while True:
            try:
                packet = next(packets, None)
            except av.FFmpegError:  # the file is truncated: the decoder still has frames
                packet = None
            try:
                decoded = (
                    stream.decode(packet) if packet is None or not packet.size else packet.decode()
                )
            except av.EOFError:
                return
            except av.FFmpegError:
                decoded = []
                if counts and packet is not None:
                    counts.failed += 1
            if counts and packet is not None:
                counts.cut_away += packet.is_discard  # an edit list leaves it out
            yield from decoded
            if packet is None or not packet.size:
                return

    def _pixels(self, decoded: Any) -> np.ndarray:
        if decoded.width * decoded.height > MAX_PIXELS:
            _check_bound(self.path, (decoded.height, decoded.width))
        return upright_pixels(decoded, self.facts.stored, self.facts.turn, self.channels)


def upright_pixels(decoded: Any, stored: Size, turn: Turn, channels: int) -> np.ndarray:
    """Return PyAV's frame as (H, W, channels) uint8, upright; one channel is grey, three are RGB.

    A frame of another size than `stored`, to which a stream may change, is resized to it.
    """
    colors = _BT709 if decoded.colorspace == _UNNAMED and decoded.height >= _HD_LINES else None
    height, width = stored
    pixels = decoded.to_ndarray(
        format="rgb24" if channels == 3 else "gray",
        width=width,
        height=height,
        src_colorspace=colors,
    )  # (H, W, 3) or (H, W), as stored
    pixels = pixels.reshape(height, width, -1)
    a, b, c, d = turn
    if is_sideways(turn):
        pixels = pixels.swapaxes(0, 1)  # (W, H, C)
    if (c if is_sideways(turn) else a) < 0:
        pixels = pixels[:, ::-1]
    if (b if is_sideways(turn) else d) < 0:
        pixels = pixels[::-1]
    return np.ascontiguousarray(pixels)


def is_sideways(turn: Turn) -> bool:
    """Whether rows become columns."""
    return abs(turn[1]) > abs(turn[0])


def squared_width(width: int, pixel_shape: Fraction | None) -> int:
    """Return the width in square pixels, if pixels are `pixel_shape` times as wide as high."""
    if not pixel_shape or not Fraction(1, 4) <= pixel_shape <= 4:  # unknown, or a damaged header
        return width
    return max(1, round(width * pixel_shape))


def turn_of(decoded: Any) -> Turn:
    """Return how to turn a frame, by its display matrix (ISO/IEC 14496-12, 8.3.2), if any."""
    data = decoded.side_data.get("DISPLAYMATRIX")
    if data is None:
        return UPRIGHT
    matrix = np.frombuffer(bytes(data), dtype=np.int32)  # rows of three 16.16 numbers
    a, b, _, c, d = matrix[:5].tolist()
    return a, b, c, d


def _seconds(container: Any, stream: Any) -> float | None:
    """Return the length of the images by the header; None if it is unknown."""
    if stream.duration is not None:
        return float(stream.duration * stream.time_base)
    tag = stream.metadata.get("DURATION", "")  # Matroska's
    if clock := re.fullmatch(r"(\d+):(\d+):(\d+\.\d+)\0*", tag):
        return int(clock[1]) * 3600 + int(clock[2]) * 60 + float(clock[3])
    if container.duration is None or len(container.streams) > 1:
        return None
    return container.duration / 1e6  # AV_TIME_BASE


@contextmanager
def _opened(path: Path) -> Iterator[tuple[Any, Any]]:
    """Yield the container and its video stream."""
    av = require("av", "video", PURPOSE)
    if not os.path.isfile(path):  # Path.is_file raises for names that are too long
        raise DataNotFound(
            f"{path} does not exist, or is no file.{near_path(path)} Expected a video."
        )
    # A title may be no UTF-8; PyAV 19 and later need no option for this, and have none
    lenient = {"metadata_errors": "replace"} if int(av.__version__.partition(".")[0]) < 19 else {}
    try:
        container = av.open(str(path.absolute()), options=_OPEN_OPTIONS, **lenient)
    except av.FFmpegError as error:
        raise DataError(
            f"{path} cannot be read as a video: {error.strerror}. Expected mp4, mov, webm, mkv or "
            f"avi.{_hint(path)}"
        ) from None
    with container:
        stream = next((s for s in container.streams.video if not _is_cover(s)), None)
        if stream is None:
            raise DataError(f"{path} has no video stream (audio only?). Expected a video.")
        if stream.codec_context is None:
            raise DataError(
                f"{path} cannot be decoded: its codec is unknown here. Convert it to H.264 or VP9."
            )
        _check_bound(path, (stream.height or 0, stream.width or 0))
        # A later frame may be larger
        stream.codec_context.options = {"max_pixels": str(MAX_PIXELS)}
        yield container, stream


def _hint(path: Path) -> str:
    with open(path, "rb") as file:
        is_mp4 = file.read(12)[4:8] == b"ftyp"
    hint = " It starts like an mp4 but has no index, so it is probably truncated: copy it again."
    return hint if is_mp4 else ""


def _is_cover(stream: Any) -> bool:
    """Whether a stream is the cover of a piece of music."""
    return bool(stream.disposition & type(stream.disposition).attached_pic)


def _check_bound(path: Path, size: Size) -> None:
    if size[0] * size[1] > MAX_PIXELS:
        raise TooLarge(
            f"{path} is too large: frames of {size_text(size)} (height x width) have "
            f"{size[0] * size[1]:,} pixels; the limit is {MAX_PIXELS:,}. Downscale it first."
        )
