"""Writing a video: closed segments first, each with an encoder of its own, then one file of their packets.

A segment is a pure function of its frames, so a run that was killed and goes on gives the bytes of one that was not.
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
"""FFmpeg's own container: it keeps every time exactly, whatever the codec."""

_BT709, _LIMITED = 1, 1
"""Colours and range of what is written, as ITU-T H.273 numbers them; it says so in the file."""
_SAME_BYTES = {"fflags": "+bitexact"}  # no random numbers in the header
_LARGEST_TERM = 65535
"""Of an encoder's frame rate, as MPEG-4 stores it."""


@dataclass(frozen=True)
class Encoding:
    """How a kind of file is encoded.

    threads: 0 = as many as there are cores; longest: the longest side in pixels that its codec knows.
    """

    container: str
    codec: str
    options: dict[str, str]
    threads: int
    longest: int


ENCODINGS = {
    ".mp4": Encoding("mp4", "mpeg4", {"qmin": "3", "qmax": "3"}, threads=1, longest=8191),
    ".webm": Encoding(
        "webm",
        "libvpx-vp9",
        {"crf": "24", "b": "0", "deadline": "realtime", "cpu-used": "4", "row-mt": "1"},
        threads=0,
        longest=16383,
    ),
}
"""Ending of the file -> how it is encoded.

H.264 is left out: PyAV's wheels encode it with x264, which is under the GPL. MPEG-4 runs on one thread, as its bytes
depend on their number.
"""


@dataclass(frozen=True)
class VideoFormat:
    """What is written: ending, (height, width), frames a second, and the unit of all times in seconds."""

    suffix: str
    size: Size
    rate: Fraction
    time_base: Fraction


@dataclass(frozen=True)
class OverlaidFrame:
    """A frame to be written: pixels (H, W, 3) uint8 RGB; begin and duration in units of the form's time_base."""

    pixels: np.ndarray
    begin: int
    duration: int


def encoding_of(target: Path) -> Encoding:
    """How a file of that name is encoded. Raises ConfigError for an ending that is not written."""
    if target.suffix.lower() not in ENCODINGS:
        raise ConfigError(f"{target}: videos are written as {' or '.join(ENCODINGS)}. Use one of these suffixes.")
    return ENCODINGS[target.suffix.lower()]


def check_format(format: VideoFormat) -> None:
    """Raises DataError for a size that the codec does not know."""
    longest = ENCODINGS[format.suffix].longest
    if max(format.size) > longest:
        other = " Use .webm, which allows more." if format.suffix == ".mp4" else ""
        raise DataError(
            f"frames of {size_text(format.size)} (height x width) are too long for {format.suffix}: "
            f"its sides go up to {longest} pixels.{other}"
        )


def write_segment(file: BinaryIO, format: VideoFormat, frames: Iterable[OverlaidFrame]) -> None:
    """Encode frames as a closed segment. Odd sizes are kept: both codecs know them."""
    av: Any = require("av", "video", PURPOSE)
    times: list[tuple[int, int]] = []
    with _opened(file, SEGMENT_SUFFIX[1:]) as container:
        stream = _add_stream(container, format)

        def mux(packets: Sequence[Any]) -> None:  # the encoder counts frames; when they are shown is set here
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
    """Put the packets of segments behind each other into one file; nothing is encoded again."""
    av: Any = require("av", "video", PURPOSE)
    with _opened(file, ENCODINGS[format.suffix].container, _SAME_BYTES) as container:
        stream = _add_stream(container, format)
        for segment in segments:
            with av.open(str(segment), format=SEGMENT_SUFFIX[1:]) as part:
                for packet in part.demux(video=0):
                    if packet.size:
                        packet.stream = stream
                        container.mux(packet)


def segment_extent(segment: Path) -> tuple[int, int]:
    """(frames, where the last one ends in units of the time_base) of a segment; (0, 0) for one that cannot be read."""
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
    """A file that PyAV writes. Raises OSError where the disk refuses, which closing the container would hide."""
    av: Any = require("av", "video", PURPOSE)
    try:
        with av.open(file, "w", format=container, options=options) as opened:
            yield opened
    except av.FFmpegError as error:
        if isinstance(error.__context__, OSError):
            raise error.__context__ from None
        raise


def _add_stream(container: Any, format: VideoFormat) -> Any:
    """The one stream of a segment and of the whole file: all that a player needs stands in both alike."""
    encoding = ENCODINGS[format.suffix]
    rate = format.rate.limit_denominator(1001)
    if not 0 < rate.numerator <= _LARGEST_TERM:
        rate = Fraction(min(max(1, round(rate)), _LARGEST_TERM))
    stream = container.add_stream(encoding.codec, rate=rate, options=encoding.options)
    stream.height, stream.width = format.size
    stream.pix_fmt = "yuv420p"
    context = stream.codec_context
    context.colorspace = context.color_primaries = context.color_trc = _BT709
    context.color_range = _LIMITED
    context.thread_count = encoding.threads
    context.time_base = 1 / rate
    stream.time_base = format.time_base
    return stream
