"""A camera becomes a video under the colours of its classes: `record`. Late frames are dropped.

Cameras of Linux are read through Video4Linux; those of macOS and Windows as FFmpeg addresses them,
untested.
"""

import sys
import threading
import time
from collections.abc import Iterator, Mapping
from dataclasses import asdict, dataclass
from fractions import Fraction
from itertools import chain, islice
from pathlib import Path
from types import MappingProxyType
from typing import Any

from featherseg.core.errors import DeviceError, require
from featherseg.core.types import Progress, Size
from featherseg.inference.predictor import Predictor
from featherseg.inference.video.parts import open_parts
from featherseg.inference.video.read import PURPOSE, UPRIGHT, Frame, upright_pixels
from featherseg.inference.video.segmentation import (
    SEGMENT_FRAMES,
    check_predictor,
    draw_frames,
    settings_origin,
    with_progress,
)
from featherseg.inference.video.write import VideoFormat, check_ending, check_format

CAMERAS = {
    "linux": ("video4linux2", "/dev/video{}"),
    "darwin": ("avfoundation", "{}"),
    "win32": ("dshow", "video={}"),
}
"""sys.platform -> FFmpeg's name for cameras, and for one camera by its number or name."""

TIME_BASE = Fraction(1, 1000)
_USUAL_RATE = Fraction(30)
CAPTURE = "featherseg camera"
"""Name of the thread that receives the frames."""

_LONGEST_WAIT = 3.0  # seconds


@dataclass(frozen=True)
class Recording:
    """What was recorded: frames written, frames dropped while the model was busy, and the size."""

    frames: int
    dropped: int
    size: Size
    complete = True

    def as_dict(self) -> dict[str, Any]:
        """Return plain values."""
        return asdict(self)


def record(
    predictor: Predictor,
    camera: str,
    target: Path,
    stop: threading.Event,
    progress: Progress | None = None,
    *,
    look: Mapping[str, Any] = MappingProxyType({}),
) -> Recording:
    """Write what the camera sees until `stop` is set or the camera ends, with the times of frames.

    After a kill closed segments stay in TARGET.parts, and the same call adds to them. look: the
    arguments of `Prediction.overlay`.

    Raises:
        DeviceError: The camera cannot be opened.
        MissingExtra, ConfigError, RunError: As `segment_video`.
    """
    check_predictor(predictor)
    check_ending(target)
    with _Camera(camera) as source:
        format = VideoFormat(target.suffix.lower(), source.size, source.rate, TIME_BASE)
        check_format(format)
        settings = settings_origin(predictor, source.size)
        origin = {"source": f"camera {camera}", "size": source.size, "look": dict(look), **settings}
        with open_parts(target, format, origin) as parts:
            frames = source.frames(stop, parts.end, predictor.runtime.channels)
            while (head := next(frames, None)) is not None:
                overlaid = draw_frames(
                    predictor, chain([head], islice(frames, SEGMENT_FRAMES - 1)), 0, None, look
                )
                parts.add(with_progress(overlaid, parts.frames, None, progress))
            if parts.frames:
                parts.finish(target)
        return Recording(parts.frames, source.arrived - source.used, source.size)


class _Camera:
    """An open camera: a thread receives every frame and keeps the newest.

    Attributes:
        size: (height, width).
        rate: Frames per second, as the camera states it.
        arrived: Number of frames that were received.
        used: Number of frames that were predicted.
    """

    def __init__(self, name: str) -> None:
        av: Any = require("av", "video", PURPOSE)
        format, place = CAMERAS.get(sys.platform, CAMERAS["linux"])
        try:
            self.container = av.open(place.format(name), format=format)
            self.stream = self.container.streams.video[0]
            first = next(self.container.decode(self.stream))
        except (av.FFmpegError, StopIteration, IndexError, ValueError) as error:
            raise DeviceError(_no_camera(name, place.format(name), error)) from None
        self.size: Size = (first.height, first.width)
        self.rate = Fraction(self.stream.average_rate or _USUAL_RATE)
        self.arrived, self.used = 1, 0
        self._error: type[Exception] = av.FFmpegError
        self._newest: tuple[Any, float] | None = (first, time.monotonic())
        self._ended = False
        self._news = threading.Condition()
        self._thread = threading.Thread(target=self._capture, name=CAPTURE, daemon=True)

    def __enter__(self) -> "_Camera":
        self._thread.start()
        return self

    def __exit__(self, *error: object) -> None:
        with self._news:
            self._ended = True
        self._thread.join(_LONGEST_WAIT)
        if not self._thread.is_alive():  # else it hangs in the driver, and closing would hang too
            self.container.close()

    def frames(self, stop: threading.Event, begin: int, channels: int) -> Iterator[Frame]:
        """Yield the newest frame, until `stop` or the camera's end; the first begins at `begin`."""
        usual = max(1, round(1 / (self.rate * TIME_BASE)))
        origin, last = None, begin - 1
        while (newest := self._take(stop)) is not None:
            decoded, arrived = newest
            origin = arrived if origin is None else origin
            last = max(begin + round((arrived - origin) / TIME_BASE), last + 1)
            yield Frame(upright_pixels(decoded, self.size, UPRIGHT, channels), last, usual)

    def _take(self, stop: threading.Event) -> tuple[Any, float] | None:
        with self._news:
            while self._newest is None and not self._ended and not stop.is_set():
                self._news.wait(0.1)
            if self._newest is None or stop.is_set():
                return None
            newest, self._newest = self._newest, None
            self.used += 1
            return newest

    def _capture(self) -> None:
        try:
            for decoded in self.container.decode(self.stream):
                with self._news:
                    if self._ended:
                        return
                    self._newest = (decoded, time.monotonic())
                    self.arrived += 1
                    self._news.notify()
        except self._error:
            pass  # unplugged: frames until now stay
        finally:
            with self._news:
                self._ended = True
                self._news.notify()


def _no_camera(name: str, place: str, error: Exception) -> str:
    remedy = " No camera was found on this machine."
    if isinstance(error, PermissionError):
        remedy = " This user may not read it; on most systems members of the group `video` can."
    elif sys.platform == "linux" and (cameras := sorted(map(str, Path("/dev").glob("video*")))):
        remedy = f" There is {', '.join(cameras)}: camera:N names one."
    reason = getattr(error, "strerror", None) or error
    return f"camera {name!r} cannot be opened ({place}: {reason}).{remedy}"
