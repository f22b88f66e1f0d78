"""Writing a video: closed segments, each with its own encoder, then one file of their packets.

A segment depends only on its frames, so that a run that was killed and continued writes the same
bytes as an uninterrupted one.
"""

from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from fractions import Fraction
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np

from featherseg.core.errors import ConfigError, DataError, require
from featherseg.core.types import Size
from featherseg.core.wording import size_text
from featherseg.inference.video.read import PURPOSE

SEGMENT_SUFFIX = ".nut"
"""FFmpeg's own container: it keeps every time exactly, for every codec."""

_BT709, _LIMITED = 1, 1
"""Colours and range of the output, as ITU-T H.273 numbers them; the file names them."""

_SAME_BYTES = {"fflags": "+bitexact"}  # no random numbers in the header

_LARGEST_TERM = 65535
"""Largest term of a frame rate as a fraction, which both containers store."""

CONTAINERS = {".mp4": "mp4", ".webm": "webm"}
"""Ending of the file -> FFmpeg's name of its container. Both contain VP9, which browsers play.

H.264 is left out: PyAV's wheels encode it with x264, which is under the GPL.
"""

CODEC = "libvpx-vp9"
_OPTIONS = {"crf": "24", "b": "0", "deadline": "realtime", "cpu-used": "8", "row-mt": "1"}
"""Measured at 360x480 on 2 cores: 4.6 ms per frame; cpu-used 4: 13.3 ms, 2/3 of the bytes."""

LONGEST_SIDE = 16383
"""Longest side in pixels that libvpx encodes."""


@dataclass(frozen=True)
class VideoFormat:
    """The output: ending, (height, width), frames per second, and the unit of times in seconds."""

    suffix: str
    size: Size
    rate: Fraction
    time_base: Fraction


@dataclass(frozen=True)
class OverlaidFrame:
    """A frame to write: (H, W, 3) uint8 RGB, its begin and duration in units of the time_base."""

    pixels: np.ndarray
    begin: int
    duration: int


def check_ending(target: Path) -> None:
    """Raise ConfigError for an ending that is not written."""
    if target.suffix.lower() not in CONTAINERS:
        raise ConfigError(
            f"{target}: videos are written as {' or '.join(CONTAINERS)}. Use one of these suffixes."
        )


def check_format(format: VideoFormat) -> None:
    """Raise DataError for a size that the codec does not take."""
    if max(format.size) > LONGEST_SIDE:
        raise DataError(
            f"frames of {size_text(format.size)} (height x width) are too long for a video: its "
            f"sides have at most {LONGEST_SIDE} pixels."
        )


def write_segment(file: BinaryIO, format: VideoFormat, frames: Iterable[OverlaidFrame]) -> None:
    """Encode frames as a closed segment. Odd sizes stay."""
    av: Any = require("av", "video", PURPOSE)
    times: list[tuple[int, int]] = []
    with _opened(file, SEGMENT_SUFFIX[1:]) as container:
        stream = _add_stream(container, format)

        # The encoder counts frames; their times are set here
        def mux(packets: Sequence[Any]) -> None:
            for packet in packets:
                packet.stream, packet.time_base = stream, format.time_base
                begin, duration = times[packet.pts]
                packet.pts = packet.dts = begin
                packet.duration = duration
                container.mux(packet)

        for number, overlaid in enumerate(frames):
            times.append((overlaid.begin, overlaid.duration))
            frame = av.VideoFrame.from_ndarray(overlaid.pixels, format="rgb24")
            frame = frame.reformat(format="yuv420p", dst_colorspace=_BT709)
            frame.pts, frame.time_base = number, stream.codec_context.time_base
            mux(stream.encode(frame))
        mux(stream.encode())


def join_segments(file: BinaryIO, format: VideoFormat, segments: Sequence[Path]) -> None:
    """Join the packets of segments in one file, without encoding them again."""
    av: Any = require("av", "video", PURPOSE)
    with _opened(file, CONTAINERS[format.suffix], _SAME_BYTES) as container:
        stream = _add_stream(container, format)
        for segment in segments:
            with av.open(str(segment), format=SEGMENT_SUFFIX[1:]) as part:
                for packet in part.demux(video=0):
                    if packet.size:
                        packet.stream = stream
                        container.mux(packet)


def segment_extent(segment: Path) -> tuple[int, int]:
    """Return (frames, end of the last one in units of the time_base); (0, 0) if unreadable."""
    av: Any = require("av", "video", PURPOSE)
    frames = end = 0
    try:
        with av.open(str(segment), format=SEGMENT_SUFFIX[1:]) as part:
            for packet in part.demux(video=0):
                if packet.size:
                    frames, end = frames + 1, packet.pts + (packet.duration or 1)
    except av.FFmpegError:
        return 0, 0
    return frames, end


@contextmanager
def _opened(file: BinaryIO, container: str, options: dict[str, str] | None = None) -> Iterator[Any]:
    """Open a file that PyAV writes. Raises the OSError that closing the container would hide."""
    av: Any = require("av", "video", PURPOSE)
    try:
        with av.open(file, "w", format=container, options=options) as opened:
            yield opened
    except av.FFmpegError as error:
        if isinstance(error.__context__, OSError):
            raise error.__context__ from None
        raise


def _add_stream(container: Any, format: VideoFormat) -> Any:
    """Add the one stream of a segment, or of the whole file."""
    rate = format.rate.limit_denominator(1001)
    if not 0 < rate.numerator <= _LARGEST_TERM:
        rate = Fraction(min(max(1, round(rate)), _LARGEST_TERM))
    stream = container.add_stream(CODEC, rate=rate, options=_OPTIONS)
    stream.height, stream.width = format.size
    stream.pix_fmt = "yuv420p"
    context = stream.codec_context
    context.colorspace = context.color_primaries = context.color_trc = _BT709
    context.color_range = _LIMITED
    context.thread_count = 0  # all cores: the bytes do not depend on it
    context.time_base = 1 / rate
    stream.time_base = format.time_base
    return stream
